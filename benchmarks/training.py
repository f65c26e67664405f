"""Networks trained to a goal, by `fit` and by truncated BPTT, on one thread.

    python benchmarks/training.py [digits] [addition] [adding] [text] [--seconds N]

Each section prints what it reaches, in what time, beside its target. All is seeded.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

for _variable in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ[_variable] = "1"

import numpy as np  # noqa: E402  (the number of threads is read on import)

import tinygrad_bp as tb  # noqa: E402
from tinygrad_bp import datasets, nn, optim  # noqa: E402
from tinygrad_bp.training import Run, accuracy, fit, streams  # noqa: E402


def verdict(reached: bool) -> str:
    """Whether a target was met."""
    return "met" if reached else "MISSED"


class Reader(nn.Module):
    """A recurrent layer, and a linear one on its outputs: of all steps, or of the last.

    From (batch, time, features) to (batch, time, outputs), or (batch, outputs).
    """

    def __init__(self, layer: nn.Module, hidden: int, outputs: int, rng: np.random.Generator):
        self.layer, self.linear = layer, nn.Linear(hidden, outputs, rng=rng)

    def forward(self, x: Any) -> Any:
        states, _ = self.layer(x.transpose(1, 0, 2))
        if states.ndim == 3:
            states = states.transpose(1, 0, 2)
        return self.linear(states)


# --- handwritten digits --------------------------------------------------------------------------


def train_digits(seed: int, epochs: int = 50) -> tuple[float, float]:
    """A 64-128-64-10 network on 80 % of the digits: accuracy on the others, and seconds."""
    data = datasets.digits()
    learnt, held_out = datasets.train_test_split(data, 0.2, rng=seed, stratify=data.y)
    rng = np.random.default_rng(seed)
    layers: list[Any] = []
    for inputs, outputs in ((64, 128), (128, 64)):
        layers += [nn.Linear(inputs, outputs, rng=rng), tb.relu, nn.Dropout(0.2, rng=rng)]
    model = nn.Sequential(*layers, nn.Linear(64, 10, rng=rng))
    optimizer = optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
    start = time.perf_counter()
    history = fit(
        model,
        learnt,
        nn.cross_entropy,
        optimizer,
        epochs=epochs,
        rng=rng,
        scheduler=optim.CosineAnnealingLR(optimizer, epochs),
        validation=held_out,
        metrics=[accuracy],
    )
    return float(history["val_accuracy"][-1]), time.perf_counter() - start


def digits() -> None:
    """At least 97 % in at most 20 s."""
    results = [train_digits(seed) for seed in range(5)]
    rates, seconds = zip(*results, strict=True)
    print(f"digits: {', '.join(f'{rate:.2%}' for rate in rates)} of the held-out images right")
    print(f"        in {max(seconds):.1f} s at most; {verdict(min(rates) >= 0.97)}")


# --- binary addition -----------------------------------------------------------------------------


def train_addition(hidden: int = 16, seed: int = 0) -> tuple[int, float]:
    """An RNN that adds bytes: how many of all 65,536 sums are wrong, and seconds."""
    rng = np.random.default_rng(seed)
    model = Reader(nn.RNN(2, hidden, rng=rng), hidden, 1, rng)
    start = time.perf_counter()
    fit(
        model,
        datasets.binary_addition(5000, rng=rng),
        lambda z, y: nn.binary_cross_entropy_with_logits(z, y),
        optim.Adam(model.parameters(), lr=1e-2),
        epochs=10,
        batch_size=50,
        rng=rng,
        clip_norm=1.0,
        compiled=True,
    )
    seconds = time.perf_counter() - start
    x, y = datasets.binary_addition()
    with tb.no_grad():
        bits = model(x).data > 0.0
    return int((bits != y).any((1, 2)).sum()), seconds


def addition() -> None:
    """Every sum of two bytes right."""
    wrong, seconds = train_addition()
    print(f"addition: {wrong} of 65,536 sums wrong, {seconds:.1f} s; {verdict(wrong == 0)}")


# --- the adding problem --------------------------------------------------------------------------


def train_adding(
    layer: str,
    steps: int = 100,
    hidden: int = 32,
    samples: int = 8000,
    epochs: int = 12,
    goal: float = 0.01,
    seed: int = 0,
) -> tuple[float, int, float]:
    """A layer on the adding problem: mean squared error on held-out data, epochs and seconds."""
    rng = np.random.default_rng(seed)
    model = Reader(getattr(nn, layer)(2, hidden, rng=rng, outputs="last"), hidden, 1, rng)

    def stop(run: Run) -> None:
        run.stop = run.history["val_loss"][-1] < goal

    start = time.perf_counter()
    history = fit(
        model,
        datasets.adding(samples, steps, rng=rng),
        lambda a, y: 2.0 * nn.squared_error(a, y),
        optim.Adam(model.parameters(), lr=5e-3),
        epochs=epochs,
        batch_size=32,
        rng=rng,
        validation=datasets.adding(2000, steps, rng=rng),
        clip_norm=1.0,
        callbacks=[stop],
        compiled=True,
        progress=layer,
    )
    seconds = time.perf_counter() - start
    return float(history["val_loss"][-1]), history.epochs, seconds


def adding() -> None:
    """The LSTM below 0.01, the plain RNN near 1/6."""
    error, epochs, seconds = train_adding("LSTM")
    print(f"adding, T = 100: LSTM {error:.4f} after {epochs} epochs, {seconds:.0f} s; ", end="")
    print(verdict(error < 0.01))
    error, epochs, seconds = train_adding("RNN", epochs=epochs)
    print(f"                 tanh RNN {error:.4f} after {epochs} epochs, {seconds:.0f} s; ", end="")
    print(verdict(0.15 < error < 0.19))


# --- text ----------------------------------------------------------------------------------------


class LSTMText(nn.Module):
    """A character LSTM: one-hot symbols (time, batch, symbols) to logits, with its state."""

    def __init__(self, symbols: int, hidden: int, rng: np.random.Generator) -> None:
        self.layer = nn.LSTM(symbols, hidden, rng=rng)
        self.linear = nn.Linear(hidden, symbols, rng=rng)

    def forward(self, xs: Any, state: Any) -> tuple[Any, Any]:
        states, state = self.layer(xs, state)
        return self.linear(states), state


class TransformerText(nn.Module):
    """A causal Transformer of two blocks: symbols (time, batch) to logits."""

    def __init__(self, symbols: int, width: int, steps: int, rng: np.random.Generator) -> None:
        self.embedding = nn.Embedding(symbols, width, rng=rng)
        self.positions = nn.PositionalEncoding(steps, width, learned=True, rng=rng)
        self.blocks = [nn.TransformerBlock(width, 4, rng=rng, norm_first=True) for _ in range(2)]
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, symbols, rng=rng)

    def forward(self, xs: Any) -> Any:
        x = self.positions(self.embedding(xs))
        for block in self.blocks:
            x = block(x, causal=True)
        return self.linear(self.norm(x))


Trained = tuple[Callable[[], float], Callable[[], float]]


def lstm_text(codes: Any, held_out: Any, symbols: int, hidden: int = 128) -> Trained:
    """A step of truncated BPTT over 50 characters of 32 streams; and the held-out loss."""
    model = LSTMText(symbols, hidden, np.random.default_rng(0))
    optimizer = optim.Adam(model.parameters(), lr=4e-3)
    rows, zeros = np.eye(symbols), np.zeros((1, 32, hidden))

    def loss(model: LSTMText, xs: Any, ys: Any, h: Any, c: Any) -> tuple[Any, Any, Any]:
        logits, (h, c) = model(xs, (h, c))
        return nn.cross_entropy(logits, ys), h, c

    compiled, state, pieces = tb.compile(loss), (zeros, zeros), iter(())

    def step() -> float:
        nonlocal state, pieces
        piece = next(pieces, None)
        if piece is None:
            pieces, state = streams(codes, 32, 50), (zeros, zeros)
            piece = next(pieces)
        optimizer.zero_grad()
        number, *state = compiled.backward(model, rows[piece[0]], piece[1], *state)
        optim.clip_grad_norm(optimizer.parameters, 5.0)
        optimizer.step()
        return float(number)

    def validate() -> float:
        state, losses = (zeros, zeros), []
        for xs, ys in streams(held_out, 32, 50):
            number, *state = compiled(model, rows[xs], ys, *state)
            losses.append(float(number))
        return float(np.mean(losses))

    return step, validate


def transformer_text(codes: Any, held_out: Any, symbols: int, width: int = 64) -> Trained:
    """A step of two blocks on 32 random windows of 64 characters; and the held-out loss."""
    steps, rng = 64, np.random.default_rng(0)
    model = TransformerText(symbols, width, steps, rng)
    optimizer = optim.Adam(model.parameters(), lr=3e-3)
    compiled = tb.compile(lambda model, xs, ys: nn.cross_entropy(model(xs), ys))

    def step() -> float:
        window = rng.integers(0, len(codes) - steps, 32) + np.arange(steps)[:, None]
        optimizer.zero_grad()
        number = compiled.backward(model, codes[window], codes[window + 1])
        optim.clip_grad_norm(optimizer.parameters, 1.0)
        optimizer.step()
        return float(number)

    def validate() -> float:
        pieces = streams(held_out, 32, steps)
        return float(np.mean([float(compiled(model, xs, ys)) for xs, ys in pieces]))

    return step, validate


class Row(NamedTuple):
    """How far a network has come: seconds and steps, and losses in nats per character."""

    network: str
    seconds: float
    steps: int
    training: float
    held_out: float


def train_text(seconds: float) -> Iterator[Row]:
    """Both for equal times: after a quarter, a half and the whole of it, the losses.

    In training it is the mean of the last hundred steps; held out is the text's last tenth. The
    time is that of the processor, which is that of the clock where nothing else runs.
    """
    codes, symbols = datasets.english()
    cut = len(codes) * 9 // 10
    for name, make in (("LSTM", lstm_text), ("Transformer", transformer_text)):
        step, validate = make(codes[:cut], codes[cut:], len(symbols))
        losses: list[float] = []
        spent, marks = 0.0, [seconds / 4, seconds / 2, seconds]
        while marks:
            start = time.process_time()
            losses.append(step())
            spent += time.process_time() - start
            if spent >= marks[0]:
                del marks[0]
                yield Row(name, spent, len(losses), float(np.mean(losses[-100:])), validate())


def text(seconds: float) -> None:
    """The LSTM below 1.9 nats per character within 5 minutes; a Transformer beside it."""
    best = np.inf
    for row in train_text(seconds):
        print(
            f"text: {row.network:11} {row.seconds:4.0f} s, {row.steps:5} steps: "
            f"{row.training:.3f} nats in training, {row.held_out:.3f} held out",
            flush=True,
        )
        if row.network == "LSTM":
            best = min(best, row.held_out)
    print(f"      {verdict(best < 1.9)}")


def main() -> None:
    """Run the sections asked for, or all."""
    sections = {"digits": digits, "addition": addition, "adding": adding}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="*", default=[*sections, "text"])
    parser.add_argument("--seconds", type=float, default=120.0, help="for each network on text")
    arguments = parser.parse_args()
    for name in arguments.sections:
        if name == "text":
            text(arguments.seconds)
        else:
            sections[name]()


if __name__ == "__main__":
    main()
