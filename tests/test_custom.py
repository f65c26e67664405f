"""Operations of a user's own: in every interpreter, to every order; and what a check refuses."""

import copy
import math
import pickle

import mpmath
import numpy as np
import pytest
from oracles import torch

import tinygrad_bp as tb
from tinygrad_bp import Tensor, Value, check_gradients, check_rule, nn, no_grad
from tinygrad_bp.visualize import draw

# --- the operations that are tried ----------------------------------------------------------------


@tb.elementwise(lambda m, x, y: m.divide(1.0, (1.0 + m.absolute(x)) * (1.0 + m.absolute(x))))
def softsign(m, x):
    """x / (1 + |x|)"""
    return m.divide(x, 1.0 + m.absolute(x))


@tb.elementwise(lambda m, x, y: y * (m.cos(x) - m.sin(x)), analytic=True)
def wave(m, x):
    """exp(sin x + cos x)"""
    return m.exp(m.sin(x) + m.cos(x))


@tb.elementwise(
    lambda m, x, y, z: m.divide(z, x) * y,
    lambda m, x, y, z: z * m.log(x),
    domain=((0.5, 2.0), (-2.0, 2.0)),
    analytic=True,
)
def raised(m, x, y):
    """x to the power y"""
    return m.exp(y * m.log(x))


@tb.elementwise(2.0, -0.5, analytic=True)
def mixture(m, x, y):
    """2x - y/2"""
    return 2.0 * x - 0.5 * y


@tb.elementwise(lambda m, x, y: 3.0, analytic=True)
def thrice(m, x):
    """3x"""
    return 3.0 * x


@tb.elementwise(
    lambda m, x, slope, y: m.where(x > 0, 2.0 * x, slope),
    lambda m, x, slope, y: m.where(x > 0, 0.0, x),
    domain=((-2.0, 2.0), (0.1, 0.9)),
    kinks="x = 0: derivative `slope`",
)
def half_parabola(m, x, slope=0.5):
    """x² where x > 0, else slope * x"""
    return m.where(x > 0, x * x, slope * x)


def rotate_dx(m, g, y, x, shift, axis=-1):
    return moved(m, g, -shift, axis)


def moved(m, x, shift, axis):
    n = x.shape[axis]
    places = [(i - shift) % n for i in range(n)]
    return m.getitem(x, (..., places) if axis == -1 else (places, ...))


@tb.structural(
    rotate_dx,
    analytic=True,
    forward="linear",
    check=[(np.arange(6.0).reshape(2, 3), 1), (np.arange(6.0).reshape(2, 3), 1, 0)],
)
def rotate(m, x, shift, axis=-1):
    """The elements moved along an axis, round the end"""
    return moved(m, x, shift, axis)


def sort_dx(m, g, y, x):
    order = np.argsort(np.argsort(numbers(x)))
    return m.getitem(g, order)


def numbers(x):
    """The numbers of an array, a Tensor or an array of Values."""
    return np.asarray(x, float)


@tb.structural(sort_dx, check=[(np.array([3.0, -1.0, 2.0]),)])
def sort(m, x):
    """In ascending order"""
    return m.getitem(x, np.argsort(numbers(x)))


def weighted_dx(m, g, z, x, w, scale):
    return g * (w * scale)


def weighted_dw(m, g, z, x, w, scale):
    return g * (x * scale)


@tb.structural(
    weighted_dx,
    weighted_dw,
    analytic=True,
    check=[
        (np.arange(6.0).reshape(2, 3), np.array([1.0, -2.0, 0.5]), 2.0),
        (np.ones((2, 1)), np.array([[1.0, 3.0]]), -1.0),
        (np.ones(3), np.array(2.0), 1.0),
    ],
)
def weighted(m, x, w, scale):
    """scale * x * w, broadcast"""
    return x * w * scale


def dot_dx(m, g, z, operands, which, power):
    x, y = operands
    other = operands[1 - which]
    return g * (power * m.power(m.sum(x * y), power - 1.0) * other)


@tb.structural(
    dot_dx,
    takes_sequence=True,
    check=[([np.array([1.0, 2.0]), np.array([0.5, 1.5])], 3.0)],
)
def dot_power(m, operands, power):
    """(x · y) to a power"""
    x, y = operands
    return m.power(m.sum(x * y), power)


# What they are, for numbers of mpmath, which differentiates by itself.
FORMULAS = {
    softsign: lambda x: x / (1 + abs(x)),
    wave: lambda x: mpmath.exp(mpmath.sin(x) + mpmath.cos(x)),
    thrice: lambda x: 3 * x,
    half_parabola: lambda x: x * x if x > 0 else x / 2,
}
unary = pytest.mark.parametrize("rule", FORMULAS, ids=lambda rule: rule.name)
POINTS = [-1.25, 0.5, 1.75]


