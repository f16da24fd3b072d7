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
REFERENCE_SKIPS = HERE / "reference_skips.json"  # of GPT-2 and Llama, which change only with transformers
MODELS = {"mini": "Mini", "gpt2": "GPT-2", "llama": "Llama"}
SUITES = ("Config", "Model", "Training", "Pipeline", "TensorParallel", "FSDP")
OUTCOMES = ("passed", "skipped", "failed")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", help="a checkout, or what pip downloads: a requirement, URL or archive")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="all three by default")
    parser.add_argument("--write", action="store_true", help="write docs/conformance.md and reference_skips.json")
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
        write_reference_skips(outcomes)
    complaints = failures(outcomes)
    references = shared_skips(outcomes) if is_whole else recorded_skips()
    if arguments.pytest or "mini" not in arguments.models or references is None:
        print("Only a part was run, so skips are not compared.")
    else:
        complaints += unexplained_skips(outcomes, references, documented_skips())
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


def skips(outcomes, model: str) -> set[tuple[str, str]]:
    """The tests that are skipped for a model, as (test class, name)."""
    return {
        (test_class, name)
        for (of_model, test_class), tests in outcomes.items()
        for name, outcome in tests.items()
        if of_model == model and outcome == "skipped"
    }


def shared_skips(outcomes) -> set[tuple[str, str]]:
    """The tests that are skipped for both GPT-2 and Llama."""
    return skips(outcomes, "gpt2") & skips(outcomes, "llama")


def write_reference_skips(outcomes) -> None:
    tests = sorted(f"{test_class}.{name}" for test_class, name in shared_skips(outcomes))
    content = {"transformers": metadata.version("transformers"), "skipped": tests}
    REFERENCE_SKIPS.write_text(json.dumps(content, indent=1) + "\n")


def recorded_skips() -> set[tuple[str, str]] | None:
    """`shared_skips` of an earlier whole run, or None if it was with another version of transformers."""
    content = json.loads(REFERENCE_SKIPS.read_text())
    if content["transformers"] != metadata.version("transformers"):
        return None
    return {tuple(test.split(".")) for test in content["skipped"]}


def unexplained_skips(outcomes, references: set[tuple[str, str]], documented: set[str]) -> list[str]:
    """A sentence for each skip of a Mini model that GPT-2 and Llama do not share and the document does not explain.

    Also a sentence for each explanation of a test that is not skipped.
    """
    # The suites of GPT-2 and Llama have no variants: PostNormModelTest is compared with ModelTest. In the document,
    # ModelTest also covers its variants.
    own = {
        (test_class, suite, name)
        for test_class, name in skips(outcomes, "mini")
        for suite in [re.sub(r"^(PostNorm|Bidirectional)", "", test_class)]
        if (suite, name) not in references
    }
    missing = {f"{case}.{name}" for case, suite, name in own if not {f"{case}.{name}", f"{suite}.{name}"} & documented}
    outdated = documented - {f"{part}.{name}" for case, suite, name in own for part in (case, suite)}
    return [
        *(f"{name} is skipped for Mini; docs/conformance.md must say why." for name in sorted(missing)),
        *(f"{name} is not skipped; remove it from docs/conformance.md." for name in sorted(outdated)),
    ]


if __name__ == "__main__":
    raise SystemExit(main())
