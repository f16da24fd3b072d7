"""Any table of texts comes back from a file as it was written, in every format and under every name.

`HYPOTHESIS_PROFILE=thorough` tries many more tables, different ones each time.
"""

import csv
import gzip
import io
import json
import os
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, assume, example, given, settings
from hypothesis import strategies as st

from modeling_mini.data.arguments import DataArguments
from modeling_mini.data.examples import ExampleFormat
from modeling_mini.data.files import _METADATA, split_in_name
from modeling_mini.data.splits import load_splits
from modeling_mini.errors import UserError


COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]}
settings.register_profile(
    "reproducible", max_examples=25, derandomize=True, database=None, phases=[Phase.explicit, Phase.generate], **COMMON
)
settings.register_profile("thorough", max_examples=500, **COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "reproducible"))

pytestmark = pytest.mark.usefixtures("datasets_cache")

NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=40).filter(
    lambda name: len(name.encode()) < 200
)
COLUMNS = st.lists(st.text(min_size=1, max_size=8), min_size=3, max_size=3, unique=True)
TEXTS = st.one_of(
    st.text(),
    st.sampled_from(
        ["", "NA", "null", "nan", "01", "1e5", "true", "2020-01-01", '"', "a,b", "a\r\nb", "\r", "\n\n", "a\tb"]
    ),
)


class Pairs(ExampleFormat):
    """Two columns of any text."""

    columns = ("first", "second")
    text_columns = ()


def as_csv(columns: list[str], rows: list[list[str]], delimiter: str = ",") -> bytes:
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=delimiter).writerows([columns, *rows])
    return file.getvalue().encode()


def as_tsv(columns: list[str], rows: list[list[str]]) -> bytes:
    return as_csv(columns, rows, "\t")


def as_parquet(columns: list[str], rows: list[list[str]]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table({name: [row[i] for row in rows] for i, name in enumerate(columns)}), file)
    return file.getvalue()


def records(columns: list[str], rows: list[list[str]]) -> list[dict]:
    return [dict(zip(columns, row)) for row in rows]


FORMATS = {
    ".csv": as_csv,
    ".tsv": as_tsv,
    ".jsonl": lambda columns, rows: "".join(json.dumps(r) + "\n" for r in records(columns, rows)).encode(),
    ".json": lambda columns, rows: json.dumps(records(columns, rows), ensure_ascii=False, indent=1).encode(),
    ".parquet": as_parquet,
}


@pytest.mark.parametrize("extension", [*FORMATS, *(f"{extension}.gz" for extension in FORMATS)])
@given(
    name=NAMES,
    columns=COLUMNS,
    rows=st.lists(st.lists(TEXTS, min_size=3, max_size=3), min_size=1, max_size=6),
    in_folder=st.booleans(),
)
@example(name="q[1]", columns=["a", "a.b", "id"], rows=[["", '"a"', "x"]], in_folder=True)
@example(name="a::b ?*", columns=["first", "split", "label"], rows=[["\n", "train", "01"]], in_folder=False)
def test_a_table_comes_back_as_it_was_written(extension, name, columns, rows, in_folder):
    if sys.version_info < (3, 11) and extension.startswith((".csv", ".tsv")):
        assume(not any("\0" in cell for row in (columns, *rows) for cell in row))
    file = name + extension
    data = FORMATS[extension.removesuffix(".gz")](columns, rows)
    with tempfile.TemporaryDirectory() as folder:
        if in_folder:
            assume(is_data(file))
        path = Path(folder, file)
        path.write_bytes(gzip.compress(data) if extension.endswith(".gz") else data)
        args = DataArguments(
            dataset=folder if in_folder else str(path), columns=[f"first={columns[0]}", f"second={columns[1]}"]
        )
        for streaming in (False, True):
            args.streaming = streaming
            args.max_validation_documents = 1
            if streaming:
                read = first_and_rest(args, len(rows))
            else:
                read = list(load_splits(args, Pairs(args), divide=False)["train"])
            assert read == [{"first": row[0], "second": row[1]} for row in rows]


def is_data(file: str) -> bool:
    """Whether a file of this name is read as training data, if it is in a folder."""
    try:
        split = split_in_name(Path(file))
    except UserError:
        return False
    return split is None and not file.startswith((".", "__")) and file not in _METADATA


def first_and_rest(args: DataArguments, count: int) -> list[dict]:
    """All rows of a stream."""
    from modeling_mini.data.sources import read_source

    stream = read_source(args, Pairs(args)).splits["train"]
    return [{name: row[name] for name in Pairs.columns} for row in stream.take(count + 1)]
