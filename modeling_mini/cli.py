"""The command `modeling-mini`: train | generate | presets."""

import argparse
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
    args = parser.parse_args(argv)
    if args.command == "presets":
        from .presets import preset_table

        sys.stdout.write(preset_table() + "\n")
        return 0
    return _generate(args)


def _generate(args: argparse.Namespace) -> int:
    from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

    from .errors import UserError
    from .generation import continue_text

    try:
        prompt = sys.stdin.read() if args.prompt is None else args.prompt
        if any(Path(args.checkpoint).glob("checkpoint-*")) and not (Path(args.checkpoint) / "config.json").exists():
            raise UserError(
                f"{args.checkpoint} is a run that did not end; continue it with --resume, or generate from one of the "
                "checkpoint folders in it."
            )
        try:
            tokenizer = AutoTokenizer.from_pretrained(args.checkpoint)
            model = AutoModelForCausalLM.from_pretrained(args.checkpoint)
        except (OSError, ValueError) as error:
            found = "" if Path(args.checkpoint).exists() else " there is no such folder, and on the Hub:"
            raise UserError(f"{args.checkpoint}:{found} {str(error).splitlines()[0]}") from error
        if args.seed is not None:
            set_seed(args.seed)
        text = continue_text(model, tokenizer, prompt, args.max_new_tokens, args.temperature, args.top_k)
    except UserError as error:
        sys.stderr.write(f"Error: {error}\n")
        return 1
    sys.stdout.write(text + "\n")
    return 0
