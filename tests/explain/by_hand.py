"""Gradients as a student derives them, in plain numpy, with one mistake planted on request.

Nothing here uses the package: the formulas are those of the textbooks, E1 to E28.
"""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import numpy as np


def sigmoid(z):
    return 1.0 / (1.0 + np.exp(-z))


# Each activation with its derivative, as a function of z.
ACTIVATIONS = {
    "sigmoid": (sigmoid, lambda z: sigmoid(z) * (1 - sigmoid(z))),
    "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
    "relu": (lambda z: np.maximum(z, 0), lambda z: (z > 0).astype(float)),
    "softplus": (lambda z: np.log1p(np.exp(z)), sigmoid),
    "identity": (lambda z: z, np.ones_like),
}
IN_TERMS_OF_OUTPUT = {"sigmoid": lambda a: a * (1 - a), "tanh": lambda a: 1 - a**2}


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def mlp(net, mistake="", layer=None, sample=0, rate=0.5, keep=None):
    """The gradients of a multi-layer perceptron by E2 to E5, samples in rows.

    Args:
        net: its sizes, weights and data, see `random_mlp`.
        mistake: the one to be made; none if empty.
        layer: where, counted from 1; everywhere if None.
        sample: which sample is forgotten.
        rate: the learning rate of weights that are updated on the way.

    Returns:
        The gradients by name, and the deltas by name.
    """
    W, b, kinds, m = net.W, net.b, net.activations, len(net.x)
    L = len(W)
    a, z = [net.x], [None]
    for i in range(L):
        z.append(a[-1] @ W[i] + b[i])
        last_softmax = i == L - 1 and net.loss in ("softmax", "softmax_squared")
        a.append(softmax(z[-1]) if last_softmax else ACTIVATIONS[kinds[i]][0](z[-1]))
    share = (1.0 if mistake == "sum_for_mean" else 1.0 / m) if net.mean else 1.0

    def slope(i):
        """σ'(z) of layer i, or what is taken for it."""
        right = ACTIVATIONS[kinds[i - 1]][1](z[i])
        if layer not in (None, i):
            return right
        if mistake == "missing_derivative":
            return np.ones_like(right)
        if mistake == "derivative_at_output":
            return ACTIVATIONS[kinds[i - 1]][1](a[i])
        if mistake == "formula_at_input" and kinds[i - 1] in IN_TERMS_OF_OUTPUT:
            return IN_TERMS_OF_OUTPUT[kinds[i - 1]](z[i])
        if mistake == "derivative_twice":
            return right**2
        return right

    p = a[L]
    if net.loss == "softmax":  # cross-entropy
        delta = p - net.y
        if mistake == "derivative_at_logits":
            delta = delta * p * (1 - p)
        if mistake == "binary_cross_entropy_on_softmax":
            dp = -net.y / p + (1 - net.y) / (1 - p)
            delta = p * (dp - (dp * p).sum(1, keepdims=True))
    elif net.loss == "logistic":  # binary cross-entropy of logits
        p = sigmoid(z[L])
        delta = p - net.y
        if mistake == "derivative_at_logits":
            delta = delta * p * (1 - p)
    elif net.loss == "softmax_squared":
        e = p - net.y
        delta = p * (e - (e * p).sum(1, keepdims=True))
        if mistake == "softmax_elementwise":
            delta = e * p * (1 - p)
        if mistake == "missing_jacobian":
            delta = e
    elif net.loss == "probabilities":  # binary cross-entropy of a sigmoid's output
        delta = (-net.y / p + (1 - net.y) / (1 - p)) * slope(L)
    else:
        delta = (p - net.y) * slope(L)
    delta = delta * share
    if mistake == "missing_sample":
        delta[sample] = 0.0
    if mistake == "only_sample":
        delta[np.arange(m) != sample] = 0.0
    gradients, deltas = {}, {}
    above = None  # ∂C/∂a
    for i in range(L, 0, -1):
        deltas[f"z{i}"] = delta
        own = delta
        if mistake == "delta_of_activation" and layer == i:
            own = above if above is not None else (p - net.y) * share
        below = a[i] if mistake == "own_output" and layer == i else a[i - 1]
        if mistake == "weighted_input" and layer == i:
            below = z[i - 1]
        gradients[f"W{i}"] = below.T @ own
        gradients[f"b{i}"] = own.sum(0)
        if i == 1:
            break
        through = W[i - 1]
        if mistake == "updated_weights":
            through = through - rate * gradients[f"W{i}"]
        if mistake == "not_transposed" and layer in (None, i):
            through = through.T
        above = delta @ through.T
        if mistake == "derivative_missing_in_recursion":
            # own deltas have their derivative, what goes on does not
            raise NotImplementedError
        delta = above * slope(i - 1)
    if mistake != "penalty_forgotten" and net.decay:
        for i in range(1, L + 1):
            gradients[f"W{i}"] = gradients[f"W{i}"] + net.decay * W[i - 1]
            if mistake == "penalty_on_bias":
                gradients[f"b{i}"] = gradients[f"b{i}"] + net.decay * b[i - 1]
    return gradients, deltas


