"""What can be differentiated by: nested containers, Modules, nodes; and in what form it returns."""

import collections
import itertools
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, strategies as st
from test_array_rules import M, V, numbers

import tinygrad_bp as tb
from tinygrad_bp import Tensor, Value, Values, nn
from tinygrad_bp.containers import filled, leaves_like, leaves_of, shaped


class Point(NamedTuple):
    x: object
    y: object


class Affine(nn.Module):
    """a x + b, with a list, a dict and a constant among its attributes."""

    def __init__(self):
        self.a = Value(2.0, "a")
        self.inner = {"b": [Tensor([1.0, -1.0])], "c": Tensor([5.0], requires_grad=False)}

    def forward(self, x):
        return self.inner["b"][0] * x + self.inner["c"]


class Tied(nn.Module):
    """An encoder, and its transpose as decoder: one parameter in two places."""

    def __init__(self):
        self.W = Tensor(numbers(2, 3))
        self.decoder = [self.W]

    def forward(self, x):
        return tb.tanh(x @ self.W) @ self.decoder[0].T


# --- taking apart and putting together ----------------------------------------------------------


def test_leaves_are_named_from_left_to_right():
    mlp = nn.MLP([1, 1], rng=0)
    tree = {"w": [1.0, (V, Value(2.0))], 3: Point(Tensor(M), 4), "m": mlp, "v": tb.values([1.0])}
    names = [name for name, _ in leaves_of(tree, "x")]
    assert names == [
        *("x['w'][0]", "x['w'][1][0]", "x['w'][1][1]", "x[3][0]", "x[3][1]"),
        *("x['m'].layers.0.W", "x['m'].layers.0.b", "x['v']"),
    ]


def test_numbers_become_constants_and_nodes_stay():
    x, t, v = Value(1.0), Tensor(V), tb.values([1.0, 2.0])
    leaves = [
        leaf for _, leaf in leaves_of([x, t, v, 1, 2.0, np.float32(3.0), np.int64(4), V], "x")
    ]
    assert leaves[0] is x
    assert leaves[1] is t
    assert leaves[2] is v
    assert [type(leaf) for leaf in leaves[3:]] == [Value] * 4 + [Tensor]
    assert not any(leaf.requires_grad for leaf in leaves[3:])
    assert not np.shares_memory(leaves[-1].data, V)


LEAVES = st.floats(-3.0, 3.0) | st.just(V) | st.just(M)
TREES = st.recursive(
    LEAVES,
    lambda trees: (
        st.lists(trees, max_size=3)
        | st.lists(trees, max_size=3).map(tuple)
        | st.builds(Point, trees, trees)
        | st.dictionaries(st.text("abc", max_size=2) | st.integers(0, 3), trees, max_size=3)
    ),
    max_leaves=8,
)


def like(tree, f):
    """The structure, written a second time."""
    if isinstance(tree, dict):
        return {k: like(v, f) for k, v in tree.items()}
    if isinstance(tree, Point):
        return Point(like(tree.x, f), like(tree.y, f))
    return type(tree)(like(x, f) for x in tree) if isinstance(tree, (list, tuple)) else f(tree)


def equal(a, b):
    if isinstance(a, dict):
        return type(b) is dict and list(a) == list(b) and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        same_kind = type(a) is type(b) and len(a) == len(b)
        return same_kind and all(map(equal, a, b))
    return np.shape(a) == np.shape(b) and np.array_equal(a, b)


def total(tree):
    """The sums of squares of all arrays, and of all numbers (beside arrays they are arrays too)."""
    leaves = [x for _, x in leaves_of(tree, "x")]
    arrays = [tb.sum(x * x) for x in leaves if getattr(x, "shape", ())]
    return [sum(arrays), sum(x * x for x in leaves if not getattr(x, "shape", ()))]


@given(TREES)
def test_structures_are_kept(tree):
    leaves = leaves_of(tree, "x")
    numbers = [x.data for _, x in leaves]
    assert equal(shaped(tree, iter(numbers)), like(tree, lambda x: x))
    assert equal(filled(tree, iter(numbers)), like(tree, lambda x: x))
    matched = leaves_like(tree, like(tree, lambda x: np.multiply(2.0, x)), "v")
    assert all(np.array_equal(m.data, 2.0 * n) for m, n in zip(matched, numbers, strict=True))


