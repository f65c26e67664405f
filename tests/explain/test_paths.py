"""Paths and their number: against naive enumeration, and counts known beforehand."""

import math
from functools import reduce

import mpmath
import numpy as np
import pytest
from hypothesis import given, strategies as st
from mpmath import mpf

import tinygrad_bp as tb
from tinygrad_bp import nn
from tinygrad_bp.explain.paths import paths


def enumerated(root, leaf):
    """Every path of the recorded graph: its nodes and local derivatives, from the leaf upwards."""
    if root is leaf:
        yield [root], []
    for parent, local in zip(root.operands, root.locals, strict=True):
        if local is not None:
            for nodes, locals_ in enumerated(parent, leaf):
                yield [*nodes, root], [*locals_, float(local)]


def product(locals_):
    """In 50 digits, and so without over- or underflow."""
    with mpmath.workdps(50):
        return reduce(lambda p, x: p * mpf(x), locals_, mpf(1))


OPERATIONS = {
    "add": lambda a, b: a + b,
    "double": lambda a, b: a + a,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "square by itself": lambda a, b: a * a,
    "tanh": lambda a, b: tb.tanh(a),
    "relu": lambda a, b: tb.relu(a),
    "clip": lambda a, b: tb.clip(a, b, 1.0),
    "scale": lambda a, b: a * -0.5,
}


@st.composite
def graphs(draw):
    """A small graph, and one of its nodes: also one that the root does not depend on."""
    nodes = [tb.Value(x) for x in draw(st.lists(st.floats(-3, 3), min_size=2, max_size=4))]
    for _ in range(draw(st.integers(1, 9))):
        a, b = draw(st.sampled_from(nodes)), draw(st.sampled_from(nodes))
        nodes.append(OPERATIONS[draw(st.sampled_from(sorted(OPERATIONS)))](a, b))
    return nodes[-1], draw(st.sampled_from(nodes))


@given(graphs(), st.integers(1, 20))
def test_the_strongest_paths_are_those_of_the_enumeration(graph, top):
    root, node = graph
    everything = list(enumerated(root, node))
    found = paths(root, node, top)
    assert found.count == len(everything)
    assert len(found.listed) == min(top, found.count)
    sizes = sorted((abs(product(locals_)) for _, locals_ in everything), reverse=True)
    for path, size in zip(found.listed, sizes, strict=False):
        assert abs(product(path.locals)) == pytest.approx(float(size), rel=1e-13, abs=0)
        assert path.product == pytest.approx(float(product(path.locals)), rel=1e-14, abs=0)
    # Each is a path of the graph, and none is listed more often than it stands there.
    remaining = [(tuple(nodes), tuple(locals_)) for nodes, locals_ in everything]
    for path in found.listed:
        remaining.remove((path.nodes, tuple(path.locals)))


@pytest.mark.parametrize("seed", range(60))
def test_the_order_is_that_of_the_enumeration_where_paths_are_many(seed):
    random = np.random.default_rng(seed)
    nodes = [tb.Value(x) for x in random.normal(size=2)]
    for _ in range(int(random.integers(4, 9))):
        a, b = (nodes[-min(int(i), len(nodes))] for i in random.integers(1, 4, size=2))
        nodes.append(a * b if random.random() < 0.5 else a + b)
    sizes = [abs(product(locals_)) for _, locals_ in enumerated(nodes[-1], nodes[0])]
    expected = sorted(sizes, reverse=True)
    found = paths(nodes[-1], nodes[0], 10_000)
    assert len(found.listed) == len(expected)
    np.testing.assert_allclose(np.abs(found.products), np.array(expected, float), rtol=1e-13)


@given(graphs())
def test_all_paths_add_up_to_the_gradient(graph):
    root, node = graph
    found = paths(root, node, None)
    root.backward()
    gradient = node.grad or 0.0
    assert found.gradient == gradient
    scale = np.abs(found.products).sum()
    # The sweep adds in another order: a rounding for each of at most 2**9 paths of 9 edges.
    assert found.products.sum() == pytest.approx(gradient, rel=0, abs=1e-13 * scale)
    assert abs(found.remainder) <= 1e-13 * scale
    assert found.others == 0


def test_no_gradient_is_written():
    a = tb.Value(2.0)
    b = a * a
    a.grad = 5.0
    paths(b, a)
    assert (a.grad, b.grad) == (5.0, None)


# --- E13, E14, E15, E17 -------------------------------------------------------------------------


