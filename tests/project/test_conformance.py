"""The command behind `make conformance`: the source of its tests, and how it evaluates their outcomes."""

import importlib.util
import json
import sys
from importlib import metadata
from pathlib import Path

import pytest


HERE = Path(__file__).parents[1] / "conformance"
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
def root(tmp_path):
    return tmp_path / "root"


@pytest.fixture
def run(monkeypatch):
    monkeypatch.syspath_prepend(HERE)
    yield load("run")
    for name in ("testers", "tiny", "upstream"):
        sys.modules.pop(name, None)


@pytest.fixture
def checkout(tmp_path):
    """`checkout("1.0")`: the parts of the source of that version of transformers that the command reads."""

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


def test_stand_ins_replace_only_missing_modules(upstream, checkout, root):
    source = checkout()
    (source / "tests" / "generation").mkdir()
    (source / "tests" / "generation" / "test_utils.py").write_text("THEIRS = True\n")
    ours = upstream.lay_out(root, str(source))
    assert (root / "tests" / "generation" / "test_utils.py").read_text() == "THEIRS = True\n"
    assert "tests.generation.test_utils" not in ours
    assert {"tests.exporters.test_export", "tests.pipelines.__init__"} <= set(ours)
    pipelines = root / "tests" / "pipelines"
    assert (pipelines / "test_pipelines_fill_mask.py").read_text() == "from . import FillMaskPipelineTests\n"
    assert "class AnyToAnyPipelineTests" in (pipelines / "test_pipelines_any_to_any.py").read_text()


def test_a_source_is_downloaded_once(upstream, checkout, tmp_path, monkeypatch):
    monkeypatch.setattr(upstream, "_download", lambda source, folder: checkout())
    upstream.lay_out(tmp_path / "first", "an archive")
    monkeypatch.setattr(upstream, "_download", lambda *_: pytest.fail("downloaded again"))
    upstream.lay_out(tmp_path / "second", "an archive")
    assert (tmp_path / "second" / "tests" / "test_modeling_common.py").is_file()
    [cached] = (tmp_path / "cache").iterdir()
    assert cached.name.startswith(INSTALLED)


def test_a_checkout_is_read_again_each_time(upstream, checkout, tmp_path):
    source = checkout()
    upstream.lay_out(tmp_path / "first", str(source))
    (source / "tests" / "test_modeling_common.py").write_text("CHANGED = True\n")
    upstream.lay_out(tmp_path / "second", str(source))
    assert (tmp_path / "second" / "tests" / "test_modeling_common.py").read_text() == "CHANGED = True\n"


def test_the_source_of_another_version_is_refused(upstream, checkout, root):
    with pytest.raises(upstream.UpstreamError, match=rf"is transformers 1\.0 and the installed one is {INSTALLED}"):
        upstream.lay_out(root, str(checkout("1.0")))


def test_a_folder_that_is_not_a_source_is_refused(upstream, root, tmp_path):
    with pytest.raises(upstream.UpstreamError, match=r"is not a source of transformers.*test_modeling_common\.py"):
        upstream.lay_out(root, str(tmp_path))


def test_without_a_package_index_the_command_fails_with_a_sentence(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys.modules["upstream"], "CACHE", tmp_path)
    for name, value in {"PIP_INDEX_URL": f"file://{tmp_path}", "PIP_NO_CACHE_DIR": "1", "PIP_RETRIES": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setattr(sys, "argv", ["run.py", "--source", "no-such-package==1.0"])
    assert run.main() == 2
    assert "could not be downloaded" in capsys.readouterr().err


def test_a_test_fails_if_one_part_fails_and_is_skipped_if_all_are(run, tmp_path):
    lines = [("whole", "passed"), ("mixed", "skipped"), ("mixed", "passed"), ("bad", "passed"), ("bad", "failed")]
    lines += [("off", "skipped"), ("off", "skipped")]
    report = tmp_path / "report.jsonl"
    report.write_text("\n".join(json.dumps(["test_gpt2.py", "ModelTest", *line]) for line in lines))
    outcomes = run.read(report)
    expected = {"whole": "passed", "mixed": "passed", "bad": "failed", "off": "skipped"}
    assert outcomes == {("gpt2", "ModelTest"): expected}
    assert run.as_table(outcomes).splitlines()[-1] == "| ModelTest | GPT-2 | 4 | 2 | 1 | 1 |"


def test_a_skip_needs_both_references_or_a_reason(run):
    outcomes = {
        ("mini", "PostNormModelTest"): {"test_a": "skipped", "test_b": "skipped", "test_c": "passed"},
        ("mini", "ModelTest"): {"test_d": "skipped", "test_b": "skipped"},
        ("llama", "ModelTest"): {"test_a": "skipped", "test_b": "passed", "test_d": "skipped"},
        ("gpt2", "ModelTest"): {"test_a": "skipped", "test_b": "skipped", "test_d": "passed"},
    }
    references = run.shared_skips(outcomes)
    complaints = run.unexplained_skips(outcomes, references, {"ModelTest.test_d", "ModelTest.test_e"})
    assert [sentence.split(" is ")[0] for sentence in complaints] == [
        "ModelTest.test_b",
        "PostNormModelTest.test_b",
        "ModelTest.test_e",
    ]
    assert run.unexplained_skips(outcomes, references, {"ModelTest.test_d", "ModelTest.test_b"}) == []


def test_the_skips_of_the_references_are_recorded_for_runs_of_mini_alone(run, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "REFERENCE_SKIPS", tmp_path / "skips.json")
    outcomes = {(model, "ModelTest"): {"test_a": "skipped", "test_b": "passed"} for model in ("gpt2", "llama")}
    run.write_reference_skips(outcomes)
    assert run.recorded_skips() == run.shared_skips(outcomes) == {("ModelTest", "test_a")}
    recorded = json.loads((tmp_path / "skips.json").read_text())
    (tmp_path / "skips.json").write_text(json.dumps(recorded | {"transformers": "1.0"}))
    assert run.recorded_skips() is None


def test_only_the_failures_of_the_mini_models_count(run):
    outcomes = {
        ("mini", "FSDPTest"): {"test_a": "failed", "test_b": "passed"},
        ("gpt2", "FSDPTest"): {"test_b": "failed"},
    }
    assert run.failures(outcomes) == ["FSDPTest.test_a fails."]


def test_the_suite_cannot_be_collected_without_its_tests(monkeypatch):
    monkeypatch.delenv("CONFORMANCE_ROOT", raising=False)
    with pytest.raises(pytest.UsageError, match="make conformance"):
        load("conftest")