@given(TREES)
def test_gradients_have_the_structure_of_the_argument(tree):
    if not leaves_of(tree, "x"):
        return

    def of_arrays(tree):
        return total(tree)[0]

    def of_numbers(tree):
        return total(tree)[1]

    for f, kind in ((of_arrays, np.ndarray), (of_numbers, float)):
        if not any(isinstance(x.data, kind) for _, x in leaves_of(tree, "x")):
            continue
        expected = like(tree, lambda x, kind=kind: 2.0 * x if isinstance(x, kind) else 0.0 * x)
        assert equal(tb.grad(f)(tree), expected)
        assert equal(tb.vjp(f, tree)[1](1.0)[0], expected)
        ones = like(tree, np.ones_like)
        product = tb.hvp(f, (tree,), (ones,))[0]
        twos = like(tree, lambda x, kind=kind: 2.0 * np.ones_like(x) * isinstance(x, kind))
        assert equal(product, twos)


def test_kinds_of_results():
    g = tb.grad(lambda p: p["a"] * p["b"][0])({"a": 2, "b": (np.float32(3.0),)})
    assert g == {"a": 3.0, "b": (2.0,)}
    assert type(g["a"]) is type(g["b"][0]) is float
    g = tb.grad(lambda p: tb.sum(p.y * p.y))(Point(2.0, V))
    assert type(g) is Point
    assert g.x == 0.0
    np.testing.assert_array_equal(g.y, 2.0 * V)
    ordered = collections.OrderedDict(b=1.0, a=2.0)
    assert list(tb.grad(lambda p: p["a"] * p["b"])(ordered).items()) == [("b", 2.0), ("a", 1.0)]


def test_hessian_of_a_structure_is_a_structure_of_structures():
    A, c = numbers(5, 12), numbers(3, 4)

    def f(p):
        quadratic = tb.einsum("i,ij,j->", p["v"], A, p["w"][0].reshape(12))
        return quadratic + tb.sum(p["w"][0] ** 3 * c)

    H = tb.hessian(f)({"v": V, "w": [M]})
    assert not H["v"]["v"].any()
    np.testing.assert_allclose(H["v"]["w"][0], A.reshape(5, 3, 4), rtol=1e-14)
    np.testing.assert_allclose(H["w"][0]["v"], A.T.reshape(3, 4, 5), rtol=1e-14)
    expected = np.zeros((12, 12))
    np.fill_diagonal(expected, 6.0 * (M * c).ravel())
    np.testing.assert_allclose(H["w"][0]["w"][0], expected.reshape(3, 4, 3, 4), rtol=1e-14)


@pytest.mark.parametrize("mode", ["reverse", "forward", "auto"])
def test_jacobian_of_a_structure(mode):
    J = tb.jacobian(lambda p: p[0] @ p[1]["y"] + tb.sum(p[0]), mode=mode)((M, {"y": numbers(4)}))
    y = numbers(4)
    expected = np.einsum("ik,j->ikj", np.eye(3), y) + np.ones((3, 3, 4))
    np.testing.assert_allclose(J[0], expected, rtol=1e-14)
    np.testing.assert_allclose(J[1]["y"], M, rtol=1e-14)


def test_jvp_returns_the_structure_of_the_result():
    value, tangent = tb.jvp(
        lambda x: {"a": [x, x * x], "b": Point(x[0], Value(7.0)), "c": ()}, V, np.ones(5)
    )
    assert equal(value, {"a": [V, V * V], "b": Point(np.array(V[0]), 7.0), "c": ()})
    assert equal(tangent, {"a": [np.ones(5), 2.0 * V], "b": Point(np.array(1.0), 0.0), "c": ()})


# --- what is refused ----------------------------------------------------------------------------

BAD = [
    True,
    np.True_,
    "1",
    None,
    1j,
    np.complex64(1),
    np.array([1j]),
    np.array(["a"]),
    {1},
    object(),
    np.array([True]),
    np.array([None]),
]
DERIVATIVES = {
    "grad": lambda f, x: tb.grad(f)(x),
    "value_and_grad": lambda f, x: tb.value_and_grad(f)(x),
    "hessian": lambda f, x: tb.hessian(f)(x),
    "jacobian": lambda f, x: tb.jacobian(f)(x),
    "vjp": lambda f, x: tb.vjp(f, x),
    "jvp": lambda f, x: tb.jvp(f, x, x),
    "hvp": lambda f, x: tb.hvp(f, x, x),
    "derivative": lambda f, x: tb.derivative(f)(x),
    "taylor": lambda f, x: tb.taylor(f, x, 2),
}
every_derivative = pytest.mark.parametrize("name", DERIVATIVES)


