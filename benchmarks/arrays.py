"""Arrays that remember, side by side: a training step of four networks, in several engines.

A step computes the loss and the gradient of every parameter, in float64 on one thread. All engines
start from the same numbers, and their gradients are checked against one another before any is
timed. The engines take turns, and each is given its best time.

Each engine's network is written as its users would: `tb.nn` here, `lax.scan` in JAX. PyTorch eager
is shown twice: with the operations of the others, `x @ W + b`, and with its fused `addmm`. The
recurrent networks stack their states and compute the outputs of all steps at once, unless said.
"""

from __future__ import annotations

import gc
import math
import os
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

for _variable in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ[_variable] = "1"
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
os.environ["JAX_PLATFORMS"] = "cpu"

import numpy as np  # noqa: E402  (the number of threads is read on import)

import tinygrad_bp as tb  # noqa: E402

ROUNDS = 30
SECONDS_PER_TURN = 0.02
Step = Callable[[], list[Any]]


class MLP(NamedTuple):
    """A network of one hidden layer, its activation, its loss, and data."""

    inputs: int
    hidden: int
    outputs: int
    batch: int
    activation: str

    @property
    def name(self) -> str:
        sizes = f"{self.inputs}-{self.hidden}-{self.outputs}"
        loss = "squared error" if self.activation == "sigmoid" else "cross-entropy"
        return f"MLP {sizes}, batch {self.batch}, {self.activation}, {loss}"

    def numbers(self) -> tuple[list[Any], Any, Any]:
        """[W1, b1, W2, b2], the inputs, and the targets (classes, for cross-entropy)."""
        rng = np.random.default_rng(0)
        shapes = [
            (self.inputs, self.hidden),
            self.hidden,
            (self.hidden, self.outputs),
            self.outputs,
        ]
        parameters = [rng.normal(0.0, 0.1, shape) for shape in shapes]
        x = rng.uniform(0.0, 1.0, (self.batch, self.inputs))
        y = rng.integers(0, self.outputs, self.batch)
        return parameters, x, np.eye(self.outputs)[y] if self.activation == "sigmoid" else y


class RNN(NamedTuple):
    """A recurrent network over symbols, that predicts the next one at every step."""

    symbols: int
    hidden: int
    steps: int
    batch: int

    @property
    def name(self) -> str:
        sizes = f"{self.symbols}-{self.hidden}-{self.symbols}"
        return f"RNN {sizes}, {self.steps} steps, batch {self.batch}, tanh, cross-entropy"

    def numbers(self) -> tuple[list[Any], Any, Any]:
        """[U, W, b, V, c], one-hot inputs (time, batch, symbols), classes (time, batch)."""
        rng = np.random.default_rng(0)
        k, n = self.symbols, self.hidden
        parameters = [rng.normal(0.0, 0.1, shape) for shape in [(k, n), (n, n), n, (n, k), k]]
        text = rng.integers(0, k, (self.steps + 1, self.batch))
        return parameters, np.eye(k)[text[:-1]], text[1:]


# --- by hand, in numpy ----------------------------------------------------------------------------


def softmax_delta(o: Any, y: Any) -> tuple[Any, Any]:
    """The summed cross-entropy of rows of logits, and its derivative by them; overwrites o."""
    rows = np.arange(len(y))
    o -= np.maximum.reduce(o, axis=1, keepdims=True)
    picked = o[rows, y]
    np.exp(o, out=o)
    total = np.add.reduce(o, axis=1, keepdims=True)
    loss = np.log(total).sum() - picked.sum()
    o /= total
    o[rows, y] -= 1.0
    return loss, o


def numpy_mlp_sigmoid(net: MLP) -> Step:
    (W1, b1, W2, b2), x, y = net.numbers()

    def sigmoid(z: Any) -> Any:
        np.negative(z, out=z)
        np.exp(z, out=z)
        z += 1.0
        return np.divide(1.0, z, out=z)

    def step() -> list[Any]:
        a1 = x @ W1
        a1 += b1
        a1 = sigmoid(a1)
        a2 = a1 @ W2
        a2 += b2
        a2 = sigmoid(a2)
        d2 = a2 - y
        loss = 0.5 / len(x) * np.vdot(d2, d2)
        d2 /= len(x)
        d2 *= a2
        d2 *= 1.0 - a2
        d1 = d2 @ W2.T
        d1 *= a1
        d1 *= 1.0 - a1
        return [loss, x.T @ d1, np.add.reduce(d1), a1.T @ d2, np.add.reduce(d2)]

    return step


