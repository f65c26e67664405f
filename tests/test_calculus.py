"""Derivatives of functions: what they take, what they return, and known Hessians."""

import inspect
import itertools
import math
import sys
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

import numpy as np
import pytest
from test_array_rules import B, M, V, numbers

import tinygrad_bp as tb
from tinygrad_bp import Tensor, Value, Values, nn
from tinygrad_bp.evaluation import Run, _evaluate, _under_way, within

KINDS = pytest.mark.parametrize("kind", [float, np.array], ids=["Value", "Tensor"])
A = numbers(4, 4) @ numbers(4, 4).T
MODES = ["reverse", "forward", "auto"]
every_mode = pytest.mark.parametrize("mode", MODES)


@pytest.fixture(scope="module")
def jax():
    jax = pytest.importorskip("jax", reason="JAX is the oracle of this test")
    jax.config.update("jax_enable_x64", True)
    return jax


def quadratic(x):
    return tb.einsum("i,ij,j->", x, A, x)


# --- which argument -----------------------------------------------------------------------------


def product(a, b, c=2.0, *, d=1.0):
    return a * a * b * c * d


BY = {"a": 60.0, "b": 18.0, "c": 45.0, "d": 90.0}  # at a, b, c, d = 3, 5, 2, 1


@pytest.mark.parametrize(
    ("argnums", "args", "kwargs", "expected"),
    [
        (0, (3.0, 5.0), {}, BY["a"]),
        (1, (3.0, 5.0), {}, BY["b"]),
        (-1, (3.0, 5.0), {}, BY["b"]),
        (-2, (3.0, 5.0), {}, BY["a"]),
        ("a", (3.0, 5.0), {}, BY["a"]),
        ("b", (3.0, 5.0), {}, BY["b"]),
        ("b", (3.0,), {"b": 5.0}, BY["b"]),
        ("a", (), {"b": 5.0, "a": 3.0}, BY["a"]),
        ("c", (3.0, 5.0, 2.0), {}, BY["c"]),
        ("d", (3.0, 5.0), {"d": 1.0}, BY["d"]),
        ((0, 1), (3.0, 5.0), {}, (BY["a"], BY["b"])),
        ((1, 0), (3.0, 5.0), {}, (BY["b"], BY["a"])),
        ([0], (3.0, 5.0), {}, (BY["a"],)),
        ((-1, "a", "d"), (3.0, 5.0), {"d": 1.0}, (BY["b"], BY["a"], BY["d"])),
        (range(2), (3.0, 5.0), {}, (BY["a"], BY["b"])),
    ],
)
def test_argnums(argnums, args, kwargs, expected):
    assert tb.grad(product, argnums)(*args, **kwargs) == expected
    assert tb.value_and_grad(product, argnums)(*args, **kwargs) == (90.0, expected)
    for mode in MODES:
        assert tb.jacobian(product, argnums, mode=mode)(*args, **kwargs) == expected
    if isinstance(expected, float):
        again = tb.hessian(product, argnums)(*args, **kwargs)
        assert again == (30.0 * 2.0 / 3.0 if expected == BY["a"] else 0.0)


@pytest.mark.parametrize(
    ("argnums", "args", "kwargs"),
    [
        (2, (3.0, 5.0), {}),
        (-3, (3.0, 5.0), {}),
        ("e", (3.0, 5.0), {}),
        ("b", (3.0,), {}),
        ((0, 0), (3.0, 5.0), {}),
        ((0, "a"), (3.0, 5.0), {}),
        ((1, -1), (3.0, 5.0), {}),
    ],
)
def test_arguments_that_are_not_there_or_there_twice(argnums, args, kwargs):
    with pytest.raises((ValueError, TypeError), match=r"argnums|missing"):
        tb.grad(product, argnums)(*args, **kwargs)


def test_other_arguments_are_handed_through():
    sentinel = object()

    def f(x, other, *more, flag, **options):
        assert other is sentinel
        assert more == (None, "text")
        assert flag is True
        assert options == {"z": [1]}
        return x * x

    arguments = (3.0, sentinel, None, "text")
    assert tb.grad(f)(*arguments, flag=True, z=[1]) == 6.0
    assert tb.jacobian(f, mode="forward")(*arguments, flag=True, z=[1]) == 6.0
    assert tb.hessian(f, "x")(*arguments, flag=True, z=[1]) == 2.0


def test_functions_keep_their_name():
    for of in (tb.grad, tb.value_and_grad, tb.jacobian, tb.hessian, tb.derivative):
        assert of(product).__name__ == "product"


def test_functions_without_a_signature():
    assert tb.grad(tb.sin)(0.0) == 1.0
    assert tb.grad(max)(2.0, 1.0) == 1.0
    with pytest.raises(TypeError, match=r"argument 0|x"):
        tb.grad(max)("1", 1.0)


# --- what f may return --------------------------------------------------------------------------


def test_has_aux():
    def f(x):
        return x * x, {"seen": x, "text": "anything"}

    (value, aux), g = tb.value_and_grad(f, has_aux=True)(3.0)
    assert (value, g, aux["text"], float(aux["seen"])) == (9.0, 6.0, "anything", 3.0)
    for bad in (lambda x: x * x, lambda x: (x, x, x), lambda x: [x, x]):
        with pytest.raises(TypeError, match="pair"):
            tb.value_and_grad(bad, has_aux=True)(3.0)
    # within another derivative
    second = tb.grad(lambda x: tb.value_and_grad(f, has_aux=True)(x)[1])
    assert second(3.0) == 2.0


