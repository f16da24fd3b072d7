"""Where examples come from and how they become rows, as command-line arguments."""

from dataclasses import dataclass, field
from typing import Literal

from ..errors import UserError
from .builtin import BUILTIN


@dataclass
class DataArguments:
    """Where examples come from, and how they become rows."""

    dataset: str | None = field(
        default=None,
        metadata={
            "help": "A local .txt, .jsonl, .json, .csv or .parquet file, a folder of such files, a data set on the "
            f"Hub, or a built-in one that needs no download ({', '.join(BUILTIN)}); by default the task's own "
            "built-in data."
        },
    )
    dataset_config: str | None = field(
        default=None,
        metadata={"help": "Configuration of a Hub data set; for the built-in message-catalogues, the language."},
    )
    columns: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Maps the task's columns to those of the data set where the names differ: document=article "
            "summary=highlights, or source=translation.en for a nested column."
        },
    )
    text_unit: Literal["document", "paragraph", "line"] = field(
        default="document", metadata={"help": "What counts as one document in a plain text file."}
    )
    train_split: str = field(default="train", metadata={"help": "Split to train on."})
    validation_split: str = field(
        default="validation", metadata={"help": "Split to validate on; made from the training split if it is missing."}
    )
    test_split: str = field(default="test", metadata={"help": "Split that only `modeling-mini eval` reads."})
    validation_fraction: float = field(
        default=0.05, metadata={"help": "Share of the documents to validate on when there is no validation split."}
    )
    max_train_documents: int | None = field(
        default=None, metadata={"help": "Train on at most this number of documents."}
    )
    max_validation_documents: int | None = field(
        default=None,
        metadata={"help": "Validate on at most this number of documents; 500 by default for a stream."},
    )
    streaming: bool = field(
        default=False,
        metadata={"help": "Read the text during training, in repeated passes; needs --max_steps."},
    )
    shuffle_buffer: int = field(default=1000, metadata={"help": "Number of rows among which a stream is shuffled."})
    block_size: int = field(default=256, metadata={"help": "Tokens in a row."})
    preprocessing_workers: int | None = field(default=None, metadata={"help": "Number of processes that tokenize."})
    split_seed: int = field(
        default=0, metadata={"help": "Seed of the split into training and validation, and of the order of a stream."}
    )

    def check(self) -> None:
        """Refuse values that no task can use, before anything is read. Raises `UserError`."""
        self.check_shares("validation_fraction")
        if self.block_size < 8:
            raise UserError(f"--block_size is {self.block_size}; give at least 8 tokens.")
        self.check_minimums(max_train_documents=1, max_validation_documents=1, preprocessing_workers=1)

    def check_shares(self, *names: str) -> None:
        """Raises `UserError` for an argument that is not a share between 0 and 1."""
        for name in names:
            if not 0 < getattr(self, name) < 1:
                raise UserError(f"--{name} is {getattr(self, name)}; give a share between 0 and 1.")

    def check_minimums(self, **minimums: int) -> None:
        """Raises `UserError` for an argument below its minimum."""
        for name, minimum in minimums.items():
            value = getattr(self, name)
            if value is not None and value < minimum:
                leave_out = ", or leave it out" if self.__dataclass_fields__[name].default is None else ""
                raise UserError(f"--{name} is {value}; give at least {minimum}{leave_out}.")
