"""Tables as text and as HTML."""

import numpy as np
import pytest

from tinygrad_bp.explain.tables import MOST_ROWS, Table, cell


def test_columns_are_aligned_and_numbers_end_at_the_right():
    table = Table("two", ["name", "value"], [("a", 1.5), ("long name", -20.25)], ["a note"])
    assert str(table) == "two\nname        value\na             1.5\nlong name  -20.25\na note"


def test_rows_can_be_read():
    table = Table("", ["name", "value"], [("a", 1.5), ("b", None)])
    assert list(table) == [{"name": "a", "value": 1.5}, {"name": "b", "value": None}]
    assert table.column("value") == [1.5, None]
    assert len(table) == 2
    with pytest.raises(KeyError, match="expected one of name, value, got 'valu'"):
        table.column("valu")


def test_text_from_anywhere_is_inert_in_html():
    hostile = "<script>alert(1)</script>&\x00"
    shown = Table(hostile, [hostile], [(hostile,)], [hostile]).html()
    assert "<script" not in shown
    assert shown.count("&lt;script&gt;alert(1)&lt;/script&gt;&amp;") == 4


def test_a_long_table_says_how_many_rows_are_not_shown():
    table = Table("", ["i"], [(i,) for i in range(MOST_ROWS + 7)])
    assert "… and 7 rows more" in table.text()
    assert "… and 7 rows more" in table.html()
    assert len(table.text().splitlines()) == MOST_ROWS + 3
    assert len(table.rows) == MOST_ROWS + 7


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, ""),
        (2**70, str(2**70)),
        (0.123456, "0.1235"),
        (float("nan"), "nan"),
        (np.array([1.0, -0.5]), "[1 -0.5]"),
        (np.eye(2), "[[1 0] [0 1]]"),
        (np.arange(20.0).reshape(4, 5), "4×5, 0 … 19"),
        (np.zeros((0, 3)), "0×3 empty"),
    ],
)
def test_a_cell(content, expected):
    assert cell(content) == expected


def test_a_column_without_a_word_is_not_shown_but_can_be_read():
    table = Table("", ["name", "step", "value"], [("a", None, 1.5), ("b", "", 2.0)])
    assert table.text().splitlines()[1:] == ["name  value", "a       1.5", "b         2"]
    assert "step" not in table.html()
    assert table.column("step") == [None, ""]
    assert "step" in Table("", ["name", "step"], []).text()
