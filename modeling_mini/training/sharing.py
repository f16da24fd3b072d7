"""The Hub during a run: the repository before the first checkpoint, and the push after the report."""

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
        user = Repository(f"USER/{repo_id}", token=args.hub_token)
        repo_id = f"{user.ask(user.api.whoami)['name']}/{repo_id}" if user.has_token else user.id
    repository = Repository(repo_id, args.hub_revision, token=args.hub_token)
    repository.check_login()
    repository.check_visibility(bool(args.hub_private_repo))
    repository.create(bool(args.hub_private_repo))
    if distribution_of(args) == FSDP_SHARDED:
        logger.warning("Checkpoints are sharded: only the last commit of this run will hold the weights.")


def push_result(args: MiniTrainingArguments, repo_id: str) -> None:
    """Push model and report, and verify both. Raises `UserError`, with the command to repeat the push."""
    words = ["push", args.output_dir, repo_id]
    try:
        if args.deepspeed_plugin is not None:
            push_apart(args, words)
            return
        push(
            args.output_dir,
            repo_id,
            private=bool(args.hub_private_repo),
            revision=args.hub_revision,
            token=args.hub_token,
        )
    except UserError as error:
        again = shlex.join(["modeling-mini", *words])
        raise UserError(f"{error} The model is in {args.output_dir}; share it with: {again}") from error


def push_apart(args: MiniTrainingArguments, words: list[str]) -> None:
    """Push in a new process: DeepSpeed changes how this one computes, and a push is verified bit for bit."""
    words = [*words, *(["--private"] if args.hub_private_repo else [])]
    words += ["--revision", args.hub_revision] if args.hub_revision else []
    environment = os.environ | ({"HF_TOKEN": args.hub_token} if args.hub_token else {})
    environment.pop("ACCELERATE_USE_DEEPSPEED", None)
    program = "from modeling_mini.cli import main; raise SystemExit(main())"
    if subprocess.run([sys.executable, "-c", program, *words], env=environment, check=False).returncode != 0:
        raise UserError("The model could not be pushed, for the reason above.")
