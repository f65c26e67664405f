"""Networks whose derivations are tested, and what holds for every derivation."""

import itertools

import numpy as np

from tinygrad_bp import nn
from tinygrad_bp.explain.formulas import Partial

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
