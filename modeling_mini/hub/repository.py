"""A repository on the Hub, as a command writes to it: every request retried or ended with a sentence."""

import logging
import os
import re
import time
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from huggingface_hub import (
    CommitInfo,
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    ModelInfo,
    get_token,
    snapshot_download,
)
from huggingface_hub.errors import (
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import get_session, hf_raise_for_status, validate_repo_id

from ..errors import UserError, one_line


logger = logging.getLogger(__name__)

ATTEMPTS = 4
WAIT = 1.0  # seconds before the second attempt; twice as many before each later one

PICKLES = [
    "pytorch_model*.bin",
    "*model.bin",
    "model.pt",
    "model.pth",
    "*.ckpt",
    "*.pkl",
    "*.pickle",
    "*.joblib",
]


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a file at the top of a repository fits one of the patterns, in whatever case it is written."""
    return "/" not in name and any(fnmatchcase(name.lower(), pattern) for pattern in patterns)


def refuse_files(files: Iterable[str], place: str) -> None:
    """Refuse what transformers would open instead of our weights, or with them. Raises `UserError`."""
    for file in files:
        if matches(file, PICKLES):
            raise UserError(
                f"{place} holds {file!r}, a pickle, which can run code when it is opened; keep the weights in "
                "safetensors files only (save_pretrained writes them), and delete it."
            )
        if file in ("adapter_config.json", "adapter_model.safetensors"):
            raise UserError(
                f"{place} holds an adapter ({file}), which transformers would apply to the model beside it; merge it "
                "(PEFT's merge_and_unload, then save_pretrained), or push it by itself (PeftModel.push_to_hub)."
            )


class Repository:
    """A branch of a repository, or a pull request against it.

    Args:
        repo_id: `"USER/REPO"`.
        revision: a branch; the main one if it is None.
        create_pr: propose commits instead of making them.
        token: of the Hub; by default that of `hf auth login` or HF_TOKEN.

    Raises:
        UserError: names that are no repository or no branch, before they become part of a path.
    """

    def __init__(self, repo_id: str, revision: str | None = None, create_pr: bool = False, token: str | None = None):
        _check_names(repo_id, revision)
        self.id, self.revision, self.create_pr = repo_id, revision, create_pr
        token = (token or get_token() or "").strip() or None
        self.api = HfApi(token=token if token else False)  # False: no other token instead
        self.has_token = token is not None

    def ask(self, request: Callable, *args, attempts: int = ATTEMPTS, **kwargs):
        """Make a request, and again after a failure that may pass. Raises `UserError`, in which no token appears."""
        for attempt in range(1, attempts + 1):
            try:
                return request(*args, **kwargs)
            except OfflineModeIsEnabled as error:
                raise UserError("HF_HUB_OFFLINE forbids to ask the Hub; unset it.") from error
            except RevisionNotFoundError as error:
                raise UserError(f"{self.id} has no revision {self.revision}.") from error
            except RepositoryNotFoundError as error:
                raise UserError(
                    f"There is no repository {self.id}, or this login may not see it; check its name, and "
                    "`hf auth whoami`."
                ) from error
            # What the client makes of lost connections; RuntimeError for uploads; ValueError for bad metadata.
            except (HTTPError, ConnectionError, LocalEntryNotFoundError, RuntimeError, ValueError) as error:
                if attempt == attempts or not _may_pass(error):
                    reason = _reason(_status(error))
                    raise UserError(f"The request to {self.api.endpoint} {reason} ({one_line(error)}).") from error
                logger.warning("The Hub did not take the request (%s). Trying again.", one_line(error))
                time.sleep(WAIT * 2 ** (attempt - 1))
        raise AssertionError("the last attempt returns or raises")

    def check_login(self) -> None:
        """Refuse to start what the Hub would refuse at the end. Raises `UserError`."""
        if not self.has_token:
            raise UserError(
                "You are not logged in to the Hub; run `hf auth login`, or set HF_TOKEN to a token with write access "
                "(https://huggingface.co/settings/tokens)."
            )
        user = self.ask(self.api.whoami)
        namespaces = [user["name"], *(organization["name"] for organization in user.get("orgs") or [])]
        owner, name = self.id.split("/")
        if owner not in namespaces and not self.create_pr:  # anyone may propose
            raise UserError(
                f"The token belongs to {user['name']}, who cannot write to {self.id}; push to {user['name']}/{name}, "
                "or log in as someone else."
            )
        role = ((user.get("auth") or {}).get("accessToken") or {}).get("role")
        if role == "read":
            raise UserError("The token may only read; log in with one that has write access.")

    def check_visibility(self, private: bool) -> None:
        """Refuse to put into a public repository what was meant to be private. Raises `UserError`."""
        if self.ask(self.api.repo_exists, self.id):
            is_private = self.ask(self.api.repo_info, self.id).private
            logger.info("%s exists and is %s.", self.id, "private" if is_private else "public")
            _require_private(self.id, private, is_private)

    def check_card(self, content: str) -> None:
        """Ask the Hub whether it takes the metadata of a model card. Raises `UserError`."""

        def validate():
            body = {"repoType": "model", "content": content}
            response = get_session().post(f"{self.api.endpoint}/api/validate-yaml", json=body)
            if response.status_code != 400:
                hf_raise_for_status(response)
            return response.json()["errors"]

        if errors := self.ask(validate):
            reasons = "; ".join(error["message"] for error in errors)
            raise UserError(f"The Hub refuses the metadata of the card ({reasons}); mend README.md or the options.")

    def create(self, private: bool) -> None:
        """Create what is missing: the repository, the branch."""
        if not self.ask(self.api.repo_exists, self.id):
            self.ask(self.api.create_repo, self.id, private=private or None, exist_ok=True)
            is_private = self.ask(self.api.repo_info, self.id).private
            logger.info("Created %s, which is %s.", self.id, "private" if is_private else "public")
        if self.revision is not None:
            self.ask(self.api.create_branch, self.id, branch=self.revision, exist_ok=True)

    def head(self) -> ModelInfo:
        return self.ask(self.api.repo_info, self.id, revision=self.revision)

    def fetch_card(self, folder: str) -> bool:
        """Download README.md of the branch, or of main where the branch has none; whether there is one."""
        for revision in dict.fromkeys([self.revision, None]):
            if self.ask(self.api.file_exists, self.id, "README.md", revision=revision):
                self.ask(self.api.hf_hub_download, self.id, "README.md", revision=revision, local_dir=folder)
                return True
        return False

    def fetch(self, names: list[str], revision: str, **where) -> str:
        """Download files of a commit, all or none; `where` is `local_dir` or `cache_dir`."""
        token = self.api.token
        return self.ask(snapshot_download, self.id, revision=revision, allow_patterns=names, token=token, **where)

    def commit(
        self,
        folder: Path,
        names: list[str],
        message: str,
        replaced: Iterable[str] = (),
        parent: str | None = None,
        private: bool = False,
    ) -> CommitInfo:
        """Upload files in one commit, and delete in it the files at the top that match `replaced`.

        `upload_folder` would make several commits of a large model, and the repository would not open in between.

        Args:
            parent: the commit that must still be the last; by default the last one, and again after a commit of
                someone else.
            private: refuse a repository that is public by now.
        """

        def commit() -> CommitInfo:
            info = self.api.repo_info(self.id, revision=self.revision)
            _require_private(self.id, private, info.private)
            present = [file.rfilename for file in info.siblings]
            refuse_files(present, self.id)
            if others := [n for n in present if n.endswith(".py") and n not in names]:
                logger.warning("%s holds other code too, which was not looked at: %r.", self.id, others)
            stale = [name for name in present if name not in names and matches(name, replaced)]
            return self.api.create_commit(
                self.id,
                [
                    *(CommitOperationAdd(name, folder / name) for name in names),
                    *(CommitOperationDelete(name) for name in stale),
                ],
                commit_message=message,
                revision=self.revision,
                create_pr=self.create_pr,
                parent_commit=parent or info.sha,
            )

        # If a commit arrived and only the answer was lost, the next attempt finds nothing to change and gives that
        # commit; but not on a fixed parent. A second attempt at a pull request might open a second one.
        result = self.ask(commit, attempts=1 if self.create_pr or parent else ATTEMPTS)
        logger.info("%s: commit %s", result.pr_url or f"{self.api.endpoint}/{self.id}", result.oid)
        return result


def _require_private(repo_id: str, wanted: bool, is_private: bool) -> None:
    if wanted and not is_private:
        raise UserError(
            f"{repo_id} exists and is public, and it was asked to be private; make it private in its settings, or "
            "choose another name."
        )


def _check_names(repo_id: str, revision: str | None) -> None:
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


def _status(error: Exception) -> int | None:
    """HTTP status of an answer, or None where there was no answer."""
    for cause in (error, error.__cause__):
        if (response := getattr(cause, "response", None)) is not None:
            return response.status_code
    return None


def _may_pass(error: Exception) -> bool:
    """Whether another attempt may succeed: a lost connection, a server in trouble, a commit by someone in between."""
    status = _status(error)
    if status is None:
        return not isinstance(error, ValueError)
    return status in (408, 409, 412, 429) or status >= 500


def _reason(status: int | None) -> str:
    log_in = "set HF_TOKEN to another" if "HF_TOKEN" in os.environ else "log in again with `hf auth login`"
    return {
        None: "did not succeed; check the connection and the message",
        401: f"was refused: the token is not valid; {log_in}",
        403: "was refused: this login may not write there",
        412: "was refused: someone else has changed the repository meanwhile; run the command again",
    }.get(status, "did not succeed; run the command again")
