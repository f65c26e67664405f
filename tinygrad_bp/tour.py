"""`tinygrad-bp tour`: the whole of the library once, on real data, in well under a minute.

Each section is a function that prints what it finds and returns its part of the page.
"""

from __future__ import annotations

import html
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import tinygrad_bp as tb
from tinygrad_bp import datasets, nn
from tinygrad_bp.files import write_whole
from tinygrad_bp.optim import Adam, clip_grad_norm
from tinygrad_bp.text import clean, clean_lines
from tinygrad_bp.training import Callback, Run, accuracy, fit, progress, streams

LEAST_TEXT = 5_000  # characters


class Page:
    """The pages and pictures written so far."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.parts: list[str] = []

    def heading(self, text: str) -> None:
        """A section begins, here and on the terminal."""
        text = clean(text)
        print(f"\n== {text}")
        self.parts.append(f"<h2>{html.escape(text)}</h2>")

    def say(self, text: str) -> None:
        """A line, here and on the terminal."""
        text = clean(text)
        print(text)
        self.parts.append(f"<p>{html.escape(text)}</p>")

    def quote(self, text: str) -> None:
        """Text with its line breaks."""
        text = clean_lines(text)
        print(text)
        self.parts.append(f"<pre>{html.escape(text)}</pre>")

    def picture(self, name: str, svg: str, caption: str) -> None:
        """A picture, in a file of its own and on the page."""
        write_whole(self.out / name, svg.encode())
        self.parts.append(
            f'<figure><div class="wide"><a href="{name}"><img src="{name}" '
            f'alt="{html.escape(caption)}"></a></div>'
            f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        )

    def finish(self) -> Path:
        """Write `index.html`."""
        path = self.out / "index.html"
        from tinygrad_bp.visualize.policy import policy

        # The pictures are beside the page: `file:` where it is opened, 'self' where it is served.
        allowed = policy(_STYLE, images="'self' file:")
        page = _PAGE.format(policy=allowed, style=_STYLE, body="\n".join(self.parts))
        write_whole(path, page.encode())
        return path


_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem;
        color: #1a1a1a; background: #fff }
h1, h2 { line-height: 1.2 }
h2 { margin-top: 2.5rem; border-top: 1px solid #ddd; padding-top: 1rem }
pre { background: #f5f5f5; padding: .8rem; overflow-x: auto; white-space: pre-wrap }
figure { margin: 1rem 0 } .wide { overflow-x: auto } img { display: block }
figcaption { color: #555; font-size: .9rem }
"""
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>tinygrad_bp: the tour</title>
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>{style}</style></head><body>
<h1>tinygrad_bp: the tour</h1>
{body}
</body></html>
"""


def tour(out: Path, data: Path | None = None) -> bool:
    """Run every section and write pictures and `index.html` to a directory.

    Args:
        out: the directory; made if it is not there.
        data: the reader's own text to train the character network on.

    Returns:
        Whether every target was reached: the gradients right, the digits read, the text learnt.

    Raises:
        ImportError: scikit-learn or tqdm is missing; they come with the extra `data`.
        OSError: the directory cannot be made, or the text not read.
        ValueError: the text is not UTF-8, or too short to learn from.
    """
    text = datasets.english() if data is None else datasets.text(data, LEAST_TEXT)
    digits = datasets.digits()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise ValueError(f"--out {out}: expected a directory, got a file") from None
    page = Page(out)
    start = time.perf_counter()
    # Networks this small are computed faster by one thread of BLAS than by several, and very much
    # faster where something else keeps the cores busy.
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1, user_api="blas"):
        expression(page)
        source = "the standard library's help pages" if data is None else data.name
        results = [
            train_digits(page, digits),
            train_text(page, text, source),
            check_everything(page),
        ]
    path = page.finish()
    print(f"\n{time.perf_counter() - start:.0f} s. Open {clean(str(path))}")
    return all(results)


# --- (a) an expression --------------------------------------------------------------------------


def expression(page: Page) -> None:
    """One neuron: its value, its graph and its gradients."""
    from tinygrad_bp.visualize import draw

    page.heading("An expression, its graph and its gradients")
    x = [tb.Value(2.0, "x1"), tb.Value(-1.0, "x2")]
    w = [tb.Value(-0.5, "w1"), tb.Value(1.5, "w2")]
    b = tb.Value(3.0, "b")
    y = tb.tanh(w[0] * x[0] + w[1] * x[1] + b)
    y.label = "y"
    y.backward()
    page.say(f"y = tanh(w1 x1 + w2 x2 + b) = {y.data:.6f}")
    for leaf in [*w, *x, b]:
        page.say(f"∂y/∂{leaf.label} = {leaf.grad:+.6f}")
    page.picture("expression.svg", draw(y).svg, "One neuron: data, gradient, local derivatives.")
    a = tb.Value(3.0, "a")
    c = tb.Value(1.0, "c")
    square = a * a + c * a
    square.backward()
    page.say(f"A value used three times: y = a·a + c·a at a = 3, c = 1 has ∂y/∂a = {a.grad}")
    page.picture(
        "uses.svg", draw(square).svg, "Each use of a contributes; the sum is its gradient."
    )


# --- (b) handwritten digits ---------------------------------------------------------------------


def train_digits(page: Page, digits: datasets.XY, epochs: int = 25) -> bool:
    """A network of one hidden layer, trained by mini-batches; True if 95 % are read rightly."""
    page.heading("A network that reads handwritten digits")
    learnt, held_out = datasets.train_test_split(digits, 0.2, rng=0, stratify=digits.y)
    rng = np.random.default_rng(0)
    model = nn.MLP([64, 48, 10], "tanh", rng=rng)
    curve_of = Losses()
    start = time.perf_counter()
    history = fit(
        model,
        learnt,
        nn.cross_entropy,
        Adam(model.parameters(), lr=5e-3),
        epochs=epochs,
        rng=rng,
        validation=held_out,
        metrics=[accuracy],
        callbacks=[curve_of],
        progress="digits",
    )
    seconds = time.perf_counter() - start
    right = float(history["val_accuracy"][-1])
    page.say(
        f"64-48-10, tanh, Adam: {epochs} epochs over {len(learnt.x)} images in {seconds:.1f} s; "
        f"{right:.1%} of the {len(held_out.x)} held-out images read rightly"
    )
    page.picture(
        "digits.svg",
        curve(curve_of.losses, math.log(10)),
        "Loss by step, in nats; dashed: ln 10, a guess among ten.",
    )
    return right >= 0.95


class Losses(Callback):
    """The loss of every step."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_batch_end(self, run: Run) -> None:
        """Note it down."""
        self.losses.append(run.batch_loss)


