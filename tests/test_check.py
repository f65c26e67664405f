"""The gradient check: it passes what is right and catches what is wrong, and touches nothing."""

import math

import numpy as np
import pytest

import tinygrad_bp as tb
from tinygrad_bp import Tensor, Value, check_gradients, values
from tinygrad_bp.array_rules import ARRAY_RULES, structural
from tinygrad_bp.rules import RULES, elementwise

METHODS = ["central differences", "complex step"]
KINDS = {
    "Value": lambda x: [Value(float(v)) for v in np.ravel(x)],
    "Tensor": lambda x: [Tensor(x)],
    "Values": lambda x: [values(x)],
}
both = pytest.mark.parametrize("method", METHODS)
every_kind = pytest.mark.parametrize("kind", KINDS)
A = np.array([[1.5, -2.0, 0.5], [3.0, 0.25, -1.0]])
P = np.array([0.7, 1.9])


@pytest.fixture(autouse=True)
def tables_are_left_as_they_were():
    before = dict(RULES), dict(ARRAY_RULES)
    yield
    for table, old in zip((RULES, ARRAY_RULES), before, strict=True):
        for name in set(table) - set(old):
            del table[name]
        assert table == old


def total(x):
    """The sum of an array, or the number itself."""
    return x if isinstance(x, Value) else x.sum()


def point_of(rule, kind):
    """Leaves from the rule's domain, each of its own size."""
    random = np.random.default_rng(4)
    arrays = [random.uniform(*d, 3) for d in rule.domain]
    return [leaf for x in arrays for leaf in KINDS[kind](x[:1] if kind == "Value" else x)]


# --- right rules --------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
def test_every_rule_passes_central_differences(rule, kind):
    # linear in a condition there is nothing to check: where is given one that does not move
    if rule is tb.where:
        report = check_gradients(
            lambda x, y: total(rule(True, x, y) * 3.0), point_of(rule, kind)[1:]
        )
    else:
        report = check_gradients(lambda *x: total(rule(*x) * 3.0), point_of(rule, kind))
    assert report, str(report)


@every_kind
@pytest.mark.parametrize("rule", [r for r in RULES.values() if r.analytic], ids=lambda r: r.name)
def test_every_analytic_rule_passes_the_complex_step(rule, kind):
    report = check_gradients(
        lambda *x: total(rule(*x) * 3.0), point_of(rule, kind), method="complex step"
    )
    assert report, str(report)
    assert report.entries == (1 if kind == "Value" else 3) * rule.arity


FUNCTIONS = {
    "matmul": lambda x: (x @ x.T).sum(),
    "einsum": lambda x: tb.einsum("ij,kj->ik", x, x).sum(),
    "softmax": lambda x: (tb.softmax(x) * A).sum(),
    "log_softmax": lambda x: (tb.log_softmax(x, 0) * A).sum(),
    "logsumexp": lambda x: tb.logsumexp(x, axis=1).sum(),
    "norm": lambda x: tb.norm(x),
    "prod": lambda x: tb.prod(x, axis=1).sum(),
    "var": lambda x: tb.var(x, axis=0, ddof=1).sum(),
    "cumsum": lambda x: (tb.cumsum(x, 1) ** 2).sum(),
    "index": lambda x: (x[:, [0, 0, 2]] ** 3).sum(),
    "join": lambda x: (tb.concatenate([x, x * x]) ** 2).mean(),
    "pad": lambda x: (tb.pad(x, 1, constant_values=2.0) ** 2).sum(),
    "constants": lambda x: (x * A + np.ones(3) - 2.0 / (x + 5.0)).sum(),
    "one use of many": lambda x: tb.tanh(x[0, 0]) * 2.0,
    "network": lambda x: tb.gelu(tb.tanh(x @ A.T) @ A).sum(),
}


