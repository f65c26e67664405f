"""The main things that the library does, one after another: `python flows.py FOLDER`.

It needs no extra, and prints what came out to the last bit: under every switch of Python the same.
Nothing in it is an `assert`, which python -O would leave out.
"""

import hashlib
import sys
from pathlib import Path

import numpy as np

import tinygrad_bp as tb
from tinygrad_bp import nn, replay
from tinygrad_bp.visualize import draw, play
from tinygrad_bp.visualize.report import report

X, T = np.array([[0, 0], [0, 1], [1, 0], [1, 1.0]]), np.array([[0], [1], [1], [0.0]])


def bits(x):
    """A number in full, an array's or a text's digest."""
    if isinstance(x, (tuple, list)):
        return " ".join(map(bits, x))
    if isinstance(x, (tb.Value, tb.Tensor)):
        return bits(x.data)
    if isinstance(x, str):
        return hashlib.sha256(x.encode()).hexdigest()[:12]
    x = np.asarray(x)
    return float(x).hex() if x.ndim == 0 else hashlib.sha256(x.tobytes()).hexdigest()[:12]


def refused(f, *arguments):
    """What a call says against its arguments."""
    try:
        f(*arguments)
    except (TypeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    raise SystemExit(f"{f} accepted {arguments}")


def numbers():
    w, x, b = tb.Value(0.5, "w"), tb.Value(2.0, "x"), tb.Value(-0.3, "b")
    y = tb.tanh(w * x + b) ** 2 + tb.where(x > 1.0, tb.erf(x), x)
    y.backward()
    return y, w.grad, x.grad, b.grad


def training():
    model = nn.MLP([2, 4, 1], ["tanh", "identity"], rng=0)
    optimizer = tb.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(5):
        loss = nn.binary_cross_entropy_with_logits(model(X), T)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss, *(p.data for p in model.parameters())


def losses_of_a_recurrent_network():
    cell = nn.RNNCell(2, 3, rng=0)
    hs = nn.unroll(cell, [tb.Tensor(x[None], "x") for x in X], np.zeros((1, 3)))
    return cell, [(h * h).sum() for h in hs]


def calculus():
    def f(x):
        return tb.sin(x).sum() * tb.exp(x[0])

    x = np.array([0.3, -0.7])
    return tb.grad(f)(x), tb.hessian(f)(x), tb.jvp(f, (x,), (x,)), tb.taylor(tb.tanh, 0.5, 3)


def replayed(folder):
    def f(x, rng):
        kept = tb.where(rng.random(x.shape) < 0.7, x / 0.7, 0.0)
        return (tb.tanh(kept) * x).sum()

    step = tb.compile(f)
    results = [step.value_and_grad(X, np.random.default_rng(0)) for _ in range(2)]
    replay.save(step.program(X, np.random.default_rng(0)), folder / "f.program")
    program = replay.load(folder / "f.program")
    return results, replay.runner(program).values([X, *program.drawn(np.random.default_rng(0))])


def remembered_less():
    def part(h):
        return tb.tanh(h @ h)

    h = tb.Tensor(np.eye(3) * 0.5)
    with tb.count_operations() as counts, tb.detect_anomaly():
        loss = tb.checkpoint(part, h).sum()
        loss.backward()
    return h.grad, str(counts)


def own_operation():
    @tb.elementwise(lambda m, x, y: 3.0 * x * x)
    def cubed(m, x):
        return x * x * x

    return tb.grad(lambda x: cubed(x))(2.0), str(tb.check_gradients(cubed, [tb.Value(0.5)]))


def explained():
    loss = nn.binary_cross_entropy_with_logits(nn.MLP([2, 3, 1], rng=0)(X), T)
    cell, losses = losses_of_a_recurrent_network()
    W = next(iter(cell.parameters()))
    explain = tb.explain
    told = explain.derive(loss), explain.deltas(loss), explain.through_time(losses, W)
    x = tb.Value(0.5, "x")
    more = explain.paths(tb.sin(x) * x, x), explain.why(losses[-1], W)
    costs = explain.cost(tb.sin, 0.5, times=False)
    return *map(str, (*told, *more, costs)), str(explain.mistakes.museum(loss))


def drawn(folder):
    _, losses = losses_of_a_recurrent_network()
    draw(losses[-1]).save(folder / "graph.svg")
    draw(losses[-1]).save(folder / "graph.html")
    play(losses[-1], folder / "player.html")
    report(losses[-1], folder / "report.html", losses=losses)
    return [file.read_text(encoding="utf-8") for file in sorted(folder.glob("*.[hs][tv]*"))]


def errors():
    return (
        refused(tb.Tensor, "text"),
        refused(tb.matmul, np.ones((2, 3)), tb.Tensor(np.ones((2, 3)))),
        refused(tb.Tensor(np.ones(3)).backward),
        refused(nn.MLP, [2]),
        refused(replay.load, __file__),
    )


def main(folder):
    """Go through all of it, and print the results."""
    flows = [numbers, training, calculus, remembered_less, own_operation, explained, errors]
    for flow in flows:
        print(f"{flow.__name__}: {bits(flow())}")
    for flow in (replayed, drawn):
        print(f"{flow.__name__}: {bits(flow(folder))}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