NOT_NODES = {
    "math": lambda x: math.sin(x),
    "data": lambda x: x.data,
    "float": lambda x: float(x),
    "None": lambda x: None,
    "a list": lambda x: [x, x],
    "a tuple": lambda x: (x,),
    "a string": lambda x: "x",
}


@pytest.mark.parametrize("name", NOT_NODES)
def test_functions_that_return_no_node_are_refused(name):
    f = NOT_NODES[name]
    for of in (tb.grad, tb.value_and_grad, tb.jacobian, tb.hessian, tb.derivative):
        with pytest.raises(TypeError, match="lambda> to return"):
            of(f)(2.0)
    with pytest.raises(TypeError, match="lambda> to return"):
        tb.vjp(f, 2.0)
    with pytest.raises(TypeError, match="lambda> to return"):
        tb.hvp(f, 2.0, 1.0)


def test_several_numbers_have_no_gradient():
    for of in (tb.grad, tb.value_and_grad, tb.hessian):
        for f in (lambda x: x * x, lambda x: tb.values(V) * 2.0):
            with pytest.raises(ValueError, match=r"single number, got shape \(5,\)"):
                of(f)(V)
        with pytest.raises(ValueError, match=r"\(0,\)"):
            of(lambda x: x[:0])(V)
    with pytest.raises(ValueError, match="single number"):
        tb.hvp(lambda x: x * x, V, V)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_single_numbers_of_any_shape(shape):
    x, ones = np.full(shape, 3.0), np.ones(shape)

    def f(x):
        assert x.shape == shape
        return x * x * x

    value, pull = tb.vjp(f, x)
    seconds = [tb.hvp(f, x, ones) * 1.5, tb.derivative(f, 2)(x) * 1.5]
    for got in (*tb.value_and_grad(f)(x), *tb.jvp(f, x, ones), value, *pull(ones), *seconds):
        assert np.shape(got) == shape
        assert got == 27.0
    for got in (tb.hessian(f)(x) * 1.5, *(tb.jacobian(f, mode=mode)(x) for mode in MODES)):
        assert np.shape(got) == shape + shape
        assert got == 27.0
    if shape:
        with pytest.raises(ValueError, match="u: expected shape"):
            pull(1.0)


def test_kinds_of_numbers():
    for result in (
        tb.grad(tb.sin)(1),
        tb.grad(tb.sin)(np.float32(1.0)),
        tb.grad(tb.sin)(Value(1.0)),
        tb.hessian(tb.sin)(1.0),
        tb.hvp(tb.sin, 1.0, 1),
        tb.jvp(tb.sin, 1.0, 1)[1],
        tb.derivative(tb.sin)(1),
        tb.taylor(tb.sin, 1, 2)[2],
        tb.vjp(tb.sin, 1)[1](1)[0],
        tb.value_and_grad(tb.sum)(V)[0],
        tb.jvp(tb.sum, V, V)[1],
        tb.grad(tb.sin)(np.array(1.0)),
        tb.jacobian(tb.sin)(1.0),
        tb.vjp(tb.sin, 1)[0],
        tb.value_and_grad(tb.sin)(1.0)[0],
    ):
        assert type(result) is float
    for result in (
        tb.grad(tb.sum)(V),
        tb.grad(tb.sum)(V.astype(int)),
        tb.grad(tb.sum)(Tensor(V)),
        tb.hessian(tb.sum)(V),
        tb.hvp(tb.sum, V, V),
        tb.jvp(tb.sin, V, V)[1],
        tb.derivative(tb.sin)(V),
        tb.taylor(tb.sin, V, 2)[2],
        tb.vjp(tb.sin, V)[0],
        tb.vjp(tb.sum, V)[1](1.0)[0],
        tb.jacobian(tb.sum)(V),
    ):
        assert type(result) is np.ndarray
        assert result.dtype == np.float64


# --- zeros --------------------------------------------------------------------------------------

CONSTANT = {
    "another constant": lambda x: Tensor(2.0, requires_grad=False),
    "another leaf": lambda x: Tensor(2.0),
    "another history": lambda x: Tensor(2.0) * 3.0,
    "a Value": lambda x: Value(2.0) * 3.0,
    "detached": lambda x: tb.sum(x.detach() * 2.0),
}


@pytest.mark.parametrize("name", CONSTANT)
def test_derivatives_of_constants_are_zeros_of_the_right_shape(name):
    f = CONSTANT[name]
    assert_zeros(tb.grad(f)(M), (3, 4))
    assert_zeros(tb.grad(f, create_graph=True)(M).data, (3, 4))
    assert_zeros(tb.hessian(f)(M), (3, 4, 3, 4))
    assert_zeros(tb.hvp(f, M, M), (3, 4))
    assert_zeros(tb.jvp(f, M, M)[1], ())
    for mode in MODES:
        assert_zeros(tb.jacobian(f, mode=mode)(M), (3, 4))
    assert_zeros(tb.vjp(f, M)[1](1.0)[0], (3, 4))
    assert_zeros(tb.taylor(f, M, 2)[2], ())
    assert_zeros(tb.derivative(f)(M), ())
    assert_zeros(tb.grad(lambda x: tb.sum(tb.grad(f)(x) * x))(M), (3, 4))


