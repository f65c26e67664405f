"""The order, the sweep and its commit, interrupts, threads, recording and scopes."""

import asyncio
import gc
import random
import signal
import sys
import threading
import time
from contextlib import ExitStack, contextmanager

import pytest
from hypothesis import given, strategies as st
from mpmath import mpf
from oracles import DERIVATIVES, EPS, paths, run

from tinygrad_bp import graph, no_grad, rules, scope, sweep, topological_order
from tinygrad_bp.interrupts import commit_lock
from tinygrad_bp.recording import is_grad_enabled
from tinygrad_bp.rules import RULES
from tinygrad_bp.value import Value


def apply(name, *operands):
    return RULES[name](*operands)


def leaves(*numbers):
    return [Value(x) for x in numbers]


def grads(nodes):
    return [node.grad for node in nodes]


def is_recorded():
    """Whether an operation made here and now remembers its operands."""
    return (Value(1.0) + 1.0).requires_grad


def in_thread(function, stack=None):
    """Run a function in a thread of its own, of a given stack size; its result or its error."""
    outcome = {}

    def body():
        try:
            outcome["result"] = function()
        except BaseException as error:
            outcome["error"] = error

    before = threading.stack_size(stack) if stack else None
    try:
        thread = threading.Thread(target=body)
        thread.start()
    finally:
        if stack:
            threading.stack_size(before)
    thread.join()
    if "error" in outcome:
        raise outcome["error"]
    return outcome["result"]


# --- random programs ----------------------------------------------------------------------------

PATH_NAMES = sorted(DERIVATIVES)


@st.composite
def programs(draw, names=PATH_NAMES, most=8):
    """Numbers for the leaves, and operations on them; all of the results hang together."""
    numbers = draw(st.lists(st.floats(-2.0, 2.0, allow_subnormal=False), min_size=1, max_size=3))
    program = []
    for size in range(len(numbers), len(numbers) + draw(st.integers(1, most))):
        name = draw(st.sampled_from(names))
        arity = len(DERIVATIVES[name])
        some = st.integers(max(0, size - 4), size - 1)  # the latest results, so that paths multiply
        program.append((name, tuple(draw(some) for _ in range(arity))))
    return numbers, program


# --- the order ----------------------------------------------------------------------------------


def assert_is_topological(order, root):
    place = {id(node): i for i, node in enumerate(order)}
    assert len(place) == len(order)
    assert order[-1] is root
    for node in order:
        assert all(place[id(parent)] < place[id(node)] for parent in node.parents)
    reached = {id(root)} | {id(parent) for node in order for parent in node.parents}
    assert reached == set(place)


@given(programs())
def test_order_of_random_graphs(case):
    numbers, program = case
    root = run(program, leaves(*numbers), apply)[-1]
    if root.requires_grad:
        order = topological_order(root)
        assert_is_topological(order, root)
        again = topological_order(root)
        assert all(a is b for a, b in zip(order, again, strict=True))


def test_order_is_that_in_which_the_nodes_were_made():
    a, b = leaves(1.0, 2.0)
    ab = a * b
    (c,) = leaves(3.0)
    ca = c * a
    a * c  # of which the root knows nothing
    root = ca + ab
    expected = [a, b, ab, c, ca, root]
    assert [id(node) for node in topological_order(root)] == [id(node) for node in expected]


def test_order_of_one_node():
    a = Value(1.0)
    assert [id(node) for node in topological_order(a)] == [id(a)]


def test_operand_used_twice_is_two_parents_and_one_node():
    a = Value(1.0)
    b = a + a
    assert len(b.parents) == 2
    assert b.parents[0] is b.parents[1] is a
    assert len(topological_order(b)) == 2


def test_constants_are_operands_but_not_parents():
    a = Value(2.0)
    c = Value(3.0, requires_grad=False)
    b = c * a
    assert (b.operands[0] is c, b.operands[1] is a) == (True, True)
    assert b.locals == (None, 3.0)
    assert [id(parent) for parent in b.parents] == [id(a)]
    assert (5.0 - a).operands[0] == 5.0
    assert rules.where(True, a, 1.0).operands[0] is True


