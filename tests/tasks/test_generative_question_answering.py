"""Generative question answering: windows of a long context, and the answer of the best one."""

import io
import json
from itertools import pairwise

import pytest
import torch
from datasets import Dataset
from made_data import NUMBERS, build, jsonl
from transformers import ByT5Tokenizer

from modeling_mini import MiniForCausalLM
from modeling_mini.cli import main as command
from modeling_mini.errors import UserError
from modeling_mini.tasks.generative_question_answering import answer_starts
from modeling_mini.tasks.text_to_text import token_ids, with_ends


pytestmark = pytest.mark.usefixtures("datasets_cache")

NAME = "generative-question-answering"
QUESTION = "after one"
OPTIONS = {"dataset": "unused", "block_size": 40, "stride": 6, "max_target_tokens": 8}


def batch(context, answers=(), starts=None, question=QUESTION):
    row = {"question": [question], "context": [context], "answers.text": [list(answers)]}
    return row if starts is None else {**row, "answers.answer_start": [starts]}


def texts(tokenizer, prompts):
    """The windows, whose prompts must be bos, window, line break, question, eos."""
    decoded = [tokenizer.decode(prompt.input_ids, skip_special_tokens=True) for prompt in prompts]
    assert all(text.endswith(f"\n{QUESTION}") for text in decoded)
    return [text.removesuffix(f"\n{QUESTION}") for text in decoded]


def test_windows_cover_a_long_context_and_each_has_the_question(tokenizer):
    task, context = build(NAME, **OPTIONS), " ".join(NUMBERS * 8)
    prompts = task.prompts(tokenizer, batch(context))
    windows = texts(tokenizer, prompts)
    assert len(windows) > 4
    assert max(len(prompt.input_ids) for prompt in prompts) == task.source_length + 2
    for prompt, window in zip(prompts, windows, strict=True):
        first, last = prompt.characters
        assert context[first:last].strip() == window.strip()
    question_length = len(token_ids(tokenizer, [f"\n{QUESTION}"]).input_ids[0])
    for prompt, after in pairwise(prompts):
        assert prompt.input_ids[-1 - question_length - 6 : -1 - question_length] == after.input_ids[1:7]
    assert prompts[0].characters[0] == 0
    assert prompts[-1].characters[1] == len(context)


def test_a_context_that_fits_is_one_prompt(tokenizer):
    task, context = build(NAME, **OPTIONS), "one two three"
    [prompt] = task.prompts(tokenizer, batch(context))
    assert prompt.input_ids == with_ends(tokenizer, token_ids(tokenizer, [f"{context}\n{QUESTION}"]).input_ids[0])
    long = " ".join(NUMBERS * 2)  # more than half of a row
    question_length = len(token_ids(tokenizer, [long]).input_ids[0])
    assert task.source_length // 2 < question_length < task.source_length - 3
    [prompt] = task.prompts(tokenizer, batch("one", question=long))
    assert tokenizer.decode(prompt.input_ids, skip_special_tokens=True) == f"one\n{long}"


def test_a_question_that_leaves_no_room_for_the_context_is_truncated(tokenizer, caplog):
    task, long = build(NAME, **OPTIONS), " ".join(NUMBERS * 9)
    rows = [batch(context, ["one"], question=question) for context, question in (("one " * 40, long), ("one", "why"))]
    examples = Dataset.from_list([{name: column[0] for name, column in row.items()} for row in rows])
    task.encode(examples, tokenizer, "training")
    limit = task.source_length // 2
    assert f"50.0% of the training examples have their question truncated to {limit} tokens" in caplog.text
    assert task.num_truncated(tokenizer, examples) == 1
    without = build(NAME, **OPTIONS, max_source_tokens=0)
    [prompt] = without.prompts(tokenizer, batch("one " * 40))
    assert prompt.input_ids == with_ends(tokenizer, [])


def test_only_windows_with_the_answer_are_trained_to_write_it(tokenizer):
    task, words = build(NAME, **OPTIONS), ["zero"] * 30
    context = " ".join([*words, "seven", *words, "seven", *words])
    start = context.rindex("seven")

    def targets(example, **more):
        pairs = build(NAME, **OPTIONS, **more).training_pairs(tokenizer, example)
        return [(prompt.characters[0] <= start < prompt.characters[1], answer) for prompt, answer in pairs]

    placed = targets(batch(context, ["seven"], [start]))
    assert 1 <= sum(has_answer for has_answer, _ in placed) <= 2
    assert all(answer == ("seven" if has_answer else "") for has_answer, answer in placed)
    for starts in (None, [3]):  # unknown, and wrong: each place with this text counts
        found = [answer for _, answer in targets(batch(context, ["seven"], starts))]
        assert sum(map(bool, found)) > sum(has_answer for has_answer, _ in placed)
        assert "" in found
    assert {answer for _, answer in targets(batch(context))} == {""}
    assert {answer for _, answer in targets(batch(context, ["in other words"]))} == {"in other words"}
    assert targets(batch(context, ["seven"], [start]), unanswerable=False) == placed

    rows = task.encode(Dataset.from_dict(batch(context, ["seven"], [start])), tokenizer, "training")
    assert rows.num_documents == 1
    assert rows.num_bytes == len(f"{context}\n{QUESTION}seven")


