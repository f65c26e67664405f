"""The formulas of the curriculum, E1 to E5 and E22 to E26, against those that are derived.

Both are read as LaTeX, and evaluated on numbers that plain numpy computed: they are compared by
what they mean. Nothing of the package takes part in the numbers.
"""

import re

import numpy as np
import pytest
from latex_reader import evaluate

from tinygrad_bp import nn
from tinygrad_bp.explain import derive


def sigmoid(z):
    return 1.0 / (1.0 + np.exp(-z))


def rows_of(derivation):
    """Every line of the LaTeX: the left side as written, and each of its right sides."""
    rows, last = {}, ""
    for block in re.findall(r"\\begin{aligned}\n(.*?)\n\\end{aligned}", derivation.latex(), re.S):
        for line in block.split(" \\\\\n"):
            left, _, right = line.split(" &&")[0].partition("&= ")
            if right:
                last = left.strip() or last
                rows[last] = [*rows.get(last, []), right.strip()]
    return rows


def same(rows, left, curriculum, symbols, t=None):
    """All derived forms and that of the curriculum come to the number of the left side."""
    expected = evaluate(left, symbols, t)
    for form in [curriculum, *rows[left]]:
        np.testing.assert_allclose(evaluate(form, symbols, t), expected, rtol=1e-9, atol=1e-13)


@pytest.fixture
def mlp():
    """A 3-4-2 network and all of its quantities, by hand, in columns."""
    rng = np.random.default_rng(0)
    net = nn.MLP([3, 4, 2], ["sigmoid", "tanh"], rng=rng)
    for layer in net.layers:
        layer.b.data = rng.normal(size=layer.b.shape)
    x, y = rng.normal(size=(3, 1)), rng.normal(size=(2, 1))
    s = {"x": x, "y": y}
    for i, layer in enumerate(net.layers, 1):
        s[f"W{i}"], s[f"b{i}"] = layer.W.data.T, layer.b.data[:, None]
    s["z1"] = s["W1"] @ x + s["b1"]
    s["a1"] = sigmoid(s["z1"])
    s["z2"] = s["W2"] @ s["a1"] + s["b2"]
    s["a2"] = np.tanh(s["z2"])
    s["dC/da2"] = s["a2"] - y
    s["delta2"] = s["dC/da2"] * (1.0 - s["a2"] ** 2)
    s["dC/da1"] = s["W2"].T @ s["delta2"]
    s["delta1"] = s["dC/da1"] * s["a1"] * (1.0 - s["a1"])
    for i, a in ((1, x), (2, s["a1"])):
        s[f"dC/dW{i}"], s[f"dC/db{i}"] = s[f"delta{i}"] @ a.T, s[f"delta{i}"]
    return rows_of(derive(nn.squared_error(net(x.T), y.T))), s


@pytest.mark.parametrize(
    ("left", "curriculum"),
    [
        ("z^{2}", r"W^{2} a^{1} + b^{2}"),
        (r"\frac{\partial C}{\partial a^{2}}", r"a^{2} - y"),  # E1
        (r"\delta^{2}", r"\frac{\partial C}{\partial a^{2}} \odot \tanh'(z^{2})"),  # E2
        (r"\delta^{1}", r"({W^{2}}^{\top} \delta^{2}) \odot \sigma'(z^{1})"),  # E3
        (r"\frac{\partial C}{\partial W^{2}}", r"\delta^{2} {a^{1}}^{\top}"),  # E4
        (r"\frac{\partial C}{\partial W^{1}}", r"\delta^{1} x^{\top}"),
        (r"\frac{\partial C}{\partial b^{1}}", r"\delta^{1}"),  # E5
    ],
)
def test_a_deep_network(mlp, left, curriculum):
    rows, symbols = mlp
    same(rows, left, curriculum, symbols)


