"""Local files: which files of a folder hold data, and to which split they belong."""

import logging
import os
import re
from pathlib import Path

from ..errors import UserError
from ..options import check_path
from .columns import name_some
from .formats import FORMATS, format_of


logger = logging.getLogger(__name__)

# The words in the names of files and in `--split_column`, as `datasets` knows them.
SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
}
_ABOUT_THE_DATA = re.compile(
    r"(readme|licen[cs]e|copying|notice|changelog|citation|authors|contributing)\b", re.IGNORECASE
)
_METADATA = {"config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
_SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}\.")  # as the Hub stores a split


def check_file(option: str, path: Path) -> None:
    """Raises `UserError` for a file that is empty or has an unknown extension."""
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty; give a file with at least two examples.")
    if format_of(path) is None:
        raise UserError(
            f"{option} {path}: its extension is not one of {', '.join(FORMATS)}; convert or rename the file."
        )


def data_files(option: str, path: Path, with_text: bool) -> list[Path]:
    """The file, or all data files of a folder and the folders in it, in the order of their names.

    Args:
        option: the option that names the path, for errors.
        path: a file or folder.
        with_text: whether plain text files hold examples. Otherwise they are data only if there is no other file.

    Raises:
        UserError: the file is empty or of an unknown format, or the folder holds no data file.
    """
    if path.is_file():
        check_file(option, path)
        return [path]
    entries = _walk(option, path)
    found = [file for file in entries if _is_data(file)]
    if not found:  # a README alone is data
        found = [file for file in entries if format_of(file) == "text" and not _is_hidden(file.name)]
    tables = [file for file in found if format_of(file) != "text"]
    if tables and not with_text:
        found = tables
    if not found:
        raise UserError(f"{option} {path}: the folder holds no file with the extension {', '.join(FORMATS)}.")
    for file in found:
        check_path(option, str(file))  # reading a pipe would never end
    if skipped := sorted({*entries} - {*found}, key=Path.as_posix):
        names = name_some((file.relative_to(path).as_posix() for file in skipped), count=5)
        logger.info("Not read in %s, because these are not data files: %s", path, names)
    return found


def _is_data(file: Path) -> bool:
    kind = format_of(file)
    is_about_the_data = file.name in _METADATA or (kind == "text" and _ABOUT_THE_DATA.match(file.name))
    return kind is not None and not is_about_the_data and not _is_hidden(file.name)


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "__"))


def _walk(option: str, folder: Path) -> list[Path]:
    """The files of a folder and the folders in it. A hidden folder is one entry."""

    def refuse(error: OSError):
        raise UserError(f"{option} {error.filename} cannot be read: {error.strerror}.") from error

    files, visited = [], set()
    for name, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        if (real := os.path.realpath(name)) in visited:  # a link to a folder above
            folders.clear()
            continue
        visited.add(real)
        hidden = [inner for inner in folders if _is_hidden(inner)]
        folders[:] = [inner for inner in folders if not _is_hidden(inner)]
        files += [Path(name, inner) for inner in (*names, *hidden)]
    return sorted(files, key=Path.as_posix)


def divide_into_splits(folder: Path, files: list[Path]) -> dict[str, list[Path]]:
    """Split -> its files, by the words in the names of the files and of the folders that they are in.

    Without any such word, all files are the training split. Files without a word are training files if no name has
    a word for training; otherwise they are not read, and a warning names them.

    Raises:
        UserError: a name has words for two splits.
    """
    splits, others = {}, []
    for file in files:
        split = split_in_name(file.relative_to(folder))
        (others if split is None else splits.setdefault(split, [])).append(file)
    if others and splits:
        names = name_some((file.relative_to(folder).as_posix() for file in others), count=5)
        if "train" in splits:
            logger.warning(
                "Not read in %s, because their names hold none of the words train, validation and test: %s",
                folder,
                names,
            )
        else:
            logger.info("Training files of %s, because no name in it holds the word train: %s", folder, names)
    if others and "train" not in splits:
        splits["train"] = others
    order = ("train", "validation", "test")
    return {
        name: splits[name] for name in (*(n for n in order if n in splits), *(n for n in splits if n not in order))
    }


def words_of(name: str) -> list[str]:
    """The words of a name such as `test_2`, `testData` or `is-test`, in small letters."""
    return [word.lower() for word in re.split(r"[\W\d_]+|(?<=[a-z])(?=[A-Z])", name) if word]


def split_in_name(path: Path) -> str | None:
    """The split that the folders in a relative path name, the innermost first, or else its file; or None.

    Only whole words count: `test_2.csv` and `testData.csv` hold the word test, `latest.csv` does not. In a folder
    `data`, names as on the Hub (`train_sft-00000-of-00002.parquet`) may name any split. Raises `UserError` for two
    splits in a name.
    """
    if (shard := _SHARD.match(path.name)) and path.parent.name == "data":
        return SPLIT_WORDS.get(shard[1].lower(), shard[1])
    for name in (*reversed(path.parent.parts), path.name):
        splits = list(dict.fromkeys(SPLIT_WORDS[word] for word in words_of(name) if word in SPLIT_WORDS))
        if len(splits) > 1:
            raise UserError(
                f"{path} is named after two splits, {splits[0]} and {splits[1]}; rename it, or name the files with "
                "--train_file, --validation_file and --test_file."
            )
        if splits:
            return splits[0]
    return None