def test_an_answer_that_no_window_contains_is_of_those_with_the_most_of_it(tokenizer):
    words = [NUMBERS[i % 9] for i in range(60)]
    context, answer = " ".join(words), " ".join(words[20:40])
    pairs = build(NAME, **OPTIONS).training_pairs(tokenizer, batch(context, [answer], [context.index(answer)]))
    kept = [
        sum(first <= place < last for place in range(context.index(answer), context.index(answer) + len(answer)))
        for first, last in (prompt.characters for prompt, _ in pairs)
    ]
    assert 0 < max(kept) < len(answer)
    assert [text for _, text in pairs] == [answer if size == max(kept) else "" for size in kept]


@pytest.mark.parametrize("stride", [4, 5])
def test_a_window_has_whole_characters(tokenizer, stride):
    context = "漢字仮名" * 20  # three tokens for each character
    task = build(NAME, **OPTIONS | {"stride": stride})
    pairs = task.training_pairs(tokenizer, batch(context, ["仮名"]))
    windows = [tokenizer.decode(prompt.input_ids, skip_special_tokens=True).partition("\n")[0] for prompt, _ in pairs]
    for (prompt, answer), window in zip(pairs, windows, strict=True):
        first, last = prompt.characters
        assert context[first:last] == window.strip("\ufffd")
        assert answer == ("仮名" if "仮名" in window else "")
    assert any(window.endswith("\ufffd") for window in windows), "a window ends within a character"


def test_a_short_row_has_windows_of_which_half_is_new(tokenizer):
    task = build(NAME, **OPTIONS | {"block_size": 256, "stride": 64}, max_source_tokens=20)
    prompts = task.prompts(tokenizer, batch(" ".join(NUMBERS * 8)))
    starts = [prompt.characters[0] for prompt in prompts]
    assert len(token_ids(tokenizer, [" ".join(NUMBERS * 8)]).input_ids[0]) > 70
    assert len(starts) == len(set(starts)) < 30


def test_a_word_is_not_found_inside_another():
    assert answer_starts("note: no, or not", "no", None) == [6]
    assert answer_starts("notes", "no", None) == [0]
    assert answer_starts("note: no", "no", [0]) == [0]
    for wrong in ([-2], [1], [99], []):
        assert answer_starts("a no", "no", wrong) == [2]
    assert answer_starts("a no", "", [0]) == []


def test_a_truncated_target_counts_once_for_all_windows(tokenizer, caplog):
    examples = Dataset.from_dict(batch(" ".join(NUMBERS * 8), ["in other words " * 9]))
    build(NAME, **OPTIONS).encode(examples, tokenizer, "training")
    assert "100.0% of the training examples have their target truncated to 8 tokens" in caplog.text


def test_the_window_that_is_least_inclined_to_no_answer_answers(tokenizer, monkeypatch):
    task = build(NAME, **OPTIONS)
    long = batch(" ".join(NUMBERS * 3))
    examples = {name: [column[0], "short" if name == "context" else column[0]] for name, column in long.items()}
    prompts = task.prompts(tokenizer, examples)
    *_, last, short = range(len(prompts))
    assert (last, prompts[short].example) == (len(prompts) - 2, 1)

    def best(texts, scores):
        monkeypatch.setattr(type(task), "_no_answer", lambda self, model, tokenizer, prompts, size: scores)
        return task.best_texts(None, tokenizer, prompts, texts, 8)

    windows = [f"text {i}" for i in range(last + 1)]
    for chosen in range(last + 1):
        scores = [-9.0 if i == chosen else -1.0 - i / 100 for i in range(last + 1)]
        assert best([*windows, "other"], scores) == [f"text {chosen}", "other"]
        assert best(["" if i == chosen else "a" for i in range(last + 1)] + [""], scores) == ["a", ""]
    assert best([""] * len(prompts), scores) == ["", ""]


def test_no_answer_has_the_probability_of_the_end_token(tokenizer):
    torch.manual_seed(0)
    task = build(NAME, **OPTIONS)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 64}
    model = MiniForCausalLM(MiniForCausalLM.config_class(vocab_size=len(tokenizer), **shape)).eval()
    prompts = task.prompts(tokenizer, batch(" ".join(NUMBERS * 3)))
    with torch.no_grad():
        alone = [
            model(torch.tensor([prompt.input_ids])).logits[0, -1].log_softmax(-1)[tokenizer.eos_token_id].item()
            for prompt in prompts
        ]
    assert task._no_answer(model, tokenizer, prompts, 3) == pytest.approx(alone, abs=1e-5)


def test_the_place_of_an_answer_is_read_where_the_data_have_it(tmp_path):
    answers = [{"text": ["red"], "answer_start": [6]}, {"text": ["red"]}, {"text": ["red"], "answer_start": ["six"]}]
    rows = [{"question": "What?", "context": "It is red.", "answers": answer} for answer in answers]
    for split, some in (("train", rows), ("validation", rows[1:2])):
        jsonl(tmp_path / f"{split}.jsonl", some)
    splits = build(NAME, dataset=str(tmp_path)).load()
    assert splits["train"]["answers.answer_start"][:] == [[6], None, None]
    assert "answers.answer_start" not in splits["validation"].column_names