def numpy_mlp_softmax(net: MLP) -> Step:
    (W1, b1, W2, b2), x, y = net.numbers()

    def step() -> list[Any]:
        a1 = x @ W1
        a1 += b1
        if net.activation == "tanh":
            np.tanh(a1, out=a1)
        else:
            np.maximum(a1, 0.0, out=a1)
        o = a1 @ W2
        o += b2
        loss, d2 = softmax_delta(o, y)
        d2 /= len(x)
        d1 = d2 @ W2.T
        if net.activation == "tanh":
            d1 *= 1.0 - a1 * a1
        else:
            d1 *= a1 > 0.0
        return [loss / len(x), x.T @ d1, np.add.reduce(d1), a1.T @ d2, np.add.reduce(d2)]

    return step


def numpy_mlp(net: MLP) -> Step:
    return (numpy_mlp_sigmoid if net.activation == "sigmoid" else numpy_mlp_softmax)(net)


def numpy_rnn_hoisted(net: RNN) -> Step:
    """All that does not depend on the previous state is computed for all steps at once."""
    (U, W, b, V, c), xs, y = net.numbers()
    flat, classes = xs.reshape(-1, net.symbols), y.ravel()

    def step() -> list[Any]:
        h = np.empty((net.steps + 1, net.batch, net.hidden))
        h[0] = 0.0
        z = flat @ U
        z += b
        z = z.reshape(net.steps, net.batch, net.hidden)
        for t in range(net.steps):
            now = np.matmul(h[t], W, out=h[t + 1])
            now += z[t]
            np.tanh(now, out=now)
        states = h[1:].reshape(-1, net.hidden)
        o = states @ V
        o += c
        loss, do = softmax_delta(o, classes)
        dz = (do @ V.T).reshape(net.steps, net.batch, net.hidden)
        slope = h[1:] * h[1:]
        np.subtract(1.0, slope, out=slope)
        WT = W.T
        dz[-1] *= slope[-1]
        for t in range(net.steps - 2, -1, -1):
            now = dz[t]
            now += dz[t + 1] @ WT
            now *= slope[t]
        dz = dz.reshape(-1, net.hidden)
        before = h[:-1].reshape(-1, net.hidden)
        sums = np.add.reduce
        return [loss, flat.T @ dz, before.T @ dz, sums(dz), states.T @ do, sums(do)]

    return step


def numpy_rnn_per_step(net: RNN) -> Step:
    """The derivation as it stands: every step adds its share to every gradient.

    These shares are outer products where the batch is 1, of which `dot` is faster than `@`.
    """
    (U, W, b, V, c), xs, y = net.numbers()

    def step() -> list[Any]:
        hs, deltas = [np.zeros((net.batch, net.hidden))], []
        loss = 0.0
        for t in range(net.steps):
            h = np.tanh(xs[t] @ U + hs[-1] @ W + b)
            hs.append(h)
            share, delta = softmax_delta(h @ V + c, y[t])
            loss += share
            deltas.append(delta)
        dU, dW, db, dV, dc = (np.zeros_like(p) for p in (U, W, b, V, c))
        dz = np.zeros((net.batch, net.hidden))
        for t in range(net.steps - 1, -1, -1):
            h, do = hs[t + 1], deltas[t]
            dV += h.T.dot(do)
            dc += do.sum(0)
            dz = (do @ V.T + dz @ W.T) * (1.0 - h * h)
            dU += xs[t].T.dot(dz)
            dW += hs[t].T.dot(dz)
            db += dz.sum(0)
        return [loss, dU, dW, db, dV, dc]

    return step


# --- tinygrad_bp ----------------------------------------------------------------------------------


def tinygrad_bp_mlp(net: MLP) -> Step:
    parameters, x, y = net.numbers()
    sizes = [net.inputs, net.hidden, net.outputs]
    last = "sigmoid" if net.activation == "sigmoid" else "identity"
    model = tb.nn.MLP(sizes, [net.activation, last], rng=0)
    for p, start in zip(model.parameters(), parameters, strict=True):
        p.data = start
    loss_of = tb.nn.squared_error if net.activation == "sigmoid" else tb.nn.cross_entropy
    leaves = model.parameters()
    x = tb.Tensor(x, requires_grad=False)
    y = tb.Tensor(y, requires_grad=False) if net.activation == "sigmoid" else y

    def step() -> list[Any]:
        for p in leaves:
            p.zero_grad()
        loss = loss_of(model(x), y)
        loss.backward()
        return [loss.data, *(p.grad for p in leaves)]

    return step


