"""Derivations of single numbers, of operations of one's own; what can be asked; how it is shown."""

import math
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from derivations import (
    check,
    equation_of,
    gradients_agree,
    kinds,
    lines_of,
    network,
    probabilities,
    recurrent,
)
from hypothesis import given, settings, strategies as st

import tinygrad_bp as tb
from tinygrad_bp import nn
from tinygrad_bp.explain import derive
from tinygrad_bp.explain.evaluating import Numbers, evaluate
from tinygrad_bp.explain.formulas import Derivative, Indexed, Symbol
from tinygrad_bp.nn.feedforward import ACTIVATIONS
from tinygrad_bp.nn.module import named

# --- single numbers ------------------------------------------------------------------------------

SAFE = {
    "add": (tb.add, 2),
    "subtract": (tb.subtract, 2),
    "multiply": (tb.multiply, 2),
    "divide": (lambda x, y: x / (y * y + 1.0), 2),
    "tanh": (tb.tanh, 1),
    "exp": (lambda x: tb.exp(tb.sin(x)), 1),
    "sigmoid": (tb.sigmoid, 1),
    "square": (tb.square, 1),
    "absolute": (tb.absolute, 1),
    "cos": (tb.cos, 1),
    "maximum": (tb.maximum, 2),
    "power": (lambda x: (x * x + 0.5) ** 1.5, 1),
    "log": (lambda x: tb.log(x * x + 1.0), 1),
    "sqrt": (lambda x: tb.sqrt(x * x + 1.0), 1),
    "gelu": (tb.gelu, 1),
    "arctan2": (lambda x, y: tb.arctan2(x, y * y + 1.0), 2),
}


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_random_expressions(data):
    number = st.floats(-2.0, 2.0).filter(lambda x: abs(x) > 1e-3)
    nodes = [tb.Value(data.draw(number), name) for name in "xyw"]
    for i in range(data.draw(st.integers(1, 8))):
        function, arity = SAFE[data.draw(st.sampled_from(sorted(SAFE)))]
        node = function(*(data.draw(st.sampled_from(nodes)) for _ in range(arity)))
        if data.draw(st.booleans()):
            named(node, f"n{i}")
        nodes.append(node)
    loss = nodes[-1] + nodes[0]
    derivation = check(derive(loss))
    loss.backward()
    for equation in derivation:
        if equation.kind == "parameter":
            (leaf,) = (x for x in nodes[:3] if x.label == equation.lhs.by.name)
            got = derivation.evaluate(equation.rhs).item()
            assert got == pytest.approx(leaf.grad, rel=1e-9, abs=1e-12)


def test_a_scalar_expression():
    a, b, c, f = (tb.Value(x, n) for x, n in ((2.0, "a"), (-3.0, "b"), (10.0, "c"), (-2.0, "f")))
    d = named(named(a * b, "e") + c, "d")
    derivation = check(derive(named(d * f, "L"), numbers=True))
    assert lines_of(derivation, "forward") == ["e = a b", "d = e + c", "L = d f"]
    assert lines_of(derivation, "parameter") == [
        "∂L/∂a = ∂L/∂e b = f b",
        "∂L/∂b = ∂L/∂e a = f a",
        "∂L/∂c = ∂L/∂d = f",
        "∂L/∂f = d",
    ]
    assert "      6\n" in derivation.text()  # ∂L/∂a = f b


def test_the_scalar_view_of_a_small_network():
    net, *_ = network([2, 2, 1], ["tanh", "identity"])
    loss = nn.squared_error(net.scalar_view()(np.array([[0.5, -1.0]])), [[0.3]])
    derivation = check(derive(loss, "W1"))
    assert {e.lhs.by.sub for e in derivation if e.kind == "parameter"} == {
        f"{i},{j}" for i in range(2) for j in range(2)
    }


# --- operations of the user's own ----------------------------------------------------------------


@tb.elementwise(lambda m, x, y: m.divide(1.0, (1.0 + m.absolute(x)) ** 2))
def softsign(m, x):
    """x / (1 + |x|)"""
    return m.divide(x, 1.0 + m.absolute(x))


def roll_dx(m, g, y, x):
    return m.getitem(g, (..., [1, 2, 0]))


@tb.structural(roll_dx)
def roll(m, x):
    """The elements of the last axis, moved on by one"""
    return m.getitem(x, (..., [2, 0, 1]))


