"""The command `modeling-mini`: plan, train, evaluate, use and share models."""

import argparse
import logging
import signal
import sys


def main(argv: list[str] | None = None) -> int:
    """Run a subcommand; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["train"]:  # takes all arguments of the Trainer, and its own --help
        from .training import main as train

        return train(argv[1:], command=("modeling-mini", "train"))
    parser = argparse.ArgumentParser(prog="modeling-mini", description="A small Transformer language model.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("train", help="train from a recipe; the same arguments as train.py")
    commands.add_parser("eval", help="score a trained model and simple systems on the same examples; its own --help")
    commands.add_parser("presets", help="list the model shapes and their parameter counts")
    commands.add_parser("plan", help="memory, time and the accelerate file of a training run; its own --help")
    generate = commands.add_parser("generate", help="continue a text with a trained model")
    generate.add_argument("checkpoint", help="folder of a trained model, or its name on the Hub")
    generate.add_argument("prompt", nargs="?", help="text to continue; standard input if left out")
    generate.add_argument("--max_new_tokens", type=int, default=100, help="longest continuation, in tokens")
    generate.add_argument("--temperature", type=float, default=0.8, help="0 takes the likeliest token each time")
    generate.add_argument("--top_k", type=int, default=50, help="draw from so many of the likeliest tokens")
    generate.add_argument("--seed", type=int, default=None, help="the same seed draws the same text")
    for name, (_, text) in _PREDICTIONS.items():
        predict = commands.add_parser(name, help=text)
        predict.add_argument("checkpoint", help="folder of a trained model, or its name on the Hub")
        predict.add_argument("texts", nargs="*", metavar="text", help=_INPUTS.get(name, _EACH_LINE))
        predict.add_argument("--jsonl", action="store_true", help="standard input and output are JSON, one a line")
        predict.add_argument("--batch_size", type=int, default=32, help="texts that the model sees at a time")
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
    from .errors import UserError

    try:
        if argv[:1] == ["eval"]:  # takes all arguments of the data, and its own --help
            from .evaluation import evaluate

            evaluate(argv[1:])
            return 0
        if argv[:1] == ["plan"]:
            from .planning import plan

            plan(argv[1:])
            return 0
        args, rest = parser.parse_known_args(argv)
        if rest and not _take_texts(args, rest):
            parser.error(f"unrecognized arguments: {' '.join(rest)}")
        _COMMANDS[args.command](args)
    except UserError as error:
        sys.stderr.write(f"Error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write(f"Stopped.{_STOPPED.get(argv[0], '')}\n")
        return 128 + signal.SIGINT
    return 0


def _take_texts(args: argparse.Namespace, rest: list[str]) -> bool:
    """Whether what argparse left over are texts that come after an option; then they are where they belong."""
    if any(word.startswith("-") for word in rest):
        return False
    if args.command in _PREDICTIONS:
        args.texts += rest
    elif args.command == "generate" and args.prompt is None and len(rest) == 1:
        args.prompt = rest[0]
    else:
        return False
    return True


def _presets(args: argparse.Namespace) -> None:
    from .presets import preset_table

    sys.stdout.write(preset_table() + "\n")


def _generate(args: argparse.Namespace) -> None:
    from transformers import AutoModelForCausalLM, set_seed

    from .generation import continue_text
    from .modeling_mini import MiniForCausalLM
    from .prediction import check_head, load_model

    prompt = sys.stdin.read() if args.prompt is None else args.prompt
    check_head(args.checkpoint, MiniForCausalLM, "generate")
    model, tokenizer = load_model(args.checkpoint, AutoModelForCausalLM)
    if args.seed is not None:
        set_seed(args.seed)
    text = continue_text(model, tokenizer, prompt, args.max_new_tokens, args.temperature, args.top_k)
    sys.stdout.write(text + "\n")


def _predict(args: argparse.Namespace) -> None:
    from .prediction import predict

    tasks = _PREDICTIONS[args.command][0]
    for line in predict(args.checkpoint, tasks, args.texts, sys.stdin, args.jsonl, args.batch_size):
        sys.stdout.write(line + "\n")


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
_PREDICTIONS = {
    "translate": (["translation"], "write texts in the language that a model was trained to write"),
    "summarize": (["summarization"], "say in a sentence what a document says"),
    "classify": (["text-classification"], "label texts"),
    "answer": (["question-answering", "generative-question-answering"], "find the answer to a question in a text"),
}
_EACH_LINE = "one or more; the lines of standard input if left out"
_INPUTS = {
    "classify": "one or more; the lines of standard input if left out; pairs of texts come with --jsonl",
    "summarize": "one or more documents; all of standard input, as one document, if left out",
    "answer": "a question, and the text that holds its answer; standard input for the text if left out",
}
_COMMANDS = {"presets": _presets, "generate": _generate, "push": _push, "upgrade-repo": _upgrade_repo}
_COMMANDS |= dict.fromkeys(_PREDICTIONS, _predict)
