"""Accuracy, macro F1 and Matthews correlation, with confidence intervals."""

import datasets
import evaluate
import numpy as np

from .bootstrap import with_intervals


class Classification(evaluate.Metric):
    """Agreement of predicted classes with the right classes.

    `compute(predictions=[...], references=[...])` takes class numbers and returns:

    - `accuracy`: in percent;
    - `macro_f1`: in percent, the mean F1 of the classes that occur in predictions or references;
    - `mcc`: Matthews correlation for any number of classes, -1 to 1 (Gorodkin 2004, equation 8). It is 0 for guesses
      by frequency alone, and if either side has a single class;
    - `accuracy_interval`, `macro_f1_interval`, `mcc_interval`: `[low, high]`, 95% by bootstrap over examples.

    The scores equal scikit-learn's. They are computed from the confusion matrix, because scikit-learn's functions
    would take ten seconds for 1000 resamples.
    """

    def _info(self):
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="",
            inputs_description="predictions: one class per example. references: the right class per example.",
            features=datasets.Features(
                {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions, references):
        classes, numbers = np.unique([references, predictions], return_inverse=True)
        rows, columns = numbers.reshape(2, -1)
        cells = rows * len(classes) + columns

        def score(indices):
            counts = np.bincount(cells[indices], minlength=len(classes) ** 2)
            return _scores(counts.reshape(len(classes), len(classes)).astype(float))

        return with_intervals(score, len(cells))


def _scores(confusion: np.ndarray) -> dict[str, float]:
    """Scores of a matrix of counts, `[reference class, predicted class]`."""
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