@pytest.mark.parametrize("convention", ["columns", "rows"])
def test_a_rule_of_ones_own_takes_part(convention):
    net, loss, *_ = network([3, 3, 2], [softsign, "identity"], m=2)
    derivation = check(derive(loss, convention=convention))
    assert "softsign(x) = x/(1 + |x|)" in lines_of(derivation, "rule")
    assert "softsign′(x) = 1/(1 + |x|)²" in lines_of(derivation, "rule")
    gradients_agree(derivation, loss, net.parameters(), convention == "columns")


@pytest.mark.parametrize("convention", ["columns", "rows"])
def test_an_unknown_structural_rule_is_written_by_its_name(convention):
    W = tb.Tensor(np.random.default_rng(0).normal(size=(2, 3)), "W")
    z = named(roll(named(np.ones((1, 2)) @ W, "u")), "r")
    derivation = check(derive(nn.squared_error(z, np.zeros((1, 3))), convention=convention))
    assert "r = roll(u)" in lines_of(derivation, "forward")
    assert "roll_dx(∂C/∂r, u)" in derivation.text()


def test_a_rule_that_cannot_run_on_formulas_is_shown_by_its_derivative():
    def slope(m, x, y):
        return 3.0 if x > 0 else 2.0

    @tb.elementwise(slope, check=False)
    def bent(m, x):
        return 3.0 * x if x > 0 else 2.0 * x

    derivation = check(derive(bent(tb.Value(1.5, "x")) * 2.0))
    assert lines_of(derivation, "parameter") == ["∂L/∂x = 2 bent′(x)"]


def test_a_wrong_partial_is_found_out():
    wrong = tb.elementwise(lambda m, x, y: m.cos(x), textbook=lambda m, x, y: m.sin(x), check=False)

    @wrong
    def wave(m, x):
        return m.sin(x)

    derivation = derive(named(wave(tb.Value(1.0, "x")), "L"))
    assert lines_of(derivation, "parameter") == ["∂L/∂x = wave′(x)"]
    assert lines_of(derivation, "rule") == ["wave(x) = sin(x)"]
    assert any("left out" in note for note in derivation.notes)


@pytest.mark.parametrize("name", sorted(set(ACTIVATIONS) - {"identity", "softmax", "log_softmax"}))
def test_local_rules(name):
    _, loss, *_ = network([2, 2], [name])
    rules = [e for e in derive(loss) if e.kind == "rule"]
    assert isinstance(rules[-1].lhs, Derivative)
    for equation in rules:
        for x in np.linspace(-2.0, 2.0, 5):
            numbers = Numbers({(("x", "", ""), None): np.full((1, 1), x)})
            if isinstance(equation.lhs, Derivative):  # against differences
                f, h = equation.lhs.rule, 1e-6
                expected = (f(x + h) - f(x - h)) / (2.0 * h)
                if x == 0.0 and f.kinks:
                    continue
            else:
                expected = equation.lhs.rule(x)
            got = evaluate(equation.rhs, numbers).item()
            assert got == pytest.approx(expected, rel=1e-8, abs=1e-9)


# --- what is asked for ---------------------------------------------------------------------------


def test_with_respect_to_one_parameter():
    net, loss, *_ = network([3, 4, 2], ["sigmoid", "tanh"])
    derivation = derive(loss, net.layers[1].W)
    assert [derivation.write(e.lhs) for e in derivation if e.kind == "parameter"] == ["∂C/∂W²"]
    assert "δ¹" not in derivation.text()
    by_name = derive(loss, "W2")
    assert by_name.text() == derivation.text()


def test_with_respect_to_an_inner_node():
    _, loss, *_ = network([3, 4, 2], ["sigmoid", "tanh"])
    derivation = check(derive(loss, "z1"))
    assert "parameter" not in kinds(derivation)
    assert "δ¹" in derivation.text()


def test_symbols_by_node_and_by_name():
    net, loss, *_ = network([3, 4, 2], ["sigmoid", "tanh"])
    derivation = check(derive(loss, symbols={net.layers[0].W: "Θ", "b2": "c_out", "x": "u"}))
    assert "z¹ = Θ u + b¹" in lines_of(derivation, "forward")
    assert "z² = W² a¹ + c_out" in lines_of(derivation, "forward")


