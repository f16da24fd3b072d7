"""Text classification: labels in every form, their numbers, and pairs of texts."""

import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from made_data import NUMBERS, build, jsonl

from modeling_mini import MiniConfig, MiniForSequenceClassification
from modeling_mini.errors import UserError
from modeling_mini.inference.predict import require_columns_of_training
from modeling_mini.training.arguments import ModelArguments
from modeling_mini.training.building import load_weights


pytestmark = pytest.mark.usefixtures("datasets_cache")


def test_labels_can_be_names_numbers_or_classes(tmp_path):
    texts = ["a", "b", "c", "d"]
    features = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
    classes = Dataset.from_dict({"text": texts, "label": [0, 1, 1, 0]}, features=features)
    DatasetDict(train=classes, validation=classes)["train"].to_parquet(tmp_path / "classes.parquet")
    jsonl(tmp_path / "names.jsonl", [{"text": t, "label": n} for t, n in zip(texts, ["no", "yes", "yes", "no"])])
    jsonl(tmp_path / "numbers.jsonl", [{"text": t, "label": n} for t, n in zip(texts, [10, 9, 9, 10])])
    results = {}
    for name in ("classes.parquet", "names.jsonl", "numbers.jsonl"):
        task, config = build("text-classification", dataset=str(tmp_path / name)), MiniConfig()
        train = task.load(divide=False)["train"]
        task.configure(config, train)
        results[name] = (train["label"][:], config.id2label, config.num_labels)
    assert results["classes.parquet"] == results["names.jsonl"]
    assert results["names.jsonl"] == (["no", "yes", "yes", "no"], {0: "no", 1: "yes"}, 2)
    assert results["numbers.jsonl"] == (["10", "9", "9", "10"], {0: "9", 1: "10"}, 2)


def test_labels_with_spaces_around_them_are_shown_in_quotes(tmp_path):
    for name, labels in (("train", ["very good", " very good"]), ("validation", ["bad"])):
        jsonl(tmp_path / f"{name}.jsonl", [{"text": "one", "label": label} for label in labels])
    with pytest.raises(UserError, match="but the labels are ' very good', 'very good'; correct it"):
        build("text-classification", dataset=str(tmp_path)).load()


