"""The benchmark of the applications: its data sets from files of other packages, and its table."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import Dataset

from modeling_mini.training.locking import locked


BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

NOUNS = """  1 This line belongs to the licence.
00000001 03 n 01 entity 0 000 | that which exists
00000002 05 n 02 animal 0 beast 0 001 @ 00000001 n 0000 | a living thing that moves; "the animal ran"
00000003 05 n 01 dog 0 001 @ 00000002 n 0000 | an animal that barks
00000004 20 n 01 oak_tree 0 001 @ 00000001 n 0000 | a plant that bears acorns
00000005 20 n 01 oak 0 001 @ 00000004 n 0000 | a plant that bears acorns
"""


@pytest.fixture
def data_sets(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import data_sets

    return data_sets


@pytest.fixture
def wordnet(tmp_path):
    (tmp_path / "data.noun").write_text(NOUNS)
    return tmp_path


def examples(rows):
    return [example for _, example in rows]


def test_supersenses(data_sets, wordnet):
    assert examples(data_sets.supersenses(wordnet)) == [
        {"text": "a living thing that moves", "label": "animal"},
        {"text": "an animal that barks", "label": "animal"},
        {"text": "a plant that bears acorns", "label": "plant"},
    ]


def test_each_definition_has_a_true_and_a_false_kind(data_sets, wordnet):
    rows = examples(data_sets.kinds(wordnet))
    by_text = {}
    for row in rows:
        by_text.setdefault(row["text"], {})[row["label"]] = row["text_pair"]
    assert by_text["a plant that bears acorns"] == {
        "entailment": "It is a plant.",
        "not_entailment": "It is an animal.",
    }
    assert all(len(labels) == 2 for labels in by_text.values())


def test_answers_are_words_of_the_definition(data_sets, wordnet):
    (row,) = examples(data_sets.hypernyms(wordnet))
    assert row["question"] == "What kind of thing is dog?"
    assert row["context"] == "dog: an animal that barks"
    assert row["answers"] == {"text": ["animal"], "answer_start": [row["context"].index("animal")]}


def test_reviews(data_sets, tmp_path):
    (tmp_path / "rt-polarity.pos").write_text("moving .\n")
    (tmp_path / "rt-polarity.neg").write_text("dull .\n")
    assert {(row["text"], row["label"]) for row in examples(data_sets.reviews(tmp_path))} == {
        ("moving .", "positive"),
        ("dull .", "negative"),
    }


def test_sentiment(data_sets, tmp_path):
    dull, neutral = "(1 (2 It) (1 (2 is) (1 dull)))", "(2 (2 A) (3 hit))"
    (tmp_path / "train.txt").write_text(f"(3 (3 (2 -LRB-) (3 moving)) (2 and\\/or))\n{dull}\n{neutral}\n")
    (tmp_path / "dev.txt").write_text(f"{dull}\n{neutral}\n")
    (tmp_path / "test.txt").write_text("(4 moving)\n")
    assert list(data_sets.sentiment(tmp_path)) == [
        ("test", {"text": "moving", "label": "positive"}),
        ("validation", {"text": "It is dull", "label": "negative"}),
        ("train", {"text": "( moving and/or", "label": "positive"}),
        ("train", {"text": "( moving", "label": "positive"}),
    ]


def test_emotions(data_sets, tmp_path):
    (tmp_path / "train.txt").write_text("i feel low;sadness\ni feel calm; still;joy\n")
    (tmp_path / "val.txt").write_text("i feel low;anger\n\n")
    (tmp_path / "test.txt").write_text("i feel odd;surprise\n")
    assert list(data_sets.emotions(tmp_path)) == [
        ("test", {"text": "i feel odd", "label": "surprise"}),
        ("validation", {"text": "i feel low", "label": "anger"}),
        ("train", {"text": "i feel calm; still", "label": "joy"}),
    ]


def test_fields_of_another_fold(data_sets, monkeypatch):
    text = "Compute the shortest path between two nodes of a graph and return its length, as part {} does."
    modules = [f"networkx.part{number}" for number in range(200)]
    records = [{"module": name, "docstring": text.format(number)} for number, name in enumerate(modules)]
    monkeypatch.setattr(data_sets.docstrings, "installed_docstrings", lambda: Dataset.from_list(records))
    folds = [list(data_sets.fields(Path(number))) for number in "1234"]
    assert all(sum(split == "train" for split, _ in fold) > 150 for fold in folds)
    tested = [row["text"] for fold in folds for split, row in fold if split == "test"]
    assert len(tested) == len(set(tested)) > 40, "a text is in one test split only"
    with pytest.raises(SystemExit, match="SOURCE 5: choose a fold from 1 to 4"):
        list(data_sets.fields(Path("5")))


def test_questions_on_whole_docstrings(data_sets, monkeypatch):
    entry = "{} : int\n    The number of steps that the algorithm takes before it stops.\n"
    docstring = "Search.\n\nParameters\n----------\n" + "".join(entry.format(f"name_{n}") for n in range(30))
    records = [
        {"module": "networkx.a", "name": "a", "package": "networkx", "docstring": docstring},
        {"module": "networkx.b", "name": "b", "package": "networkx", "docstring": docstring[:150] + "the end."},
    ]
    monkeypatch.setattr(data_sets.docstrings, "installed_docstrings", lambda: Dataset.from_list(records))
    rows = [row for _, row in data_sets.whole_docstrings(Path("900"))]
    assert {row["context"] for row in rows} == {docstring.strip()}
    assert any(start > 900 for row in rows for start in row["answers"]["answer_start"])
    with pytest.raises(SystemExit, match="SOURCE long: give a number of characters"):
        list(data_sets.whole_docstrings(Path("long")))


@pytest.fixture
def splits_by_name(data_sets, monkeypatch):
    """Each name is a split of its own, so that a test sees the name that decides."""
    monkeypatch.setattr(data_sets, "split_of", lambda name: name)


@pytest.mark.usefixtures("splits_by_name")
def test_the_definition_decides_the_split(data_sets, wordnet):
    for rows in (data_sets.supersenses(wordnet), data_sets.kinds(wordnet)):
        assert all(name == example["text"] for name, example in rows)
    assert [name for name, _ in data_sets.hypernyms(wordnet)] == ["an animal that barks"]


@pytest.mark.usefixtures("splits_by_name")
def test_film_texts(data_sets, tmp_path):
    (tmp_path / "train" / "unsup").mkdir(parents=True)
    (tmp_path / "train" / "unsup" / "7_0.txt").write_text("Silent.<br /><br />Two  jail birds.\n", encoding="utf-8")
    assert list(data_sets.film_texts(tmp_path)) == [("7_0.txt", {"text": "Silent.\nTwo jail birds."})]


@pytest.mark.usefixtures("splits_by_name")
def test_operations(data_sets, tmp_path):
    folder = tmp_path / "botocore" / "data" / "ec2" / "2016-11-15"
    folder.mkdir(parents=True)
    rest = "You can stop it later &amp; start it again, which keeps its volumes and its addresses but not its memory."
    documentation = f"<p>Starts an instance that was stopped before.</p> <p>{rest}</p>"
    operations = {"StartInstances": {"documentation": documentation}, "Short": {"documentation": "<p>Ends.</p>"}}
    (folder / "service-2.json.gz").write_bytes(gzip.compress(json.dumps({"operations": operations}).encode()))
    assert list(data_sets.operations(tmp_path)) == [
        ("ec2", {"document": rest.replace("&amp;", "&"), "summary": "Starts an instance that was stopped before."})
    ]


@pytest.mark.usefixtures("splits_by_name")
def test_packages(data_sets, monkeypatch, tmp_path):
    english = {"1": ("libfoo-dev", ["a library", "One.", "Two."]), "2": ("bar", ["a tool", "One."])}
    german = {"1": ("libfoo-dev", ["eine Bibliothek", "Eins.", "Zwei."]), "2": ("bar", ["ein Werkzeug"])}
    monkeypatch.setattr(data_sets, "descriptions", lambda _, language: {"en": english, "de": german}[language])
    rows = list(data_sets.packages(tmp_path))
    assert [name for name, _ in rows] == ["foo", "foo", "foo", "bar"]
    assert rows[-1][1] == {"source": "a tool", "target": "ein Werkzeug"}


def test_a_text_is_in_one_split_only(data_sets, tmp_path):
    rows = [(data_sets.split_of(f"name {number // 2}"), {"text": str(number)}) for number in range(2000)]
    sizes = data_sets.write(iter(rows), tmp_path)
    assert sum(sizes.values()) == 2000
    assert 0.8 < sizes["train"] / 2000 < 0.92
    split_of = {}
    for split in ("train", "validation", "test"):
        for line in (tmp_path / f"{split}.jsonl").read_text().splitlines():
            split_of[int(json.loads(line)["text"])] = split
    assert all(split_of[number] == split_of[number + 1] for number in range(0, 2000, 2))


def test_a_folder_without_the_files_is_refused(tmp_path):
    command = [sys.executable, BENCHMARKS / "data_sets.py", "supersenses", tmp_path, "--output", tmp_path / "out"]
    finished = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert finished.returncode == 2
    assert f"SOURCE {tmp_path}: there is no data.noun in it." in finished.stderr


@pytest.fixture
def applications(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import applications

    return applications


def finished_run(folder, baseline, model):
    (folder / "test").mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps({"train_seconds": 120}))
    constant = dict.fromkeys(baseline, 0.0)
    systems = {"most frequent label": constant, "bag of words": baseline, "the model": model}
    results = {"task": "text-classification", "dataset": "data/labels.csv", "split": "test", "systems": systems}
    (folder / "test" / "results.json").write_text(json.dumps(results))


def test_what_is_below_a_baseline_stands_first(applications, tmp_path):
    baseline = {"accuracy": 75.0, "macro_f1": 71.0, "mcc": 0.5}
    finished_run(tmp_path / "fields" / "1", baseline, {"accuracy": 76.0, "macro_f1": 70.0, "mcc": 0.6})
    finished_run(tmp_path / "fields" / "2", baseline, {"accuracy": 78.0, "macro_f1": 73.0, "mcc": 0.4})
    notes, missed_f1, missed_mcc, empty, title, _, *rows = applications.table(tmp_path).splitlines()
    assert notes == "Not above every baseline with every seed:"
    assert missed_f1 == "- fields, macro f1: 71.50 (70.00 to 73.00, 2), but bag of words 71.00"
    assert missed_mcc.startswith("- fields, mcc: ")
    assert empty == ""
    assert title.startswith("| run | data | metric |")
    assert rows[0].startswith("| fields | labels.csv, test | macro f1 | 71.50 ")
    assert "| bag of words 71.00; most frequent label 0.00 |" in rows[0]
    verdicts = [row.split("|")[-2].strip() for row in rows]
    assert verdicts == ["above on average", "above", "below"]


def test_the_rows_of_the_table_can_be_listed(applications, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["applications.py", "--list"])
    applications.main()
    assert "fields: text-classification --init_from {causal}\n" in capsys.readouterr().out


def test_a_row_without_its_data_or_that_of_its_start_is_left_out(applications, monkeypatch, capsys, tmp_path):
    folders = ["--folder", str(tmp_path / "runs"), "--data", str(tmp_path / "data")]
    monkeypatch.setattr(sys, "argv", ["applications.py", "supersenses", *folders])
    applications.main()
    assert capsys.readouterr().err == f"supersenses is left out: there is no {tmp_path / 'data' / 'supersenses'}\n"

    (tmp_path / "data" / "reviews").mkdir(parents=True)
    monkeypatch.setattr(sys, "argv", ["applications.py", "reviews", *folders])
    applications.main()
    assert capsys.readouterr().err == f"reviews is left out: there is no {tmp_path / 'data' / 'film-texts'}\n"


def test_the_folder_of_a_run_in_progress_is_kept(applications, tmp_path):
    weights = tmp_path / "run" / "model.safetensors"
    with locked(weights.parent, is_first_process=True):
        weights.touch()
        with pytest.raises(SystemExit, match="^Error: .* is in use by another run"):
            applications.train(weights.parent, [])
    assert weights.exists()


def test_only_the_placeholders_of_folders_are_filled(applications):
    folders = {"causal": Path("runs/my models/pretraining")}
    filled = applications.filled('--init_from {causal} --config_overrides {"token_dropout":0.15}', folders)
    assert filled == ["--init_from", "runs/my models/pretraining", "--config_overrides", '{"token_dropout":0.15}']