def test_two_things_never_have_the_same_symbol():
    rng = np.random.default_rng(0)
    A, B = tb.Tensor(rng.normal(size=(3, 3)), "W"), tb.Tensor(rng.normal(size=(3, 3)), "W")
    derivation = check(derive(nn.squared_error(tb.tanh(np.ones((1, 3)) @ A) @ B, np.ones((1, 3)))))
    assert [derivation.write(e.lhs) for e in derivation if e.kind == "parameter"] == [
        "∂C/∂W¹",
        "∂C/∂W²",
    ]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"loss": 3.0}, TypeError, "loss: expected a Value or a Tensor, got float"),
        ({"loss": tb.Value(3.0)}, ValueError, "it is a leaf"),
        ({"loss": tb.Tensor([1.0, 2.0]) * 2.0}, ValueError, "single number, got shape"),
        ({"convention": "column"}, ValueError, "convention: expected 'columns' or 'rows'"),
        ({"indices": "jk"}, ValueError, "indices: expected None, 'nielsen' or 'ng'"),
        ({"indices": "ng", "convention": "rows"}, ValueError, "indices: "),
        ({"with_respect_to": "W9"}, ValueError, "does not depend on 'W9'"),
        ({"with_respect_to": tb.Value(1.0)}, ValueError, "does not depend on one of"),
        ({"with_respect_to": 3}, TypeError, "with_respect_to: expected nodes or their names"),
        ({"symbols": {"W9": "Θ"}}, ValueError, "symbols: 'W9' is not in this graph"),
        ({"symbols": {"W1": 3}}, TypeError, "symbols: expected a name, got int 3"),
    ],
)
def test_what_cannot_be_derived_is_refused(arguments, error, message):
    _, loss, *_ = network([3, 4, 2], ["sigmoid", "tanh"])
    with pytest.raises(error, match=message.replace("(", r"\(")) as raised:
        derive(**{"loss": loss, **arguments})
    assert len(str(raised.value)) <= 200


def test_the_scalar_view_of_a_large_network_is_refused():
    net, *_ = network([8, 12, 8], ["tanh", "identity"])
    loss = nn.squared_error(net.scalar_view()(np.ones((1, 8))), np.ones((1, 8)))
    with pytest.raises(ValueError, match="equations, and 200 can be read at most"):
        derive(loss)


# --- writing -------------------------------------------------------------------------------------

HOSTILE = ["<script>alert(1)</script>", "$\\input{/etc/passwd}$", "a & b", "x_{y}^z", "\n\n# head",
           "]]>", "`code`", "\\end{aligned}", "%comment", "a\\)b", "**x**"]  # fmt: skip


@pytest.mark.parametrize("label", HOSTILE)
def test_names_are_inert_in_every_notation(label):
    w = tb.Value(2.0, label)
    derivation = derive(tb.tanh(w * w))
    html = derivation.html()
    ET.fromstring(f"<div>{html.replace('&emsp;', ' ')}</div>")
    assert "<script" not in html
    for written in (derivation.latex(), derivation.markdown()):
        assert "<script" not in written
        assert "\\input" not in written
        assert "\n# head" not in written
        assert "`code`" not in written
        assert written.count("\\end{aligned}") == written.count("\\begin{aligned}")
        for line in written.splitlines():
            if "tanh" in line:
                bare = line.replace("\\&", "").replace("\\$", "").replace("\\%", "")
                assert bare.count("&") <= 1
                assert "$" not in bare
                assert "%" not in bare
                assert "\\)" not in bare
                assert bare.replace("\\{", "").count("{") == bare.replace("\\}", "").count("}")


@pytest.mark.parametrize("numbers", [True, False])
def test_html_is_well_formed(numbers):
    for loss in (recurrent(3)[1], network([3, 4, 2], ["leaky_relu", "softmax"], m=2)[1]):
        html = derive(loss, numbers=numbers).html()
        root = ET.fromstring(f"<div>{html.replace('&emsp;', ' ')}</div>")
        assert len(root.findall(".//math")) > 5
        assert "script" not in html
        assert "http" not in html


def test_notebooks_take_the_markdown():
    derivation = derive(network([2, 2], ["tanh"])[1])
    assert derivation._repr_html_() is None
    assert derivation._repr_markdown_() == derivation.markdown()
    assert "$$\n\\begin{aligned}" in derivation.markdown()


