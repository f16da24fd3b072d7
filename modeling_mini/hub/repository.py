"""A repository on the Hub that a command writes to. Each request is retried, or ends with an error sentence."""

import logging
import os
import re
import time
from collections.abc import Callable, Iterable
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
from ..model_folders import matches, refuse_files


logger = logging.getLogger(__name__)

ATTEMPTS = 4
WAIT = 1.0  # seconds before the second attempt; doubled before each later one


class Repository:
    """A branch of a repository, or a pull request against it.

    Args:
        repo_id: `"USER/REPO"`.
        revision: a branch; the main branch if None.
        create_pr: open a pull request instead of committing to the branch.
        token: Hub token; by default the token from `hf auth login` or HF_TOKEN.

    Raises:
        UserError: an invalid repository or branch name, before it becomes part of a path.
    """

    def __init__(self, repo_id: str, revision: str | None = None, create_pr: bool = False, token: str | None = None):
        _check_names(repo_id, revision)
        self.id, self.revision, self.create_pr = repo_id, revision, create_pr
        token = (token or get_token() or "").strip() or None
        self.api = HfApi(token=token if token else False)  # False: do not fall back to another token
        self.has_token = token is not None

    def ask(self, request: Callable, *args, attempts: int = ATTEMPTS, **kwargs):
        """Make a request, and retry it if a failure may be temporary. Raises `UserError`, without any token."""
        for attempt in range(1, attempts + 1):
            try:
                return request(*args, **kwargs)
            except OfflineModeIsEnabled as error:
                raise UserError("HF_HUB_OFFLINE is set, so the Hub cannot be contacted; unset it.") from error
            except RevisionNotFoundError as error:
                raise UserError(f"{self.id} has no revision {self.revision}.") from error
            except RepositoryNotFoundError as error:
                raise UserError(
                    f"There is no repository {self.id}, or this login cannot see it; check the name, and the login "
                    "with `hf auth whoami`."
                ) from error
            # The client raises RuntimeError for uploads, ValueError for bad metadata, the others for connections.
            except (HTTPError, ConnectionError, LocalEntryNotFoundError, RuntimeError, ValueError) as error:
                if attempt == attempts or not _may_pass(error):
                    reason = _reason(_status(error))
                    raise UserError(f"The request to {self.api.endpoint} {reason} ({one_line(error)}).") from error
                logger.warning("The request to the Hub failed (%s). Trying again.", one_line(error))
                time.sleep(WAIT * 2 ** (attempt - 1))
        raise AssertionError("the last attempt returns or raises")

    def check_login(self) -> None:
        """Check that this login can write to the repository, before any long work. Raises `UserError`."""
        if not self.has_token:
            raise UserError(
                "You are not logged in to the Hub; run `hf auth login`, or set HF_TOKEN to a token with write access "
                "(https://huggingface.co/settings/tokens)."
            )
        user = self.ask(self.api.whoami)
        namespaces = [user["name"], *(organization["name"] for organization in user.get("orgs") or [])]
        owner, name = self.id.split("/")
        if owner not in namespaces and not self.create_pr:  # anyone may open a pull request
            raise UserError(
                f"The token belongs to {user['name']}, who cannot write to {self.id}; push to {user['name']}/{name}, "
                "or log in as someone else."
            )
        role = ((user.get("auth") or {}).get("accessToken") or {}).get("role")
        if role == "read":
            raise UserError("The token is read-only; log in with a token that has write access.")

    def check_visibility(self, private: bool) -> None:
        """Refuse to push to a public repository if `private` is set. Raises `UserError`."""
        if self.ask(self.api.repo_exists, self.id):
            is_private = self.ask(self.api.repo_info, self.id).private
            logger.info("%s exists and is %s.", self.id, "private" if is_private else "public")
            _require_private(self.id, private, is_private)

    def check_card(self, content: str) -> None:
        """Let the Hub validate the metadata of a model card. Raises `UserError`."""

        def validate():
            body = {"repoType": "model", "content": content}
            response = get_session().post(f"{self.api.endpoint}/api/validate-yaml", json=body)
            if response.status_code != 400:
                hf_raise_for_status(response)
            return response.json()["errors"]

        if errors := self.ask(validate):
            reasons = "; ".join(error["message"] for error in errors)
            raise UserError(f"The Hub rejects the metadata of the card ({reasons}); fix README.md or the options.")

    def create(self, private: bool) -> None:
        """Create the repository and the branch, if they do not exist."""
        if not self.ask(self.api.repo_exists, self.id):
            self.ask(self.api.create_repo, self.id, private=private or None, exist_ok=True)
            is_private = self.ask(self.api.repo_info, self.id).private
            logger.info("Created %s, which is %s.", self.id, "private" if is_private else "public")
        if self.revision is not None:
            self.ask(self.api.create_branch, self.id, branch=self.revision, exist_ok=True)

    def head(self) -> ModelInfo:
        return self.ask(self.api.repo_info, self.id, revision=self.revision)

    def fetch_card(self, folder: str) -> bool:
        """Download README.md from the branch, or from main if the branch has none. Returns whether one exists."""
        for revision in dict.fromkeys([self.revision, None]):
            if self.ask(self.api.file_exists, self.id, "README.md", revision=revision):
                self.ask(self.api.hf_hub_download, self.id, "README.md", revision=revision, local_dir=folder)
                return True
        return False

    def fetch(self, names: list[str], revision: str, **where) -> str:
        """Download all named files of a commit or fail. `where` is `local_dir` or `cache_dir`. Returns the folder."""
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
        """Upload files in one commit, which also deletes the top-level files that match `replaced`.

        `upload_folder` would split a large model into several commits, and the repository would not open in between.

        Args:
            names: the files of `folder` to upload.
            parent: the commit that must still be the latest one. By default the latest commit; if someone else commits
                in between, their commit becomes the parent.
            private: refuse a repository that is public at the time of the commit.
        """

        def commit() -> CommitInfo:
            info = self.api.repo_info(self.id, revision=self.revision)
            _require_private(self.id, private, info.private)
            present = [file.rfilename for file in info.siblings]
            refuse_files(present, self.id)
            if others := [n for n in present if n.endswith(".py") and n not in names]:
                logger.warning("%s also contains code that was not checked: %r.", self.id, others)
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

        # If a commit succeeded and only the answer was lost, the next attempt finds nothing to change and returns that
        # commit. With a fixed parent it cannot. A second attempt at a pull request might open a second one.
        result = self.ask(commit, attempts=1 if self.create_pr or parent else ATTEMPTS)
        logger.info("%s: commit %s", result.pr_url or f"{self.api.endpoint}/{self.id}", result.oid)
        return result


