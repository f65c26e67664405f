"""`checkpoint`: the gradients of a plain call, to the last bit, in less memory."""

import gc
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, strategies as st

import tinygrad_bp as tb
from tinygrad_bp import nn


def plainly(function, *args, **kwargs):
    """What `checkpoint` stands in for."""
    return function(*args, **kwargs)


def rnn(seed=0, T=12, batch=3):
    rng = np.random.default_rng(seed)
    net = nn.CharRNN(4, 5, rng=seed)
    symbols = rng.integers(0, 4, (T + 1, batch))
    return net, np.eye(4)[symbols[:-1]], symbols[1:]


def loss_in_parts(net, xs, ys, size, run):
    """The loss of a recurrent network whose steps are run in parts of a size."""

    def part(h, start):
        end = min(start + size, len(xs))
        states = nn.unroll(net.cell, xs[start:end], h, start=start + 1)
        losses = [
            nn.cross_entropy(state @ net.V + net.c, y)
            for state, y in zip(states, ys[start:end], strict=True)
        ]
        return states[-1], sum(losses)

    h, loss = net.cell.initial_state(xs.shape[1]), 0.0
    for start in range(0, len(xs), size):
        h, of_part = run(part, h, start)
        loss = loss + of_part
    return loss


def gradients(net, loss):
    net.zero_grad()
    loss.backward()
    return {name: p.grad for name, p in net.named_parameters()}


