"""The command `modeling-mini`: train | generate | push | upgrade-repo | presets."""

import argparse
import logging
import signal
import sys
from pathlib import Path


def main(argv: list[str] | None = None) -> int:
    """Run a subcommand; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["train"]:  # takes all arguments of the Trainer, and its own --help
        from .training import main as train

        return train(argv[1:], command=("modeling-mini", "train"))
    parser = argparse.ArgumentParser(prog="modeling-mini", description="A small Transformer language model.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("train", help="train from a recipe; the same arguments as train.py")
    commands.add_parser("presets", help="list the model shapes and their parameter counts")
    generate = commands.add_parser("generate", help="continue a text with a trained model")
    generate.add_argument("checkpoint", help="folder of a trained model, or its name on the Hub")
    generate.add_argument("prompt", nargs="?", help="text to continue; standard input if left out")
    generate.add_argument("--max_new_tokens", type=int, default=100, help="longest continuation, in tokens")
    generate.add_argument("--temperature", type=float, default=0.8, help="0 takes the likeliest token each time")
    generate.add_argument("--top_k", type=int, default=50, help="draw from so many of the likeliest tokens")
    generate.add_argument("--seed", type=int, default=None, help="the same seed draws the same text")
    push = commands.add_parser(
        "push", help="share a trained model on the Hub, and verify what arrived", allow_abbrev=False
    )
    push.add_argument("checkpoint", help="folder of a trained model, or a checkpoint-N in it")
    push.add_argument("repo_id", metavar="USER/REPO", help="where to; created if it does not exist")
    push.add_argument("--private", action="store_true", help="create it as a private repository; public if left out")
    push.add_argument("--license", help="of the weights, as the Hub names it: apache-2.0, mit, cc-by-4.0, other, ...")
    push.add_argument("--language", nargs="+", help="ISO 639 codes of the text that the model learnt from: en zh")
    push.add_argument("--max-shard-size", default="5GB", help="largest file of weights (default: 5GB)")
    upgrade = commands.add_parser(
        "upgrade-repo", help="replace the code in a repository by that of this version", allow_abbrev=False
    )
    upgrade.add_argument("repo_id", metavar="USER/REPO", help="a repository that was pushed with an earlier version")
    for command in (push, upgrade):
        command.add_argument("--revision", help="branch to write to; main if left out")
        command.add_argument("--create-pr", action="store_true", help="open a pull request instead")
        command.add_argument("--dry-run", action="store_true", help="show what would be written, and write nothing")
    args = parser.parse_args(argv)
    from .errors import UserError

    try:
        _COMMANDS[args.command](args)
    except UserError as error:
        sys.stderr.write(f"Error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write(f"Stopped.{_STOPPED.get(args.command, '')}\n")
        return 128 + signal.SIGINT
    return 0


def _presets(args: argparse.Namespace) -> None:
    from .presets import preset_table

    sys.stdout.write(preset_table() + "\n")


def _generate(args: argparse.Namespace) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

    from .errors import UserError
    from .generation import continue_text

    prompt = sys.stdin.read() if args.prompt is None else args.prompt
    if any(Path(args.checkpoint).glob("checkpoint-*")) and not (Path(args.checkpoint) / "config.json").exists():
        raise UserError(
            f"{args.checkpoint} is a run that did not end; continue it with --resume, or generate from one of the "
            "checkpoint folders in it."
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(args.checkpoint, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(args.checkpoint, trust_remote_code=False)
    except (OSError, ValueError) as error:
        found = "" if Path(args.checkpoint).exists() else " there is no such folder, and on the Hub:"
        raise UserError(f"{args.checkpoint}:{found} {str(error).splitlines()[0]}") from error
    if args.seed is not None:
        set_seed(args.seed)
    text = continue_text(model, tokenizer, prompt, args.max_new_tokens, args.temperature, args.top_k)
    sys.stdout.write(text + "\n")


def _push(args: argparse.Namespace) -> None:
    from .hub import push

    _log_to_stdout()
    push(
        args.checkpoint,
        args.repo_id,
        private=args.private,
        revision=args.revision,
        create_pr=args.create_pr,
        max_shard_size=args.max_shard_size,
        license=args.license,
        language=args.language,
        dry_run=args.dry_run,
    )


def _upgrade_repo(args: argparse.Namespace) -> None:
    from .hub import upgrade_repo

    _log_to_stdout()
    upgrade_repo(args.repo_id, revision=args.revision, create_pr=args.create_pr, dry_run=args.dry_run)


def _log_to_stdout() -> None:
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    logging.getLogger(__package__).setLevel(logging.INFO)


_ONE_COMMIT = " An upload is one commit, which has arrived whole or not at all; the same command ends what is left."
_STOPPED = {"push": _ONE_COMMIT, "upgrade-repo": _ONE_COMMIT}
_COMMANDS = {"presets": _presets, "generate": _generate, "push": _push, "upgrade-repo": _upgrade_repo}
