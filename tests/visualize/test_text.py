"""Numbers in few digits, names without surprises, widths on the safe side."""

from __future__ import annotations

import math
import unicodedata

import pytest
from hypothesis import given, strategies as st

from tinygrad_bp.visualize.text import clean, is_certain, number, shorten, width


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (2.0, "2"),
        (-3.0, "-3"),
        (0.0, "0"),
        (-0.0, "0"),
        (123456.0, "123456"),
        (1234567.0, "1.235e+06"),
        (0.123456, "0.1235"),
        (-0.000012345, "-1.234e-05"),
        (12345.6, "1.235e+04"),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        (math.nan, "nan"),
        (True, "True"),
        (7, "7"),
    ],
)
def test_number(x, expected):
    assert number(x) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("W", "W"),
        ("  two\n lines\tand\x0bmore  ", "two lines and more"),
        ("a\x00b\x1b[31mc\x7f\x9f", "ab[31mc"),
        ("\ud800half\udfff\ufffe\uffff", "half"),
        ("abc\u202edef\u2066\u200f", "abcdef"),  # would be read as abcfed
        ("δ̂₁ = ∂E/∂z", "δ̂₁ = ∂E/∂z"),
        ("<b> & \"q\" 'q'", "<b> & \"q\" 'q'"),  # escaped where it is written, not here
    ],
)
def test_clean(text, expected):
    assert clean(text) == expected


def test_clean_keeps_two_marks_on_a_letter():
    # x has no letter of its own with any of these, so none of them is merged into it.
    assert clean("x" + "\u0334" * 50) == "x\u0334\u0334"


@given(st.text())
def test_clean_leaves_nothing_that_xml_or_the_line_cannot_hold(text):
    result = clean(text)
    assert not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in result)
    assert clean(result) == result


def test_width_is_that_of_a_monospace_font():
    assert 10 * 0.602 * 12 <= width("abcdefghij", 12.0) <= 10 * 0.65 * 12
    assert width("漢", 1.0) >= 1.0
    assert width("🙂", 1.0) >= 1.0
    assert width("e\u0301", 1.0) == width("e", 1.0)


def test_only_characters_of_monospace_fonts_are_certain():
    assert is_certain("W₁ · δ → Σ xʸ ŷ √x …")
    assert not is_certain("漢")
    assert not is_certain("﷽")


@given(st.text(), st.floats(1.0, 20.0))
def test_shortened_text_fits(text, ems):
    result = shorten(text, ems)
    assert width(result, 1.0) <= ems
    assert result == text or (result.endswith("…") and text.startswith(result[:-1]))
    assert result == text or width(text, 1.0) > ems