def test_a_row_without_a_label_is_named(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\none,0\ntwo,\nthree,1\n")
    with pytest.raises(UserError, match=r"a\.csv, line 3: there is no label in 'label'"):
        build("text-classification", dataset=str(tmp_path / "a.csv")).load()


def test_an_unknown_label_is_refused_before_training(tmp_path, tiny_model):
    for name, labels in (("train", ["a", "b"]), ("validation", ["b", "c"])):
        jsonl(tmp_path / f"{name}.jsonl", [{"text": "one", "label": label} for label in labels])
    with pytest.raises(UserError, match=r"validation\.jsonl, line 2: 'label' is 'c', but the labels are a, b"):
        build("text-classification", dataset=str(tmp_path)).load()
    trained = build("text-classification", dataset=str(tmp_path / "train.jsonl"))
    trained.read_config(MiniConfig(id2label={0: "b", 1: "c"}, label2id={"b": 0, "c": 1}))
    with pytest.raises(UserError, match=r"train\.jsonl, line 1: 'label' is 'a', but the labels are b, c; correct it"):
        trained.load(divide=False)


def test_a_label_only_in_validation_is_a_label(tmp_path):
    labels = ["rare", *["a", "b"] * 10]
    path = jsonl(tmp_path / "a.jsonl", [{"text": "one", "label": label} for label in labels])
    for seed in range(20):
        task = build("text-classification", dataset=path, split_seed=seed, validation_fraction=0.3)
        splits = task.load()
        if "rare" in splits["validation"]["label"]:
            break
    config = MiniConfig()
    task.configure(config, splits["train"])
    assert "rare" not in splits["train"]["label"]
    assert config.id2label == {0: "a", 1: "b", 2: "rare"}


def test_a_model_with_the_same_labels_keeps_their_numbers(tokenizer):
    texts = [{"text": "a", "label": "no"}, {"text": "b", "label": "yes"}]
    task, config = build("text-classification"), MiniConfig(id2label={0: "yes", 1: "no"}, label2id={"yes": 0, "no": 1})
    rows = task.prepare(Dataset.from_list(texts))
    task.configure(config, rows)
    assert config.label2id == {"yes": 0, "no": 1}
    assert task.encode(rows, tokenizer, "training").rows["labels"][:] == [1, 0]
    task = build("text-classification")
    task.configure(config, task.prepare(Dataset.from_list([*texts, {"text": "c", "label": "so"}])))
    assert config.id2label == {0: "no", 1: "so", 2: "yes"}


@pytest.mark.parametrize(
    ("train", "validation", "sentence"),
    [
        (
            True,
            False,
            r"validation\.jsonl has no text_pair, but the training examples have one; add it, name",
        ),
        (False, True, r"validation\.jsonl has a text_pair, but the training examples have none; rename or remove the"),
    ],
)
def test_a_model_of_pairs_reads_pairs_in_every_split_and_in_use(tmp_path, tiny_model, train, validation, sentence):
    for name, has_pair in (("train", train), ("validation", validation)):
        pair = {"text_pair": "two"} if has_pair else {}
        jsonl(tmp_path / f"{name}.jsonl", [{"text": "one", "label": label, **pair} for label in "ab"])
    files = {f"{name}_file": str(tmp_path / f"{name}.jsonl") for name in ("train", "validation")}
    with pytest.raises(UserError, match=sentence):
        build("text-classification", **files).load()

    task, config = build("text-classification", dataset=files["train_file"]), MiniConfig()
    task.configure(config, task.load(divide=False)["train"])
    assert config.text_pair is train
    usage, card_input = task.how_to_use()
    assert ("--jsonl" in usage, "second text" in card_input) == (train, train)
    tiny_model(MiniForSequenceClassification, **config.to_diff_dict()).save_pretrained(tmp_path / "model")
    used = build("text-classification", test_file=files["validation_file"])
    used.read_config(MiniConfig.from_pretrained(tmp_path / "model"))
    with pytest.raises(UserError, match=sentence):
        used.load(roles=("test",), divide=False, needs_train=False)
    wrong = ["text", "text_pair"] if validation else ["text"]
    with pytest.raises(UserError, match="^runs/a was trained on examples with"):
        require_columns_of_training(wrong, used, "runs/a")
    require_columns_of_training(["text", "text_pair"] if train else ["text"], used, "runs/a")
    require_columns_of_training(wrong, build("text-classification"), "a checkpoint that does not say")


@pytest.mark.parametrize("pair", [{}, {"text_pair": "six seven eight"}], ids=["text", "pair"])
def test_the_share_of_truncated_texts_is_logged(tokenizer, caplog, pair):
    texts = ["one two three four five " * 4, "one two three", "one", "two"]
    rows = [{"text": text, "label": label, **pair} for text, label in zip(texts, "abab")]
    length = len(tokenizer(texts[1], pair.get("text_pair")).input_ids)  # which just fits
    task = build("text-classification", block_size=length)
    examples = task.prepare(Dataset.from_list(rows))
    data = task.encode(examples, tokenizer, "training")
    assert data.rows.column_names == ["input_ids", "labels"]
    part = "texts together" if pair else "text"
    assert f"25.0% of the training examples have their {part} truncated to {length} tokens (--block_siz" in caplog.text
    assert task.num_truncated(tokenizer, examples) == 1
    assert tokenizer.backend_tokenizer.truncation is None
    assert [len(ids) == length for ids in data.rows["input_ids"]] == [True, True, False, False]


@pytest.mark.parametrize("labels", [["no", "yes"], ["no", "so", "yes"]])
def test_a_start_from_a_classifier_of_other_labels_has_a_new_head(tmp_path, tiny_model, tokenizer, caplog, labels):
    size = {"vocab_size": len(tokenizer), "architectures": ["MiniForSequenceClassification"]}
    start = tiny_model(MiniForSequenceClassification, id2label={0: "bad", 1: "good"}, **size)
    torch.nn.init.constant_(start.score.weight, 7.0)
    start.save_pretrained(tmp_path / "start")
    args = ModelArguments(init_from=str(tmp_path / "start"))
    task = build("text-classification")

    def started(names, **sizes):
        config = MiniConfig.from_pretrained(tmp_path / "start", **sizes)
        config.id2label = dict(enumerate(names))
        return load_weights(task, config, args)

    model = started(labels)
    assert model.training
    assert model.score.weight.shape[0] == len(labels)
    assert model.score.weight.abs().max() < 1
    for name, weight in start.base_model.state_dict().items():
        assert torch.equal(model.base_model.state_dict()[name], weight), name
    assert f"predicts the labels bad, good; the training examples have {', '.join(labels)}. So its" in caplog.text
    assert torch.equal(started(["bad", "good"]).score.weight, start.score.weight)
    for sizes in ({"num_hidden_layers": 1}, {"num_hidden_layers": 3}, {"intermediate_size": 24}):
        with pytest.raises(UserError, match="holds weights of other shapes; leave sizes out of --config_overrides"):
            started(labels, **sizes)


@pytest.mark.parametrize(
    ("config", "predicted"),
    [
        ({"num_labels": 1}, "numbers"),
        ({"num_labels": 2, "problem_type": "regression"}, "numbers"),
        ({"num_labels": 3, "problem_type": "multi_label_classification"}, "several labels"),
    ],
)
def test_a_model_that_does_not_choose_one_label_is_refused(config, predicted):
    with pytest.raises(UserError, match=f"predicts {predicted}, not one label for a text; use it with"):
        build("text-classification").read_config(MiniConfig(**config))


def test_the_classes_and_their_counts_are_logged(caplog):
    caplog.set_level("INFO")
    for labels in (["no"] * 3 + ["NA"] + ["yes"] * 2, [f"{n:02}" for n in range(30) for _ in range(30 - n)]):
        task = build("text-classification")
        rows = Dataset.from_list([{"text": "a", "label": label} for label in labels])
        task.configure(MiniConfig(), task.prepare(rows))
    assert "3 classes in the training examples: 'no' (3), 'yes' (2), 'NA' (1)\n" in caplog.text
    assert "30 classes in the training examples: '00' (30), '01' (29)" in caplog.text
    assert "'09' (21), ... 10 more ..., '20' (10)" in caplog.text
    assert "'29' (1)\n" in caplog.text, "the rarest, of which one may be a misspelling"


def test_a_pair_is_encoded_as_the_tokenizer_encodes_pairs(tokenizer, tiny_model):
    task = build("text-classification", block_size=64)
    config = {"vocab_size": len(tokenizer), "id2label": {0: "no", 1: "yes"}, "label2id": {"no": 0, "yes": 1}}
    model = tiny_model(MiniForSequenceClassification, is_causal=False, **config)
    task.configure(model.config)
    rows = [{"text": f"one {word}", "text_pair": " two" * i, "label": "no"} for i, word in enumerate(NUMBERS, start=1)]
    examples = Dataset.from_list(rows)
    together = task.probabilities(model, tokenizer, examples, batch_size=4)
    for row, (label, probability) in zip(rows, together):
        inputs = tokenizer(row["text"], row["text_pair"], return_tensors="pt")
        expected = model(**inputs).logits.softmax(-1)[0]
        assert model.config.label2id[label] == expected.argmax()
        assert probability == pytest.approx(expected.max().item(), rel=1e-4)


@pytest.mark.parametrize(
    ("first", "second", "filler"),
    [
        ("हिन्दी", "हिन्दू", "किताब"),  # they differ in a mark alone
        ("кошка", "кошки", "дом"),
        ("แมว", "หมา", "บ้าน"),
        ("猫", "狗", "房子"),
        ("고양이", "강아지", "집"),
    ],
)
def test_bag_of_words_reads_words_of_any_script(first, second, filler):
    rows = [{"text": f"{filler} {word} {filler}", "label": word} for word in (first, second)] * 8
    examples = Dataset.from_list(rows)
    predictions = dict(build("text-classification").baselines(examples, examples))
    assert predictions["bag of words + logistic regression"] == examples["label"][:]


@pytest.mark.parametrize("texts", [["\U0001f600"] * 3, ["one", "two", "three"] * 400, ["!"] * 1200])
@pytest.mark.parametrize("labels", [["a"], ["a", "a", "b"]])
def test_baselines_that_cannot_be_trained_are_left_out(texts, labels, caplog):
    labels = (labels * len(texts))[: len(texts)]
    train = Dataset.from_dict({"text": texts, "label": labels})
    names = [name for name, _ in build("text-classification").baselines(train, train)]
    has_words = texts[0] == "one" and "b" in labels
    assert names == ["most frequent label", *(["bag of words + logistic regression"] if has_words else [])]
    assert ("There is no baseline of a bag of words" in caplog.text) == ("b" in labels and not has_words)


@pytest.mark.parametrize(
    ("labels", "warned"),
    [
        (["pos", " pos", "neg"], ["' pos' (1) and 'pos' (2)"]),
        (["pos", "Pos", "POS ", "neg"], ["'POS ' (1) and 'Pos' (1) and 'pos' (2)"]),
        (["caf\u00e9", "cafe\u0301", "tea"], [r"'cafe\u0301' (1) and 'caf\xe9' (2)"]),
        (["a b", "a\u00a0b", "a\u200b b"], [r"'a b' (2) and 'a\xa0b' (1) and 'a\u200b b' (1)"]),
        (["1", "1.0", "2"], ["'1' (2) and '1.0' (1)"]),
        (["STRASSE", "stra\u00dfe"], ["'STRASSE' (2) and 'stra\u00dfe' (1)"]),
        (["1", "01", "10", "v1", "v1.0"], []),  # codes, versions
        (["pos", "neg", "pos.", "no pos"], []),
        ([f"{first}{i}" for i in range(7) for first in "aA"], [*(f"'A{i}'" for i in range(5)), "2 more labels"]),
    ],
)
def test_labels_that_are_probably_the_same_are_pointed_out(tmp_path, caplog, labels, warned):
    path = jsonl(tmp_path / "a.jsonl", [{"text": "one", "label": label} for label in [*labels, labels[0]]])
    caplog.set_level("WARNING", "modeling_mini")
    task = build("text-classification", dataset=path)
    task.load(divide=False)
    assert len(task.labels) == len(set(labels))  # none is merged
    assert len(caplog.messages) == len(warned)
    assert all(part in message for part, message in zip(warned, caplog.messages, strict=True))


def test_a_label_of_another_spelling_is_refused_with_both_spellings(tmp_path):
    for name, labels in (("train", ["caf\u00e9", "tea"]), ("validation", ["tea", "cafe\u0301"])):
        jsonl(tmp_path / f"{name}.jsonl", [{"text": "one", "label": label} for label in labels])
    with pytest.raises(UserError, match=r"line 2: 'label' is 'cafe\\u0301', but the label is written 'caf\\xe9'"):
        build("text-classification", dataset=str(tmp_path)).load()
