"""Four data sets from the docstrings of Python's standard library and of installed packages.

The source is parsed once, and no package is imported. Each data set has the splits train, validation and test. A
module belongs to the same split in all four: a model pretrained on `texts()["train"]` has not seen a test docstring of
the others. Rows are in a fixed random order, so that the first rows are a random sample. The data depend on the
versions of Python and of the packages; nothing is redistributed.
"""

import ast
import hashlib
import importlib.util
import logging
import re
import sys
import sysconfig
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from importlib import metadata
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from tqdm import tqdm

from ..fingerprint import code_hash


logger = logging.getLogger(__name__)

# Name of the import -> name of the distribution that contains it.
PACKAGES = {
    "torch": "torch",
    "numpy": "numpy",
    "sympy": "sympy",
    "networkx": "networkx",
    "pandas": "pandas",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "matplotlib": "matplotlib",
    "django": "django",
}
STANDARD_LIBRARY = "python"

# Docstrings of tests and test helpers do not describe the package, and vendored code belongs to other packages.
_SKIPPED_FOLDERS = {
    *("test", "tests", "idle_test", "testing", "_testing", "conftest.py"),
    *("benchmarks", "examples", "_examples", "test-examples"),
    *("_vendor", "vendored_templates", "externals", "array_api_compat", "array_api_extra", "cobyqa", "pyprima"),
    *("site-packages", "dist-packages", "__pycache__"),
}
_DOCUMENTED = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_CONTAINERS = (ast.stmt, ast.ExceptHandler, ast.match_case)  # nodes that can contain classes and functions

_MAX_CONTEXT = 600  # characters
_MAX_QUESTIONS = 6  # per docstring, so that no function dominates
_UNANSWERABLE_SHARE = 0.15

# Field -> modules. A module that is not listed has the field of its nearest parent package, or none.
_FIELDS = {
    "compilers": "ast dis lib2to3 opcode symtable sympy.codegen sympy.parsing torch._dynamo torch._export "
    "torch._functorch torch._inductor torch.compiler torch.export torch.fx torch.jit torch.onnx",
    "data frames": "pandas",
    "databases": "django.contrib.contenttypes django.contrib.postgres django.core.serializers django.db pandas.io.sql "
    "sqlite3",
    "deep learning": "torch.amp torch.ao torch.autograd torch.func torch.nn torch.optim torch.quantization "
    "torch.utils.checkpoint torch.utils.data",
    "graphs": "networkx scipy.sparse.csgraph",
    "networking and web": "asynchat asyncore cgi cgitb django.contrib.admin django.contrib.auth "
    "django.contrib.sessions django.contrib.sites django.contrib.staticfiles django.contrib.syndication "
    "django.core.handlers django.core.mail django.forms django.http django.middleware django.shortcuts django.test "
    "django.urls django.views email ftplib http imaplib ipaddress mailbox mailcap netrc nntplib poplib smtpd smtplib "
    "socket socketserver ssl telnetlib urllib uuid wsgiref xmlrpc",
    "numerical methods": "numpy._core numpy.fft numpy.lib numpy.linalg numpy.ma numpy.matrixlib numpy.polynomial "
    "scipy.fft scipy.integrate scipy.interpolate scipy.linalg scipy.ndimage scipy.optimize scipy.signal scipy.special",
    "parallel computing": "asyncio concurrent contextvars multiprocessing queue sched selectors threading torch.cuda "
    "torch.distributed torch.futures torch.multiprocessing torch.xpu",
    "physics": "scipy.constants sympy.diffgeom sympy.physics sympy.vector",
    "plotting": "matplotlib networkx.drawing pandas.plotting sympy.plotting",
    "statistics and machine learning": "random scipy.stats sklearn statistics sympy.stats torch.distributions",
    "symbolic mathematics": "sympy.algebras sympy.assumptions sympy.calculus sympy.categories sympy.combinatorics "
    "sympy.concrete sympy.core sympy.crypto sympy.discrete sympy.functions sympy.holonomic sympy.integrals "
    "sympy.liealgebras sympy.logic sympy.ntheory sympy.polys sympy.series sympy.sets sympy.simplify sympy.solvers",
    "user interfaces": "cmd curses getpass idlelib readline rlcompleter tkinter turtle turtledemo webbrowser",
}
_FIELD_OF_MODULE = {module: field for field, modules in _FIELDS.items() for module in modules.split()}
_MAX_FIELD_ROWS = {"train": 1300, "validation": 100, "test": 100}