def exact(rule, x, order=0):
    """The derivative of some order, in 40 digits."""
    with mpmath.workdps(40):
        return float(mpmath.diff(FORMULAS[rule], mpmath.mpf(x), order))


def near(x, relative=1e-12):
    return pytest.approx(x, rel=relative, abs=1e-13)


# --- elementwise, in every interpreter ------------------------------------------------------------


@unary
@pytest.mark.parametrize("x", POINTS)
def test_on_numbers(rule, x):
    assert rule(x) == near(exact(rule, x))
    assert type(rule(x)) is float


@unary
@pytest.mark.parametrize("x", POINTS)
def test_on_values(rule, x):
    leaf = Value(x)
    y = rule(leaf)
    y.backward()
    assert y.data == near(exact(rule, x))
    assert leaf.grad == near(exact(rule, x, 1))
    assert y.rule is rule


@unary
def test_on_tensors(rule):
    x = Tensor([POINTS])
    y = rule(x)
    (y * [[1.0, 2.0, 3.0]]).sum().backward()
    assert y.data[0].tolist() == near([exact(rule, p) for p in POINTS])
    assert x.grad[0].tolist() == near([(i + 1) * exact(rule, p, 1) for i, p in enumerate(POINTS)])


@unary
def test_on_arrays_of_values(rule):
    x = tb.values([POINTS])
    y = rule(x)
    y.sum().backward()
    assert y.data[0].tolist() == near([exact(rule, p) for p in POINTS])
    assert x.grad[0].tolist() == near([exact(rule, p, 1) for p in POINTS])


@unary
def test_on_float32(rule):
    y = rule(Tensor(np.array(POINTS, np.float32)))
    y.sum().backward()
    assert y.dtype == np.float32
    assert y.data.tolist() == near([exact(rule, p) for p in POINTS], 1e-5)


@unary
def test_under_no_grad(rule):
    with no_grad():
        for x in (Value(0.5), Tensor([0.5]), tb.values([0.5])):
            y = rule(x)
            assert not y.requires_grad
            assert float(y.data) == near(exact(rule, 0.5)) if isinstance(x, Value) else True
            np.testing.assert_allclose(y.data, exact(rule, 0.5), rtol=1e-14)


@unary
@pytest.mark.parametrize("x", POINTS)
def test_derivatives_of_derivatives(rule, x):
    first = tb.grad(rule)
    assert first(x) == near(exact(rule, x, 1))
    assert tb.grad(first)(x) == near(exact(rule, x, 2))
    assert tb.grad(tb.grad(first))(x) == near(exact(rule, x, 3), 1e-11)
    assert tb.jvp(rule, x, 2.0)[1] == near(2.0 * exact(rule, x, 1))
    assert tb.jvp(first, x, 1.0)[1] == near(exact(rule, x, 2))
    assert tb.grad(lambda x: tb.jvp(rule, x, 1.0)[1])(x) == near(exact(rule, x, 2))


@unary
@pytest.mark.parametrize("x", POINTS)
def test_taylor_series(rule, x):
    expected = [exact(rule, x, k) / math.factorial(k) for k in range(5)]
    assert tb.taylor(rule, x, 4) == near(expected, 1e-10)
    series = tb.taylor(rule, np.array([x, 0.25]), 4)
    assert [float(c[0]) for c in series] == near(expected, 1e-10)


@unary
def test_hessian(rule):
    hessian = tb.hessian(lambda x: tb.sum(rule(x)))(np.array(POINTS))
    expected = np.diag([exact(rule, p, 2) for p in POINTS])
    np.testing.assert_allclose(hessian, expected, rtol=1e-12, atol=1e-15)


@unary
@pytest.mark.parametrize("leaf", [Value(0.4), Tensor([[0.4, -1.5]]), tb.values([0.4, -1.5])])
def test_gradient_check(rule, leaf):
    def f(x):
        y = rule(x)
        return y * y if isinstance(y, Value) else tb.sum(y * y)

    assert check_gradients(f, leaf)
    if rule.analytic:
        assert check_gradients(f, leaf, method="complex step")
    else:
        with pytest.raises(ValueError, match=f"{rule.name} is not analytic"):
            check_gradients(f, leaf, method="complex step")


