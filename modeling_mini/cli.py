"""The command `modeling-mini`: plan, train, evaluate, use and share models."""

import argparse
import logging
import math
import re
import sys
from collections.abc import Callable
from dataclasses import asdict

from . import decoding
from .commands import exit_on_signals, finish
from .errors import UserError
from .export.run import FORMATS
from .options import (
    EVAL_CLASSES,
    PLAN_CLASSES,
    SuggestingParser,
    check_checkpoint,
    check_choice,
    check_data,
    check_folder,
    check_names,
    did_you_mean,
    names_in_source,
    options,
)
from .presets import preset_path
from .streams import StandardInput, is_utf8
from .tasks import TASKS


def main(argv: list[str] | None = None) -> int:
    """Run a subcommand; returns the exit code. Without `argv`, it is the program, and reads `sys.argv`."""
    if argv is None:
        exit_on_signals()
        argv = sys.argv[1:]
    if argv[:1] == ["train"]:  # takes all arguments of the Trainer, and has its own --help
        return train(argv[1:], command=("modeling-mini", "train"))
    return finish(lambda: _run(argv), argv, _AGAIN.get(argv[0] if argv else "", ""))


def train(argv: list[str], command: tuple[str, ...]) -> int:
    """Train: `command` is how the program was called, for the message that says how to continue a run."""

    def check_and_train() -> int:
        from .training.recipes import check_early

        check_early(argv)
        from .training.run import main as run

        return run(argv, command)

    return finish(check_and_train, argv)


def _run(argv: list[str]) -> None:
    command, rest = (argv or [""])[0], argv[1:]
    if command == "eval":  # takes all arguments of the data, and has its own --help
        _check_eval(rest)
        from .inference.evaluate import evaluate

        evaluate(rest)
    elif command == "plan":
        _check_plan(rest)
        from .planning import plan

        plan(rest)
    else:
        args = _parse(argv)
        _COMMANDS[args.command](args)


def _check_plan(argv: list[str]) -> None:
    """Refuse what needs no imports to be refused. Raises `UserError`."""
    check_names(argv, names_in_source(PLAN_CLASSES))
    if argv and not argv[0].startswith("-"):
        try:
            preset_path(argv[0])
        except ValueError as error:
            raise UserError(str(error)) from error


