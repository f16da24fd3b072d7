"""Question answering: windows, spans, the best answers, no answer, and SQuAD files."""

import json
import random

import numpy as np
import pytest
from datasets import Dataset, List, Value
from made_data import NUMBERS, build, jsonl, questions
from transformers import ByT5Tokenizer

from modeling_mini import MiniForQuestionAnswering
from modeling_mini.errors import UserError
from modeling_mini.tasks.question_answering import EncodeWindows, answer_tokens, best_spans
from modeling_mini.tokenization import train_tokenizer


pytestmark = pytest.mark.usefixtures("datasets_cache")


def test_a_missing_answer_is_refused_with_no_unanswerable(tmp_path):
    row = {"question": "What?", "context": "It is.", "answers": {"text": [], "answer_start": []}}
    path = jsonl(tmp_path / "a.jsonl", [row, row])
    for name in ("question-answering", "generative-question-answering"):
        with pytest.raises(UserError, match=r"line 1: there is no answer in 'answers\.text'; leave --no_unanswerable"):
            build(name, dataset=path, unanswerable=False).load()
        assert len(build(name, dataset=path).load(divide=False)["train"]) == 2


def test_every_answer_can_be_decoded_from_its_windows(tokenizer):
    task = build("question-answering", block_size=24, stride=6)
    draw = random.Random(0)
    for _ in range(20):
        words = draw.choices(NUMBERS, k=40)
        index = draw.randrange(40)
        start = sum(len(word) + 1 for word in words[:index])
        row = {
            "question": "after one",
            "context": " ".join(words),
            "answers.text": [words[index]],
            "answers.answer_start": [start],
        }
        rows = task.encode(Dataset.from_list([row]), tokenizer, "training").rows
        assert len(rows) > 3
        answers = [(r["input_ids"], r["start_positions"], r["end_positions"]) for r in rows if r["start_positions"]]
        assert 1 <= len(answers) <= 2  # two if the answer is where windows overlap
        assert {tokenizer.decode(ids[first : last + 1]).strip() for ids, first, last in answers} == {words[index]}
        assert all(r["end_positions"] == 0 for r in rows if r["start_positions"] == 0)


@pytest.mark.parametrize("name", ["question-answering", "generative-question-answering"])
def test_moved_and_blank_answers_are_counted_in_the_log(tmp_path, caplog, name):
    caplog.set_level("INFO")
    answers = [(["red"], [10]), (["red"], [11]), (["red", " ", "is"], [9, 0, 7]), ([], [])]
    rows = [
        {"question": "Which?", "context": "Colour is red.", "answers": {"text": texts, "answer_start": starts}}
        for texts, starts in answers
    ]
    columns = build(name, dataset=jsonl(tmp_path / "a.jsonl", rows)).load(divide=False)["train"]
    if name == "question-answering":
        assert columns["answers.answer_start"][:] == [[10], [10], [10, 7], []]
        assert "a.jsonl: answers moved by a character or two, to where their context has them: 2" in caplog.text
    assert "a.jsonl: blank answers left out: 1" in caplog.text
    caplog.clear()
    build(name, dataset=jsonl(tmp_path / "b.jsonl", rows[:1] * 2)).load(divide=False)
    assert "answers moved" not in caplog.text


@pytest.mark.parametrize("answer", ["Paris ", " Paris", "\n Paris \n", "Cafe\u0301", " Cafe\u0301 "])
@pytest.mark.parametrize("kind", ["bpe", "uncased"])
def test_spaces_and_accents_at_the_edges_of_an_answer_do_not_hide_it(tmp_path, caplog, kind, answer):
    caplog.set_level("INFO")
    context = f"It is{answer} there" if answer[0].isspace() else f"It is {answer} there"
    row = {
        "question": "What?",
        "context": context,
        "answers": {"text": [answer], "answer_start": [context.index(answer)]},
    }
    task = build("question-answering", dataset=jsonl(tmp_path / "a.jsonl", [row] * 2))
    examples = task.load(divide=False)["train"]
    assert examples["answers.text"][0] == [answer.strip()]
    tokenizer = train_tokenizer([context], kind, vocab_size=300)
    rows = task.encode(examples, tokenizer, "training").rows
    first, last = rows["start_positions"][0], rows["end_positions"][0]
    places = EncodeWindows(tokenizer, 256, 64, keep_places=True)(examples[:1], [0])["character_spans"][0]
    assert context[places[first][0] : places[last][1]].strip() == answer.strip()
    assert "answers moved" not in caplog.text


