"""Every elementwise rule on Tensors: the same numbers as on Values, whatever the shapes."""

import itertools
import math

import numpy as np
import pytest

import tinygrad_bp as tb
from tinygrad_bp import Tensor, Value
from tinygrad_bp.rules import RULES

nan, inf = math.nan, math.inf
EPS = np.finfo(np.float64).eps
RULE_IDS = list(RULES)
every_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULE_IDS)
EDGES = [0.0, -0.0, 1.0, -1.0, inf, -inf, nan, 1000.0, -1000.0, 1e308, -1e308, 5e-324]

# Both views take the same formula, so they differ only in the elementary functions: numpy's
# vectorised ones are right to 4 units in the last place, the C library's to 1, and a formula
# joins up to three of them. Relative to the terms of a sum, which cancel in silu' and gelu'.
ROUNDINGS = 16 * EPS


def sample(rule, shape=(40,), seed=0, dtype=np.float64):
    """Arrays from inside the rule's domain, one per operand."""
    random = np.random.default_rng(seed)
    return [random.uniform(low, high, shape).astype(dtype) for low, high in rule.domain]


def tracked(rule):
    return [i for i, partial in enumerate(rule.partials) if partial is not None]


def on_values(rule, arrays, g=None):
    """Result and gradients, from one graph of Values per element of the broadcast operands.

    The gradients are not yet summed over broadcast axes: each has the shape of the result.
    """
    spread = np.broadcast_arrays(*arrays)
    shape = spread[0].shape
    g = np.ones(shape) if g is None else g
    result, grads = np.empty(shape), [np.zeros(shape) for _ in spread]
    for place in np.ndindex(shape):
        leaves = [Value(float(x[place])) for x in spread]
        z = rule(*leaves)
        result[place] = z.data
        z.backward(float(g[place]))
        for grad, leaf in zip(grads, leaves, strict=True):
            grad[place] = nan if leaf.grad is None else leaf.grad
    return result, grads


def on_tensors(rule, arrays, g=None):
    leaves = [Tensor(x) for x in arrays]
    z = rule(*leaves)
    z.backward(np.ones(z.shape) if g is None else g)
    return z, [leaf.grad for leaf in leaves]


def summed_to(x, shape):
    """Broadcasting undone: summed over the axes along which `shape` was repeated."""
    x = x.sum(axis=tuple(range(x.ndim - len(shape))))
    return x.sum(axis=tuple(i for i, n in enumerate(shape) if n == 1), keepdims=True)


def close(got, expected, roundings=ROUNDINGS):
    np.testing.assert_allclose(got, expected, rtol=roundings, atol=roundings)


# --- the same numbers ---------------------------------------------------------------------------


@every_rule
def test_value_and_gradient_are_those_of_values(rule):
    arrays = sample(rule)
    g = np.random.default_rng(1).normal(size=40)
    value, gradients = on_values(rule, arrays, g)
    result, got = on_tensors(rule, arrays, g)
    close(result.data, value)
    for i in range(rule.arity):
        if i in tracked(rule):
            close(got[i], gradients[i])
            assert got[i].dtype == np.float64
        else:
            assert got[i] is None


@every_rule
def test_elements_do_not_depend_on_their_neighbours(rule):
    """Vectorised loops treat the last few elements by another code: the numbers must not differ."""
    arrays = sample(rule, (9,))
    whole, _ = on_tensors(rule, arrays)
    single = [on_tensors(rule, [x[i : i + 1] for x in arrays])[0].data[0] for i in range(9)]
    close(whole.data, single)


BROADCAST = [
    [(3, 1), (1, 4), (1, 4)],
    [(4,), (3, 1), ()],
    [(), (2, 3), (3,)],
    [(2, 1, 3), (4, 1), ()],
]
more_than_one = [rule for rule in RULES.values() if rule.arity > 1]


