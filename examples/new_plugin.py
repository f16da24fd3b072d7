"""Begin a plugin of your own from this one: a copy in which the package, the classes and the model type are renamed.

    python examples/new_plugin.py --name tiny --output ../modeling_tiny
    cd ../modeling_tiny && python -m pytest tests/model/test_parity.py tests/model/test_loading.py

`--name tiny` gives the package `modeling_tiny`, the files `configuration_tiny.py`, `modeling_tiny.py`, ..., the
classes `TinyConfig`, `TinyForCausalLM`, ..., the model type `modeling_tiny` and the command `modeling-tiny`. Then
change what the model computes: everything around it (Trainer, Hub, export, serving) reads the config and the classes.
The golden checkpoints of the tests stay behind, because they hold weights and code of this model: record your own when
your format is fixed.
"""

import argparse
import keyword
import re
import subprocess
from contextlib import suppress
from pathlib import Path


REPOSITORY = Path(__file__).resolve().parents[1]
LEFT_OUT = (
    *("tests/golden/", "tests/model/test_golden.py"),
    *("examples/new_plugin.py", "tests/project/test_new_plugin.py", "docs/new-plugin.md"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--name", required=True, help="one word in small letters, for example tiny")
    parser.add_argument("--output", required=True, type=Path, help="folder of the copy; it must not exist")
    args = parser.parse_args()
    if not re.fullmatch(r"[a-z][a-z0-9]*", args.name) or keyword.iskeyword(args.name) or args.name in ("auto", "mini"):
        parser.error(
            f"--name is {args.name!r}; give one word in small letters that is not mini or auto, such as tiny."
        )
    if not (REPOSITORY / ".git").exists():
        parser.error(f"{REPOSITORY} is not a clone; clone the repository, and start this script there.")
    if args.output.exists():
        parser.error(f"--output {args.output} exists; choose a new folder.")
    count = copy(args.name, args.output)
    print(f"{count} files are in {args.output}. Next: cd there, git init, and make test.")  # noqa: T201


def copy(name: str, output: Path) -> int:
    """Write every tracked file under its new path, with its new text; returns the number of files."""
    listed = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout
    paths = [path for path in listed.splitlines() if not path.startswith(LEFT_OUT)]
    for path in paths:
        target = output / renamed(path, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        content = (REPOSITORY / path).read_bytes()
        with suppress(UnicodeDecodeError):  # not text
            content = renamed(_without_this_script(content.decode("utf-8")), name).encode("utf-8")
        target.write_bytes(content)
        target.chmod((REPOSITORY / path).stat().st_mode)
    return len(paths)


def _without_this_script(text: str) -> str:
    """A text without its lines on the page of this script, which stays behind."""
    return "".join(line for line in text.splitlines(keepends=True) if "new-plugin.md" not in line)


def renamed(text: str, name: str) -> str:
    """`modeling_mini`, `modeling-mini`, `*_mini` and `Mini*` under the new name; `minimum` and the like stay.

    `"mini"` and `--models mini` name the model in the conformance suite.
    """
    text = re.sub(r"(modeling[-_])mini(?![a-z])", rf"\g<1>{name}", text)
    text = re.sub(r"(?<=[a-z*]_)mini(?=\b|_)", name, text)
    text = re.sub(r'(?<=")mini(?=")|(?<=--models )mini\b', name, text)
    return re.sub(r"(?<![A-Za-z])Mini(?![a-z])", name.capitalize(), text)


if __name__ == "__main__":
    main()
