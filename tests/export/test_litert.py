"""LiteRT files, run by the LiteRT runtime: `make litert`."""

import json

import numpy as np
import pytest
import torch
from classes import MODEL_CLASSES
from greedy_text import check_example

from modeling_mini import MiniForCausalLM
from modeling_mini.cli import main


pytest.importorskip("litert_torch", reason="make litert")
pytestmark = pytest.mark.slow
# Every head, and both kinds of layers.
EACH_MODEL = pytest.mark.parametrize(
    ("model_class", "norm_first"),
    [*((model_class, True) for model_class in MODEL_CLASSES), (MiniForCausalLM, False)],
    ids=lambda value: value.__name__ if isinstance(value, type) else ("post-norm", "pre-norm")[value],
)


@EACH_MODEL
def test_every_head_computes_what_the_model_computes_also_with_padding(checkpoint, model_class, norm_first):
    folder = checkpoint(model_class, norm_first=norm_first)
    assert main(["export", str(folder), "--to", "litert", "--max_length", "16"]) == 0
    report = json.loads((folder / "litert" / "export_report.json").read_text())
    assert {key.partition(" of ")[2] for key in report["differences"]} == {
        "1 x 16 tokens",
        "1 x 16 tokens, padded on the left",
        "1 x 16 tokens, padded on the right",
    }
    assert max(report["differences"].values()) < 1e-5
    assert {"model.tflite", "tokenizer.json", "config.json"} <= set(report["files"])


def test_file_runs_in_the_runtime_alone(checkpoint):
    from ai_edge_litert.interpreter import Interpreter

    folder = checkpoint(MiniForCausalLM)
    assert main(["export", str(folder), "--to", "litert"]) == 0
    run = Interpreter(model_path=str(folder / "litert" / "model.tflite")).get_signature_runner()
    ids, mask = np.zeros((1, 64), np.int32), np.zeros((1, 64), np.int32)
    ids[0, :5], mask[0, :5] = range(5, 10), 1
    logits = run(input_ids=ids, attention_mask=mask)["logits"]
    expected = MiniForCausalLM.from_pretrained(folder)(torch.arange(5, 10)[None]).logits
    torch.testing.assert_close(torch.from_numpy(logits[:, :5]), expected.detach(), rtol=0, atol=1e-4)


def test_example_writes_the_greedy_text_in_the_runtime_alone(checkpoint, fresh_python):
    folder = checkpoint(MiniForCausalLM)
    assert main(["export", str(folder), "--to", "litert"]) == 0
    check_example(fresh_python, folder / "litert", without=("torch", "transformers", "litert_torch"))


def test_length_above_the_context_is_refused(checkpoint, capsys):
    folder = checkpoint()
    assert main(["export", str(folder), "--to", "litert", "--max_length", "65"]) == 1
    assert "--max_length 65 is longer than the context of the model; give at most 64." in capsys.readouterr().err
