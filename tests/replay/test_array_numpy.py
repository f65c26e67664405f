"""Replayed arrays against the eager engine, bit for bit: every rule, random graphs, memory."""

import math

import numpy as np
import pytest
from test_array_rules import ALL

import tinygrad_bp as tb
from tinygrad_bp import Tensor
from tinygrad_bp.rules import RULES


def same(x, y):
    """Equal to the last bit, where one nan is like another."""
    x, y = np.asarray(x), np.asarray(y)
    return (
        (x.shape, x.dtype) == (y.shape, y.dtype)
        and np.array_equal(x, y, equal_nan=True)
        and np.array_equal(np.signbit(x) & ~np.isnan(x), np.signbit(y) & ~np.isnan(y))
    )


def all_same(xs, ys):
    return len(xs) == len(ys) and all(same(x, y) for x, y in zip(xs, ys, strict=True))


def nearly(xs, ys):
    return all(
        np.allclose(x, y, rtol=1e-9, atol=1e-9, equal_nan=True) for x, y in zip(xs, ys, strict=True)
    )


def agrees_on(f, data_sets, check=all_same):
    """One recording of f gives values and gradients of the eager engine on every data set."""
    argnums = tuple(range(len(data_sets[0])))
    step = tb.compile(f, argnums=argnums, optimize=False)
    eager = tb.value_and_grad(f, argnums, has_aux=True)
    for data in data_sets:
        before = [np.array(x) for x in data]
        (value, aux), gradients = step.value_and_grad(*data)
        (expected, aux_expected), exact = eager(*data)
        assert check([value], [expected])
        assert check(aux, [x.data for x in aux_expected])
        assert check(gradients, exact)
        assert all_same(data, before)
    assert step.recordings == 1


# --- every rule ---------------------------------------------------------------------------------


def weighted(call):
    """A number with a gradient, and the result itself."""

    def loss(*operands):
        z = call(*operands)
        g = np.random.default_rng(5).normal(size=z.shape)
        return (z * g).sum(), [z]

    return loss


@pytest.mark.parametrize("narrow", [0, 1])
@pytest.mark.parametrize("name", [name for name, rule in RULES.items() if rule.arity == 2])
def test_float32_beside_float64_is_replayed_bit_for_bit(name, narrow):
    rng = np.random.default_rng(3)
    data_sets = [[rng.uniform(0.1, 2.0, (2, 3)), rng.uniform(0.1, 2.0, 3)] for _ in range(3)]
    for operands in data_sets:
        operands[narrow] = operands[narrow].astype(np.float32)
    agrees_on(weighted(RULES[name]), data_sets)


@pytest.mark.parametrize("case", ALL)
def test_structural_rule_is_replayed_bit_for_bit(case):
    operands = [np.asarray(x, float) for x in case.operands]
    data_sets = [[np.asarray(x * scale) for x in operands] for scale in (1.0, -1.0, 0.3)]
    agrees_on(weighted(case.call), data_sets)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
def test_elementwise_rule_is_replayed_bit_for_bit(rule, dtype):
    random = np.random.default_rng(3)

    def points():
        return [random.uniform(low, high, (3, 4)).astype(dtype) for low, high in rule.domain]

    edges = [np.array([0.0, -0.0, math.inf, -math.inf, math.nan, 1.0], dtype)] * rule.arity

    def loss(*operands):
        z = rule(*operands)
        return tb.sum(z * z), [z]

    agrees_on(loss, [points() for _ in range(4)])
    agrees_on(loss, [edges, [x[::-1].copy() for x in edges], [x * 0.5 for x in edges]])


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
def test_elementwise_rule_with_constants_and_a_broadcast(rule):
    random = np.random.default_rng(4)
    constants = [random.uniform(low, high, (4,)) for low, high in rule.domain]
    for moved in range(rule.arity):
        if rule.partials[moved] is None:
            continue

        def loss(x, moved=moved):
            operands = [x if i == moved else c for i, c in enumerate(constants)]
            z = rule(*operands)
            return z.sum(), [z]

        agrees_on(loss, [[random.uniform(*rule.domain[moved], (3, 1))] for _ in range(2)])


# --- random graphs ------------------------------------------------------------------------------

