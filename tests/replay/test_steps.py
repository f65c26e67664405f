"""Loops on the tape: a program in which they are taken as one gives every bit of the program.

The programs are run here by the plainest interpreter there is, instruction by instruction on numpy;
and with their loops by another, that knows of a loop only its body and what goes in and out.
"""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import tinygrad_bp as tb
from tinygrad_bp import arrays, floats, nn
from tinygrad_bp.array_rules import ArrayRule
from tinygrad_bp.recording import scope
from tinygrad_bp.replay import columns
from tinygrad_bp.replay.program import filled_in, placeholders
from tinygrad_bp.replay.steps import AT_LEAST, Part, rolled


def instruction(program, i, operands):
    rule, detail = program.rule(i), program.details.get(i)
    if program.kind == "scalar":
        return rule.value(floats, *operands)
    if not isinstance(rule, ArrayRule):
        return rule.value(arrays, *operands)
    direct = operands[: len(operands) - placeholders(detail.parameters)]
    return rule.apply(arrays, direct, filled_in(detail.parameters, operands), detail.options)


def straight(program, inputs):
    """All outputs and conditions, one instruction after the other."""
    values = dict(zip(program.inputs, inputs, strict=True)) | program.constants
    for i in np.flatnonzero(program.codes >= 2).tolist():
        values[i] = instruction(program, i, [values[j] for j in program.operands_of(i)])
    return [values[i] for i in [*program.outputs, *(g.condition for g in program.guards)]]


def in_loops(program, inputs):
    """The same, by the loops."""
    found = rolled(program)
    known = dict(zip(program.inputs, inputs, strict=True)) | program.constants
    stacks = {}
    places = {i: k for k, i in enumerate(program.inputs)}

    def value(i):
        if i in known:
            return known[i]
        if i in found.parts:
            return part(found.parts[i])
        loop, step, slot = found.place[i].tolist()
        return stacks[loop, slot][step]

    def part(p):
        x = np.moveaxis(value(p.whole), p.axis, 0)
        x = x[p.start : p.start + p.width] if p.width else x[p.start]
        return np.moveaxis(x, 0, p.axis) if p.width else x

    def column(numbers):
        rows = []
        planned = columns.column(found, numbers, places)
        for segment in planned.segments:
            for k in segment.which:
                if isinstance(segment, columns.Stacked):
                    rows.append(stacks[segment.loop, segment.slot][k])
                elif isinstance(segment, columns.Sliced):
                    rows.append(part(Part(segment.whole, segment.axis, k, segment.width)))
                elif isinstance(segment, columns.Inputs):
                    rows.append(inputs[k])
                else:
                    rows.append(value(k))
        return rows if planned.order is None else [rows[k] for k in planned.order]

    for item in found.order:
        if isinstance(item, int):
            known[item] = instruction(program, item, [value(j) for j in program.operands_of(item)])
            continue
        position = next(k for k, loop in enumerate(found.loops) if loop is item)
        states = [None if r.first is None else value(r.first) for r in item.registers]
        invariants = [value(i) for i in item.invariants]
        own = [*map(column, item.columns), *item.positions]
        kept = []
        for step in range(item.count):
            results = straight(item.body, [*states, *(x[step] for x in own), *invariants])
            states = results[: len(states)]
            kept.append(results[len(states) :])
        for n, slot in enumerate(item.stacked):
            stacks[position, slot] = [row[n] for row in kept]
        for slot, k in item.last.items():
            known[int(item.numbers[-1, slot])] = states[k]
    return [value(i) for i in [*program.outputs, *(g.condition for g in program.guards)]]


def same(program, inputs):
    """Check that the loops change no bit; the loops."""
    inputs = [np.asarray(x) for x in inputs] if program.kind == "array" else inputs
    for one, other in zip(in_loops(program, inputs), straight(program, inputs), strict=True):
        assert np.asarray(one).dtype == np.asarray(other).dtype
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()
    return rolled(program).loops


def shapes(program):
    return [loop.numbers.shape for loop in rolled(program).loops]


def random(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape)


# --- cells --------------------------------------------------------------------------------------

N, H, B = 3, 5, 2


def parameters(*shapes):
    return [random(*shape) * 0.5 for shape in shapes]


def rnn(weights, x, state):
    U, W, b = weights
    (h,) = state
    h = tb.tanh(tb.linear(x, U, b) + h @ W)
    return (h,), h