@every_derivative
@pytest.mark.parametrize("bad", BAD, ids=repr)
def test_what_has_no_derivative_is_refused_by_name(name, bad):
    def f(weights):
        raise AssertionError("not called")

    argument = {"jvp": "primals", "hvp": "primals", "derivative": "x", "taylor": "x"}
    with pytest.raises(TypeError, match=argument.get(name, "weights")):
        DERIVATIVES[name](f, bad)
    with pytest.raises(TypeError, match=r"\['a'\]\[1\]"):
        DERIVATIVES[name](f, {"a": [1.0, bad]})


@pytest.mark.parametrize(
    ("tree", "other", "where"),
    [
        (1.0, V, "v"),
        (V, 1.0, "v"),
        (V, V[:2], "v"),
        (V, V[None], "v"),
        ([1.0, V], [1.0], "v"),
        ([1.0, V], [1.0, V, V], "v"),
        ([1.0, V], 1.0, "v"),
        ([1.0, [V]], [1.0, [M]], r"v\[1\]\[0\]"),
        ({"a": 1.0}, {"b": 1.0}, "v"),
        ({"a": 1.0}, {"a": 1.0, "b": 2.0}, "v"),
        ({"a": 1.0}, [1.0], "v"),
        ({"a": V}, {"a": M}, r"v\['a'\]"),
        (V, [V, V], "v"),
        (Point(1.0, V), (1.0, M), r"v\[1\]"),
    ],
    ids=str,
)
def test_tangents_of_another_structure_are_refused(tree, other, where):
    with pytest.raises(ValueError, match=f"{where}: expected"):
        leaves_like(tree, other, "v")
    with pytest.raises(ValueError, match="expected"):
        tb.jvp(lambda x: x, (tree,), (other,))


@pytest.mark.parametrize("bad", [True, "1", None, 1j], ids=repr)
def test_tangents_that_are_no_numbers_are_refused(bad):
    with pytest.raises(TypeError, match="tangents"):
        tb.jvp(lambda x: x * x, 2.0, bad)
    with pytest.raises(TypeError, match=r"tangents.*\['a'\]"):
        tb.jvp(lambda x: x["a"], {"a": 2.0}, {"a": bad})


def test_tangents_must_be_a_tuple_where_primals_are():
    for bad in ([1.0, 1.0], 1.0, np.ones(2)):
        with pytest.raises((TypeError, ValueError), match="tangents"):
            tb.jvp(lambda x, y: x * y, (1.0, 2.0), bad)
    with pytest.raises(ValueError, match="tangents"):
        tb.jvp(lambda x, y: x * y, (1.0, 2.0), (1.0,))


# --- modules ------------------------------------------------------------------------------------


def test_gradient_by_a_module_is_a_dict_by_name():
    model, x, y = nn.MLP([2, 3, 1], rng=1), numbers(4, 2), numbers(4, 1)

    def loss(model):
        return tb.mean((model(x) - y) ** 2)

    value, g = tb.value_and_grad(loss)(model)
    loss(model).backward()
    assert list(g) == [name for name, _ in model.named_parameters()]
    for name, p in model.named_parameters():
        np.testing.assert_array_equal(g[name], p.grad)
    assert value == loss(model).item()
    # in a container, and by its own call
    nested = tb.grad(lambda p: loss(p["model"]) * tb.sum(p["scale"]))({"model": model, "scale": V})
    np.testing.assert_allclose(nested["model"]["layers.0.W"], g["layers.0.W"] * V.sum(), rtol=1e-12)
    np.testing.assert_allclose(nested["scale"], np.full(5, value), rtol=1e-14)