@pytest.mark.parametrize("x", [-1.3, 0.2, 2.0])
def test_e13_the_chain_rule_is_one_path_of_two_factors(x):
    x = tb.Value(x, "x")
    g = nn.named(tb.tanh(x), "g")
    y = nn.named(tb.exp(g), "y")
    (path,) = paths(y, x).listed
    inner, outer = 1.0 / math.cosh(x.data) ** 2, math.exp(math.tanh(x.data))
    assert path.locals == pytest.approx([inner, outer], rel=1e-13)
    assert path.product == pytest.approx(outer * inner, rel=1e-13)
    assert path.equations.startswith("∂g/∂x = ")


def five_three_one(weight=None):
    """The network of the article, with sigmoids: its weights, hidden units and output."""
    random = np.random.default_rng(1)
    x = tb.values(random.normal(size=5), "x")
    W1, W2 = tb.values(random.normal(size=(5, 3)), "W1"), tb.values(random.normal(size=3), "W2")
    if weight is not None:
        W1 = tb.values([[weight] * 3, *W1[1:].tolist()])
    z = nn.named(x @ W1, "z")
    a = nn.named(tb.sigmoid(z), "a")
    y = tb.sigmoid(nn.named(a @ W2, "q"))
    y.label = "y"
    return x, W1, W2, a, y


def slopes(a, y):
    return y.data * (1 - y.data), a.data * (1 - a.data)


def test_e14_an_edge_weight_has_one_path():
    x, W1, W2, a, y = five_three_one()
    found = paths(y, W1[0, 0])
    dy, da = slopes(a, y)
    assert found.count == 1
    assert found.products == pytest.approx([x.data[0] * da[0] * W2.data[0] * dy], rel=1e-13)
    (path,) = found.listed
    assert path.names == ("W1[0, 0]", "z[0]", "a[0]", "q", "y")
    assert path.factors == pytest.approx([x.data[0], da[0], W2.data[0], dy], rel=1e-13)
    assert path.arrows == "W1[0, 0] → z[0] → a[0] → q → y"


def test_e14_what_feeds_all_neurons_has_three_paths():
    x, W1, W2, a, y = five_three_one()
    dy, da = slopes(a, y)
    expected = W1.data[0] * da * W2.data * dy
    found = paths(y, x[0])
    assert found.count == 3
    assert sorted(found.products) == pytest.approx(sorted(expected), rel=1e-13)
    assert found.gradient == pytest.approx(expected.sum(), rel=1e-13)
    assert found.shares.sum() == pytest.approx(1.0, rel=1e-13)


def test_e14_a_weight_shared_by_three_edges_has_three_uses():
    x, _, W2, a, y = five_three_one(tb.Value(0.7, "w"))
    w = next(n for n in tb.topological_order(y) if n.label == "w")
    dy, da = slopes(a, y)
    expected = x.data[0] * da * W2.data * dy
    found = paths(y, w)
    assert sorted(found.products) == pytest.approx(sorted(expected), rel=1e-13)
    assert [path.names[0] for path in found.listed] == ["w"] * 3


def test_e14_the_elements_of_an_array_have_gradients_of_their_own():
    _, W1, _, _, y = five_three_one()
    found = paths(y, W1)
    y.backward()
    np.testing.assert_array_equal(found.gradient, W1.grad)
    assert found.count == 15
    assert found.shares == pytest.approx(np.ones(10), rel=1e-13)
    assert math.isnan(found.remainder)
    assert "5 other paths" in found.text()


@pytest.mark.parametrize("depth", [1, 10, 64, 200, 2000, 20000])
def test_e15_the_number_of_paths_doubles_with_each_diamond(depth):
    a = b = tb.Value(1.0)
    for _ in range(depth):
        b = b + b
    found = paths(b, a, 2)
    assert found.count == 2**depth
    assert found.others == 2**depth - 2
    assert list(found.products) == [1.0, 1.0]
    found.text()  # also of a number with more digits than Python prints


@pytest.mark.parametrize("widths", [[3], [2, 5, 3], [7] * 40])
def test_e15_the_number_of_paths_is_the_product_of_the_widths(widths):
    x = tb.Value(1.0)
    layer = [x]
    for width in widths:
        layer = [sum(layer[1:], layer[0]) * 0.5 for _ in range(width)]
    y = sum(layer[1:], layer[0])
    assert paths(y, x).count == math.prod(widths)


def test_e17_copies_are_added():
    w = [tb.Value(1.7, f"w{i}") for i in range(3)]
    y = w[0] * w[1] * w[2]
    found = paths(y, w)
    assert found.gradient == pytest.approx(3 * 1.7**2, rel=1e-15)
    assert found.shares == pytest.approx([1 / 3] * 3, rel=1e-14)
    assert {path.names[0] for path in found.listed} == {"w0", "w1", "w2"}