_TEMPLATES = {
    "type": (
        "What type is `{}`?",
        "Which type does `{}` have?",
        "What is the type of `{}`?",
        "What kind of value does `{}` take?",
    ),
    "default": (
        "What is the default of `{}`?",
        "What value does `{}` have by default?",
        "Which value is used if `{}` is not given?",
    ),
    "meaning": ("What does `{}` mean?", "What is `{}`?", "What does `{}` stand for?"),
}

# Parameter sections: numpydoc underlines their titles, Google style indents their content.
_NUMPY_SECTION = re.compile(r"^(?:Other )?Parameters\n[-=]{3,}\n(.*?)(?=^\S[^\n]*\n[-=]{3,}$|\Z)", re.M | re.S)
_GOOGLE_SECTION = re.compile(
    r"^(?:Args|Arguments|Parameters|Keyword [Aa]rg(?:ument)?s):[ ]*\n((?:[ \t][^\n]*(?:\n|\Z)|\n)+)", re.M
)
_NAMES = r"(?P<names>\*{0,2}\w+(?:, ?\*{0,2}\w+)*)"
_NUMPY_ENTRY = re.compile(
    rf"^{_NAMES} *: *(?P<type>[^\n]+)(?P<description>(?:\n(?:[ \t][^\n]*|(?=\n)))*)",
    re.M,
)
_GOOGLE_ENTRY = re.compile(
    rf"^(?P<indent>[ \t]+){_NAMES} *(?:\((?P<type>[^\n]+?)\))?: *"
    r"(?P<description>[^\n]*(?:\n(?:(?P=indent)[ \t][^\n]*|(?=\n)))*)",
    re.M,
)
_SECTION_TITLE = re.compile(r"\n[-=]{3,}(?:\n|$)|\A[A-Z][\w ]*:\s*(?:\n|$)")

# Text that follows a type on its line: "int, optional", "float (default 1.0)", "str, default='auto'".
_AFTER_TYPE = re.compile(r"(?:^|[,;]\s*|\s+)\(?(?:optional|defaults?)\b.*", re.S)
# A literal at the end of its clause: not the 1 of "1 / n", nor the True of "True if ...".
_DEFAULT = re.compile(
    r"\bdefaults?(?: value)?(?: is| to|:|=)*\s*"
    r"(?:``([^`\n]+)``|`([^`\n]+)`|'([^'\n]+)'|\"([^\"\n]+)\"|([-+]?\d*\.?\d+(?:e[-+]?\d+)?|True|False|None)(?!\.?\w))"
    r"(?!\s*(?:[-+*/%^]|(?:and|for|if|in|on|or|unless|when|where)\b))",
    re.I,
)
_SENTENCE = re.compile(r"\s*(\w.*?)(?:(?<!e\.g)(?<!i\.e)\.(?=\s|\Z)|(?=\n\s*\n)|\s*\Z)", re.S)


def read_docstrings(roots: dict[str, Path]) -> Iterator[dict[str, str]]:
    """All docstrings in the folders of packages, file by file, top to bottom.

    A docstring that occurs several times (ignoring white space and case) is kept at its first occurrence, so that it
    cannot be in two splits.

    Args:
        roots: name of each package -> its folder. Modules of `STANDARD_LIBRARY` get no prefix.

    Yields:
        `{"package", "module", "name", "docstring"}`. `name` is the qualified name of the class or function in its
        module; it is empty for the docstring of the module.
    """
    files = [
        (package, root, path)
        for package, root in roots.items()
        for path in sorted(root.rglob("*.py"))
        if not _SKIPPED_FOLDERS & set(path.relative_to(root).parts)
    ]
    seen = set()
    for package, root, path in tqdm(files, desc="Reading docstrings", unit="file", disable=not sys.stderr.isatty()):
        parts = [*([] if package == STANDARD_LIBRARY else [package]), *path.relative_to(root).with_suffix("").parts]
        module = ".".join(parts).removesuffix(".__init__")
        for name, docstring in _docstrings(path):
            if _normalised(docstring) not in seen:
                yield {"package": package, "module": module, "name": name, "docstring": docstring}
            seen.add(_normalised(docstring))