SHAPES = [(3, 4), (4,), (3, 1), (), (4, 3)]
LARGE = {"exp", "expm1", "sinh", "cosh", "power", "square", "multiply", "divide", "azmul", "tan"}


def moves(turned):
    """Structural operations, with the numbers of dimensions they are for."""
    every = [
        (1, lambda x: tb.softmax(x, -1)),
        (1, lambda x: tb.cumsum(x, 0)),
        (1, lambda x: tb.flip(x, -1)),
        (1, lambda x: tb.sum(x, -1, True)),
        (1, lambda x: tb.mean(x, 0)),
        (1, lambda x: tb.max(x, -1, True)),
        (1, lambda x: tb.logsumexp(x, 0)),
        (1, lambda x: tb.concatenate([x[1:], x[:1]])),
        (1, lambda x: x[[0, 1, 1, 0]][: x.shape[0]]),
        (1, lambda x: tb.norm(x)),
        (2, lambda x: tb.tril(x) + tb.triu(x, 1)),
        (2, lambda x: x.reshape(-1).reshape(x.shape)),
        (0, lambda x: tb.stack([x, x])[1]),
        (2, lambda x: tb.expand_dims(x, 0)[0]),
    ]
    if turned:  # in other orders of memory
        every += [
            (2, lambda x: x.T),
            (2, lambda x: (x.T * 2.0).reshape(x.shape)),
            (2, lambda x: tb.sin(x.T).reshape(-1)[:4]),
            (2, lambda x: x @ x.T),
        ]
    return every