def test_n_ary_nodes_keep_the_order_of_operands():
    x, low, high = leaves(5.0, -1.0, 1.0)
    node = rules.clip(x, low, high)
    assert [id(o) for o in node.operands] == [id(x), id(low), id(high)]
    assert node.locals == (0.0, 0.0, 1.0)
    assert [id(p) for p in node.parents] == [id(x), id(low), id(high)]
    assert [id(n) for n in topological_order(node)] == [id(x), id(low), id(high), id(node)]
    node = rules.where(low < high, x, high)
    assert node.operands[0] is True
    assert node.locals == (None, 1.0, 0.0)
    assert [id(p) for p in node.parents] == [id(x), id(high)]


# --- gradients by hand --------------------------------------------------------------------------


def doubled_twice(a):
    b = a + a
    return b + b


def shared_below(a):
    b = a * 2.0
    return (a + b) * b  # 3a * 2a


def used_early_and_late(a):
    b = a * a
    c = b * a
    return c + b + a + b * c  # a^3 + a^2 + a + a^5


def ladder(a):
    b = a * a
    for _ in range(3):
        b = b * a + b  # b (a + 1)
    return b


@pytest.mark.parametrize(
    ("function", "x", "derivative"),
    [
        (lambda a: a, 3.0, 1.0),
        (lambda a: a + a, 3.0, 2.0),
        (lambda a: a * a, 3.0, 6.0),
        (lambda a: a - a, 3.0, 0.0),
        (lambda a: a / a, 3.0, 0.0),
        (doubled_twice, 3.0, 4.0),
        (shared_below, 3.0, 36.0),
        (used_early_and_late, 2.0, 12.0 + 4.0 + 1.0 + 80.0),
        (ladder, 2.0, 2.0 * 2.0 * 27.0 + 4.0 * 3.0 * 9.0),
        (lambda a: rules.clip(a, a, a), 3.0, 1.0),
        (lambda a: rules.where(a > 0.0, a * a, a), 3.0, 6.0),
        (lambda a: rules.where(a < 0.0, a * a, a), 3.0, 1.0),
        (lambda a: rules.clip(a * a, 0.0, 4.0 * a), 3.0, 6.0),
        (lambda a: rules.clip(a * a, 0.0, 2.0 * a), 3.0, 2.0),
        (lambda a: rules.clip(a, a * a, 20.0), 3.0, 6.0),
    ],
)
def test_gradient_by_hand(function, x, derivative):
    a = Value(x)
    function(a).backward()
    assert a.grad == derivative


def test_inner_gradients():
    a, b = leaves(2.0, 3.0)
    c = a * b
    d = c + a
    e = d * d
    e.backward()
    assert grads([e, d, c, b, a]) == [1.0, 16.0, 16.0, 32.0, 64.0]


def test_two_to_the_sixty_paths():
    a = Value(1.0)
    b = a
    for _ in range(60):
        b = b + b
    assert len(topological_order(b)) == 61
    b.backward()
    assert a.grad == 2.0**60


@given(programs())
def test_random_graphs_against_the_sum_over_paths(case):
    numbers, program = case
    nodes = run(program, leaves(*numbers), apply)
    root = nodes[-1]
    if not root.requires_grad:
        return
    root.backward()
    data = [node.data for node in nodes]
    for i, leaf in enumerate(nodes[: len(numbers)]):
        products = list(paths(program, data, i))
        # at most 8 operations along a path, each within some 10 roundings, or within some x
        # roundings in the tail of a function (tanh' at x), where x stays below 50 times this
        bound = 4000 * EPS * sum(map(abs, products)) + 1e-300
        assert abs(mpf(leaf.grad or 0.0) - sum(products)) <= bound


TORCH_NAMES = {
    "absolute": "abs",
    "add": "add",
    "arctan": "arctan",
    "cos": "cos",
    "multiply": "mul",
    "negative": "neg",
    "relu": "relu",
    "sigmoid": "sigmoid",
    "sin": "sin",
    "softplus": "softplus",
    "square": "square",
    "subtract": "sub",
    "tanh": "tanh",
}


