"""Sharing: push a checkpoint to the Hub, verify what arrived, and bring the code of an older repository up to date.

A push is one commit, so that a repository holds the old model or the new one, and never a part of each.
"""

import difflib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

import huggingface_hub
import torch
import transformers
from huggingface_hub import (
    CommitInfo,
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    constants,
    get_token,
    snapshot_download,
)
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import get_session, hf_raise_for_status, validate_repo_id
from safetensors.torch import load_file
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from . import configuration_mini, modeling_mini, verification
from .checkpoints import checkpoints, is_whole_safetensors
from .configuration_mini import FORMAT_VERSION, MiniConfig
from .errors import UserError
from .model_card import CARD_NAME, complete_card
from .registration import AUTO_CLASSES


logger = logging.getLogger(__name__)

CODE_FILES = [Path(module.__file__) for module in (configuration_mini, modeling_mini)]
REPORT_FILES = ["loss.png", "metrics.json"]  # of a run, beside its model card

PICKLES = ["pytorch_model*.bin", "adapter_model.bin", "*.ckpt", "*.pkl", "*.pickle"]
# What describes one model, and is deleted with it unless the new one brings a file of the same name.
REPLACED_FILES = [
    "*.safetensors",
    "*.safetensors.index.json",
    "generation_config.json",
    "tokenizer*.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    *REPORT_FILES,
    "training_args.bin",  # of the Trainer, a pickle with paths of the machine
]

ATTEMPTS = 4
WAIT = 1.0  # seconds before the second attempt; twice as many before each later one
# That of httpx, under the name by which this huggingface_hub has it: lost connections as well as refusals.
_HTTP_ERROR = HfHubHTTPError.__bases__[0]


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
    """Share a checkpoint as a repository that opens with and without this package, and verify it from there.

    Writes weights (safetensors), code, the full `auto_map`, tokenizer, generation config and model card into a
    temporary folder; opens that in a fresh process without the package; uploads it in one commit; downloads the commit
    into an empty cache and opens it there in the same way. Every Auto class must compute the same bits each time.

    Args:
        checkpoint: folder of a trained model, or a `checkpoint-N` in it.
        repo_id: `"USER/REPO"`; created if it does not exist.
        private: create it as a private repository.
        revision: branch to push to; created from the main branch if it does not exist.
        create_pr: open a pull request instead of writing to the branch.
        max_shard_size: largest file of weights, as in `save_pretrained`.
        license: of the weights, as the Hub names it (`"apache-2.0"`); the card's own if not given.
        language: ISO 639 codes of the text that the model learnt from.
        token: of the Hub; by default that of `hf auth login` or HF_TOKEN.
        dry_run: list the files, and do not touch the network.

    Returns:
        The commit, or None for a dry run.

    Raises:
        UserError: whatever the user can mend, before anything is written; an upload that did not succeed; a repository
            that does not open as it should.
    """
    check_names(repo_id, revision)
    _check_size(max_shard_size)
    checkpoint, token = Path(checkpoint), token or get_token()
    with tempfile.TemporaryDirectory() as scratch, _quiet():
        folder, card = Path(scratch, "export"), checkpoint
        model, tokenizer = load_checkpoint(checkpoint)
        if not dry_run:
            with hub_errors(repo_id, revision, token):
                api = HfApi(token=token)
                _retry(check_login, api, repo_id, allow_foreign=create_pr)
                _retry(_check_visibility, api, repo_id, private)
                if not (checkpoint / CARD_NAME).exists() and _retry(_download_card, api, repo_id, revision, scratch):
                    card = Path(scratch)  # someone may have written it there
        _export(model, tokenizer, checkpoint, folder, max_shard_size)
        complete_card(card, folder, repo_id, model, license, language)
        names = sorted(path.name for path in folder.iterdir())
        for name in names:
            logger.info("%14s bytes  %s", f"{(folder / name).stat().st_size:,}", name)
        if dry_run:
            logger.info("A dry run: nothing was uploaded to %s.", repo_id)
            return None
        with hub_errors(repo_id, revision, token):
            _retry(_check_card, api, folder)
        expected = verification.open_all(folder)
        verify(folder, expected)
        with hub_errors(repo_id, revision, token):
            if not create_pr:
                _retry(_create, api, repo_id, private, revision)
            message = commit_message or f"Upload {type(model).__name__} with modeling_mini"
            commit = _upload(api, repo_id, folder, names, message, revision, create_pr, REPLACED_FILES)
        verify(repo_id, expected, commit.oid, api.endpoint, token)
    return commit