def assert_equal_bits(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert np.array_equal(a[name], b[name]), name


@pytest.mark.parametrize("size", [1, 3, 5, 12])
def test_an_rnn_in_parts_has_the_gradients_of_a_plain_sweep(size):
    net, xs, ys = rnn()
    expected = gradients(net, loss_in_parts(net, xs, ys, size, plainly))
    loss = loss_in_parts(net, xs, ys, size, tb.checkpoint)
    assert_equal_bits(gradients(net, loss), expected)
    assert loss.item() == loss_in_parts(net, xs, ys, size, plainly).item()


def test_parts_within_parts():
    net, xs, _ = rnn(T=8)

    def nested(run):
        def outer(h, start):
            loss = 0.0
            for k in range(start, start + 4, 2):

                def inner(h, k=k):
                    states = nn.unroll(net.cell, xs[k : k + 2], h)
                    return states[-1], sum((s @ net.V).sum() for s in states)

                h, part = run(inner, h)
                loss = loss + part
            return h, loss

        h, first = run(outer, net.cell.initial_state(3), 0)
        return first + run(outer, h, 4)[1]

    assert_equal_bits(gradients(net, nested(tb.checkpoint)), gradients(net, nested(plainly)))


# Programs of random operations: each result is of two earlier ones.
steps = st.lists(
    st.tuples(st.sampled_from("+*-t"), st.integers(0, 99), st.integers(0, 99)), min_size=1
)


def random_program(program, nodes):
    nodes = list(nodes)
    for symbol, i, j in program:
        x, y = nodes[i % len(nodes)], nodes[j % len(nodes)]
        if symbol == "t":
            nodes.append(tb.tanh(x))
        else:
            nodes.append({"+": x + y, "*": x * y, "-": x - y}[symbol])
    return nodes


@pytest.mark.parametrize("kind", [tb.Value, lambda x: tb.Tensor([x, 0.3])])
@given(before=steps, inside=steps, after=steps, seed=st.integers(0, 99))
def test_a_part_of_a_random_program_has_the_gradients_of_a_plain_sweep(
    kind, before, inside, after, seed
):
    numbers = np.random.default_rng(seed).uniform(-1, 1, 3)

    def run(call):
        leaves = [kind(float(x)) for x in numbers]
        nodes = random_program(before, leaves)
        # Some of the part's operands come as arguments, the others it reaches by itself, and what
        # it returns is used inside as well as outside.
        made = call(lambda given: random_program(inside, [*given, *nodes])[-3:], nodes[-2:])
        result = random_program(after, [*nodes, *made])[-1] + made[-1]
        if isinstance(result, tb.Tensor):
            result = result.sum()
        result.backward()
        return result.item(), [leaf.grad for leaf in leaves]

    value, expected = run(plainly)
    again, got = run(tb.checkpoint)
    assert np.array_equal(value, again, equal_nan=True)
    for a, b in zip(got, expected, strict=True):
        assert (a is None) == (b is None)
        assert a is None or np.array_equal(a, b, equal_nan=True)


def test_memory_grows_with_the_length_of_a_part_and_the_number_of_parts():
    def peak(T, size, run):
        net, xs, ys = rnn(T=T, batch=64)
        gc.collect()
        tracemalloc.start()
        loss_in_parts(net, xs, ys, size, run).backward(leaves_only=True)
        result = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return result

    assert peak(1024, 32, tb.checkpoint) < peak(1024, 32, plainly) / 8
    # Four times the length in parts of twice the size: O(sqrt T).
    assert peak(1024, 32, tb.checkpoint) < 3 * peak(256, 16, tb.checkpoint)


def test_it_costs_one_forward_pass_more():
    calls = []

    def part(x):
        calls.append(1)
        return tb.tanh(x)

    y = tb.checkpoint(part, tb.Value(0.5))
    assert len(calls) == 1
    y.backward()
    assert len(calls) == 2
    y.backward()
    assert len(calls) == 3


def test_a_single_value_a_dict_and_an_array_of_values():
    w = tb.values(np.array([0.5, -0.2]), "w")

    def part(x):
        return {"all": tb.tanh(w * x), "first": w[0] * 2.0, "number": 3.0, "given": w[1]}

    result = tb.checkpoint(part, 1.5)
    assert result["number"] == 3.0
    assert result["given"] is w[1]
    assert isinstance(result["all"], type(w))
    (result["all"].sum() + result["first"]).backward()
    slope = 1.5 / np.cosh(1.5 * w.data) ** 2
    assert [x.grad for x in w] == pytest.approx([slope[0] + 2.0, slope[1]], rel=1e-14)


def test_results_keep_their_names_and_inner_nodes_are_shown_by_the_sweep():
    net, xs, _ = rnn(T=4)
    h = tb.checkpoint(lambda h: nn.unroll(net.cell, xs, h)[-1], net.cell.initial_state(3))
    assert h.label == "h(4)"
    labels = [step.node.label for step in tb.sweep(h.sum())]
    assert [label for label in labels if label.startswith("h(")] == ["h(4)", "h(3)", "h(2)", "h(1)"]
    paths = {step.node.scope.path for step in tb.sweep(h.sum()) if step.node.label == "z"}
    assert paths == {f"step({t})/rnncell" for t in range(1, 5)}


def test_gradients_by_inner_nodes_reach_hooks_on_both_sides():
    seen = []

    def part(x):
        y = x * 2.0
        y.register_hook(lambda g: seen.append(g))
        return y * 3.0

    x = tb.Value(1.0)
    y = tb.checkpoint(part, x)
    y.register_hook(lambda g: g * 10.0)
    y.backward()
    assert x.grad == 60.0
    assert seen == [30.0]


# --- derivatives of functions -------------------------------------------------------------------


def cube(x):
    return x * x * x


def with_part(x):
    return tb.checkpoint(cube, tb.sin(x)) * x


def without(x):
    return cube(tb.sin(x)) * x


@pytest.mark.parametrize("kind", [float, lambda x: np.array([x, 0.7])])
def test_second_derivatives_and_forward_mode_pass_through(kind):
    total = lambda f: lambda x: f(x) if isinstance(x, tb.Value) else f(x).sum()  # noqa: E731
    x = kind(0.4)
    f, g = total(with_part), total(without)
    np.testing.assert_array_equal(tb.grad(f)(x), tb.grad(g)(x))
    if isinstance(x, float):
        assert tb.grad(tb.grad(f))(x) == pytest.approx(tb.grad(tb.grad(g))(x), rel=1e-14)
        assert tb.derivative(f, 3)(x) == tb.derivative(g, 3)(x)
    else:
        np.testing.assert_allclose(tb.hessian(f)(x), tb.hessian(g)(x), rtol=1e-14)
        np.testing.assert_array_equal(tb.jvp(f, (x,), (x,))[1], tb.jvp(g, (x,), (x,))[1])


def test_gradient_by_some_leaves_only():
    other = tb.Value(2.0)
    f = lambda x: tb.checkpoint(lambda a: cube(a) * other, x)  # noqa: E731
    assert tb.grad(f)(3.0) == 54.0
    assert other.grad is None


def test_a_compiled_function_records_through_it():
    step = tb.compile(with_part)
    for x in (0.4, 1.2):
        assert step(x) == without(tb.Value(x)).data
        assert step.value_and_grad(x)[1] == pytest.approx(tb.grad(without)(x), rel=1e-14)


def test_check_gradients_uses_differences():
    assert tb.check_gradients(with_part, [tb.Value(0.4)])


def test_nothing_is_kept_where_nothing_is_recorded():
    with tb.no_grad():
        assert tb.checkpoint(cube, tb.Value(2.0)).is_leaf
    assert tb.checkpoint(cube, tb.Value(2.0, requires_grad=False)).data == 8.0


# --- never silently wrong -----------------------------------------------------------------------


def test_a_leaf_written_to_in_between_raises():
    w = tb.Tensor([1.0, 2.0], "w")
    y = tb.checkpoint(lambda: tb.relu(w * 0.0)).sum()  # which gives the same numbers again
    w.data[0] = 5.0
    with pytest.raises(RuntimeError, match=r"a leaf \(w\) has been written to"):
        y.backward()
    assert w.grad is None


def test_another_result_the_second_time_raises():
    scale = [2.0]
    x = tb.Value(3.0)
    y = tb.checkpoint(lambda a: a * scale[0], x)
    scale[0] = 4.0
    with pytest.raises(RuntimeError, match="run again, gave other numbers"):
        y.backward()
    assert x.grad is None


def test_nodes_kept_from_the_first_run_raise():
    x, kept = tb.Value(3.0), []

    def part(a):
        kept.append(a * a)
        return kept[0] * 2.0

    y = tb.checkpoint(part, x)
    with pytest.raises(RuntimeError, match="must not keep nodes from one call to the next"):
        y.backward()
    assert x.grad is None


def test_arguments_written_to_in_between_change_nothing():
    data = np.array([1.0, 2.0])
    w = tb.Tensor([3.0, 4.0])
    y = tb.checkpoint(lambda a: (w * a).sum(), data)
    data[:] = 100.0
    y.backward()
    assert w.grad.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("where", ["argument", "closure", "module"])
def test_random_numbers_are_drawn_again(where):
    rng = np.random.default_rng(0)
    w = tb.Tensor(np.ones(5))

    class Noise(nn.Module):
        def __init__(self):
            self.rng = rng

        def forward(self, x):
            return x * self.rng.random(5)

    result = {
        "argument": lambda: tb.checkpoint(lambda x, r: x * r.random(5), w, rng),
        "closure": lambda: tb.checkpoint(lambda x: x * rng.random(5), w),
        "module": lambda: tb.checkpoint(Noise(), w),
    }[where]()
    after = rng.bit_generator.state
    result.sum().backward()
    np.testing.assert_array_equal(w.grad, np.random.default_rng(0).random(5))
    assert rng.bit_generator.state == after


def test_a_tracked_leaf_made_inside_is_refused():
    with pytest.raises(ValueError, match="makes a tracked leaf 'u'"):
        tb.checkpoint(lambda x: x * tb.Value(2.0, "u"), tb.Value(1.0))


def test_what_is_not_a_function_is_refused():
    with pytest.raises(TypeError, match="function: expected a function, got Value"):
        tb.checkpoint(tb.Value(1.0))


def test_an_error_in_the_second_run_changes_no_gradient():
    x, calls = tb.Value(2.0), []

    def part(x):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return x * x

    y = tb.checkpoint(part, x) * x
    with pytest.raises(KeyboardInterrupt):
        y.backward()
    assert x.grad is None
    y.backward()
    assert x.grad == 12.0


CONSTANTS = [
    lambda u, c: u * c,
    lambda u, c: c * u,
    lambda u, c: u * (c * 2.0),  # a constant of the part's own making
    lambda u, c: tb.where(c > 2.5, 3.0 * u, 2.0 * u),
    lambda u, c: tb.checkpoint(lambda v: v * c, u) + u,
]


@pytest.mark.parametrize("kind", [tb.Value, lambda x, **options: tb.Tensor([x, 1.0], **options)])
@pytest.mark.parametrize("part", CONSTANTS)
def test_a_constant_that_was_written_to_is_noticed_though_the_result_is_the_same(part, kind):
    u, c = kind(0.0), kind(2.0, requires_grad=False)
    y = tb.checkpoint(lambda u: part(u, c), u)
    seed = None if isinstance(u, tb.Value) else [1.0, 0.0]  # of the element that is zero
    y.backward(seed)
    before = np.array(u.grad)
    c.data = c.data + 1.0
    with pytest.raises(RuntimeError, match="run again, gave other numbers"):
        y.backward(seed)
    assert np.array_equal(u.grad, before)
    c.data = c.data - 1.0
    y.backward(seed)
    assert np.array_equal(u.grad, 2.0 * before)


def test_a_derivative_within_a_part_that_is_differentiated():
    """A penalty on a gradient: Σ (3x²)², whose derivative is 36x³; and Hessians of x³ and Σ x⁴."""
    x = np.array([0.5, -1.5])
    penalty = checkpointed(lambda b: tb.sum(tb.grad(lambda c: tb.sum(c**3))(b) ** 2))
    np.testing.assert_allclose(tb.grad(penalty)(x), 36.0 * x**3, rtol=1e-12)
    slope = checkpointed(lambda b: tb.jvp(lambda c: tb.sum(c**4), b, np.ones(2))[1])
    np.testing.assert_allclose(tb.grad(slope)(x), 12.0 * x**2, rtol=1e-12)
    assert tb.grad(tb.grad(checkpointed(tb.grad(lambda c: c**3))))(2.0) == 6.0


def checkpointed(f):
    return lambda x: tb.checkpoint(f, x)