# --- what is listed -----------------------------------------------------------------------------


def test_the_root_has_one_path_to_itself():
    a = tb.Value(2.0, "a")
    y = a * a
    found = paths(y, y)
    assert (found.count, found.gradient, list(found.products)) == (1, 1.0, [1.0])
    assert found.listed[0].nodes == (y,)
    assert found.listed[0].locals.shape == (0,)


@pytest.mark.parametrize("stranger", [tb.Value(1.0, "s"), tb.Value(1.0, "s", requires_grad=False)])
def test_what_is_not_reached_has_no_path(stranger):
    a = tb.Value(2.0, "a")
    found = paths(a * a + stranger.detach(), stranger)
    assert (found.count, found.gradient, found.listed) == (0, 0.0, ())
    assert found.text() == "There is no path from s to L: it does not depend on it"


def test_operands_that_stand_twice_are_two_edges():
    a = tb.Value(3.0, "a")
    found = paths(a * a + a, a)
    assert list(found.products) == [3.0, 3.0, 1.0]
    assert "stands in two places" in found.notes[-1]


def test_equal_paths_come_in_the_order_of_the_sweep():
    a = tb.Value(1.0)
    middle = [nn.named(a + float(i), f"m{i}") for i in range(6)]
    y = reduce(lambda p, q: p + q, middle)
    visited = [step.node.label for step in tb.sweep(y) if step.node.label]
    assert [path.names[1] for path in paths(y, a).listed] == visited


def test_the_rest_is_counted_and_added_up():
    a = tb.Value(1.0, "a")
    y = nn.named(a * 8.0, "p") + nn.named(a * 4.0, "q") + nn.named(a * 2.0, "r") + a * 2.0
    y.label = "y"
    found = paths(y, a, 2)
    assert (found.count, found.others, found.remainder) == (4, 2, 4.0)
    assert found.text().splitlines() == [
        "∂y/∂a = 16, the sum over 4 paths",
        "  1. a → p → y   product 8, 50 %",
        "     ∂p/∂a = 8, ∂y/∂p = 1",
        "  2. a → q → y   product 4, 25 %",
        "     ∂q/∂a = 4, ∂y/∂q = 1",
        "… 2 other paths, together 4 (25 %)",
    ]


def test_named_nodes_alone_are_shown_if_there_are_any():
    a = tb.Value(0.5, "a")
    z = nn.named(a * 3.0 + 1.0, "z")
    y = tb.tanh(z) * 2.0
    (short,) = paths(y, a).listed
    (full,) = paths(y, a, full=True).listed
    assert short.names == ("a", "z", "L")
    slope = 2.0 / math.cosh(2.5) ** 2
    assert short.factors == pytest.approx([3.0, slope], rel=1e-13)
    assert full.names == ("a", "v1", "z", "v2", "L")
    assert short.nodes == full.nodes
    assert full.factors == pytest.approx(full.locals)
    (bare,) = paths(tb.tanh(a) * 2.0, a).listed
    assert bare.names == ("a", "v1", "L")


def test_a_long_path_is_shown_by_its_ends():
    y = a = tb.Value(1.0, "a")
    for _ in range(500):
        y = tb.sin(y)
    found = paths(y, a)
    assert found.listed[0].arrows.count("→") == 12
    assert "… 489 more …" in found.listed[0].arrows
    assert len(found.listed[0].locals) == 500


def test_a_hostile_label_is_inert():
    a = tb.Value(1.0, "<script>alert(1)</script>\x00")
    shown = paths(a * 2.0, a).html()
    assert "<script" not in shown
    assert "&lt;script&gt;" in shown


# --- numbers at the edges -----------------------------------------------------------------------


@pytest.mark.parametrize("factor", [1e-3, 1e3, -1e3])
def test_products_that_no_float_holds_are_ranked_and_shown(factor):
    a = tb.Value(1.0, "a")
    weak = strong = a
    for _ in range(300):
        weak, strong = weak * factor, strong * factor
    y = weak * 0.5 + strong
    first, second = paths(y, a).listed
    assert first.log10 == pytest.approx(300 * math.log10(abs(factor)), rel=1e-13)
    assert second.log10 == pytest.approx(first.log10 - math.log10(2.0), rel=1e-13)
    assert first.product == (0.0 if abs(factor) < 1 else math.inf)
    exponent = round(first.log10)
    assert f"product 1.000e{exponent:+d}" in paths(y, a).text()


