"""Derivations: every displayed formula, evaluated, gives the numbers of the sweep."""

import itertools
import math
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import tinygrad_bp as tb
from tinygrad_bp import nn
from tinygrad_bp.explain import derive
from tinygrad_bp.explain.evaluating import Numbers, evaluate
from tinygrad_bp.explain.formulas import Derivative, Indexed, Partial, Symbol
from tinygrad_bp.nn.feedforward import ACTIVATIONS
from tinygrad_bp.nn.module import named

# A derivative in textbook form, 1 - tanh², loses a few digits that the sweep keeps.
RTOL, ATOL = 1e-9, 1e-12


def check(derivation):
    """Evaluate both sides of every equation, at every step and index, and compare them."""
    assert len(derivation) > 0
    for equation in derivation.equations:
        if equation.kind == "rule" and not isinstance(equation.lhs, Partial):
            continue  # a function of a free variable: see test_local_rules
        letters = [letter for letter, _ in equation.index_sizes]
        ranges = [range(min(n, 4)) for _, n in equation.index_sizes]
        for t, *values in itertools.product(equation.times, *ranges):
            at = dict(zip(letters, values, strict=True))
            expected = derivation.evaluate(equation.lhs, t, **at)
            for form in equation.forms:
                got = np.broadcast_to(derivation.evaluate(form, t, **at), expected.shape)
                np.testing.assert_allclose(got, expected, rtol=RTOL, atol=ATOL)
    return derivation


def kinds(derivation):
    return {equation.kind for equation in derivation}


def equation_of(derivation, text, step=None):
    """The equation whose left side is printed so."""
    lines = {derivation.write(e.lhs): e for e in derivation if step in (None, e.step)}
    return lines[text]


def lines_of(derivation, kind):
    """The equations of a kind as text."""
    return [
        " = ".join(map(derivation.write, (e.lhs, *e.forms))) for e in derivation if e.kind == kind
    ]


def gradients_agree(derivation, loss, leaves, transposed=True):
    """What the derivation says of parameters is what `backward()` leaves in `.grad`."""
    for leaf in leaves:
        leaf.zero_grad()
    loss.backward()
    found = {e.lhs.by.name + e.lhs.by.sup + e.lhs.by.sub: e for e in derivation
             if e.kind == "parameter"}  # fmt: skip
    assert len(found) == len(leaves)
    for leaf in leaves:
        grad = np.atleast_2d(leaf.grad)
        for form in found[leaf.label.replace("_", "")].forms:
            got = derivation.evaluate(form)
            np.testing.assert_allclose(got, grad.T if transposed else grad, rtol=RTOL, atol=ATOL)


# --- networks of layers --------------------------------------------------------------------------

LOSSES = {
    "squared": nn.squared_error,
    "binary": nn.binary_cross_entropy,
    "logits": nn.binary_cross_entropy_with_logits,
    "softmax": nn.cross_entropy,
}


def probabilities(rng, shape):
    y = rng.uniform(0.1, 0.9, size=shape)
    return y / y.sum(-1, keepdims=True)


def network(sizes, activations, loss="squared", m=1, reduction="mean", seed=0):
    rng = np.random.default_rng(seed)
    net = nn.MLP(sizes, activations, rng=rng)
    for layer in net.layers:
        layer.b.data = rng.normal(size=layer.b.shape)
    x, y = rng.normal(size=(m, sizes[0])), probabilities(rng, (m, sizes[-1]))
    return net, LOSSES[loss](net(x), y, reduction), x, y


@pytest.mark.parametrize("convention", ["columns", "rows"])
@pytest.mark.parametrize("m", [1, 4])
@pytest.mark.parametrize("activation", sorted(set(ACTIVATIONS) - {"log_softmax"}))
def test_every_activation(activation, m, convention):
    net, loss, *_ = network([3, 4, 2], [activation, activation], m=m)
    derivation = check(derive(loss, convention=convention))
    gradients_agree(derivation, loss, net.parameters(), convention == "columns")