def random_graph(seed, turned=False, plain=False, length=14):
    """A random function of arrays of `SHAPES[:3]`: the same operations at every call.

    Turned, with arrays in other orders of memory; plain, with operations of captured leaves alone.
    """
    random = np.random.default_rng(seed)
    captured = Tensor(random.normal(size=(3, 4)), requires_grad=plain or bool(seed % 2))
    constant = random.normal(size=4)
    names = sorted(RULES)
    numbers = random.integers(0, 1 << 30, size=(length, 8)).tolist()
    structural = moves(turned)

    def fits(x, y):
        try:
            return np.broadcast_shapes(x.shape, y.shape) in SHAPES
        except ValueError:
            return False

    def within(x, interval, choice):
        low, high = interval
        if choice % 3 == 0 and (low, high) == (-3.0, 3.0):
            return x
        return tb.tanh(x) * ((high - low) / 2) + (high + low) / 2

    def loss(*leaves):
        pool = [*leaves, captured if plain else captured * leaves[2]]
        for which, first, second, third, c, d, e, _ in numbers:
            x = pool[first % len(pool)]
            if which % 3 == 0:
                known = [move for ndim, move in structural if x.ndim >= ndim]
                z = known[second % len(known)](x)
                pool.append(z if z.shape in SHAPES else z.sum())
                continue
            rule = RULES[names[second % len(names)]]
            fitting = [y for y in pool if fits(x, y)]
            operands = [x, fitting[third % len(fitting)], fitting[c % len(fitting)]][: rule.arity]
            if rule.partials[0] is None:
                operands[0] = operands[0] > 0.25
            elif rule.arity == 2 and d % 5 == 0:
                operands[1] = float(d % 7) - 3.0 if d % 2 else constant
                if np.ndim(operands[1]) and not fits(x, constant):
                    operands[1] = 0.5
            operands = [
                z if not isinstance(z, Tensor) else within(z, interval, e + (rule.name in LARGE))
                for z, interval in zip(operands, rule.domain, strict=True)
            ]
            pool.append(rule(*operands))
        total = pool[0].sum()
        for z in pool[1:]:
            total = total + tb.tanh(z).sum()
        return total, [pool[-1], pool[-2], pool[len(pool) // 2]]

    def data(k):
        random = np.random.default_rng([seed, k])
        return [random.normal(size=shape) for shape in SHAPES[:3]]

    return loss, [data(k) for k in range(3)]


@pytest.mark.parametrize("block", range(20))
def test_random_graphs_are_replayed_bit_for_bit(block):
    for seed in range(20 * block, 20 * block + 20):
        agrees_on(*random_graph(seed))


@pytest.mark.parametrize("block", range(5))
def test_random_graphs_with_operations_of_captured_leaves(block):
    for seed in range(2000 + 10 * block, 2010 + 10 * block):
        try:
            agrees_on(*random_graph(seed, plain=True))
        except TypeError as error:
            if "reads the numbers" not in str(error):  # a comparison of captured leaves alone
                raise


@pytest.mark.parametrize("block", range(5))
def test_random_graphs_whose_sums_may_be_taken_in_any_order(block):
    for seed in range(3000 + 20 * block, 3020 + 20 * block):
        f, data_sets = random_graph(seed)
        argnums = tuple(range(len(data_sets[0])))
        step, eager = tb.compile(f, argnums=argnums), tb.value_and_grad(f, argnums, has_aux=True)
        for data in data_sets:
            (value, _), gradients = step.value_and_grad(*data)
            (expected, _), exact = eager(*data)
            assert nearly([value, *gradients], [expected, *exact])


# To rounding, not to the bit: numpy keeps the order of memory of what it is given, and the buffers
# are rows first, so a sum over them may go another way.
@pytest.mark.parametrize("block", range(10))
def test_random_graphs_with_turned_arrays(block):
    for seed in range(1000 + 10 * block, 1010 + 10 * block):
        agrees_on(*random_graph(seed, turned=True), check=nearly)


# --- memory -------------------------------------------------------------------------------------


def test_a_reshape_of_a_transpose_outlives_its_buffer():
    def f(x):
        flat = (x.T * 2.0).reshape(-1)
        other = x.T * 3.0
        return (flat * (other * other + 1.0).reshape(-1)).sum()

    x = np.arange(6.0).reshape(2, 3)
    assert tb.compile(f)(x) == f(Tensor(x)).item()


OF_LAYOUT = {
    "fresh": lambda x: x * 2.0,
    "itself": lambda x: x,
    "transpose": lambda x: x.T,
    "transpose of fresh": lambda x: (x * 2.0).T,
    "flat": lambda x: x.reshape(-1),
    "flat of transpose": lambda x: x.T.reshape(-1),
    "flat of fresh transpose": lambda x: (x.T * 2.0).reshape(-1),
    "row": lambda x: x[0],
    "detached": lambda x: x.detach(),
    "positive": lambda x: tb.positive(x),
    "broadcast": lambda x: tb.broadcast_to(x, (2, *x.shape)),
    "squeezed": lambda x: tb.squeeze(tb.expand_dims(x + 1.0, 0), 0),
    "constant": lambda x: x * 0.0 + 1.0,
    "untouched constant": lambda x: Tensor(np.ones((2, 3)), requires_grad=False),
}
every_layout = pytest.mark.parametrize("f", OF_LAYOUT.values(), ids=list(OF_LAYOUT))


@every_layout
@pytest.mark.parametrize("order", ["C", "F"])
def test_results_share_no_memory_with_arguments_or_later_results(f, order):
    step = tb.compile(f)
    x = np.array(np.arange(6.0).reshape(2, 3), order=order)
    first = step(x)
    assert same(first, f(Tensor(x)).data)
    kept = first.copy()
    second = step(x + 1.0)
    assert same(first, kept)
    assert same(second, f(Tensor(x + 1.0)).data)
    assert not np.shares_memory(first, second)
    assert not np.shares_memory(first, x)
    first[...] = -7.0
    assert same(step(x), kept)


def test_two_results_share_no_memory():
    first, second = tb.compile(lambda x: (x * 2.0, x * 2.0))(np.ones(3))
    assert not np.shares_memory(first, second)


def test_two_gradients_share_no_memory():
    step = tb.compile(lambda a, b: tb.square(a + b).sum(), argnums=(0, 1))
    ga, gb = step.value_and_grad(np.ones(3), np.ones(3))[1]
    assert not np.shares_memory(ga, gb)


def test_gradients_stay_what_they_were():
    step = tb.compile(lambda x: (tb.sin(x) * x).sum())
    _, first = step.value_and_grad(np.ones(4))
    kept = first.copy()
    step.value_and_grad(np.zeros(4))
    assert same(first, kept)


@pytest.mark.parametrize("stride", [1, 2, -1])
def test_arguments_may_be_views(stride):
    x = np.arange(24.0).reshape(4, 6)[:, ::stride]

    def f(x):
        return (x @ x.T).sum() + tb.sin(x).reshape(-1)[3]

    assert np.isclose(tb.compile(f)(x), f(Tensor(x)).item(), rtol=1e-14)


def test_read_only_arguments_are_read():
    x = np.ones(3)
    x.setflags(write=False)
    assert tb.compile(lambda x: (x * 2.0).sum())(x) == 6.0


# --- products of the chain rule with zero -------------------------------------------------------


def test_a_masked_branch_gives_zero_and_not_nan():
    def f(x):
        return tb.where(x > 0, tb.log(tb.sqrt(x * 1.0) * 2.0 + x), x * x).sum()

    x = np.array([1.0, 0.0, 4.0, -1.0])
    value, gradient = tb.compile(f).value_and_grad(x)
    assert value == f(Tensor(x)).item()
    assert same(gradient, tb.grad(f)(x))


def test_a_gradient_of_zero_meets_an_infinite_derivative():
    def f(x):
        return (tb.where(x > 0, tb.sqrt(x), 0.0) * 2.0).sum()

    step = tb.compile(f)
    for x in ([1.0, 0.0, -4.0], [0.0, 0.0, 1.0], [4.0, 9.0, 1.0]):
        assert same(step.value_and_grad(np.array(x))[1], tb.grad(f)(np.array(x)))


def test_a_constant_gradient_with_zeros_meets_an_infinite_derivative():
    def f(x):
        return (tb.sqrt(x) * np.array([0.0, 1.0, -0.0])).sum()

    x = np.array([0.0, 4.0, 0.0])
    assert tb.compile(f).value_and_grad(x)[1].tolist() == [0.0, 0.25, 0.0]
    assert same(tb.compile(f).value_and_grad(x)[1], tb.grad(f)(x))


# --- kinds of arguments -------------------------------------------------------------------------


def test_a_number_beside_arrays_may_be_reshaped():
    step = tb.compile(lambda x, n: x.sum() + tb.reshape(n, (1,)).sum(), argnums=1)
    assert step(np.ones(2), 3.0) == 5.0
    assert step.value_and_grad(np.ones(2), 4.0) == (6.0, 1.0)


def test_a_number_beside_arrays():
    step = tb.compile(lambda x, n: (tb.exp(x) * n * n).sum(), argnums=(0, 1))
    for n in (2.0, -3.0):
        value, (gx, gn) = step.value_and_grad(np.zeros(3), n)
        assert (value, gx.tolist(), gn) == (3 * n * n, [n * n] * 3, 6 * n)
    assert step.recordings == 1


@pytest.mark.parametrize("other", [1.5, np.float64(1.5), 2])
def test_float32_stays_float32(other):
    step = tb.compile(lambda x, n: (x * n + 0.1, (x * n).sum()))
    wide, total = step(np.ones(3, np.float32), other)
    assert wide.dtype == np.float32
    assert wide.tolist() == [float(np.float32(other) + np.float32(0.1))] * 3
    assert total == 3 * other


def test_gradients_have_the_dtype_of_their_arguments():
    def f(x, y):
        return (x * y).sum()

    x, y = np.ones(3, np.float32), np.full(3, 0.1)
    gx, gy = tb.compile(f, argnums=(0, 1)).value_and_grad(x, y)[1]
    assert all_same([gx, gy], tb.grad(f, (0, 1))(x, y))


def test_arrays_without_axes_and_without_elements():
    step = tb.compile(lambda x: tb.sum(x * x))
    assert step.value_and_grad(np.array(3.0)) == (9.0, 6.0)
    value, gradient = step.value_and_grad(np.ones((0, 3)))
    assert (value, gradient.shape) == (0.0, (0, 3))


def test_a_masked_array_is_refused_also_later():
    step = tb.compile(lambda x: x.sum())
    step(np.ones(3))
    with pytest.raises(TypeError, match="mask"):
        step(np.ma.array([1.0, 2.0, 3.0], mask=[0, 1, 0]))


def test_a_matrix_counts_as_an_array_also_later():
    step = tb.compile(lambda x: (x @ x)[0])
    x = np.arange(4.0).reshape(2, 2)
    expected = step(x)
    with pytest.warns(PendingDeprecationWarning):
        matrix = np.matrix(x)
    got = step(matrix)
    assert type(got) is np.ndarray
    assert same(got, expected)


# --- rules of one's own -------------------------------------------------------------------------


def test_a_rule_of_ones_own_that_has_the_name_of_another():
    @tb.elementwise(lambda m, x, y: 2.0 + 0.0 * x)
    def exp(m, x):
        return 2.0 * x

    step = tb.compile(lambda x: exp(x).sum())
    assert step(np.ones(3)) == 6.0
    assert step.value_and_grad(np.ones(3))[1].tolist() == [2.0] * 3


def own_sum(m, a, b, c, d):
    return a + 2.0 * b + 3.0 * c + 4.0 * d


@pytest.mark.parametrize("x", [3.0, np.full(2, 3.0)], ids=["number", "array"])
def test_a_rule_of_four_operands(x):
    rule = tb.elementwise(1.0, 2.0, 3.0, 4.0, check=False)(own_sum)
    step = tb.compile(lambda x: tb.sum(rule(x * 2.0, x, x * x, 1.0) * 2.0) if x.shape else None)
    if not np.ndim(x):
        step = tb.compile(lambda x: rule(x * 2.0, x, x * x, 1.0) * 2.0)
    value, gradient = step.value_and_grad(x)
    assert value == np.size(x) * 2.0 * (6.0 + 6.0 + 27.0 + 4.0)
    assert np.array_equal(gradient, np.full(np.shape(x), 2.0 * (2.0 + 2.0 + 18.0)))


def test_a_rule_of_ones_own_in_plain_numpy():
    def roll_dx(m, g, y, x):
        return m.getitem(g, [1, 2, 0])

    @tb.structural(roll_dx)
    def roll(m, x):
        return np.roll(x, 1)

    step = tb.compile(lambda x: roll(x) * x)
    assert step(np.array([1.0, 2.0, 3.0])).tolist() == [3.0, 2.0, 6.0]


# --- bits that were lost ------------------------------------------------------------------------


def cases(*shapes, dtype=np.float64):
    return [[numbers(s, seed).astype(dtype) for s in shapes] for seed in range(12)]


def numbers(shape, seed):
    return np.random.default_rng([seed, 7]).uniform(0.5, 2.5, shape)


LOST = {
    "a float32 number to a power that is recorded": (
        lambda x: tb.power(1.78, x), cases((1, 3), dtype=np.float32)),
    "a sum in the order of a transposed array": (
        lambda x: tb.sum(tb.transpose(x) * -2.46, (2, 0, 3, 1)), cases((1, 1, 2, 4))),
    "azmul of a transposed array": (
        lambda x: tb.sum(RULES["azmul"](tb.transpose(x), -2.46), (2, 0, 3, 1)),
        cases((1, 1, 2, 4))),
    "the partial of where() under a float32 Tensor": (
        lambda c, x, y: tb.tanh(tb.where(c, x, y)) + 0.5 * tb.sum(tb.where(c, x, y)),
        cases((1, 1), (2, 1), (2, 3), dtype=np.float32)),
    "a function of a constant in a partial": (
        lambda x: tb.elu(-1.28, x), cases((4,))),
}  # fmt: skip


@pytest.mark.parametrize("case", LOST)
def test_bits_that_were_lost(case):
    f, data_sets = LOST[case]
    agrees_on(weighted(f), data_sets)


def test_what_is_computed_from_leaves_alone_keeps_its_place_among_the_uses():
    """The order of a leaf's uses is the order in which its gradient is added up."""
    random = np.random.default_rng(0)
    weights = random.normal(size=(3, 50))

    def f(x):
        first = w * 1.7  # known to the record when it meets x, after the next
        second = tb.sum((w + x) * weights[0])
        return second + tb.sum(tb.tanh(w) * weights[1]) + tb.sum(first * weights[2] * x)

    x = random.normal(size=50)
    w = tb.Tensor(random.normal(size=50))
    f(tb.Tensor(x)).backward()
    expected, w.grad = w.grad, None
    tb.compile(f, optimize=False).backward(x)
    np.testing.assert_array_equal(w.grad, expected)
