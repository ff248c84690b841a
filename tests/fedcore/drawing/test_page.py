"""A page and its numbers: closed to the network, whatever stands in it, and readable."""

from __future__ import annotations

import base64
import hashlib
import math
import re

import pytest

from fedcore.drawing.numbers import number_word, percent_text
from fedcore.drawing.page import document, facts_list, middle_cut, short, table
from fedcore.drawing.symbols import key


def test_a_page_allows_its_own_style_and_nothing_else():
    text = document("a & b", ["<i>"], style=".x { color: red; }")
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"default-src &#x27;none&#x27;; style-src &#x27;sha256-{digest}&#x27;" in text
    assert style.endswith(".x { color: red; }") and "prefers-color-scheme: dark" in style
    assert "<title>a &amp; b</title>" in text and "<main>&lt;i&gt;</main>" in text


def test_a_fact_that_is_not_known_is_left_out():
    text = facts_list([("Rows", "7", "in all"), ("Time", "–", "")])
    assert "Rows" in text and "in all" in text and "Time" not in text


def test_the_first_columns_of_a_table_are_words_and_the_others_numbers():
    text = table(["name", "party", "rows"], [["a", "b", "7"]], words=2)
    assert re.findall(r'<td( class="\w")?>', text) == [' class="w"', "", ' class="n"']


@pytest.mark.parametrize(
    ("value", "digits", "told"),
    [
        (0.2215, 1, "22.1\u202f%"),
        (0.8, 0, "80\u202f%"),
        (-0.01, 1, "−1.0\u202f%"),
        (None, 1, "–"),
        (math.nan, 1, "–"),
    ],
)
def test_a_share_is_written_as_per_cent(value, digits, told):
    assert percent_text(value, digits) == told


def test_counts_are_words_up_to_twelve_and_never_a_wrong_word():
    assert [number_word(count) for count in (0, 12, 13, -1)] == ["no", "twelve", "13", "-1"]


def test_a_long_name_is_cut_and_a_legend_shows_lines_as_lines():
    assert short("abcdef", 4) == "abc…" and short("abcd", 4) == "abcd"
    assert middle_cut("payment_delay_01", 10) == "paymen…_01" and middle_cut("abc", 3) == "abc"
    assert len(middle_cut("x" * 99, 24)) == 24
    assert "<path" in key("line pooled") and "<rect" in key("bar bad") and "<circle" in key("alone")
