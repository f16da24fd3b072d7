"""Push a checkpoint to the Hub, verify the result, and update the code of an older repository.

A push is one commit, so that a repository contains either the old model or the new one, and never a mixture.
"""

import difflib
import json
import logging
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import huggingface_hub
import torch
import transformers
from huggingface_hub import CommitInfo
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .. import modeling_mini
from ..configuration_mini import FORMAT_VERSION, MiniConfig
from ..errors import UserError
from ..json_files import read_object
from ..model_folders import (
    TOKENIZER_FILES,
    WEIGHT_FILES,
    matches,
    refuse_files,
    require_model_folder,
    without_bars,
)
from .checkpoint import load_for_push
from .model_card import CARD_NAME, complete_card, copy_file
from .repository import Repository
from .verify import outputs_of, verify


logger = logging.getLogger(__name__)

CODE_FILES = sorted(Path(modeling_mini.__file__).parent.glob("*_mini.py"))
REPORT_FILES = ["loss.png", "metrics.json"]  # a run writes them next to its model card
# All files that transformers reads to open a model.
MODEL_FILES = [
    *WEIGHT_FILES,
    *(path.name for path in CODE_FILES),
    "config.json",
    "generation_config.json",
    *TOKENIZER_FILES,
]
# A push deletes these files if the new model has none. The last one is a pickle of the Trainer, with local paths.
REPLACED_FILES = [*MODEL_FILES, *REPORT_FILES, "training_args.bin"]


def push(
    checkpoint: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    max_shard_size: str = "5GB",
    license: str | None = None,
    language: list[str] | None = None,
    commit_message: str | None = None,
    token: str | None = None,
    dry_run: bool = False,
) -> CommitInfo | None:
    """Upload a checkpoint as a repository that opens with and without this package, and verify the upload.

    The upload is one commit. Before it, the files open in a fresh process without the package; after it, the commit is
    downloaded into an empty cache and opens there. Every Auto class must compute the same bits.

    Args:
        checkpoint: folder of a trained model, or a `checkpoint-N` in it.
        repo_id, revision, private: `"USER/REPO"` and a branch; created if they do not exist, private or public.
        create_pr: open a pull request instead of writing to the branch.
        max_shard_size: largest file of weights, such as `"500MB"`.
        license: of the weights, as the Hub names it (`"apache-2.0"`); by default the licence in the card.
        language: ISO 639 codes of the training text.
        token: Hub token; by default the token from `hf auth login` or HF_TOKEN.
        dry_run: list the files, without contacting the Hub, and return None instead of the commit.

    Raises:
        UserError: what the user can fix, before anything is written; a failed upload; outputs that differ.
    """
    repository = Repository(repo_id, revision, create_pr, token)
    _check_size(max_shard_size)
    with tempfile.TemporaryDirectory() as scratch, _quiet():
        folder, checkpoint = Path(scratch, "export"), Path(checkpoint)
        model, tokenizer = load_for_push(checkpoint)
        _export(model, tokenizer, checkpoint, folder, max_shard_size)
        card = checkpoint if dry_run else _card_folder(repository, checkpoint, Path(scratch), private)
        complete_card(card, folder, repo_id, model, license, language)
        names = _list_files(folder)
        if not dry_run:
            return _upload(repository, folder, names, model, private, commit_message)
        logger.info("Dry run: nothing was uploaded to %s.", repo_id)
        return None


def _card_folder(repository: Repository, checkpoint: Path, scratch: Path, private: bool) -> Path:
    """Where the card to complete is: in the checkpoint, or in `scratch`, as someone may have edited it on the Hub.

    Raises:
        UserError: this user cannot push to the repository.
    """
    repository.check_login()
    repository.check_visibility(private)
    return scratch if not (checkpoint / CARD_NAME).exists() and repository.fetch_card(scratch) else checkpoint


def _upload(
    repository: Repository,
    folder: Path,
    names: list[str],
    model: PreTrainedModel,
    private: bool,
    commit_message: str | None,
) -> CommitInfo:
    """Commit the named files of a folder, which open before and after it with the outputs of the model."""
    repository.check_card((folder / CARD_NAME).read_text(encoding="utf-8"))
    expected = outputs_of(folder, model.config)
    _verify_export(folder, expected)
    if not repository.create_pr:
        repository.create(private)
    message = commit_message or f"Upload {type(model).__name__} with modeling_mini"
    commit = repository.commit(folder, names, message, REPLACED_FILES, private=private)
    _verify_commit(repository, commit.oid, names, expected)
    return commit


def _list_files(folder: Path) -> list[str]:
    """Log the files of a folder with their sizes, and return their names."""
    names = sorted(path.name for path in folder.iterdir())
    for name in names:
        logger.info("%14s bytes  %s", f"{(folder / name).stat().st_size:,}", name)
    return names


