"""What is drawn of a graph: which boxes, which edges, which texts."""

from __future__ import annotations

import numpy as np
import pytest

import tinygrad_bp as tb
from tinygrad_bp import Tensor, Value
from tinygrad_bp.visualize.building import scene_of
from tinygrad_bp.visualize.scene import listing


def scene(root, max_nodes=300):
    return scene_of(root, max_nodes)


def polynomial():
    a = Value(2.0, label="a")
    b = a * a + 3.0 * a
    b.label = "b"
    return a, b


def edges(s):
    """The edges by the names of the listing."""
    return [(s.boxes[e.source].name, s.boxes[e.target].name, e.text) for e in s.edges]


def test_polynomial():
    # b = a² + 3a at 2: a² = 4, 3a = 6, b = 10; db/da = 2a + 3 = 7.
    _, b = polynomial()
    b.backward()
    s = scene(b)
    assert [(box.name, box.symbol, box.kind, box.rows) for box in s.boxes] == [
        ("a", "", "leaf", (("data", "2"), ("grad", "7"))),
        ("v1", "×", "inner", (("data", "4"), ("grad", "1"))),
        ("3", "", "constant", (("data", "3"),)),
        ("v2", "×", "inner", (("data", "6"), ("grad", "1"))),
        ("b", "+", "inner", (("data", "10"), ("grad", "1"))),
    ]
    assert edges(s) == [
        ("a", "v1", "2"),
        ("a", "v1", "2"),
        ("3", "v2", ""),
        ("a", "v2", "3"),
        ("v1", "b", "1"),
        ("v2", "b", "1"),
    ]
    assert [box.is_root for box in s.boxes] == [False, False, False, False, True]


def test_no_gradient_is_not_a_gradient_of_zero():
    a, b = polynomial()
    assert scene(b).boxes[0].rows == (("data", "2"), ("grad", "–"))
    (b - b).backward()
    assert a.grad == 0.0
    assert scene(b).boxes[0].rows == (("data", "2"), ("grad", "0"))


def test_scene_is_a_snapshot():
    a, b = polynomial()
    before = scene(b)
    boxes = tuple(before.boxes)
    b.backward()
    a.data = 5.0
    assert before.boxes == boxes
    assert before != scene(b)


def test_single_leaf_and_single_constant():
    (leaf,) = scene(Value(1.5, label="w")).boxes
    assert (leaf.kind, leaf.label, leaf.is_root) == ("leaf", "w", True)
    (constant,) = scene(Value(1.5, requires_grad=False)).boxes
    assert (constant.kind, constant.is_root, constant.is_compact) == ("constant", True, True)
    assert constant.rows == (("data", "1.5"),)


def test_numbers_are_a_box_per_use_and_constant_values_are_shared():
    w = Value(3.0)
    x = Value(2.0, label="x", requires_grad=False)
    s = scene((w * x + w * 2.0) * x + 2.0)
    constants = [box.name for box in s.boxes if box.kind == "constant"]
    assert sorted(constants) == ["2", "2", "x"]
    assert [e for e in edges(s) if e[0] == "x"] == [("x", "v2", ""), ("x", "v5", "")]


def test_two_leaves_of_equal_value_are_two_boxes():
    assert len(scene(Value(1.0) * Value(1.0)).boxes) == 3


def test_operands_keep_their_order():
    x, y = Value(6.0, label="x"), Value(3.0, label="y")
    quotient = scene(x / y)
    assert quotient.boxes[-1].is_ordered
    # d(x/y)/dx = 1/3, d(x/y)/dy = -6/9
    assert edges(quotient) == [("x", "v1", "0.3333"), ("y", "v1", "-0.6667")]
    assert not scene(x * y).boxes[-1].is_ordered
    power = scene(2.0**x)
    # d(2^x)/dx = 2^6 log 2
    assert edges(power) == [("2", "v1", ""), ("x", "v1", "44.36")]
    assert power.boxes[-1].symbol == "xʸ"


def test_three_operands():
    x, y = Value(2.0, label="x"), Value(5.0, label="y")
    s = scene(tb.where(True, x, y))
    assert edges(s) == [("True", "v1", ""), ("x", "v1", "1"), ("y", "v1", "0")]


def test_equal_labels_are_told_apart_in_the_listing():
    h = Value(1.0, label="h")
    for _ in range(2):
        h = h.tanh()
        h.label = "h"
    assert [box.name for box in scene(h).boxes] == ["h#1", "h#2", "h#3"]
    assert {box.label for box in scene(h).boxes} == {"h"}


def test_a_label_like_a_number_of_the_listing_is_no_clash():
    v1 = Value(1.0, label="v1")
    assert [box.name for box in scene(v1.exp()).boxes] == ["v1", "v2"]


