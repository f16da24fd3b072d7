"""The command behind `make conformance`: where it takes the tests from, and how it judges what became of them."""

import importlib.util
import json
import sys
from importlib import metadata
from pathlib import Path

import pytest


HERE = Path(__file__).parent / "conformance"
INSTALLED = metadata.version("transformers")


def load(name):
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def upstream(tmp_path, monkeypatch):
    module = load("upstream")
    monkeypatch.setattr(module, "CACHE", tmp_path / "cache")
    return module


@pytest.fixture
def run(monkeypatch):
    monkeypatch.syspath_prepend(HERE)
    yield load("run")
    for name in ("testers", "tiny", "upstream"):
        sys.modules.pop(name, None)


@pytest.fixture
def checkout(tmp_path):
    """`checkout("1.0")`: the source of that version of transformers, as far as the command looks at it."""

    def build(version=INSTALLED):
        files = {
            "src/transformers/__init__.py": f'__version__ = "{version}"\n',
            "tests/test_modeling_common.py": "from .generation.test_utils import GenerationTesterMixin\n",
            "tests/test_pipeline_mixin.py": "from .pipelines.test_pipelines_fill_mask import FillMaskPipelineTests\n"
            'OTHER = "tests.pipelines.test_pipelines_any_to_any.AnyToAnyPipelineTests"\n',
        }
        for name, text in files.items():
            path = tmp_path / "checkout" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path / "checkout"

    return build


def test_what_a_source_lacks_is_ours_and_what_it_has_is_its_own(upstream, checkout):
    source = checkout()
    (source / "tests" / "generation").mkdir()
    (source / "tests" / "generation" / "test_utils.py").write_text("THEIRS = True\n")
    root = upstream.lay_out(str(source))
    assert (root / "tests" / "generation" / "test_utils.py").read_text() == "THEIRS = True\n"
    assert "tests.generation.test_utils" not in upstream.stand_ins(root)
    assert {"tests.exporters.test_export", "tests.pipelines.__init__"} <= set(upstream.stand_ins(root))
    pipelines = root / "tests" / "pipelines"
    assert (pipelines / "test_pipelines_fill_mask.py").read_text() == "from . import FillMaskPipelineTests\n"
    assert "class AnyToAnyPipelineTests" in (pipelines / "test_pipelines_any_to_any.py").read_text()


def test_the_tests_are_laid_out_from_the_cache_the_second_time(upstream, checkout, monkeypatch):
    source = checkout()
    first = upstream.lay_out(str(source))
    (first / "tests" / "test_modeling_common.py").write_text("spoilt")
    monkeypatch.setattr(upstream, "_copy_tests", lambda *_: pytest.fail("copied again"))
    second = upstream.lay_out(str(source))
    assert (second / "tests" / "test_modeling_common.py").read_text() != "spoilt"


def test_the_source_of_another_version_is_refused(upstream, checkout):
    with pytest.raises(upstream.UpstreamError, match=rf"is transformers 1\.0 and the installed one is {INSTALLED}"):
        upstream.lay_out(str(checkout("1.0")))


def test_a_folder_that_is_no_source_is_refused(upstream, tmp_path):
    with pytest.raises(upstream.UpstreamError, match=r"is no source of transformers.*test_modeling_common\.py"):
        upstream.lay_out(str(tmp_path))


def test_without_a_package_index_the_command_says_so_and_fails(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys.modules["upstream"], "CACHE", tmp_path)
    for name, value in {"PIP_INDEX_URL": f"file://{tmp_path}", "PIP_NO_CACHE_DIR": "1", "PIP_RETRIES": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setattr(sys, "argv", ["run.py", "--source", "no-such-package==1.0"])
    assert run.main() == 2
    assert "could not be downloaded" in capsys.readouterr().err


def test_a_test_fails_with_one_of_its_parts_and_is_skipped_with_all(run, tmp_path):
    lines = [("whole", "passed"), ("mixed", "skipped"), ("mixed", "passed"), ("bad", "passed"), ("bad", "failed")]
    lines += [("off", "skipped"), ("off", "skipped")]
    report = tmp_path / "report.jsonl"
    report.write_text("\n".join(json.dumps(["test_gpt2.py", "ModelTest", *line]) for line in lines))
    outcomes = run.read(report)
    expected = {"whole": "passed", "mixed": "passed", "bad": "failed", "off": "skipped"}
    assert outcomes == {("gpt2", "ModelTest"): expected}
    assert run.as_table(outcomes).splitlines()[-1] == "| ModelTest | GPT-2 | 4 | 2 | 1 | 1 |"


def test_a_skip_needs_a_reference_or_a_reason(run):
    outcomes = {
        ("mini", "PostNormModelTest"): {"test_a": "skipped", "test_b": "skipped", "test_c": "passed"},
        ("mini", "ModelTest"): {"test_d": "skipped"},
        ("llama", "ModelTest"): {"test_a": "skipped", "test_b": "passed", "test_c": "skipped"},
    }
    complaints = run.unexplained_skips(outcomes, {"ModelTest.test_d", "ModelTest.test_e"})
    assert [sentence.split(" is ")[0] for sentence in complaints] == ["PostNormModelTest.test_b", "ModelTest.test_e"]


def test_the_suite_cannot_be_collected_without_its_tests(monkeypatch):
    monkeypatch.delenv("CONFORMANCE_ROOT", raising=False)
    with pytest.raises(pytest.UsageError, match="make conformance"):
        load("conftest")
