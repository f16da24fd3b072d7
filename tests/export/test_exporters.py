"""Files of transformers' exporters: every head, run by the runtime of the file; the command compares the outputs."""

import json
import re
from argparse import Namespace
from pathlib import Path

import pytest
from classes import MODEL_CLASSES
from greedy_text import DOCS, check_example

from modeling_mini import MiniForCausalLM, MiniForSequenceClassification, MiniForTokenClassification, MiniModel
from modeling_mini.cli import main
from modeling_mini.errors import UserError
from modeling_mini.export import parity
from modeling_mini.masking_mini import CACHE_NAME


pytestmark = pytest.mark.skipif(CACHE_NAME != "cache", reason="needs the exporters of transformers 5.24")
PACKAGES = {"onnx": "onnxruntime", "openvino": "openvino", "executorch": "executorch"}
GRAPHS = {"onnx": "model.onnx", "openvino": "openvino_model.xml", "executorch": "model.pte"}
# Every head, and both kinds of layers.
EACH_MODEL = pytest.mark.parametrize(
    ("model_class", "norm_first"),
    [*((model_class, True) for model_class in MODEL_CLASSES), (MiniForCausalLM, False)],
    ids=lambda value: value.__name__ if isinstance(value, type) else ("post-norm", "pre-norm")[value],
)
FORMAT = pytest.mark.parametrize("name", list(GRAPHS))


def export(checkpoint, name, **options):
    pytest.importorskip(PACKAGES[name])
    words = [word for option, value in options.items() for word in (f"--{option}", str(value))]
    assert main(["export", str(checkpoint), "--to", name, *words]) == 0
    return Path(options.get("output", checkpoint / name))


def report_of(folder):
    return json.loads((folder / "export_report.json").read_text())


@pytest.mark.slow
def test_onnx_files_are_complete(checkpoint):
    exported = export(checkpoint(MiniForCausalLM), "onnx")
    assert {path.name for path in exported.iterdir()} >= {
        *("model.onnx", "model.onnx.data", "tokenizer.json", "tokenizer_config.json"),
        *("config.json", "generation_config.json", "export_report.json"),
    }
    assert max(report_of(exported)["differences"].values()) < 1e-5
    assert report_of(exported)["equal_greedy_tokens"] == 32


@pytest.mark.slow
@FORMAT
def test_example_writes_the_greedy_text_without_transformers(checkpoint, fresh_python, name):
    exported = export(checkpoint(MiniForCausalLM), name)
    check_example(
        fresh_python, exported, without=("transformers",) if name == "executorch" else ("torch", "transformers")
    )


@pytest.mark.slow
@FORMAT
@EACH_MODEL
def test_every_head_is_exported_and_computes_what_the_model_computes(checkpoint, model_class, norm_first, name):
    folder = export(checkpoint(model_class, norm_first=norm_first), name)
    report = report_of(folder)
    assert (folder / GRAPHS[name]).exists()
    assert report["format"] == name
    assert max(report["differences"].values()) < 1e-5
    assert ("equal_greedy_tokens" in report) == (model_class is MiniForCausalLM)
    # All lengths, and (with several rows) padding, are dynamic.
    rows = 1 if name == "executorch" else 2
    assert any(f"{rows} x 64 tokens" in key for key in report["differences"])


@pytest.mark.slow
@FORMAT
def test_bidirectional_language_model_is_exported_without_a_cache(checkpoint, name):
    report = report_of(export(checkpoint(MiniForCausalLM, is_causal=False), name))
    assert "equal_greedy_tokens" not in report
    assert max(report["differences"].values()) < 1e-5


@pytest.mark.slow
def test_exported_file_opens_as_a_python_object_without_this_package(checkpoint, fresh_python):
    exported = export(checkpoint(MiniForSequenceClassification), "onnx")
    [example] = re.findall(r"```python\n(from transformers.*?)```", DOCS.read_text(), re.S)
    example = example.replace("runs/classifier/onnx", str(exported))
    call = "print(model(input_ids=torch.tensor([[5, 6, 7]]), attention_mask=torch.ones(1, 3).long()).logits.shape)"
    process = fresh_python(f"import torch\n{example}{call}")
    assert process.returncode == 0, process.stderr
    assert process.stdout.strip().endswith("torch.Size([1, 2])")


@pytest.mark.slow
def test_half_precision_checkpoint_is_exported_in_float32(checkpoint):
    folder = checkpoint(MiniModel)
    MiniModel.from_pretrained(folder).half().save_pretrained(folder)
    exported = export(folder, "onnx")
    assert max(report_of(exported)["differences"].values()) < 1e-5


@pytest.mark.slow
def test_wrong_file_is_refused_and_deleted(checkpoint, tmp_path, monkeypatch, capsys):
    """A stand-in for a defect of an exporter: the compared model has other weights than the exported one."""
    pytest.importorskip("onnxruntime")
    original = parity.check_rows

    def check_other(model, *args, **options):
        model.score.weight.data[0, 0] += 0.01
        original(model, *args, **options)

    monkeypatch.setattr("modeling_mini.export.exporters.check_rows", check_other)
    folder = checkpoint(MiniForTokenClassification)
    assert main(["export", str(folder), "--to", "onnx", "--output", str(tmp_path / "out")]) == 1
    assert "does not compute what the PyTorch model computes: logits of 2 x" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


@pytest.mark.slow
def test_openvino_file_keeps_the_cache_itself(checkpoint):
    openvino = pytest.importorskip("openvino")
    exported = export(checkpoint(MiniForCausalLM), "openvino")
    model = openvino.Core().read_model(exported / "openvino_model.xml")
    assert sorted(port.any_name for port in model.inputs) == ["attention_mask", "beam_idx", "input_ids"]
    assert [port.any_name for port in model.outputs] == ["logits"]


def test_exporter_that_fails_is_one_sentence(checkpoint, monkeypatch):
    pytest.importorskip("onnxruntime")
    from transformers import exporters

    from modeling_mini.export.exporters import export as export_graph

    def fail(*args):
        raise RuntimeError("no such operator\nand more lines")

    monkeypatch.setattr(exporters.OnnxExporter, "export", fail)
    folder = checkpoint(MiniModel)
    with pytest.raises(UserError, match="^MODEL cannot be exported to onnx: no such operator$"):
        export_graph(folder, folder, Namespace(to="onnx", checkpoint="MODEL"))