# --- (c) text -----------------------------------------------------------------------------------


def train_text(page: Page, text: datasets.Text, source: str, steps: int = 1500) -> bool:
    """A character network, trained by truncated BPTT; True if it gets below 2.3 nats."""
    page.heading("A recurrent network that learns to write")
    codes, symbols = text
    batch = max(1, min(32, len(codes) // 500))
    rng = np.random.default_rng(0)
    model = nn.CharRNN(len(symbols), 128, rng=rng)
    optimizer = Adam(model.parameters(), lr=2e-3)
    rows = np.eye(len(symbols))
    losses: list[float] = []
    bar = progress(range(steps), "text")
    pieces = _pieces(codes, batch, 25)
    state = None
    for _ in bar:
        first, inputs, targets = next(pieces)
        state = model.cell.initial_state(batch) if first or state is None else state.detach()
        logits, state = model(rows[inputs], state)
        loss = nn.cross_entropy(tb.stack(logits), targets)
        optimizer.zero_grad()
        loss.backward(leaves_only=True)
        clip_grad_norm(model.parameters(), 5.0)
        optimizer.step()
        losses.append(loss.item())
        bar.set_postfix(nats=f"{np.mean(losses[-50:]):.3f}")
    final = float(np.mean(losses[-50:]))
    page.say(
        f"{len(codes):,} characters of {source}, {len(symbols)} symbols: from {losses[0]:.2f} nats "
        f"per character (ln {len(symbols)} = {math.log(len(symbols)):.2f}) to {final:.2f}, by BPTT "
        f"over 25 steps"
    )
    page.say("It writes:")
    page.quote(write_text(model, symbols, codes[:1], 300, rng))
    page.picture(
        "text.svg",
        curve(losses, math.log(len(symbols))),
        "Loss by step, in nats; dashed: ln V, a guess among V symbols.",
    )
    return final < 2.3


def _pieces(codes: NDArray[Any], batch: int, steps: int) -> Iterator[tuple[bool, Any, Any]]:
    """The pieces of the streams, over and over; whether a piece is the first, then its data."""
    while True:
        for i, (inputs, targets) in enumerate(streams(codes, batch, steps)):
            yield i == 0, inputs, targets


def write_text(
    model: nn.CharRNN,
    symbols: list[str],
    start: NDArray[Any],
    length: int,
    rng: np.random.Generator,
    temperature: float = 0.7,
) -> str:
    """Text drawn from a model, one symbol after the other."""
    state = model.cell.initial_state(1)
    code, written = int(start[0]), []
    with tb.no_grad():
        for _ in range(length):
            logits, state = model(np.eye(len(symbols))[[[code]]], state)
            chances = tb.softmax(logits[0] / temperature).data[0]
            code = int(rng.choice(len(symbols), p=chances / chances.sum()))
            written.append(symbols[code])
    return "".join(written)


# --- (d) the gradients --------------------------------------------------------------------------


def check_everything(page: Page) -> bool:
    """Every gradient of small versions, against two independent methods; and their pictures."""
    from tinygrad_bp.visualize import draw

    page.heading("Every gradient checked")
    rng = np.random.default_rng(0)
    mlp = nn.MLP([3, 4, 2], ["tanh", "softmax"], rng=rng)
    images, answers = rng.normal(size=(5, 3)), np.eye(2)[[0, 1, 1, 0, 1]]
    rnn = nn.CharRNN(4, 3, rng=rng)
    text = rng.integers(0, 4, (6, 2))

    def mlp_loss(model: nn.MLP) -> Any:
        return nn.squared_error(model(images), answers)

    def rnn_loss(model: nn.CharRNN) -> Any:
        logits, _ = model(np.eye(4)[text[:-1]], model.cell.initial_state(2))
        return sum(nn.cross_entropy(o, y, "sum") for o, y in zip(logits, text[1:], strict=True))

    passed = True
    for name, model, loss in [("MLP 3-4-2", mlp, mlp_loss), ("RNN 4-3-4, 5 steps", rnn, rnn_loss)]:
        for view, network in [("Tensors", model), ("single Values", model.scalar_view())]:
            for method in ("central differences", "complex step"):
                report = check_network(network, loss, method)
                passed = passed and report.ok
                page.say(f"{name}, {view}: {report}")
    small = nn.MLP([2, 2, 1], ["tanh", "sigmoid"], rng=rng).scalar_view()
    loss = nn.squared_error(small(tb.values([1.0, -1.0], requires_grad=False)), np.array([1.0]))
    loss.backward()
    page.picture("mlp.svg", draw(loss).svg, "A 2-2-1 network weight by weight, after backward().")
    cell = nn.RNNCell(1, 1, rng=rng).scalar_view()
    states = nn.unroll(cell, np.array([[1.0], [-0.5], [0.25]]), np.zeros(1))
    loss = nn.squared_error(states[-1], np.array([0.5]))
    loss.backward()
    page.picture("rnn.svg", draw(loss).svg, "Three steps of an RNN: U, W and b are used at each.")
    return passed


def check_network(model: nn.Module, loss: Any, method: str) -> tb.GradientReport:
    """Check the derivative of `loss(model)` by every parameter of a model."""
    parameters = model.parameters()

    def of_parameters(*moved: Any) -> Any:
        import copy

        twins = {id(p): m for p, m in zip(parameters, moved, strict=True)}
        return loss(copy.deepcopy(model, twins))

    return tb.check_gradients(of_parameters, parameters, method=method)


# --- a curve ------------------------------------------------------------------------------------


def curve(numbers: list[float], level: float, width: int = 640, height: int = 240) -> str:
    """A loss curve as SVG, smoothed over 1/50 of its length, with a dashed line at a level."""
    window = max(1, len(numbers) // 50)
    smooth = np.convolve(numbers, np.ones(window) / window, "valid")
    top = 1.05 * max(level, float(smooth.max()))
    left, right, bottom, up = 44, width - 10, height - 26, 10

    def place(i: float, y: float) -> str:
        x = left + (right - left) * i / max(1, len(smooth) - 1)
        return f"{x:.1f},{bottom - (bottom - up) * y / top:.1f}"

    line = " ".join(place(i, float(y)) for i, y in enumerate(smooth))
    ticks = [t for t in range(math.ceil(top)) if t <= top]
    marks = "".join(
        f'<text x="{left - 6}" y="{bottom - (bottom - up) * t / top + 4:.1f}" text-anchor="end">{t}'
        "</text>"
        for t in ticks
    )
    y = bottom - (bottom - up) * level / top
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12" fill="#333">'
        f'<rect width="{width}" height="{height}" fill="#fff"/>'
        f'<path d="M{left},{up}V{bottom}H{right}" fill="none" stroke="#888"/>{marks}'
        f'<text x="{right}" y="{height - 8}" text-anchor="end">step {len(numbers)}</text>'
        f'<path d="M{left},{y:.1f}H{right}" stroke="#888" stroke-dasharray="4 4"/>'
        f'<polyline points="{line}" fill="none" stroke="#0b62a4" stroke-width="2"/></svg>\n'
    )
