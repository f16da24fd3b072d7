"""Accuracy, macro F1 and Matthews correlation, with intervals."""

import datasets
import evaluate
import numpy as np

from .bootstrap import with_intervals


class Classification(evaluate.Metric):
    """How often predicted classes are right.

    `compute(predictions=[...], references=[...])` takes class numbers and returns:

    - `accuracy`: in percent;
    - `macro_f1`: in percent, the mean of F1 over the classes that occur among predictions or references;
    - `mcc`: Matthews correlation of any number of classes, -1 to 1 (Gorodkin 2004, equation 8), which is 0 for guesses
      by frequency alone and where either side has a single class;
    - `accuracy_interval`, `macro_f1_interval`, `mcc_interval`: `[low, high]`, 95% by bootstrap over examples.

    The scores are scikit-learn's, from the confusion matrix: its functions would take ten seconds for 1000 resamples.
    """

    def _info(self):
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="",
            inputs_description="predictions: classes. references: the right class each.",
            features=datasets.Features(
                {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions, references):
        classes, numbers = np.unique([references, predictions], return_inverse=True)
        rows, columns = numbers.reshape(2, -1)
        cells = rows * len(classes) + columns

        def score(drawn):
            counts = np.bincount(cells[drawn], minlength=len(classes) ** 2)
            return _scores(counts.reshape(len(classes), len(classes)).astype(float))

        return with_intervals(score, len(cells))


def _scores(confusion: np.ndarray) -> dict[str, float]:
    """Scores of a matrix of counts, one row a reference class and one column a predicted one."""
    size, right = confusion.sum(), np.diag(confusion)
    actual, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    occurs = actual + predicted > 0  # a resample may lack a class
    f1 = 2 * right[occurs] / (actual + predicted)[occurs]
    covariance = right.sum() * size - actual @ predicted
    deviations = np.sqrt(size**2 - actual @ actual) * np.sqrt(size**2 - predicted @ predicted)
    return {
        "accuracy": 100 * right.sum() / size,
        "macro_f1": 100 * f1.mean(),
        "mcc": covariance / deviations if deviations else 0.0,
    }