def assert_zeros(x, shape):
    assert np.shape(x) == shape
    assert not np.any(x)


def test_arguments_that_are_not_used_have_derivative_zero():
    a, b, c = tb.grad(lambda a, b, c: tb.sum(b * b), (0, 1, 2))(2.0, V, M)
    assert a == 0.0
    np.testing.assert_array_equal(b, 2.0 * V)
    assert_zeros(c, (3, 4))
    (_, ab, ac), _, (ca, cb, cc) = tb.hessian(lambda a, b, c: tb.sum(b * b), (0, 1, 2))(2.0, V, M)
    assert_zeros(ab, (5,))
    assert_zeros(ac, (3, 4))
    assert_zeros(ca, (3, 4))
    assert_zeros(cb, (3, 4, 5))
    assert_zeros(cc, (3, 4, 3, 4))
    zero = tb.grad(lambda a, b: b * b)(Value(2.0), Value(3.0))
    assert (type(zero), zero) == (float, 0.0)
    assert_zeros(tb.jacobian(lambda x, y: y * y)(V, Tensor(V)), (5, 5))
    assert_zeros(tb.jacobian(lambda x, y: y * y, mode="forward")(V, Tensor(V)), (5, 5))


# Found: no Jacobian or Hessian of, or by, an empty array: reshape(-1, 0) is ambiguous.
@every_mode
@pytest.mark.parametrize(("n", "m"), [(0, 0), (0, 3), (3, 0)])
def test_empty_arrays(n, m, mode):
    C = np.ones((m, n))
    J = tb.jacobian(lambda x: C @ x, mode=mode)(np.ones(n))
    np.testing.assert_array_equal(J, C)
    x = np.ones(n)
    assert tb.grad(lambda x: tb.sum(x * x))(x).shape == (n,)
    assert tb.hessian(lambda x: tb.sum(x * x))(x).shape == (n, n)
    assert tb.hvp(lambda x: tb.sum(x * x), x, x).shape == (n,)
    assert tb.jvp(lambda x: C @ x, x, x)[1].shape == (m,)
    assert tb.derivative(lambda x: x * x, 2)(x).shape == (n,)


# --- Jacobians ----------------------------------------------------------------------------------


@every_mode
@pytest.mark.parametrize(
    ("result", "argument"), list(itertools.product([(), (1,), (2, 3)], [(), (1,), (2,), (2, 1, 2)]))
)
def test_jacobians_of_linear_maps_are_their_arrays(result, argument, mode):
    L = np.asarray(numbers(*result, *argument))

    def f(x):
        rows = L.reshape(-1, math.prod(argument))
        return (rows @ x.reshape(-1)).reshape(result)

    J = tb.jacobian(f, mode=mode)(np.asarray(numbers(*argument, seed=1)))
    assert np.shape(J) == result + argument
    np.testing.assert_allclose(J, L, rtol=1e-15)


@every_mode
def test_jacobians_of_curves(mode):
    def f(x, y):
        return tb.stack([tb.sum(x * x) * y, tb.sin(y) * x[0], x[1] ** 3])

    x, y = np.array([2.0, 3.0]), np.array(0.5)
    jx, jy = tb.jacobian(f, (0, 1), mode=mode)(x, y)
    s, c = math.sin(0.5), math.cos(0.5)
    np.testing.assert_allclose(jx, [[2.0, 3.0], [s, 0.0], [0.0, 27.0]], rtol=1e-15)
    np.testing.assert_allclose(jy, [13.0, 2.0 * c, 0.0], rtol=1e-15)
    jacobian = tb.jacobian(lambda x: f(x, Tensor(y)), mode=mode, create_graph=True)
    leaf = Tensor(x)
    J = jacobian(leaf)
    assert isinstance(J, Tensor)
    tb.sum(J * J).backward()
    # |J|² = (2 y)² (x₀² + x₁²) + s² + (3 x₁²)²
    np.testing.assert_allclose(leaf.grad, [4.0, 6.0 + 36.0 * 27.0], rtol=1e-14)
    nested = tb.jacobian(tb.jacobian(lambda x: f(x, Tensor(y)), mode=mode), mode=mode)(x)
    expected = np.zeros((3, 2, 2))
    expected[0] = np.eye(2)
    expected[2, 1, 1] = 18.0
    np.testing.assert_allclose(nested, expected, rtol=1e-15)


def test_auto_takes_the_cheaper_mode():
    calls = []

    def f(x):
        calls.append(x)
        return C @ x

    for shape, most in (((2, 9), 1), ((9, 2), 3), ((3, 3), 1)):
        C = numbers(*shape)
        calls.clear()
        np.testing.assert_allclose(tb.jacobian(f)(np.ones(shape[1])), C, rtol=1e-15)
        assert len(calls) == most
    with pytest.raises(ValueError, match="mode: expected 'auto', 'reverse' or 'forward'"):
        tb.jacobian(f, mode="backward")