def gru(weights, x, state):
    U, W, b = weights
    (h,) = state
    z = tb.sigmoid(x @ U + h @ W + b)
    h = (1.0 - z) * h + z * tb.tanh(x @ U + (z * h) @ W)
    return (h,), h


def lstm(weights, x, state):
    U, W, b = weights
    h, c = state
    z = tb.linear(x, U, b) + h @ W
    i, f, o = (tb.sigmoid(z[:, k * H : (k + 1) * H]) for k in range(3))
    c = f * c + i * tb.tanh(z[:, 3 * H :])
    h = o * tb.tanh(c)
    return (h, c), h


def two_back(weights, x, state):
    U, W, b = weights
    h, before = state
    new = tb.tanh(tb.linear(x, U, b) + before @ W + 0.5 * h)
    return (new, h), new


CELLS = {"rnn": (rnn, 1, 1), "gru": (gru, 1, 1), "lstm": (lstm, 2, 4), "two back": (two_back, 2, 1)}
FIRST = {
    "array": lambda: np.zeros((B, H)),
    "row": lambda: np.full(H, 0.5),
    "other": lambda: random(B, H),
}
LOSSES = ["each", "last", "stacked", "outside"]


def unrolled(cell, count, first, loss, scoped=True, odd=None):
    """The loss of a network over time, as a function of weights, inputs and targets."""

    def f(weights, xs, ys):
        state = tuple(FIRST[first]() for _ in range(count))
        outputs, total = [], 0.0
        for t in range(len(ys.data) if isinstance(ys, np.ndarray) else ys.shape[0]):
            with scope("step", t) if scoped else scope("all"):
                state, y = cell(weights, xs[t], state)
                if t == odd:
                    y = tb.exp(y)
                    state = (y, *state[1:])
                if loss == "each":
                    total = total + tb.sum((y - ys[t]) ** 2)
            outputs.append(y)
        if loss == "last":
            return tb.sum((outputs[-1] - ys[-1]) ** 2)
        if loss == "stacked":
            return tb.mean((tb.stack(outputs) - ys) ** 2), outputs[0]
        if loss == "outside":
            for t, y in enumerate(outputs):
                total = total + tb.sum(y * ys[t]) * (weights[1] ** 2).sum()
        return total

    return f


def example(cell_name, T, wide):
    cell, count, gates = CELLS[cell_name]
    weights = parameters((N, gates * H), (H, gates * H), (gates * H,))
    xs = random(T, B, N) if wide else [random(B, N) + t for t in range(T)]
    return cell, count, weights, xs, random(T, B, H)


def recorded(f, weights, xs, ys, gradient, optimize):
    step = tb.compile(f, argnums=(0, 1), optimize=optimize)
    args = weights, xs, ys
    program = step.program(*args, gradient=gradient)
    return program, [*weights, *(xs if isinstance(xs, list) else [xs]), ys]


@settings(max_examples=120, deadline=None)
@given(
    name=st.sampled_from(sorted(CELLS)),
    T=st.one_of(st.integers(1, 4), st.integers(8, 24)),
    first=st.sampled_from(sorted(FIRST)),
    loss=st.sampled_from(LOSSES),
    gradient=st.booleans(),
    optimize=st.booleans(),
    wide=st.booleans(),
    scoped=st.booleans(),
    odd=st.one_of(st.none(), st.integers(0, 20)),
)
def test_loops_change_no_bit(name, T, first, loss, gradient, optimize, wide, scoped, odd):
    cell, count, *args = example(name, T, wide)
    f = unrolled(cell, count, first, loss, scoped, odd)
    loops = same(*recorded(f, *args, gradient, optimize))
    if T >= 20 and odd is None:
        assert loops
    if T < AT_LEAST:
        assert not loops


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("optimize", [False, True])
@pytest.mark.parametrize("name", CELLS)
def test_what_is_left_does_not_grow_with_time(name, optimize, loss):
    sizes = []
    for T in (60, 120):
        cell, count, *args = example(name, T, True)
        f = unrolled(cell, count, "array", loss)
        program, _ = recorded(f, *args, True, optimize)
        found = rolled(program)
        inputs = {i: k for k, i in enumerate(program.inputs)}
        joined = [c for loop in found.loops for c in loop.columns]
        joined += [program.operands_of(i) for i in found.order if isinstance(i, int)]
        planned = [columns.column(found, c, inputs).segments for c in joined if len(c) >= AT_LEAST]
        singles = [len(x.which) for c in planned for x in c if isinstance(x, columns.Singles)]
        pieces = sum(map(len, planned)), sum(singles)
        sizes.append([len(found.order), pieces, *(len(loop.body) for loop in found.loops)])
    assert sizes[0] == sizes[1]