@pytest.mark.parametrize("convention", ["columns", "rows"])
@pytest.mark.parametrize("m", [1, 3])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss(loss, reduction, m, convention):
    last = {"binary": "sigmoid", "squared": "softmax"}.get(loss, "identity")
    net, value, *_ = network([2, 3, 3], ["tanh", last], loss, m, reduction)
    derivation = check(derive(value, convention=convention))
    gradients_agree(derivation, value, net.parameters(), convention == "columns")


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 4), min_size=2, max_size=6),
    data=st.data(),
    m=st.integers(1, 4),
    seed=st.integers(0, 100),
)
def test_random_networks(sizes, data, m, seed):
    smooth = st.sampled_from(["sigmoid", "tanh", "softplus", "gelu", "silu", "elu", "relu"])
    activations = [data.draw(smooth) for _ in sizes[1:]]
    net, loss, *_ = network(sizes, activations, m=m, seed=seed)
    derivation = check(derive(loss, indices=data.draw(st.sampled_from([None, "nielsen", "ng"]))))
    gradients_agree(derivation, loss, net.parameters())


def test_the_equations_of_a_textbook():
    _, loss, *_ = network([3, 4, 2], ["sigmoid", "tanh"])
    derivation = derive(loss)
    assert lines_of(derivation, "forward") == [
        "z¹ = W¹ x + b¹",
        "a¹ = σ(z¹)",
        "z² = W² a¹ + b²",
        "a² = tanh(z²)",
        "C = ½ ‖a² − y‖²",
    ]
    assert lines_of(derivation, "rule") == [
        "tanh′(x) = 1 − tanh(x)²",
        "σ(x) = 1/(1 + exp(−x))",
        "σ′(x) = σ(x) (1 − σ(x))",
    ]
    assert lines_of(derivation, "backward") == [
        "∂C/∂a² = a² − y",
        "δ² = ∂C/∂a² ⊙ tanh′(z²) = (a² − y) ⊙ tanh′(z²) = (a² − y) ⊙ (1 − (a²)²)",
        "∂C/∂a¹ = W²ᵀ δ²",
        "δ¹ = ∂C/∂a¹ ⊙ σ′(z¹) = (W²ᵀ δ²) ⊙ σ′(z¹) = (W²ᵀ δ²) ⊙ a¹ ⊙ (1 − a¹)",
    ]
    assert lines_of(derivation, "parameter") == [
        "∂C/∂W¹ = δ¹ xᵀ",
        "∂C/∂b¹ = δ¹",
        "∂C/∂W² = δ² a¹ᵀ",
        "∂C/∂b² = δ²",
    ]


def test_rows_are_the_codes_own():
    _, loss, *_ = network([3, 4, 2], ["sigmoid", "tanh"], m=5)
    derivation = derive(loss, convention="rows")
    assert "z² = a¹ W² + b²" in lines_of(derivation, "forward")
    assert lines_of(derivation, "parameter")[2:] == ["∂C/∂W² = a¹ᵀ δ²", "∂C/∂b² = 𝟏ᵀ δ²"]
    assert "Rows, as in the code" in derivation.notes[0]


def test_columns_say_what_w_stands_for():
    _, loss, *_ = network([3, 4, 2], ["sigmoid", "tanh"])
    assert "W¹ and W² stand for the transposes of the code's arrays." in derive(loss).text()


def test_a_batch_is_a_sum_over_its_samples():
    _, loss, *_ = network([3, 4, 2], ["sigmoid", "identity"], m=5)
    derivation = derive(loss)
    assert "∂C/∂z²" not in lines_of(derivation, "backward")
    assert "δ² = 1/m (z² − y)" in lines_of(derivation, "backward")
    assert lines_of(derivation, "parameter")[2:] == [
        "∂C/∂W² = Σᵢ δ²⁽ⁱ⁾ a¹⁽ⁱ⁾ᵀ",
        "∂C/∂b² = Σᵢ δ²⁽ⁱ⁾",
    ]
    assert "m = 5" in derivation.text()


@pytest.mark.parametrize(("m", "share"), [(1, ""), (4, "1/m ")])
def test_e10_the_derivative_of_the_sigmoid_cancels(m, share):
    _, loss, *_ = network([3, 4, 2], ["sigmoid", "sigmoid"], "binary", m)
    delta = equation_of(check(derive(loss)), "δ²")
    shown = [derive(loss).write(form) for form in delta.forms]
    assert shown[0] == "∂C/∂a² ⊙ σ′(z²)"
    assert shown[-1] == (f"{share}(a² − y)" if m > 1 else "a² − y")