@pytest.mark.parametrize("shapes", BROADCAST, ids=str)
@pytest.mark.parametrize("rule", more_than_one, ids=lambda rule: rule.name)
def test_broadcast(rule, shapes):
    random = np.random.default_rng(2)
    shapes = shapes[: rule.arity]
    arrays = [random.uniform(*d, s) for d, s in zip(rule.domain, shapes, strict=True)]
    g = random.normal(size=np.broadcast_shapes(*shapes))
    value, gradients = on_values(rule, arrays, g)
    result, got = on_tensors(rule, arrays, g)
    close(result.data, value)
    for i in tracked(rule):
        assert got[i].shape == shapes[i]
        # A sum of up to 12 products, in another order
        close(got[i], summed_to(gradients[i], shapes[i]), 12 * ROUNDINGS)


@pytest.mark.parametrize("plain", [float, np.array, np.float64, int], ids=lambda f: f.__name__)
@pytest.mark.parametrize("rule", more_than_one, ids=lambda rule: rule.name)
def test_one_operand_a_constant(rule, plain):
    """Numbers and arrays are constants in any position; the gradient of the others is unchanged."""
    point = [float(math.ceil(low + 0.6 * (high - low))) for low, high in rule.domain]
    for constant, other in itertools.permutations(range(rule.arity), 2):
        operands = [Tensor([x]) for x in point]
        _, expected = on_tensors(rule, [np.array([x]) for x in point])
        operands[constant] = plain(point[constant])
        result = rule(*operands)
        close(result.data, rule(*point))
        if result.requires_grad:
            result.backward()
            grad = operands[other].grad
            if expected[other] is None:
                assert grad is None
            else:
                close(grad, expected[other])


@every_rule
def test_one_tensor_in_all_places(rule):
    """A shared operand receives the sum of its contributions."""
    x = np.full(3, 0.7)
    _, gradients = on_values(rule, [x] * rule.arity)
    shared = Tensor(x)
    rule(*[shared] * rule.arity).sum().backward()
    close(shared.grad, sum(gradients[i] for i in tracked(rule)))


@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (1, 1)], ids=str)
@every_rule
def test_small_shapes(rule, shape):
    arrays = sample(rule, shape)
    result, got = on_tensors(rule, arrays)
    assert result.shape == shape
    close(result.data, on_values(rule, arrays)[0])
    assert all(got[i].shape == shape for i in tracked(rule))


# --- float32 ------------------------------------------------------------------------------------


@every_rule
def test_float32_in_float32_out(rule):
    arrays = sample(rule, dtype=np.float32)
    value, gradients = on_values(rule, arrays)
    result, got = on_tensors(rule, arrays)
    single = 16 * np.finfo(np.float32).eps  # as ROUNDINGS, in float32
    # tan has a slope of 8 at the ends of its domain; the rounding of x is none (x is exact)
    assert result.dtype == np.float32
    close(result.data, value, single)
    for i in tracked(rule):
        assert got[i].dtype == np.float32
        close(got[i], gradients[i], 4 * single)


@pytest.mark.parametrize(
    "number", [2, 2.0, np.float64(2.0), np.int64(2), np.float32(2.0)], ids=repr
)
@pytest.mark.parametrize("rule", more_than_one, ids=lambda rule: rule.name)
def test_numbers_do_not_widen_float32(rule, number):
    for i in range(rule.arity):
        operands = [number] * rule.arity
        operands[i] = Tensor(np.full(3, 1.5, np.float32))
        result = rule(*operands)
        if rule.partials[i] is None:
            continue  # the type of a condition says nothing
        assert result.dtype == np.float32
        result.sum().backward()
        assert operands[i].grad.dtype == np.float32


@pytest.mark.parametrize("rule", more_than_one, ids=lambda rule: rule.name)
def test_each_gradient_has_its_operands_dtype(rule):
    types = [np.float32, np.float64, np.float32]
    leaves = [Tensor(x.astype(t)) for x, t in zip(sample(rule), types, strict=False)]
    rule(*leaves).sum().backward()
    assert all(leaves[i].grad.dtype == types[i] for i in tracked(rule))


# --- the edges ----------------------------------------------------------------------------------


def edge_grid(rule):
    """Every combination of edges, as one array per operand."""
    return np.array(list(itertools.product(EDGES, repeat=rule.arity))).T