def test_a_module_is_not_changed():
    model = nn.MLP([2, 3, 1], rng=1)
    before = {name: (p, p.data.copy(), p.label) for name, p in model.named_parameters()}
    attributes = {id(layer): dict(vars(layer)) for layer in model.layers}
    tb.hvp(lambda m: tb.sum(m(numbers(4, 2)) ** 2), (model,), (model.state_dict(),))
    tb.hessian(lambda m: tb.sum(m(numbers(4, 2)) ** 2))(model)
    for name, p in model.named_parameters():
        assert p is before[name][0]
        np.testing.assert_array_equal(p.data, before[name][1])
        assert (p.grad, p.label) == (None, before[name][2])
    for layer in model.layers:
        assert all(vars(layer)[k] is v for k, v in attributes[id(layer)].items())


def test_a_module_stays_a_module_and_keeps_its_names():
    model = nn.MLP([2, 3, 1], rng=1)
    seen = []

    def f(m):
        seen.append((type(m), [p.label for p in m.parameters()], [la.name for la in m.layers]))
        y = m(numbers(4, 2))
        seen.append((str(y.scope.path) != "", y.label))
        return tb.sum(y)

    tb.grad(f)(model)
    assert seen[0] == (nn.MLP, ["W1", "b1", "W2", "b2"], ["layer1", "layer2"])
    assert seen[1] == (True, "z2")


def test_constants_of_a_module_are_shared():
    model = Affine()
    g = tb.grad(lambda m: tb.sum(m(3.0)))(model)
    assert list(g) == ["a", "inner.b.0"]
    assert g["a"] == 0.0
    np.testing.assert_array_equal(g["inner.b.0"], [3.0, 3.0])

    def f(m):
        assert m.inner["c"] is model.inner["c"]
        return tb.sum(m(3.0))

    tb.grad(f)(model)


def test_a_tied_parameter_counts_once():
    model, x = Tied(), numbers(4, 2)

    def loss(m):
        return tb.sum((m(x) - x) ** 2)

    g = tb.grad(loss)(model)
    loss(model).backward()
    assert list(g) == ["W"]
    np.testing.assert_allclose(g["W"], model.W.grad, rtol=1e-14)
    v = numbers(2, 3, seed=4)
    (product,) = tb.hvp(loss, (model,), ({"W": v},))
    eps = 1e-6
    ahead, behind = Tied(), Tied()
    ahead.W.data += eps * v
    behind.W.data -= eps * v
    slope = (tb.grad(loss)(ahead)["W"] - tb.grad(loss)(behind)["W"]) / (2.0 * eps)
    np.testing.assert_allclose(product["W"], slope, rtol=1e-7, atol=1e-7)


def test_the_same_tensor_in_two_arguments_counts_separately():
    x = Tensor(V)
    a, b = tb.grad(lambda a, b: tb.sum(a * a * b), (0, 1))(x, x)
    np.testing.assert_allclose(a, 2.0 * V * V, rtol=1e-15)
    np.testing.assert_allclose(b, V * V, rtol=1e-15)
    first, second = tb.grad(lambda p: p[0] * p[0] * p[1])([Value(3.0)] * 2)
    assert (first, second) == (18.0, 9.0)
    assert tb.jvp(lambda a, b: a * a * b, (3.0, 3.0), (1.0, 0.0))[1] == 18.0


def test_a_module_twice_counts_separately():
    m = Affine()
    g = tb.grad(lambda p: tb.sum(p[0].inner["b"][0] * p[1].inner["b"][0] * V[:2]))([m, m])
    for part in g:
        np.testing.assert_allclose(part["inner.b.0"], m.inner["b"][0].data * V[:2], rtol=1e-15)


@pytest.mark.parametrize("as_dict", [True, False])
def test_tangents_of_a_module_by_name_or_by_another(as_dict):
    model, other = nn.MLP([2, 2, 1], rng=0), nn.MLP([2, 2, 1], rng=1)
    v = other.state_dict() if as_dict else other
    _, tangent = tb.jvp(lambda m: m(numbers(3, 2)), (model,), (v,))
    eps = 1e-6
    both = []
    for sign in (1.0, -1.0):
        moved = nn.MLP([2, 2, 1], rng=0)
        for name, p in moved.named_parameters():
            p.data += sign * eps * dict(other.named_parameters())[name].data
        both.append(moved(numbers(3, 2)).data)
    np.testing.assert_allclose(tangent, (both[0] - both[1]) / (2 * eps), rtol=1e-7, atol=1e-8)
    with pytest.raises(ValueError, match="or a dict of"):
        tb.jvp(lambda m: m(numbers(3, 2)), (model,), ({"W": V},))


