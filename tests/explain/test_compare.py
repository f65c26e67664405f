"""Gradients by hand: mistakes planted in random networks are named, right ones never accused."""

import os

import by_hand
import numpy as np
import pytest

import tinygrad_bp as tb
from tinygrad_bp import nn
from tinygrad_bp.explain.compare import compare
from tinygrad_bp.recording import scope

ROUNDS = int(
    os.environ.get("TINYGRAD_BP_ROUNDS", "6")
)  # networks per diagnosis; 200 for the report


# --- the same networks, recorded ----------------------------------------------------------------


def recorded_mlp(net):
    model = nn.MLP(net.sizes, net.activations, rng=0)
    for layer, W, b in zip(model.layers, net.W, net.b, strict=True):
        layer.W.data, layer.b.data = W, b
    reduction = "mean" if net.mean else "sum"
    out = model(net.x)
    if net.loss == "softmax":
        loss = nn.cross_entropy(out, net.y, reduction)
    elif net.loss == "logistic":
        loss = nn.binary_cross_entropy_with_logits(out, net.y, reduction)
    elif net.loss == "softmax_squared":
        loss = nn.squared_error(tb.softmax(out), net.y, reduction)
    else:
        loss = nn.squared_error(out, net.y, reduction)
    return loss + nn.weight_decay(model.parameters(), net.decay) if net.decay else loss


def recorded_rnn(net, scoped=True):
    U, W, V = tb.Tensor(net.U, "U"), tb.Tensor(net.W, "W"), tb.Tensor(net.V, "V")
    b, c = tb.Tensor(net.b, "b"), tb.Tensor(net.c, "c")
    h, total = np.zeros((net.x.shape[1], net.W.shape[0])), 0.0
    for t in range(len(net.x)):
        with scope("step", t + 1 if scoped else None):
            z = net.x[t] @ U + h @ W + b
            h = tb.tanh(z)
            if scoped:
                z.label, h.label = "z", "h"
            total = total + nn.cross_entropy(h @ V + c, net.y[t])
    return total


def recorded_lstm(net):
    U, W, b = tb.Tensor(net.U, "U"), tb.Tensor(net.W, "W"), tb.Tensor(net.b, "b")
    H = net.W.shape[0]
    h = c = np.zeros((net.x.shape[1], H))
    total = 0.0
    for t in range(len(net.x)):
        with scope("step", t + 1):
            z = net.x[t] @ U + h @ W + b
            i, f, g, o = (z[:, j * H : (j + 1) * H] for j in range(4))
            i, f, g, o = tb.sigmoid(i), tb.sigmoid(f), tb.tanh(g), tb.sigmoid(o)
            c = f * c + i * g
            h = o * tb.tanh(c)
            total = total + nn.squared_error(h, net.y[t], "sum")
    return total


# --- planting -----------------------------------------------------------------------------------


def differs(got, right):
    return got.shape != right.shape or np.abs(got - right).max() > 1e-3 * np.abs(right).max()


def outcomes(seed, make, by_hand_, record, expected, rounds=ROUNDS, **how):
    """For every network whether each array that the mistake changes is told by that name."""
    named, total, misses = 0, 0, []
    for i in range(rounds):
        rng = np.random.default_rng([seed, i])
        net = make(rng)
        loss = record(net)
        right, _ = by_hand_(net)
        assert compare(loss, right), f"accused a right gradient: {compare(loss, right)}"
        options = {key: value(net, rng) if callable(value) else value for key, value in how.items()}
        wrong, _ = by_hand_(net, **options)
        changed = [name for name in wrong if differs(wrong[name], right[name])]
        if not changed:
            continue
        found = compare(loss, wrong)
        total += 1
        told = {name: found[name].mistake for name in changed}
        if all(mistake in expected for mistake in told.values()):
            named += 1
        else:
            misses.append((i, told, str(found)))
    return named, total, misses


def check(*args, **how):
    named, total, misses = outcomes(*args, **how)
    if ROUNDS > 10:
        print(f"\n{how.get('mistake')}: {named} of {total}", misses[:2])
    assert total >= ROUNDS // 2
    assert named >= 0.95 * total or (total - named) <= total // 20, misses[:2]


def hidden(net, rng):
    return int(rng.integers(1, len(net.W)))


