"""Metrics compared with torch, the reference libraries and examples computed by hand."""

import importlib
import math
import random
import sys
import unicodedata
from pathlib import Path

import evaluate
import numpy as np
import pytest
import sacrebleu
import scipy.stats
import sklearn.metrics
import torch
from rouge_score import rouge_scorer

import modeling_mini
from modeling_mini import metrics
from modeling_mini.metrics.answers import _scores as answer_scores
from modeling_mini.metrics.bootstrap import with_intervals
from modeling_mini.metrics.scripts import script_language


# The file for `evaluate.load`, and a small input, of each metric.
EXAMPLES = {
    "TextLoss": ("text_loss", {"nats": [3.0, 1.0], "targets": [2, 1]}),
    "TranslationQuality": ("translation", {"predictions": ["他在家。", "好"], "references": ["她在家。", "好"]}),
    "Rouge": ("rouge", {"predictions": ["two dogs ran", "猫"], "references": ["a dog runs", "猫"]}),
    "Classification": ("classification", {"predictions": [0, 1, 1], "references": [0, 1, 0]}),
    "SpanAnswers": ("answers", {"predictions": ["in Rome", "", "a", ""], "references": [["Rome"], [], ["a b"], []]}),
}
# By the code of `script_language`, or by name where words have spaces.
SCRIPTS = {
    "Latin": "The naïve café İstanbul żółć",
    "Cyrillic": "Кошка сидит на ковре",
    "Greek": "ΤΟ σπίτι μου είναι εδώ",
    "Arabic": "مرحبا بالعالم كيف حالك",
    "Hebrew": "שלום עולם מה שלומך",
    "Devanagari": "हिन्दी में क्षेत्र बहुत बड़ा है",
    "Tamil": "தமிழ் மொழி மிகவும் பழமையானது",
    "Ethiopic": "አማርኛ ቋንቋ ነው ይህ",
    "Georgian": "ქართული ენა არის ეს",
    "ko": "한국어 단어 입니다 그리고",
    "zh": "中文，学习 GPT-2 模型。",
    "ja": "カーをみた人がいる",
    "th": "ไทยนี้รักสงบแต่ถึงรบไม่ขลาด",
    "lo": "ພາສາລາວແມ່ນພາສາ",
    "km": "ភាសាខ្មែរគឺជាភាសា",
    "my": "မြန်မာစာသည်ဘာသာ",
    "bo": "བོད་སྐད་ཡིན་པ་རེད།",
}