def test_vjp_can_be_pulled_many_times():
    value, pull = tb.vjp(lambda x, y: x @ y, M, numbers(4, 2))
    assert value.shape == (3, 2)
    for u in np.eye(6).reshape(6, 3, 2):
        gx, gy = pull(u)
        np.testing.assert_allclose(gx, u @ numbers(4, 2).T, rtol=1e-15)
        np.testing.assert_allclose(gy, M.T @ u, rtol=1e-15)
    for bad in (np.ones((2, 3)), np.ones(6), 1.0):
        with pytest.raises(ValueError, match=r"u: expected shape \(3, 2\)"):
            pull(bad)
    for bad in ("1", None, np.ones((3, 2), complex), np.ones((3, 2), bool)):
        with pytest.raises(TypeError):
            pull(bad)
    _, pull = tb.vjp(tb.sin, 1.0)
    with pytest.raises(TypeError):
        pull(np.ones(2))


# --- dtypes and memory --------------------------------------------------------------------------


def test_float32_stays_float32():
    x = V.astype(np.float32)

    def f(x):
        return tb.sum(tb.softmax(x) * x**3) * 0.5 + tb.prod(x) + tb.max(x)

    results = [
        tb.grad(f)(x),
        tb.hessian(f)(x),
        tb.hvp(f, x, x),
        tb.hvp(f, x, x.astype(np.float64)),
        *tb.jvp(tb.tanh, x, x),
        *tb.jvp(tb.flip, x, np.ones(5)),
        *(tb.jacobian(tb.flip, mode=mode)(x) for mode in MODES),
        *tb.jvp(lambda x: x, x, Tensor(np.ones(5))),
        *tb.jvp(tb.sin, x, np.ones(5)),
        *tb.taylor(tb.tanh, x, 4),
        *(tb.jacobian(tb.tanh, mode=mode)(x) for mode in MODES),
        tb.vjp(tb.sin, x)[0],
        tb.vjp(tb.sin, x)[1](np.ones(5))[0],
        tb.derivative(tb.tanh, 3)(x),
        tb.grad(lambda x: tb.sum(x.detach()))(x),
        tb.derivative(lambda x: x**2 / 3.0 - 0.1)(x),
        tb.jvp(lambda x: 2.0**x, x, x)[1],
        tb.grad(f, create_graph=True)(x).data,
        tb.grad(lambda x: tb.sum(tb.grad(f)(x)))(x),
    ]
    assert [r.dtype for r in results] == [np.float32] * len(results)
    wide = tb.hessian(f)(x.astype(np.float64))
    np.testing.assert_allclose(results[1], wide, rtol=1e-4, atol=1e-4)
    a, b = tb.grad(lambda a, b: tb.sum(a * b), (0, 1))(x, V)
    assert (a.dtype, b.dtype) == (np.float32, np.float64)
    (aa, ab), (ba, bb) = tb.hessian(lambda a, b: tb.sum(a * b), (0, 1))(x, V)
    assert (aa.dtype, bb.dtype) == (np.float32, np.float64)
    np.testing.assert_array_equal(ab, np.eye(5))
    np.testing.assert_array_equal(ba, np.eye(5))


SHARING = {
    "identity": lambda x: x,
    "reshape": lambda x: x.reshape(-1),
    "broadcast": lambda x: tb.broadcast_to(x, (2, 3, 4)),
    "sum": lambda x: tb.sum(x),
    "transpose": lambda x: x.T,
    "positive": lambda x: +x,
    "addition": lambda x: x + x,
}


@pytest.mark.parametrize("name", SHARING)
def test_results_share_no_memory(name):
    f = SHARING[name]
    x, v, leaf = M.copy(), M + 1.0, Tensor(M)
    u = np.ones(f(leaf).shape)

    def number(a, b):
        return tb.sum(f(a) * 1.0) + tb.sum(f(b))

    value, tangent = tb.jvp(f, x, v)
    again, pull = tb.vjp(f, x)
    results = [
        *tb.grad(number, (0, 1))(x, x),
        *tb.grad(number, (0, 1))(leaf, leaf),
        value,
        tangent,
        again,
        *pull(u),
        *pull(u),
        *tb.jvp(f, leaf, Tensor(v)),
        *tb.vjp(f, leaf)[1](u),
        tb.hvp(lambda x: tb.sum(f(x) ** 2), x, v),
        *tb.taylor(f, x, 2),
        tb.jacobian(f)(x),
        tb.hessian(lambda x: tb.sum(f(x) ** 2))(x),
        tb.derivative(f, 0)(x),
        tb.derivative(f, 0)(leaf),
    ]
    results = [r for r in results if type(r) is np.ndarray]  # and not a float
    before = [r.copy() for r in results]
    for r in results:
        assert r.flags.writeable
        for other in (x, v, u, leaf.data):
            assert not np.shares_memory(r, other)
    for a, b in itertools.combinations(results, 2):
        assert not np.shares_memory(a, b)
    for r, expected in zip(results, before, strict=True):
        np.testing.assert_array_equal(r, expected)
        r += 1.0  # must not be seen by those after it
    np.testing.assert_array_equal(x, M)
    np.testing.assert_array_equal(pull(u)[0], tb.vjp(f, M)[1](u)[0])


def test_what_is_written_to_an_argument_later_does_not_matter():
    x = V.copy()
    _, pull = tb.vjp(lambda x: x * x, x)
    x[:] = 0.0
    np.testing.assert_array_equal(pull(np.ones(5))[0], 2.0 * V)


# --- within other derivatives, under no_grad, over closures -------------------------------------


