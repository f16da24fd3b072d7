"""Parallel text from catalogues that the tests write into packages in a temporary folder."""

import random
import struct

import pytest

from modeling_mini.data.builtin.catalogues import messages, placeholders
from modeling_mini.errors import UserError


ONE_FORM = "nplurals=1; plural=0;"
POLISH = "nplurals=3; plural=(n==1 ? 0 : n%10>=2 && n%10<=4 && (n%100<12 || n%100>14) ? 1 : 2);"
ARABIC = "nplurals=6; plural=n==0 ? 0 : n==1 ? 1 : n==2 ? 2 : n%100>=3 && n%100<=10 ? 3 : n%100>=11 ? 4 : 5;"


def catalogue(entries: dict[str, str], plural_forms: str = ONE_FORM, order: str = "<") -> bytes:
    """A .mo file: the header, a table of lengths and offsets for each side, and the zero-terminated strings."""
    entries = {"": f"Content-Type: text/plain; charset=UTF-8\nPlural-Forms: {plural_forms}\n", **entries}
    texts = [text.encode() for text in [*sorted(entries), *(entries[key] for key in sorted(entries))]]
    tables, strings = b"", b""
    for text in texts:
        tables += struct.pack(f"{order}2I", len(text), 28 + 8 * len(texts) + len(strings))
        strings += text + b"\0"
    head = (0x950412DE, 0, len(entries), 28, 28 + 4 * len(texts), 0, 0)
    return struct.pack(f"{order}7I", *head) + tables + strings


def install(root, name: str, files: dict[str, bytes]) -> None:
    """Install a distribution as pip does: its files in the folder, and their list in a .dist-info folder."""
    information = root / f"{name.replace('-', '_')}-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (information / "RECORD").write_text("".join(f"{file},,\n" for file in files))
    for file, content in files.items():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(content)


def pairs(root, language: str = "zh") -> dict[str, str]:
    rows = [row for split in messages(language, [root]).values() for row in split]
    assert len({row["source"] for row in rows}) == len(rows)
    return {row["source"]: row["target"] for row in rows}


def pairs_of(root, entries: dict[str, str], **kwargs) -> dict[str, str]:
    install(root, "Django", {"django/conf/locale/zh_Hans/LC_MESSAGES/django.mo": catalogue(entries, **kwargs)})
    return pairs(root)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("%(name)s has %d of %.2f and %-5s", ["%(name)s", "%d", "%.2f", "%-5s"]),
        ("%1 of %2 and %1$s", ["%1", "%2", "%1$s"]),
        ("{0}, {} in {name:.2f} of ${HOME}", ["{0}", "{}", "{name:.2f}", "${HOME}"]),
        ("%(start)sHow%(end)s", ["%(start)s", "%(end)s"]),
        ("100%% sure, 50% of it, %%s and {a set: of braces}", []),
        ("%%%d%%", ["%d"]),
    ],
)
def test_placeholders_are_returned_in_order_without_percent_signs(text, expected):
    assert placeholders(text) == expected


@pytest.mark.parametrize("order", ["<", ">"])
def test_messages_have_translations_but_no_context_header_or_line_break(tmp_path, order):
    entries = {"Open": "打开", "verb\4Close": "关闭", " Two\n lines ": "两行\n文字"}
    assert pairs_of(tmp_path, entries, order=order) == {"Open": "打开", "Close": "关闭", "Two lines": "两行 文字"}


def test_pairs_without_a_translation_and_long_texts_are_left_out(tmp_path):
    entries = {
        "Open": "打开",
        "Untranslated": "",
        "Jupyter": "Jupyter",
        "%s (%d)": "%s（%d）",
        "a" * 301: "长",
        "Long": "长" * 301,
        "Just fits": "长" * 300,
    }
    assert set(pairs_of(tmp_path, entries)) == {"Open", "Just fits"}


def test_a_pair_with_different_placeholders_is_dropped_and_their_order_is_free(tmp_path):
    entries = {
        "%(a)s of %(b)s": "%(b)s 的 %(a)s",
        "an hour ago": "%d 小时之前",
        "%s and %s": "%s 和",
        "in {place}": "在 {地点}",
        "%d%% done": "完成 %d%%",
    }
    assert set(pairs_of(tmp_path, entries)) == {"%(a)s of %(b)s", "%d%% done"}


@pytest.mark.parametrize(
    ("rule", "forms", "singular", "plural"),
    [
        (ONE_FORM, ["x"], "x", "x"),
        (POLISH, ["one", "few", "many"], "one", "many"),
        (ARABIC, ["zero", "one", "two", "few", "many", "other"], "one", "other"),
    ],
)
def test_singular_and_plural_are_paired_by_the_rule_in_the_header(tmp_path, rule, forms, singular, plural):
    entries = {"menu\4%d file\0%d files": "\0".join(f"%d {form}" for form in forms)}
    expected = {"%d file": f"%d {singular}", "%d files": f"%d {plural}"}
    assert pairs_of(tmp_path, entries, plural_forms=rule) == expected


def test_accelerator_marks_are_removed_but_identifiers_keep_their_underscore(tmp_path):
    entries = {
        "E_xit:": "退出 (_X)：",
        "_File": "_Datei",
        "Set auto_now.": "设置 auto_now。",
        "_Go to %(my_page)s": "前往",
    }
    entries["Where is %(my_page)s?"] = "%(my_page)s 在哪？"
    assert pairs_of(tmp_path, entries) == {
        "Exit:": "退出：",
        "File": "Datei",
        "Set auto_now.": "设置 auto_now。",
        "Where is %(my_page)s?": "%(my_page)s 在哪？",
    }


