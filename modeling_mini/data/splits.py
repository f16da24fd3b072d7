"""Which split of a source is used for what, and how training examples are set aside for validation."""

import logging
from collections.abc import Mapping

import numpy as np
import xxhash
from datasets import Dataset, Features, IterableDataset, Value

from ..errors import UserError
from .arguments import DataArguments
from .columns import name_some
from .examples import ExampleFormat, Examples, check_examples
from .sources import Source, read_source, readable_errors


logger = logging.getLogger(__name__)

USED_IN_TRAINING = ("train", "validation")


def load_splits(
    args: DataArguments,
    example_format: ExampleFormat,
    divide: bool = True,
    roles: tuple[str, ...] = USED_IN_TRAINING,
    needs_train: bool = True,
) -> dict[str, Examples]:
    """The splits `train`, `validation` and `test` that `roles` names: checked examples with the format's columns.

    Without a validation split, `validation_fraction` of the training examples is set aside at random (by
    `split_seed`), and examples that share the format's `group_column` stay together. If there is a single text, its
    last part is set aside, from the start of a line. For a stream, the first documents are set aside. With
    `divide=False` nothing is set aside.

    `max_train_documents` and `max_validation_documents` are drawn at random, by `split_seed`. Of a stream, they are
    the first ones.

    Raises:
        UserError: the source, the split or a column does not exist, a file does not parse, an example is wrong, or
            there is no example.
    """
    args.check()
    with readable_errors(args):
        source = read_source(args, example_format)
        names = _split_names(source.splits, args, roles, needs_train)
        return _choose_splits(source, names, args, example_format, divide)


def _split_names(
    splits: Mapping[str, Examples], args: DataArguments, roles: tuple[str, ...], needs_train: bool
) -> dict[str, str]:
    """Role -> name of the split of the source."""
    names = {}
    for role in roles:
        name = getattr(args, f"{role}_split")
        is_named = name != args.__dataclass_fields__[f"{role}_split"].default
        if name in splits:
            if role == "train" or name != args.train_split:
                names[role] = name
            elif role == "validation":
                logger.info(
                    "%s: trained on the split %r, of which a part is set aside for validation", args.dataset, name
                )
        elif is_named or (role == "train" and needs_train):
            if args.split_files:
                raise UserError(f"There is no {role} file; name one with --{role}_file.")
            raise UserError(
                f"{args.dataset} has no split {name!r}; choose one of {name_some(splits)} with --{role}_split."
            )
    if not names:
        raise UserError(f"{args.dataset} has the splits {name_some(splits)}; choose one with --{roles[-1]}_split.")
    if "test" in names and names["test"] == names.get("validation"):
        logger.warning(
            "%s: the split %r is used for validation and as the test: a score on the rows that chose the checkpoint "
            "is too good.",
            args.dataset,
            names["test"],
        )
    return names


def _choose_splits(
    source: Source,
    names: dict[str, str],
    args: DataArguments,
    example_format: ExampleFormat,
    divide: bool,
) -> dict[str, Examples]:
    # The training split comes first, because it defines the labels.
    chosen = {
        role: check_examples(source.splits[names[role]], names[role], args, example_format, source.files)
        for role in ("train", "validation", "test")
        if role in names
    }
    if "train" in chosen and args.streaming:
        chosen["train"], chosen["validation"] = _divide_stream(chosen["train"], chosen.get("validation"), args)
    elif "train" in chosen and divide and "validation" not in chosen:
        chosen["train"], chosen["validation"] = _divide(chosen["train"], args, example_format.group_column)
    for role, limit in (("train", args.max_train_documents), ("validation", args.max_validation_documents)):
        if limit is not None and role in chosen:
            chosen[role] = draw(chosen[role], limit, args.split_seed)
    for role, examples in chosen.items():
        if isinstance(examples, Dataset) and len(examples) == 0:
            name = {"train": "training"}.get(role, role)
            raise UserError(f"{args.dataset} has no {name} text; give documents that are not empty.")
    return chosen


def draw(examples: Examples, count: int, seed: int) -> Examples:
    """At most `count` examples, drawn at random, in their order; of a stream, the first ones.

    A smaller count with the same seed draws a part of the same examples.
    """
    if isinstance(examples, IterableDataset):
        return examples.take(count)
    if count >= len(examples):
        return examples
    return examples.select(np.sort(np.random.default_rng(seed).permutation(len(examples))[:count]))


def _divide_stream(train: IterableDataset, validation: IterableDataset | None, args: DataArguments):
    held_out = args.max_validation_documents or 500
    if validation is None:
        validation, train = train.take(held_out), train.skip(held_out)
    if next(iter(train), None) is None:
        raise UserError(
            f"{args.dataset} has no document after the {held_out} that are held out for validation; hold out fewer "
            "with --max_validation_documents, or leave out --streaming."
        )
    return train, Dataset.from_list(list(validation.take(held_out)), features=Features({"text": Value("string")}))


def _divide(examples: Dataset, args: DataArguments, group_column: str | None) -> tuple[Dataset, Dataset]:
    if len(examples) == 0:
        raise UserError(f"{args.dataset} has no text: every document is empty.")
    if len(examples) > 1:
        return _divide_at_random(examples, args, group_column)
    text = examples[0].get("text", "")
    boundary = text.rfind("\n", 0, int(len(text) * (1 - args.validation_fraction))) + 1
    if boundary == 0 or not text[boundary:].strip() or examples.column_names != ["text"]:
        unit = ", or --text_unit line or paragraph" if examples.column_names == ["text"] else ""
        raise UserError(
            f"{args.dataset} holds one example, which cannot be split into training and validation; give more "
            f"examples, or a validation split{unit}."
        )
    return Dataset.from_dict({"text": [text[:boundary]]}), Dataset.from_dict({"text": [text[boundary:]]})


def _divide_at_random(examples: Dataset, args: DataArguments, group_column: str | None) -> tuple[Dataset, Dataset]:
    numbers = None if group_column is None else group_numbers(examples, group_column)
    groups = None if numbers is None else Dataset.from_dict({"group": range(numbers.max() + 1)})
    try:
        halves = (groups or examples).train_test_split(test_size=args.validation_fraction, seed=args.split_seed)
    except ValueError as error:  # one part would be empty
        count = f"{len(examples)} documents" if groups is None else f"{len(groups)} different {group_column}s"
        raise UserError(
            f"{args.dataset} has {count}, of which --validation_fraction {args.validation_fraction} leaves nothing on "
            "one side; choose another share."
        ) from error
    if groups is None:
        return halves["train"], halves["test"]
    is_held_out = np.isin(numbers, halves["test"]["group"][:])
    return examples.select(np.flatnonzero(~is_held_out)), examples.select(np.flatnonzero(is_held_out))


def group_numbers(examples: Dataset, column: str) -> np.ndarray:
    """Number of the group of each example, in the order in which the groups first occur; no text stays in memory."""
    numbers = {}
    hashes = (
        xxhash.xxh3_128_digest(text.encode())
        for batch in examples.select_columns([column]).iter(1000)
        for text in batch[column]
    )
    return np.fromiter((numbers.setdefault(text_hash, len(numbers)) for text_hash in hashes), dtype=np.int64)