@pytest.mark.parametrize("outer", ["grad", "jvp", "derivative", "hessian", "jacobian", "vjp"])
def test_results_within_another_derivative_are_nodes(outer):
    seen = []

    def f(x):
        g = tb.grad(tb.sin)(x)
        value, tangent = tb.jvp(tb.sin, x, 1.0)
        H = tb.hessian(tb.sin)(x)
        seen.extend([g, value, tangent, H, tb.grad(tb.sin)(0.5), tb.taylor(tb.sin, x, 1)[1]])
        seen.extend([tb.hvp(tb.sin, x, 1.0), tb.jacobian(tb.sin)(x), tb.derivative(tb.sin)(x)])
        seen.extend([tb.vjp(tb.sin, x)[0], tb.vjp(tb.sin, x)[1](1.0)[0]])
        return g * tangent

    {
        "grad": lambda: tb.grad(f)(0.3),
        "jvp": lambda: tb.jvp(f, 0.3, 1.0),
        "derivative": lambda: tb.derivative(f)(0.3),
        "hessian": lambda: tb.hessian(f)(0.3),
        "jacobian": lambda: tb.jacobian(f)(0.3),
        "vjp": lambda: tb.vjp(f, 0.3),
    }[outer]()
    assert seen
    assert all(isinstance(x, Value) for x in seen)
    assert type(tb.grad(tb.sin)(0.3)) is float  # and outside again they are not


def test_create_graph_can_be_denied_within():
    """Then the inner gradient is a number, and its derivative is lost, as told."""

    def f(x):
        g = tb.grad(lambda y: y * y * y, create_graph=False)(x)
        assert type(g) is float
        return x * g

    assert tb.grad(f)(2.0) == 12.0


def test_an_exception_leaves_the_top_the_top():
    def f(x):
        raise ZeroDivisionError

    for of in (tb.grad(f), tb.derivative(f), lambda x: tb.jvp(f, x, x), tb.hessian(f)):
        with pytest.raises(ZeroDivisionError):
            of(1.0)
        assert type(tb.grad(tb.sin)(0.3)) is float


@KINDS
def test_no_grad_around_a_derivative_does_not_matter(kind):
    x = kind(0.5)
    inner = tb.grad(lambda x: x * x * x)
    with tb.no_grad():
        assert inner(x) == 0.75
        assert tb.grad(inner)(x) == 3.0
        assert tb.hessian(lambda x: x * x * x)(x) == 3.0
        assert tb.hvp(lambda x: x * x * x, x, kind(1.0)) == 3.0
        assert tb.jvp(inner, x, kind(1.0))[1] == 3.0
        assert tb.vjp(lambda x: x * x, x)[1](kind(1.0))[0] == 1.0
        assert tb.jacobian(lambda x: x * x)(x) == 1.0
        assert tb.jacobian(lambda x: x * x, mode="forward")(x) == 1.0  # found: see containers
        assert tb.derivative(lambda x: x * x, 2)(x) == 2.0
        assert not tb.is_grad_enabled()
    _, pull = tb.vjp(lambda x: x * x, x)
    with tb.no_grad():
        assert pull(kind(1.0))[0] == 1.0
        g = tb.grad(lambda x: x * x * x, create_graph=True)(Value(0.5))
    assert g.requires_grad
    # within the function it stops what it always stops
    assert tb.grad(lambda x: tb.no_grad()(lambda: x * x)() * x)(2.0) == 4.0


def test_derivatives_over_closures():
    """Saliency: the gradient by the input, of a network whose parameters are in a closure."""
    model, x = nn.MLP([3, 4, 1], "tanh", rng=2), numbers(3)
    g = tb.grad(lambda x: tb.sum(model(x)))(x)
    W1, W2 = (layer.W.data for layer in model.layers)
    a = np.tanh(x @ W1 + model.layers[0].b.data)
    np.testing.assert_allclose(g, W1 @ ((1.0 - a * a) * W2[:, 0]), rtol=1e-12)
    assert all(p.grad is None for p in model.parameters())
    leaf = Tensor(x)
    np.testing.assert_allclose(tb.grad(lambda x: tb.sum(model(x)))(leaf), g, rtol=1e-14)
    assert leaf.grad is None


def test_an_argument_also_reached_by_a_closure_counts_there_as_constant():
    x, t = Value(3.0), Tensor(V)
    assert tb.grad(lambda y: x * y)(x) == 3.0
    np.testing.assert_array_equal(tb.grad(lambda y: tb.sum(t * y))(t), V)
    assert tb.jvp(lambda y: x * y, x, 1.0)[1] == 3.0
    assert tb.hessian(lambda y: x * y * y)(x) == 6.0


def test_an_argument_with_a_history():
    """Derivatives stop at the argument; with a graph they can go on by backward()."""
    w = Value(2.0)
    x = w * w
    assert tb.grad(lambda x: x * x)(x) == 8.0
    assert w.grad is None
    g = tb.grad(lambda x: x * x, create_graph=True)(x)
    g.backward()
    assert w.grad == 2.0 * 4.0
    u = Tensor(V)
    y = u * u
    tb.sum(tb.jvp(tb.square, y, np.ones(5), create_graph=True)[1]).backward()
    np.testing.assert_allclose(u.grad, 4.0 * V, rtol=1e-15)


