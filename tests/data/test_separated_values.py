"""CSV and TSV: delimiters, headers, and files that hold columns but no rows."""

import csv
import gzip
import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_data import build, jsonl

from modeling_mini.errors import UserError
from modeling_mini.options import names_a_path


pytestmark = pytest.mark.usefixtures("datasets_cache")

ROWS = [{"text": "a, b; c\td", "label": "yes"}, {"text": 'e "f"\ng', "label": "no"}]


@pytest.fixture(autouse=True)
def messages(caplog):
    caplog.set_level("WARNING", "modeling_mini")
    return caplog


def load(path, task="text-classification", **arguments):
    return list(build(task, dataset=str(path), **arguments).load(divide=False)["train"])


def refusal(path, task="text-classification", **arguments):
    with pytest.raises(UserError) as error:
        load(path, task, **arguments)
    assert not {"\n", "\t"} & {*str(error.value)}
    return str(error.value)


def separated(rows, delimiter, quoting=csv.QUOTE_MINIMAL):
    file = io.StringIO(newline="")
    table = csv.DictWriter(file, list(rows[0]), delimiter=delimiter, quoting=quoting)
    table.writeheader()
    table.writerows(rows)
    return file.getvalue().encode()


@pytest.mark.parametrize("name", ["a.tsv", "a.TSV", "a.tsv.gz"])
def test_tsv_is_csv_with_tabs(tmp_path, name):
    content = separated(ROWS, "\t")
    for mark in (b"", b"\xef\xbb\xbf"):
        data = mark + content
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        assert load(tmp_path / name) == ROWS
        assert load(tmp_path) == ROWS
    assert names_a_path(name)


def test_formats_of_a_folder_with_tsv_are_read_together(tmp_path):
    (tmp_path / "a.csv").write_bytes(separated(ROWS, ","))
    (tmp_path / "b.tsv").write_bytes(separated(ROWS, "\t"))
    assert load(tmp_path) == ROWS * 2
    assert load(tmp_path, "text-generation", columns=["text=label"])[2] == {"text": "yes"}


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize(
    ("extension", "delimiter", "option"),
    [("csv", ";", ";"), ("csv", "\t", r"\t"), ("csv", "|", "|"), ("tsv", ",", ",")],
)
def test_another_delimiter_is_named_and_can_be_given(tmp_path, quoting, extension, delimiter, option):
    path = tmp_path / f"a.{extension}"
    path.write_bytes(separated(ROWS, delimiter, quoting))
    assert refusal(path).endswith(f"read them with --delimiter '{option}'.")
    assert load(path, delimiter=option) == load(path, delimiter=delimiter) == ROWS


@pytest.mark.parametrize("delimiter", ["", ";;", '"', "\n", "tab"])
def test_a_delimiter_is_one_character(tmp_path, delimiter):
    path = tmp_path / "a.csv"
    path.write_bytes(separated(ROWS, ","))
    assert "give one character" in refusal(path, delimiter=delimiter)


def test_a_delimiter_without_a_csv_file_is_refused(tmp_path):
    assert "--delimiter is for .csv and .tsv files" in refusal(jsonl(tmp_path / "a.jsonl", ROWS), delimiter=";")
    for dataset in ("docstring-fields", "someone/data"):
        assert "--delimiter is for .csv and .tsv files" in refusal(dataset, delimiter=";")


def test_a_column_whose_name_holds_a_delimiter_is_none_of_csv(tmp_path):
    assert "--delimiter" not in refusal(jsonl(tmp_path / "a.jsonl", [{"text;label": "a"}]))


def test_rows_are_read_again_with_another_delimiter(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,a;b\nx,y;z\n")
    assert load(path, "text-generation") == [{"text": "x"}]
    assert load(path, "text-generation", delimiter=";", columns=["text=b"]) == [{"text": "z"}]


def test_cells_that_are_too_many_or_misquoted_are_named_with_their_line(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("text\tlabel\na\tb\tc\n")
    assert "line 2 has 3 cells, but the header has 2; put quotes around text with tabs" in refusal(path)
    path.write_text('text\tlabel\n"Hi" he said\tyes\n')
    assert "line 2 is not CSV" in refusal(path)


@pytest.mark.parametrize("content", ["text{}label\n", "\n\n", "\ufeff", "\ufefftext{}label"])
@pytest.mark.parametrize(("extension", "delimiter"), [("csv", ","), ("tsv", "\t")])
def test_a_file_without_rows_is_named(tmp_path, extension, delimiter, content):
    path = tmp_path / f"a.{extension}"
    path.write_text(content.format(delimiter))
    assert f"{path}: there is no example for train" in refusal(path)


def test_a_table_of_no_rows_is_named_and_adds_nothing_to_a_folder(tmp_path):
    empty = {"text": pa.array([], pa.string()), "label": pa.array([], pa.string())}
    for name, columns in (("a.parquet", empty), ("b.parquet", {})):
        pq.write_table(pa.table(columns), tmp_path / name)
        assert "there is no example for train" in refusal(tmp_path / name)
    (tmp_path / "b.parquet").unlink()
    (tmp_path / "c.csv").write_text("text,label\n")
    (tmp_path / "d.tsv").write_bytes(separated(ROWS, "\t"))
    assert load(tmp_path) == ROWS


def test_columns_that_a_header_has_twice_are_refused_only_if_they_are_used(tmp_path, messages):
    path = tmp_path / "a.csv"
    path.write_text("text,label,id,id,split,split\na,x,1,2,train,test\nb,y,1,2,test,train\n")
    assert load(path) == [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]
    assert not messages.messages
    for arguments in ({"where": "id == 1"}, {"split_column": "split"}, {"columns": ["text=split"]}):
        assert "has several columns" in refusal(path, **arguments)


@pytest.mark.parametrize("header", ["text, label", "text,Label", "text,\ufb02abel", "text,label\u200b"])
def test_a_column_with_another_spelling_is_pointed_out(tmp_path, header):
    path = tmp_path / "a.csv"
    path.write_text(f"{header}\na,yes\n", encoding="utf-8")
    name = header.partition(",")[2]
    sentence = refusal(path)
    if name != "\ufb02abel":  # "fl" as one character: another word
        assert f"{name!r} differs from 'label' only in spaces, capital letters or Unicode form." in sentence
    assert load(path, columns=[f"label={name}"]) == [{"text": "a", "label": "yes"}]


@pytest.mark.parametrize("arguments", [{}, {"delimiter": ";"}])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_first_line_of_excel_names_the_delimiter(tmp_path, end, arguments):
    path = tmp_path / "a.csv"
    path.write_bytes(f"\ufeffsep=;{end}text;label{end}a, b;yes{end}c;no{end}".encode())
    assert load(path, **arguments) == [{"text": "a, b", "label": "yes"}, {"text": "c", "label": "no"}]
    path.write_text("sep=;\ntext;label\na;b\na;b;c\n")
    assert "a.csv, line 4 has 3 cells, but the header has 2; put quotes around text with ';'" in refusal(path)
    path.write_text("sep=;,label\na,b\n")  # a column of that name
    assert load(path, columns=["text=sep=;"]) == [{"text": "a", "label": "b"}]