# --- arrays of Values, and the scalar view ------------------------------------------------------


def test_derivatives_by_arrays_of_values():
    A = numbers(3, 3)

    def f(x):
        return tb.sum(tb.tanh(A @ x) * x)

    x = numbers(3)
    v = numbers(3, seed=2)
    by_array = [
        tb.grad(f)(x),
        tb.hessian(f)(x),
        tb.hvp(f, x, v),
        tb.jvp(f, x, v)[1],
        tb.jacobian(lambda x: tb.tanh(A @ x))(x),
    ]
    y = tb.values(x)
    by_values = [
        tb.grad(f)(y),
        tb.hessian(f)(y),
        tb.hvp(f, y, v),
        tb.jvp(f, y, v)[1],
        tb.jacobian(lambda x: tb.tanh(A @ x))(y),
    ]
    for a, b in zip(by_array, by_values, strict=True):
        assert np.shape(a) == np.shape(b)
        assert type(b) in (np.ndarray, float)
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)
    assert all(value.grad is None for value in y.flat)
    velocities = tb.jvp(f, y, tb.values(v))[1]
    assert velocities == by_values[3]


# Found: mode="forward" by a Value, and by an array of Values, raises: velocities are numpy scalars,
# whose .data is a memoryview. And a quantity of forward mode cannot meet an array of Values.
@pytest.mark.parametrize("mode", ["reverse", "forward", "auto"])
def test_jacobian_by_values_in_all_modes(mode):
    for x in (tb.values(numbers(3)), numbers(3), tb.values(numbers(2, 2))):
        y = np.asarray(x.data if isinstance(x, Values) else x)
        J = tb.jacobian(lambda x: x * x * 2.0, mode=mode)(x)
        np.testing.assert_array_equal(J, np.diag(4.0 * y.ravel()).reshape(y.shape * 2))
        column = tb.jacobian(lambda t, y=y: t * tb.values(y), mode=mode)(2.0)
        np.testing.assert_array_equal(column, y)
    assert tb.jacobian(lambda x: x * x, mode=mode)(3.0) == 6.0


def test_vjp_of_values():
    x = tb.values(V)
    y, pull = tb.vjp(lambda x: x * x, x)
    np.testing.assert_array_equal(y, V * V)
    u = numbers(5, seed=3)
    for cotangent in (u, tb.values(u)):  # found: of Values, a plain u raises
        (g,) = pull(cotangent)
        np.testing.assert_allclose(g, 2.0 * V * u, rtol=1e-15)
    with pytest.raises(ValueError, match="u: expected shape"):
        pull(u[:2])


def test_nodes_by_values_are_values():
    x = tb.values(V)
    g = tb.grad(lambda x: tb.sum(x * x * x), create_graph=True)(x)
    assert isinstance(g, Values)
    tb.sum(g).backward()
    np.testing.assert_allclose(x.grad, 6.0 * V, rtol=1e-15)
    H = tb.hessian(lambda x: tb.sum(x * x * x), create_graph=True)(x)
    assert isinstance(H, Values)
    assert H.shape == (5, 5)


def test_the_scalar_view_of_a_module():
    model, x, y = nn.MLP([2, 2, 1], rng=1), numbers(3, 2), numbers(3, 1)

    def loss(model):
        return tb.mean((model(x) - y) ** 2)

    whole, single = tb.hessian(loss)(model), tb.hessian(loss)(model.scalar_view())
    assert list(whole) == list(single)
    for a, b in itertools.product(whole, repeat=2):
        assert whole[a][b].shape == single[a][b].shape
        np.testing.assert_allclose(single[a][b], whole[a][b], rtol=1e-11, atol=1e-13)
    v = {name: numbers(*p.shape, seed=7) for name, p in model.named_parameters()}
    (a,), (b,) = (tb.hvp(loss, (m,), (v,)) for m in (model, model.scalar_view()))
    assert list(a) == list(b) == list(v)
    for name in a:
        np.testing.assert_allclose(b[name], a[name], rtol=1e-11, atol=1e-13)