@pytest.fixture
def rnn():
    """A recurrent network of five steps and all of its quantities, by hand, in columns."""
    rng, tau = np.random.default_rng(0), 5
    net = nn.CharRNN(4, 3, rng=rng)
    net.cell.b.data, net.c.data = rng.normal(size=3), rng.normal(size=4)
    xs, ys = (np.eye(4)[rng.integers(0, 4, size=(tau, 1))] for _ in range(2))
    cell = net.cell
    s = {"U": cell.U.data.T, "W": cell.W.data.T, "b": cell.b.data[:, None], "tau": tau}
    s |= {"V": net.V.data.T, "c": net.c.data[:, None], "h": {0: np.zeros((3, 1))}}
    s |= {name: {} for name in ("x", "y", "z", "o", "yhat", "delta_h", "delta_z", "delta_o")}
    for t in range(1, tau + 1):
        s["x"][t], s["y"][t] = xs[t - 1].T, ys[t - 1].T
        s["z"][t] = s["U"] @ s["x"][t] + s["W"] @ s["h"][t - 1] + s["b"]
        s["h"][t] = np.tanh(s["z"][t])
        s["o"][t] = s["V"] @ s["h"][t] + s["c"]
        s["yhat"][t] = np.exp(s["o"][t]) / np.exp(s["o"][t]).sum()
        s["delta_o"][t] = s["yhat"][t] - s["y"][t]
    later = np.zeros((3, 1))
    for t in range(tau, 0, -1):
        s["delta_h"][t] = s["V"].T @ s["delta_o"][t] + later
        s["delta_z"][t] = np.diag(1.0 - s["h"][t][:, 0] ** 2) @ s["delta_h"][t]
        later = s["W"].T @ s["delta_z"][t]
    steps = range(1, tau + 1)
    s["dL/dV"] = sum(s["delta_o"][t] @ s["h"][t].T for t in steps)
    s["dL/dc"] = sum(s["delta_o"][t] for t in steps)
    s["dL/dW"] = sum(s["delta_z"][t] @ s["h"][t - 1].T for t in steps)
    s["dL/dU"] = sum(s["delta_z"][t] @ s["x"][t].T for t in steps)
    s["dL/db"] = sum(s["delta_z"][t] for t in steps)
    logits, _ = net(xs, cell.initial_state(1))
    losses = [nn.cross_entropy(o, y) for o, y in zip(logits, ys, strict=True)]
    loss = losses[0]
    for more in losses[1:]:
        loss = loss + more
    return rows_of(derive(loss)), s


RECURSION = r"V^{\top} (\hat{y}(t) - y(t)) + W^{\top} ((1 - h(t + 1)^{2}) \odot \delta_{h}(t + 1))"


@pytest.mark.parametrize(
    ("left", "curriculum", "steps"),
    [
        ("z(t)", "U x(t) + W h(t - 1) + b", range(1, 6)),
        ("h(t)", r"\tanh(z(t))", range(1, 6)),
        (r"\delta_{h}(t)", RECURSION, range(1, 5)),  # E24
        (r"\delta_{h}(\tau)", r"V^{\top} (\hat{y}(\tau) - y(\tau))", [None]),  # E25
        (r"\delta_{z}(t)", r"\delta_{h}(t) \odot (1 - h(t)^{2})", range(1, 6)),
        (r"\frac{\partial L}{\partial c}", r"\sum_{t=1}^{\tau} (\hat{y}(t) - y(t))", [None]),  # E23
        (
            r"\frac{\partial L}{\partial V}",
            r"\sum_{t=1}^{\tau} (\hat{y}(t) - y(t)) h(t)^{\top}",
            [None],
        ),
        (
            r"\frac{\partial L}{\partial W}",  # E26
            r"\sum_{t=1}^{\tau} ((1 - h(t)^{2}) \odot \delta_{h}(t)) h(t - 1)^{\top}",
            [None],
        ),
        (
            r"\frac{\partial L}{\partial b}",
            r"\sum_{t=1}^{\tau} (1 - h(t)^{2}) \odot \delta_{h}(t)",
            [None],
        ),
        (
            r"\frac{\partial L}{\partial U}",
            r"\sum_{t=1}^{\tau} ((1 - h(t)^{2}) \odot \delta_{h}(t)) x(t)^{\top}",
            [None],
        ),
    ],
)
def test_a_recurrent_network(rnn, left, curriculum, steps):
    rows, symbols = rnn
    for t in steps:
        same(rows, left, curriculum, symbols, t)


def test_e22_the_delta_of_the_logits(rnn):
    rows, symbols = rnn
    assert rows[r"\delta_{o}(t)"][-1] == r"\hat{y}(t) - y(t)"
    for t in range(1, 6):
        got = evaluate(rows[r"\delta_{o}(t)"][-1], symbols, t)
        np.testing.assert_allclose(got, symbols["delta_o"][t], rtol=1e-12)


def test_the_reader_of_formulas_sees_a_wrong_one(mlp):
    _, symbols = mlp
    right = evaluate(r"({W^{2}}^{\top} \delta^{2}) \odot \sigma'(z^{1})", symbols)
    for wrong in (
        r"({W^{2}}^{\top} \delta^{2}) \odot \sigma'(a^{1})",
        r"{W^{2}}^{\top} \delta^{2}",
        r"- ({W^{2}}^{\top} \delta^{2}) \odot \sigma'(z^{1})",
    ):
        assert not np.allclose(evaluate(wrong, symbols), right)
