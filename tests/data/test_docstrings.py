"""Data from the docstrings of small packages that the tests write; installed packages are not read."""

import random
import re
import sysconfig
from collections import Counter, defaultdict

import datasets
import pytest
from datasets import Dataset

from modeling_mini.data.builtin import docstrings
from modeling_mini.data.builtin.docstrings import fields, questions, read_docstrings, summaries, texts


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
    """Two packages of 80 modules with 5 functions each; one function per module has the same summary everywhere."""
    rng, rows = random.Random(0), []
    for package in ("networkx", "pandas"):
        for module in (f"{package}.part{i}" for i in range(80)):
            for name in "abcde":
                first, second, third = rng.sample(WORDS, 3)
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


def test_docstrings_are_read_top_to_bottom_with_qualified_names(write, tmp_path):
    source = '"""Module."""\nraise SystemExit\nclass A:\n    """Class."""\n    def f(self):\n        """Method."""\n'
    write("pkg/__init__.py", source + 'if True:\n    def g():\n        def h():\n            """Inner."""\n')
    write("pkg/sub/m.py", 'async def k():\n    """Coroutine."""\n')
    rows = [(row["module"], row["name"], row["docstring"]) for row in read_docstrings({"pkg": tmp_path / "pkg"})]
    assert rows == [
        ("pkg", "", "Module."),
        ("pkg", "A", "Class."),
        ("pkg", "A.f", "Method."),
        ("pkg", "g.h", "Inner."),
        ("pkg.sub.m", "k", "Coroutine."),
    ]


def test_tests_vendored_code_and_unparsable_files_are_left_out(write, tmp_path):
    for path in ("tests/a.py", "_vendor/b.py", "sub/externals/c.py", "conftest.py"):
        write(f"pkg/{path}", f'"""In {path}."""')
    write("pkg/broken.py", '"""Broken."""\nprint "2"')
    write("pkg/kept.py", '"""Kept."""')
    assert [row["docstring"] for row in read_docstrings({"pkg": tmp_path / "pkg"})] == ["Kept."]


def test_a_shared_docstring_is_kept_once_and_the_standard_library_has_no_prefix(write, tmp_path):
    write("std/os.py", '"""The same  text."""')
    write("pkg/os.py", '"""the same\ntext."""')
    roots = {docstrings.STANDARD_LIBRARY: tmp_path / "std", "pkg": tmp_path / "pkg"}
    assert [row["module"] for row in read_docstrings(roots)] == ["os"]


def test_installed_docstrings_are_cached_by_version_and_log_missing_packages(write, tmp_path, monkeypatch, caplog):
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


def test_a_module_is_in_the_same_split_of_all_data_sets(records):
    splits = defaultdict(set)
    for make, column in ((texts, "text"), (summaries, "document"), (questions, "context")):
        for split, rows in make(records).items():
            for text in rows[column]:
                splits[re.search(r"\w+\.part\d+", text)[0]].add(split)
    for split, rows in fields(records).items():
        for text in rows["text"]:
            splits[re.search(r"\w+\.part\d+", text)[0]].add(split)
    assert len(splits) == 160
    assert {len(names) for names in splits.values()} == {1}


def test_splits_depend_only_on_the_names_of_modules(records):
    """Fixed numbers: if the split changed between processes, training would read test text."""
    modules = re.findall(r"Compute \w+ from \w+ as networkx\.part(\d+)", " ".join(texts(records)["test"]["text"]))
    assert sorted(map(int, set(modules))) == [4, 26, 30, 46, 56, 58]


def test_no_text_of_a_split_is_in_a_later_split(records):
    body = "The same body under another summary, which neither of the two packages wrote for itself, it seems so."
    copies = [{**row, "docstring": f"Copy the body for {row['module']}.{row['name']}.\n\n{body}"} for row in records]
    splits = summaries(Dataset.from_list([*records, *copies]))
    for column, shared in (("summary", SHARED_SUMMARY), ("document", body)):
        train, validation, test = (set(splits[split][column]) for split in ("train", "validation", "test"))
        assert shared in train
        assert validation
        assert test
        assert not train & validation
        assert not (train | validation) & test


