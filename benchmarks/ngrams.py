"""Bits per byte of byte-level n-gram models for n = 1 to 7: the table of docs/theory/counts.md, in four minutes.

    python benchmarks/ngrams.py                               # the text of the quickstart
    python benchmarks/ngrams.py --dataset my_text.txt --orders 1 2 3

The counts come from the training documents, and the validation documents are scored.
"""

import argparse

from modeling_mini.tables import markdown_table
from modeling_mini.tasks import choose_dataset, task_class
from modeling_mini.tasks.base import TaskArguments
from modeling_mini.tasks.ngram import NgramModel


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--dataset", help="as in train.py; by default the text of the quickstart")
    parser.add_argument("--orders", type=int, nargs="+", default=range(1, 8), metavar="N")
    args = parser.parse_args()
    arguments = TaskArguments(dataset=args.dataset)
    choose_dataset(arguments)
    examples = task_class(arguments.task)(arguments).load()
    held_out = examples["validation"]["text"]
    num_bytes = sum(len(text.encode()) for text in held_out)
    rows = [["n", "bits per byte", "different n-grams of length 1 to n"]]
    for order in args.orders:
        model = NgramModel(order).fit(examples["train"]["text"])
        rows.append([str(order), f"{sum(model.bits(held_out)) / num_bytes:.3f}", f"{len(model.counts):,}"])
    print(markdown_table(rows))  # noqa: T201


if __name__ == "__main__":
    main()