def upgrade_repo(
    repo_id: str,
    *,
    revision: str | None = None,
    create_pr: bool = False,
    token: str | None = None,
    dry_run: bool = False,
) -> CommitInfo | None:
    """Replace the code in a repository by that of the installed package, and `auto_map` and format in its config.

    Code in a repository is as old as its last push; corrections reach it this way. Weights, tokenizer and card stay.
    The code that is replaced is not run. Arguments, errors and verification are those of `push`.

    Returns:
        The commit, or None if the repository is up to date, or for a dry run.
    """
    check_names(repo_id, revision)
    token = token or get_token()
    with tempfile.TemporaryDirectory() as scratch, _quiet():
        folder = Path(scratch, "repository")
        with hub_errors(repo_id, revision, token):
            api = HfApi(token=token)
            head = _retry(api.repo_info, repo_id, revision=revision).sha
            patterns = ["*.json", "*.jinja", "*.safetensors", *(path.name for path in CODE_FILES)]
            snapshot_download(repo_id, revision=head, local_dir=folder, allow_patterns=patterns, token=token)
        _require_model_folder(folder, name=repo_id)
        changed = _refresh_code(folder)
        if not changed:
            logger.info("%s is up to date with modeling_mini %s.", repo_id, _version())
            return None
        for name, (added, removed) in changed.items():
            logger.info("%s: %d lines added, %d removed", name, added, removed)
        if dry_run:
            return None
        with hub_errors(repo_id, revision, token):
            _retry(check_login, api, repo_id, allow_foreign=create_pr)
        expected = verification.open_all(folder)
        verify(folder, expected)
        with hub_errors(repo_id, revision, token):
            message = f"Update the code to modeling_mini {_version()}"
            commit = _upload(api, repo_id, folder, list(changed), message, revision, create_pr, [])
        verify(repo_id, expected, commit.oid, api.endpoint, token)
    return commit


def check_names(repo_id: str, revision: str | None) -> None:
    """Refuse names that are no repository or no branch, before they become part of a path. Raises `UserError`."""
    try:
        validate_repo_id(repo_id)
        is_valid = repo_id.count("/") == 1 and repo_id.isascii() and repo_id.isprintable()
    except HFValidationError:
        is_valid = False
    if not is_valid:
        raise UserError(
            f"{repo_id!r} is no name of a repository; give USER/REPO, of letters, digits, and single - _ . inside."
        )
    if revision is not None and not (
        re.fullmatch(r"\w[\w./-]*", revision, re.ASCII) and ".." not in revision and "//" not in revision
    ):
        raise UserError(
            f"--revision {revision!r} is no name of a branch; give letters, digits and - _ . / inside, such as dev."
        )


def _check_size(max_shard_size: str) -> None:
    if not re.fullmatch(r"[1-9]\d*[KMGT]i?B", max_shard_size):
        raise UserError(f"--max-shard-size is {max_shard_size!r}; give a size such as 500MB or 5GB.")


def check_login(api: HfApi, repo_id: str, allow_foreign: bool = False) -> None:
    """Refuse to start what the Hub would refuse at the end. Raises `UserError`.

    Args:
        allow_foreign: do not ask for the right to write: anyone may propose a change to a public repository.
    """
    if api.token is None:
        raise UserError(
            "You are not logged in to the Hub; run `hf auth login`, or set HF_TOKEN to a token with write access "
            "(https://huggingface.co/settings/tokens)."
        )
    user = api.whoami()
    namespaces = [user["name"], *(organization["name"] for organization in user.get("orgs", []))]
    if not allow_foreign and repo_id.split("/")[0] not in namespaces:
        raise UserError(
            f"The token belongs to {user['name']}, who cannot write to {repo_id}; push to {user['name']}/"
            f"{repo_id.split('/')[1]}, or log in as someone else."
        )