@pytest.mark.parametrize("block_size", [8, 9, 12])
def test_questions_of_special_tokens_and_short_rows_leave_room_for_the_context(tokenizer, block_size):
    questions = ["<eos>" * 30, "one two three four five six", "😀" * 30]
    examples = {"question": questions, "context": ["one two three four"] * 3}
    windows = EncodeWindows(tokenizer, block_size, 64, keep_places=True)(examples, range(3))
    assert all(len(ids) <= block_size for ids in windows["input_ids"])
    for example in range(3):
        spans = [
            span
            for index, spans in zip(windows["example"], windows["character_spans"])
            for span in spans
            if index == example and span[0] >= 0
        ]
        assert {place for first, last in spans for place in range(first, last)} == set(
            range(len("one two three four"))
        )


def test_answers_that_a_model_cannot_give_and_long_questions_are_counted(tokenizer, caplog):
    context = " ".join(NUMBERS * 4)
    long = " ".join(NUMBERS * 3)
    rows = [
        {
            "question": "one",
            "context": context,
            "answers.text": [text] * bool(text),
            "answers.answer_start": [0] * bool(text),
        }
        for text in (long, "one two three", "one", "")
    ]
    rows += [{**rows[2], "question": long}]
    length = len(tokenizer(rows[1]["answers.text"][0], add_special_tokens=False).input_ids)
    options = {"block_size": 24, "stride": 6, "max_target_tokens": length - 1}
    task, examples = build("question-answering", **options), Dataset.from_list(rows)
    data = task.encode(examples, tokenizer, "training")
    assert data.rows.column_names == ["input_ids", "start_positions", "end_positions"]
    assert "1 of 5 training questions have an answer that no window of 24 tokens (--block_size) con" in caplog.text
    assert "; the model learns that they have none." in caplog.text
    assert (
        f"1 of {len(data.rows)} training windows contain an answer of more than {length - 1} tokens (" in caplog.text
    )
    limit = EncodeWindows(tokenizer, 24, 6).longest_question
    assert f"20.0% of the training examples have their question truncated to {limit} tokens" in caplog.text
    assert task.num_truncated(tokenizer, examples) == 1
    assert tokenizer.backend_tokenizer.truncation is None
    task.encode(examples, tokenizer, "evaluation")
    assert "1 of 5 evaluation questions have an answer" in caplog.text
    assert "the model is expected to say that they have none." in caplog.text
    caplog.clear()
    options["max_target_tokens"] = length
    build("question-answering", **options).encode(examples.select([1, 2, 3]), tokenizer, "training")
    assert not caplog.text


def test_answers_without_their_place_are_for_the_generative_task(tmp_path):
    row = {"question": "What?", "context": "It is red.", "answers": {"text": ["red"]}}
    path = jsonl(tmp_path / "a.jsonl", [row] * 2)
    sentence = "an answer begins, train generative-question-answering, which needs only"
    with pytest.raises(UserError, match=rf"has no column 'answers\.answer_start'; .*{sentence}"):
        build("question-answering", dataset=path).load()
    assert build("generative-question-answering", dataset=path).load(divide=False)["train"]["answers.text"][0] == [
        "red"
    ]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_a_column_of_plain_answers_has_one_for_each_question(tmp_path, name):
    answers = ["red", " ", "", "It is, red"]
    rows = [{"question": "What?", "context": "It is red.", "answer": answer} for answer in answers]
    if name == "a.csv":
        lines = [",".join(f'"{value}"' for value in row.values()) for row in rows]
        (tmp_path / name).write_text("\n".join(["question,context,answer", *lines]))
    else:
        jsonl(tmp_path / name, [*rows, {**rows[0], "answer": None}])
    task = build("generative-question-answering", dataset=str(tmp_path / name), columns=["answers.text=answer"])
    read = task.load(divide=False)["train"]["answers.text"][:4]
    assert read == [["red"], [], [], ["It is, red"]]
    on_hub = Dataset.from_list([{**row, "answers.text": row["answer"]} for row in rows]).remove_columns("answer")
    assert task.prepare(on_hub)["answers.text"][:] == read
    numbers = Dataset.from_list([{"question": "What?", "context": "It is 5.", "answers.text": 5}])
    assert "neither a text nor a list of texts" in task.find_problem(task.prepare(numbers)[0])
    blank = Dataset.from_list([{"question": "What?", "context": "It is 5.", "answers.text": ""}])
    assert task.prepare(blank).features["answers.text"] == List(Value("string"))


