import json

import pytest
from transformers import AutoTokenizer

from modeling_mini import MiniForCausalLM
from modeling_mini.hub import push as sharing
from modeling_mini.tasks import task_class
from modeling_mini.tokenization import train_tokenizer


@pytest.fixture
def quickstart(tiny_model, tmp_path, monkeypatch):
    """A working directory with an untrained tiny model in the output folder of the quickstart."""
    tokenizer = train_tokenizer(["Return the next word of the text."], vocab_size=300)
    model = tiny_model(MiniForCausalLM, vocab_size=len(tokenizer))
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "runs" / "quickstart")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def applications(quickstart, tiny_model, tmp_path):
    """Adds untrained models in the output folders of the recipes of the tasks, and a document."""
    tokenizer = AutoTokenizer.from_pretrained("runs/quickstart")
    for name in ("translation", "summarization", "text-classification", "question-answering"):
        model_class = task_class(name).model_class
        model = tiny_model(model_class, vocab_size=len(tokenizer), is_causal=model_class is MiniForCausalLM)
        for part in (model, tokenizer):
            part.save_pretrained(tmp_path / "runs" / name)
        data = {"task": name, "block_size": 64, "max_target_tokens": 4}
        (tmp_path / "runs" / name / "_run.json").write_text(json.dumps({"data": data}))
    (tmp_path / "document.txt").write_text("Return the text. It has words.")


@pytest.fixture
def without_verification(monkeypatch):
    monkeypatch.setattr(sharing, "verify", lambda *args: None)
