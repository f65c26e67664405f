"""Many threads and tasks, no memory left, and graphs of a million operations.

`LONG=1 python -m pytest tests/test_load.py` takes graphs of a million everywhere.
"""

import asyncio
import copy
import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import tinygrad_bp as tb
from tinygrad_bp import Tensor, Value, nn, no_grad, optim, tensor
from tinygrad_bp.interrupts import commit_lock
from tinygrad_bp.visualize import draw

LONG = bool(os.environ.get("LONG"))


@pytest.fixture
def hasty():
    """Threads that are switched as often as Python can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def together(work, count=8):
    """Call `work(k)` in so many threads, which start at one time."""
    start = threading.Barrier(count, timeout=60.0)

    def each(k):
        start.wait()
        return work(k)

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(each, range(count)))


# --- threads and tasks --------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda: Value(1.0), lambda: Tensor(np.ones(3))])
def test_threads_that_share_a_parameter_lose_no_gradient(make, hasty):
    """Each builds graphs of its own, sweeps them, and looks at the sum so far."""
    shared = make()

    def work(k):
        for i in range(1, 101):
            (shared * float(k + 1) * float(i)).backward(
                None if isinstance(shared, Value) else np.ones(3)
            )
            assert np.all(shared.grad > 0.0)

    together(work)
    assert np.all(shared.grad == 36.0 * 5050.0)


def test_threads_that_share_a_model_and_its_program_lose_no_gradient(hasty):
    w = Tensor(np.ones(4))
    step = tb.compile(lambda w, x: (w * x).sum())

    def work(k):
        for i in range(60):
            step.backward(w, np.full(4, float(k + i)))

    together(work)
    assert np.array_equal(
        w.grad, np.full(4, float(sum(k + i for k in range(8) for i in range(60))))
    )


def test_reading_a_gradient_does_not_undo_what_another_thread_adds(hasty):
    w = Tensor(np.zeros(3))
    done = threading.Event()

    def read(k):
        while not done.is_set():
            g = w.grad
            assert g is None or np.ptp(g) == 0.0

    def sweep(k):
        for _ in range(300):
            (w * 1.0).backward(np.ones(3))

    with ThreadPoolExecutor(4) as threads:
        readers = [threads.submit(read, k) for k in range(2)]
        sweepers = [threads.submit(sweep, k) for k in range(2)]
        for future in sweepers:
            future.result()
        done.set()
        for future in readers:
            future.result()
    assert np.array_equal(w.grad, np.full(3, 600.0))


def test_a_gradient_that_is_added_while_another_is_read_stays(monkeypatch):
    """The same, with the other thread's sweep at the very moment of the copy."""
    w = Tensor(np.zeros(3))
    y = w * 1.0
    y.backward(np.ones(3))
    held = w._grad  # so that a copy is made

    class Numpy:
        def __getattr__(self, name):
            return getattr(np, name)

        def array(self, x):
            monkeypatch.undo()
            y.backward(np.ones(3))
            return np.array(x)

    monkeypatch.setattr(tensor, "np", Numpy())
    w.grad  # noqa: B018
    assert np.array_equal(held, np.ones(3))
    assert np.array_equal(w.grad, np.full(3, 2.0))


def test_gradients_are_added_under_one_lock():
    seen = []

    class Watched(np.ndarray):
        def __add__(self, other):
            seen.append(commit_lock._is_owned())
            return np.asarray(self) + other

    w = Tensor(np.ones(3))
    w._grad = np.ones(3).view(Watched)
    w.sum().backward()
    w._grad = np.ones(3).view(Watched)
    tb.compile(lambda w: w.sum()).backward(w)
    assert seen == [True, True]
    assert np.array_equal(w.grad, np.full(3, 2.0))


def test_threads_with_graphs_and_states_of_their_own(hasty):
    def work(k):
        x = Value(0.5 + k)
        for _ in range(20):
            with tb.scope(f"thread{k}"):
                y = tb.tanh(x * x)
                assert y.scope.path == f"thread{k}"
            with no_grad():
                assert not (x * 2.0).requires_grad
            y.backward()
        return x.grad

    alone = [work(k) for k in range(8)]
    assert together(work) == alone


def test_tasks_take_turns_at_every_operation():
    async def work(k):
        x = Value(0.5 + k)
        with tb.scope(f"task{k}"):
            y = x
            for i in range(20):
                y = tb.sin(y) + x
                await asyncio.sleep(0)
                assert y.scope.path == f"task{k}"
                if i == k:
                    with no_grad():
                        await asyncio.sleep(0)
                        assert not (x * 2.0).requires_grad
        y.backward()
        return x.grad

    async def every():
        return await asyncio.gather(*map(work, range(8)))

    async def one_by_one():
        return [await work(k) for k in range(8)]

    assert asyncio.run(every()) == asyncio.run(one_by_one())


# --- no memory ----------------------------------------------------------------------------------


def without_memory(work, at):
    """Call `work`, in which the allocation number `at` fails; whether it came to that."""
    testing = pytest.importorskip("_testcapi", reason="fails allocations")
    testing.set_nomemory(at, at + 1)
    try:
        work()
    except MemoryError:
        return True
    finally:
        testing.remove_mem_hooks()
    return False