@pytest.mark.parametrize("convention", ["columns", "rows"])
def test_softmax_and_cross_entropy_leave_the_difference(convention):
    _, loss, *_ = network([3, 2], ["identity"], "softmax")
    derivation = check(derive(loss, convention=convention))
    delta = equation_of(derivation, "δ¹")
    assert derivation.write(delta.forms[-1]) == "ŷ − y"
    assert any("fused" in note for note in derivation.notes)
    assert any(" = 1 was found on the numbers" in note for note in derivation.notes)


def test_softmax_on_its_own_has_a_full_jacobian():
    net, _, x, y = network([3, 4, 3], ["tanh", "softmax"])
    derivation = check(derive(-(tb.log(net(x)) * y).sum()))
    jacobian = equation_of(derivation, "∂a²/∂z²")
    a = net(x).data[0]
    np.testing.assert_allclose(
        derivation.evaluate(jacobian.rhs), np.diag(a) - np.outer(a, a), rtol=1e-12
    )
    delta = equation_of(derivation, "δ²")
    assert derivation.write(delta.forms[0]) == "(diag(a²) − a² a²ᵀ) ∂C/∂a²"
    assert derivation.write(delta.forms[-1]) == "a² − y"


def test_the_element_view():
    _, loss, *_ = network([3, 4, 2], ["sigmoid", "identity"])
    nielsen = lines_of(check(derive(loss, indices="nielsen")), "element")
    assert "z¹_j = Σ_k W¹_jk x_k + b¹_j" in nielsen
    assert "∂C/∂W²_jk = δ²_j a¹_k" in nielsen
    assert "δ¹_j = (Σ_k W²_kj δ²_k) σ′(z¹_j)" in nielsen
    ng = derive(loss, indices="ng", symbols={"W": "Θ"})
    assert "∂C/∂Θ⁽²⁾_ij = δ⁽²⁾_i a⁽¹⁾_j" in lines_of(check(ng), "element")


def test_an_element_is_the_code_s_transposed():
    net, loss, *_ = network([3, 4, 2], ["sigmoid", "identity"])
    derivation = derive(loss, indices="nielsen")
    element = equation_of(derivation, "∂C/∂W¹_jk")
    loss.backward()
    for j, k in np.ndindex(4, 3):
        got = derivation.evaluate(element.rhs, j=j, k=k).item()
        assert got == pytest.approx(net.layers[0].W.grad[k, j], rel=1e-12)


def test_unnamed_layers_are_named():
    rng = np.random.default_rng(0)
    W, V = tb.Tensor(rng.normal(size=(3, 4)), "W"), tb.Tensor(rng.normal(size=(4, 2)), "V")
    loss = nn.squared_error(tb.tanh(rng.normal(size=(1, 3)) @ W) @ V, np.ones((1, 2)))
    derivation = check(derive(loss))
    assert lines_of(derivation, "forward") == [
        "z¹ = W x",
        "a¹ = tanh(z¹)",
        "C = ½ ‖V a¹ − y‖²",
    ]
    assert "∂C/∂W = δ¹ xᵀ" in lines_of(derivation, "parameter")


def test_weight_decay_adds_a_term():
    net, loss, *_ = network([3, 4, 2], ["sigmoid", "tanh"], m=3)
    derivation = check(derive(loss + nn.weight_decay(net.parameters(), 0.5)))
    assert "∂C/∂W¹ = Σᵢ δ¹⁽ⁱ⁾ x⁽ⁱ⁾ᵀ + ½ W¹" in lines_of(derivation, "parameter")


def test_a_shared_parameter_adds_up_its_uses():
    rng = np.random.default_rng(0)
    W = tb.Tensor(rng.normal(size=(3, 3)), "W")
    h = named(tb.tanh(rng.normal(size=(1, 3)) @ W), "h")
    derivation = check(derive(nn.squared_error(tb.tanh(h @ W), np.ones((1, 3)))))
    assert lines_of(derivation, "parameter")[0].startswith("∂C/∂W = δ_{z,h} xᵀ + δ¹ hᵀ")


# --- networks in time ----------------------------------------------------------------------------


def recurrent(tau, m=1, at_every_step=True, seed=0):
    rng = np.random.default_rng(seed)
    net = nn.CharRNN(4, 3, rng=rng)
    net.cell.b.data, net.c.data = rng.normal(size=3), rng.normal(size=4)
    xs = np.eye(4)[rng.integers(0, 4, size=(tau, m))]
    logits, _ = net(xs, net.cell.initial_state(m))
    classes = rng.integers(0, 4, size=(tau, m))
    losses = [nn.cross_entropy(o, y, "sum") for o, y in zip(logits, classes, strict=True)]
    if not at_every_step:
        return net, losses[-1]
    loss = losses[0]
    for later in losses[1:]:
        loss = loss + later
    return net, loss