@pytest.mark.parametrize(
    ("rule", "torchs"),
    [
        (raised, lambda x, y: x**y),
        (mixture, lambda x, y: 2.0 * x - 0.5 * y),
        (half_parabola, lambda x, slope: torch.where(x > 0, x * x, slope * x)),
    ],
    ids=["raised", "mixture", "half_parabola"],
)
@pytest.mark.parametrize("shapes", [((2, 3), (3,)), ((1,), (2, 1)), ((3,), ())])
def test_two_operands_against_torch(rule, torchs, shapes):
    random = np.random.default_rng(0)
    data = [random.uniform(0.2, 2.0, shape) for shape in shapes]
    leaves = [Tensor(x) for x in data]
    theirs = [torch.tensor(x, requires_grad=True) for x in data]
    z, expected = rule(*leaves), torchs(*theirs)
    weights = random.normal(size=z.shape)
    (z * weights).sum().backward()
    (expected * torch.tensor(weights)).sum().backward()
    np.testing.assert_allclose(z.data, expected.detach().numpy(), rtol=1e-13)
    for x, t in zip(leaves, theirs, strict=True):
        np.testing.assert_allclose(x.grad, t.grad.numpy(), rtol=1e-12)
    views = [tb.values(x) for x in data]
    tb.sum(rule(*views) * weights).backward()
    for x, v in zip(leaves, views, strict=True):
        np.testing.assert_allclose(x.grad, v.grad, rtol=1e-12)


def test_two_operands_mixed_second_derivatives():
    x, y = 1.5, -0.75
    z = x**y
    assert tb.grad(tb.grad(raised, 0), 1)(x, y) == near(z / x * (1.0 + y * math.log(x)))
    assert tb.grad(tb.grad(raised, 1), 1)(x, y) == near(z * math.log(x) ** 2)
    assert tb.jvp(raised, (x, y), (1.0, 2.0))[1] == near(z * (y / x + 2.0 * math.log(x)))
    assert tb.grad(tb.grad(mixture, 0), 1)(x, y) == 0.0
    assert tb.jvp(mixture, (x, y), (1.0, 2.0)) == (2.0 * x - 0.5 * y, 1.0)


def test_constants_beside_operands():
    assert raised(2.0, Value(3.0)).data == near(8.0)
    assert raised(Value(2.0), 3).data == near(8.0)
    x = Tensor([2.0])
    raised(x, np.array([3.0])).sum().backward()
    assert x.grad.tolist() == near([12.0])


def test_constant_partials_may_be_integers():
    @tb.elementwise(2, -1)
    def line(m, x, y):
        return 2.0 * x - y

    for kind in (Value, Tensor):
        x, y = kind(3.0), kind(5.0)
        line(x, y).backward()
        assert (float(x.grad), float(y.grad)) == (2.0, -1.0)
    assert tb.taylor(lambda x: line(x, x), 1.0, 2) == [1.0, 1.0, 0.0]


def test_defaults():
    assert half_parabola(-1.0) == -0.5
    assert half_parabola(-1.0, 0.25) == -0.25
    x = Tensor([-1.0, 3.0])
    half_parabola(x).sum().backward()
    assert x.grad.tolist() == [0.5, 6.0]
    slope = Value(0.25)
    half_parabola(-3.0, slope).backward()
    assert slope.grad == -3.0
    with pytest.raises(TypeError, match="half_parabola takes 1 to 2 operands, got 3"):
        half_parabola(1.0, 2.0, 3.0)


def test_a_condition_among_the_operands():
    @tb.elementwise(
        None,
        lambda m, c, x, y: m.where(c, 2.0 * x, 1.0),
        domain=((0.0, 1.0), (-2.0, 2.0)),
    )
    def squared_where(m, c, x):
        return m.where(c, x * x, x)

    x = Value(3.0)
    squared_where(True, x).backward()
    assert x.grad == 6.0
    assert squared_where(False, x).data == 3.0
    for make in (Tensor, tb.values):
        x = make([3.0, 3.0])
        y = squared_where(np.array([True, False]), x)
        y.sum().backward()
        assert y.data.tolist() == [9.0, 3.0]
        assert x.grad.tolist() == [6.0, 1.0]
    assert tb.grad(tb.grad(lambda x: squared_where(True, x)))(3.0) == 2.0


def test_a_condition_is_not_needed_to_be_checked_by_the_user():
    # without domain, as all others
    @tb.elementwise(None, 1.0)
    def passed(m, c, x):
        return x

    assert passed(True, Value(2.0)).data == 2.0


def test_domain_may_be_given_in_integers():
    @tb.elementwise(lambda m, x, y: m.divide(0.5, y), domain=(1, 4))
    def root(m, x):
        return m.sqrt(x)

    assert root(4.0) == 2.0

    @tb.elementwise(lambda m, x, y, z: y, lambda m, x, y, z: x, domain=(1, 4))
    def product(m, x, y):
        return x * y

    assert product(3.0, 2.0) == 6.0


def test_textbook_form_and_description_are_kept():
    def text(m, x, y):
        return 2.0 * x

    @tb.elementwise(lambda m, x, y: x + x, textbook=text, kinks="none", analytic=True)
    def squared(m, x):
        """x times x"""
        return x * x

    assert squared.textbook == (text,)
    assert (squared.__doc__, squared.__name__, squared.kinks) == ("x times x", "squared", "none")
    assert not squared.analytic  # nothing with kinks is
    assert repr(squared) == "<rule squared>"


# --- structural, in every interpreter -------------------------------------------------------------

