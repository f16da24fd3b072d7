"""An n-gram baseline in bits per byte: a language model that does not beat it has learned no more than counts.

`modeling-mini eval` trains it on the bytes of the training documents, without a tokenizer, and scores the held-out
documents.
"""

import math
from collections import Counter
from collections.abc import Iterable

from tqdm import tqdm


# A document is a string of one character per byte (latin-1), with this character, which is not a byte, at both ends.
BOUNDARY = chr(256)

SYMBOLS = [chr(code) for code in range(257)]  # possible next symbols: 256 bytes, or the end of the document


class NgramModel:
    """Interpolated byte-level n-grams with Witten-Bell smoothing.

    Witten & Bell 1991, method C, in the interpolated form of Chen & Goodman 1998:

        P(w | h) = (c(h w) + T(h) P(w | h')) / (c(h) + T(h))

    c(h w): how often the symbol w followed the context h.
    c(h): the sum of c(h w) over w.
    T(h): the number of different symbols that followed h.
    h': the context h without its oldest symbol.

    The empty context falls back to the uniform distribution over 257 symbols. An unseen context falls back to the next
    shorter context. A context never crosses the start of a document; the start itself is part of the context.

    Args:
        order (`int`, defaults to 5): Longest n-gram; the context is one symbol shorter. Raises `ValueError` below 1.
    """

    def __init__(self, order: int = 5):
        if order < 1:
            raise ValueError(f"`order` is {order}; give a whole number of at least 1.")
        self.order = order
        self.counts = Counter()  # c(h w), by the string h w
        self.totals = Counter()  # c(h)
        self.kinds = Counter()  # T(h)

    def fit(self, documents: Iterable[bytes | str]) -> "NgramModel":
        """Count the n-grams of the documents, in addition to those of earlier calls. Text is encoded as UTF-8."""
        for document in tqdm(documents, desc=f"{self.order}-gram counts", unit=" documents", disable=None):
            text = _with_boundaries(document)
            for size in range(1, self.order + 1):
                first = 1 if size == 1 else 0  # the first boundary is context only, never predicted
                self.counts.update(text[i : i + size] for i in range(first, len(text) - size + 1))

        self.totals.clear()
        self.kinds.clear()
        for ngram, count in self.counts.items():
            self.totals[ngram[:-1]] += count
            self.kinds[ngram[:-1]] += 1
        return self

    def probability(self, symbol: str, context: str) -> float:
        """P(symbol | context). Only the last `order - 1` symbols of the context are used."""
        probability = 1 / len(SYMBOLS)
        for length in range(min(self.order - 1, len(context)) + 1):
            history = context[len(context) - length :]
            total = self.totals.get(history)
            if total is None:
                break  # longer contexts are unseen as well
            kinds = self.kinds[history]
            probability = (self.counts.get(history + symbol, 0) + kinds * probability) / (total + kinds)
        return probability

    def bits(self, documents: Iterable[bytes | str]) -> list[float]:
        """Bits to encode each document, including its end: the sum of -log2 P over its symbols."""
        bits = []
        for document in tqdm(documents, desc=f"{self.order}-gram score", unit=" documents", disable=None):
            text = _with_boundaries(document)
            probabilities = (
                self.probability(text[i], text[max(0, i - self.order + 1) : i]) for i in range(1, len(text))
            )
            bits.append(-sum(map(math.log2, probabilities)))
        return bits


def _with_boundaries(document: bytes | str) -> str:
    text = document.encode("utf-8") if isinstance(document, str) else document
    return BOUNDARY + text.decode("latin-1") + BOUNDARY
