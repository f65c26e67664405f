"""Derivations of networks: every displayed formula, evaluated, gives the numbers of the sweep."""

import math

import numpy as np
import pytest
from derivations import LOSSES, check, equation_of, gradients_agree, lines_of, network, recurrent
from hypothesis import given, settings, strategies as st

import tinygrad_bp as tb
from tinygrad_bp import nn
from tinygrad_bp.explain import derive
from tinygrad_bp.nn.feedforward import ACTIVATIONS
from tinygrad_bp.nn.module import named

# --- networks of layers --------------------------------------------------------------------------


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
    cell = nn.RNNCell(2, 3, rng=rng)
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
    cell, h0 = nn.RNNCell(2, 3, rng=rng), tb.Tensor(rng.normal(size=(1, 3)), "h0")
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
    derivation = check(derive(loss, convention=convention))
    gradients_agree(derivation, loss, [W, b], convention == "columns")
    below = ";" if convention == "columns" else ","
    assert f"[x(t){below} h(t − 1)]" in derivation.text()
    (line,) = [x for x in lines_of(derivation, "backward") if x.startswith("δ_z(t)")]
    assert line.startswith("δ_z(t) = [")
    assert line.count(below) >= 3
    assert "[2:5]" in derivation.text()  # what belongs to h
    assert "v[a:b] are the elements" in derivation.text()


def test_a_piece_that_is_not_all_has_its_place():
    z = named(np.ones((1, 2)) @ tb.Tensor(np.ones((2, 5)), "W"), "z")
    derivation = check(derive(nn.squared_error(z[:, 1:3], np.ones((1, 2)))))
    assert lines_of(derivation, "forward")[1] == "C = ½ ‖z[1:3] − y‖²"
    assert lines_of(derivation, "backward") == ["δ = place[1:3](z[1:3] − y)"]
    assert "zeros elsewhere" in derivation.text()


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
    assert forward[3:5] == ["S = 1/√2 Q Kᵀ", "A = softmax(S)"]
    assert "∂C/∂S = A ⊙ (∂C/∂A − (∂C/∂A ⊙ A) 𝟏)" in derive(loss, convention="rows").text()