@both
@pytest.mark.parametrize("kind", ["Tensor", "Values"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_right_functions_pass(name, kind, method):
    report = check_gradients(FUNCTIONS[name], KINDS[kind](A), method=method)
    assert report, str(report)
    assert report.entries == 6
    assert report.method == method
    assert report.error <= report.allowed


@both
def test_several_inputs_of_several_kinds(method):
    x, y, z = Tensor(A), Tensor(A[0]), Tensor(2.0)
    report = check_gradients(lambda x, y, z: (x * y).sum() * tb.exp(z), [x, y, z], method=method)
    assert report.ok
    assert report.entries == 6 + 3 + 1
    v, w = Value(0.5), values([1.0, 2.0])
    assert check_gradients(lambda v, w: v * (w * w).sum(), [v, w], method=method)


@both
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_functions_of_any_size(method, size):
    assert check_gradients(lambda x: (tb.sin(x) * size).sum(), Tensor(A), method=method)


@both
def test_an_input_that_is_not_used(method):
    report = check_gradients(lambda x, y: x.sum(), [Tensor(A), Tensor(A)], method=method)
    assert report.ok
    assert report.entries == 12
    assert check_gradients(lambda x: Tensor(3.0), Tensor(A), method=method)
    assert check_gradients(lambda x: x.detach().sum() * 0.0, Tensor(A), method="complex step")


@both
@every_kind
def test_a_single_input_needs_no_list(kind, method):
    leaf = {"Value": Value(0.5), "Tensor": Tensor(P), "Values": values(P)}[kind]
    assert check_gradients(lambda x: total(x * x), leaf, method=method)


# --- wrong rules --------------------------------------------------------------------------------

WRONG = {
    "sign": lambda m, x, y: -m.cos(x),
    "factor": lambda m, x, y: 2.0 * m.cos(x),
    "at the result": lambda m, x, y: m.cos(y),
    "constant": 1.0,
    "zero": 0.0,
    "a little": lambda m, x, y: m.cos(x) * (1.0 + 1e-5),
    "offset": lambda m, x, y: m.cos(x) + 1e-5,
    "the function itself": lambda m, x, y: y,
}


@both
@every_kind
@pytest.mark.parametrize("mistake", WRONG)
def test_wrong_rules_are_caught(mistake, kind, method):
    @elementwise(WRONG[mistake])
    def wrong_sine(m, x):
        return m.sin(x)

    report = check_gradients(
        lambda *x: sum((total(wrong_sine(v)) for v in x), 0.0), KINDS[kind](P), method=method
    )
    assert not report.ok
    assert not report
    assert report.error > report.allowed
    assert "DISAGREE" in str(report)


@both
def test_the_right_rule_in_the_place_of_the_wrong_ones(method):
    @elementwise(lambda m, x, y: m.cos(x))
    def right_sine(m, x):
        return m.sin(x)

    assert check_gradients(lambda x: right_sine(x).sum(), Tensor(P), method=method)


@pytest.mark.parametrize(
    "partials",
    [
        (lambda m, x, y, z: x, lambda m, x, y, z: y),
        (lambda m, x, y, z: y, lambda m, x, y, z: -x),
        (lambda m, x, y, z: y, lambda m, x, y, z: z),
        (lambda m, x, y, z: y, None),
    ],
    ids=["swapped", "sign", "result", "missing"],
)
@both
def test_wrong_rules_of_two_operands_are_caught(partials, method):
    @elementwise(*partials)
    def wrong_product(m, x, y):
        return x * y

    f = {
        "Tensor": lambda x, y: wrong_product(x, y).sum(),
        "Value": lambda x, y: wrong_product(x, y),
    }
    assert not check_gradients(f["Value"], [Value(0.5), Value(3.0)], method=method)
    assert not check_gradients(f["Tensor"], [Tensor(P), Tensor(P + 1.0)], method=method)


PULLBACKS = {
    "not transposed": lambda m, g, y, x: m.matmul(g, m.matmul(x, m.transpose(x))),
    "sum forgotten": lambda m, g, y, x: g * x,
    "factor": lambda m, g, y, x: 2.0 * g * x + 1e-4,
    "transposed": lambda m, g, y, x: m.reshape(m.transpose(2.0 * g * x), x.shape),
    "one entry": lambda m, g, y, x: 2.0 * g * x + m.where(x == A[1, 2], 1e-3, 0.0),
    "zero": lambda m, g, y, x: g * x * 0.0,
}


@both
@pytest.mark.parametrize("mistake", PULLBACKS)
def test_wrong_pullbacks_are_caught(mistake, method):
    wrong = PULLBACKS[mistake]
    if mistake == "not transposed":
        wrong = lambda m, g, y, x: m.reshape(m.transpose(m.broadcast_to(g, (3, 2))), (2, 3))  # noqa: E731

    @structural(wrong)
    def wrong_squares(m, x):
        return m.sum(x * x)

    assert not check_gradients(wrong_squares, Tensor(A), method=method)


@both
def test_the_right_pullback_in_the_place_of_the_wrong_ones(method):
    @structural(lambda m, g, y, x: 2.0 * g * x)
    def squares(m, x):
        return m.sum(x * x)

    assert check_gradients(squares, Tensor(A), method=method)


@both
@pytest.mark.parametrize(
    "wrong",
    [
        lambda m, g, z, x, b: m.sum(g, axis=0) / x.shape[0],
        lambda m, g, z, x, b: m.getitem(g, 0),
    ],
    ids=["mean", "first row"],
)
def test_a_missing_sum_over_the_batch_is_caught(wrong, method):
    """The bias of a layer: its gradient is the sum over the batch."""

    @structural(lambda m, g, z, x, b: g, wrong)
    def wrong_bias(m, x, b):
        return x + b

    report = check_gradients(
        lambda x, b: (wrong_bias(x, b) ** 2).sum(), [Tensor(A), Tensor(A[0])], method=method
    )
    assert not report
    assert report.worst.startswith("input 1[")


# --- the report ---------------------------------------------------------------------------------


@both
def test_the_report_names_the_worst_entry(method):
    """Wrong in one entry of the second input alone."""

    def spoilt_dx(m, x, y):
        return m.where(x == 0.25, 5.0, 2.0 * x)

    @elementwise(spoilt_dx)
    def spoilt_square(m, x):
        return x * x

    def f(x, y):
        return (x * 3.0).sum() + spoilt_square(y).sum()

    report = check_gradients(f, [Tensor(A), Tensor(A, "W")], method=method)
    assert not report.ok
    assert report.worst == "W[1, 1]"
    assert report.gradient == 5.0
    assert report.expected == pytest.approx(0.5, rel=1e-9)
    assert report.error == pytest.approx(4.5, rel=1e-9)
    assert report.entries == 12
    assert all(part in str(report) for part in ("12 derivatives", "W[1, 1]", "sweep 5", method))
    unnamed = check_gradients(f, [Tensor(A), Tensor(A)], method=method)
    assert unnamed.worst == "input 1[1, 1]"
    with pytest.raises(AssertionError, match=r"W\[1, 1\]"):
        check_gradients(f, [Tensor(A), Tensor(A, "W")], method=method, raise_on_failure=True)


def test_the_report_names_values():
    @elementwise(lambda m, x, y: 2.0)
    def doubled(m, x):
        return x * 1.0

    assert check_gradients(lambda a, b: a + doubled(b), [Value(1.0), Value(2.0, "b")]).worst == "b"
    report = check_gradients(lambda v: doubled(v[1]) + v[0], values([1.0, 2.0]))
    assert report.worst == "input 0[1]"


def test_tolerances():
    @elementwise(1.01)
    def nearly(m, x):
        return x + 0.0

    f = lambda x: nearly(x).sum()  # noqa: E731
    assert not check_gradients(f, Tensor(P))
    assert not check_gradients(f, Tensor(P), rtol=0.009, atol=0.0)
    assert check_gradients(f, Tensor(P), rtol=0.011, atol=0.0)
    assert check_gradients(f, Tensor(P), rtol=0.0, atol=0.02)
    assert check_gradients(f, Tensor(P), rtol=0.02, raise_on_failure=True)


@both
def test_a_tolerance_of_zero(method):
    report = check_gradients(lambda x: x[0] * 1.0, Tensor([1.0, 2.0]), method=method, atol=0.0)
    assert report.entries == 2


@both
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_is_no_agreement(bad, method):
    @elementwise(lambda m, x, y: m.where(x == x, bad, 0.0))
    def poisoned(m, x):
        return x * x

    report = check_gradients(lambda x: poisoned(x).sum(), Tensor(P), method=method)
    assert not report.ok
    assert report.worst.startswith("input 0")


def test_an_expectation_that_is_infinite_is_no_agreement():
    @elementwise(lambda m, x, y: 1.0)
    def steep(m, x):
        return m.where(x > 1.0, math.inf, 0.0)

    report = check_gradients(steep, Value(1.0))
    assert not report.ok
    assert report.worst == "input 0"


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("f", "inputs", "error", "match"),
    [
        (lambda: Value(1.0), [], ValueError, "at least one leaf"),
        (lambda x: x, [3.0], TypeError, r"inputs\[0\]: expected a leaf .* got float"),
        (lambda x, y: x, [Value(1.0), A], TypeError, r"inputs\[1\].*ndarray"),
        (lambda x: x, [Value(1.0) * 2.0], TypeError, "expected a leaf"),
        (lambda x: x.sum(), [Tensor(A) * 2.0], TypeError, "expected a leaf"),
        (lambda x: x.sum(), [values(A) * 2.0], TypeError, "expected a leaf"),
        (lambda x: x.sum(), [Tensor(A, dtype=np.float32)], ValueError, "float64, got float32"),
        (lambda x: x, [Tensor(A)], ValueError, r"one number, got shape \(2, 3\)"),
        (lambda x: x.item(), [Value(1.0)], TypeError, "a Value or a Tensor, got float"),
        (lambda x: None, [Value(1.0)], TypeError, "got NoneType"),
        (lambda x: x, [values(A)], TypeError, "got Values"),
        (lambda x: x.sum(), [Tensor([])], ValueError, "empty"),
    ],
)
def test_bad_inputs(f, inputs, error, match):
    with pytest.raises(error, match=match):
        check_gradients(f, inputs)


def test_bad_method():
    with pytest.raises(ValueError, match="method: expected 'central differences'"):
        check_gradients(lambda x: x, Value(1.0), method="guess")


@pytest.mark.parametrize(
    "rule", [r for r in RULES.values() if not r.analytic], ids=lambda r: r.name
)
def test_what_is_not_analytic_refuses_the_complex_step(rule):
    inputs = point_of(rule, "Tensor")
    with pytest.raises(ValueError, match=f"{rule.name} is not analytic; use central differences"):
        check_gradients(lambda *x: rule(*x).sum(), inputs, method="complex step")


@pytest.mark.parametrize("f", [tb.max, tb.min], ids=["max", "min"])
def test_reductions_that_choose_refuse_the_complex_step(f):
    with pytest.raises(ValueError, match="is not analytic; use central differences"):
        check_gradients(f, Tensor(A), method="complex step")
    assert check_gradients(f, Tensor(A))


# --- nothing is touched -------------------------------------------------------------------------


@both
@every_kind
def test_inputs_are_left_as_they_were(kind, method):
    leaves = KINDS[kind](P)
    f = lambda *x: sum((total(tb.exp(v)) for v in x), 0.0)  # noqa: E731
    pending = f(*leaves)
    for leaf in leaves:
        leaf.grad = np.full(np.shape(leaf.data), 3.0) if kind != "Value" else 3.0
    check_gradients(f, leaves, method=method)
    np.testing.assert_array_equal(np.ravel([leaf.data for leaf in leaves]), P)
    np.testing.assert_array_equal(np.ravel([leaf.grad for leaf in leaves]), [3.0, 3.0])
    pending.backward()
    np.testing.assert_allclose(np.ravel([leaf.grad for leaf in leaves]), 3.0 + np.exp(P))


def test_inputs_are_left_as_they_were_when_the_function_raises():
    x = Tensor(P)
    with pytest.raises(ZeroDivisionError):
        check_gradients(lambda x: 1 / 0, x)
    assert x.grad is None
    assert tb.is_grad_enabled()
    np.testing.assert_array_equal(x.data, P)


def test_constants_may_be_checked():
    """A leaf that requires no gradient is differentiated by all the same."""
    assert check_gradients(lambda x: (x * x).sum(), Tensor(P, requires_grad=False))


def test_a_tolerance_that_is_given_is_kept():
    @elementwise(2.0)
    def doubled_slope(m, x):
        return x + 1e9

    assert not check_gradients(lambda x: doubled_slope(x), Value(1.0), atol=1e-3, rtol=1e-3)


def test_numbers_too_large_for_a_fixed_step():
    assert check_gradients(lambda x: x * x, Value(1e17))
