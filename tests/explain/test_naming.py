"""Names of nodes: labels, steps and layers."""

import numpy as np
import pytest

import tinygrad_bp as tb
from tinygrad_bp import nn
from tinygrad_bp.explain.naming import Place, names_of, place_of
from tinygrad_bp.graph import topological_order


def test_a_quantity_of_a_cell_has_its_time_step_and_its_layer():
    net = nn.CharRNN(2, 3, rng=0)
    net.cell.name = "cell"
    logits, h = net(np.eye(2)[:, None], net.cell.initial_state(1))
    assert place_of(h) == Place("h(2)", "h", 2, "charrnn/cell", None)
    assert place_of(logits[0]) == Place("o(1)", "o", 1, "charrnn", None)
    z = h.parents[0]
    assert place_of(z) == Place("z(2)", "z", 2, "charrnn/cell", None)


def test_a_leaf_belongs_to_no_step():
    with tb.recording.scope("step", 4):
        w = tb.Value(1.0, "w")
        y = w * 2.0
    assert place_of(w).step is None
    assert place_of(y).step == 4


def test_a_numbered_layer_within_a_step_is_no_step():
    w = tb.Value(1.0, "w")
    with tb.scope("step", 4), tb.scope("layer", 2):
        y = nn.named(w * 2.0, "z")
    assert place_of(y) == Place("z(4)", "z", 4, "layer(2)", None)
    with tb.scope("time", 4):
        y = w * 2.0
    assert (place_of(y).step, place_of(y).layer) == (4, "")


def test_an_element_of_an_array_of_values_belongs_to_its_quantity():
    w = tb.values(np.ones((2, 3)), "W1")
    assert place_of(w[1, 2]) == Place("W1", "W1", None, "", (1, 2))
    assert names_of([w[1, 2]]) == {w[1, 2]: "W1[1, 2]"}


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["a", "b"], ["a", "b"]),
        (["a", "a", ""], ["a#1", "a#2", "v1"]),
        (["", "v1", ""], ["v2", "v1", "v3"]),
        (["a\nb\x00"], ["a b"]),
    ],
)
def test_every_node_has_a_name_of_its_own(labels, expected):
    nodes = [tb.Value(1.0, label) for label in labels]
    assert list(names_of(nodes).values()) == expected


def test_names_stand_in_the_order_of_the_nodes():
    a = tb.Value(1.0, "a")
    order = topological_order((a + 1.0) * 2.0)
    assert list(names_of(order).values()) == ["a", "v1", "v2"]
