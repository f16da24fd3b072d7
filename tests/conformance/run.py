"""Run transformers' common model tests on the Mini models and, for comparison, GPT-2 and Llama: `make conformance`.

Every test of the Mini models must pass, or be skipped for GPT-2 and Llama too, or be skipped for a reason given in
docs/conformance.md. Otherwise the command fails.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from importlib import metadata
from pathlib import Path

import pytest
from testers import GPT2, LLAMA, MINI
from tiny import save_tiny_checkpoints
from upstream import HERE, UpstreamError, lay_out


DOCUMENT = HERE.parents[1] / "docs" / "conformance.md"
MODELS = {"mini": "Mini", "gpt2": "GPT-2", "llama": "Llama"}
SUITES = ("Config", "Model", "Training", "Pipeline", "TensorParallel", "FSDP")
OUTCOMES = ("passed", "skipped", "failed")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", help="a checkout, or what pip downloads: a requirement, URL or archive")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="all three by default")
    parser.add_argument("--write", action="store_true", help="write the table into docs/conformance.md")
    parser.add_argument("--pytest", nargs=argparse.REMAINDER, default=[], help="further arguments for pytest")
    arguments = parser.parse_args()
    is_whole = set(arguments.models) == set(MODELS) and not arguments.pytest
    if arguments.write and not is_whole:
        parser.error("--write needs a whole run: leave out --models and --pytest")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        try:
            stand_ins = lay_out(root, arguments.source)
        except UpstreamError as error:
            print(error, file=sys.stderr)
            return 2
        print(f"transformers {metadata.version('transformers')}; modules that the source lacks, replaced by ours:")
        print(f"  {', '.join(stand_ins) or 'none'}", flush=True)
        save_tiny_checkpoints([MINI, GPT2, LLAMA], root / "tiny")
        report = root / "report.jsonl"
        code = run_pytest(root, report, arguments.models, arguments.pytest)
        if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED) or not report.is_file():
            return code
        outcomes = read(report)
    table = as_table(outcomes)
    print(table)
    if arguments.write:
        write_table(table)
    complaints = failures(outcomes)
    if is_whole:
        complaints += unexplained_skips(outcomes, documented_skips())
    else:
        print("Only a part was run, so skips are not compared.")
    print("\n".join(complaints) or "No test of the Mini models fails, or is skipped without a reason.")
    return int(bool(complaints))


def run_pytest(root: Path, report: Path, models: list[str], further: list[str]) -> int:
    environment = os.environ | {
        "CONFORMANCE_ROOT": str(root),
        "CONFORMANCE_REPORT": str(report),
        "PYTHONPATH": os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "TRANSFORMERS_TINY_MODEL_PATH": str(root / "tiny"),
        "RUN_SLOW": "1",
        "HF_HUB_OFFLINE": "1",
        # Each test process has one core, and some tests start two to four ranks.
        "OMP_NUM_THREADS": "1",
    }
    files = [str(HERE / f"test_{model}.py") for model in models]
    command = [sys.executable, "-m", "pytest", "-c", str(HERE / "pytest.ini"), *files]
    workers = min(4, os.cpu_count() or 1)
    return subprocess.run([*command, "-n", str(workers), *further], env=environment, check=False).returncode


def read(report: Path) -> dict[tuple[str, str], dict[str, str]]:
    """Outcome of each test by (model, test class) and name.

    A test with parts, usually one per class of the model, fails if one part fails, and counts as skipped if all parts
    are skipped, although pytest reports it as passed.
    """
    parts = defaultdict(lambda: defaultdict(set))
    for line in report.read_text().splitlines():
        file, test_class, name, outcome = json.loads(line)
        parts[file.removeprefix("test_").removesuffix(".py"), test_class][name].add(outcome)
    return {
        suite: {
            name: next(outcome for outcome in ("failed", "passed", "skipped") if outcome in part_outcomes)
            for name, part_outcomes in tests.items()
        }
        for suite, tests in parts.items()
    }


def as_table(outcomes) -> str:
    lines = ["| test class | model | collected | passed | skipped | failed |", "|---|---|---|---|---|---|"]
    for (model, test_class), tests in sorted(outcomes.items(), key=lambda item: table_order(*item[0])):
        count = Counter(tests.values())
        numbers = [len(tests), *(count[outcome] for outcome in OUTCOMES)]
        lines.append(f"| {test_class} | {MODELS[model]} | " + " | ".join(map(str, numbers)) + " |")
    return "\n".join(lines)


def table_order(model: str, test_class: str) -> tuple:
    """Sort key of a line of the table: variants after their suite, and in each suite the reference models last."""
    suite = next(i for i, name in enumerate(SUITES) if test_class.endswith(f"{name}Test"))
    return suite, test_class != f"{SUITES[suite]}Test", test_class, list(MODELS).index(model)


def write_table(table: str) -> None:
    text = DOCUMENT.read_text()
    start, end = (f"<!-- {word} of the table -->" for word in ("start", "end"))
    before, after = text.split(start)[0], text.split(end)[1]
    DOCUMENT.write_text(f"{before}{start}\n{table}\n{end}{after}")


def documented_skips() -> set[str]:
    """The tests in the first column of the document's table of skips, as `TestClass.test_name`."""
    return set(re.findall(r"^\| `(\w+Test\.test_\w+)` \|", DOCUMENT.read_text(), re.MULTILINE))


def failures(outcomes) -> list[str]:
    """The failed tests of the Mini models. Failures of the reference models are only in the table."""
    return [
        f"{test_class}.{name} fails."
        for (model, test_class), tests in outcomes.items()
        for name, outcome in tests.items()
        if model == "mini" and outcome == "failed"
    ]


def unexplained_skips(outcomes, documented: set[str]) -> list[str]:
    """A sentence for each skip of a Mini model that GPT-2 and Llama do not share and the document does not explain.

    Also a sentence for each explanation of a test that is not skipped.
    """

    def skips(model):
        return {
            (test_class, name)
            for (of_model, test_class), tests in outcomes.items()
            for name, outcome in tests.items()
            if of_model == model and outcome == "skipped"
        }

    # The suites of GPT-2 and Llama have no variants: PostNormModelTest is compared with ModelTest. In the document,
    # ModelTest also covers its variants.
    own = {
        (test_class, suite, name)
        for test_class, name in skips("mini")
        for suite in [re.sub(r"^(PostNorm|Bidirectional)", "", test_class)]
        if (suite, name) not in skips("gpt2") & skips("llama")
    }
    missing = {f"{case}.{name}" for case, suite, name in own if not {f"{case}.{name}", f"{suite}.{name}"} & documented}
    outdated = documented - {f"{part}.{name}" for case, suite, name in own for part in (case, suite)}
    return [
        *(f"{name} is skipped for Mini; docs/conformance.md must say why." for name in sorted(missing)),
        *(f"{name} is not skipped; remove it from docs/conformance.md." for name in sorted(outdated)),
    ]


if __name__ == "__main__":
    raise SystemExit(main())