@every_rule
def test_edges_are_those_of_values(rule):
    """The same infinities and the same nan in the same places, and no warning."""
    arrays = edge_grid(rule)
    value, gradients = on_values(rule, arrays)
    result, got = on_tensors(rule, arrays)
    np.testing.assert_allclose(result.data, value, rtol=ROUNDINGS, atol=0.0)
    for i in tracked(rule):
        np.testing.assert_allclose(got[i], gradients[i], rtol=ROUNDINGS, atol=0.0)


@every_rule
def test_edges_with_a_gradient_at_the_edge(rule):
    """What an infinite or nan upstream gradient does is the same in both views, without warning."""
    arrays = edge_grid(rule)
    g = np.resize([inf, nan, -inf, 0.0, 1e308], arrays.shape[1])
    _, gradients = on_values(rule, arrays, g)
    _, got = on_tensors(rule, arrays, g)
    for i in tracked(rule):
        np.testing.assert_allclose(got[i], gradients[i], rtol=ROUNDINGS, atol=0.0)


@every_rule
def test_edges_in_float32_give_no_warning(rule):
    with np.errstate(all="ignore"):
        arrays = edge_grid(rule).astype(np.float32)
    on_tensors(rule, arrays)


def test_sum_of_infinite_contributions_gives_no_warning():
    x = Tensor([0.0, 1.0])
    (tb.log(x) - tb.sqrt(x)).sum().backward()
    np.testing.assert_array_equal(x.grad, [nan, 0.5])


# --- zero upstream ------------------------------------------------------------------------------


@every_rule
def test_a_masked_branch_contributes_zero(rule):
    """Wherever a partial of finite operands is infinite or nan, the mask makes it zero."""
    points = [p for p in itertools.product(EDGES, repeat=rule.arity) if np.all(np.isfinite(p))]
    arrays = np.array(points).T
    leaves = [Tensor(x) for x in arrays]
    tb.where(np.zeros(len(points), bool), rule(*leaves), 0.0).sum().backward()
    for i in tracked(rule):
        np.testing.assert_array_equal(leaves[i].grad, np.zeros(len(points)))


@every_rule
def test_a_masked_branch_may_hold_anything(rule):
    leaves = [Tensor(x) for x in edge_grid(rule)]
    tb.where(np.zeros(leaves[0].shape, bool), rule(*leaves), 0.0).sum().backward()
    for i in tracked(rule):
        np.testing.assert_array_equal(leaves[i].grad, np.zeros(leaves[i].shape))


@pytest.mark.parametrize(
    ("f", "slope"),
    [
        (tb.log, 0.5),
        (tb.sqrt, 0.5 / math.sqrt(2.0)),
        (lambda x: 1.0 / x, -0.25),
        (lambda x: x * tb.log(x), math.log(2.0) + 1.0),
        (lambda x: tb.log(x) * x, math.log(2.0) + 1.0),
        (lambda x: x / x, 0.0),
        (lambda x: tb.sqrt(tb.square(x)), 1.0),
        (lambda x: (x**2.0 + 0.0) ** 0.5, 1.0),
        (lambda x: tb.exp(1.0 / x), -0.25 * math.exp(0.5)),
        (lambda x: tb.log(tb.log(x + 1.0)), 1.0 / (3.0 * math.log(3.0))),
    ],
    ids=[
        "log",
        "sqrt",
        "1/x",
        "xlogx",
        "logx x",
        "x/x",
        "sqrt square",
        "power",
        "exp 1/x",
        "loglog",
    ],
)
def test_masked_at_zero(f, slope):
    x = Tensor([0.0, 2.0, 0.0])
    tb.where(x.data > 0, f(x), 0.0).sum().backward()
    np.testing.assert_allclose(x.grad, [0.0, slope, 0.0], rtol=1e-14)


def test_unmasked_poles_are_seen():
    x = Tensor([0.0, 2.0])
    tb.log(x).sum().backward()
    np.testing.assert_array_equal(x.grad, [inf, 0.5])