def test_no_memory_in_a_sweep_or_a_step():
    """Each allocation fails once; leaves are untouched or complete."""
    made = 0
    for at in range(400):
        leaves = [Value(float(i + 1)) for i in range(6)]
        y = leaves[0] * 1.0
        for x in leaves[1:]:
            y = y * x
        optimizer = optim.SGD(leaves, lr=0.25, momentum=0.5)
        made += without_memory(y.backward, at)
        expected = [720.0 / x.data for x in leaves]
        got = [x.grad for x in leaves]
        assert got in ([None] * 6, expected)
        optimizer.zero_grad()
        y.backward()
        assert [x.grad for x in leaves] == expected
        made += without_memory(optimizer.step, at)
        moved = [1.0 + i - 0.25 * g for i, g in enumerate(expected)]
        got = [x.data for x in leaves]
        assert got in ([1.0 + i for i in range(6)], moved)
        assert len(optimizer.state) in (0, 6)
        assert (len(optimizer.state) == 6) == (got == moved)
    assert made > 20


def test_a_rule_without_memory_leaves_the_gradients():
    calls = []

    @tb.elementwise(lambda m, x, y: greedy(m, x), check=False)
    def identity(m, x):
        """x"""
        return 1.0 * x

    def greedy(m, x):
        if calls:
            raise MemoryError
        return 1.0 + 0.0 * x

    x, w = Tensor(np.ones(3)), Tensor(np.ones(3))
    loss = (identity(x * w) * w).sum()
    loss.backward()
    before = x.grad.copy(), w.grad.copy()
    calls.append(1)
    with pytest.raises(MemoryError):
        loss.backward()
    assert all(map(np.array_equal, (x.grad, w.grad), before))
    calls.clear()
    loss.backward()
    assert all(map(np.array_equal, (x.grad / 2.0, w.grad / 2.0), before))