@given(programs(names=tuple(TORCH_NAMES), most=12))
def test_random_graphs_against_pytorch(case):
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle here")
    numbers, program = case

    def torch_apply(name, *operands):
        if name == "softplus":  # PyTorch's own is x above 20: log(1 + exp(x)) to 2e-9 only
            return torch.logaddexp(operands[0], torch.zeros_like(operands[0]))
        return getattr(torch, TORCH_NAMES[name])(*operands)

    nodes = run(program, leaves(*numbers), apply)
    nodes[-1].backward()
    theirs = run(
        program, [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in numbers],
        torch_apply,
    )  # fmt: skip
    theirs[-1].backward()
    largest = max(abs(node.grad or 0.0) for node in nodes)
    for leaf, other in zip(nodes[: len(numbers)], theirs, strict=False):
        expected = 0.0 if other.grad is None else other.grad.item()
        # PyTorch's 1 - y*y and y*(1 - y) are exact to a rounding of 1, not of themselves
        assert leaf.grad is None or leaf.grad == pytest.approx(
            expected, rel=1e-9, abs=1e-11 * (1.0 + largest)
        )
        assert leaf.grad is not None or expected == 0.0


# --- depth --------------------------------------------------------------------------------------


def differentiate_chain(length):
    a = Value(1.0)
    b = a
    for _ in range(length):
        b = b * 1.0
    b.backward()
    return a.grad


def differentiate_n_ary_chain(length):
    a, low, high = leaves(0.5, -1.0, 1.0)
    b = a
    for _ in range(length):
        b = rules.clip(b, low, high)
    b.backward()
    return a.grad


def test_a_million_operations():
    assert differentiate_chain(1_000_000) == 1.0


def test_deep_graphs_in_a_small_stack():
    assert in_thread(lambda: differentiate_chain(300_000), stack=2**20) == 1.0
    assert in_thread(lambda: differentiate_n_ary_chain(100_000), stack=2**20) == 1.0


def test_wide_graph():
    a = Value(1.0)
    total = Value(0.0)
    for i in range(10_000):
        total = total + a * float(i)
    total.backward()
    assert a.grad == sum(range(10_000))


# --- accumulation -------------------------------------------------------------------------------


@given(programs(), st.floats(-4.0, 4.0))
def test_second_call_doubles_the_leaves(case, seed):
    numbers, program = case
    nodes = run(program, leaves(*numbers), apply)
    root, inputs, inner = nodes[-1], nodes[: len(numbers)], nodes[len(numbers) :]
    if not root.requires_grad:
        return
    root.backward(seed)
    once = grads(inputs)
    inner_once = grads(inner)
    root.backward(seed)
    assert grads(inputs) == [None if g is None else 2.0 * g for g in once]
    assert grads(inner) == inner_once


def test_inner_gradient_is_that_of_the_last_sweep():
    a = Value(3.0)
    b = a * a
    (b * 2.0).backward()
    (b * 5.0).backward()
    assert (b.grad, a.grad) == (5.0, 6.0 * 7.0)


def test_losses_that_share_a_trunk():
    a, b = leaves(2.0, 5.0)
    trunk = a * b
    first, second = trunk * 3.0, trunk * trunk
    first.backward()
    assert grads([a, b, trunk, first, second]) == [15.0, 6.0, 3.0, 1.0, None]
    second.backward()
    assert grads([a, b, trunk, first, second]) == [15.0 + 100.0, 6.0 + 40.0, 20.0, 1.0, 1.0]


def test_zeroing_the_leaves_is_enough():
    a = Value(3.0)
    b = a * a
    c = b * b
    c.backward()
    a.zero_grad()
    assert (a.grad, b.grad) == (None, 18.0)
    c.backward()
    assert (a.grad, b.grad) == (108.0, 18.0)


def test_extending_a_graph_that_was_differentiated():
    a = Value(3.0)
    b = a * a
    b.backward()
    a.zero_grad()
    c = b * b + a
    c.backward()
    assert grads([a, b, c]) == [4.0 * 27.0 + 1.0, 18.0, 1.0]


def test_a_sweep_from_an_inner_node_leaves_its_consumers_alone():
    a = Value(3.0)
    b = a * a
    c = b * 2.0
    c.backward()
    b.backward()
    assert grads([a, b, c]) == [12.0 + 6.0, 1.0, 1.0]


def test_a_leaf_is_its_own_derivative():
    a = Value(3.0)
    a.backward()
    a.backward(2.5)
    assert a.grad == 3.5


def test_leaves_only():
    a = Value(3.0)
    b = a * a
    c = b * b
    c.backward(leaves_only=True)
    assert grads([a, b, c]) == [108.0, None, None]
    c.backward(2.0)
    c.backward(leaves_only=True)
    assert grads([a, b, c]) == [4.0 * 108.0, 36.0, 2.0]