# --- what is a step -----------------------------------------------------------------------------


def test_the_steps_of_a_network():
    cell, count, *args = example("rnn", 12, True)
    program, inputs = recorded(unrolled(cell, count, "array", "last"), *args, False, False)
    (loop,) = same(program, inputs)
    assert loop.numbers.shape == (12, 4)
    assert [program.rule(i).name for i in loop.numbers[5]] == ["linear", "matmul", "add", "tanh"]
    assert len(loop.registers) == 1
    assert loop.registers[0].next - loop.offset == 3
    assert loop.last == {3: 0}
    assert not loop.stacked
    assert len(loop.columns) == 1
    assert sorted(loop.invariants) == program.inputs[:3]
    first = program.constants[loop.registers[0].first]
    assert (first == np.zeros((B, H))).all()


def test_states_from_several_steps_back_are_carried_through_several_registers():
    def f(W, xs):
        states = [xs[0], xs[1], xs[2]]
        for t in range(3, 24):
            states.append(tb.tanh(states[-3] @ W + xs[t] * states[-1]))
        return states[-1].sum()

    W, xs = random(H, H), random(24, B, H)
    (loop,) = same(tb.compile(f).program(W, xs), [W, xs])
    taken_over = [r for r in loop.registers if r.next < len(loop.registers)]
    assert len(taken_over) == 2


def test_a_step_that_differs_stays_apart():
    cell, count, *args = example("rnn", 30, True)
    program, inputs = recorded(unrolled(cell, count, "array", "last", odd=14), *args, False, False)
    odd = next(i for i in range(len(program)) if getattr(program.rule(i), "name", "") == "exp")
    loops = same(program, inputs)
    assert [len(loop.numbers) for loop in loops] == [15, 15]
    assert all(odd not in loop.numbers for loop in loops)
    assert loops[0].numbers.max() < odd < loops[1].numbers.min()


def test_other_weights_in_the_middle_are_not_merged():
    """The same operations: only the operand tells the steps apart."""
    W, V, h = random(H, H), random(H, H) + 1.0, random(B, H)

    def f(W, V, h):
        for t in range(32):
            h = tb.tanh(h @ (W if t < 16 else V)) * 2.0
        return h.sum()

    program = tb.compile(f).program(W, V, h)
    loops = same(program, [W, V, h])
    assert [loop.count for loop in loops] == [16, 16]
    assert [program.inputs[0] in loop.invariants for loop in loops] == [True, False]


def test_weights_that_alternate_make_steps_of_two():
    W, V, h = random(H, H), random(H, H) + 1.0, random(B, H)

    def f(W, V, h):
        for t in range(40):
            h = tb.tanh(h @ (V if t % 2 else W)) * 2.0
        return h.sum()

    (loop,) = same(tb.compile(f).program(W, V, h), [W, V, h])
    assert loop.numbers.shape == (20, 6)
    assert not loop.columns  # a weight is not copied for every step


def test_constants_and_indices_of_each_step():
    rng = np.random.default_rng(0)
    masks = rng.integers(0, 2, (16, B, H)).astype(float)

    def f(x, h):
        for t in range(16):
            h = tb.sin(h * masks[t] + x[:, t, :2].sum() * (0.5 + t))
        return (h * h).sum()

    x, h = random(3, 16, 5), random(B, H)
    for gradient in (False, True):
        program = tb.compile(f, argnums=(0, 1)).program(x, h, gradient=gradient)
        loops = same(program, [x, h])
        assert any(len(loop.positions) for loop in loops)


def test_what_one_step_leaves_for_all_later_ones_is_no_part_of_the_loop():
    def f(W, h):
        first = None
        for _ in range(20):
            h = tb.tanh(h @ W) if first is None else tb.tanh(h @ W) * first
            first = h if first is None else first
        return h.sum()

    program = tb.compile(f).program(random(H, H), random(B, H))
    (loop,) = same(program, [random(H, H), random(B, H)])
    assert len(loop.registers) == 1
    assert len(loop.invariants) == 2


def test_what_happens_to_have_equal_numbers_is_not_merged():
    """Equal operations on operands that do not correspond."""
    order = np.random.default_rng(3).integers(0, 20, 60)

    def f(x):
        parts = [x[k] for k in range(4)]
        for k in order:
            parts.append(parts[-1] * parts[k % len(parts)])
        return parts[-1].sum()

    program = tb.compile(f).program(random(4, 3))
    same(program, [random(4, 3)])