DATA = np.array([3.0, -1.0, 2.0])
SINGLE = {
    "rotate": (lambda x: rotate(x, 1), lambda t: torch.roll(t, 1)),
    "sort": (sort, lambda t: torch.sort(t).values),
    "weighted": (
        lambda x: weighted(x, np.array([[1.0], [2.0]]), 3.0),
        lambda t: 3.0 * t * torch.tensor([[1.0], [2.0]], dtype=torch.float64),
    ),
    "both operands": (lambda x: weighted(x, x, 0.5), lambda t: 0.5 * t * t),
    "sequence": (
        lambda x: dot_power([x, x * x], 3.0),
        lambda t: (t @ (t * t)) ** 3,
    ),
}
single = pytest.mark.parametrize(("ours", "theirs"), SINGLE.values(), ids=list(SINGLE))


def total(f):
    """A number made of all of f's, with second derivatives."""

    def number(x):
        y = tb.square(f(x))
        return y if isinstance(y, Value) else tb.sum(y)

    return number


def torch_total(f):
    return lambda t: (f(t) ** 2).sum()


@single
def test_structural_value_and_gradient(ours, theirs):
    t = torch.tensor(DATA, requires_grad=True)
    torch_total(theirs)(t).backward()
    for make in (Tensor, tb.values):
        x = make(DATA)
        y = ours(x)
        np.testing.assert_allclose(y.data, theirs(t).detach().numpy(), rtol=1e-14)
        total(ours)(x).backward()
        np.testing.assert_allclose(x.grad, t.grad.numpy(), rtol=1e-12)
        with no_grad():
            np.testing.assert_array_equal(ours(x).data, y.data)
            assert isinstance(x, tb.Values) or not ours(x).requires_grad


@single
def test_structural_hessian_and_products(ours, theirs):
    t = torch.tensor(DATA)
    expected = torch.autograd.functional.hessian(torch_total(theirs), t).numpy()
    gradient = torch.autograd.functional.jacobian(torch_total(theirs), t).numpy()
    v = np.array([1.0, 0.5, -2.0])
    for make in (np.array, tb.values):
        x = make(DATA)
        np.testing.assert_allclose(tb.grad(total(ours))(x), gradient, rtol=1e-12)
        np.testing.assert_allclose(tb.jvp(total(ours), x, v)[1], gradient @ v, rtol=1e-12)
        np.testing.assert_allclose(tb.hessian(total(ours))(x), expected, rtol=1e-11, atol=1e-9)
        np.testing.assert_allclose(tb.hvp(total(ours), x, v), expected @ v, rtol=1e-11, atol=1e-9)


@single
def test_structural_taylor_series(ours, theirs):
    # All of these are polynomials in x of degree 18 or less: interpolated exactly enough.
    def along(h):
        return float(torch_total(theirs)(torch.tensor(DATA + float(h))))

    with mpmath.workdps(30):
        t = [mpmath.mpf(k) / 8 for k in range(-10, 11)]
        values = [_polynomial(theirs, h) for h in t]
        expected = _coefficients(t, values)[:5]
    got = [float(c) for c in tb.taylor(total(ours), DATA, 4)]
    assert got == near([float(c) for c in expected], 1e-9)
    assert got[0] == near(along(0.0))


def _polynomial(theirs, h):
    """The torch formula again, in high precision: on the three numbers one by one."""
    x = [mpmath.mpf(d) + h for d in DATA.tolist()]
    if theirs is SINGLE["rotate"][1] or theirs is SINGLE["sort"][1]:
        return sum(a**2 for a in x)
    if theirs is SINGLE["weighted"][1]:
        return sum((3 * a) ** 2 + (6 * a) ** 2 for a in x)
    if theirs is SINGLE["both operands"][1]:
        return sum((a * a / 2) ** 2 for a in x)
    return sum(a**3 for a in x) ** 6


def _coefficients(t, values):
    matrix = mpmath.matrix([[h**k for k in range(len(t))] for h in t])
    return list(mpmath.lu_solve(matrix, mpmath.matrix(values)))


@single
@pytest.mark.parametrize("make", [Tensor, tb.values])
def test_structural_gradient_check(ours, theirs, make):
    assert check_gradients(total(ours), make(DATA))


@single
def test_structural_under_the_eyes_of_observers(ours, theirs):
    def gradient():
        x = Tensor(DATA)
        total(ours)(x).backward()
        return x.grad

    plain = gradient()
    with tb.count_operations() as counts, tb.detect_anomaly():
        np.testing.assert_array_equal(gradient(), plain)
    assert counts.multiplications > 0


def test_structural_complex_step():
    assert check_gradients(total(lambda x: rotate(x, 1)), Tensor(DATA), method="complex step")
    assert check_gradients(
        total(lambda x: weighted(x, x, 2.0)), Tensor(DATA), method="complex step"
    )
    with pytest.raises(ValueError, match="sort is not analytic"):
        check_gradients(total(sort), Tensor(DATA), method="complex step")