def tinygrad_bp_rnn(net: RNN) -> Step:
    """The states of all steps stacked, then the outputs at once."""
    model, xs, y = _char_rnn(net)
    leaves = model.parameters()

    def step() -> list[Any]:
        for p in leaves:
            p.zero_grad()
        states = tb.nn.unroll(model.cell, xs, model.cell.initial_state(net.batch))
        logits = tb.stack(states) @ model.V + model.c
        loss = tb.nn.cross_entropy(logits, y, "sum")
        loss.backward()
        return [loss.data, *(p.grad for p in leaves)]

    return step


def tinygrad_bp_rnn_per_step(net: RNN) -> Step:
    """An output, and a loss, at each step."""
    model, xs, y = _char_rnn(net)
    leaves = model.parameters()

    def step() -> list[Any]:
        for p in leaves:
            p.zero_grad()
        logits, _ = model(xs, model.cell.initial_state(net.batch))
        loss = tb.nn.cross_entropy(logits[0], y[0], "sum")
        for o, now in zip(logits[1:], y[1:], strict=True):
            loss = loss + tb.nn.cross_entropy(o, now, "sum")
        loss.backward()
        return [loss.data, *(p.grad for p in leaves)]

    return step


def replayed_mlp(net: MLP, engine: Any = "numpy") -> Step:
    """The same function, recorded once."""
    parameters, x, y = net.numbers()
    last = "sigmoid" if net.activation == "sigmoid" else "identity"
    model = tb.nn.MLP([net.inputs, net.hidden, net.outputs], [net.activation, last], rng=0)
    for p, start in zip(model.parameters(), parameters, strict=True):
        p.data = start
    loss_of = tb.nn.squared_error if net.activation == "sigmoid" else tb.nn.cross_entropy
    compiled = tb.compile(lambda model, x, y: loss_of(model(x), y), engine=engine)
    return _replayed(compiled, model, x, y)


def replayed_rnn(net: RNN, engine: Any = "numpy") -> Step:
    """The same function, recorded once."""
    model, _, y = _char_rnn(net)
    _, xs, _ = net.numbers()

    @tb.compile(engine=engine)
    def compiled(model: Any, xs: Any, y: Any) -> Any:
        states = tb.nn.unroll(model.cell, xs, model.cell.initial_state(net.batch))
        logits = tb.stack(states) @ model.V + model.c
        return tb.nn.cross_entropy(logits, y, "sum")

    return _replayed(compiled, model, xs, y)


def replayed_rnn_per_step(net: RNN) -> Step:
    """The same function, recorded once."""
    model, _, y = _char_rnn(net)
    _, xs, _ = net.numbers()

    @tb.compile
    def compiled(model: Any, xs: Any, y: Any) -> Any:
        logits, _ = model(xs, model.cell.initial_state(net.batch))
        loss = tb.nn.cross_entropy(logits[0], y[0], "sum")
        for t in range(1, len(logits)):
            loss = loss + tb.nn.cross_entropy(logits[t], y[t], "sum")
        return loss

    return _replayed(compiled, model, xs, y)


def _replayed(compiled: Any, model: Any, *data: Any) -> Step:
    def step() -> list[Any]:
        value, gradient = compiled.value_and_grad(model, *data)
        return [value, *gradient.values()]

    return step


def _char_rnn(net: RNN) -> tuple[Any, Any, Any]:
    parameters, xs, y = net.numbers()
    model = tb.nn.CharRNN(net.symbols, net.hidden, rng=0)
    for p, start in zip(model.parameters(), parameters, strict=True):
        p.data = start
    return model, [tb.Tensor(x, requires_grad=False) for x in xs], y


# --- PyTorch --------------------------------------------------------------------------------------


def _pytorch(net: Any) -> tuple[Any, list[Any], Any, Any]:
    import torch

    torch.set_num_threads(1)
    parameters, x, y = net.numbers()
    leaves = [torch.tensor(p, requires_grad=True) for p in parameters]
    return torch, leaves, torch.tensor(x), torch.tensor(y)


def _affine(torch: Any, fused: bool) -> Callable[..., Any]:
    """x W + b in two operations, as it is written, or in PyTorch's one."""
    return (lambda x, W, b: torch.addmm(b, x, W)) if fused else (lambda x, W, b: x @ W + b)