def test_gradients_written_by_hand_are_added_to():
    a = Value(3.0)
    a.grad = 10.0
    (a * a).backward()
    assert a.grad == 16.0


@pytest.mark.parametrize("differentiate", [graph.backward, sweep, lambda x: x.backward()])
def test_constants_cannot_be_differentiated(differentiate):
    with no_grad():
        unrecorded = Value(1.0) * 2.0
    a = Value(1.0)
    for constant in [Value(1.0, requires_grad=False), a.detach(), a.detach() * 2.0, unrecorded]:
        with pytest.raises(ValueError, match="requires no gradient"):
            differentiate(constant)


@pytest.mark.parametrize("bad", [3.0, None, "x"])
def test_only_nodes_can_be_differentiated(bad):
    for differentiate in (graph.backward, sweep):
        with pytest.raises(TypeError, match=f"got {type(bad).__name__}"):
            differentiate(bad)


@pytest.mark.parametrize("bad", ["1", True, 1j, [1.0], object()])
def test_gradient_must_be_a_number(bad):
    a = Value(1.0)
    for differentiate in (graph.backward, sweep):
        with pytest.raises(TypeError, match="gradient: expected a real number"):
            differentiate(a * 2.0, bad)
    assert a.grad is None


# --- step by step -------------------------------------------------------------------------------


@given(programs(), st.floats(-4.0, 4.0))
def test_steps_are_what_backward_does(case, seed):
    numbers, program = case
    nodes = run(program, leaves(*numbers), apply)
    root = nodes[-1]
    if not root.requires_grad:
        return
    steps = list(sweep(root, seed))
    assert all(node.grad is None for node in nodes)
    received = {id(root): [seed]}
    for step in steps:
        # in the sweep's order of addition, so equal to the last bit
        total, *others = received[id(step.node)]
        for contribution in others:
            total += contribution
        assert step.gradient == total
        assert [id(e.parent) for e in step.edges] == [id(p) for p in step.node.parents]
        for edge in step.edges:
            assert edge.contribution == edge.local * step.gradient
            received.setdefault(id(edge.parent), []).append(edge.contribution)
    order = topological_order(root)
    assert [id(step.node) for step in steps] == [id(node) for node in reversed(order)]
    root.backward(seed)
    assert [step.node.grad for step in steps] == [step.gradient for step in steps]


def test_step_by_hand():
    a = Value(2.0)
    b = a * a
    first, second = sweep(b, 10.0)
    assert first.node is b
    assert first.gradient == 10.0
    assert [(e.parent is a, e.local, e.contribution) for e in first.edges] == [
        (True, 2.0, 20.0)
    ] * 2
    assert second.node is a
    assert (second.gradient, second.edges) == (40.0, ())


def test_steps_of_a_choice_show_only_its_parents():
    a, b = leaves(2.0, 3.0)
    step = next(sweep(rules.where(a < b, a, 5.0)))
    assert [(e.parent is a, e.local, e.contribution) for e in step.edges] == [(True, 1.0, 1.0)]
    step = next(sweep(rules.where(a < b, 5.0, b)))
    assert [(e.parent is b, e.local, e.contribution) for e in step.edges] == [(True, 0.0, 0.0)]


def test_a_sweep_can_be_abandoned_anywhere():
    a = Value(1.5)
    root = ladder(a)
    root.backward()
    nodes = topological_order(root)
    before = grads(nodes)
    for count in range(len(nodes)):
        steps = sweep(root, 7.0)
        for _ in range(count):
            next(steps)
        del steps
        assert grads(nodes) == before


def test_a_paused_sweep_is_not_disturbed():
    a = Value(1.5)
    root = ladder(a)
    expected = [(step.node, step.gradient) for step in sweep(root)]
    steps = sweep(root)
    got = [next(steps)]
    root.backward()
    a.data = 100.0
    root * a
    got += steps
    assert [(step.node, step.gradient) for step in got] == expected


# --- failures and interrupts --------------------------------------------------------------------


class Failing(float):
    """A local derivative that an interrupt comes in the middle of."""

    def __mul__(self, gradient):
        raise KeyboardInterrupt


