"""Ctrl-C at any instruction: all or nothing has happened, and the next step is exact.

Each case is something that changes a state. It is run from the beginning, interrupted at a random
instruction, and has to leave the state before it or the one after it. Then it is run again, and has
to give the state that comes after that one in a life without interrupts.

`POINTS=1000 python -m pytest tests/test_interruption.py` takes that many points per case (of whole
trainings a fifth), where the ordinary run takes 30, and fewer of what is slow.
"""

import os
import random
import threading

import numpy as np
import pytest

pytest.importorskip("ctypes", reason="raises signals through it")
import signals

import tinygrad_bp as tb
from tinygrad_bp import Tensor, Value, nn, no_grad, optim, scope, training, values
from tinygrad_bp.checkpointing import checkpoint
from tinygrad_bp.evaluation import _under_way, within
from tinygrad_bp.interrupts import commit_lock, undone, write
from tinygrad_bp.recording import ROOT, current_state, enable_grad
from tinygrad_bp.replay.recorder import Recorder, recording_by

# An interrupt that comes while Python closes a forgotten generator is reported, and not raised.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

POINTS = int(os.environ.get("POINTS", "30"))
HALF, QUARTER = (POINTS if POINTS >= 1000 else POINTS // k for k in (2, 4))


def bits(x):
    if isinstance(x, dict):
        return tuple((key, bits(x[key])) for key in sorted(x, key=str))
    if isinstance(x, (list, tuple)):
        return tuple(map(bits, x))
    if isinstance(x, Value):
        return x.data, x.grad
    return x if x is None or isinstance(x, (str, bool)) else np.asarray(x).tobytes()


def state_of(leaves):
    return bits([(p.data, p.grad) for p in leaves])


def check_surroundings():
    """Recording is as at the start of a program, and nothing is locked."""
    assert current_state() is ROOT
    assert not commit_lock._is_owned()
    assert not within.get()
    assert not _under_way


def check(case, points=POINTS, seed=0):
    """Interrupt a case at random instructions.

    Args:
        case: a function that returns `work`, which goes on by one, and `state`, which tells where
            we are.
    """
    work, state = case()
    chain = [state()]
    _, count = signals.run(work)
    chain.append(state())
    for _ in range(2):
        work()
        chain.append(state())
    chance, interrupted = random.Random(seed), 0
    for at in [chance.randint(1, count) for _ in range(points)]:
        work, state = case()
        was, _ = signals.run(work, at)
        interrupted += was
        check_surroundings()
        got = state()
        assert got in chain[:2], f"cut in two at instruction {at} of {count}"
        after = chain.index(got) if not was or got != chain[1] else 1
        for k in (1, 2):
            work()
            assert state() == chain[after + k], f"the next is another, after {at} of {count}"
    assert interrupted > points // 2


# --- sweeps -------------------------------------------------------------------------------------


def values_swept(leaves_only):
    leaves = [Value(0.5 + i) for i in range(6)]
    y = leaves[0] * 2.0
    for x in leaves:
        y = tb.tanh(y * x) + x
    leaves[1].register_hook(lambda g: g * 2.0)
    y.register_hook(lambda g: None)
    inner = [] if leaves_only else [y]
    return lambda: y.backward(leaves_only=leaves_only), lambda: bits([*leaves, *inner])


def part(x, w):
    return tb.tanh(x @ w) * x


def tensors_swept(leaves_only):
    rng = np.random.default_rng(0)
    x, w = Tensor(rng.normal(size=(3, 4))), Tensor(rng.normal(size=(4, 4)))
    b = Tensor(rng.normal(size=4))
    y = checkpoint(part, part(x, w) + b, w)
    y = checkpoint(lambda y: y * rng.normal(size=4) + w[0], y)
    loss = (y * y).sum()
    w.register_hook(lambda g: g * 2.0)
    before = rng.bit_generator.state

    def state():
        assert rng.bit_generator.state == before
        return state_of([x, w, b])

    return lambda: loss.backward(leaves_only=leaves_only), state


@pytest.mark.parametrize("leaves_only", [False, True])
@pytest.mark.parametrize("case", [values_swept, tensors_swept])
def test_a_sweep(case, leaves_only):
    check(lambda: case(leaves_only))


def test_a_checkpointed_part_puts_its_generator_back():
    def case():
        drop, w = nn.Dropout(0.5, rng=1), Tensor(np.ones(5))
        loss = checkpoint(lambda w: (drop(w * w) * w).sum(), w)
        there = bits(str(drop.rng.bit_generator.state))

        def state():
            assert bits(str(drop.rng.bit_generator.state)) == there
            return state_of([w])

        return loss.backward, state

    check(case)


def f(x):
    return (tb.sin(x) * x * x).sum() if isinstance(x, Tensor) else tb.sin(x) * x * x


@pytest.mark.parametrize(
    "derivative",
    [
        lambda: tb.grad(f)(0.5),
        lambda: tb.grad(tb.grad(f))(0.5),
        lambda: tb.grad(f)(np.arange(3.0)),
        lambda: tb.jvp(f, 0.5, 1.0)[1],
        lambda: tb.hessian(f)(np.arange(2.0)),
        lambda: tb.derivative(f, 3)(0.5),
    ],
)
def test_derivatives_of_functions(derivative):
    def case():
        results = []

        def work():
            results.append(bits(derivative()))

        return work, lambda: (len(results), *results[-1:])

    check(case, HALF)


def test_truncated_bptt_adds_the_gradients_of_a_window_together():
    def case():
        w, u = Tensor(np.full((2, 2), 0.3)), Value(0.5)
        xs = np.arange(8.0).reshape(4, 2) / 8
        del u

        def work():
            updates = training.truncated_bptt(
                lambda x, h: tb.tanh(h @ w + x), xs, 4, 3,
                targets=xs, loss=nn.squared_error, state=Tensor(np.zeros(2)),
            )  # fmt: skip
            next(updates)

        return work, lambda: state_of([w])

    check(case)


# --- records and replays ------------------------------------------------------------------------


def loss_of(model, x):
    return (model(x) ** 2).sum()


def record(of_values):
    model = nn.MLP([2, 3, 1], ["tanh", "identity"], rng=0)
    model = model.scalar_view() if of_values else model
    step = tb.compile(loss_of)
    return lambda: step.backward(model, np.ones((2, 2))), lambda: state_of(model.parameters())


def replay(of_values):
    work, state = record(of_values)
    work()
    return work, state


@pytest.mark.parametrize("of_values", [False, True])
@pytest.mark.parametrize("case", [record, replay])
def test_compiled_programs(case, of_values):
    check(lambda: case(of_values), POINTS if case is replay else QUARTER)


@pytest.mark.parametrize("engine", ["numba", "jax"])
def test_compiled_programs_of_other_engines(engine):
    pytest.importorskip(engine, reason="the engine's package")
    if engine == "jax":
        __import__("jax").config.update("jax_enable_x64", True)
    x = Value(0.5)
    step = tb.compile(lambda x: tb.sin(x) * x, engine=engine)
    step.backward(x)

    def case():
        x.zero_grad()
        return lambda: step.backward(x), lambda: bits(x)

    check(case, HALF)


def test_a_program_that_draws_leaves_its_generator_unlocked():
    step = tb.compile(lambda x, rng: (x * rng.normal(size=3)).sum())
    step(np.ones(3), np.random.default_rng(0))

    def case():
        rng, results = np.random.default_rng(0), []

        def work():
            rng.bit_generator.state = np.random.default_rng(len(results)).bit_generator.state
            results.append(step(np.ones(3), rng))

        def state():
            free = []

            def take():
                free.append(rng.bit_generator.lock.acquire(timeout=5.0))
                rng.bit_generator.lock.release()

            thread = threading.Thread(target=take)
            thread.start()
            thread.join()
            assert free == [True]
            return len(results), bits(results[-1:])

        return work, state

    check(case)


def test_no_interrupt_takes_the_buffers_away():
    """More interrupts than there are buffers, with all that they came out of kept."""
    step = tb.compile(lambda x: (x * x).sum())
    expected = step(np.ones(3))
    _, count = signals.run(lambda: step(np.ones(3)))
    for at in range(1, count):
        signals.run(lambda: step(np.ones(3)), at)
    assert step(np.ones(3)) == expected
    (recordings,) = step._kept.values()
    assert recordings[0].runners.made <= 2


# --- steps of optimisers ------------------------------------------------------------------------

OPTIMIZERS = {
    "SGD": lambda p: optim.SGD(p, lr=0.1),
    "momentum": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "RMSprop": lambda p: optim.RMSprop(p, momentum=0.5, centered=True),
    "Adam": lambda p: optim.Adam(p),
    "AdamW": lambda p: optim.AdamW(p),
}


def optimized(name):
    leaves = [Tensor(np.arange(3.0)), Value(2.0), values([0.5, -0.5]), Tensor([[1.0]])]
    for leaf in leaves:
        leaf.grad = leaf.data * 0.5 + 1.0
    return leaves, OPTIMIZERS[name](leaves)


def remembered(optimizer):
    saved = optimizer.state_dict()
    return bits(saved["state"]), bits([group["lr"] for group in optimizer.param_groups])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step(name):
    def case():
        leaves, optimizer = optimized(name)
        return optimizer.step, lambda: (state_of(leaves), remembered(optimizer))

    check(case)


@pytest.mark.parametrize("what", ["norm", "value", "zero"])
def test_clipping_and_forgetting(what):
    def case():
        leaves, optimizer = optimized("SGD")
        work = {
            "norm": lambda: optim.clip_grad_norm(leaves, 0.1),
            "value": lambda: optim.clip_grad_value(leaves, 0.75),
            "zero": optimizer.zero_grad,
        }[what]
        return work, lambda: state_of(leaves)

    check(case)


def test_a_schedule():
    def case():
        _, optimizer = optimized("SGD")
        optimizer.add_param_group({"params": [Value(1.0)], "lr": 0.5})
        schedule = optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
        return schedule.step, lambda: (schedule.last_epoch, remembered(optimizer))

    check(case)


def test_loading():
    def case():
        model, other = (nn.MLP([2, 3, 1], ["tanh", "identity"], rng=k) for k in (0, 1))
        saved = other.state_dict()
        return lambda: model.load_state_dict(saved), lambda: state_of(model.parameters())

    check(case)

    def case_of_optimizer():
        _, optimizer = optimized("Adam")
        _, other = optimized("Adam")
        other.lr = 0.7
        other.step()
        saved = other.state_dict()
        return lambda: optimizer.load_state_dict(saved), lambda: remembered(optimizer)

    check(case_of_optimizer)


# --- training -----------------------------------------------------------------------------------

X = np.random.default_rng(0).normal(size=(8, 2))
DATA = X, X.sum(axis=1, keepdims=True)


class Trained:
    """A small training with everything, that writes checkpoints."""

    def __init__(self, path, compiled):
        self.path, self.compiled = path, compiled
        self.model = nn.MLP([2, 3, 1], ["tanh", "identity"], rng=0)
        self.optimizer = optim.Adam(self.model.parameters(), lr=0.1)
        self.model.eval()
        self.seen = [self.state()]

    def state(self):
        numbers = bits([p.data for p in self.model.parameters()])
        return numbers, bits(self.optimizer.state_dict()["state"])

    def fit(self):
        training.fit(
            self.model, DATA, nn.squared_error, self.optimizer,
            epochs=2, batch_size=4, rng=0, validation=DATA, clip_norm=0.5,
            scheduler=optim.lr_scheduler.StepLR(self.optimizer, 1, 0.5),
            checkpoint=self.path, checkpoint_every=1, resume=True, compiled=self.compiled,
            callbacks=[_Watch(self.seen, self)],
        )  # fmt: skip


class _Watch(training.Callback):
    def __init__(self, seen, trained):
        self.seen, self.trained = seen, trained

    def on_batch_end(self, run):
        self.seen.append(self.trained.state())


def mode_of(model):
    return [module.training for module in model.modules()]


@pytest.mark.parametrize("compiled", [False, True])
def test_a_training_goes_on_from_its_checkpoint(tmp_path, compiled):
    pytest.importorskip("safetensors", reason="checkpoints are such files")
    whole = Trained(tmp_path / "whole", compiled)
    _, count = signals.run(whole.fit)
    chance = random.Random(0)
    for k in range(max(POINTS // 5, 1)):
        path = tmp_path / f"{k}"
        cut = Trained(path, compiled)
        was, _ = signals.run(cut.fit, chance.randint(1, count))
        check_surroundings()
        assert cut.state() in whole.seen
        assert mode_of(cut.model) == mode_of(whole.model)
        again = Trained(path, compiled)
        again.fit()
        assert again.state() == whole.state()
        assert not [p for p in tmp_path.iterdir() if was is False and p.suffix == ".part"]


# --- blocks -------------------------------------------------------------------------------------


class Inner(nn.Module):
    def __init__(self):
        self.w = Value(2.0)

    def forward(self, x):
        with scope("inside"):
            return self.w * x


def blocks():
    with no_grad():
        with enable_grad(), scope("a"):
            Inner()(3.0)
        Value(1.0) * 2.0
    with tb.detect_anomaly(), scope("b", 1):
        Inner()(3.0)


@no_grad()
def decorated():
    return Value(1.0) * 2.0


class Own:
    """A context manager with one of ours inside, entered by hand."""

    def __enter__(self):
        self.block = no_grad()
        self.block.__enter__()

    def __exit__(self, *error):
        self.block.__exit__(*error)


def differentiated():
    tb.grad(lambda x: x)(0.5)


def recorded():
    with recording_by(Recorder("scalar")):
        pass


@pytest.mark.parametrize(
    "work", [blocks, decorated, lambda: Inner()(2.0), differentiated, recorded]
)
def test_every_instruction_of_blocks_and_calls(work):
    _, count = signals.run(work)
    kept = []  # tracebacks: what they refer to lives on
    for at in range(1, count + 1):
        try:
            signals.run(work, at)
        except RuntimeError as error:  # raised in place of the interrupt
            kept.append(error)
        check_surroundings()
    assert not kept


def test_a_block_entered_by_hand_stays_open():
    block = no_grad()
    leave = block.__exit__
    block.__enter__()
    _ = block.__exit__
    del _
    assert not tb.is_grad_enabled()
    leave(None, None, None)
    with Own():
        assert not tb.is_grad_enabled()
    check_surroundings()


# --- the two tools ------------------------------------------------------------------------------


def test_what_is_undone_is_undone_at_every_instruction():
    def work():
        undone(lambda: box.append(1), box.clear)

    box = []
    _, count = signals.run(work)
    for at in range(1, count + 1):
        signals.run(work, at)
        assert not box


def test_writes_happen_together():
    def case():
        box = dict.fromkeys(range(50), 0)
        return lambda: write(
            (dict.__setitem__, box, k, box[k] + 1) for k in range(50)
        ), lambda: bits(box)

    check(case)


@pytest.mark.skipif(not hasattr(__import__("signal"), "setitimer"), reason="needs Unix signals")
def test_steps_interrupted_by_a_clock():
    """Signals that come when they come."""
    import signal

    def interrupt(signum, frame):
        raise KeyboardInterrupt

    old, chance, count = signal.signal(signal.SIGALRM, interrupt), random.Random(2), 0
    w = [Tensor(np.zeros(3)) for _ in range(20)]
    optimizer = optim.SGD(w, lr=1.0)
    for p in w:
        p.grad = np.ones(3)
    try:
        for _ in range(5 * POINTS):
            before = w[0].data[0]
            try:
                signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-6, 1e-3))
                optimizer.step()
                signal.setitimer(signal.ITIMER_REAL, 0.0)
            except KeyboardInterrupt:
                count += 1
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0.0)
            assert len({p.data.tobytes() for p in w}) == 1
            assert w[0].data[0] in (before, before - 1.0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, old)
    assert count
