"""Where examples come from and how they become rows, as command-line arguments."""

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ..errors import UserError
from ..options import FILE_ARGUMENTS, check_data
from .builtin import BUILTIN
from .formats import format_of


@dataclass
class DataArguments:
    """Where examples come from, and how they become rows."""

    dataset: str | None = field(
        default=None,
        metadata={
            "help": "A local .txt, .jsonl, .json, .csv, .tsv or .parquet file (also .gz), a folder of such files, a "
            f"data set on the Hub, or a built-in one that needs no download ({', '.join(BUILTIN)}); by default the "
            "task's own built-in data."
        },
    )
    train_file: str | None = field(
        default=None,
        metadata={"help": "File or folder to train on, instead of --dataset; its name does not matter."},
    )
    validation_file: str | None = field(
        default=None, metadata={"help": "File or folder to validate on; needs --train_file for training."}
    )
    test_file: str | None = field(
        default=None, metadata={"help": "File or folder that only `modeling-mini eval` reads."}
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
    delimiter: str | None = field(
        default=None,
        metadata={
            "help": "Character between the cells of .csv and .tsv files, such as ';' or '\\t'; by default a comma in "
            ".csv, a tab in .tsv."
        },
    )
    split_column: str | None = field(
        default=None,
        metadata={"help": "Column whose values divide the rows into train, validation (valid, val, dev) and test."},
    )
    where: str | None = field(
        default=None,
        metadata={
            "help": "Use only the rows for which this condition on columns holds: \"domain == 'movies' and year >= "
            "2000\", \"lang in ['en', 'de']\", \"not 'draft' in tags\"."
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
        default=None,
        metadata={"help": "Train on at most this number of documents, drawn at random; the first ones of a stream."},
    )
    max_validation_documents: int | None = field(
        default=None,
        metadata={
            "help": "Validate on at most this number of documents, drawn at random; the first ones of a stream, by "
            "default 500."
        },
    )
    streaming: bool = field(
        default=False,
        metadata={"help": "Read the text during training, in repeated passes; needs --max_steps."},
    )
    shuffle_buffer: int = field(default=1000, metadata={"help": "Number of rows among which a stream is shuffled."})
    block_size: int = field(default=256, metadata={"help": "Tokens in a row."})
    preprocessing_workers: int | None = field(default=None, metadata={"help": "Number of processes that tokenize."})
    split_seed: int = field(
        default=0,
        metadata={
            "help": "Seed of the split into training and validation, of documents drawn at random, and of the order "
            "of a stream."
        },
    )

    @property
    def split_files(self) -> dict[str, str]:
        """Split -> the file or folder that is named for it."""
        paths = {name.removesuffix("_file"): getattr(self, name) for name in FILE_ARGUMENTS}
        return {split: path for split, path in paths.items() if path is not None}

    @property
    def cell_delimiter(self) -> str | None:
        """`delimiter`, with a tab for the two characters that a shell passes on for `'\\t'`."""
        return "\t" if self.delimiter == r"\t" else self.delimiter

    @property
    def source_name(self) -> str:
        """The data as errors and reports name them."""
        return self.dataset or ", ".join(self.split_files.values())

    @property
    def named_columns(self) -> dict[str, str]:
        """Column of the task -> column of the data set, as `columns` names them."""
        return dict(item.partition("=")[::2] for item in self.columns)

    def idle(self, given: Collection[str]) -> dict[str, str]:
        """The given arguments, by name, that have no effect, and why."""
        given = {name.removeprefix("no_") for name in given}
        return {name: reason for name, reason in self._idle().items() if name in given}

    def _idle(self) -> dict[str, str]:
        """All arguments that have no effect on this kind of data, and why."""
        paths = [Path(name) for name in self.split_files.values() or [self.dataset]]
        is_builtin = self.dataset in BUILTIN and not self.split_files
        idle = {}
        if not self.streaming:
            idle["shuffle_buffer"] = "only a stream (--streaming) is shuffled in parts"
        if is_builtin or all(not path.exists() or format_of(path) not in ("text", None) for path in paths):
            idle["text_unit"] = "only plain text files are divided into documents"
        if not is_builtin and all(path.exists() for path in paths):
            idle["dataset_config"] = "files have no configurations"
        return idle

    def check(self) -> None:
        """Refuse values that no task can use, before anything is read. Raises `UserError`."""
        self.check_source()
        self.check_splits()
        self.check_shares("validation_fraction")
        if self.delimiter is not None and (len(self.cell_delimiter) != 1 or self.cell_delimiter in '"\r\n\0'):
            raise UserError(rf"--delimiter is {self.delimiter!r}; give one character, such as ';' or '\t'.")
        if self.block_size < 8:
            raise UserError(f"--block_size is {self.block_size}; give at least 8 tokens.")
        self.check_minimums(max_train_documents=1, max_validation_documents=1, preprocessing_workers=1)

    def check_source(self) -> None:
        """Raises `UserError` if the data are named twice, by an empty name, or by a path that cannot be read."""
        check_data(vars(self))
        if not self.split_files:
            return
        option = f"--{next(iter(self.split_files))}_file"
        if self.dataset not in (None, next(iter(self.split_files.values()))):
            raise UserError(f"--dataset and {option} both name the data; leave one of them out.")
        if self.split_column is not None:
            raise UserError(f"--split_column divides the rows of --dataset; leave out {option}.")

    def check_splits(self) -> None:
        """Raises `UserError` for a named split that this run would not read, or would train on."""
        fields = self.__dataclass_fields__
        roles = ("train", "validation", "test")
        named = {role: getattr(self, f"{role}_split") for role in roles}
        named = {role: name for role, name in named.items() if name != fields[f"{role}_split"].default}
        for role, name in named.items():
            if self.split_files:
                raise UserError(
                    f"--{role}_split {name} names a split of --dataset, but the data are given as files; leave it "
                    f"out, and name the file with --{role}_file."
                )
            if role != "train" and name == self.train_split:
                aside = ", or leave it out to set --validation_fraction of it aside" if role == "validation" else ""
                raise UserError(f"--{role}_split {name} is the split that is trained on; name another one{aside}.")

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