def test_a_failed_sweep_changes_nothing():
    a, b = leaves(2.0, 3.0)
    root = ((a * b) + a) * b + a
    root.backward()
    nodes = topological_order(root)
    before = grads(nodes)
    for node in nodes:
        for slot in ("dx", "dy"):
            local = getattr(node, slot)
            if local is not None:
                setattr(node, slot, Failing())
                with pytest.raises(KeyboardInterrupt):
                    root.backward()
                setattr(node, slot, local)
                assert grads(nodes) == before
    root.backward()
    assert grads([a, b]) == [2.0 * before[nodes.index(leaf)] for leaf in (a, b)]


def is_free(lock):
    """Whether another thread can take a lock."""
    free = []

    def take():
        free.append(lock.acquire(timeout=1.0))
        lock.release()

    thread = threading.Thread(target=take)
    thread.start()
    thread.join()
    return free == [True]


def interrupts(seconds, work):
    """Call `work` again and again, each time interrupted by a signal at a random moment."""

    def interrupt(signum, frame):
        raise KeyboardInterrupt

    old = signal.signal(signal.SIGALRM, interrupt)
    chance = random.Random(1)
    count = 0
    end = time.monotonic() + seconds
    start = time.perf_counter()
    work()
    duration = time.perf_counter() - start
    try:
        while time.monotonic() < end:
            try:
                signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-6, 1.1 * duration))
                work()
                signal.setitimer(signal.ITIMER_REAL, 0.0)
            except KeyboardInterrupt:
                count += 1
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, old)
    assert count > 20


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs Unix signals")
@pytest.mark.parametrize("leaves_only", [False, True])
def test_interrupts_leave_all_gradients_old_or_all_new(leaves_only):
    inputs = leaves(*[1.0] * 300)
    inner = [x * 1.0 for x in inputs]
    root = sum(inner)
    seed = 0.0

    def work():
        nonlocal seed
        seed += 1.0
        root.backward(seed, leaves_only=leaves_only)

    expected = (1.0, 1.0)  # of the leaves, whose sweeps add up, and of the inner nodes
    for _ in interrupts(1.0, work):
        got = set(grads(inputs)), set(grads(inner))
        assert [len(numbers) for numbers in got] == [1, 1]
        (of_leaves,), (of_inner,) = got
        new = (expected[0] + seed, seed)
        if leaves_only:
            assert of_inner is None
            assert of_leaves in (expected[0], new[0])
        else:
            assert (of_leaves, of_inner) in (expected, new)
        expected = (of_leaves, of_inner)
    assert is_free(commit_lock)


# --- threads ------------------------------------------------------------------------------------