LITTLE = """
import resource, numpy as np
from tinygrad_bp import Tensor
x = Tensor(np.ones(1 << 20))
ys = [x]
for _ in range(6):
    ys.append(ys[-1] * 1.5)
loss = ys[-1].sum()
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
_, hard = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (used + (4 << 20), hard))
try:
    loss.backward()
except MemoryError:
    assert x.grad is None and all(y.grad is None for y in ys[1:])
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    loss.backward()
    assert (x.grad == 1.5**6).all()
    print("as it should be")
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux")
def test_a_process_with_little_memory():
    run = subprocess.run(
        [sys.executable, "-c", LITTLE], capture_output=True, text=True, timeout=120, check=False
    )
    assert run.stdout.strip() == "as it should be", run.stderr


# --- a million operations -----------------------------------------------------------------------

DEEP = 1_000_000 if LONG else 50_000
LESS = DEEP if LONG else 5_000  # of what takes more time


def in_small_stack(work):
    """What `work` gives in a thread with 1 MiB of stack."""
    results, errors = [], []

    def body():
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    before = threading.stack_size(1 << 20)
    try:
        thread = threading.Thread(target=body)
        thread.start()
        thread.join()
    finally:
        threading.stack_size(before)
    if errors:
        raise errors[0]
    return results[0]


def ladder(x, n):
    """(n + 1) x², by n additions one after the other; each of them uses x² again.

    At 1/2 every number on the way is exact, and so are those of the derivatives.
    """
    square = x * x
    y = square
    for _ in range(n):
        y = y + square
    return y


def rung(n):
    """A chain of so many operations and its leaf, with a name in the middle."""
    x = Value(0.5, label="x")
    with tb.scope("chain"):
        y = nn.named(ladder(x, n // 2), "z")
        for _ in range(n // 2):
            y = y + 1.0
    return x, y


def test_a_deep_chain_of_values():
    def work():
        x = Value(0.5)
        y = ladder(x, DEEP)
        assert y.data == 0.25 * (DEEP + 1)
        y.backward()
        assert x.grad == DEEP + 1
        assert sum(1 for _ in tb.sweep(y)) == DEEP + 2
        repr(y)
        for refused in (copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match="history"):
                refused(y)
        assert copy.deepcopy(x).data == pickle.loads(pickle.dumps(x)).data == 0.5
        assert y > x
        y.zero_grad()
        del y  # and with it the whole chain
        x.zero_grad()
        tb.checkpoint(lambda x: ladder(x, DEEP), x).backward()
        return x.grad

    assert in_small_stack(work) == DEEP + 1


def test_derivatives_through_a_deep_chain():
    def f(x):
        return ladder(x, LESS)

    def work():
        assert tb.grad(f)(0.5) == LESS + 1
        assert tb.jvp(f, 0.5, 1.0) == (0.25 * (LESS + 1), LESS + 1)
        assert tb.hvp(f, 0.5, 1.0) == 2 * (LESS + 1)
        assert tb.derivative(f, 2)(0.5) == 2 * (LESS + 1)
        return tb.grad(tb.grad(f))(0.5)

    assert in_small_stack(work) == 2 * (LESS + 1)


def test_a_deep_chain_of_tensors():
    def work():
        x = Tensor([0.5, 1.0], label="x")
        with tb.scope("chain"):
            y = ladder(x, LESS)
        loss = y.sum()
        loss.backward()
        assert np.array_equal(x.grad, [LESS + 1, 2 * (LESS + 1)])
        with pytest.raises(TypeError, match="history"):
            copy.deepcopy(loss)
        loss.backward(leaves_only=True)
        assert np.array_equal(x.grad, [2 * (LESS + 1), 4 * (LESS + 1)])
        assert "no inner quantity" in str(tb.explain.deltas(loss))
        assert "∂L/∂x is" in str(tb.explain.why(loss, x))
        parts = tb.explain.contributions(loss, x)
        assert np.array_equal(sum(part.contribution for part in parts), [LESS + 1, 2 * (LESS + 1)])
        assert "2 uses" in str(parts)
        assert "drawn as" in draw(loss, collapse=1).svg
        del y, loss
        return True

    assert in_small_stack(work)


def test_a_deep_chain_explained():
    def work():
        x, y = rung(LESS)
        n = LESS // 2 + 1
        explain = tb.explain
        (row,) = explain.deltas(y)
        assert (row.name, row.value, row.delta) == ("z", 0.25 * n, 1.0)
        assert "∂L/∂x is ordinary" in str(explain.why(y, x))
        assert "none of 1 not ordinary" in str(explain.why(y))
        parts = explain.contributions(y, x)
        assert [part.contribution for part in parts] == [0.5 * n] * 2
        assert "2 uses" in str(parts)
        paths = explain.paths(y, x)
        assert (paths.count, paths.gradient) == (2 * n, n)
        assert f"the sum over {2 * n:,} paths" in str(paths)
        return True

    assert in_small_stack(work)


def test_what_a_deep_chain_costs():
    def work():
        def make(n):
            return lambda x: ladder(x, n), 0.5

        growth = tb.explain.growth(make, [LESS // 10, LESS])
        return growth.ratios

    few, many = in_small_stack(work)
    assert np.allclose(few, many, rtol=1e-2)


def test_a_derivation_of_a_deep_chain_is_refused():
    with pytest.raises(ValueError, match="at most 20,000"):
        in_small_stack(lambda: tb.explain.derive(ladder(Value(0.5), DEEP)))


@pytest.mark.parametrize("engine", ["numpy", "numba"])
def test_a_deep_chain_replayed(engine):
    if engine == "numba":
        pytest.importorskip("numba", reason="the engine's package")

    def work():
        step = tb.compile(lambda x: ladder(x, LESS), engine=engine)
        for x in (0.5, 1.5):
            assert step(x) == x * x * (LESS + 1)
            assert step.value_and_grad(x) == (x * x * (LESS + 1), 2.0 * x * (LESS + 1))
        rows = np.array([0.5, 1.0, -2.0])
        values, gradients = step.batch(rows, rows=[0], gradient="rows")
        assert np.array_equal(values, rows**2 * (LESS + 1))
        assert np.array_equal(gradients, 2.0 * rows * (LESS + 1))
        program = step.program(0.5)
        assert len(str(program).splitlines()) == len(program) + 1
        return step.recordings

    assert in_small_stack(work) == 2


def test_a_deep_chain_of_tensors_replayed():
    n = 100_000 if LONG else 2_000

    def work():
        step = tb.compile(lambda x: tb.sin(ladder(x, n)).sum())
        for x in (np.array([0.5, 1.0]), np.array([-0.25, 0.0])):
            value, gradient = step.value_and_grad(x)
            assert value == np.sin(x * x * (n + 1)).sum()
            assert np.allclose(gradient, np.cos(x * x * (n + 1)) * 2.0 * x * (n + 1), rtol=1e-9)
        return step.recordings

    assert in_small_stack(work) == 1


def test_a_long_recurrent_network_replayed():
    """As many steps as a text has characters, each used again by a `stack` of all."""
    steps = 10_000 if LONG else 300
    w, xs = Tensor(np.eye(2) * 0.5), np.zeros((steps, 2))
    xs[0] = 1.0

    def loss(w, xs):
        return tb.stack(nn.unroll(lambda x, h: h @ w + x, xs, np.zeros(2))).sum()

    def work():
        tb.compile(loss).backward(w, xs)
        return w.grad

    # The sum over t of wᵗ, whose derivative by each of four elements is the same of a full matrix.
    assert np.allclose(in_small_stack(work), 4.0, rtol=1e-12)


@pytest.mark.parametrize("collapse", [1, None])
def test_a_deep_chain_drawn_collapsed(collapse):
    def work():
        x, y = rung(DEEP)
        drawing = draw(y * x, collapse=collapse)
        assert drawing.svg.startswith("<svg")
        return drawing.scene

    scene = in_small_stack(work)
    assert sorted(box.kind for box in scene.boxes) == ["group", "inner", "leaf"]
    assert "drawn as 3 boxes" in scene.note
