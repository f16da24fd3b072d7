"""Parallel text from the gettext catalogues of installed packages: English messages and their translations."""

import gettext
import hashlib
import io
import locale
import re
import struct
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

from datasets import Dataset, DatasetDict, Features, Value

from ...errors import UserError


# A fixed list, so that the text depends only on the versions of these packages. The names of countries and languages
# in babel and pycountry are not used: a name is transcribed rather than translated.
_SOURCES = re.compile(r"django|gramps|trac|jupyterlab-language-pack-.+")
_CATALOGUE = re.compile(r"(?:^|/)locale/([^/]+)/LC_MESSAGES/[^/]+\.mo$")
_SCRIPTS = {"zh_hans": "zh_CN", "zh_hant": "zh_TW"}  # Django names the script, other packages the region
_PLACEHOLDER = re.compile(
    r"%%"  # a percent sign; matched first, so that its second half does not start a placeholder
    r"|%(?:\([^()]*\)|\d+\$)?[-+#0]*[\d.*]*[diouxXeEfFgGcrs]"  # %s, %(name)s, %1$s, %.2f
    r"|%\d+"  # %1
    r"|\$?\{[^{}\s]*\}"  # {}, {0}, {name:.2f}, ${name}
)
_MAX_CHARACTERS = 300


def messages(language: str = "zh", roots: Sequence[str | Path] | None = None) -> DatasetDict:
    """English messages of programs (`source`) and their translations (`target`), one line each.

    They are read from the catalogues of Django (BSD-3-Clause), JupyterLab's language packs (BSD-3-Clause), Trac
    (BSD-3-Clause) and Gramps (GPL-2.0-or-later), as far as these are installed. Nothing is redistributed.

    Plural forms are paired with the singular and the plural of the source. Placeholders are left as they are. A pair
    is dropped if its sides have different placeholders, if the translation is a copy of the source, if the message has
    no word, or if a side has more than 300 characters. If a message has several translations, the most frequent one is
    kept. With Django 5.2, JupyterLab's pack 4.5, Trac 1.6 and Gramps 6.0 there are 11258 Chinese pairs; the mean
    length is 34 characters in English and 14 in Chinese.

    About 86% of the messages are in `train`, 7% in `validation` and 7% in `test`, by a hash that ignores case,
    punctuation, digits, placeholders and a plural s. Rows are sorted by this hash, so that the first rows are a random
    sample.

    Args:
        language: ISO 639 code, with a region (`pt_BR`) or a script (`zh_Hant`) if necessary; `zh` means `zh_CN`.
        roots: folders with installed distributions; `sys.path` by default.

    Raises:
        UserError: no installed catalogue has messages in this language.
    """
    catalogues = _catalogues(sys.path if roots is None else roots)
    translations = defaultdict(Counter)
    for path in catalogues.get(_region(language), ()):
        for source, target in map(_clean, _entries(path)):
            if _is_translation(source, target):
                translations[source][target] += 1
    if not translations:
        raise UserError(
            f"No message catalogue in {language!r} is installed. Installed languages: "
            f"{', '.join(sorted(catalogues)) or 'none'}. "
            '`pip install "modeling_mini[tasks]"` installs catalogues in many languages, and a package such as '
            "jupyterlab-language-pack-fr-FR adds JupyterLab's messages in one more."
        )
    return _split({source: targets.most_common(1)[0][0] for source, targets in translations.items()})


def placeholders(text: str) -> list[str]:
    """The placeholders of a message in order: `%s`, `%(name)s`, `%1`, `{0}`, `{name}`, `${name}`; `%%` is not one."""
    return [placeholder for placeholder in _PLACEHOLDER.findall(text) if placeholder != "%%"]