@pytest.mark.parametrize("convention", ["columns", "rows"])
@pytest.mark.parametrize("m", [1, 3])
@pytest.mark.parametrize("at_every_step", [True, False])
@pytest.mark.parametrize("tau", [1, 2, 5])
def test_recurrent_networks(tau, at_every_step, m, convention):
    net, loss = recurrent(tau, m, at_every_step)
    derivation = check(derive(loss, convention=convention))
    gradients_agree(derivation, loss, net.parameters(), convention == "columns")


def test_the_recursion_is_stated_once():
    derivation = derive(recurrent(5)[1])
    assert lines_of(derivation, "boundary") == ["δ_h(τ) = Vᵀ δ_o(τ) = Vᵀ (ŷ(τ) − y(τ))"]
    assert lines_of(derivation, "backward") == [
        "δ_o(t) = (Σ_k y_k(t)) ŷ(t) − y(t) = ŷ(t) − y(t)",
        "δ_h(t) = Vᵀ δ_o(t) + Wᵀ δ_z(t + 1)"
        " = Vᵀ (ŷ(t) − y(t)) + Wᵀ (δ_h(t + 1) ⊙ tanh′(z(t + 1)))"
        " = Vᵀ (ŷ(t) − y(t)) + Wᵀ (δ_h(t + 1) ⊙ (1 − h(t + 1)²))",
        "δ_z(t) = δ_h(t) ⊙ tanh′(z(t)) = δ_h(t) ⊙ (1 − h(t)²)",
    ]
    assert equation_of(derivation, "δ_h(t)").steps == (1, 4)
    assert equation_of(derivation, "δ_z(t)").steps == (1, 5)
    assert "∂L/∂W = Σ_{t=1…τ} δ_z(t) h(t − 1)ᵀ = " in "\n".join(lines_of(derivation, "parameter"))
    assert "t = 1, …, τ − 1" in derivation.text()


def test_the_length_of_a_derivation_does_not_grow_with_time():
    assert len(derive(recurrent(30)[1])) == len(derive(recurrent(5)[1]))


def test_a_cut_is_a_boundary_of_its_own():
    rng = np.random.default_rng(0)
    cell = nn.RNN(2, 3, rng=rng)
    h, total = cell.initial_state(1), None
    for t in range(1, 7):
        with tb.scope("step", t):
            h = named(cell(rng.normal(size=(1, 2)), h), f"h({t})")
            error = nn.squared_error(h, np.zeros((1, 3)))
            total = error if total is None else total + error
            if t == 3:
                h = h.detach()
    derivation = check(derive(total))
    shapes = {e.step: len(e.rhs.children) for e in derivation if e.kind in ("backward", "boundary")
              and derivation.write(e.lhs).startswith("δ_h") and e.step}  # fmt: skip
    assert set(shapes) == {3, 6}  # no gradient crosses the cut


def test_an_initial_state_to_be_learned():
    rng = np.random.default_rng(0)
    cell, h0 = nn.RNN(2, 3, rng=rng), tb.Tensor(rng.normal(size=(1, 3)), "h0")
    states = nn.unroll(cell, rng.normal(size=(4, 1, 2)), h0)
    derivation = check(derive(nn.squared_error(states[-1], np.ones((1, 3)))))
    assert equation_of(derivation, "z(t)").steps == (1, 4)
    assert "∂L/∂h(0) = Wᵀ δ_z(1)" in "\n".join(lines_of(derivation, "parameter"))


class LSTM(nn.Module):
    """The cell of Hochreiter & Schmidhuber with a forget gate, written out."""

    def __init__(self, inputs, hidden, rng, named_gates=True):
        self.named_gates = named_gates
        for g in "ifgo":
            setattr(self, f"W_{g}", tb.Tensor(rng.normal(size=(inputs, hidden)), f"W_{g}"))
            setattr(self, f"U_{g}", tb.Tensor(rng.normal(size=(hidden, hidden)), f"U_{g}"))
            setattr(self, f"b_{g}", tb.Tensor(rng.normal(size=hidden), f"b_{g}"))

    def gate(self, g, activation, x, h):
        W, U, b = (getattr(self, f"{letter}_{g}") for letter in "WUb")
        gate = activation(x @ W + h @ U + b)
        return named(gate, g) if self.named_gates else gate

    def forward(self, x, h, c):
        i, f, o = (self.gate(g, tb.sigmoid, x, h) for g in "ifo")
        c = named(f * c + i * self.gate("g", tb.tanh, x, h), "c")
        return named(o * tb.tanh(c), "h"), c