def _gradients(parameters: list[Any], loss: Any) -> list[Any]:
    for p in parameters:
        p.grad = None
    loss.backward()
    return [loss.detach(), *(p.grad for p in parameters)]


def pytorch_mlp(net: MLP, fused: bool = False) -> Step:
    torch, parameters, x, y = _pytorch(net)
    W1, b1, W2, b2 = parameters
    activation, affine = getattr(torch, net.activation), _affine(torch, fused)

    def step() -> list[Any]:
        o = affine(activation(affine(x, W1, b1)), W2, b2)
        if net.activation == "sigmoid":
            loss = torch.square(torch.sigmoid(o) - y).sum() * (0.5 / len(x))
        else:
            loss = torch.nn.functional.cross_entropy(o, y)
        return _gradients(parameters, loss)

    return step


def pytorch_mlp_addmm(net: MLP) -> Step:
    return pytorch_mlp(net, fused=True)


def pytorch_rnn(net: RNN, fused: bool = False) -> Step:
    torch, parameters, xs, y = _pytorch(net)
    U, W, b, V, c = parameters
    inputs, classes = xs.unbind(0), y.ravel()
    affine = _affine(torch, fused)

    def step() -> list[Any]:
        h = torch.zeros(net.batch, net.hidden, dtype=torch.float64)
        states = []
        for x in inputs:
            z = torch.addmm(torch.addmm(b, x, U), h, W) if fused else x @ U + h @ W + b
            h = torch.tanh(z)
            states.append(h)
        o = affine(torch.cat(states), V, c)
        loss = torch.nn.functional.cross_entropy(o, classes, reduction="sum")
        return _gradients(parameters, loss)

    return step


def pytorch_rnn_addmm(net: RNN) -> Step:
    return pytorch_rnn(net, fused=True)


def pytorch_nn_rnn(net: RNN) -> Step:
    """PyTorch's own recurrent layer: one call for all steps. Its second bias stays zero."""
    torch, (U, W, b, V, c), xs, y = _pytorch(net)
    layer = torch.nn.RNN(net.symbols, net.hidden, dtype=torch.float64)
    with torch.no_grad():
        layer.weight_ih_l0.copy_(U.T)
        layer.weight_hh_l0.copy_(W.T)
        layer.bias_ih_l0.copy_(b)
        layer.bias_hh_l0.zero_()
    layer.bias_hh_l0.requires_grad_(False)
    parameters = [layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_ih_l0, V, c]
    classes = y.ravel()

    def step() -> list[Any]:
        states, _ = layer(xs)
        o = torch.addmm(c, states.view(-1, net.hidden), V)
        loss = torch.nn.functional.cross_entropy(o, classes, reduction="sum")
        loss, dU, dW, *others = _gradients(parameters, loss)
        return [loss, dU.T, dW.T, *others]

    return step


# --- JAX and HIPS autograd: one source, two namespaces --------------------------------------------


def _mlp_loss(net: MLP, m: Any) -> Callable[..., Any]:
    def sigmoid(z: Any) -> Any:
        return 1.0 / (1.0 + m.exp(-z))

    activation = {"sigmoid": sigmoid, "tanh": m.tanh, "relu": lambda z: m.maximum(z, 0.0)}

    def loss_of(parameters: Any, x: Any, y: Any) -> Any:
        W1, b1, W2, b2 = parameters
        o = m.dot(activation[net.activation](m.dot(x, W1) + b1), W2) + b2
        if net.activation == "sigmoid":
            return 0.5 / net.batch * m.sum((sigmoid(o) - y) ** 2)
        return cross_entropy(m, o, y) / net.batch

    return loss_of


def cross_entropy(m: Any, o: Any, y: Any) -> Any:
    shifted = o - m.max(o, axis=1, keepdims=True)
    picked = shifted[np.arange(len(y)), y]
    return m.sum(m.log(m.sum(m.exp(shifted), axis=1))) - m.sum(picked)


def _jitted(loss_of: Callable[..., Any], numbers: tuple[list[Any], Any, Any]) -> Step:
    import jax

    parameters, x, y = jax.tree.map(jax.numpy.asarray, numbers)
    gradient = jax.jit(jax.value_and_grad(loss_of))

    def step() -> list[Any]:
        loss, gradients = jax.block_until_ready(gradient(parameters, x, y))
        return [loss, *gradients]

    return step


