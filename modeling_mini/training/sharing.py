"""Hub access of a run: creates the repository before the first checkpoint, and pushes after the report."""

import logging
import os
import shlex
import subprocess
import sys
from pathlib import Path

from ..checkpoints import FSDP_SHARDED
from ..errors import UserError
from ..hub.push import push
from ..hub.repository import Repository
from .arguments import MiniTrainingArguments
from .distributed import distribution_of


logger = logging.getLogger(__name__)


def prepare_repository(args: MiniTrainingArguments) -> None:
    """Create the repository before the first checkpoint is pushed. Raises `UserError`."""
    repo_id = args.hub_model_id or Path(args.output_dir).absolute().name
    if "/" not in repo_id:
        unnamed = Repository(f"USER/{repo_id}", token=args.hub_token)
        repo_id = f"{unnamed.ask(unnamed.api.whoami)['name']}/{repo_id}" if unnamed.has_token else unnamed.id
    repository = Repository(repo_id, args.hub_revision, token=args.hub_token)
    repository.check_login()
    repository.check_visibility(bool(args.hub_private_repo))
    repository.create(bool(args.hub_private_repo))
    if distribution_of(args) == FSDP_SHARDED:
        logger.warning("Checkpoints are sharded: only the last commit of this run will hold the weights.")


def push_result(args: MiniTrainingArguments, repo_id: str) -> None:
    """Push model and report, and verify both. Raises `UserError`, with the command to repeat the push."""
    command = ["push", args.output_dir, repo_id]
    try:
        if args.deepspeed_plugin is not None:
            push_apart(args, command)
            return
        push(
            args.output_dir,
            repo_id,
            private=bool(args.hub_private_repo),
            revision=args.hub_revision,
            token=args.hub_token,
        )
    except UserError as error:
        command_line = shlex.join(["modeling-mini", *command])
        raise UserError(f"{error} The model is in {args.output_dir}; push it with: {command_line}") from error


def push_apart(args: MiniTrainingArguments, command: list[str]) -> None:
    """Push in a new process, because a push is verified bit for bit, and DeepSpeed changes how this one computes."""
    command = [*command, *(["--private"] if args.hub_private_repo else [])]
    command += ["--revision", args.hub_revision] if args.hub_revision else []
    environment = os.environ | ({"HF_TOKEN": args.hub_token} if args.hub_token else {})
    environment.pop("ACCELERATE_USE_DEEPSPEED", None)
    # The current folder, which `-c` puts first on sys.path, may hold files of others; the package may be elsewhere.
    path = f"import sys; sys.path = [*filter(None, sys.path), {str(Path(__file__).parents[2])!r}]"
    program = f"{path}; from modeling_mini.cli import main; raise SystemExit(main())"
    if subprocess.run([sys.executable, "-c", program, *command], env=environment, check=False).returncode != 0:
        raise UserError("The model could not be pushed; the reason is above.")