def upgrade_repo(
    repo_id: str,
    *,
    revision: str | None = None,
    create_pr: bool = False,
    token: str | None = None,
    dry_run: bool = False,
) -> CommitInfo | None:
    """Replace the code in a repository with the code of the installed package, and update its `config.json`.

    The code in a repository is as old as its last push; this command updates it. In `config.json` it sets `auto_map`
    and `format_version`. Weights, tokenizer and card stay. The replaced code is not run. Arguments, errors and
    verification are the same as for `push`.

    Returns:
        The commit, or None if the repository is up to date, or for a dry run.
    """
    repository = Repository(repo_id, revision, create_pr, token)
    with tempfile.TemporaryDirectory() as scratch, _quiet():
        folder, head = Path(scratch, "repository"), repository.head()
        present = [file.rfilename for file in head.siblings]
        refuse_files(present, repo_id)
        names = [name for name in present if matches(name, MODEL_FILES)]
        repository.fetch(names, head.sha, local_dir=folder)
        expected = outputs_of(folder, require_model_folder(folder, source=repo_id))  # before the change
        changed = _refresh_code(folder)
        if not changed:
            logger.info("%s is up to date with modeling_mini %s.", repo_id, version("modeling_mini"))
            return None
        for name, (added, removed) in changed.items():
            logger.info("%s: %d lines added, %d removed", name, added, removed)
        if dry_run:
            logger.info("Dry run: nothing was written to %s.", repo_id)
            return None
        repository.check_login()
        _verify_export(folder, expected)
        message = f"Update the code to modeling_mini {version('modeling_mini')}"
        commit = repository.commit(folder, list(changed), message, parent=head.sha)
        _verify_commit(repository, commit.oid, list({*names, *changed}), expected)
    return commit


def _verify_export(folder: Path, expected: dict[str, torch.Tensor]) -> None:
    logger.info("Opening the files to upload in a fresh process without modeling_mini ...")
    verify(folder, expected)
    logger.info("Before the upload, without modeling_mini: %s open, equal bit for bit.", ", ".join(expected))


def _verify_commit(repository: Repository, oid: str, names: list[str], expected: dict[str, torch.Tensor]) -> None:
    """Download the files of the model, and no code except ours, into an empty cache, and open them there."""
    logger.info("Downloading the commit and opening it in the same way ...")
    with tempfile.TemporaryDirectory() as cache:
        try:
            snapshot = Path(repository.fetch(names, oid, cache_dir=cache))
        except UserError as error:
            raise UserError(f"Commit {oid} was uploaded, but could not be downloaded to verify it: {error}") from error
        for path in CODE_FILES:
            if (snapshot / path.name).read_bytes() != path.read_bytes():
                raise UserError(f"{path.name} in {repository.id} at {oid} differs from the upload; do not use it.")
        verify(repository.id, expected, oid, Path(cache))
    logger.info(
        "Downloaded into an empty cache, without modeling_mini: %s open, equal bit for bit.", ", ".join(expected)
    )


def _check_size(max_shard_size: str) -> None:
    if not re.fullmatch(r"[1-9]\d*[KMGT]i?B", max_shard_size):
        raise UserError(f"--max_shard_size is {max_shard_size!r}; give a size such as 500MB or 5GB.")


def _export(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    checkpoint: Path,
    folder: Path,
    max_shard_size: str,
) -> None:
    """Write all files of the repository except the model card."""
    if hasattr(model.config, "quantization_config"):
        # transformers may be unable to save a quantized model, so the weight files are copied.
        folder.mkdir()
        for path in checkpoint.iterdir():
            if matches(path.name, WEIGHT_FILES):
                copy_file(path, folder)
        model.config.save_pretrained(folder)
        if model.can_generate():
            model.generation_config.save_pretrained(folder)
    else:
        model.save_pretrained(folder, max_shard_size=max_shard_size)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    for name in REPORT_FILES:
        if (checkpoint / name).exists():
            copy_file(checkpoint / name, folder)
            if name.endswith(".json"):
                read_object(checkpoint / name)  # the repository's users read it


def _refresh_code(folder: Path) -> dict[str, tuple[int, int]]:
    """Write the package's code, `auto_map` and format into a folder.

    Returns:
        Lines added and lines removed, by the name of each changed file.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    ours = tuple(f"{path.stem}." for path in CODE_FILES)
    others = {name: ref for name, ref in (config.get("auto_map") or {}).items() if not str(ref).startswith(ours)}
    config["auto_map"] = {**others, **MiniConfig().auto_map}
    config["format_version"] = FORMAT_VERSION
    new = {path.name: path.read_text(encoding="utf-8") for path in CODE_FILES}
    new["config.json"] = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    changed = {}
    for name, text in new.items():
        path = folder / name
        old = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        if old != text:
            lines = list(difflib.unified_diff(old.splitlines(), text.splitlines(), n=0))[2:]
            changed[name] = tuple(sum(line.startswith(sign) for line in lines) for sign in "+-")
            path.write_text(text, encoding="utf-8")
    return changed


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the warnings and progress bars of loading a model six times (once per class) and of unchanged files."""
    libraries = (transformers.logging, huggingface_hub.logging)
    verbosities = [library.get_verbosity() for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
    try:
        with without_bars():
            yield
    finally:
        for library, verbosity in zip(libraries, verbosities, strict=True):
            library.set_verbosity(verbosity)