def test_a_tokenizer_without_places_is_refused():
    with pytest.raises(UserError, match=r"\(ByT5Tokenizer\) does not say where its tokens are in the text"):
        build("question-answering").check(ByT5Tokenizer(), "a", 64)


def test_the_log_tells_questions_from_windows(tokenizer):
    words = " ".join(NUMBERS * 5)
    row = {"question": "after one", "context": words, "answers.text": ["two"], "answers.answer_start": [4]}
    task = build("question-answering", block_size=24, stride=6)
    data = task.encode(Dataset.from_list([row, row]), tokenizer, "training")
    assert (data.num_documents, data.unit, data.row_unit) == (2, "questions", "windows of on average")
    assert len(data.rows) > 4


def test_an_answer_that_a_window_truncates_is_not_in_it():
    spans = [[-1, -1], [-1, -1], [0, 3], [3, 7], [7, 9]]
    assert answer_tokens(spans, 4, 9) == (3, 4)
    assert answer_tokens(spans, 4, 12) == (0, 0)
    assert answer_tokens(spans, -1, -1) == (0, 0)


def test_best_spans_equal_an_exhaustive_search():
    rng = np.random.default_rng(0)
    starts, ends = rng.normal(size=(2, 18))
    spans = [[-1, -1]] * 3 + [[i, i + 1] for i in range(15)]
    expected = sorted(((starts[i] + ends[j], i - 3, j - 2) for i in range(3, 18) for j in range(i, 18)), reverse=True)[
        :4
    ]
    best = best_spans(starts, ends, spans, 15, 4, "x" * 15)
    assert best == [(pytest.approx(score), *span) for score, *span in expected]
    assert all(end - start <= 2 for _, start, end in best_spans(starts, ends, spans, 2, 9, "x" * 15))


def test_a_long_question_is_truncated_and_the_context_read(tokenizer):
    row = {"question": "why " * 99, "context": "one two", "answers.text": ["two"], "answers.answer_start": [4]}
    rows = build("question-answering", block_size=32).encode(Dataset.from_list([row]), tokenizer, "training").rows
    ids, first, last = (rows[0][name] for name in ("input_ids", "start_positions", "end_positions"))
    assert len(ids) <= 32
    assert tokenizer.decode(ids[first : last + 1]).strip() == "two"


def test_no_answer_is_a_candidate_only_with_unanswerable(tokenizer, tiny_model):
    model = tiny_model(MiniForQuestionAnswering, vocab_size=len(tokenizer), is_causal=False)
    model.qa_outputs.weight.data.zero_()  # every span scores the same as no answer
    row = Dataset.from_list([{"question": "after one", "context": "one two"}])
    for unanswerable in (True, False):
        best = build("question-answering", unanswerable=unanswerable).n_best(model, tokenizer, row, n=20)[0]
        assert ("" in [b["answer"] for b in best]) == unanswerable


def test_answers_of_long_contexts_do_not_depend_on_the_batch(tokenizer, tiny_model):
    task = build("question-answering", block_size=24, stride=6)
    model = tiny_model(MiniForQuestionAnswering, vocab_size=len(tokenizer), is_causal=False)
    rows = [{"question": f"after {word}", "context": " ".join(NUMBERS[i:] * 4)} for i, word in enumerate(NUMBERS)]
    examples = Dataset.from_list(rows)
    together = task.n_best(model, tokenizer, examples, batch_size=8)
    alone = [task.n_best(model, tokenizer, examples.select([i]), batch_size=1)[0] for i in range(len(rows))]
    assert [[b["answer"] for b in best] for best in together] == [[b["answer"] for b in best] for best in alone]
    for row, best in zip(rows, together):
        assert len(best) == 3
        assert [b["score"] for b in best] == sorted((b["score"] for b in best), reverse=True)
        assert all(row["context"][b["start"] : b["end"]] == b["answer"] for b in best)


