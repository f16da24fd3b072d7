"""Run the benchmarks that need a GPU, one after the other; without a GPU, print which were not run.

    python benchmarks/gpu.py                                # GPT-2's shape in bf16
    python benchmarks/gpu.py --text TEXT --nanogpt CHECKOUT # and nanoGPT, and the time to its 1.4697

Each is one of the other benchmarks with other arguments, and can be run alone.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import torch
from peers import checkout, text_file

from modeling_mini.tables import markdown_table


BASE = ["--layers", "12", "--width", "768", "--heads", "12"]
TRAINING = ["training.py", *BASE, "--vocabularies", "50257", "--lengths", "1024", "--precisions", "bf16"]
TRAINING += ["--tokens", "16384", "--updates", "10"]
COMMANDS = {
    "training in bf16, eager": TRAINING,
    "training in bf16, compiled": [*TRAINING, "--compiled"],
    "generation in bf16": ["generation.py", *BASE, "--vocabulary", "50257", "--precision", "bfloat16"],
    "time to 1.4697": ["shakespeare.py", "--recipe", "characters-long"],
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--text", type=text_file, help="tinyshakespeare.txt")
    parser.add_argument("--nanogpt", type=checkout, metavar="CHECKOUT")
    parser.add_argument("--output", type=Path, default=Path("runs/bench/gpu"))
    args = parser.parse_args()
    not_run, failed = [["not run on a GPU", "missing", "command"]], []
    for name, script in COMMANDS.items():
        missing = find_missing(script, args)
        if missing is not None:
            not_run.append([name, missing, f"python benchmarks/{' '.join(script)}"])
            continue
        sys.stdout.write(f"{name}\n\n")
        sys.stdout.flush()
        if subprocess.run(command(script, args)).returncode:
            failed.append(name)
    if len(not_run) > 1:
        sys.stdout.write(markdown_table(not_run) + "\n")
    if failed:
        sys.stderr.write(f"Error: failed, for the reasons above: {'; '.join(failed)}.\n")
    return len(failed)


def find_missing(script: list[str], args: argparse.Namespace) -> str | None:
    """What a benchmark needs and does not have, or None."""
    if not torch.cuda.is_available():
        return "a GPU"
    if script[0] == "shakespeare.py" and args.text is None:
        return "--text"
    return None


def command(script: list[str], args: argparse.Namespace) -> list[str]:
    file, *arguments = script
    parts = [sys.executable, str(Path(__file__).with_name(file)), *arguments, "--output", str(args.output)]
    if file != "generation.py" and args.nanogpt is not None:
        parts += ["--nanogpt", str(args.nanogpt)]
    if file == "shakespeare.py":
        parts.append(str(args.text))
    return parts


if __name__ == "__main__":
    sys.exit(main())