@pytest.mark.parametrize("named_gates", [True, False])
@pytest.mark.parametrize("m", [1, 2])
@pytest.mark.parametrize("tau", [1, 4])
def test_lstm(tau, m, named_gates):
    rng = np.random.default_rng(1)
    cell = LSTM(2, 3, rng, named_gates)
    h, c = np.zeros((m, 3)), np.zeros((m, 3))
    for t in range(1, tau + 1):
        with tb.scope("step", t):
            h, c = cell(rng.normal(size=(m, 2)), h, c)
    loss = nn.squared_error(h, rng.normal(size=(m, 3)))
    derivation = check(derive(loss))
    gradients_agree(derivation, loss, cell.parameters())
    if tau > 1 and named_gates:
        lines = lines_of(derivation, "backward")
        assert "δ_c(t) = δ_h(t) ⊙ o(t) ⊙ tanh′(c(t)) + δ_c(t + 1) ⊙ f(t + 1)" in lines[1]
        assert "δ_{z,f}(t) = δ_f(t) ⊙ σ′(z_f(t))" in "\n".join(lines)


@pytest.mark.parametrize("convention", ["columns", "rows"])
def test_lstm_with_its_gates_in_one_product(convention):
    rng = np.random.default_rng(1)
    W, b = tb.Tensor(rng.normal(size=(5, 12)), "W"), tb.Tensor(rng.normal(size=12), "b")
    h, c = np.zeros((1, 3)), np.zeros((1, 3))
    for t in range(1, 4):
        with tb.scope("step", t):
            x = tb.Tensor(rng.normal(size=(1, 2)), "x", requires_grad=False)
            z = named(tb.concatenate([x, h], 1) @ W + b, "z")
            i, f, g, o = tb.split(z, 4, axis=1)
            c = named(tb.sigmoid(f) * c + tb.sigmoid(i) * tb.tanh(g), "c")
            h = named(tb.sigmoid(o) * tb.tanh(c), "h")
    loss = nn.squared_error(h, np.ones((1, 3)))
    gradients_agree(
        check(derive(loss, convention=convention)), loss, [W, b], convention == "columns"
    )


# --- attention -----------------------------------------------------------------------------------


def attention(rng, shape, causal=False):
    X = rng.normal(size=shape)
    W_Q, W_K, W_V = (tb.Tensor(rng.normal(size=(shape[-1], 2)), f"W_{n}") for n in "QKV")
    Q, K, V = (named(X @ W, W.label[2:]) for W in (W_Q, W_K, W_V))
    turned = K.transpose(0, 2, 1) if len(shape) == 3 else K.transpose()
    S = named(Q @ turned / math.sqrt(2.0), "S")
    if causal:
        S = S + np.triu(np.full(S.shape[-2:], -30.0), 1)
    Z = named(named(tb.softmax(S), "A") @ V, "Z")
    return nn.squared_error(Z, rng.normal(size=Z.shape)), [W_Q, W_K, W_V]


@pytest.mark.parametrize("convention", ["columns", "rows"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shape", [(4, 3), (2, 4, 3)])
def test_attention(shape, causal, convention):
    loss, projections = attention(np.random.default_rng(0), shape, causal)
    derivation = check(derive(loss, convention=convention))
    gradients_agree(derivation, loss, projections, convention == "columns")


def test_attention_reads_as_in_the_paper():
    loss, _ = attention(np.random.default_rng(0), (4, 3))
    forward = lines_of(derive(loss, convention="rows"), "forward")
    assert forward[2:4] == ["S = 1/√2 Q Kᵀ", "A = softmax(S)"]
    assert "∂C/∂S = A ⊙ (∂C/∂A − (∂C/∂A ⊙ A) 𝟏)" in derive(loss, convention="rows").text()


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
        ({"symbols": {"W1": 3}}, TypeError, "symbols: expected a name, got 3"),
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
    with pytest.raises(ValueError, match="at most"):
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