def _catalogues(roots: Sequence[str | Path]) -> dict[str, list[Path]]:
    """Language and region -> the .mo files of the installed sources, in the same order on every machine."""
    distributions = {}
    for distribution in metadata.distributions(path=[str(root) for root in roots]):
        name = re.sub(r"[-_.]+", "-", distribution.name or "").lower()  # PEP 503; None if the installation is broken
        if _SOURCES.fullmatch(name):
            distributions.setdefault(name, distribution)
    catalogues = defaultdict(list)
    for _, distribution in sorted(distributions.items()):
        for file in sorted(distribution.files or ()):
            match = _CATALOGUE.search(file.as_posix())
            if match and not (region := _region(match[1])).startswith("en_"):  # British spelling is not a translation
                catalogues[region].append(Path(file.locate()))
    return dict(catalogues)


def _region(language: str) -> str:
    """`fr` -> `fr_FR`, `pt-BR` -> `pt_BR`, `zh_Hans` -> `zh_CN`: packages use different names for one language."""
    name = language.replace("-", "_")
    return _SCRIPTS.get(name.lower()) or locale.normalize(name).partition(".")[0]


def _entries(path: Path) -> Iterator[tuple[str, str]]:
    """Messages and translations of a .mo file (layout: gettext manual, "The Format of GNU MO Files").

    `GNUTranslations` finds the plural form for a number, but does not list its messages, so they are read here.
    """
    data = path.read_bytes()
    translations = gettext.GNUTranslations(io.BytesIO(data))
    order = "<" if data.startswith(b"\xde\x12\x04\x95") else ">"
    count, table = struct.unpack_from(f"{order}2I", data, 8)
    for length, start in struct.iter_unpack(f"{order}2I", data[table : table + 8 * count]):
        message, _, plural = data[start : start + length].decode(translations.charset() or "ascii").partition("\0")
        text = message.rpartition("\4")[2]  # without its msgctxt
        if plural:
            yield text, translations.ngettext(message, plural, 1)
            yield plural, translations.ngettext(message, plural, 100)  # not 2: some languages have a form for it
        else:  # includes the header: it is the translation of the empty message
            yield text, translations.gettext(message)


def _clean(pair: tuple[str, str]) -> tuple[str, str]:
    """Each text in one line, without the mark of a keyboard accelerator (`_File`, `文件(_F)`).

    The marked letter cannot be predicted from the text. An underscore is treated as a mark if it is the only one on
    both sides, unless its word is the same on both sides: then it is an identifier such as `auto_now`.
    """
    source, target = (" ".join(text.split()) for text in pair)
    if source.count("_") == target.count("_") == 1 and re.search(r"\w*_\w*", source)[0] not in target:
        source, target = source.replace("_", ""), re.sub(r"\s*\(_\w\)|_", "", target)
    return source, target


def _is_translation(source: str, target: str) -> bool:
    is_candidate = target and source != target and max(len(source), len(target)) <= _MAX_CHARACTERS
    return bool(is_candidate and _words(source)) and sorted(placeholders(source)) == sorted(placeholders(target))


def _words(text: str) -> str:
    """Key of near-duplicates: the text without case, punctuation, digits, placeholders and plural s."""
    return " ".join(word.rstrip("s") for word in re.findall(r"[^\W\d_]+", _PLACEHOLDER.sub(" ", text).lower()))


def _split(pairs: dict[str, str]) -> DatasetDict:
    hashes = {source: hashlib.sha256(_words(source).encode()).digest() for source in pairs}
    rows = {"train": [], "validation": [], "test": []}
    for source in sorted(pairs, key=lambda source: (hashes[source], source)):
        share = int.from_bytes(hashes[source][-4:], "big") % 100  # the last bytes: the first ones sort the rows
        rows["train" if share < 86 else "validation" if share < 93 else "test"].append(source)
    features = Features({"source": Value("string"), "target": Value("string")})
    columns = {
        name: {"source": sources, "target": [pairs[source] for source in sources]} for name, sources in rows.items()
    }
    return DatasetDict({name: Dataset.from_dict(part, features=features) for name, part in columns.items()})
