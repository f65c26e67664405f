"""Threads that run one program have buffers of their own: the results are those of one thread."""

import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

import tinygrad_bp as tb
from tinygrad_bp import nn
from tinygrad_bp.replay import pool, runner
from tinygrad_bp.replay.drawing import holding


def numbers(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


MODEL = nn.MLP([6, 8, 3], ["tanh", "identity"], rng=0)


def arrays(x, y):
    return nn.cross_entropy(MODEL(x), y), tb.softmax(MODEL(x)).T[::-1]


def single(x, y):
    z = x * y
    return tb.sin(z) * x + tb.exp(-y * y), z


def branching(x, y):
    z = x * y if x > y else tb.sin(x)
    return (z * z if z > 0.5 else -z), x


WORK = {
    "arrays": (arrays, [(numbers(k, 50, 6), np.arange(50) * k % 3) for k in range(24)], {}),
    "numbers": (single, [tuple(numbers(k, 2).tolist()) for k in range(24)], {}),
    "branches": (branching, [tuple(numbers(k, 2).tolist()) for k in range(24)], {}),
    "numba": (single, [tuple(numbers(k, 2).tolist()) for k in range(24)], {"engine": "numba"}),
    "numba, branches": (
        branching,
        [tuple(numbers(k, 2).tolist()) for k in range(24)],
        {"engine": "numba"},
    ),
    "jax": (
        arrays,
        [(numbers(k, 50, 6), np.arange(50) * k % 3) for k in range(8)],
        {"engine": "jax"},
    ),
}


def bits(x):
    if isinstance(x, (tuple, list)):
        return tuple(map(bits, x))
    return np.asarray(x).tobytes()


@pytest.fixture
def often():
    """Threads take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.parametrize("name", WORK)
def test_many_threads_on_different_data_give_the_bits_of_one(name, often):
    f, data, options = WORK[name]
    engine = options.get("engine", "numpy")
    if engine != "numpy":
        package = pytest.importorskip(engine, reason="the engine's package")
        if engine == "jax":
            package.config.update("jax_enable_x64", True)
    serial = tb.compile(f, argnums=0, **options)
    expected = [bits(serial.value_and_grad(*args)) for args in data]
    step = tb.compile(f, argnums=0, **options)

    def work(k):
        return k, bits(step.value_and_grad(*data[k]))

    with ThreadPoolExecutor(12) as threads:
        for k, got in threads.map(work, [*range(len(data))] * 6):
            assert got == expected[k]
    assert step.recordings == serial.recordings


def test_rows_in_many_threads(often):
    step = tb.compile(branching, argnums=0)
    step.f = lambda x, y: branching(x, y)[0]
    data = [numbers(k, 2, 40) for k in range(12)]
    expected = [bits(step.batch(*x, rows=(0, 1), gradient="rows")) for x in data]
    with ThreadPoolExecutor(6) as threads:
        got = threads.map(lambda x: bits(step.batch(*x, rows=(0, 1), gradient="rows")), data * 4)
        assert list(got) == expected * 4


def test_a_shared_generator_is_drawn_from_by_one_call_at_a_time(often):
    """Whatever the order: all calls together draw what the same number of calls draw."""
    step = tb.compile(lambda x, rng: x * rng.random(5) if rng.random() < 0.5 else x - rng.random(5))
    mine, theirs = np.random.default_rng(0), np.random.default_rng(0)
    with ThreadPoolExecutor(8) as threads:
        got = list(threads.map(lambda _: bits(step(np.ones(5), mine)), range(200)))
    alone = tb.compile(step.f)
    assert sorted(got) == sorted(bits(alone(np.ones(5), theirs)) for _ in range(200))
    assert mine.bit_generator.state == theirs.bit_generator.state


def _taken(lock):
    assert lock.acquire(timeout=1.0)


@pytest.mark.parametrize("kind", [threading.Lock, threading.RLock])
def test_who_holds_a_generator_can_draw_from_it(kind):
    """Also where its lock, as numpy's before 2.4, would keep out whoever holds it."""
    bits = SimpleNamespace(lock=kind())
    holding([SimpleNamespace(bit_generator=bits)], lambda: _taken(bits.lock))


def test_two_threads_run_at_the_same_time():
    """Each is inside of the program while the other is."""
    meeting = threading.Barrier(2, timeout=20.0)

    @tb.elementwise(lambda m, x, y: m.cos(x), check=False)
    def meet(m, x):
        """sin, when two are there"""
        if meets:
            meeting.wait()
        return m.sin(x)

    meets = False
    step = tb.compile(lambda x: meet(x) * x)
    step(0.5)
    recording = next(iter(step._kept.values()))[0]
    meets = True
    with ThreadPoolExecutor(2) as threads:
        got = list(threads.map(step, [1.5, 2.5]))
    assert got == [np.sin(x) * x for x in (1.5, 2.5)]
    assert recording.runners.made == 2


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_there_are_so_many_buffers_and_no_more(limit, monkeypatch, often):
    monkeypatch.setattr(pool, "LIMIT", limit)
    program = tb.compile(lambda x: (x * x + x).sum()).program(np.ones(40))
    runners = pool.Pool(runner(program), limit)
    busy, most = set(), []

    def work(k):
        mine = runners.take()
        assert id(mine) not in busy
        busy.add(id(mine))
        most.append(len(busy))
        x = np.full(40, float(k))
        result = mine.values([x])[0]
        time.sleep(0.0005)
        busy.remove(id(mine))
        runners.put(mine)
        return result

    with ThreadPoolExecutor(8) as threads:
        got = [float(x) for x in threads.map(work, range(100))]
    assert got == [40.0 * (k * k + k) for k in range(100)]
    assert max(most) <= runners.made <= limit


def test_a_run_that_fails_gives_its_buffers_back():
    step = tb.compile(lambda x, i: tb.take(x, i).sum())
    x = np.ones(3)
    step(x, np.array([0]))
    recording = next(iter(step._kept.values()))[0]
    for _ in range(40):
        with pytest.raises(IndexError):
            step(x, np.array([7]))
    assert recording.runners.made == 1
    assert step(x, np.array([1])) == 1.0


def buffers(x):
    """What a runner writes into."""
    if hasattr(x, "_names"):
        return [b for name, b in x._names.items() if name.startswith("b")]
    machine = getattr(x, "_machine", None)
    if machine is not None:
        return [machine.values, machine.adjoints, *machine.spare]
    return [x._values, x._adjoints]


@pytest.mark.parametrize(
    ("f", "engine"), [(arrays, "numpy"), (single, "numpy"), (single, "numba")], ids=str
)
def test_a_twin_shares_no_buffer(f, engine):
    if engine == "numba":
        pytest.importorskip("numba", reason="the engine's package")
    if f is arrays:
        data = [(numbers(k, 50, 6), np.arange(50) % 3) for k in range(2)]
    else:
        data = [tuple(numbers(k, 2).tolist()) for k in range(2)]
    one = runner(tb.compile(f).program(*data[0]), engine)
    leaves = [p.data for p in MODEL.parameters()] if f is arrays else []
    inputs = [[*x, *leaves] for x in data]
    run = one.values if f is arrays else one.value_and_gradient
    expected = [bits(list(run(x))) for x in inputs]
    two = one.twin()
    again = two.values if f is arrays else two.value_and_gradient
    assert [bits(list(again(x))) for x in inputs] == expected
    mine, others = buffers(one), buffers(two)
    assert mine
    assert len(mine) == len(others)
    assert not any(np.shares_memory(x, y) for x in mine for y in others)


def test_a_run_within_a_run_disturbs_nothing():
    """As another thread may run at any moment, so does this rule."""

    @tb.elementwise(lambda m, x, y: 1.0 + 0.0 * x, check=False)
    def interrupted(m, x):
        """x, while something else runs"""
        if not np.isscalar(x) and later:
            assert step(later.pop())[0] == 300.0
        return np.asarray(x)  # not a function of m: it is called at each run

    later = []
    step = tb.compile(lambda x: ((x * 3.0 * interrupted(x + 0.0)).sum(), x * 2.0))
    for k in range(3):
        x = np.full(100, 1.0 + k)
        later = [np.ones(100)] if k else []
        value, twice = step(x)
        assert value == 300.0 * (1.0 + k) ** 2
        assert twice.tolist() == (2.0 * x).tolist()
        assert not later
    assert step.recordings == 1