def test_constants_may_be_differentiated_by():
    x = Tensor(V, requires_grad=False)
    np.testing.assert_array_equal(tb.grad(lambda x: tb.sum(x * x))(x), 2.0 * V)
    assert tb.grad(lambda x: x * x)(Value(3.0, requires_grad=False)) == 6.0
    assert not x.requires_grad


# --- Taylor series and orders -------------------------------------------------------------------


@pytest.mark.parametrize("bad", [1.0, "1", None, True, np.bool_(True)], ids=repr)
def test_orders_are_integers(bad):
    for f in (lambda: tb.derivative(tb.sin, bad), lambda: tb.taylor(tb.sin, 0.5, bad)):
        with pytest.raises(TypeError, match=r"(order|n): expected an int"):
            f()


def test_orders_are_not_negative():
    for f in (lambda: tb.derivative(tb.sin, -1), lambda: tb.taylor(tb.sin, 0.5, -1)):
        with pytest.raises(ValueError, match=r"(order|n): expected 0 to 170"):
            f()
    assert tb.derivative(tb.sin, np.int64(2))(0.0) == 0.0
    assert tb.taylor(tb.sin, 0.5, 0) == [math.sin(0.5)]


def test_taylor_is_of_one_variable():
    # found: of a container of one number it is said that the tangents have another structure
    for bad in ([1.0, 2.0], {"a": 1.0, "b": 2.0}, [], [1.0], {"a": 1.0}):
        with pytest.raises(TypeError, match="x: expected one number or array"):
            tb.taylor(lambda x: x, bad, 2)


def test_derivative_of_an_array_is_in_the_direction_of_ones():
    np.testing.assert_array_equal(tb.derivative(lambda x: x**3, 2)(V), 6.0 * V)
    assert tb.derivative(tb.sum)(M) == 12.0


# --- known Hessians -----------------------------------------------------------------------------


def rosenbrock(x):
    return (100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2).sum()


HESSIANS = {
    "rosenbrock": (rosenbrock, lambda jnp, x: rosenbrock(x), V),
    "rosenbrock at its minimum": (rosenbrock, lambda jnp, x: rosenbrock(x), np.ones(4)),
    "log-sum-exp": (
        lambda x: tb.logsumexp(M.T @ x),
        lambda jnp, x: jnp.log(jnp.exp(M.T @ x).sum()),
        numbers(3),
    ),
    "norms": (
        lambda x: tb.sum(tb.norm(x, 1) * tb.prod(x, 1)),
        lambda jnp, x: (jnp.sqrt((x**2).sum(1)) * x.prod(1)).sum(),
        M,
    ),
}


@pytest.mark.parametrize("name", HESSIANS)
def test_known_hessians(name, jax):
    ours, theirs, x = HESSIANS[name]
    expected = np.asarray(jax.hessian(lambda x: theirs(jax.numpy, x))(x))
    close = {"rtol": 1e-10, "atol": 1e-11}
    H = tb.hessian(ours)(x)
    np.testing.assert_allclose(H, expected, **close)
    v = np.random.default_rng(1).normal(size=x.shape)
    Hv = np.tensordot(expected, v, v.ndim)
    np.testing.assert_allclose(tb.hvp(ours, x, v), Hv, **close)
    np.testing.assert_allclose(tb.jacobian(tb.grad(ours), mode="forward")(x), expected, **close)
    np.testing.assert_allclose(tb.jacobian(tb.grad(ours), mode="reverse")(x), expected, **close)
    # found: the unit to start from is a numpy float, and was taken for that of a Value
    np.testing.assert_allclose(tb.jacobian(tb.jacobian(ours))(x), expected, **close)
    np.testing.assert_allclose(tb.grad(lambda x: tb.jvp(ours, x, v)[1])(x), Hv, **close)
    forward = tb.jacobian(tb.jacobian(ours, mode="forward"), mode="forward")(x)
    np.testing.assert_allclose(forward, expected, **close)
    third = tb.jacobian(tb.hessian(ours))(x)
    np.testing.assert_allclose(
        third, jax.jacfwd(jax.hessian(lambda x: theirs(jax.numpy, x)))(x), rtol=1e-9, atol=1e-9
    )


def test_rosenbrock_by_hand():
    x, y = 1.2, -0.7
    H = tb.hessian(lambda p: rosenbrock(p))(np.array([x, y]))
    expected = [[1200.0 * x * x - 400.0 * y + 2.0, -400.0 * x], [-400.0 * x, 200.0]]
    np.testing.assert_allclose(H, expected, rtol=1e-14)
    (xx, xy), (yx, yy) = tb.hessian(lambda x, y: 100.0 * (y - x**2) ** 2 + (1.0 - x) ** 2, (0, 1))(
        x, y
    )
    np.testing.assert_allclose([[xx, xy], [yx, yy]], expected, rtol=1e-14)


