"""Markdown shows any text as it is."""

import pytest

from modeling_mini.tables import code_span, escaped, fence, markdown_table


@pytest.mark.parametrize(
    ("text", "span"),
    [("a", "`a`"), ("a`b", "``a`b``"), ("`a``", "``` `a`` ```"), ("a\nb\t\x1b[0mc", "`a b [0mc`"), ("", "``")],
)
def test_a_code_span_has_more_backticks_than_its_text(text, span):
    assert code_span(text) == span


def test_a_fence_has_more_backticks_than_its_text():
    assert fence("no backticks") == "````"
    assert fence("a ``````` b ```") == "````````"


def test_markup_and_html_in_a_name_are_escaped():
    assert escaped("a*b* [c](d) <img src=x>\n# e | `f`") == r"a\*b\* \[c\](d) &lt;img src=x&gt; # e \| \`f\`"


def test_a_cell_stays_in_its_column():
    assert markdown_table([["a|b", "c\nd"], ["1", "2"]]) == "| a\\|b | c d |\n| --- | --- |\n| 1 | 2 |"