MLPS = {
    "missing_derivative": {},
    "derivative_at_output": {},
    "formula_at_input": {"kinds": ("sigmoid", "tanh")},
    "derivative_twice": {},
    "derivative_at_logits": {"loss": ("softmax", "logistic")},
    "binary_cross_entropy_on_softmax": {"loss": ("softmax",), "least": 3},
    "softmax_elementwise": {"loss": ("softmax_squared",), "least": 3},  # of two: a factor ½
    "missing_jacobian": {"loss": ("softmax_squared",)},
    "missing_sample": {},
    "only_sample": {},
    "updated_weights": {},
    "not_transposed": {"square": True},
    "penalty_forgotten": {"decay": 0.1},
    "penalty_on_bias": {"decay": 0.1},
    "sum_for_mean": {},
}


@pytest.mark.parametrize("mistake", MLPS)
def test_a_mistake_in_a_feed_forward_network_is_named(mistake):
    options = dict(MLPS[mistake])
    losses = options.pop("loss", (None,))

    def make(rng):
        net = by_hand.random_mlp(rng, loss=losses[rng.integers(len(losses))], **options)
        net.mean = net.mean or mistake == "sum_for_mean"
        return net

    expected = {
        "sum_for_mean": {"factor"},
        "missing_jacobian": {"missing_derivative"},
    }.get(mistake, {mistake})
    how = {"mistake": mistake, "sample": lambda net, rng: int(rng.integers(len(net.x)))}
    how["rate"] = lambda net, rng: float(rng.choice([0.01, 0.1, 0.5]))
    check(list(MLPS).index(mistake), make, by_hand.mlp, recorded_mlp, expected, **how)


@pytest.mark.parametrize(
    ("mistake", "least"),
    [("missing_derivative", 1), ("derivative_at_output", 1), ("derivative_twice", 1),
     ("delta_of_activation", 2), ("own_output", 2), ("weighted_input", 2)],
)  # fmt: skip
def test_a_mistake_at_one_layer_is_named(mistake, least):
    def make(rng):
        return by_hand.random_mlp(
            rng, square=mistake == "own_output", depth=int(rng.integers(3, 5))
        )

    def layer(net, rng):
        return int(rng.integers(least, len(net.W)))

    expected = {mistake}
    check(40 + least, make, by_hand.mlp, recorded_mlp, expected, mistake=mistake, layer=layer)


RNNS = {
    "missing_derivative": {"missing_derivative"},
    "derivative_at_output": {"derivative_at_output"},
    "derivative_missing_in_recursion": {"derivative_missing_in_recursion"},
    "delta_of_activation": {"delta_of_activation"},
    "not_transposed": {"not_transposed"},
    "later_state": {"later_state", "own_output"},
    "last_loss_only": {"last_loss_only"},
    "no_recursion": {"no_recursion"},
    "truncated": {"truncated"},
    "blocks": {"truncated_blocks"},
    "only_last": {"only_step"},
    "only_first": {"only_step"},
    "missing_last": {"missing_step"},
    "missing_first": {"missing_step"},
}


@pytest.mark.parametrize("scoped", [True, False], ids=["steps", "plain loop"])
@pytest.mark.parametrize("mistake", RNNS)
def test_a_mistake_in_a_recurrent_network_is_named(mistake, scoped):
    def record(net):
        return recorded_rnn(net, scoped)

    def make(rng):
        return by_hand.random_rnn(rng)

    how = {"mistake": mistake, "k": lambda net, rng: int(rng.integers(2, len(net.x)))}
    seed = 100 + 2 * list(RNNS).index(mistake) + scoped
    check(seed, make, by_hand.rnn, record, RNNS[mistake], **how)


LSTMS = {
    "missing_sigmoids": {"missing_derivative"},
    "missing_tanh_of_gate": {"missing_derivative"},
    "missing_tanh_of_cell": {"missing_derivative"},
    "only_last": {"only_step"},
    "missing_first": {"missing_step"},
    "later_state": {"later_state"},
    "no_recursion": {"no_recursion"},
    "blocks": {"truncated_blocks"},
}


@pytest.mark.parametrize("mistake", LSTMS)
def test_a_mistake_in_an_lstm_is_named(mistake):
    how = {"mistake": mistake, "k": lambda net, rng: 2}
    seed = 200 + list(LSTMS).index(mistake)
    check(seed, by_hand.random_lstm, by_hand.lstm, recorded_lstm, LSTMS[mistake], **how)