def random_mlp(rng, depth=None, batch=None, kinds=("sigmoid", "tanh", "softplus"), loss=None,
               square=False, output=None, decay=0.0, least=2):  # fmt: skip
    """Sizes, weights and data of a random network."""
    depth = depth or int(rng.integers(2, 5))
    m = batch or int(rng.integers(3, 8))
    sizes = [int(n) for n in rng.integers(least, 7, depth + 1)]
    if square:
        sizes[1:-1] = [sizes[1]] * (depth - 1)
        sizes[-1] = sizes[1]
    sizes[0], sizes[-1] = max(sizes[0], 2), max(sizes[-1], 2)
    loss = loss or str(rng.choice(["squared", "squared", "softmax", "logistic", "probabilities"]))
    activations = [str(k) for k in rng.choice(list(kinds), depth)]
    if loss == "probabilities":  # by hand, log(1 - ŷ) bears no ŷ that rounds to 1
        activations = ["tanh" if kind == "softplus" else kind for kind in activations]
        activations[-1] = "sigmoid"
    elif loss != "squared":
        activations[-1] = "identity"
    elif output:
        activations[-1] = output
    W = [rng.normal(0, 1.0, (p, q)) for p, q in pairwise(sizes)]
    b = [rng.normal(0, 0.5, q) for q in sizes[1:]]
    x = rng.normal(size=(m, sizes[0]))
    if loss in ("softmax", "softmax_squared"):
        y = np.eye(sizes[-1])[rng.integers(0, sizes[-1], m)]
    elif loss in ("logistic", "probabilities"):
        y = rng.integers(0, 2, (m, sizes[-1])).astype(float)
    else:
        y = rng.normal(size=(m, sizes[-1]))
    return SimpleNamespace(
        W=W, b=b, activations=activations, loss=loss, x=x, y=y, mean=bool(rng.integers(0, 2)),
        decay=decay, sizes=sizes,
    )  # fmt: skip


def rnn(net, mistake="", k=None):
    """The gradients of a recurrent network by E22 to E26, samples in rows.

    `h(t) = tanh(x(t) U + h(t-1) W + b)`, `o(t) = h(t) V + c`, cross-entropy summed over t and
    divided by the number of samples.
    """
    T, m = len(net.x), net.x.shape[1]
    h = [np.zeros((m, net.W.shape[0]))]
    z, p = [None], [None]
    for t in range(T):
        z.append(net.x[t] @ net.U + h[-1] @ net.W + net.b)
        h.append(np.tanh(z[-1]))
        p.append(softmax(h[-1] @ net.V + net.c))
    dU, dW, db = np.zeros_like(net.U), np.zeros_like(net.W), np.zeros_like(net.b)
    dV, dc = np.zeros_like(net.V), np.zeros_like(net.c)
    deltas = {}

    def use(t, dz):
        nonlocal dU, dW, db
        dU = dU + net.x[t - 1].T @ dz
        dW = dW + (h[t] if mistake == "later_state" else h[t - 1]).T @ dz
        db = db + dz.sum(0)

    slopes = [None] + [1 - h[t] ** 2 for t in range(1, T + 1)]
    if mistake == "missing_derivative":
        slopes = [None] + [np.ones_like(s) for s in slopes[1:]]
    if mistake == "derivative_at_output":
        slopes = [None] + [1 - np.tanh(h[t]) ** 2 for t in range(1, T + 1)]
    through = net.W if mistake == "not_transposed" else net.W.T
    do = {t: (p[t] - net.y[t - 1]) / m for t in range(1, T + 1)}
    if mistake == "last_loss_only":
        do = {t: d if t == T else 0 * d for t, d in do.items()}
    for t in range(1, T + 1):
        dV, dc = dV + h[t].T @ do[t], dc + do[t].sum(0)
    if mistake == "truncated":  # E21: every loss on its own, terms of lag < k
        for t in range(T, 0, -1):
            dh = do[t] @ net.V.T
            for s in range(t, max(t - k, 0), -1):
                dz = dh * slopes[s]
                use(s, dz)
                dh = dz @ through
        return {"U": dU, "W": dW, "b": db, "V": dV, "c": dc}, deltas
    carry = np.zeros_like(h[0])
    for t in range(T, 0, -1):
        dh = do[t] @ net.V.T + carry
        dz = dh * slopes[t]
        deltas[f"h({t})"], deltas[f"z({t})"] = dh, dz
        counted = {
            "only_last": t == T, "only_first": t == 1,
            "missing_last": t < T, "missing_first": t > 1,
        }.get(mistake, True)  # fmt: skip
        if counted:
            use(t, dh if mistake == "delta_of_activation" else dz)
        carry = (dh if mistake == "derivative_missing_in_recursion" else dz) @ through
        if mistake == "no_recursion" or (mistake == "blocks" and (t - 1) % k == 0):
            carry = np.zeros_like(carry)
    return {"U": dU, "W": dW, "b": db, "V": dV, "c": dc}, deltas