def _require_private(repo_id: str, private: bool, is_private: bool) -> None:
    if private and not is_private:
        raise UserError(
            f"{repo_id} exists and is public, but a private repository was requested; make it private in its "
            "settings, or choose another name."
        )


def _check_names(repo_id: str, revision: str | None) -> None:
    try:
        validate_repo_id(repo_id)
        is_valid = repo_id.count("/") == 1 and repo_id.isascii() and repo_id.isprintable()
    except HFValidationError:
        is_valid = False
    if not is_valid:
        raise UserError(
            f"{repo_id!r} is not a valid repository name; give USER/REPO, each of letters and digits, with single "
            "- _ . between them."
        )
    if revision is not None and not (
        re.fullmatch(r"\w[\w./-]*", revision, re.ASCII) and ".." not in revision and "//" not in revision
    ):
        raise UserError(
            f"--revision {revision!r} is not a valid branch name; give letters, digits and _, and after the first "
            "character also - . /, such as dev."
        )


def _status(error: Exception) -> int | None:
    """HTTP status of the response, or None if there was no response."""
    for cause in (error, error.__cause__):
        if (response := getattr(cause, "response", None)) is not None:
            return response.status_code
    return None


def _may_pass(error: Exception) -> bool:
    """Whether a retry may succeed: after a lost connection, a server error, or a commit by someone else in between."""
    status = _status(error)
    if status is None:
        return not isinstance(error, ValueError)
    return status in (408, 409, 412, 429) or status >= 500


def _reason(status: int | None) -> str:
    log_in = "set HF_TOKEN to another" if "HF_TOKEN" in os.environ else "log in again with `hf auth login`"
    return {
        None: "did not succeed; check the connection and the message",
        401: f"was refused: the token is not valid; {log_in}",
        403: "was refused: this login has no write access there",
        412: "was refused: someone else has changed the repository in the meantime; run the command again",
    }.get(status, "did not succeed; run the command again")
