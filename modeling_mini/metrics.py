"""Metrics as `evaluate.Metric` classes that need no network: import them, or `evaluate.load` this file's copy."""

import math

import datasets
import evaluate


class TextLoss(evaluate.Metric):
    """How well a language model predicts a text, over all its tokens rather than a mean of batches.

    `compute(nats=[...], targets=[...], num_bytes=N)` takes the summed negative log-likelihood in nats and the number
    of predicted tokens of each row, and the size of the text in UTF-8, and returns:

    - `token_loss`: nats per predicted token;
    - `token_loss_margin`: half the width of its 95% confidence interval, rows being the sample, by the standard error
      of a ratio (Cochran 1977, Sampling Techniques, section 2.11); 0 for a single row;
    - `perplexity`: its exponential;
    - `bits_per_byte`: bits for the text over its bytes, which compares models of different tokenizers.
    """

    def _info(self):
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="",
            inputs_description="nats: summed nats of each row. targets: predicted tokens of each row.",
            features=datasets.Features({"nats": datasets.Value("float64"), "targets": datasets.Value("int64")}),
        )

    def _compute(self, nats, targets, num_bytes):
        total = math.fsum(nats)
        loss = total / sum(targets)
        rows = len(nats)
        deviations = math.fsum((nat - loss * count) ** 2 for nat, count in zip(nats, targets, strict=True))
        standard_error = math.sqrt(deviations * rows / max(rows - 1, 1)) / sum(targets)
        return {
            "token_loss": loss,
            "token_loss_margin": 1.96 * standard_error,
            "perplexity": math.exp(min(loss, 700)),  # beyond, a float overflows
            "bits_per_byte": total / math.log(2) / num_bytes,
        }
