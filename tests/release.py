"""Installs the wheel in empty environments and uses it there: `make release`, 5 minutes on 2 cores.

The environments hold the core only, the `train` extra, and everything that `all` installs. In each of them, commands
that need more must name the extra that is missing in one sentence. README's Python blocks run as they stand, except
those that need a model of the Hub, or of an extra that is missing.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from pages import ROOT, blocks


QUICK = ("--max_steps", "20")
# Extra: commands that must work in order, and commands that must ask for another extra.
ENVIRONMENTS = {
    "": (
        [("presets",), ("env",)],
        {
            ("train",): "train",
            ("eval", "runs/quickstart"): "train",
            ("generate", "runs/quickstart", "Return the"): "train",
        },
    ),
    "train": (
        [
            ("train", *QUICK),
            ("generate", "runs/quickstart", "Return the"),
            ("eval", "runs/quickstart", "--baselines", "no"),
            ("push", "runs/quickstart", "USER/REPO", "--dry_run"),
        ],
        {
            ("train", "translation"): "tasks",
            ("export", "runs/quickstart", "--to", "onnx"): "onnx",
            ("export", "runs/quickstart", "--to", "gguf"): "gguf",
            ("demo", "runs/quickstart"): "demo",
            ("serve", "runs/quickstart"): "serving",
        },
    ),
    "all": (
        [
            ("train", *QUICK),
            ("train", "text-classification", "--max_train_documents", "100", *QUICK),
            ("classify", "runs/text-classification", "Draw a line."),
            ("export", "runs/quickstart", "--to", "onnx"),
            ("demo", "runs/quickstart", "--space", "space", "--repo_id", "USER/REPO"),
        ],
        {},
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--python", default=sys.executable, help="the interpreter of the environments")
    parser.add_argument("--only", nargs="+", choices=list(ENVIRONMENTS), default=list(ENVIRONMENTS), metavar="EXTRA")
    args = parser.parse_args()
    for extra in args.only:
        with tempfile.TemporaryDirectory() as folder:
            use(args.wheel.resolve(), extra, args.python, Path(folder))


def use(wheel: Path, extra: str, python: str, folder: Path) -> None:
    """Install the wheel with one extra and run its commands in `folder`. Raises `AssertionError` for what fails."""
    print(f"{wheel.name}[{extra}] with {python}", flush=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    bin_folder = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")

    def run(*command: str, exit_code: int = 0) -> str:
        result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == exit_code, f"{command}: {result.returncode}\n{result.stdout}\n{result.stderr}"
        return result.stdout + result.stderr

    run(python, "-m", "venv", "venv")
    requirement = f"{wheel}[{extra}]" if extra else str(wheel)
    run(str(bin_folder / "pip"), "install", "--quiet", "-c", str(ROOT / "constraints.txt"), requirement)
    works, asks = ENVIRONMENTS[extra]
    for command in works:
        run(str(bin_folder / "modeling-mini"), *command)
        print(f"  modeling-mini {' '.join(command)}", flush=True)
    for command, needed in asks.items():
        output = run(str(bin_folder / "modeling-mini"), *command, exit_code=1)
        assert f'pip install "modeling_mini[{needed}]"' in output, output
        assert "Traceback" not in output, output
        print(f"  modeling-mini {' '.join(command)}: asks for {needed}", flush=True)
    is_trained = any(command[0] == "train" for command in works)
    for code in blocks("README.md", "python"):
        if "USER/REPO" not in code and (is_trained or "runs/" not in code):
            run(str(bin_folder / "python"), "-c", code)
            print(f"  {code.strip().splitlines()[-1]}", flush=True)


if __name__ == "__main__":
    main()