@pytest.mark.parametrize("activation", ["tanh", "gelu", "softplus"])
def test_hessian_of_a_network(activation, jax):
    jnp = jax.numpy
    model = nn.MLP([2, 3, 2, 2], activation, rng=4)
    x, labels = numbers(5, 2), tb.one_hot([0, 1, 1, 0, 1], 2)
    w = model.state_dict()

    def ours(m):
        return -tb.mean(tb.sum(tb.log_softmax(m(x)) * labels, 1))

    def theirs(w):
        a, f = (
            x,
            {"tanh": jnp.tanh, "softplus": jax.nn.softplus}.get(
                activation, lambda z: jax.nn.gelu(z, approximate=False)
            ),
        )
        for i in range(3):
            z = a @ w[f"layers.{i}.W"] + w[f"layers.{i}.b"]
            a = f(z) if i < 2 else z
        return -jnp.mean(jnp.sum(jax.nn.log_softmax(a) * labels, 1))

    expected = jax.jit(jax.hessian(theirs))(w)
    H = tb.hessian(ours)(model)
    v = {name: np.random.default_rng(3).normal(size=p.shape) for name, p in w.items()}
    (Hv,) = tb.hvp(ours, (model,), (v,))
    again = tb.hvp(ours, model, v)
    jax_product = jax.jit(lambda w, v: jax.jvp(jax.grad(theirs), (w,), (v,))[1])(w, v)
    for a in w:
        total = 0.0
        for b in w:
            np.testing.assert_allclose(H[a][b], expected[a][b], rtol=1e-10, atol=1e-12)
            total = total + np.tensordot(H[a][b], v[b], v[b].ndim)
        np.testing.assert_allclose(Hv[a], total, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(Hv[a], jax_product[a], rtol=1e-10, atol=1e-12)
        np.testing.assert_array_equal(again[a], Hv[a])


def test_hessian_of_a_network_as_nested_dicts(jax):
    """The parameters as plain arrays in nested dicts and lists, and not a Module."""
    jnp = jax.numpy
    p = {"layers": [{"W": numbers(2, 3), "b": numbers(3)}, {"W": numbers(3, 1), "b": numbers(1)}]}
    x = numbers(4, 2, seed=3)

    def loss(m, p):
        h = m.tanh(x @ p["layers"][0]["W"] + p["layers"][0]["b"])
        z = h @ p["layers"][1]["W"] + p["layers"][1]["b"]
        return (z * z).sum()

    H = tb.hessian(lambda p: loss(tb, p))(p)
    expected = jax.jit(jax.hessian(lambda p: loss(jnp, p)))(p)
    for i, k, j, n in itertools.product((0, 1), "Wb", (0, 1), "Wb"):
        np.testing.assert_allclose(
            H["layers"][i][k]["layers"][j][n],
            expected["layers"][i][k]["layers"][j][n],
            rtol=1e-10,
            atol=1e-12,
        )


def test_hessian_with_a_graph():
    x = Tensor(V)
    H = tb.hessian(lambda x: tb.sum(x**4), create_graph=True)(x)
    assert isinstance(H, Tensor)
    np.testing.assert_allclose(H.data, np.diag(12.0 * V**2), rtol=1e-14)
    tb.sum(H).backward()
    np.testing.assert_allclose(x.grad, 24.0 * V, rtol=1e-14)


def test_third_derivatives_through_hessians():
    third = tb.jacobian(tb.hessian(lambda x: tb.sum(x**4)))(V)
    expected = np.zeros((5, 5, 5))
    expected[np.arange(5), np.arange(5), np.arange(5)] = 24.0 * V
    np.testing.assert_allclose(third, expected, rtol=1e-14, atol=1e-14)
    np.testing.assert_allclose(
        tb.grad(lambda x: tb.sum(tb.hvp(lambda x: tb.sum(x**4), x, V) * V))(V), 24.0 * V**3
    )


# --- many operations ----------------------------------------------------------------------------


def logistic_map(x, n):
    """A long chain that stays in range: x ← x + 0.001 sin x."""
    for _ in range(n // 3):
        x = x + 0.001 * tb.sin(x)
    return x


def exact_map(x, n):
    """With its first two derivatives, by hand."""
    d, dd = 1.0, 0.0
    for _ in range(n // 3):
        s, c = math.sin(x), math.cos(x)
        dd = dd * (1.0 + 0.001 * c) - 0.001 * s * d * d
        d *= 1.0 + 0.001 * c
        x += 0.001 * s
    return x, d, dd


@KINDS
def test_ten_thousand_operations(kind):
    n = 10_000
    expected = exact_map(0.7, n)
    x, one = kind(0.7), kind(1.0)

    def f(x):
        return logistic_map(x, n)

    assert sys.getrecursionlimit() < n
    value, tangent = tb.jvp(f, x, one)
    assert (value, tangent) == pytest.approx(expected[:2], rel=1e-11)
    if kind is float:
        assert tb.hvp(f, x, one) == pytest.approx(expected[2], rel=1e-10)
        assert tb.grad(tb.grad(f))(x) == pytest.approx(expected[2], rel=1e-10)
        assert tb.derivative(f, 2)(x) == pytest.approx(expected[2], rel=1e-10)


# --- documentation ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *("grad", "value_and_grad", "vjp", "jvp", "jacobian", "hessian", "hvp"),
        *("derivative", "taylor"),
    ],
)
def test_each_is_documented_and_takes_create_graph(name):
    f = getattr(tb, name)
    assert "Args:" in f.__doc__
    parameter = inspect.signature(f).parameters["create_graph"]
    assert (parameter.kind, parameter.default) == (parameter.KEYWORD_ONLY, None)


def test_of_arrays_of_values():
    x = tb.values(V)
    assert isinstance(tb.grad(tb.sum, create_graph=True)(x), Values)
    assert_zeros(tb.hessian(lambda x: tb.sum(x) * 2.0)(x), (5, 5))
    np.testing.assert_allclose(
        tb.hessian(lambda x: tb.einsum("i,ij,j->", x, A[:3, :3], x))(tb.values(V[:3])),
        2.0 * A[:3, :3],
        rtol=1e-13,
    )
    np.testing.assert_allclose(tb.hessian(quadratic)(V[:4]), 2.0 * A, rtol=1e-13)
    assert tb.grad(lambda x: tb.sum(x))(B).shape == B.shape


# --- histories that must not be lost --------------------------------------------------------------


def cubed(x):
    return x * x * x


def test_a_forward_jacobian_with_a_graph_keeps_that_of_a_gradient_within():
    fourth = tb.grad(lambda x: tb.sum(x * x * x * x))
    x = Tensor([1.0, 2.0])
    J = tb.jacobian(lambda x: fourth(x) + cubed(x), mode="forward", create_graph=True)(x)
    J.sum().backward()
    assert x.grad.tolist() == [30.0, 60.0]  # of 4x³ + x³ differentiated twice


def test_the_vector_of_a_vjp_may_have_a_history():
    _, pull = tb.vjp(cubed, 2.0)
    assert tb.grad(lambda u: pull(u)[0] * u)(1.0) == 24.0
    _, pull = tb.vjp(lambda x: x + 1.0, np.ones(2))
    assert tb.grad(lambda u: (pull(u)[0] * u).sum())(np.ones(2)).tolist() == [2.0, 2.0]
    assert pull(Tensor([1.0, 2.0]))[0].tolist() == [1.0, 2.0]


def test_a_tangent_of_another_kind_is_refused_or_keeps_its_history():
    with pytest.raises(TypeError, match="history"):
        tb.grad(lambda v: tb.jvp(cubed, tb.values([1.0, 2.0]), v)[1].sum())(np.ones(2))


def test_a_name_is_never_taken_for_another_position():
    def g(x, *rest, scale=1.0):
        return x * scale + rest[0] * 7.0 + rest[1] * 9.0

    with pytest.raises(ValueError, match="scale"):
        tb.grad(g, "scale")(1.0, 2.0, 3.0)
    assert tb.grad(g, "scale")(1.0, 2.0, 3.0, scale=4.0) == 1.0


def test_a_derivative_within_one_may_run_in_another_thread():
    with ThreadPoolExecutor(1) as pool:

        def f(x):
            return x * pool.submit(tb.grad(cubed), x).result()

        assert tb.grad(f)(2.0) == tb.derivative(f)(2.0) == tb.jvp(f, 2.0, 1.0)[1] == 36.0


def test_a_method_that_a_module_keeps_is_that_of_its_copy():
    class Keeps(nn.Module):
        def __init__(self):
            self.w = Value(2.0)
            self.act = self.times

        def times(self, x):
            return self.w * x

        def forward(self, x):
            return self.act(x)

    assert tb.grad(lambda m: m(3.0))(Keeps()) == {"w": 3.0}


def test_numbers_and_arrays_meet():
    both = tb.grad(lambda a, x: tb.sum(a * x), (0, 1))(2.0, np.ones(3))
    assert both[0] == 3.0
    assert both[1].tolist() == [2.0, 2.0, 2.0]
    X = np.ones((2, 3))
    gradient = tb.grad(lambda p: tb.sum((X @ p["w"] + p["b"]) ** 2))({"w": np.ones(3), "b": 0.0})
    assert gradient["b"] == 12.0
    assert gradient["w"].tolist() == [12.0, 12.0, 12.0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tb.grad(Value(3.0)), "backward"),
        (lambda: tb.grad(tb.sin, np.ones(2)), "come after"),
        (lambda: tb.hessian(tb.sin, None), "argnums"),
        (lambda: tb.jacobian(tb.sin, True), "argnums"),
    ],
)
def test_what_is_not_a_function_or_an_argument_is_refused_at_once(call, message):
    with pytest.raises(TypeError, match=message):
        call()


