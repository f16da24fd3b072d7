"""Data from docstrings, of small packages that the tests write: nothing here reads the installed ones."""

import random
import re
import sysconfig
from collections import Counter, defaultdict

import datasets
import pytest
from datasets import Dataset

from modeling_mini.data.builtin import docstrings
from modeling_mini.data.builtin.docstrings import fields, pairs, questions, read_docstrings, summaries, texts


WORDS = "axis shape order copy dtype weight bias stride kernel device margin scale offset window alpha beta".split()
SHARED_SUMMARY = "Return the state of this object."


@pytest.fixture
def write(tmp_path):
    def write_file(path, source):
        path = tmp_path / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
        return path

    return write_file


@pytest.fixture(scope="module")
def records():
    """Two packages of 80 modules with 5 functions each, of which one repeats a summary of all modules."""
    draw, rows = random.Random(0), []
    for package in ("networkx", "pandas"):
        for module in (f"{package}.part{i}" for i in range(80)):
            for name in "abcde":
                first, second, third = draw.sample(WORDS, 3)
                summary = SHARED_SUMMARY if name == "a" else f"Compute {first} from {second} as {module}.{name} does."
                docstring = (
                    f"{summary}\n\nWhat {module}.{name} returns has never been seen anywhere else, and is not kept."
                    f"\n\nParameters\n----------\n{second} : int, optional\n    The {second} to read. Default: 3."
                    f"\n{third} : str\n    The {third} that is left as it is.\n\nReturns\n-------\nfloat"
                )
                rows.append({"package": package, "module": module, "name": name, "docstring": docstring})
    return Dataset.from_list(rows)


def one_record(docstring, module="networkx.part"):
    return Dataset.from_list([{"package": "networkx", "module": module, "name": "f", "docstring": docstring}])


def all_rows(data_sets):
    return [row for split in data_sets.values() for row in split]


def test_docstrings_come_top_to_bottom_with_the_names_of_what_they_document(write, tmp_path):
    source = '"""Module."""\nraise SystemExit\nclass A:\n    """Class."""\n    def f(self):\n        """Method."""\n'
    write("pkg/__init__.py", source + 'if True:\n    def g():\n        def h():\n            """Inner."""\n')
    write("pkg/sub/m.py", 'async def k():\n    """Coroutine."""\n')
    found = [(row["module"], row["name"], row["docstring"]) for row in read_docstrings({"pkg": tmp_path / "pkg"})]
    assert found == [
        ("pkg", "", "Module."),
        ("pkg", "A", "Class."),
        ("pkg", "A.f", "Method."),
        ("pkg", "g.h", "Inner."),
        ("pkg.sub.m", "k", "Coroutine."),
    ]


def test_tests_vendored_code_and_files_that_do_not_parse_are_left_out(write, tmp_path):
    for path in ("tests/a.py", "_vendor/b.py", "sub/externals/c.py", "conftest.py"):
        write(f"pkg/{path}", f'"""In {path}."""')
    write("pkg/broken.py", '"""Broken."""\nprint "2"')
    write("pkg/kept.py", '"""Kept."""')
    assert [row["docstring"] for row in read_docstrings({"pkg": tmp_path / "pkg"})] == ["Kept."]


def test_a_docstring_that_packages_share_is_kept_once_and_the_standard_library_has_no_prefix(write, tmp_path):
    write("std/os.py", '"""The same  text."""')
    write("pkg/os.py", '"""the same\ntext."""')
    roots = {docstrings.STANDARD_LIBRARY: tmp_path / "std", "pkg": tmp_path / "pkg"}
    assert [row["module"] for row in read_docstrings(roots)] == ["os"]


