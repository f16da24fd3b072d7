"""Collects the outcomes of this folder's tests and writes them into the table of docs/compatibility.md.

A test that is marked `row(tool, what)` has a row, and its `family` says which column. `{name}` in `what` stands for a
parameter. Tests that differ in the parameter `case` alone share a row, which counts them.
"""

import datetime
import importlib.metadata
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import pytest
import torch
import transformers

from modeling_mini.tables import escaped, markdown_table
from modeling_mini.tokenization import train_tokenizer

from .families import config_of


os.environ.setdefault("TRACKIO_DIR", tempfile.mkdtemp())  # trackio reads it when it is imported

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "compatibility.md"
BEGIN, END = "<!-- `make ecosystem` writes this table. -->\n", "<!-- End of the table. -->\n"
HEADER = ["tool", "version", "what", "modeling_mini", "GPT-2", "Llama", "date", 'make ecosystem ARGS="..."']
FAMILY_COLUMNS = {"modeling_mini": 3, "gpt2": 4, "llama": 5}
AUTO_CLASSES = {"causal": "AutoModelForCausalLM", "sequence": "AutoModelForSequenceClassification"}
TEXT = "Return the next word of the text. The model reads a word and says what the next word will be."

MOST_NAMED = 10

outcomes = defaultdict(dict)  # (tool, what) -> family -> case -> outcome


def pytest_addoption(parser):
    parser.addoption("--write_table", action="store_true", help="write the outcomes into docs/compatibility.md")


def pytest_configure(config):
    config.addinivalue_line("markers", "row(tool, what, package=tool, case=None): has a row in docs/compatibility.md")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    row = item.get_closest_marker("row")
    if row is None or (report.when != "call" and report.passed):
        return
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    tool, what = (text.format(**parameters) for text in row.args)
    case = parameters.get(row.kwargs.get("case"), "")
    key = (tool, what, row.kwargs.get("package", tool), item.originalname)
    families = outcomes[key].setdefault(parameters.get("family", "modeling_mini"), {})
    families[case] = "works" if report.passed else _reason(call)
    notes = [value for name, value in item.user_properties if name == "note"]
    if report.passed and notes:
        families[case] += f" ({'; '.join(notes)})"


def _reason(call):
    """The first line of an error, as a cell of the table."""
    error = call.excinfo
    text = (str(error.value).strip() or error.typename).splitlines()[0]
    if isinstance(error.value, pytest.skip.Exception):
        return f"not run: {text}"
    return f"fails: {text[:120]}"


def pytest_sessionfinish(session):
    if outcomes and session.config.getoption("write_table", default=False):
        page = PAGE.read_text(encoding="utf-8")
        head, _, rest = page.partition(BEGIN)
        old, _, tail = rest.partition(END)
        rows = {(row[0], row[2]): row for row in _read_rows(old)}
        rows |= {(row[0], row[2]): row for row in map(_row, outcomes)}
        table = markdown_table(
            [HEADER, *(rows[key] for key in sorted(rows, key=lambda key: (key[0].lower(), key[1])))]
        )
        PAGE.write_text(f"{head}{BEGIN}\n{table}\n\n{END}{tail}", encoding="utf-8")


def _read_rows(table):
    lines = [line for line in table.splitlines() if line.startswith("|")][2:]
    return [[cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def _row(key):
    tool, what, package, test = key
    cells = {family: _cell(cases) for family, cases in outcomes[key].items()}
    columns = [cells.get(family, "") for family in FAMILY_COLUMNS]
    return [tool, importlib.metadata.version(package), what, *columns, str(datetime.date.today()), f"`-k {test}`"]


def _cell(cases):
    """ "works", the reason why not, or for several cases how many work and which do not if they are few."""
    if len(set(cases.values())) == 1 and (len(cases) == 1 or not next(iter(cases.values())).startswith("works")):
        return escaped(next(iter(cases.values())))
    failed = [case for case, outcome in cases.items() if not outcome.startswith("works")]
    count = f"{len(cases) - len(failed)} of {len(cases)} work"
    return f"{count}; not {', '.join(failed)}" if 0 < len(failed) <= MOST_NAMED else count


@pytest.fixture
def runs(request, tmp_path, monkeypatch):
    """A working directory as a reader of the page has it: `runs/quickstart` and texts. Returns its path.

    The model in it is of the family that the test has as a parameter, and is untrained.
    """
    family = request.node.callspec.params.get("family", "modeling_mini")
    tokenizer = train_tokenizer([TEXT], vocab_size=300, model_max_length=128)
    for name, auto_class in {"quickstart": "AutoModelForCausalLM"}.items():
        torch.manual_seed(0)
        model = getattr(transformers, auto_class).from_config(config_of(family, vocab_size=len(tokenizer)))
        for part in (model, tokenizer):
            part.save_pretrained(tmp_path / "runs" / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run_snippet(runs):
    """`run_snippet("TRL: SFT")`: run the first block under that heading of a page.

    Returns the variables of a Python block, and the output of a shell block.
    """

    def run(heading, page=PAGE):
        text = page.read_text(encoding="utf-8")
        section = re.search(rf"^###? {re.escape(heading)}\n(.*?)(?=^##|\Z)", text, flags=re.DOTALL | re.MULTILINE)
        block = re.search(r"^```(python|bash)\n(.*?)^```", section[1], flags=re.DOTALL | re.MULTILINE)
        language, code = block.groups()
        if language == "python":
            variables = {"__name__": "__main__"}
            exec(compile(code, heading, "exec"), variables)
            return variables
        return _shell(code)

    return run


def _shell(code):
    scripts = Path(sys.executable).parent
    command = f"set -e; export PATH={shlex.quote(str(scripts))}:$PATH\n{code}"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout
