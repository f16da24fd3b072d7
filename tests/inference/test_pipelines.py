"""Pipelines predict what their tasks predict, and refuse models of other tasks."""

import json
from pathlib import Path

import pytest
from datasets import Dataset
from made_data import build, counting, questions
from transformers import GPT2Config, GPT2LMHeadModel, pipeline

from modeling_mini import MiniForCausalLM, MiniForQuestionAnswering


pytestmark = pytest.mark.usefixtures("datasets_cache")


@pytest.fixture
def saved(tokenizer, tiny_model, tmp_path):
    """`saved(MiniForCausalLM)`: the folder of an untrained model with its tokenizer."""

    def save(model_class, **config):
        folder = tmp_path / "saved"
        tiny_model(model_class, vocab_size=len(tokenizer), max_position_embeddings=96, **config).save_pretrained(
            folder
        )
        tokenizer.save_pretrained(folder)
        return str(folder)

    return save


@pytest.mark.parametrize(
    ("name", "column", "output"),
    [("translation", "source", "translation_text"), ("summarization", "document", "summary_text")],
)
def test_a_writing_pipeline_predicts_what_the_task_predicts(saved, tokenizer, name, column, output):
    folder = saved(MiniForCausalLM)
    texts = [pair["source"] for pair in counting(5)]
    writer = pipeline(name, model=folder)
    task = build(name, block_size=96, max_target_tokens=9)
    examples = Dataset.from_list([{column: text} for text in texts])
    expected = [{output: text} for text in task.predict(writer.model, tokenizer, examples)]
    assert writer(texts, max_new_tokens=9, batch_size=2) == expected
    assert writer(texts[0], max_new_tokens=9) == expected[:1]
    assert writer([]) == []
    gpt2 = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=20))
    with pytest.raises(ValueError, match="reads modeling_mini models, but this is a gpt2 model"):
        pipeline(name, model=gpt2, tokenizer=tokenizer)


def test_the_answering_pipeline_predicts_what_the_task_predicts(saved, tokenizer):
    answerer = pipeline("question-answering", model=saved(MiniForQuestionAnswering, is_causal=False))
    examples = [{key: row[key] for key in ("question", "context")} for row in questions(4)]
    task = build("question-answering", block_size=96)
    expected = task.n_best(answerer.model, tokenizer, Dataset.from_list(examples), n=2)
    one, several = answerer(**examples[0]), answerer(examples, top_k=2, batch_size=3)
    assert one["answer"] == expected[0][0]["answer"]
    assert [[best["answer"] for best in row] for row in several] == [[b["answer"] for b in row] for row in expected]
    assert set(one) == {"answer", "start", "end", "score"}
    contexts = [row["context"] for row in examples]
    together = answerer(question=[row["question"] for row in examples], context=contexts)
    assert together == [answerer(**row) for row in examples]
    with pytest.raises(ValueError, match="needs a MiniForQuestionAnswering, but the checkpoint is a MiniForCausalLM"):
        pipeline("question-answering", model=saved(MiniForCausalLM))


def test_a_pipeline_reads_as_many_tokens_as_training(saved, tokenizer, tmp_path):
    folder = saved(MiniForCausalLM)
    encoding = {"task": "translation", "block_size": 40, "max_target_tokens": 16}
    Path(folder, "metrics.json").write_text(json.dumps({"encoding": encoding}))
    writer = pipeline("translation", model=folder)
    assert writer.application.source_length == 40 - 16 - 3
    text = writer("one", max_new_tokens=90)[0]["translation_text"]
    assert len(tokenizer(text).input_ids) > 16  # an untrained model writes no eos
    with pytest.raises(ValueError, match="was trained for translation, not for summarization"):
        pipeline("summarization", model=folder)