def test_white_space_is_not_an_answer(tokenizer, tiny_model):
    """Of any context, "" is only the answer of no answer, and a span ends after it starts."""
    model = tiny_model(MiniForQuestionAnswering, vocab_size=len(tokenizer), is_causal=False)
    draw = random.Random(0)
    pieces = ["one", "two", " ", "   ", "\n\n\n", "\t", "\u3000", "\u00a0", "，", "猫", "."]
    contexts = ["   ", "\n", "the cat \n\n\n\n sat", *("".join(draw.choices(pieces, k=12)) for _ in range(20))]
    rows = Dataset.from_list([{"question": "q", "context": context} for context in contexts])
    for unanswerable in (True, False):
        task = build("question-answering", block_size=16, stride=4, unanswerable=unanswerable)
        for context, best in zip(contexts, task.n_best(model, tokenizer, rows, n=300)):
            assert all(b["answer"] == context[b["start"] : b["end"]] == b["answer"].strip() for b in best)
            assert all(b["start"] < b["end"] or (b["start"], b["end"], b["score"]) == (0, 0, 0) for b in best)
            assert len([b for b in best if not b["answer"]]) == int(unanswerable or not context.strip())


def test_spans_of_spaces_do_not_take_the_place_of_answers():
    """The 20 best starts and ends are spaces and one word: the word is among the two best."""
    context = "  x  "
    spans = [[-1, -1], *([i, i + 1] for i in range(5))]
    starts, ends = np.array([0, 9, 8, 1, 7, 6.0]), np.array([0, 9, 8, 1, 7, 6.0])
    assert (2.0, 2, 3) in best_spans(starts, ends, spans, 1, 2, context)


def test_answers_have_no_spaces_around_them(tokenizer, tiny_model):
    model = tiny_model(MiniForQuestionAnswering, vocab_size=len(tokenizer), is_causal=False)
    row = {"question": "after one", "context": "one two  three\nfour"}
    best = build("question-answering").n_best(model, tokenizer, Dataset.from_list([row]), n=20)[0]
    assert len({(b["start"], b["end"]) for b in best}) == len(best) > 5
    assert all(b["answer"] == b["answer"].strip() == row["context"][b["start"] : b["end"]] for b in best)


def test_official_squad_json_equals_flat_rows(tmp_path):
    rows = questions(8)
    paragraphs = [
        {
            "context": row["context"],
            "qas": [
                {
                    "id": str(i),
                    "question": row["question"],
                    "is_impossible": not row["answers"]["text"],
                    "answers": [
                        {"text": text, "answer_start": start}
                        for text, start in zip(row["answers"]["text"], row["answers"]["answer_start"])
                    ],
                }
            ],
        }
        for i, row in enumerate(rows)
    ]
    nested = {"version": "v2.0", "data": [{"title": "numbers", "paragraphs": paragraphs}]}
    (tmp_path / "dev-v2.0.json").write_text(json.dumps(nested))
    flat = jsonl(tmp_path / "rows.jsonl", rows)
    nested_rows, flat_rows = (
        build("question-answering", dataset=str(path)).load(divide=False)["train"].to_list()
        for path in (tmp_path / "dev-v2.0.json", flat)
    )
    assert nested_rows == flat_rows
    folder = tmp_path / "squad"
    folder.mkdir()
    for name in ("train-v2.0.json", "dev-v2.0.json"):
        (folder / name).write_text(json.dumps(nested))
    splits = build("question-answering", dataset=str(folder)).load()
    assert splits["train"].to_list() == splits["validation"].to_list() == flat_rows
    del nested["data"][0]["paragraphs"][0]["qas"][0]["answers"][0]["answer_start"]
    (folder / "dev-v2.0.json").write_text(json.dumps(nested))
    with pytest.raises(
        UserError, match=r"dev-v2\.0\.json: question 0 is not in SQuAD format: key 'answer_start' is missing"
    ):
        build("question-answering", dataset=str(folder)).load()
    nested["data"][0]["paragraphs"][0]["qas"][0]["answers"] = ["an answer"]
    (folder / "dev-v2.0.json").write_text(json.dumps(nested))
    with pytest.raises(UserError, match="question 0 is not in SQuAD format: string indices must be integers"):
        build("question-answering", dataset=str(folder)).load()
