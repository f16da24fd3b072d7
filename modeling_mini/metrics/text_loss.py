"""Loss, perplexity and bits per byte of a text."""

import math

import datasets
import evaluate


class TextLoss(evaluate.Metric):
    """How well a language model predicts a text: a mean over all tokens, not over batches.

    `compute(nats=[...], targets=[...], num_bytes=N)` takes, for each row, the summed negative log-likelihood in nats
    and the number of predicted tokens (targets), and optionally the size of the text in UTF-8 bytes. It returns:

    - `token_loss`: nats per target;
    - `token_loss_margin`: half the width of the 95% confidence interval of `token_loss`, with rows as the sample, from
      the standard error of a ratio (Cochran 1977, Sampling Techniques, section 2.11); 0 for a single row;
    - `perplexity`: the exponential of `token_loss`; left out with `predicts_tokens=False`, for labels and spans;
    - `bits_per_byte`, if `num_bytes` is given: bits of the whole text / its bytes. It is comparable between models
      with different tokenizers.
    """

    def _info(self):
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="",
            inputs_description="nats: summed nats of each row. targets: number of predicted tokens of each row.",
            features=datasets.Features({"nats": datasets.Value("float64"), "targets": datasets.Value("int64")}),
        )

    def _compute(self, nats, targets, num_bytes=None, predicts_tokens=True):
        total = math.fsum(nats)
        loss = total / sum(targets)
        rows = len(nats)
        deviations = math.fsum((nat - loss * count) ** 2 for nat, count in zip(nats, targets, strict=True))
        standard_error = math.sqrt(deviations * rows / max(rows - 1, 1)) / sum(targets)
        results = {"token_loss": loss, "token_loss_margin": 1.96 * standard_error}
        if predicts_tokens:
            results["perplexity"] = math.exp(min(loss, 700))  # a larger exponent overflows a float
        if num_bytes is not None:
            results["bits_per_byte"] = total / math.log(2) / num_bytes
        return results