def jax_mlp(net: MLP) -> Step:
    import jax

    jax.config.update("jax_enable_x64", True)
    return _jitted(_mlp_loss(net, jax.numpy), net.numbers())


def jax_rnn(net: RNN) -> Step:
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)

    def loss_of(parameters: Any, xs: Any, y: Any) -> Any:
        U, W, b, V, c = parameters

        def cell(h: Any, x: Any) -> tuple[Any, Any]:
            h = jnp.tanh(x @ U + h @ W + b)
            return h, h

        _, states = jax.lax.scan(cell, jnp.zeros((net.batch, net.hidden)), xs)
        return cross_entropy(jnp, states.reshape(-1, net.hidden) @ V + c, y.ravel())

    return _jitted(loss_of, net.numbers())


def _hips(loss_of: Callable[..., Any], numbers: tuple[list[Any], Any, Any]) -> Step:
    from autograd import value_and_grad

    parameters, x, y = numbers
    gradient = value_and_grad(loss_of)

    def step() -> list[Any]:
        loss, gradients = gradient(parameters, x, y)
        return [loss, *gradients]

    return step


def hips_mlp(net: MLP) -> Step:
    import autograd.numpy as anp

    return _hips(_mlp_loss(net, anp), net.numbers())


def hips_rnn(net: RNN) -> Step:
    import autograd.numpy as anp

    def loss_of(parameters: Any, xs: Any, y: Any) -> Any:
        U, W, b, V, c = parameters
        h, states = np.zeros((net.batch, net.hidden)), []
        for x in xs:
            h = anp.tanh(anp.dot(x, U) + anp.dot(h, W) + b)
            states.append(h)
        return cross_entropy(anp, anp.dot(anp.concatenate(states), V) + c, y.ravel())

    return _hips(loss_of, net.numbers())


# --- MyGrad ---------------------------------------------------------------------------------------


def mygrad_mlp(net: MLP) -> Step:
    import mygrad as mg
    from mygrad.nnet.activations import relu, sigmoid
    from mygrad.nnet.losses import softmax_crossentropy

    mg.turn_memory_guarding_off()
    numbers, x, y = net.numbers()
    parameters = [mg.tensor(p) for p in numbers]
    W1, b1, W2, b2 = parameters
    activation = {"sigmoid": sigmoid, "tanh": mg.tanh, "relu": relu}[net.activation]

    def step() -> list[Any]:
        o = activation(x @ W1 + b1) @ W2 + b2
        if net.activation == "sigmoid":
            loss = mg.sum(mg.square(sigmoid(o) - y)) * (0.5 / net.batch)
        else:
            loss = softmax_crossentropy(o, y)
        loss.backward()
        return [loss.data, *(p.grad for p in parameters)]

    return step


# --- the tables -----------------------------------------------------------------------------------

OURS = "tinygrad_bp"
REPLAYED = "tinygrad_bp replayed"
HAND = "numpy by hand"
EAGER = "PyTorch eager"
MLP_ENGINES: dict[str, Callable[[Any], Step]] = {
    HAND: numpy_mlp,
    OURS: tinygrad_bp_mlp,
    REPLAYED: replayed_mlp,
    EAGER: pytorch_mlp,
    EAGER + ", addmm": pytorch_mlp_addmm,
    "JAX jit": jax_mlp,
    "HIPS autograd": hips_mlp,
    "MyGrad": mygrad_mlp,
}
RNN_ENGINES: dict[str, Callable[[Any], Step]] = {
    HAND + ", hoisted": numpy_rnn_hoisted,
    HAND + ", per step": numpy_rnn_per_step,
    OURS: tinygrad_bp_rnn,
    OURS + ", outputs per step": tinygrad_bp_rnn_per_step,
    REPLAYED: replayed_rnn,
    REPLAYED + ", outputs per step": replayed_rnn_per_step,
    EAGER + ", unrolled": pytorch_rnn,
    EAGER + ", unrolled, addmm": pytorch_rnn_addmm,
    "PyTorch nn.RNN": pytorch_nn_rnn,
    "JAX jit, scan": jax_rnn,
    "HIPS autograd": hips_rnn,
}
NETWORKS: list[Any] = [
    MLP(784, 30, 10, 10, "sigmoid"),
    MLP(784, 128, 10, 64, "relu"),
    MLP(64, 32, 10, 32, "tanh"),
    RNN(65, 100, 25, 1),
    RNN(65, 128, 50, 32),
]