def test_structural_broadcasting():
    x, w = Tensor(np.ones((2, 3))), Tensor([1.0, 2.0, 3.0])
    weighted(x, w, 2.0).sum().backward()
    assert x.grad.tolist() == [[2.0, 4.0, 6.0]] * 2
    assert w.grad.tolist() == [4.0, 4.0, 4.0]


def test_structural_arguments_by_name_and_position():
    x = Tensor(np.arange(6.0).reshape(2, 3))
    y = rotate(x, 1, axis=0)
    assert y.data.tolist() == np.roll(x.data, 1, 0).tolist()
    (y * np.arange(6.0).reshape(2, 3)).sum().backward()
    assert x.grad.tolist() == np.roll(np.arange(6.0).reshape(2, 3), -1, 0).tolist()
    assert [local.name for local in y.locals] == ["rotate_dx"]


def test_structural_sequence():
    x, y = Tensor([1.0, 2.0]), Tensor([3.0, 5.0])
    z = dot_power([x, y], 2.0)
    z.backward()
    assert z.item() == near(169.0)
    assert x.grad.tolist() == near([2 * 13 * 3.0, 2 * 13 * 5.0])
    assert y.grad.tolist() == near([2 * 13 * 1.0, 2 * 13 * 2.0])
    with pytest.raises(TypeError, match="dot_power: expected a list or tuple"):
        dot_power(x, y, 2.0)


def test_structural_needs_an_array():
    with pytest.raises(TypeError, match="sort: expected a Tensor"):
        sort(np.array([1.0]))
    with pytest.raises(TypeError, match="sort works on arrays"):
        sort(Value(1.0))


@pytest.mark.parametrize("forward", ["linear", "pullback", "formula"])
def test_ways_of_forward_mode(forward):
    def doubled_dx(m, g, y, x):
        return 2.0 * g

    @tb.structural(doubled_dx, forward=forward, check=[(DATA,)])
    def doubled(m, x):
        return 2.0 * x

    assert tb.jvp(doubled, DATA, np.ones(3))[1].tolist() == [2.0, 2.0, 2.0]


# --- in networks and pictures ---------------------------------------------------------------------


def test_as_activation_of_a_network_and_of_its_scalar_view():
    network = nn.MLP([2, 3, 1], softsign, rng=0)
    x = np.array([[0.5, -1.0], [2.0, 0.25]])
    view = network.scalar_view()
    for net in (network, view):
        nn.squared_error(net(x), np.ones((2, 1))).backward()
    t = [torch.tensor(p.data, requires_grad=True) for p in network.parameters()]
    z = torch.tensor(x) @ t[0] + t[1]
    out = torch.nn.functional.softsign(z) @ t[2] + t[3]
    (0.5 * ((out - 1.0) ** 2).sum() / 2).backward()
    for p, v, expected in zip(network.parameters(), view.parameters(), t, strict=True):
        np.testing.assert_allclose(p.grad, expected.grad.numpy(), rtol=1e-12)
        np.testing.assert_allclose(v.grad, expected.grad.numpy(), rtol=1e-12)


def test_in_pictures():
    x = Value(0.5, "x")
    text = draw(softsign(x) * 2.0)
    assert "softsign" in str(getattr(text, "svg", text))
    y = rotate(softsign(Tensor(DATA, "x")), 1)
    y.label = "y"
    assert "rotate" in str(getattr(draw(y), "svg", draw(y)))


def test_modules_that_hold_an_operation_can_be_copied_and_pickled():
    network = nn.MLP([2, 3, 1], softsign, rng=0)
    x = np.ones((1, 2))
    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert twin.activations[0] is softsign
        assert twin(x).data.tolist() == network(x).data.tolist()
        assert twin.layers[0].W is not network.layers[0].W
    assert pickle.loads(pickle.dumps(sort)) is sort
    assert copy.deepcopy(sort) is sort


# --- names ----------------------------------------------------------------------------------------


def test_the_name_of_a_builtin_may_be_used():
    before = dict(tb.RULES), dict(tb.ARRAY_RULES)

    @tb.elementwise(lambda m, x, y: 3.0 * x * x)
    def tanh(m, x):
        return x * x * x

    def sum_dx(m, g, y, x):
        return m.broadcast_to(2.0 * g, x.shape)

    @tb.structural(sum_dx, check=[(DATA,)])
    def sum(m, x):
        return 2.0 * m.sum(x)

    assert (dict(tb.RULES), dict(tb.ARRAY_RULES)) == before
    x = Value(2.0)
    (tanh(x) + tb.tanh(x)).backward()
    assert x.grad == near(12.0 + 1.0 / math.cosh(2.0) ** 2)
    assert tb.grad(tb.grad(tanh))(2.0) == near(12.0)
    assert tb.grad(tb.grad(tb.tanh))(2.0) == near(-2.0 * math.tanh(2.0) / math.cosh(2.0) ** 2)
    t = Tensor(DATA)
    (sum(t) + tb.sum(t)).backward()
    assert t.grad.tolist() == [3.0, 3.0, 3.0]