def test_equations_can_be_read_by_a_program():
    derivation = derive(recurrent(4)[1])
    z = equation_of(derivation, "z(t)")
    assert (z.kind, z.shape, z.steps, z.step) == ("forward", (3, 1), (1, 4), None)
    assert sorted(z.numbers) == [1, 2, 3, 4]
    assert z.numbers[2].shape == (3, 1)
    last = equation_of(derivation, "δ_h(τ)")
    assert (last.kind, last.step) == ("boundary", 4)
    assert isinstance(last.lhs, Symbol)
    assert not any(isinstance(e.lhs, Indexed) for e in derivation)


# --- numbers that are hard to compare -------------------------------------------------------------


def test_single_precision():
    rng = np.random.default_rng(0)
    net = nn.MLP([3, 4, 2], ["tanh", "sigmoid"], rng=rng, dtype=np.float32)
    x = tb.Tensor(rng.normal(size=(5, 3)), "x", requires_grad=False, dtype=np.float32)
    loss = nn.binary_cross_entropy(net(x), probabilities(rng, (5, 2)).astype(np.float32))
    derivation = derive(loss)
    loss.backward()
    for equation in derivation:
        if equation.kind == "parameter":
            for form in equation.forms:
                got = derivation.evaluate(form)
                np.testing.assert_allclose(got, equation.numbers, rtol=1e-3, atol=1e-6)
    assert derivation.write(equation_of(derivation, "δ²").forms[-1]) == "1/m (a² − y)"


def test_a_saturated_unit_keeps_the_formulas_that_hold():
    w = tb.Value(30.0, "w")
    derivation = check(derive(tb.tanh(w) * 1e20))
    assert any("left out" in note for note in derivation.notes)
    assert lines_of(derivation, "parameter") == ["∂L/∂w = 1·10²⁰ tanh′(w)"]


def test_what_is_masked_stays_masked():
    x = tb.Value(0.0, "x")
    derivation = check(derive(tb.where(x > 0.0, tb.log(x), 0.0) + x * 2.0))
    assert lines_of(derivation, "parameter")[0].startswith("∂L/∂x = ")


def test_undefined_numbers_are_shown_and_not_vouched_for():
    x = tb.Value(-1.0, "x")
    derivation = derive(tb.log(x) * x)
    assert any("infinite or undefined" in note for note in derivation.notes) or math.isnan(
        derivation.evaluate(equation_of(derivation, "∂L/∂x").rhs).item()
    )


def test_a_hook_that_changes_gradients_is_found_out():
    w = tb.Value(2.0, "w")
    h = named(w * 3.0, "h")
    loss = h * h
    handle = h.register_hook(lambda g: 2.0 * g)
    with pytest.raises(ArithmeticError, match=r"∂L/∂h does not give the recorded number.*hook"):
        derive(loss)
    handle.remove()
    check(derive(loss))


def test_a_graph_too_large_to_be_read():
    x = tb.Value(1.0, "x")
    y = x
    for _ in range(20_001):
        y = y * 1.0
    with pytest.raises(ValueError, match=r"loss: its graph has 20,002 nodes, .* at most 20,000"):
        derive(y)


def test_nothing_is_written_to_the_graph():
    net, loss, *_ = network([3, 4, 2], ["sigmoid", "tanh"])
    derive(loss, indices="ng", numbers=True)
    assert all(p.grad is None for p in net.parameters())
    assert all(step.node.grad is None for step in tb.sweep(loss))


@pytest.mark.parametrize("label", ["δ1", "m", "ŷ", "C", "x", "y", "v1", "∂", "t", "τ", "1"])
def test_names_that_a_derivation_uses_itself(label):
    rng = np.random.default_rng(0)
    net = nn.MLP([3, 4, 2], ["sigmoid", "identity"], rng=rng)
    net.layers[0].W.label = label
    constant = tb.Tensor(rng.normal(size=(4, 2)), label, requires_grad=False)
    logits = net(rng.normal(size=(4, 3))) + constant
    derivation = check(derive(nn.cross_entropy(logits, probabilities(rng, (4, 2)))))
    left = [derivation.write(e.lhs) for e in derivation if e.kind not in ("rule", "notation")]
    assert len(set(left)) == len(left)