@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        ([{"answers": ["red"]}, {"answers": "red"}], ["answers.text=answers"]),
        ([{"answer": "red", "answers": 5}, {"answer": "red", "answers": [7]}], ["answers.text=answer"]),
        ([{"answers": [{"text": "red"}]}] * 2, []),
        ([{"answers": {"text": ["red"]}}] * 1001 + [{"answers": {"text": ["red"], "answer_start": [6]}}], []),
        ([{"answers": {"text": [" ", " red "], "answer_start": [6]}}] * 2, []),
        ([{"answers": {"text": ["red"], "answer_start": 6}}] * 2, []),
    ],
)
def test_answers_are_read_whatever_stands_next_to_them(tmp_path, rows, columns):
    path = jsonl(tmp_path / "a.jsonl", [{"question": "What?", "context": "It is red.", **row} for row in rows])
    train = build(NAME, dataset=path, columns=columns).load(divide=False)["train"]
    assert train["answers.text"][:] == [["red"]] * len(rows)
    if "answers.answer_start" in train.column_names:
        assert set(map(str, train["answers.answer_start"][:])) == {"None"}


@pytest.mark.parametrize("starts", [[6, 6], [[6.0], [6.0]], [["6"], ["6"]], [[6, 7], None], [[None], []]])
def test_starts_of_another_kind_are_ignored(starts):
    rows = [{"question": "What?", "context": "It is red.", "answers.text": [text]} for text in ("red", " red ")]
    examples = Dataset.from_list(rows).add_column("answers.answer_start", starts)
    prepared = build(NAME).prepare(examples)
    assert prepared["answers.text"][:] == [["red"]] * 2
    assert prepared.to_dict().get("answers.answer_start", [None] * 2) == [None] * 2
    good = Dataset.from_list(rows).add_column("answers.answer_start", [[6], [5]])
    assert build(NAME).prepare(good)["answers.answer_start"][:] == [[6], [6]]


def test_predictions_can_be_predicted_again(tokenizer, tiny_model, tmp_path, capsys, monkeypatch):
    model = tiny_model(MiniForCausalLM, vocab_size=len(tokenizer))
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path)
    data = {"task": NAME, "block_size": 64, "max_target_tokens": 4}
    (tmp_path / "_run.json").write_text(json.dumps({"data": data}))
    rows = [
        {"question": "What?", "context": "It is red.", "answers.answer_start": [6]},
        {"question": "What?", "context": "It."},
    ]
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(json.dumps(row) + "\n" for row in rows)))
    assert command(["answer", str(tmp_path), "--jsonl"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_misplaced_answers_and_windows_are_counted_in_the_log(tokenizer, caplog):
    caplog.set_level("INFO")
    places = [[6], [0], [-1], [99], None, []]
    rows = [
        {
            "question": "What?",
            "context": "It is red. " + "It is. " * 30,
            "answers.text": ["red"] if starts != [] else [],
        }
        for starts in places
    ]
    task = build(NAME, **OPTIONS)
    examples = task.prepare(Dataset.from_list(rows).add_column("answers.answer_start", places))
    assert "3 answers are not at their answer_start; every occurrence counts" in caplog.text
    caplog.clear()
    task.encode(examples, tokenizer, "training")
    windows = len(task.prompts(tokenizer, examples[:]))
    assert f"6 training questions are read in {windows} windows" in caplog.text
    caplog.clear()
    task.encode(Dataset.from_dict(batch("It is red.", ["red"], [6])), tokenizer, "training")
    assert not caplog.text


def test_rows_without_a_context_or_answers_are_refused_later(caplog):
    rows = [
        {"question": "What?", "context": None, "answers.text": ["red"]},
        {"question": "What?", "context": "It is."},
    ]
    task = build(NAME)
    prepared = task.prepare(Dataset.from_list(rows).add_column("answers.answer_start", [[6], [0]]))
    assert task.find_problem(prepared[0]).startswith("there is no context in")
    assert task.find_problem(prepared[1]).startswith("{answers.text} is neither a text nor a list of texts")


def test_nested_squad_needs_no_place(tmp_path):
    paragraphs = [
        {"context": "It is red.", "qas": [{"id": "1", "question": "What?", "answers": [answer]}]}
        for answer in ({"text": "red", "answer_start": 6}, {"text": "red"})
    ]
    (tmp_path / "train.json").write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    train = build(NAME, dataset=str(tmp_path / "train.json")).load(divide=False)["train"]
    assert train["answers.text"][:] == [["red"]] * 2
    assert train["answers.answer_start"][:] == [[6], None]


def test_a_tokenizer_without_places_is_refused():
    with pytest.raises(UserError, match=rf"\(ByT5Tokenizer\) does not say where its tokens are in .*{NAME} needs"):
        build(NAME).check(ByT5Tokenizer(), "a", 64)
