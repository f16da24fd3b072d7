"""Write a Hugging Face Space: the files of a repository that shows the demo page of a model on the Hub.

The Space holds this package's code but no weights: it loads the model from its own repository when it starts.
"""

import argparse
import json
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ..errors import UserError
from ..writing import complete_files


_PACKAGE = Path(__file__).parents[1]
_SUFFIXES = (".py", ".md")  # of the files of the package
_PACKAGES = ("torch", "transformers", "huggingface_hub", "datasets", "evaluate", "plotly")  # what the page imports
_GRADIO = "6.31.0"  # if none is installed: the version that was tested

_README = """\
---
title: {title}
emoji: ✍️
colorFrom: blue
colorTo: gray
sdk: gradio
sdk_version: {gradio}
app_file: app.py
pinned: false
license: apache-2.0
short_description: {description}
models:
- {repo_id}
---

# {name}

The page of the model [{repo_id}](https://huggingface.co/{repo_id}): {task}. `app.py` loads the model from its
repository; `modeling_mini/` is the code of modeling_mini {version}, which built this Space with
`modeling-mini demo CHECKPOINT --space FOLDER --repo_id {repo_id}`.

Try it on your machine: `pip install -r requirements.txt gradio=={gradio}`, then `python app.py`.
"""

_APP = '''\
"""The demo page of a model on the Hub."""

from modeling_mini.serving.demo import build, look


page = build({repo_id})

if __name__ == "__main__":
    page.launch(**look())
'''


def check_space(args: argparse.Namespace) -> bool:
    """Whether a Space is wanted.

    Raises:
        UserError: options contradict each other, the repository is not named, or the folder has files.
    """
    if args.space is None:
        if args.repo_id is not None:
            raise UserError(f"--repo_id {args.repo_id} is the model of a Space; add --space FOLDER, or leave it out.")
        return False
    for name in ("host", "port"):
        if getattr(args, name) is not None:
            raise UserError(f"--{name} is for a page, but --space writes files; leave one of the two out.")
    if not args.space.strip():
        raise UserError("--space is empty; name a new folder for the files of the Space.")
    folder = Path(args.space)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--space {args.space} exists and is not an empty folder; choose another one.")
    if args.repo_id is None and Path(args.checkpoint).exists():
        raise UserError(
            "A Space loads its model from the Hub; add --repo_id USER/NAME, the repository that "
            f"`modeling-mini push {args.checkpoint} USER/NAME` uploads it to."
        )
    return True


def write_space(checkpoint: str, folder: str, repo_id: str | None = None) -> str:
    """Write the files of a Space into a new folder; returns what to do with them, as lines.

    Args:
        checkpoint: the model: a folder, or a repository on the Hub. Its weights are not read.
        repo_id: the repository that the Space loads; the checkpoint itself by default.

    Raises:
        UserError: the checkpoint is of no task that has a form.
    """
    from ..inference.loading import task_name

    repo_id = repo_id or checkpoint
    task = task_name(checkpoint).replace("-", " ")
    name = repo_id.rpartition("/")[2]
    fields = {
        "title": json.dumps(name),
        "description": json.dumps(f"Try a small Transformer: {task}"[:60]),
        "name": name,
        "repo_id": repo_id,
        "task": task,
        "gradio": _installed("gradio") or _GRADIO,
        "version": sys.modules[_PACKAGE.name].__version__,
    }
    with complete_files(folder) as space:
        _copy_code(space / _PACKAGE.name)
        (space / "app.py").write_text(_APP.format(repo_id=json.dumps(repo_id)), encoding="utf-8")
        (space / "README.md").write_text(_README.format(**fields), encoding="utf-8")
        (space / "requirements.txt").write_text(_requirements(), encoding="utf-8")
    return (
        f"{folder} contains app.py, README.md, requirements.txt and modeling_mini/. Share it with:\n"
        f"hf upload USER/SPACE {folder} . --repo-type space\n"
    )


def _copy_code(target: Path) -> None:
    """Copy the files of the package, and nothing else that lies in its folder, such as secrets of an editor."""
    for path in _PACKAGE.rglob("*"):
        name = path.relative_to(_PACKAGE)
        is_code = path.suffix in _SUFFIXES and not any(part.startswith(".") for part in name.parts)
        if is_code and path.is_file() and not path.is_symlink() and name.parts[0] != "configuration":
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / name)


def _requirements() -> str:
    """The packages of the page, at the versions that are installed here; gradio's is in README.md."""
    versions = {name: _installed(name) for name in _PACKAGES}
    return "".join(f"{name}=={found}\n" if found else f"{name}\n" for name, found in versions.items())


def _installed(name: str) -> str | None:
    """The version of an installed package, without the label of a build such as `+cpu`."""
    try:
        return version(name).partition("+")[0]
    except PackageNotFoundError:
        return None
