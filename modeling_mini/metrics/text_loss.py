"""Loss, perplexity and bits per byte of a text."""

import math

import datasets
import evaluate


class TextLoss(evaluate.Metric):
    """How well a language model predicts a text, over all its tokens rather than a mean of batches.

    `compute(nats=[...], targets=[...], num_bytes=N)` takes the summed negative log-likelihood in nats and the number
    of predicted tokens, the targets, of each row, and the bytes of the text in UTF-8 if known, and returns:

    - `token_loss`: nats per target;
    - `token_loss_margin`: half the width of its 95% confidence interval, rows being the sample, by the standard error
      of a ratio (Cochran 1977, Sampling Techniques, section 2.11); 0 for a single row;
    - `perplexity`: its exponential;
    - `bits_per_byte`, given `num_bytes`: bits for the text over its bytes, which compares models of different
      tokenizers.
    """

    def _info(self):
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="",
            inputs_description="nats: summed nats of each row. targets: predicted tokens of each row.",
            features=datasets.Features({"nats": datasets.Value("float64"), "targets": datasets.Value("int64")}),
        )

    def _compute(self, nats, targets, num_bytes=None):
        total = math.fsum(nats)
        loss = total / sum(targets)
        rows = len(nats)
        deviations = math.fsum((nat - loss * count) ** 2 for nat, count in zip(nats, targets, strict=True))
        standard_error = math.sqrt(deviations * rows / max(rows - 1, 1)) / sum(targets)
        found = {
            "token_loss": loss,
            "token_loss_margin": 1.96 * standard_error,
            "perplexity": math.exp(min(loss, 700)),  # beyond, a float overflows
        }
        if num_bytes is not None:
            found["bits_per_byte"] = total / math.log(2) / num_bytes
        return found