@pytest.fixture(autouse=True, scope="module")
def own_caches(tmp_path_factory):
    """One cache for all tests: Python imports loaded metrics from the folder in which it first found their package."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HF_EVALUATE_CACHE", "HF_MODULES_CACHE"):
            patch.setattr(f"evaluate.config.{name}", str(tmp_path_factory.getbasetemp() / "evaluate"))
        yield


@pytest.fixture(params=["imported", "loaded"])
def metric(request):
    return metrics.TextLoss() if request.param == "imported" else load("text_loss")


def load(stem):
    return evaluate.load(str(Path(metrics.__file__).with_name(f"{stem}.py")))


def compute(name, **inputs):
    return getattr(metrics, name)(keep_in_memory=True).compute(**inputs)


def sentences(words, count, seed):
    rng = random.Random(seed)
    return [" ".join(rng.choices(words, k=rng.randint(1, 12))) for _ in range(count)]


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_metric_loaded_by_path_equals_the_imported_one(name):
    stem, inputs = EXAMPLES[name]
    assert load(stem).compute(**inputs) == compute(name, **inputs)


@pytest.mark.parametrize("name", sorted(EXAMPLES.keys() - {"TextLoss"}))
def test_each_score_is_in_its_interval_and_empty_input_is_refused(name):
    inputs = EXAMPLES[name][1]
    results = compute(name, **inputs)
    scores = [key for key, value in results.items() if isinstance(value, float)]
    assert len(scores) >= 2
    assert set(results) - {"signature"} == {*scores, *(f"{key}_interval" for key in scores)}
    for key in scores:
        low, high = results[f"{key}_interval"]
        assert low <= results[key] <= high
        assert key == key.lower()
    with pytest.raises(ValueError, match="are empty"):
        compute(name, **{key: [] for key in inputs})


def test_a_missing_library_stops_only_its_own_metric(monkeypatch):
    monkeypatch.setattr(modeling_mini, "metrics", metrics)  # restored after the import below
    for name in [name for name in sys.modules if name.startswith("modeling_mini.metrics")]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("nltk", "rouge_score", "sacrebleu", "scipy", "sklearn"):
        monkeypatch.setitem(sys.modules, name, None)
    fresh = importlib.import_module("modeling_mini.metrics")
    for name in ("TextLoss", "Classification", "SpanAnswers"):
        getattr(fresh, name)(keep_in_memory=True).compute(**EXAMPLES[name][1])
    with pytest.raises(ImportError, match="sacrebleu"):
        fresh.TranslationQuality  # noqa: B018
    with pytest.raises(ImportError, match=r"need to install .*sacrebleu"):
        load("translation")


def test_an_unknown_metric_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"modeling_mini\.metrics.*Blue"):
        metrics.Blue  # noqa: B018


def test_text_loss_is_a_mean_over_tokens_not_over_rows(metric):
    torch.manual_seed(0)
    nll = torch.rand(2, 10, dtype=torch.float64)
    counts = [10, 4]
    rows = [row[:count].sum().item() for row, count in zip(nll, counts)]
    results = metric.compute(nats=rows, targets=counts, num_bytes=50)
    mean = torch.cat([row[:count] for row, count in zip(nll, counts)]).mean().item()
    assert results["token_loss"] == pytest.approx(mean, rel=1e-12)
    assert results["perplexity"] == pytest.approx(math.exp(mean), rel=1e-12)
    assert results["bits_per_byte"] == pytest.approx(mean * 14 / math.log(2) / 50, rel=1e-12)


def test_bits_per_byte_need_the_size_of_the_text(metric):
    assert set(metric.compute(nats=[3.0], targets=[2])) == {"token_loss", "token_loss_margin", "perplexity"}


def test_labels_and_spans_have_no_perplexity(metric):
    assert set(metric.compute(nats=[3.0], targets=[2], predicts_tokens=False)) == {"token_loss", "token_loss_margin"}


def test_the_margin_covers_the_loss_of_the_population_in_19_of_20_samples():
    """Samples of 60 of 20,000 rows with different lengths and losses: the standard error of a ratio, not of a mean."""
    torch.manual_seed(0)
    targets = torch.randint(10, 200, (20_000,))
    nats = targets * (2 + torch.rand(20_000) + targets / 400)
    population_loss = (nats.sum() / targets.sum()).item()
    metric = metrics.TextLoss(keep_in_memory=True)
    covered = 0
    for _ in range(400):
        rows = torch.randint(20_000, (60,))
        results = metric.compute(nats=nats[rows].tolist(), targets=targets[rows].tolist(), num_bytes=1)
        covered += abs(results["token_loss"] - population_loss) <= results["token_loss_margin"]
    assert 0.92 < covered / 400 < 0.98


def test_the_margin_of_a_single_row_is_zero(metric):
    assert metric.compute(nats=[3.0], targets=[2], num_bytes=5)["token_loss_margin"] == 0


def test_added_batches_are_one_corpus(metric):
    metric.add_batch(nats=[1.0, 2.0], targets=[2, 3])
    metric.add_batch(nats=[4.0], targets=[5])
    assert metric.compute(num_bytes=7)["token_loss"] == pytest.approx(0.7)


def test_the_interval_covers_the_accuracy_of_the_population_in_19_of_20_samples():
    rng = np.random.default_rng(0)
    covered = 0
    for right in rng.random((200, 100)) < 0.7:
        low, high = with_intervals(lambda indices: {"accuracy": right[indices].mean()}, 100)["accuracy_interval"]  # noqa: B023
        covered += low <= 0.7 <= high
    assert 0.92 < covered / 200 < 0.98


def test_the_interval_agrees_with_scipy_and_is_reproducible():
    values = np.random.default_rng(0).exponential(size=500)
    results = with_intervals(lambda indices: {"mean": values[indices].mean()}, 500)
    expected = scipy.stats.bootstrap((values,), np.mean, method="percentile", n_resamples=10_000).confidence_interval
    width = expected.high - expected.low
    assert results["mean"] == values.mean()
    assert results["mean_interval"] == pytest.approx([*expected], abs=0.1 * width)  # noise of 1000 samples: 0.03
    assert with_intervals(lambda indices: {"mean": values[indices].mean()}, 500) == results


@pytest.mark.parametrize("name", sorted(EXAMPLES.keys() - {"TextLoss"}))
def test_a_single_example_has_scores_but_no_interval(name):
    inputs = {key: values[:1] for key, values in EXAMPLES[name][1].items()}
    results = compute(name, **inputs)
    assert len([value for value in results.values() if isinstance(value, float)]) >= 2
    assert not [key for key in results if key.endswith("_interval")]


@pytest.mark.parametrize(
    ("language", "tokenizer"), [("zh", "zh"), ("zh_Hant", "zh"), ("zh-CN", "zh"), ("en", "13a"), ("de", "13a")]
)
def test_translation_scores_equal_those_of_sacrebleu(language, tokenizer):
    words = "他 在 家 里, 看 书。 don't U.S. (the cat) 3.5 $5 her-self".split()
    predictions, references = sentences(words, 40, seed=0), sentences(words, 40, seed=1)
    scores = compute("TranslationQuality", predictions=predictions, references=references, language=language)
    bleu = sacrebleu.BLEU(tokenize=tokenizer)
    assert scores["bleu"] == pytest.approx(bleu.corpus_score(predictions, [references]).score, rel=1e-12)
    assert scores["chrf"] == pytest.approx(sacrebleu.corpus_chrf(predictions, [references]).score, rel=1e-12)
    assert scores["signature"].startswith(f"BLEU|{bleu.get_signature()}, chrF2|nrefs:1|")


def test_intervals_of_bleu_and_chrf_agree_with_sacrebleu():
    words = "the cat sat on a mat and then it ran".split()
    predictions, references = sentences(words, 200, seed=0), sentences(words, 200, seed=1)
    scores = compute("TranslationQuality", predictions=predictions, references=references, language="en")
    for name, metric in {"bleu": sacrebleu.BLEU(), "chrf": sacrebleu.CHRF()}.items():
        expected = metric.corpus_score(predictions, [references], n_bootstrap=1000)
        low, high = scores[f"{name}_interval"]
        assert (low + high) / 2 == pytest.approx(expected._mean, abs=0.2 * float(expected._ci))
        assert (high - low) / 2 == pytest.approx(expected._ci, rel=0.2)


def test_japanese_without_mecab_is_scored_on_characters(monkeypatch):
    monkeypatch.setattr("sacrebleu.tokenizers.tokenizer_ja_mecab.MeCab", None)
    signature = compute("TranslationQuality", predictions=["猫"], references=["猫"], language="ja")["signature"]
    assert "tok:char" in signature


def test_rouge_equals_the_mean_of_rouge_score():
    words = "running runs ran The the cats cat generously skies dying it's 42 well_known e.g. “quoted” m/s".split()
    predictions, references = sentences(words, 40, seed=0), sentences(words, 40, seed=1)
    scores = compute("Rouge", predictions=predictions, references=references)
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    expected = [scorer.score(*pair) for pair in zip(references, predictions)]
    for name in ("rouge1", "rouge2", "rougeL"):
        mean = np.mean([100 * score[name].fmeasure for score in expected])
        assert scores[name.lower()] == pytest.approx(mean, rel=1e-12)


def test_rouge_counts_characters_where_words_have_no_spaces():
    """小猫睡觉 and 小狗睡觉 share 3 of 4 characters, and 1 of 3 pairs (睡觉); punctuation is not a token."""
    pair = {"predictions": ["小猫，睡觉。"], "references": ["小狗睡觉"]}
    for tokenizer in ("words", "characters"):
        scores = compute("Rouge", **pair, tokenizer=tokenizer)
        assert [scores[name] for name in ("rouge1", "rouge2", "rougel")] == pytest.approx([75, 100 / 3, 75])
    with pytest.raises(ValueError, match=r"'bytes'; choose one of words, characters"):
        compute("Rouge", **pair, tokenizer="bytes")


def test_rouge_counts_whole_words_where_words_have_spaces():
    """One of three words is shared. Were letters outside a to z spaces, or marks, the words would share pieces."""
    for prediction, reference in [
        ("żółty kot śpi", "żółw kot śnił"),
        ("кошка сидит дома", "кошки сидят дома"),
        ("हिन्दी में किताब", "हिन्दू मैं किताब"),
        ("می‌خواهم آن کتاب", "می‌رود این کتاب"),
    ]:
        scores = compute("Rouge", predictions=[prediction], references=[reference])
        assert scores["rouge1"] == pytest.approx(100 / 3)
    mixed = compute("Rouge", predictions=["running GPT-2 模型"], references=["runs GPT 型模"])
    assert mixed["rouge1"] == pytest.approx(100 * 2 * (4 / 5) * (4 / 4) / (4 / 5 + 4 / 4))


@pytest.mark.parametrize(("script", "text"), SCRIPTS.items())
def test_an_identical_text_is_perfect_in_every_script(script, text):
    decomposed = unicodedata.normalize("NFD", text)
    rouge = compute("Rouge", predictions=[decomposed], references=[text])
    assert [rouge[name] for name in ("rouge1", "rouge2", "rougel")] == [100, 100, 100]
    answers = compute("SpanAnswers", predictions=[f"«{decomposed}»"], references=[[text]])
    assert (answers["exact_match"], answers["f1"]) == (100, 100)
    language = script_language([text])
    assert language == {"Latin": "en"}.get(script, script if len(script) == 2 else "en")
    quality = compute("TranslationQuality", predictions=[text[:-2], text], references=[text, text], language=language)
    assert quality["bleu"] > 40
    assert quality["chrf"] > 40


def test_the_script_of_most_letters_decides():
    assert script_language(["GPT-2 学习中文模型"]) == "zh"
    assert script_language(["the word 猫 means cat"]) == "en"
    assert script_language(["東京都の大学"]) == "ja"
    assert script_language(["123 !", ""]) == script_language([]) == "en"


@pytest.mark.parametrize(
    ("language", "tokenizer"), [("th", "char"), ("km-KH", "char"), ("my", "char"), ("ko", "13a"), ("hi", "13a")]
)
def test_bleu_has_words_or_characters_in_every_language(language, tokenizer, monkeypatch):
    monkeypatch.setattr("sacrebleu.tokenizers.tokenizer_ko_mecab.MeCab", None, raising=False)
    monkeypatch.setitem(sys.modules, "mecab_ko", None)
    scores = compute("TranslationQuality", predictions=["a"], references=["a"], language=language)
    assert f"tok:{tokenizer}|" in scores["signature"]


@pytest.mark.parametrize("classes", [1, 2, 5])
def test_classification_scores_equal_those_of_scikit_learn(classes):
    rng = np.random.default_rng(classes)
    references = rng.integers(classes, size=60) * 3 - 1  # class numbers with gaps
    predictions = np.where(rng.random(60) < 0.5, references, rng.integers(classes, size=60))
    scores = compute("Classification", predictions=predictions, references=references)
    assert scores["accuracy"] == pytest.approx(100 * sklearn.metrics.accuracy_score(references, predictions))
    assert scores["macro_f1"] == pytest.approx(
        100 * sklearn.metrics.f1_score(references, predictions, average="macro")
    )
    assert scores["mcc"] == pytest.approx(sklearn.metrics.matthews_corrcoef(references, predictions))


def test_intervals_of_classification_agree_with_resampled_examples():
    references = np.array([0] * 20 + [1] * 15 + [2] * 5)
    predictions = np.where(np.arange(40) % 3, references, (references + 1) % 3)
    samples = np.random.default_rng(7).integers(40, size=(300, 40))
    macro = [100 * sklearn.metrics.f1_score(references[s], predictions[s], average="macro") for s in samples]
    mcc = [sklearn.metrics.matthews_corrcoef(references[s], predictions[s]) for s in samples]
    scores = compute("Classification", predictions=predictions, references=references)
    assert scores["macro_f1_interval"] == pytest.approx([*np.percentile(macro, [2.5, 97.5])], abs=4)
    assert scores["mcc_interval"] == pytest.approx([*np.percentile(mcc, [2.5, 97.5])], abs=0.06)


def test_a_class_absent_from_a_resample_does_not_lower_the_score():
    """The single example of a class is absent from about a third of the resamples."""
    classes = [0] * 20 + [1]
    assert compute("Classification", predictions=classes, references=classes)["macro_f1_interval"] == [100, 100]


def test_the_correlation_of_constant_predictions_is_zero():
    scores = compute("Classification", predictions=[0, 0, 0, 0], references=[0, 0, 0, 1])
    assert (scores["accuracy"], scores["mcc"], scores["mcc_interval"]) == (75, 0, [0, 0])
    assert scores["macro_f1"] == pytest.approx(100 * (6 / 7 + 0) / 2)


@pytest.mark.parametrize(
    ("prediction", "references", "exact_match", "f1"),
    [
        ("The  Eiffel Tower!", ["eiffel tower"], 100, 100),
        ("the Eiffel tower in Paris", ["Eiffel Tower", "Paris"], 0, 100 * 2 * (2 / 4) / (2 / 4 + 1)),
        ("a.m.", ["AM"], 100, 100),  # punctuation is removed before articles
        ("“the” well-known", ["wellknown"], 100, 100),  # quotation marks that are not ASCII, around an article
        ("北京大学。", ["北京 大学"], 100, 100),  # spaces between characters of a script without spaces
        ("北京大学", ["北京市"], 0, 100 * 2 * (2 / 4) * (2 / 3) / (2 / 4 + 2 / 3)),
        ("ไทยรบ", ["ไทย"], 0, 100 * 2 * (3 / 5) / (3 / 5 + 1)),
        ("¿Qué?", ["qué"], 100, 100),
        ("$5", ["5"], 100, 100),
        ("an theory", ["theory an an"], 100, 100),
        ("cat cat dog", ["cat dog dog"], 0, 100 * 2 / 3),  # a repeated word counts as often as both have it
        ("Rome", ["Milan"], 0, 0),
        ("", ["Rome"], 0, 0),
        ("Rome", [], 0, 0),
        ("", [], 100, 100),
        ("the", [], 100, 100),
        ("Rome", ["the", "Rome"], 100, 100),
        ("", ["the", "Rome"], 0, 0),
    ],
)
def test_answer_scores_equal_those_computed_by_hand(prediction, references, exact_match, f1):
    scores = compute("SpanAnswers", predictions=[prediction], references=[references])
    assert (scores["exact_match"], scores["f1"]) == pytest.approx((exact_match, f1))


def test_answer_scores_equal_those_of_the_squad_script():
    squad = pytest.importorskip("transformers.data.metrics.squad_metrics")  # in transformers 5.17, not in 5.24
    pieces = ["the", "The ", "a", "an", " ", "-", ".", "Rome", "rome ", "$", "'s", "_", "é", "\t", "an\u00a0"]
    rng = random.Random(0)

    def text():
        return "".join(rng.choices(pieces, k=rng.randint(0, 5)))

    for _ in range(3000):
        prediction, references = text(), [text() for _ in range(rng.randint(0, 3))]
        gold = [answer for answer in references if squad.normalize_answer(answer)] or [""]
        exact_match, f1 = answer_scores(prediction, references)
        assert exact_match == 100 * max(squad.compute_exact(answer, prediction) for answer in gold)
        assert f1 == pytest.approx(100 * max(squad.compute_f1(answer, prediction) for answer in gold))


def test_questions_without_an_answer_have_their_own_scores():
    answered = {"predictions": ["Rome", "in Rome", ""], "references": [["Rome"], ["Rome"], ["Milan"]]}
    assert set(compute("SpanAnswers", **answered)) == {"exact_match", "f1", "exact_match_interval", "f1_interval"}
    both = {"predictions": [*answered["predictions"], "", "Rome"], "references": [*answered["references"], [], []]}
    scores = compute("SpanAnswers", **both)
    assert scores["exact_match"] == pytest.approx(40)
    assert scores["has_answer_exact_match"] == pytest.approx(100 / 3)
    assert scores["has_answer_f1"] == pytest.approx((100 + 200 / 3) / 3)
    assert scores["no_answer_accuracy"] == 50
    assert "has_answer_f1" not in compute("SpanAnswers", predictions=["Rome"], references=[[]])