def test_what_is_handed_through_keeps_no_graph():
    (value, aux), gradient = tb.value_and_grad(
        lambda x: (x * x, {"state": x * 3.0, "note": "kept"}), has_aux=True
    )(2.0)
    assert (value, gradient, aux["state"].data, aux["note"]) == (4.0, 4.0, 6.0, "kept")
    assert not aux["state"].requires_grad


def test_an_order_that_is_too_high_is_refused():
    with pytest.raises(ValueError, match="too high"):
        tb.taylor(lambda x: tb.exp(tb.sin(x)), 0.5, 160)
    with pytest.raises(ValueError, match="0 to 170"):
        tb.derivative(tb.exp, 171)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # while one closes
@pytest.mark.parametrize(
    "evaluate",
    [
        lambda: _evaluate(abs, (1.0,), {}, "forward"),
        lambda: Run(abs, 0, (1.0,), {}, None),
    ],
)
def test_an_interrupted_derivative_leaves_nothing_behind(evaluate):
    """Otherwise later ones would return nodes instead of numbers."""
    pytest.importorskip("ctypes", reason="raises signals through it")
    import signals

    def interrupted(at):
        signals.run(evaluate, at)
        return within.get(), set(_under_way)

    _, count = signals.run(evaluate)
    for at in range(1, count + 1):
        assert copy_context().run(interrupted, at) == ("", set()), at