@pytest.fixture
def hasty_threads():
    """Threads that are switched as often as Python can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("hasty_threads")
def test_threads_over_one_leaf():
    shared = Value(1.0)
    others = [leaves(*[1.0] * 40) for _ in range(8)]
    barrier = threading.Barrier(8)

    def work(own, weight):
        loss = shared * weight + sum(own)
        barrier.wait()
        for _ in range(100):
            loss.backward()

    threads = [threading.Thread(target=work, args=(own, i)) for i, own in enumerate(others)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert shared.grad == 100.0 * sum(range(8))
    assert [set(grads(own)) for own in others] == [{100.0}] * 8


# --- no_grad ------------------------------------------------------------------------------------


def test_no_grad():
    a = Value(3.0)
    with no_grad():
        assert not is_grad_enabled()
        results = [a * a, 2.0 - a, a**2, rules.tanh(a), rules.clip(a, a, a), a.exp()]
        leaf = Value(1.0)
    assert is_grad_enabled()
    for result in results:
        assert not result.requires_grad
        assert result.is_leaf
        assert result.operands == result.parents == ()
    assert results[0].data == 9.0
    assert leaf.requires_grad
    b = a * results[0]
    b.backward()
    assert (a.grad, results[0].grad) == (9.0, None)


def test_backward_works_within_no_grad():
    a = Value(3.0)
    b = a * a
    with no_grad():
        b.backward()
    assert a.grad == 6.0


def test_no_grad_nests():
    with no_grad():
        with no_grad():
            assert not is_recorded()
        assert not is_recorded()
        with scope("a"):
            assert not is_recorded()
        assert not is_recorded()
    with scope("a"):
        with no_grad():
            assert not is_recorded()
        assert is_recorded()
    assert is_recorded()


def test_no_grad_ends_with_an_exception():
    with pytest.raises(KeyError), no_grad(), no_grad():
        raise KeyError
    assert is_recorded()


def test_no_grad_block_can_be_used_again():
    block = no_grad()
    for _ in range(2):
        with block:
            assert not is_recorded()
        assert is_recorded()


def test_no_grad_block_within_itself_works_or_is_refused():
    block = no_grad()
    with block:
        try:
            with block:
                assert not is_recorded()
        except RuntimeError:
            pass
        assert not is_recorded()
    assert is_recorded()


def test_no_grad_block_of_another_thread_works_or_is_refused():
    block = no_grad()

    def enter():
        try:
            with scope("other"), block:
                assert not is_recorded()
        except RuntimeError:
            pass
        return is_recorded()

    with block:
        assert in_thread(enter)
        assert not is_recorded()
    assert is_recorded()


def test_no_grad_decorates_functions():
    @no_grad()
    def infer(x, *, power=1):
        """Docstring."""
        assert not is_recorded()
        return x**power if power < 3 else infer(x, power=power - 1)

    assert infer.__name__ == "infer"
    assert infer.__doc__ == "Docstring."
    assert not infer(Value(2.0), power=5).requires_grad
    assert is_recorded()
    with pytest.raises(TypeError):
        infer("x", power=2)
    assert is_recorded()


def test_no_grad_decorates_methods():
    class Model:
        @no_grad()
        def infer(self, x):
            return x * 2.0

    assert not Model().infer(Value(2.0)).requires_grad


def test_no_grad_decorates_coroutines():
    @no_grad()
    async def infer(x):
        await asyncio.sleep(0)
        return x * 2.0, is_recorded()

    async def main():
        result, inside = await infer(Value(2.0))
        return result.requires_grad, inside, is_recorded()

    assert asyncio.run(main()) == (False, False, True)


def test_no_grad_refuses_generator_functions():
    def generator():
        yield 1

    async def asynchronous_generator():
        yield 1

    for function in (generator, asynchronous_generator):
        with pytest.raises(TypeError, match="generator"):
            no_grad()(function)


def test_no_grad_is_of_its_thread():
    with no_grad():
        assert in_thread(is_recorded)
        assert not is_recorded()

    def inside():
        with no_grad():
            entered.set()
            done.wait(10.0)

    entered, done = threading.Event(), threading.Event()
    thread = threading.Thread(target=inside)
    thread.start()
    entered.wait(10.0)
    assert is_recorded()
    done.set()
    thread.join()


def test_no_grad_is_of_its_task():
    async def unrecorded():
        seen = []
        with no_grad():
            for _ in range(5):
                await asyncio.sleep(0)
                seen.append(is_recorded())
        return seen

    async def recorded():
        seen = []
        for _ in range(5):
            await asyncio.sleep(0)
            seen.append(is_recorded())
        return seen

    async def main():
        return await asyncio.gather(unrecorded(), recorded(), unrecorded())

    assert asyncio.run(main()) == [[False] * 5, [True] * 5, [False] * 5]


# --- generators ---------------------------------------------------------------------------------


def suspended_in(block):
    with block:
        yield is_recorded()
        yield is_recorded()


@pytest.mark.parametrize("block", [no_grad, lambda: scope("a")])
def test_a_suspended_block_does_not_leak(block):
    generator = suspended_in(block())
    inside = next(generator)
    for operation in (lambda: Value(1.0) + 1.0, lambda: Value(1.0).tanh(), lambda: Value(1.0)):
        with pytest.raises(RuntimeError, match="'suspended_in' is suspended at a yield"):
            operation()
    with pytest.raises(RuntimeError, match="suspended"), no_grad():
        pass
    assert next(generator) == inside  # the generator itself may go on
    generator.close()
    assert is_recorded()


def test_a_suspended_block_ends_with_its_generator():
    for end in (list, lambda g: None, lambda g: g.close(), next):
        generator = suspended_in(no_grad())
        next(generator)
        end(generator)
        del generator
        assert is_recorded()


def test_a_suspended_block_ends_with_an_exception_thrown_in():
    generator = suspended_in(no_grad())
    next(generator)
    with pytest.raises(KeyError):
        generator.throw(KeyError)
    assert is_recorded()


def test_a_generator_may_compute_within_its_own_block():
    def helper(x):
        return (x * 2.0).requires_grad

    def generator():
        for i in range(3):
            with no_grad():
                inside = helper(Value(1.0)), [helper(Value(float(i))) for i in range(2)]
            yield inside, helper(Value(1.0))

    assert list(generator()) == [((False, [False, False]), True)] * 3


def test_a_generator_that_delegates():
    def outer():
        with no_grad():
            yield from inner()

    def inner():
        yield is_recorded()

    generator = outer()
    assert next(generator) is False
    with pytest.raises(RuntimeError, match="'outer' is suspended"):
        is_recorded()
    generator.close()
    assert is_recorded()


def test_an_asynchronous_generator_does_not_leak():
    async def generator():
        with no_grad():
            yield is_recorded()

    async def main():
        values = generator()
        inside = await anext(values)
        with pytest.raises(RuntimeError, match="suspended"):
            is_recorded()
        await values.aclose()
        return inside, is_recorded()

    assert asyncio.run(main()) == (False, True)


def test_a_block_entered_through_an_exit_stack_does_not_leak_from_a_generator():
    def generator():
        with ExitStack() as stack:
            stack.enter_context(no_grad())
            yield is_recorded()

    suspended = generator()
    assert next(suspended) is False
    try:
        leaked = not is_recorded()
    except RuntimeError:
        leaked = False
    suspended.close()
    assert not leaked
    assert is_recorded()


def test_a_context_manager_around_no_grad_is_refused_and_not_misunderstood():
    @contextmanager
    def inference():
        with no_grad():
            yield

    with pytest.raises(RuntimeError, match="'inference' is suspended"), inference():
        Value(1.0) * 2.0
    assert is_recorded()


def test_blocks_closed_out_of_order_are_noticed():
    first, second = no_grad(), no_grad()
    first.__enter__()
    second.__enter__()
    with pytest.raises(RuntimeError, match="out of order"):
        first.__exit__(None, None, None)
    assert not is_recorded()
    second.__exit__(None, None, None)
    assert is_recorded()


# --- scopes -------------------------------------------------------------------------------------


def test_scope():
    outside = Value(1.0)
    with scope("mlp"):
        leaf = Value(1.0)
        with scope("layer", 2):
            inner = leaf * outside
        after = leaf + 1.0
    assert [v.scope.path for v in (outside, leaf, inner, after)] == [
        "", "mlp", "mlp/layer(2)", "mlp",
    ]  # fmt: skip
    assert (inner.scope.name, inner.scope.index) == ("layer", 2)
    assert inner.scope.outer is leaf.scope is after.scope
    assert (leaf.scope.index, outside.scope.name) == (None, "")
    assert (outside + 1.0).scope is outside.scope


def test_scope_ends_with_an_exception():
    with pytest.raises(KeyError), scope("a"), scope("b"):
        raise KeyError
    assert Value(1.0).scope.path == ""


def test_scope_within_no_grad_records_nothing():
    with no_grad(), scope("a"):
        assert not is_recorded()
    with scope("a"), no_grad():
        assert not is_recorded()


def test_scope_survives_a_label():
    with scope("layer"):
        a = Value(1.0, "w")
        b = a * 2.0
    b.label = "z"
    assert [(v.label, v.scope.path) for v in (a, b)] == [("w", "layer"), ("z", "layer")]
    b.label = ""
    assert (b.label, b.scope.path) == ("", "layer")


def test_scope_is_of_its_thread():
    with scope("a"):
        assert in_thread(lambda: Value(1.0).scope.path) == ""


@pytest.mark.parametrize("bad", [1, None, b"a"])
def test_names_must_be_text(bad):
    with pytest.raises(TypeError, match=f"expected a str, got {type(bad).__name__}"):
        scope(bad)
    a = Value(1.0, "w")
    with pytest.raises(TypeError, match=f"expected a str, got {type(bad).__name__}"):
        a.label = bad
    assert a.label == "w"


def test_scope_repr():
    with scope("mlp"), scope("step", 3):
        assert repr(Value(1.0).scope) == "Scope('mlp/step(3)')"
    assert repr(Value(1.0).scope) == "Scope('')"


# --- memory -------------------------------------------------------------------------------------


def test_a_sweep_makes_no_cycles():
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            a = Value(1.5)
            root = ladder(a)
            root.backward()
            list(sweep(root))
            with no_grad(), scope("a"):
                pass
        del a, root
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_blocks_closed_out_of_order_leave_recording_on():
    first, second = no_grad(), scope("s")
    first.__enter__()
    second.__enter__()
    with pytest.raises(RuntimeError, match="out of order"):
        first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    assert (Value(2.0) * Value(3.0)).requires_grad