def random_rnn(rng, steps=None):
    """Weights and data of a random recurrent network."""
    T, m = steps or int(rng.integers(3, 7)), int(rng.integers(1, 4))
    n, H, K = (int(rng.integers(2, 5)) for _ in range(3))
    shapes = {"U": (n, H), "W": (H, H), "V": (H, K)}
    weights = {name: rng.normal(0, 0.7, shape) for name, shape in shapes.items()}
    return SimpleNamespace(
        **weights, b=rng.normal(0, 0.5, H), c=rng.normal(0, 0.5, K), x=rng.normal(size=(T, m, n)),
        y=np.eye(K)[rng.integers(0, K, (T, m))],
    )  # fmt: skip


def lstm(net, mistake="", k=None):
    """The gradients of an LSTM with one matrix for all gates, `z = x U + h W + b`, in i, f, g, o.

    The loss is Σ_t ½‖h(t) − y(t)‖².
    """
    T, H = len(net.x), net.W.shape[0]
    h, c, gates = [np.zeros((net.x.shape[1], H))], [np.zeros((net.x.shape[1], H))], [None]
    for t in range(T):
        z = net.x[t] @ net.U + h[-1] @ net.W + net.b
        i, f, g, o = (z[:, j * H : (j + 1) * H] for j in range(4))
        i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
        gates.append((i, f, g, o))
        c.append(f * c[-1] + i * g)
        h.append(o * np.tanh(c[-1]))
    dU, dW, db = np.zeros_like(net.U), np.zeros_like(net.W), np.zeros_like(net.b)
    dh, dc = np.zeros_like(h[T]), np.zeros_like(h[T])
    for t in range(T, 0, -1):
        dh = dh + h[t] - net.y[t - 1]
        i, f, g, o = gates[t]
        tc = np.tanh(c[t])
        one = np.ones_like(i)
        si, sf, so = ((one, one, one) if mistake == "missing_sigmoids"
                      else (i * (1 - i), f * (1 - f), o * (1 - o)))  # fmt: skip
        sg = one if mistake in ("missing_tanh_of_gate",) else 1 - g**2
        sc = one if mistake == "missing_tanh_of_cell" else 1 - tc**2
        do = dh * tc
        dc = dc + dh * o * sc
        dz = np.concatenate([dc * g * si, dc * c[t - 1] * sf, dc * i * sg, do * so], axis=1)
        counted = {"only_last": t == T, "missing_first": t > 1}.get(mistake, True)
        if counted:
            dU, db = dU + net.x[t - 1].T @ dz, db + dz.sum(0)
            dW = dW + (h[t] if mistake == "later_state" else h[t - 1]).T @ dz
        dh, dc = dz @ net.W.T, dc * f
        if mistake == "no_recursion" or (mistake == "blocks" and (t - 1) % k == 0):
            dh, dc = 0 * dh, 0 * dc
    return {"U": dU, "W": dW, "b": db}, {}


def random_lstm(rng):
    """Weights and data of a random LSTM."""
    T, m, n, H = (int(rng.integers(low, high)) for low, high in ((3, 6), (1, 4), (2, 4), (2, 4)))
    return SimpleNamespace(
        U=rng.normal(0, 0.8, (n, 4 * H)), W=rng.normal(0, 0.8, (H, 4 * H)),
        b=rng.normal(0, 0.5, 4 * H), x=rng.normal(size=(T, m, n)), y=rng.normal(size=(T, m, H)),
    )  # fmt: skip