def test_the_exponents_may_meet_again_on_the_way():
    a = tb.Value(1.0, "a")
    y = a
    for factor in [1e200, 1e200, 1e-200, 1e-200]:
        y = y * factor
    found = paths(y, a)
    assert found.products == pytest.approx([1.0], rel=1e-14)
    assert found.gradient == pytest.approx(0.0, abs=1e-300)  # as the sweep multiplies: from the end
    assert "the sweep has" in found.text()


def test_nan_before_infinity_before_numbers_before_zero():
    a = tb.Value(0.0, "a")
    zero = a * 0.0
    number = a * 1e-300
    infinite = tb.sqrt(a)  # its derivative at 0 is 1/0
    undefined = tb.sqrt(a) * 0.0  # from the loss: 0, and so nothing comes of what follows
    worse = tb.exp(tb.sqrt(a) * math.inf)  # 0 times infinity is nan, and so is all that follows
    y = zero + number + infinite + undefined + worse
    got = paths(y, a, None).products
    assert math.isnan(got[0])
    assert list(got[1:]) == [math.inf, 1e-300, 0.0, 0.0]


@pytest.mark.parametrize(
    ("downwards", "expected"),
    [
        ([2.0, math.inf], math.inf),
        ([-2.0, math.inf], -math.inf),
        ([0.0, math.inf], 0.0),
        ([0.0, math.nan], 0.0),
        ([math.inf, 0.0], math.nan),
        ([math.nan, 0.0], math.nan),
        ([math.inf, -3.0], -math.inf),
        ([2.0, -0.0], 0.0),
        ([5e-324, 0.5, 4.0], 1e-323),
    ],
)
def test_a_product_is_that_of_the_sweep(downwards, expected):
    a = y = tb.Value(1.0, "a")
    for local in reversed(downwards):
        y = tb.multiply(y, local)
    (path,) = paths(y, a).listed
    assert path.product == pytest.approx(expected, rel=1e-14, abs=0, nan_ok=True)
    assert list(path.locals[::-1]) == pytest.approx(downwards, nan_ok=True)


def test_a_hook_is_mentioned():
    a = tb.Value(1.0, "a")
    b = a * 2.0
    b.register_hook(lambda g: g * 10.0)
    found = paths(b * 1.0, a)
    assert found.gradient == 20.0
    assert list(found.products) == [2.0]
    assert "hook" in found.notes[-1]


# --- large graphs, and what is refused ----------------------------------------------------------


def test_a_graph_of_a_hundred_thousand_nodes():
    x = tb.Value(0.3, "x")
    y = x
    for _ in range(33_000):
        y = tb.tanh(y) * 0.9 + y
    found = paths(y, x)
    assert found.count == 2**33_000
    assert len(found.listed) == 10
    assert sorted(found.products, reverse=True) == list(found.products)


def tensor():
    return tb.Tensor([1.0], "t")


@pytest.mark.parametrize(
    ("loss", "node", "kind", "message"),
    [
        (tensor, lambda: tb.Value(1.0), TypeError, "loss: .*scalar_view"),
        (lambda: tb.Value(1.0), tensor, TypeError, "node: .*scalar_view"),
        (lambda: tb.values([1.0, 2.0]), lambda: tb.Value(1.0), TypeError, "of shape \\(2,\\)"),
        (lambda: tb.Value(1.0), lambda: 3.0, TypeError, "node: expected a Value, got a float"),
        (lambda: tb.Value(1.0), list, ValueError, "empty sequence"),
        (lambda: tb.Value(1.0, requires_grad=False), lambda: tb.Value(1.0), ValueError, "constant"),
    ],
)
def test_what_is_refused(loss, node, kind, message):
    with pytest.raises(kind, match=message) as error:
        paths(loss(), node())
    assert len(str(error.value)) <= 200


@pytest.mark.parametrize("top", [0, -1, 2.5, True, "all"])
def test_the_number_of_paths_to_list_is_positive(top):
    a = tb.Value(1.0)
    with pytest.raises(ValueError, match="top: expected a positive integer or None"):
        paths(a * 2.0, a, top)


def test_too_many_paths_to_list():
    a = b = tb.Value(1.0)
    for _ in range(20):
        b = b + b
    with pytest.raises(ValueError, match="there are 1,048,576 paths, too many to list"):
        paths(b, a, None)


def test_the_number_of_paths_may_be_numpys():
    a = tb.Value(3.0)
    assert len(paths(a * a, a, np.int64(1)).listed) == 1