def test_an_operation_can_be_defined_again():
    def define(factor):
        @tb.elementwise(factor)
        def scaled(m, x):
            return factor * x

        def pick_dx(m, g, y, x):
            return factor * g

        @tb.structural(pick_dx, check=[(DATA,)])
        def picked(m, x):
            return factor * x

        return scaled, picked

    first, second = define(2.0), define(5.0)
    for (scaled, picked), factor in [(second, 5.0), (first, 2.0)]:
        x, t = Value(1.0), Tensor(DATA)
        scaled(x).backward()
        picked(t).sum().backward()
        assert x.grad == factor
        assert t.grad.tolist() == [factor] * 3


# --- what the check refuses -----------------------------------------------------------------------


def cube(partial, **options):
    @tb.elementwise(partial, **options)
    def cube(m, x):
        return x * x * x

    return cube


@pytest.mark.parametrize(
    "partial",
    [
        lambda m, x, y: 2.0 * x * x,
        lambda m, x, y: -3.0 * x * x,
        lambda m, x, y: 3.0 * x * x + 1e-4,
        lambda m, x, y: 3.0 * y,
        3.0,
        0.0,
        lambda m, x, y: 3.0 * x * x * m.where(x > 2.5, 1.001, 1.0),  # wrong in a corner
    ],
)
def test_wrong_partial(partial):
    with pytest.raises(ValueError, match=r"cube: its derivative is wrong at \(-?\d.*DISAGREE"):
        cube(partial)


@pytest.mark.parametrize(
    "partial",
    [
        lambda m, x, y: 3.0 * detached(x) * detached(x),
        lambda m, x, y: 3.0 * x * detached(x),
        lambda m, x, y: 3.0 * getattr(x, "data", x) * x if isinstance(x, Value) else 3.0 * x * x,
        lambda m, x, y: 3.0 * x * x if isinstance(x, (float, np.ndarray)) else 2.0 * x * x * x,
    ],
)
def test_partial_of_the_right_number_that_hides_how_it_depends(partial):
    # (The last one gives other numbers on nodes than on floats.)
    expected = r"cube: dx.* is .* at \(-?\d"
    with pytest.raises(ValueError, match=expected):
        cube(partial)


def detached(x):
    return x.detach() if isinstance(x, (Value, Tensor)) else x


def test_partial_that_is_wrong_on_arrays_alone():
    def partial(m, x, y):
        return 3.0 * x * x + (1.0 if isinstance(x, np.ndarray) else 0.0)

    with pytest.raises(ValueError, match="cube: its derivative is wrong: "):
        cube(partial)


def test_partial_that_hides_on_arrays_alone():
    def partial(m, x, y):
        return 3.0 * x * (x.detach() if isinstance(x, Tensor) else x)

    with pytest.raises(ValueError, match="cube: its derivative, differentiated again, is wrong"):
        cube(partial)


def test_wrong_partial_by_the_second_operand():
    with pytest.raises(ValueError, match=r"area: its derivative is wrong at .*worst: y:"):

        @tb.elementwise(lambda m, x, y, z: y, lambda m, x, y, z: -x)
        def area(m, x, y):
            return x * y


def test_hidden_dependence_of_one_partial_is_named():
    with pytest.raises(ValueError, match=r"area: dy, differentiated again, is wrong"):

        @tb.elementwise(lambda m, x, y, z: y, lambda m, x, y, z: detached(x))
        def area(m, x, y):
            return x * y


def test_condition_that_has_a_derivative():
    with pytest.raises((ValueError, TypeError), match="scaled_by"):

        @tb.elementwise(None, lambda m, c, x, y: 3.0 * c)
        def scaled_by(m, c, x):
            return (2.0 + c) * x


def test_values_that_differ_between_numbers_and_arrays():
    with pytest.raises(ValueError, match="square_plus: on arrays it gives other numbers"):

        @tb.elementwise(lambda m, x, y: 2.0 * x)
        def square_plus(m, x):
            return x * x + (1e-3 if isinstance(x, np.ndarray) else 0.0)


@pytest.mark.parametrize(
    "value",
    [
        lambda m, x: x if x > 0 else 0.0 * x,
        lambda m, x: max(x, 0.0),
        lambda m, x: x * math.copysign(0.5, x) + 0.5 * x,
    ],
)
def test_construct_for_numbers_alone(value):
    def rectified(m, x):
        return value(m, x)

    # the error is Python's or numpy's own; it must say which operation has it
    with pytest.raises((ValueError, TypeError), match="rectified"):
        tb.elementwise(lambda m, x, y: m.where(x > 0, 1.0, 0.0))(rectified)