def _check_eval(argv: list[str]) -> None:
    """Refuse what needs no imports to be refused. Raises `UserError`."""
    check_names(argv, names_in_source(EVAL_CLASSES))
    given = options(argv)
    if "help" in given:
        return
    if argv and not argv[0].startswith("-"):
        check_checkpoint(argv[0])
    if (task := given.get("task")) is not None:
        check_choice("--task", task, sorted(TASKS))
    check_data(given)


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = SuggestingParser(prog="modeling-mini", description="A small Transformer language model.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("train", help="train from a recipe; the same arguments as train.py")
    commands.add_parser("eval", help="score a trained model and baselines on the same examples; has its own --help")
    commands.add_parser("presets", help="list the model shapes and their parameter counts")
    commands.add_parser("plan", help="memory, time and accelerate file of a training run; has its own --help")
    commands.add_parser("env", help="print the versions and the hardware, for a report of a problem")
    _add_generate(commands)
    for name, (_, text) in _PREDICTIONS.items():
        predict = commands.add_parser(name, help=text)
        predict.add_argument("checkpoint", help="folder of a trained model, or its name on the Hub")
        predict.add_argument("texts", nargs="*", metavar="text", help=_INPUTS.get(name, _EACH_LINE))
        predict.add_argument("--jsonl", action="store_true", help="read and write one JSON object per line")
        predict.add_argument("--batch_size", type=_count, default=32, help="number of texts in a batch")
        if name != "classify":
            decoding.add_options(predict)
    _add_export(commands)
    _add_serve_and_chat(commands)
    _add_push_and_upgrade(commands)
    _add_demo(commands)
    args, rest = parser.parse_known_args(_without_truth_values(_with_underscores(argv), commands.choices))
    if rest and not _take_texts(args, rest):
        parser.error(
            f"unrecognized arguments: {' '.join(rest)}{_nearest_option(rest, commands.choices[args.command])}"
        )
    return args


def _add_generate(commands: argparse._SubParsersAction) -> None:
    generate = commands.add_parser("generate", help="continue a text with a trained model")
    generate.add_argument("checkpoint", help="folder of a trained model, or its name on the Hub")
    generate.add_argument("prompt", nargs="?", help="text to continue; standard input by default")
    decoding.add_options(generate)


def _add_export(commands: argparse._SubParsersAction) -> None:
    export = commands.add_parser(
        "export", help="write a trained model for ONNX Runtime, ExecuTorch, OpenVINO, LiteRT or llama.cpp"
    )
    export.add_argument("checkpoint", help="folder of a trained model, or its name on the Hub")
    export.add_argument("--to", required=True, choices=FORMATS, help="the file format")
    export.add_argument("--output", help="folder of the files; by default a folder in CHECKPOINT named as the format")
    export.add_argument("--max_length", type=_count, help="litert: tokens of the fixed input (default: the context)")
    types = ("f32", "f16", "q8_0", "q4_0")
    export.add_argument("--outtype", choices=types, help="gguf: type of the matrices (default: f16)")


def _add_serve_and_chat(commands: argparse._SubParsersAction) -> None:
    serve = commands.add_parser("serve", help="a server with OpenAI's endpoints for a trained model")
    serve.add_argument("checkpoint", help="folder of a trained model, or its name on the Hub")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen at (default: 127.0.0.1, this machine)")
    serve.add_argument("--port", type=_number(int, 1, 65535), default=8000, help="port to listen at (default: 8000)")
    serve.add_argument("--device", default="auto", help="device of the model: auto, cpu, cuda:0 (default: auto)")
    dtypes = ("auto", "float32", "bfloat16", "float16")
    serve.add_argument("--dtype", choices=dtypes, default="auto", help="type of the weights; as saved by default")
    serve.add_argument("--default_seed", type=_number(int, 0, 2**32 - 1), help="seed of sampling, set at the start")
    serve.add_argument("--enable_cors", action="store_true", help="let pages of every web site use the server")
    levels = ("debug", "info", "warning", "error")
    serve.add_argument("--log_level", choices=levels, default="warning", help="of transformers (default: warning)")
    chat = commands.add_parser("chat", help="talk with a trained model in the terminal")
    chat.add_argument("checkpoint", help="folder of a trained model, or its name on the Hub")
    chat.add_argument("--system_prompt", help="first message of the conversation, with the role `system`")
    decoding.add_options(chat)


def _add_push_and_upgrade(commands: argparse._SubParsersAction) -> None:
    push = commands.add_parser(
        "push", help="share a trained model on the Hub, and verify what arrived", allow_abbrev=False
    )
    push.add_argument("checkpoint", help="folder of a trained model, or a checkpoint-N in it")
    push.add_argument("repo_id", metavar="USER/REPO", help="the repository; created if it does not exist")
    push.add_argument("--private", action="store_true", help="create a private repository; public by default")
    licence = _pattern(r"[a-z0-9][a-z0-9.-]*", "apache-2.0, mit, other")
    push.add_argument(
        "--license", type=licence, help="licence of the weights, as the Hub names it: apache-2.0, mit, other, ..."
    )
    language = _pattern(r"[a-z]{2,3}", "en, zh, yue")
    push.add_argument("--language", nargs="+", type=language, help="ISO 639 codes of the training text: en zh")
    size = _pattern(r"[1-9]\d*[KMGT]i?B", "5GB, 500MB")  # as transformers reads it
    push.add_argument("--max_shard_size", default="5GB", type=size, help="largest file of weights (default: 5GB)")
    upgrade = commands.add_parser(
        "upgrade-repo", help="replace the code in a repository with the code of this version", allow_abbrev=False
    )
    upgrade.add_argument("repo_id", metavar="USER/REPO", help="a repository that was pushed with an earlier version")
    for command in (push, upgrade):
        command.add_argument("--revision", help="branch to write to; main by default")
        command.add_argument("--create_pr", action="store_true", help="open a pull request instead")
        command.add_argument("--dry_run", action="store_true", help="show what would be written, and write nothing")


def _add_demo(commands: argparse._SubParsersAction) -> None:
    demo = commands.add_parser(
        "demo", help="open a page in the browser to try a trained model, or write it as a Space", allow_abbrev=False
    )
    demo.add_argument("checkpoint", help="folder of a trained model, or its name on the Hub")
    demo.add_argument("--host", help="address of the page (default: 127.0.0.1, which only this machine can open)")
    demo.add_argument("--port", type=_number(int, 1, 65535), help="port of the page (default: 7860)")
    demo.add_argument("--space", metavar="FOLDER", help="write a Hugging Face Space into a new folder instead")
    name = _pattern(r"(?a)\w[\w.-]*/\w[\w.-]*", "USER/NAME")
    demo.add_argument(
        "--repo_id",
        metavar="USER/NAME",
        type=name,
        help="with --space: the repository on the Hub that the Space loads the model from (default: CHECKPOINT)",
    )


def _with_underscores(argv: list[str]) -> list[str]:
    """The words with options such as `--dry-run` as they are defined; texts, and all after `--`, are unchanged."""
    end = argv.index("--") if "--" in argv else len(argv)
    option = re.compile(r"^--[\w-]+(?==|$)")  # a word with a space is a text, to argparse too
    words = [option.sub(lambda name: "--" + name[0][2:].replace("-", "_"), word) for word in argv[:end]]
    return words + argv[end:]


def _without_truth_values(words: list[str], commands: dict[str, argparse.ArgumentParser]) -> list[str]:
    """The words without true or false after a flag: false gives its `--no_` form, or leaves out a flag without one."""
    options = commands[words[0]]._option_string_actions if words and words[0] in commands else {}
    flags = {name for name, action in options.items() if action.nargs == 0}
    end = words.index("--") if "--" in words else len(words)
    kept, flag = [], None  # the flag before the word
    for word in words[:end]:
        name, _, value = word.partition("=")
        is_value = flag is not None and word.lower() in ("true", "false")
        if name in flags and value.lower() in ("true", "false"):
            flag, is_value, word = name, True, value
            kept.append(name)
        if not is_value:
            kept.append(word)
        elif word.lower() == "false":
            opposite = f"--{flag[5:]}" if flag.startswith("--no_") else f"--no_{flag[2:]}"
            kept[-1:] = [opposite] if opposite in options else []
        flag = word if word in flags else None
    return kept + words[end:]


def _nearest_option(words: list[str], parser: argparse.ArgumentParser) -> str:
    """The end of a sentence about unknown options: the nearest one of the subcommand, if there is one."""
    wrong = next((word.partition("=")[0] for word in words if word.startswith("--")), "")
    question = did_you_mean(wrong, parser._option_string_actions)
    return f"; {question}" if wrong and question else ""


def _number(kind: type, low: float, high: float = math.inf, also: float | None = None) -> Callable[[str], float]:
    """A type for argparse: a finite number from `low` to `high`, or `also`."""

    def convert(text: str) -> float:
        value = kind(text)
        if value != also and not (low <= value <= high and math.isfinite(value)):
            limit = "" if high == math.inf else f" and at most {high}"
            other = "" if also is None else f"{also:g}, or "
            raise argparse.ArgumentTypeError(f"{text} is out of range; give {other}at least {low:g}{limit}")
        return value

    convert.__name__ = kind.__name__  # argparse shows it for what is not a number
    return convert


_count = _number(int, 1, 2**31 - 1)


def _pattern(pattern: str, example: str) -> Callable[[str], str]:
    """A type for argparse: a text of this form."""

    def convert(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise argparse.ArgumentTypeError(f"{text!r} is not of the form {example}")
        return text

    return convert


def _take_texts(args: argparse.Namespace, rest: list[str]) -> bool:
    """Assign the arguments that argparse left over, which are texts after an option; return whether all are texts."""
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
    options = decoding.from_namespace(args)
    options.completed(decoding.CONTINUATION)  # refuses contradictions before the model is loaded
    check_checkpoint(args.checkpoint)

    from transformers import AutoModelForCausalLM

    from .inference.loading import check_head, load_model
    from .modeling_mini import MiniForCausalLM
    from .tasks.generation import continue_text

    prompt = StandardInput().read() if args.prompt is None else args.prompt
    check_head(args.checkpoint, MiniForCausalLM, "generate")
    model, tokenizer = load_model(args.checkpoint, AutoModelForCausalLM)
    text = continue_text(model, tokenizer, prompt, **asdict(options))
    sys.stdout.write(text + "\n")


def _predict(args: argparse.Namespace) -> None:
    tasks = _PREDICTIONS[args.command][0]
    options = None if args.command == "classify" else decoding.from_namespace(args)
    check_checkpoint(args.checkpoint)

    from .inference.predict import predict

    as_ascii = not is_utf8(sys.stdout)
    lines = predict(
        args.checkpoint, tasks, args.texts, StandardInput(), args.jsonl, args.batch_size, options, as_ascii
    )
    for line in lines:
        sys.stdout.write(line + "\n")


def _env(args: argparse.Namespace) -> None:
    from .environment import describe

    sys.stdout.write(describe())


def _export(args: argparse.Namespace) -> None:
    from .export.run import export

    export(args)


def _serve(args: argparse.Namespace) -> None:
    from .serving.serve import serve

    serve(**{name: value for name, value in vars(args).items() if name != "command"})


def _chat(args: argparse.Namespace) -> None:
    options = decoding.from_namespace(args).completed(decoding.CONTINUATION)
    check_checkpoint(args.checkpoint)

    from .serving.chat import chat

    chat(args.checkpoint, options, args.system_prompt)


def _push(args: argparse.Namespace) -> None:
    check_folder(args.checkpoint)

    from .hub.push import push

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
    from .hub.push import upgrade_repo

    _log_to_stdout()
    upgrade_repo(args.repo_id, revision=args.revision, create_pr=args.create_pr, dry_run=args.dry_run)


def _demo(args: argparse.Namespace) -> None:
    from .serving.addresses import check_address
    from .serving.space import check_space, write_space

    check_checkpoint(args.checkpoint)
    if check_space(args):
        sys.stdout.write(write_space(args.checkpoint, args.space, args.repo_id))
        return
    host, port = args.host or "127.0.0.1", args.port or 7860
    check_address(host, port)
    from .serving.demo import serve_page

    serve_page(args.checkpoint, host, port)


class _Lines(logging.StreamHandler):
    """Log lines that are the output of a command: an output that is gone ends it."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802, the name is that of `logging`
        raise


def _log_to_stdout() -> None:
    logging.basicConfig(format="%(message)s", handlers=[_Lines(sys.stdout)])
    logging.getLogger(__package__).setLevel(logging.INFO)


_ONE_COMMIT = "An upload is one commit, which arrives completely or not at all; repeat the command to finish it."
_AGAIN = {"push": _ONE_COMMIT, "upgrade-repo": _ONE_COMMIT}
_PREDICTIONS = {
    "translate": (["translation"], "translate texts into the language that the model was trained on"),
    "summarize": (["summarization"], "summarize a document in one sentence"),
    "classify": (["text-classification"], "label texts"),
    "answer": (["question-answering", "generative-question-answering"], "find the answer to a question in a text"),
}
_EACH_LINE = "one or more; by default the lines of standard input"
_INPUTS = {
    "classify": "one or more; by default the lines of standard input; use --jsonl for pairs of texts",
    "summarize": "one or more documents; by default all of standard input, as one document",
    "answer": "a question, and the text that holds its answer; by default the text is standard input",
}
_COMMANDS = {
    "presets": _presets,
    "env": _env,
    "generate": _generate,
    "serve": _serve,
    "chat": _chat,
    "demo": _demo,
    "export": _export,
    "push": _push,
    "upgrade-repo": _upgrade_repo,
}
_COMMANDS |= dict.fromkeys(_PREDICTIONS, _predict)


if __name__ == "__main__":
    sys.exit(main())