def test_networks_on_networks_and_in_both_directions():
    T = 16
    one, two = (parameters((H, H), (H, H), (H,)) for _ in range(2))

    def f(one, two, xs):
        h = (np.zeros((B, H)),)
        first, back = [], []
        for t in range(T):
            h, y = rnn(one, xs[t], h)
            first.append(y)
        h = (np.zeros((B, H)),)
        for t in reversed(range(T)):
            h, y = rnn(two, first[t], h)
            back.append(y)
        return sum((x * y).sum() for x, y in zip(first, reversed(back), strict=True))

    xs = random(T, B, H)
    for optimize in (False, True):
        step = tb.compile(f, argnums=(0, 1), optimize=optimize)
        for gradient in (False, True):
            program = step.program(one, two, xs, gradient=gradient)
            assert len(same(program, [*one, *two, xs])) >= 2


def test_other_arguments_are_not_merged():
    """The same operations on the same shapes: only an argument tells a step apart."""

    def f(x):
        for t in range(40):
            x = tb.sin(tb.flip(x, axis=0 if t == 20 else 1)) + 0.5 * x
        return x.sum()

    program = tb.compile(f).program(random(3, 3))
    loops = same(program, [random(3, 3)])
    assert loops
    assert sum(loop.count for loop in loops) < 40


def test_what_two_loops_gave_in_turns():
    """A third one takes the results of two, one of the first and one of the second."""

    def f(x, y):
        first, second = [x], [y]
        for _ in range(20):
            first.append(tb.sin(first[-1]) * 1.5)
        for _ in range(20):
            second.append(tb.cos(second[-1]) + 0.5)
        h = x
        for pair in zip(first, second, strict=True):
            for z in pair:
                h = tb.tanh(h * z) - z
        return h.sum()

    program = tb.compile(f, optimize=False).program(random(4), random(4) + 1.0)
    loops = same(program, [random(4), random(4) + 1.0])
    assert len(loops) == 3
    found = rolled(program)
    numbers = [column for loop in loops for column in loop.columns]
    planned = [columns.column(found, c, {0: 0, 1: 1}) for c in numbers]
    assert any(plan.order for plan in planned)
    assert all(len(plan.segments) <= columns.FEW for plan in planned)


def test_scalar_programs():
    def f(w, xs):
        h, total = 0.3, 0.0
        for x in xs:
            h = tb.tanh(w * h + x)
            total = total + tb.where(h > 0.1, h * h, -h)
        return total

    xs = random(50).tolist()
    program = tb.compile(f).program(0.7, xs)
    (loop,) = same(program, [0.7, *xs])
    assert loop.count >= 49


def test_guards_of_each_step():
    def f(w, xs):
        h = w
        for x in xs:
            h = h * x + w if h > -100.0 else h
        return h

    xs = random(40).tolist()
    program = tb.compile(f).program(0.7, xs)
    assert len(program.guards) == 40
    assert same(program, [0.7, *xs])


@pytest.mark.parametrize("T", [1, 2, AT_LEAST - 1])
def test_few_steps_are_no_loop(T):
    cell, count, *args = example("lstm", T, True)
    program, inputs = recorded(unrolled(cell, count, "array", "each"), *args, True, False)
    assert not same(program, inputs)


def test_without_loops():
    cell, count, *args = example("rnn", 20, True)
    program, _ = recorded(unrolled(cell, count, "array", "each"), *args, True, False)
    found = rolled(program, scan=False)
    assert not found.loops
    assert not found.parts
    assert found.order == np.flatnonzero(program.codes >= 2).tolist()


def test_the_characters_of_a_network():
    model = nn.CharRNN(5, 6, rng=0)
    random_ = np.random.default_rng(0)
    inputs, targets = (random_.integers(0, 5, (20, 3)) for _ in range(2))

    def loss(model, inputs, targets):
        logits, _ = model(tb.one_hot(inputs, 5), model.cell.initial_state(3))
        return sum(nn.cross_entropy(o, targets[t]) for t, o in enumerate(logits))

    for optimize in (False, True):
        step = tb.compile(loss, optimize=optimize)
        program = step.program(model, inputs, targets, gradient=True)
        leaves = [p.data for p in model.parameters()]
        assert same(program, [*leaves, inputs, targets])