def test_partial_for_numbers_alone():
    with pytest.raises((ValueError, TypeError), match="rectified"):

        @tb.elementwise(lambda m, x, y: 1.0 if x > 0 else 0.0)
        def rectified(m, x):
            return m.maximum(x, 0.0)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (lambda m, x: m.log(x), r"it is nan at \(-\d"),
        (lambda m, x: m.exp(1000.0 * m.absolute(x)), r"it is inf at \("),
    ],
)
def test_domain_where_it_is_not_finite(value, shown):
    def logarithm(m, x):
        return value(m, x)

    with pytest.raises(ValueError, match=f"logarithm: {shown}.*give a domain"):
        tb.elementwise(lambda m, x, y: m.divide(1.0, x))(logarithm)


def test_domain_where_it_is_finite():
    @tb.elementwise(lambda m, x, y: m.divide(1.0, x), domain=(0.5, 2.0))
    def logarithm(m, x):
        return m.log(x)

    assert math.isnan(logarithm(-1.0))
    assert logarithm(1.0) == 0.0


def test_partial_that_is_nan():
    with pytest.raises(ValueError, match="cube: its derivative is wrong"):
        cube(lambda m, x, y: 3.0 * m.log(-x * x - 1.0))


@pytest.mark.parametrize("partials", [(1.0,), (1.0, 1.0, 1.0)])
def test_one_partial_per_operand(partials):
    with pytest.raises(ValueError, match=f"plus has 2 operands, but {len(partials)} partials"):

        @tb.elementwise(*partials)
        def plus(m, x, y):
            return x + y


def test_one_interval_per_operand():
    with pytest.raises(ValueError, match="plus has 2 operands, but 2 partials and 3 domains"):

        @tb.elementwise(1.0, 1.0, domain=((0.0, 1.0),) * 3)
        def plus(m, x, y):
            return x + y


def test_partial_of_the_wrong_arity():
    with pytest.raises((ValueError, TypeError), match="cube"):
        cube(lambda m, x: 3.0 * x * x)


def test_without_check_nothing_is_tried():
    wrong = cube(lambda m, x, y: 2.0 * x, check=False)
    assert wrong(2.0) == 8.0
    with pytest.raises(ValueError, match="cube: its derivative is wrong"):
        check_rule(wrong)

    def wrong_dx(m, g, y, x):
        return 3.0 * g

    @tb.structural(wrong_dx)
    def doubled(m, x):
        return 2.0 * x

    with pytest.raises(ValueError, match="doubled: its derivative is wrong"):
        check_rule(doubled, (DATA,))
    with pytest.raises(ValueError, match="doubled: expected examples"):
        check_rule(doubled)


def test_check_of_given_points():
    right_above_zero = cube(lambda m, x, y: 3.0 * x * m.absolute(x), check=False)
    check_rule(right_above_zero, (0.5,), (2.0,))
    with pytest.raises(ValueError, match=r"cube: its derivative is wrong at \(-0.5\)"):
        check_rule(right_above_zero, (0.5,), (-0.5,))


def test_builtin_operations_pass_the_check():
    for name in ("tanh", "divide", "erf", "hypot", "arctan2", "gelu", "elu", "where"):
        check_rule(tb.RULES[name])
    check_rule(tb.matmul, (np.ones((2, 3)), np.arange(3.0)))
    check_rule(tb.softmax, (np.arange(6.0).reshape(2, 3), 0))


def doubled(pullback, examples=((DATA,),), **options):
    def doubled_dx(m, g, y, x):
        return pullback(m, g, x)

    @tb.structural(doubled_dx, check=list(examples), **options)
    def doubled(m, x):
        return 2.0 * x

    return doubled


@pytest.mark.parametrize(
    "pullback",
    [
        lambda m, g, x: g,
        lambda m, g, x: -2.0 * g,
        lambda m, g, x: 2.0 * m.flip(g),
        lambda m, g, x: 2.0 + 0.0 * g,
        lambda m, g, x: 2.0 * m.sum(g) + 0.0 * x,
        lambda m, g, x: 2.0 * m.absolute(g),
    ],
)
def test_wrong_pullback(pullback):
    with pytest.raises(ValueError, match=r"doubled: its derivative is wrong: .*operand 0"):
        doubled(pullback)


def test_pullback_of_the_right_number_that_hides_how_it_depends():
    def squares_dx(m, g, y, x):
        return 2.0 * g * detached(x)

    with pytest.raises(ValueError, match="squares: its derivative, differentiated again, is wrong"):

        @tb.structural(squares_dx, check=[(DATA,)])
        def squares(m, x):
            return x * x