def load_checkpoint(checkpoint: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
    """The model of a folder, by the class that saved it, and its tokenizer if there is one.

    Raises:
        UserError: a folder that holds no model of ours, no safetensors, weights that are cut short or miss parts, or
            pickles.
    """
    if not checkpoint.is_dir():
        raise UserError(f"There is no folder {checkpoint}; give that of a trained model, such as runs/quickstart.")
    config = _require_model_folder(checkpoint)
    classes = {model_class.__name__: model_class for model_class in AUTO_CLASSES.values()}
    architecture = (config.architectures or [None])[0]
    if architecture not in classes:
        raise UserError(
            f"{checkpoint / 'config.json'} names the architecture {architecture!r}, which is none of "
            f"{', '.join(classes)}; save the model again with save_pretrained."
        )
    try:
        model, report = classes[architecture].from_pretrained(
            checkpoint, use_safetensors=True, output_loading_info=True
        )
        has_tokenizer = any(checkpoint.glob("tokenizer*.json"))
        tokenizer = AutoTokenizer.from_pretrained(checkpoint) if has_tokenizer else None
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        raise UserError(f"{checkpoint} does not open: {_first_line(error)}") from error
    if missing := sorted(report["missing_keys"]):
        raise UserError(f"The weights in {checkpoint} lack {missing[0]} and {len(missing) - 1} more; save it again.")
    if tokenizer is None:
        logger.warning("There is no tokenizer in %s: the repository will have none.", checkpoint)
    return model.eval(), tokenizer


def _require_model_folder(folder: Path, name: str | None = None) -> MiniConfig:
    """The config of a folder that holds a model of ours in whole safetensors files. Raises `UserError`."""
    name = name or str(folder)
    files = [path.name for path in folder.iterdir()]
    _refuse_files(files, name)
    if "config.json" not in files:
        runs = checkpoints(folder)
        hint = f"the run did not end; give a checkpoint such as {runs[0]}" if runs else "give a trained model"
        raise UserError(f"{name} holds no config.json; {hint}.")
    weights = list(folder.glob("*.safetensors"))
    if not weights:
        raise UserError(f"{name} holds no weights (*.safetensors); save the model with save_pretrained.")
    if damaged := [path.name for path in weights if not is_whole_safetensors(path)]:
        raise UserError(f"{damaged[0]} in {name} is cut short; copy it again, or use another checkpoint.")
    for index in folder.glob("*.safetensors.index.json"):
        try:
            parts = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{index.name} in {name} is no index of weights; save the model again.") from error
        if strangers := sorted(parts - set(files)):
            raise UserError(f"{index.name} in {name} names {strangers[0]!r}, which is not a file beside it.")
    try:
        config = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise UserError(f"config.json in {name}: {_first_line(error)}") from error
    if not isinstance(config, MiniConfig):
        raise UserError(f"{name} holds a {config.model_type} model; this command shares modeling_mini models.")
    return config


def _refuse_files(files: list[str], name: str) -> None:
    """Refuse what transformers would open instead of our weights, or with them. Raises `UserError`."""
    for file in files:
        if "/" in file:
            continue  # transformers looks into no folder
        if any(fnmatch(file, pattern) for pattern in PICKLES):
            raise UserError(
                f"{name} holds {file}, a pickle, which can run code when it is opened; keep the weights in "
                "safetensors files only (save_pretrained writes them), and delete it."
            )
        if file in ("adapter_config.json", "adapter_model.safetensors"):
            raise UserError(
                f"{name} holds an adapter ({file}), which transformers would apply to the model beside it; merge it "
                "(PEFT's merge_and_unload, then save_pretrained), or push it by itself (PeftModel.push_to_hub)."
            )


def _export(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    checkpoint: Path,
    folder: Path,
    max_shard_size: str,
) -> None:
    """Write everything but the model card."""
    model.config.auto_map = dict(MiniConfig().auto_map)  # an older one may name code that is elsewhere
    if hasattr(model.config, "quantization_config"):
        # What transformers has loaded quantized, it may be unable to save: the files go as they are.
        for path in checkpoint.glob("*.safetensors*"):
            shutil.copyfile(path, folder / path.name)
        model.config.save_pretrained(folder)
        if model.can_generate():
            model.generation_config.save_pretrained(folder)
    else:
        model.save_pretrained(folder, max_shard_size=max_shard_size)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    for name in REPORT_FILES:
        if (checkpoint / name).exists():
            shutil.copyfile(checkpoint / name, folder / name)


def _refresh_code(folder: Path) -> dict[str, tuple[int, int]]:
    """Write the package's code, `auto_map` and format into a folder; lines added and removed by the files changed."""
    config_file = folder / "config.json"
    config = json.loads(config_file.read_text(encoding="utf-8"))
    config["auto_map"] = {**(config.get("auto_map") or {}), **MiniConfig().auto_map}
    config["format_version"] = FORMAT_VERSION
    new = {path.name: path.read_text(encoding="utf-8") for path in CODE_FILES}
    new["config.json"] = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    changed = {}
    for name, text in new.items():
        old = (folder / name).read_text(encoding="utf-8") if (folder / name).exists() else ""
        if old != text:
            lines = list(difflib.ndiff(old.splitlines(), text.splitlines()))
            changed[name] = tuple(sum(line.startswith(sign) for line in lines) for sign in ("+ ", "- "))
            (folder / name).write_text(text, encoding="utf-8")
    return changed


def _check_visibility(api: HfApi, repo_id: str, private: bool) -> None:
    """Refuse to put into a public repository what was meant to be private. Raises `UserError`."""
    if not api.repo_exists(repo_id):
        return
    is_private = api.repo_info(repo_id).private
    logger.info("%s exists and is %s.", repo_id, "private" if is_private else "public")
    if private and not is_private:
        raise UserError(
            f"{repo_id} exists and is public, and --private was asked for; make it private in its settings, or choose "
            "another name."
        )


def _download_card(api: HfApi, repo_id: str, revision: str | None, folder: str) -> bool:
    """Fetch the model card of a repository into a folder, if there is one."""
    if not api.file_exists(repo_id, CARD_NAME, revision=revision):
        return False
    api.hf_hub_download(repo_id, CARD_NAME, revision=revision, local_dir=folder)
    return True


def _check_card(api: HfApi, folder: Path) -> None:
    """Ask the Hub whether it takes the metadata of the card, as it will before the commit. Raises `UserError`."""
    content = (folder / CARD_NAME).read_text(encoding="utf-8")
    response = get_session().post(f"{api.endpoint}/api/validate-yaml", json={"repoType": "model", "content": content})
    if response.status_code == 400:
        errors = "; ".join(error["message"] for error in response.json()["errors"])
        raise UserError(f"The Hub refuses the metadata of the model card ({errors}); mend README.md or the options.")
    hf_raise_for_status(response)


def _create(api: HfApi, repo_id: str, private: bool, revision: str | None) -> None:
    if not api.repo_exists(repo_id):
        api.create_repo(repo_id, private=private or None, exist_ok=True)
        logger.info("Created %s, which is %s.", repo_id, "private" if api.repo_info(repo_id).private else "public")
    if revision is not None:
        api.create_branch(repo_id, branch=revision, exist_ok=True)


def _upload(
    api: HfApi,
    repo_id: str,
    folder: Path,
    names: list[str],
    message: str,
    revision: str | None,
    create_pr: bool,
    replaced: list[str],
) -> CommitInfo:
    """Upload files in one commit on top of what is there, and delete files at the top that match `replaced`.

    `upload_folder` would make several commits of a large model, and the repository would not open in between.
    """

    def commit() -> CommitInfo:
        head = api.repo_info(repo_id, revision=revision)
        present = [file.rfilename for file in head.siblings]
        _refuse_files(present, repo_id)
        stale = [n for n in present if n not in names and "/" not in n and any(fnmatch(n, p) for p in replaced)]
        return api.create_commit(
            repo_id,
            [
                *(CommitOperationAdd(name, folder / name) for name in names),
                *(CommitOperationDelete(name) for name in stale),
            ],
            commit_message=message,
            revision=revision,
            create_pr=create_pr,
            parent_commit=head.sha,
        )

    # If a commit arrived and only the answer was lost, the next attempt finds nothing to change and gives that commit.
    # A second attempt at a pull request might open a second one.
    result = _retry(commit, attempts=1 if create_pr else ATTEMPTS)
    logger.info("%s: commit %s", result.pr_url or f"{api.endpoint}/{repo_id}", result.oid)
    return result


def _retry(action: Callable, *args, attempts: int = ATTEMPTS, **kwargs):
    """Call `action`, and again after a failure that may pass."""
    for attempt in range(1, attempts + 1):
        try:
            return action(*args, **kwargs)
        except (_HTTP_ERROR, ConnectionError, RuntimeError) as error:  # the last from uploads, with its cause
            if attempt == attempts or not _may_pass(error):
                raise
            logger.warning("The Hub did not take the request (%s). Trying again.", _one_line(error))
            time.sleep(WAIT * 2 ** (attempt - 1))
    raise AssertionError("the last attempt returns or raises")


def _status(error: Exception) -> int | None:
    """HTTP status of an answer, or None where there was no answer."""
    for cause in (error, error.__cause__):
        if (response := getattr(cause, "response", None)) is not None:
            return response.status_code
    return None


def _may_pass(error: Exception) -> bool:
    """Whether another attempt may succeed: a lost connection, a server in trouble, a commit by someone in between."""
    status = _status(error)
    return status is None or status in (408, 409, 412, 429) or status >= 500


def _first_line(error: BaseException) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _version() -> str:
    return sys.modules[__package__].__version__


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings and bars of loading a model six times, once for each class, and of unchanged files."""
    libraries = (transformers.logging, huggingface_hub.logging)
    verbosities = [library.get_verbosity() for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        for library, verbosity in zip(libraries, verbosities, strict=True):
            library.set_verbosity(verbosity)
        transformers.logging.enable_progress_bar()


@contextmanager
def hub_errors(repo_id: str, revision: str | None, token: str | None) -> Iterator[None]:
    """Whatever the Hub or the way to it refuses, as `UserError`s, in which no token appears."""
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise UserError("HF_HUB_OFFLINE forbids to ask the Hub; unset it.") from error
    except RevisionNotFoundError as error:
        raise UserError(f"{repo_id} has no revision {revision}.") from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"There is no repository {repo_id}, or this login may not see it; check its name, and `hf auth whoami`."
        ) from error
    except (_HTTP_ERROR, ConnectionError, LocalEntryNotFoundError, ValueError, RuntimeError) as error:
        log_in = "set HF_TOKEN to another" if "HF_TOKEN" in os.environ else "log in again with `hf auth login`"
        reasons = {
            None: "was lost on the way; check the connection",
            401: f"was refused: the token is not valid; {log_in}",
            403: "was refused: this login may not write there",
            412: "was refused: someone else keeps changing the repository; try later",
        }
        cause = _one_line(error).replace(token or "\0", "hf_***")
        reason = reasons.get(_status(error), "did not succeed; run the command again")
        if isinstance(error, ValueError):
            reason = "was refused"
        raise UserError(f"The request to the Hub at {constants.ENDPOINT} {reason} ({cause}).") from error


def verify(
    source: str | Path,
    expected: dict[str, torch.Tensor],
    revision: str | None = None,
    endpoint: str | None = None,
    token: str | None = None,
) -> None:
    """Open a folder, or a repository from an empty cache, in a fresh process without the package, and compare.

    Args:
        expected: of `verification.open_all`.

    Raises:
        UserError: it does not open, lacks a class, or a class computes other bits.
    """
    is_folder = isinstance(source, Path)
    where = "The export" if is_folder else f"{source} at {revision}"
    logger.info("%s: opened by a fresh process without modeling_mini ...", where)
    with tempfile.TemporaryDirectory() as scratch:
        result = Path(scratch, "result")
        # Neither caches nor settings of this process: those of a machine that has never seen the model.
        own = ("HF_", "TRANSFORMERS_")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(own)}
        environment |= {"HF_HOME": str(Path(scratch, "cache")), "TRANSFORMERS_VERBOSITY": "error"}
        environment |= {"HF_HUB_OFFLINE": "1"} if is_folder else {"HF_ENDPOINT": endpoint, "HF_TOKEN": token}
        for name in ("HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_PROGRESS_BARS"):
            environment |= {name: os.environ[name]} if name in os.environ else {}
        code = Path(verification.__file__).read_text(encoding="utf-8")
        arguments = [str(source), revision or "", str(torch.get_num_threads()), str(result)]
        subprocess.run(
            [sys.executable, "-c", code, *arguments],  # not as a file: modules beside it would come before all others
            env=environment,
            cwd=scratch,
            stderr=subprocess.DEVNULL if is_folder else None,  # a download shows its progress
            start_new_session=True,  # on Ctrl-C it is ended by this process, without a traceback
            check=False,
        )
        reason = result.with_suffix(".txt")
        if not result.with_suffix(".safetensors").exists():
            text = reason.read_text(encoding="utf-8") if reason.exists() else "its process ended early"
            raise UserError(f"{where} does not open without modeling_mini: {text.splitlines()[0]}")
        found = load_file(result.with_suffix(".safetensors"))
    differing = [name for name in expected if not _same_bits(expected[name], found.get(name))]
    if differing:
        raise UserError(f"{where} opens, but {', '.join(differing)} differ from the checkpoint; do not use it.")
    place = "Before the upload" if is_folder else "Downloaded into an empty cache"
    logger.info("%s, without modeling_mini: %s open, equal bit for bit.", place, ", ".join(found))


def _same_bits(expected: torch.Tensor, found: torch.Tensor | None) -> bool:
    return (
        found is not None
        and (expected.dtype, expected.shape) == (found.dtype, found.shape)
        and torch.equal(expected.view(torch.uint8), found.view(torch.uint8))  # so that NaN equals NaN
    )