def test_a_document_has_the_docstrings_of_a_module_in_order(records):
    docstrings_of_module = records.filter(lambda module: module == "pandas.part7", input_columns="module")["docstring"]
    assert "\n\n".join(docstrings_of_module) in [row["text"] for row in all_rows(texts(records))]


@pytest.mark.parametrize(
    ("docstring", "is_used"),
    [
        ("Sort the rows\nof a table.\n\n" + "x" * 100, True),
        ("Sort the rows of a table\n\n" + "x" * 100, False),  # no full stop
        ("Sort it.\n\n" + "x" * 100, False),
        ("Sort the rows of a table.\n\n" + "x" * 99, False),
        ("Sort the rows of a table.\n\nTo sort the  rows of a table.\n" + "x" * 100, False),  # repeats the summary
    ],
)
def test_a_summary_is_a_sentence_that_its_document_does_not_repeat(docstring, is_used):
    rows = all_rows(summaries(one_record(docstring)))
    assert rows == ([{"document": "x" * 100, "summary": "Sort the rows of a table."}] if is_used else [])


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
        (NUMPY.format("x : int, default=1\n    Defaults to 2."), ["int"]),  # ambiguous
        (NUMPY.format("x : float, default=1 / n"), ["float"]),
        (NUMPY.format("x : bool\n    Defaults to True if sorted."), ["bool"]),
        (NUMPY.format("x : (int,\n    int)"), []),
        (GOOGLE.format("x (int, optional): the axis to sort. Default: -1"), ["-1", "int", "the axis to sort"]),
        (GOOGLE.format("x (Tuple[int, int]): a pair\n        of ids"), ["Tuple[int, int]", "a pair\n        of ids"]),
        (GOOGLE.format("x: the axis to sort (default: ``0.5``)."), ["0.5", "the axis to sort (default: ``0.5``)"]),
        ("Sort.\n\nx : int\n    No section of parameters.", []),
    ],
)  # fmt: skip
def test_answers_are_types_defaults_and_meanings(docstring, answers):
    rows = all_rows(questions(one_record(docstring)))
    assert sorted(text for row in rows for text in row["answers"]["text"]) == answers
    assert all("`x`" in row["question"] for row in rows)


def test_answers_are_spans_and_a_truncated_context_keeps_its_parameters():
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


def test_unanswerable_questions_name_a_parameter_of_another_docstring(records):
    rows = all_rows(questions(records))
    unanswerable = [row for row in rows if not row["answers"]["text"]]
    assert 0.12 < len(unanswerable) / len(rows) < 0.18
    for row in unanswerable:
        name = re.search(r"`(\w+)`", row["question"])[1]
        assert name in WORDS
        assert name not in re.findall(r"\w+", row["context"])
    assert len({row["id"] for row in rows}) == len(rows)
    assert all("`" not in row["question"].replace("`", "", 2) for row in rows)


def test_the_nearest_parent_package_gives_the_field():
    text = "Draws what it is given with the colours that it is given, unless there is nothing to be drawn at all."
    for module, field in (
        ("networkx.drawing.layout", "plotting"),
        ("networkx.classes", "graphs"),
        ("nowhere.x", None),
    ):
        splits = fields(one_record(f"{text}\n\n>>> draw()\n\nParameters\n----------\nx : int", module))
        label = splits["train"].features["label"]
        assert [(row["text"], label.int2str(row["label"])) for row in all_rows(splits)] == (
            [(text, field)] if field else []
        )


def test_the_number_of_rows_of_a_field_is_limited(records, monkeypatch):
    monkeypatch.setattr(docstrings, "_MAX_FIELD_ROWS", {"train": 20, "validation": 3, "test": 2})
    splits = fields(records)
    assert {split: Counter(rows["label"]).most_common(1)[0][1] for split, rows in splits.items()} == {
        "train": 20,
        "validation": 3,
        "test": 2,
    }