def _docstrings(path: Path) -> Iterator[tuple[str, str]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in old modules
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return
    for name, node in [("", tree), *_documented(tree)]:
        if docstring := ast.get_docstring(node):
            yield name, docstring


def _documented(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.AST]]:
    """Qualified names and nodes of classes and functions. Only statements are walked: expressions contain none."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, _DOCUMENTED):
            yield prefix + child.name, child
            yield from _documented(child, f"{prefix}{child.name}.")
        elif isinstance(child, _CONTAINERS):
            yield from _documented(child, prefix)


def installed_docstrings() -> Dataset:
    """`read_docstrings` of the standard library and of the installed `PACKAGES`; read once, then cached."""
    roots, versions, missing = {STANDARD_LIBRARY: Path(sysconfig.get_path("stdlib"))}, [sys.version], []
    for package, distribution in PACKAGES.items():
        try:
            versions.append(f"{distribution} {metadata.version(distribution)}")
        except metadata.PackageNotFoundError:
            missing.append(distribution)
        else:
            roots[package] = Path(importlib.util.find_spec(package).submodule_search_locations[0])
    if missing:
        logger.warning(
            "The built-in docstring data lack these packages, which are not installed: %s.", ", ".join(missing)
        )
    fingerprint = code_hash(__file__, *versions)
    return Dataset.from_generator(read_docstrings, gen_kwargs={"roots": roots}, fingerprint=fingerprint)


def texts(records: Dataset | None = None) -> DatasetDict:
    """`{"text"}`: one document per module, with all its docstrings in source order, for pretraining.

    Documents of fewer than 200 characters are left out. Here and in the functions below, `records` are
    `installed_docstrings()` by default.
    """
    modules = groupby(_records(records), key=itemgetter("module"))
    rows = [{"module": name, "text": "\n\n".join(row["docstring"] for row in module)} for name, module in modules]
    long = {
        split: [row for row in rows if len(row["text"]) >= 200]
        for split, rows in _split_by_module(rows, "text").items()
    }
    return _dataset_dict(long, Features({"text": Value("string")}))


def summaries(records: Dataset | None = None) -> DatasetDict:
    """`{"document", "summary"}`: a docstring without its first paragraph, and the first paragraph in one line.

    Summaries have 20 to 200 characters and end with a full stop. Documents have at least 100 characters and do not
    repeat the summary.
    """
    return _dataset_dict(_summaries(records), Features({"document": Value("string"), "summary": Value("string")}))


def questions(records: Dataset | None = None, max_context: int = _MAX_CONTEXT) -> DatasetDict:
    """Questions on parameters in the format of SQuAD 2.0 (Rajpurkar et al. 2018): `{"id", "title", "context",
    "question", "answers": {"text", "answer_start"}}`.

    The context is a docstring of at most `max_context` characters. A longer docstring is truncated at the end of a
    line; if this would remove its parameters, the text between its first paragraph and the parameters is left out
    first. A question asks for the type, the default or the meaning (the first sentence, of at most 120 characters) of
    a parameter. The answer is a span of the context. About 15% of the questions name a parameter of another docstring
    of the package that the context does not contain: they have no answer. A docstring has at most 6 questions.
    """
    rows = [
        {
            **record,
            "context": _context(record["docstring"], max_context),
            "title": f"{record['module']}.{record['name']}".strip("."),
        }
        for record in _records(records)
    ]
    names = defaultdict(list)
    for row in rows:
        row["spans"] = _answer_spans(row["context"])
        names[row["package"]].extend(dict.fromkeys(name for _, name in row["spans"]))
    splits = {
        split: _shuffled((question for row in split_rows for question in _questions(row, names[row["package"]])), "id")
        for split, split_rows in _split_by_module(rows, "context").items()
    }
    text, answers = Value("string"), {"text": List(Value("string")), "answer_start": List(Value("int32"))}
    names_of_text = ("id", "title", "context", "question")
    return _dataset_dict(splits, Features({**dict.fromkeys(names_of_text, text), "answers": answers}))


def fields(records: Dataset | None = None, fold: int = 0) -> DatasetDict:
    """`{"text", "label"}`: the first two paragraphs of prose of a docstring, and the field of its module.

    Texts have 80 to 600 characters. A field has at most 1300 training rows, 100 validation rows and 100 test rows.
    `fold` is as in `split_of`. A model pretrained on `texts` has seen validation and test modules of folds 1 to 4.
    """
    rows = [
        {"module": record["module"], "text": _prose(record["docstring"]), "label": field}
        for record in _records(records)
        if (field := _field(record["module"]))
    ]
    splits = {}
    for split, split_rows in _split_by_module(rows, "text", fold=fold).items():
        counts = Counter()
        splits[split] = []
        for row in split_rows:
            if 80 <= len(row["text"]) <= 600 and counts[row["label"]] < _MAX_FIELD_ROWS[split]:
                splits[split].append(row)
                counts[row["label"]] += 1
    return _dataset_dict(splits, Features({"text": Value("string"), "label": ClassLabel(names=list(_FIELDS))}))


def _records(records: Dataset | None) -> list[dict]:
    return (installed_docstrings() if records is None else records).to_list()


def _summaries(records: Dataset | None) -> dict[str, list[dict]]:
    rows = []
    for record in _records(records):
        summary, _, document = record["docstring"].partition("\n\n")
        rows.append({**record, "summary": " ".join(summary.split()), "document": document.strip()})
    # Split before filtering, so that a summary is not the first paragraph of any docstring of an earlier split.
    return {
        split: list(filter(_has_usable_summary, rows))
        for split, rows in _split_by_module(rows, "summary", "document").items()
    }


def _has_usable_summary(row: dict) -> bool:
    summary, document = row["summary"], row["document"]
    is_sentence = 20 <= len(summary) <= 200 and summary.endswith(".")
    return is_sentence and len(document) >= 100 and _normalised(summary) not in _normalised(document)


def _context(docstring: str, longest: int) -> str:
    section = _NUMPY_SECTION.search(docstring) or _GOOGLE_SECTION.search(docstring)
    if len(docstring) > longest and section and section.end() > longest:
        docstring = docstring.partition("\n\n")[0] + "\n\n" + docstring[section.start() :]
    if len(docstring) > longest:
        docstring = docstring[: longest + 1].rpartition("\n")[0]
    return docstring.rstrip()


def _answer_spans(context: str) -> dict[tuple[str, str], tuple[int, str]]:
    """Spans of the answers: (kind, name of the parameter) -> (start, text)."""
    spans = {}
    for section, entry in ((_NUMPY_SECTION, _NUMPY_ENTRY), (_GOOGLE_SECTION, _GOOGLE_ENTRY)):
        for parameters in section.finditer(context):
            for parameter in entry.finditer(context, *parameters.span(1)):
                answers = {"type": _type(parameter), "default": _default(parameter), "meaning": _meaning(parameter)}
                for name in re.findall(r"\w+", parameter["names"]):
                    for kind in filter(answers.get, answers):
                        spans.setdefault((kind, name), answers[kind])
    return spans


def _type(parameter: re.Match) -> tuple[int, str] | None:
    text = _AFTER_TYPE.sub("", parameter["type"] or "").rstrip(",. \\")
    whole = all(text.count(left) == text.count(right) for left, right in ("()", "[]", "{}"))
    return (parameter.start("type"), text) if whole and 2 <= len(text) <= 80 else None


def _default(parameter: re.Match) -> tuple[int, str] | None:
    matches = _DEFAULT.finditer(parameter.string, parameter.end("names"), parameter.end())
    spans = [(match.start(match.lastindex), match[match.lastindex]) for match in matches]
    return spans[0] if len({text for _, text in spans}) == 1 else None  # several defaults are ambiguous


def _meaning(parameter: re.Match) -> tuple[int, str] | None:
    sentence = _SENTENCE.match(parameter.string, *parameter.span("description"))
    if sentence is None or not 10 <= len(sentence[1]) <= 120 or re.match(r"defaults?\b", sentence[1], re.I):
        return None
    return None if sentence[1].endswith(":") else (sentence.start(1), sentence[1])


def _questions(row: dict, names: list[str]) -> Iterator[dict]:
    """Up to six questions on the context; some of them ask about a parameter that the context does not contain."""
    context, earlier = row["context"], set()
    words = set(re.findall(r"\w+", context)) if row["spans"] else set()
    order = sorted(row["spans"], key=lambda key: fraction(context, *key))
    for kind, name in order[:_MAX_QUESTIONS]:
        start, text = row["spans"][kind, name]
        answers = {"text": [text], "answer_start": [start]}
        if fraction("unanswerable", context, kind, name) < _UNANSWERABLE_SHARE:
            candidates = (names[int(fraction(context, kind, name, str(i)) * len(names))] for i in range(5))
            if absent := next((other for other in candidates if other not in words), None):
                name, answers = absent, {"text": [], "answer_start": []}
        templates = _TEMPLATES[kind]
        question = templates[int(fraction("wording", context, kind, name) * len(templates))].format(name)
        if question not in earlier:
            identity = hashlib.sha256(f"{context}\0{question}".encode()).hexdigest()[:24]
            yield {"id": identity, "title": row["title"], "context": context, "question": question, "answers": answers}
        earlier.add(question)


def _field(module: str) -> str | None:
    while module and module not in _FIELD_OF_MODULE:
        module = module.rpartition(".")[0]
    return _FIELD_OF_MODULE.get(module)


def _prose(docstring: str) -> str:
    """The first two paragraphs of prose before the first section, in one line."""
    paragraphs = []
    for paragraph in docstring.split("\n\n"):
        if _SECTION_TITLE.search(paragraph) or len(paragraphs) == 2:
            break
        if paragraph[:1].isalpha() and ">>>" not in paragraph:
            paragraphs.append(" ".join(paragraph.split()))
    return " ".join(paragraphs)


def _split_by_module(rows: Iterable[dict], *keys: str, fold: int = 0) -> dict[str, list[dict]]:
    """Split -> its shuffled rows, without rows whose text under one of `keys` is in an earlier split."""
    splits = {"train": [], "validation": [], "test": []}
    for row in rows:
        splits[split_of(row["module"], fold)].append(row)
    seen = set()
    for split, candidates in splits.items():
        contents = [{_normalised(row[key]) for key in keys} for row in candidates]
        new = [row for row, content in zip(candidates, contents, strict=True) if seen.isdisjoint(content)]
        splits[split] = _shuffled(new, *keys)
        seen.update(*contents)
    return splits


def _shuffled(rows: Iterable[dict], *keys: str) -> list[dict]:
    return sorted(rows, key=lambda row: fraction("order", *(row[key] for key in keys)))


def _dataset_dict(splits: dict[str, list[dict]], features: Features) -> DatasetDict:
    columns = {split: {name: [row[name] for row in rows] for name in features} for split, rows in splits.items()}
    return DatasetDict({split: Dataset.from_dict(table, features) for split, table in columns.items()})


def _normalised(text: str) -> str:
    return " ".join(text.lower().split())


def split_of(name: str, fold: int = 0) -> str:
    """The split of everything that has this name: 86% train, 7% validation, 7% test.

    The test names of folds 0 to 4 do not overlap, and neither do their validation names.
    """
    share = (fraction(name) + fold / 5) % 1
    return "train" if share < 0.86 else "validation" if share < 0.93 else "test"


def fraction(*parts: str) -> float:
    """A pseudorandom number in [0, 1) that depends only on the texts, and is the same on every machine."""
    return int.from_bytes(hashlib.sha256("\0".join(parts).encode()).digest()[:6], "big") / 2**48