def test_installed_docstrings_are_cached_by_version_and_name_what_is_missing(write, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(docstrings, "PACKAGES", {"nowhere": "no-such-distribution"})
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / "std"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    write("std/os.py", '"""Old."""')
    assert docstrings.installed_docstrings()["docstring"] == ["Old."]
    assert [record.args for record in caplog.records if record.name == docstrings.__name__] == [
        ("no-such-distribution",)
    ]
    write("std/os.py", '"""New."""')
    assert docstrings.installed_docstrings()["docstring"] == ["Old."]
    monkeypatch.setattr("sys.version", "another")
    assert docstrings.installed_docstrings()["docstring"] == ["New."]


def test_a_module_belongs_to_the_same_split_everywhere(records):
    splits = defaultdict(set)
    for make, column in ((texts, "text"), (summaries, "document"), (questions, "context"), (pairs, "text")):
        for split, rows in make(records).items():
            for text in rows[column]:
                splits[re.search(r"\w+\.part\d+", text)[0]].add(split)
    for split, rows in fields(records).items():
        for text in rows["text"]:
            splits[re.search(r"\w+\.part\d+", text)[0]].add(split)
    assert len(splits) == 160
    assert {len(found) for found in splits.values()} == {1}


def test_splits_depend_on_the_names_of_modules_alone(records):
    """Written down, as a split that changed from process to process would let test text into training."""
    found = re.findall(r"Compute \w+ from \w+ as networkx\.part(\d+)", " ".join(texts(records)["test"]["text"]))
    assert sorted(map(int, set(found))) == [4, 26, 30, 46, 56, 58]


def test_no_text_that_is_learnt_stands_in_a_later_split(records):
    body = "The same body under another summary, which neither of the two packages wrote for itself, it seems so."
    copies = [{**row, "docstring": f"Copy the body for {row['module']}.{row['name']}.\n\n{body}"} for row in records]
    found = summaries(Dataset.from_list([*records, *copies]))
    for column, shared in (("summary", SHARED_SUMMARY), ("document", body)):
        train, validation, test = (set(found[split][column]) for split in ("train", "validation", "test"))
        assert shared in train
        assert validation
        assert test
        assert not train & validation
        assert not (train | validation) & test


def test_a_document_of_a_module_is_its_docstrings_in_order(records):
    wanted = records.filter(lambda module: module == "pandas.part7", input_columns="module")["docstring"]
    assert "\n\n".join(wanted) in [row["text"] for row in all_rows(texts(records))]


@pytest.mark.parametrize(
    ("docstring", "kept"),
    [
        ("Sort the rows\nof a table.\n\n" + "x" * 100, True),
        ("Sort the rows of a table\n\n" + "x" * 100, False),  # no sentence
        ("Sort it.\n\n" + "x" * 100, False),
        ("Sort the rows of a table.\n\n" + "x" * 99, False),
        ("Sort the rows of a table.\n\nTo sort the  rows of a table.\n" + "x" * 100, False),  # says it again
    ],
)
def test_summaries_are_sentences_of_documents_that_do_not_repeat_them(docstring, kept):
    rows = all_rows(summaries(one_record(docstring)))
    assert rows == ([{"document": "x" * 100, "summary": "Sort the rows of a table."}] if kept else [])


NUMPY = "Sort.\n\nParameters\n----------\n{}\n\nReturns\n-------\nother : list\n    What is sorted now."
GOOGLE = "Sort.\n\nArgs:\n    {}\n\nReturns:\n    other (list): what is sorted now."


@pytest.mark.parametrize(
    ("docstring", "answers"),
    [
        (NUMPY.format("x : int or None, optional\n    The axis to sort. More."), ["The axis to sort", "int or None"]),
        (NUMPY.format("x : {'a', 'b'}, default='a'"), ["a", "{'a', 'b'}"]),
        (NUMPY.format("x : float (default 1e-3)"), ["1e-3", "float"]),
        (NUMPY.format("x : int\n    A row, e.g. 1\n    or. By default `3`."), ["3", "A row, e.g. 1\n    or", "int"]),
        (NUMPY.format("x : bool, default=True\n    Default is True."), ["True", "bool"]),
        (NUMPY.format("x : int, default=1\n    Defaults to 2."), ["int"]),  # which one is it?
        (NUMPY.format("x : float, default=1 / n"), ["float"]),
        (NUMPY.format("x : bool\n    Defaults to True if sorted."), ["bool"]),
        (NUMPY.format("x : (int,\n    int)"), []),
        (GOOGLE.format("x (int, optional): the axis to sort. Default: -1"), ["-1", "int", "the axis to sort"]),
        (GOOGLE.format("x (Tuple[int, int]): a pair\n        of ids"), ["Tuple[int, int]", "a pair\n        of ids"]),
        (GOOGLE.format("x: the axis to sort (default: ``0.5``)."), ["0.5", "the axis to sort (default: ``0.5``)"]),
        ("Sort.\n\nx : int\n    No section of parameters.", []),
    ],
)  # fmt: skip
def test_answers_are_the_type_the_default_and_the_meaning(docstring, answers):
    rows = all_rows(questions(one_record(docstring)))
    assert sorted(text for row in rows for text in row["answers"]["text"]) == answers
    assert all("`x`" in row["question"] for row in rows)


def test_answers_are_spans_of_contexts_that_keep_their_parameters():
    parameters = "\n".join(f"p{i} : kind{i}\n    The meaning of number {i}." for i in range(100))
    middle = "\n".join(["A line that explains it all."] * 100)
    docstring = f"Sort.\n\n{middle}\n\nParameters\n----------\n{parameters}"
    rows = all_rows(questions(one_record(docstring)))
    assert len(rows) == 6
    for row in rows:
        (text,), (start,) = row["answers"]["text"], row["answers"]["answer_start"]
        assert row["context"][start : start + len(text)] == text
        assert len(row["context"]) <= 600
        number = re.search(r"`p(\d+)`", row["question"])[1]
        assert text in (f"kind{number}", f"The meaning of number {number}")


def test_some_questions_name_a_parameter_of_another_docstring(records):
    rows = all_rows(questions(records))
    unanswerable = [row for row in rows if not row["answers"]["text"]]
    assert 0.12 < len(unanswerable) / len(rows) < 0.18
    for row in unanswerable:
        name = re.search(r"`(\w+)`", row["question"])[1]
        assert name in WORDS
        assert name not in re.findall(r"\w+", row["context"])
    assert len({row["id"] for row in rows}) == len(rows)
    assert all("`" not in row["question"].replace("`", "", 2) for row in rows)


def test_each_document_and_each_summary_stands_once_with_each_label(records):
    rows = all_rows(pairs(records))
    for column in ("text", "text_pair"):
        labels = defaultdict(list)
        for row in rows:
            labels[row[column]].append(row["label"])
        assert {tuple(sorted(found)) for found in labels.values()} == {(0, 1)}


def test_wrong_summaries_come_from_the_package_and_half_of_them_from_the_module(records):
    near = Counter()
    for row in all_rows(pairs(records)):
        own, other = (re.search(r"(\w+)\.part\d+", row[column]) for column in ("text", "text_pair"))
        if row["label"] == 0 and other:
            assert own[1] == other[1]
            near[own[0] == other[0]] += 1
        elif other:
            assert row["text_pair"].endswith(re.search(r"\w+\.part\d+\.\w", row["text"])[0] + " does.")
    assert 0.4 < near[True] / near.total() < 0.6


def test_the_nearest_package_above_names_the_field():
    text = "Draws what it is given with the colours that it is given, unless there is nothing to be drawn at all."
    for module, field in (
        ("networkx.drawing.layout", "plotting"),
        ("networkx.classes", "graphs"),
        ("nowhere.x", None),
    ):
        found = fields(one_record(f"{text}\n\n>>> draw()\n\nParameters\n----------\nx : int", module))
        label = found["train"].features["label"]
        assert [(row["text"], label.int2str(row["label"])) for row in all_rows(found)] == (
            [(text, field)] if field else []
        )


def test_a_field_has_no_more_rows_than_its_share(records, monkeypatch):
    monkeypatch.setattr(docstrings, "_MOST_OF_A_FIELD", {"train": 20, "validation": 3, "test": 2})
    found = fields(records)
    assert {split: Counter(rows["label"]).most_common(1)[0][1] for split, rows in found.items()} == {
        "train": 20,
        "validation": 3,
        "test": 2,
    }