def test_scope_is_kept():
    x = Value(1.0)
    with tb.scope("net"), tb.scope("step", 2):
        y = x * x
    assert [box.scope for box in scene(y).boxes] == ["", "net/step(2)"]


def test_too_large_a_graph_is_refused_with_its_size():
    _, b = polynomial()  # five boxes, counted above
    assert len(scene(b, max_nodes=5).boxes) == 5
    with pytest.raises(ValueError, match=r"5 nodes and constants, more than max_nodes=4; .*larger"):
        scene(b, max_nodes=4)


def test_a_very_deep_graph_is_refused_like_any_other():
    x = Value(1.0)
    for _ in range(20_000):
        x = x + 1.0
    with pytest.raises(ValueError, match="40001"):
        scene(x)


# --- Tensors ------------------------------------------------------------------------------------


def test_tensor_graph():
    W = Tensor([[1.0, 2.0], [3.0, 4.0]], label="W")
    x = Tensor([[1.0, 0.5]], label="x", requires_grad=False)
    loss = tb.sum(x @ W)
    loss.backward()
    s = scene(loss)
    by_name = {box.name: box for box in s.boxes}
    assert by_name["x"].kind == "constant"
    assert by_name["x"].rows == (("shape", "(1, 2)"), ("data", "[1, 0.5]"))
    # d sum(xW) / dW is x in every column
    assert by_name["W"].rows == (
        ("shape", "(2, 2)"),
        ("data", "[1, 2]"),
        ("", "[3, 4]"),
        ("grad", "[1, 1]"),
        ("", "[0.5, 0.5]"),
    )
    assert by_name["v1"].rows[1] == ("data", "[2.5, 4]")
    assert by_name["v2"].rows == (("data", "6.5"), ("grad", "1"))
    assert edges(s) == [("x", "v1", ""), ("W", "v1", "matmul_dy"), ("v1", "v2", "sum_dx")]


@pytest.mark.parametrize(
    ("data", "rows"),
    [
        (np.arange(7.0), (("data", "mean 3"), ("", "0 … 6"))),
        (np.arange(6.0), (("data", "[0, 1, 2,"), ("", "3, 4, 5]"))),
        (np.zeros((2, 0)), (("data", "empty"),)),
        (np.array([1.0, np.nan]), (("data", "[1, nan]"),)),
        (np.array([[np.inf] * 7]), (("data", "mean inf"), ("", "inf … inf"))),
        (np.array([np.inf, -np.inf] * 4), (("data", "mean nan"), ("", "-inf … inf"))),
        (np.ones((1, 2, 1)), (("data", "mean 1"), ("", "1 … 1"))),
    ],
)
def test_arrays_in_few_words(data, rows):
    (box,) = scene(Tensor(data)).boxes
    assert box.rows == (("shape", str(data.shape)), *rows, ("grad", "–"))


def test_constant_array_is_drawn_as_it_was_used():
    c = np.array([1.0, 2.0])
    y = Tensor([1.0, 1.0]) * c
    c[0] = 99.0
    (constant,) = (box for box in scene(y).boxes if box.kind == "constant")
    assert constant.rows[1] == ("data", "[1, 2]")


def test_drawing_a_leaf_does_not_take_its_array_from_its_owner():
    W = Tensor([1.0, 2.0])
    mine = W.data
    scene(W)
    mine[0] = 5.0
    assert W.data[0] == 5.0
    y = W * W
    recorded = W._array
    scene(y)
    assert W._array is recorded


# --- the listing --------------------------------------------------------------------------------


def test_listing():
    _, b = polynomial()
    b.backward()
    assert listing(scene(b)).splitlines() == [
        "node  =        data  grad  local derivatives",
        "a     leaf     2     7",
        "v1    a × a    4     1     a: 2, a: 2",
        "v2    3 × a    6     1     a: 3",
        "b     v1 + v2  10    1     v1: 1, v2: 1",
    ]


def test_listing_of_functions_and_arrays():
    t = Tensor([[1.0, 2.0]], label="t")
    lines = listing(scene(tb.sum(t.tanh()))).splitlines()
    assert lines[1].split("  ")[0] == "t"
    assert "(1, 2) [1, 2]" in lines[1]
    assert "tanh(t)" in lines[2]
    assert "sum(v1)" in lines[3]
    assert "v1: sum_dx" in lines[3]


def test_listing_of_a_constant_alone():
    assert listing(scene(Value(4.0, requires_grad=False))).splitlines()[1].split() == [
        "4",
        "constant",
        "4",
    ]


def test_the_result_of_a_checkpointed_part_is_one_box():
    a, w = Value(0.5, "a"), Value(2.0, "w")
    lines = listing(scene(tb.checkpoint(lambda x: tb.tanh(x * w), a) * 3.0)).splitlines()
    assert "checkpoint(a, w)" in lines[3]
    assert "a: run again, w: run again" in lines[3]
    assert len(lines) == 5
