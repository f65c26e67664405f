"""Short forms of what `benchmarks/training.py` trains: something is really learnt."""

import math

import numpy as np
import pytest

import tinygrad_bp as tb
from tinygrad_bp import datasets, nn, optim
from tinygrad_bp.training import accuracy, fit, streams, truncated_bptt


def test_digits_are_read():
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    data = datasets.digits()
    learnt, held_out = datasets.train_test_split(data, 0.2, rng=1, stratify=data.y)
    model = nn.MLP([64, 64, 10], ["relu", "identity"], rng=0)
    optimizer = optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    history = fit(
        model, learnt, nn.cross_entropy, optimizer, epochs=15, rng=0, compiled=True,
        scheduler=optim.CosineAnnealingLR(optimizer, 15), validation=held_out, metrics=[accuracy],
    )  # fmt: skip
    assert history["val_accuracy"][-1] > 0.95


class Reader(nn.Module):
    """A recurrent layer with a linear one on its outputs; samples first."""

    def __init__(self, layer, hidden, outputs):
        self.layer, self.linear = layer, nn.Linear(hidden, outputs, rng=1)

    def forward(self, x):
        states, _ = self.layer(x.transpose(1, 0, 2))
        return self.linear(states.transpose(1, 0, 2) if states.ndim == 3 else states)


def test_an_rnn_adds_binary_numbers_of_more_bits_than_it_was_taught():
    model = Reader(nn.RNN(2, 12, rng=0), 12, 1)
    fit(
        model, datasets.binary_addition(2000, bits=4, rng=0), nn.binary_cross_entropy_with_logits,
        optim.Adam(model.parameters(), lr=2e-2), epochs=10, batch_size=50, rng=0, clip_norm=1.0,
        compiled=True,
    )  # fmt: skip
    x, y = datasets.binary_addition(500, bits=8, rng=1)
    with tb.no_grad():
        assert ((model(x).data > 0.0) == y).all()


def test_an_lstm_adds_marked_numbers():
    """T = 10, where a guess has the error 1/6."""
    model = Reader(nn.LSTM(2, 12, rng=0, outputs="last"), 12, 1)
    history = fit(
        model, datasets.adding(2000, 10, rng=0), lambda a, y: 2.0 * nn.squared_error(a, y),
        optim.Adam(model.parameters(), lr=2e-2), epochs=8, batch_size=25, rng=0, clip_norm=1.0,
        validation=datasets.adding(500, 10, rng=1), compiled=True,
    )  # fmt: skip
    assert history["val_loss"][-1] < 0.02


@pytest.mark.parametrize("cell", [nn.RNNCell, nn.LSTMCell])
def test_a_grammar_is_learnt_along_one_long_stream(cell):
    """Truncated BPTT of 4 streams: the loss comes near the entropy of the source."""
    rng, code, codes = np.random.default_rng(0), 0, []
    for _ in range(6000):  # after 0 comes 1 or 2, after these 3, and then 0
        codes.append(code)
        code = int(rng.integers(1, 3)) if code == 0 else (3 if code < 3 else 0)
    ((xs, ys),) = streams(np.array(codes), 4, 1499)
    model, one_hot = nn.CharRNN(4, 8, rng=0, cell=cell), np.eye(4)
    adam = optim.Adam(model.parameters(), lr=2e-2)

    def loss(state, y):
        h = state[0] if isinstance(state, tuple) else state
        return nn.cross_entropy(h @ model.V + model.c, y)

    losses = []
    for update in truncated_bptt(
        model.cell, one_hot[xs], 5, 8, targets=ys, loss=loss, state=model.cell.initial_state(4)
    ):
        optim.clip_grad_norm(adam.parameters, 1.0)
        adam.step()
        adam.zero_grad()
        losses.append(update.loss)
    assert losses[0] == pytest.approx(math.log(4), abs=0.3)
    assert np.mean(losses[-60:]) < math.log(2) / 3 + 0.03