def test_pullback_that_hides_how_it_depends_on_the_gradient():
    with pytest.raises(ValueError, match="doubled"):
        doubled(lambda m, g, x: 2.0 * detached(g))


def test_forward_mode_that_is_not_the_operations():
    def squares_dx(m, g, y, x):
        return 2.0 * g * x

    with pytest.raises(ValueError, match=r"squares: forward mode gives .* reverse"):

        @tb.structural(squares_dx, forward="linear", check=[(DATA,)])
        def squares(m, x):
            return x * x


@pytest.mark.parametrize(
    "pullback",
    [
        lambda m, g, x: m.sum(g),
        lambda m, g, x: m.getitem(g, slice(0, 1)),
        lambda m, g, x: m.getitem(g, slice(0, 2)),
        lambda m, g, x: m.concatenate([g, g]),
        lambda m, g, x: None,
        lambda m, g, x: 2.0,
    ],
    ids=["number", "first", "two of three", "twice as long", "None", "float"],
)
def test_pullback_of_the_wrong_shape(pullback):
    with pytest.raises((ValueError, TypeError), match="doubled"):
        doubled(pullback)


def test_pullback_that_is_still_broadcast_is_summed():
    rule = doubled(lambda m, g, x: m.stack([g, g]))  # summed to 2g
    x = Tensor(DATA)
    rule(x).sum().backward()
    assert x.grad.tolist() == [2.0, 2.0, 2.0]


def test_pullback_of_the_wrong_arity():
    def doubled_dx(m, g, y):
        return 2.0 * g

    with pytest.raises((ValueError, TypeError), match="doubled"):

        @tb.structural(doubled_dx, check=[(DATA,)])
        def doubled(m, x):
            return 2.0 * x


def test_missing_pullback():
    def plus_dx(m, g, z, x, y):
        return g

    # one pullback for two operands: the second is taken for a plain argument, and never moved
    with pytest.raises((ValueError, TypeError), match="plus"):

        @tb.structural(plus_dx, plus_dx, plus_dx, check=[(DATA, DATA)])
        def plus(m, x, y):
            return x + y


def test_value_that_differs_between_arrays_and_values():
    # structural operations run on arrays of Values too, and must give the same there
    def mean_dx(m, g, y, x):
        return m.broadcast_to(m.divide(g, float(x.shape[0])), x.shape)

    with pytest.raises((ValueError, TypeError), match="center"):

        @tb.structural(mean_dx, check=[(DATA,)])
        def center(m, x):
            return m.sum(x) * (1.0 / x.shape[0] if x.dtype != object else 1.0)


def test_examples_are_not_changed():
    mine = DATA.copy()
    doubled(lambda m, g, x: 2.0 * g, [(mine,)])
    assert mine.tolist() == DATA.tolist()
    mine[0] = 1.0  # and can still be written to


@pytest.mark.parametrize("block", [no_grad, lambda: tb.scope("s"), tb.detect_anomaly])
def test_operations_can_be_defined_within_any_block(block):
    with block():
        enabled = tb.is_grad_enabled()
        cube(lambda m, x, y: 3.0 * x * x)
        doubled(lambda m, g, x: 2.0 * g)
        with pytest.raises(ValueError, match="wrong"):
            cube(1.0)
        assert tb.is_grad_enabled() == enabled
    assert tb.is_grad_enabled()


def test_what_a_check_computes_is_not_counted():
    with tb.count_operations() as counts:
        cube(lambda m, x, y: 3.0 * x * x)
    assert counts.total == 0


@pytest.mark.parametrize("derivative", [tb.grad, lambda f: lambda x: tb.jvp(f, x, 1.0)[1]])
def test_operations_can_be_defined_within_a_derivative(derivative):
    def f(x):
        return cube(lambda m, x, y: 3.0 * x * x)(x)

    assert derivative(f)(2.0) == 12.0
    assert derivative(derivative(f))(2.0) == 12.0


def test_an_error_in_a_formula_of_ones_own_shows_where_it_arose():
    def formula(m, x, y):
        """Not finished"""
        raise ValueError("here")

    rule = tb.elementwise(lambda m, x, y, z: z, lambda m, x, y, z: z, check=False)(formula)
    with pytest.raises(ValueError, match=r"^here$") as raised:
        rule(tb.Tensor([1.0]), 2.0)
    assert raised.traceback[-1].name == "formula"


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("values", [False, True])
def test_an_error_in_a_formula_of_ones_own_keeps_its_cause(values, compiled):
    def formula(m, x):
        try:
            raise KeyError("first")
        except KeyError as error:
            raise ValueError("second") from error

    rule = tb.structural(lambda m, g, y, x: g)(formula)
    f = tb.compile(rule) if compiled else rule
    with pytest.raises(ValueError, match=r"^second$") as raised:
        f(tb.values([1.0]) if values else tb.Tensor([1.0]))
    assert isinstance(raised.value.__cause__, KeyError)