def checked(net: Any, engines: dict[str, Callable[[Any], Step]]) -> dict[str, Step | None]:
    """A step of every engine that is installed, all found to give the same gradients."""
    steps: dict[str, Step | None] = {}
    reference: list[Any] | None = None
    for name, make in engines.items():
        try:
            step = make(net)
        except ImportError:
            steps[name] = None
            continue
        numbers = [np.asarray(n) for n in step()]
        reference = reference or numbers
        for expected, got in zip(reference, numbers, strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-9, err_msg=name)
        steps[name] = step
    return steps


def best_times(steps: dict[str, Step | None]) -> dict[str, float]:
    """Seconds per step: the engines take turns, and the best turn of each counts."""
    best = {name: math.inf for name, step in steps.items() if step is not None}
    repeats = {}
    for name in best:
        start = time.perf_counter()
        steps[name]()  # type: ignore[misc]
        once = time.perf_counter() - start
        repeats[name] = max(1, int(SECONDS_PER_TURN / once))
    gc.collect()
    for _ in range(ROUNDS):
        for name in best:
            step = steps[name]
            assert step is not None
            for _ in range(repeats[name]):
                start = time.perf_counter()
                step()
                best[name] = min(best[name], time.perf_counter() - start)
    return best


def table(net: Any) -> dict[str, float]:
    engines = MLP_ENGINES if isinstance(net, MLP) else RNN_ENGINES
    steps = checked(net, engines)
    best = best_times(steps)
    unit = next(time_ for name, time_ in best.items() if name.startswith(HAND))
    print(f"\n{net.name}")
    print(f"{'':40}{'µs/step':>10}{'ratio':>8}")
    for name in engines:
        if name in best:
            print(f"{name:40}{1e6 * best[name]:10.0f}{best[name] / unit:8.2f}")
        else:
            print(f"{name:40}{'not installed':>18}")
    return best


def targets(net: Any, best: dict[str, float]) -> None:
    if net is NETWORKS[0]:
        verdict(f"<= 3x {HAND}", best[OURS] / best[HAND], 3.0)
    eager = EAGER if isinstance(net, MLP) else EAGER + ", unrolled"
    if eager in best and (net is NETWORKS[0] or isinstance(net, RNN)):
        verdict(f"faster than {eager}", best[OURS] / best[eager], 1.0)
    if net is NETWORKS[1]:
        return
    hand = min(time_ for name, time_ in best.items() if name.startswith(HAND))
    verdict(f"replayed: <= 1.3x the better {HAND}", best[REPLAYED] / hand, 1.3)
    peers = {eager, "JAX jit"} if isinstance(net, MLP) else {eager, "PyTorch nn.RNN"}
    for peer in sorted(peers & best.keys()):
        verdict(f"replayed: faster than {peer}", best[REPLAYED] / best[peer], 1.0)


def until_it_pays(net: Any) -> None:
    """After how many eager steps recording, building and compiling would have been worth it.

    There are few first calls, so all is measured in the processor's time: neighbours count less.
    """
    eager, make = (
        (tinygrad_bp_mlp, replayed_mlp) if isinstance(net, MLP) else (tinygrad_bp_rnn, replayed_rnn)
    )
    eagerly = processor_seconds(eager(net), ROUNDS)
    print(f"{'until it pays':16}{'first call, ms':>16}{'later, µs':>12}{'eager steps':>13}")
    for engine, times in (("numpy", 5), ("jax", 1)):
        firsts = []
        try:
            for _ in range(times):
                step = make(net, engine)
                firsts.append(processor_seconds(step, 1))
        except ImportError:
            continue
        first, later = min(firsts), processor_seconds(step, ROUNDS)
        pays = f"{(first - later) / (eagerly - later):.0f}" if later < eagerly else "never"
        print(f"{engine:16}{1e3 * first:16.1f}{1e6 * later:12.0f}{pays:>13}")


def processor_seconds(step: Step, rounds: int) -> float:
    """Of one step, in the best round."""
    best, repeats = math.inf, 1
    for _ in range(rounds):
        start = time.process_time()
        for _ in range(repeats):
            step()
        once = (time.process_time() - start) / repeats
        best = min(best, once)
        repeats = max(1, int(SECONDS_PER_TURN / once))
    return best


def verdict(what: str, ratio: float, limit: float) -> None:
    print(f"target: {what}: {ratio:.2f}x, {'reached' if ratio <= limit else 'MISSED'}")


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # of the peers
    for network in NETWORKS:
        targets(network, table(network))
        until_it_pays(network)