def test_the_most_frequent_translation_is_kept(tmp_path):
    files = {
        f"django/contrib/app{number}/locale/zh_Hans/LC_MESSAGES/django.mo": catalogue({"View": target})
        for number, target in enumerate(["视图", "查看", "查看"])
    }
    install(tmp_path, "Django", files)
    assert pairs(tmp_path) == {"View": "查看"}


def test_near_duplicates_are_in_the_same_split(tmp_path):
    words = [f"{a}{b}{c}" for a in "bdfgk" for b in "aeiou" for c in "lmnrtvz"]
    entries = {}
    for word in words:
        variants = (f"Delete {word}", f"delete {word.upper()}?", f"Delete the %s {word}", f"Delete the {{}} {word}s…")
        entries |= {text: "".join(["删除", *placeholders(text), word]) for text in variants}
    install(tmp_path, "gramps", {"share/locale/zh_CN/LC_MESSAGES/gramps.mo": catalogue(entries)})
    split_of = {row["source"]: name for name, rows in messages("zh", [tmp_path]).items() for row in rows}
    assert len(split_of) == len(entries)
    for word in words:
        assert split_of[f"Delete {word}"] == split_of[f"delete {word.upper()}?"]
        assert split_of[f"Delete the %s {word}"] == split_of[f"Delete the {{}} {word}s…"]
    assert len({split_of[f"Delete {word}"] for word in words}) == 3


def test_splits_have_their_shares_and_do_not_depend_on_the_package_of_a_message(tmp_path):
    rng = random.Random(0)
    entries = {"".join(rng.choices("abcdefghij", k=12)): "字" for _ in range(4000)}
    install(tmp_path / "one", "Trac", {"trac/locale/zh_CN/LC_MESSAGES/messages.mo": catalogue(entries)})
    halves = [dict(list(entries.items())[start::2]) for start in (0, 1)]
    install(tmp_path / "two", "django", {"django/locale/zh_Hans/LC_MESSAGES/django.mo": catalogue(halves[0])})
    install(tmp_path / "two", "gramps", {"share/locale/zh_CN/LC_MESSAGES/gramps.mo": catalogue(halves[1])})
    whole, parts = (messages("zh", [tmp_path / name]) for name in ("one", "two"))
    assert {name: rows.to_list() for name, rows in whole.items()} == {n: rows.to_list() for n, rows in parts.items()}
    for name, share in {"train": 0.86, "validation": 0.07, "test": 0.07}.items():
        assert len(whole[name]) / len(entries) == pytest.approx(share, abs=0.02)  # three standard errors


@pytest.fixture
def languages(tmp_path):
    """Packages that use different names for languages, and one package that is not in the list of sources."""
    django = {
        f"django/conf/locale/{name}/LC_MESSAGES/django.mo": catalogue({"Open": f"{name} in Django"})
        for name in ("zh_Hans", "zh_Hant", "pt", "pt_BR", "fr", "en_GB")
    }
    pack = "jupyterlab-language-pack-{}".format
    lab = "jupyterlab_language_pack/locale/{}/LC_MESSAGES/jupyterlab.mo".format
    install(tmp_path, "Django", {**django, "django/conf/locale/fr/LC_MESSAGES/django.po": b"a source"})
    install(tmp_path, pack("zh-CN"), {lab("zh_CN"): catalogue({"Run": "zh_CN in JupyterLab"})})
    install(tmp_path, pack("fr-FR"), {lab("fr_FR"): catalogue({"Run": "fr_FR in JupyterLab"})})
    install(tmp_path, "django-extra", {"extra/locale/fr/LC_MESSAGES/django.mo": catalogue({"Other": "autre"})})
    return tmp_path


@pytest.mark.parametrize(
    ("language", "expected"),
    [
        ("zh", {"Open": "zh_Hans in Django", "Run": "zh_CN in JupyterLab"}),
        ("zh-Hans", {"Open": "zh_Hans in Django", "Run": "zh_CN in JupyterLab"}),
        ("zh_TW", {"Open": "zh_Hant in Django"}),
        ("fr", {"Open": "fr in Django", "Run": "fr_FR in JupyterLab"}),
        ("pt", {"Open": "pt in Django"}),
        ("pt-BR", {"Open": "pt_BR in Django"}),
    ],
)
def test_a_language_is_found_under_each_of_its_names_in_listed_packages_only(languages, language, expected):
    assert pairs(languages, language) == expected


@pytest.mark.parametrize("language", ["xx", "en", "en_GB"])
def test_a_language_without_translations_is_refused_with_the_installed_languages(languages, language):
    with pytest.raises(UserError, match=r"languages: fr_FR, pt_BR, pt_PT, zh_CN, zh_TW\..*modeling_mini\[tasks\]"):
        messages(language, [languages])


def test_without_catalogues_the_error_names_the_extra_that_installs_them(tmp_path):
    with pytest.raises(UserError, match=r"languages: none\..*modeling_mini\[tasks\]"):
        messages("zh", [tmp_path])


def test_the_installed_packages_have_hundreds_of_messages_in_chinese_and_french():
    pytest.importorskip("django", reason="installed with modeling_mini[tasks]")
    sources = [{source for split in messages(name).values() for source in split["source"]} for name in ("zh", "fr")]
    assert len(sources[0] & sources[1]) > 400
