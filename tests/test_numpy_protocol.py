"""numpy's own functions on nodes: each is applied to plain arrays and to nodes, and compared.

One expression, `lambda x: np.sum(x, axis=0)`, is the operation and its oracle: numpy computes it of
numbers, and its central differences are the gradient that the nodes must have.
"""

import inspect
import math
import operator

import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as hnp

import tinygrad_bp as tb
from tinygrad_bp import Tensor, Value, Values, values
from tinygrad_bp.array_rules import ARRAY_RULES, ArrayRule
from tinygrad_bp.numpy_protocol import COMPARISONS, FUNCTIONS, INSTEAD, OF_SHAPE
from tinygrad_bp.rules import RULES

inf = math.inf
A = np.array([[1.5, -2.0, 0.5], [3.0, 0.25, -1.0]])
B = np.array([[0.3, 1.25, -0.75], [-1.5, 2.5, 0.6]])
ROW = np.array([0.4, -1.1, 2.2])
UFUNCS = {f.__name__: f for f in vars(np).values() if isinstance(f, np.ufunc)}
NODES = {
    "Tensor": lambda x=A: Tensor(x),
    "Value": lambda x=0.5: Value(x),
    "Values": lambda x=A: values(x),
}
every_kind = pytest.mark.parametrize("kind", NODES)
arrays_of = pytest.mark.parametrize("make", [Tensor, values], ids=["Tensor", "Values"])


def differences(f, operands, g, h=1e-6):
    """The gradient of sum(g * f) by each operand, by central differences of plain numpy."""
    gradients = []
    for i, x in enumerate(operands):
        gradient = np.zeros_like(x)
        for place in np.ndindex(x.shape):
            up, down = [[np.array(y) for y in operands] for _ in range(2)]
            up[i][place] += h
            down[i][place] -= h
            gradient[place] = np.sum(g * (f(*up) - f(*down))) / (2 * h)
        gradients.append(gradient)
    return gradients


def agrees(f, operands, make):
    """f of nodes has the value of f of numbers, and its differences as gradients."""
    nodes = [make(x) for x in operands]
    expected, result = np.asarray(f(*operands)), f(*nodes)
    assert isinstance(result, (Tensor, Value, Values))
    np.testing.assert_allclose(result.data, expected, rtol=1e-13, atol=1e-14)
    assert np.shape(result) == expected.shape
    g = np.random.default_rng(0).uniform(0.5, 1.5, expected.shape)
    if isinstance(result, Value):
        result.backward(float(g))
    else:
        result.backward(g)
    for node, gradient in zip(nodes, differences(f, operands, g), strict=True):
        grad = 0.0 if node.grad is None else node.grad
        np.testing.assert_allclose(grad, gradient, rtol=1e-7, atol=1e-8)


# --- ufuncs -------------------------------------------------------------------------------------

WITH_RULE = [name for name in UFUNCS if name in RULES]
WITHOUT_RULE = sorted(UFUNCS.keys() - RULES.keys() - {"matmul"} - {f.__name__ for f in COMPARISONS})


def test_the_ufuncs_with_a_rule_are_those_of_its_name():
    assert len(WITH_RULE) > 20
    assert {"add", "absolute", "arctan2", "maximum", "negative", "square", "tanh"} < set(WITH_RULE)
    for name in WITH_RULE:
        assert UFUNCS[name].nin == RULES[name].arity
        assert UFUNCS[name].nout == 1


@pytest.mark.parametrize("name", WITH_RULE)
@pytest.mark.parametrize("make", [Tensor, values])
def test_ufuncs_of_arrays(name, make):
    random = np.random.default_rng(3)
    shapes = [(2, 3), (3,)]
    domains = zip(RULES[name].domain, shapes, strict=False)
    agrees(UFUNCS[name], [random.uniform(*d, s) for d, s in domains], make)


@pytest.mark.parametrize("name", WITH_RULE)
def test_ufuncs_of_single_values(name):
    random = np.random.default_rng(4)
    operands = [np.array(random.uniform(*d)) for d in RULES[name].domain]
    agrees(UFUNCS[name], operands, lambda x: Value(float(x)))


@pytest.mark.parametrize("name", [n for n in WITH_RULE if RULES[n].arity == 2])
@every_kind
@pytest.mark.parametrize("other", [float, np.float64, np.float32], ids=lambda t: t.__name__)
def test_ufuncs_of_a_node_and_a_number(name, kind, other):
    f, number = UFUNCS[name], other(0.75)
    for by, apply in [(0, lambda x: f(x, number)), (1, lambda x: f(number, x))]:
        low, high = RULES[name].domain[by]
        x = np.float64(low + 0.7 * (high - low))
        node = NODES[kind](x if kind == "Value" else np.array([x]))
        result = apply(node)
        assert type(result).__name__ == kind
        np.testing.assert_allclose(result.data, f(*((x, 0.75) if by == 0 else (0.75, x))))


def test_derivatives_in_closed_form():
    x = Tensor(A)
    for result, derivative in [
        (np.tanh(x), 1.0 - np.tanh(A) ** 2),
        (np.square(x), 2.0 * A),
        (np.negative(x), -np.ones_like(A)),
        (np.sin(x), np.cos(A)),
        (np.subtract(B, x), -np.ones_like(A)),
        (np.power(2.0, x), np.log(2.0) * 2.0**A),
        (np.where(A > 0, x, 0.0), (A > 0) * 1.0),
        (np.mean(x) * 6.0, np.ones_like(A)),
        (np.einsum("ij,ij->", x, x), 2.0 * A),
    ]:
        x.zero_grad()
        result.backward(np.ones(result.shape))
        np.testing.assert_allclose(x.grad, derivative, rtol=1e-13)


@pytest.mark.parametrize("name", WITHOUT_RULE)
@every_kind
def test_ufuncs_without_a_rule_raise_and_name_themselves(name, kind):
    f, node = UFUNCS[name], NODES[kind]()
    phrase = "an array of Values" if kind == "Values" else f"a {kind}"
    for operands in [[node] * f.nin, [node] + [A] * (f.nin - 1), [A] * (f.nin - 1) + [node]]:
        with pytest.raises(TypeError, match=rf"numpy\.{name} does not take {phrase}: .*\.data"):
            f(*operands)


@arrays_of
@pytest.mark.parametrize("shapes", [((2, 3), (3, 4)), ((3,), (3, 2)), ((2, 2, 3), (3,))], ids=str)
def test_matmul(make, shapes):
    random = np.random.default_rng(5)
    operands = [random.normal(size=shape) for shape in shapes]
    agrees(np.matmul, operands, make)
    agrees(lambda x: np.matmul(x, operands[1]), operands[:1], make)
    agrees(lambda y: operands[0] @ y, operands[1:], make)


METHODS = [
    (np.add, "reduce", (), "tb.sum"),
    (np.multiply, "reduce", (), "tb.prod"),
    (np.maximum, "reduce", (), "tb.max"),
    (np.minimum, "reduce", (), "tb.min"),
    (np.logaddexp, "reduce", (), "tb.logsumexp"),
    (np.add, "accumulate", (), "tb.cumsum"),
    (np.add, "reduceat", ([0],), ".data"),
    (np.multiply, "outer", (A,), "tb.einsum"),
    (np.negative, "at", ([0],), ".data"),
    (np.matmul, "reduce", (), ".data"),
    (np.less, "outer", (A,), ".data"),
]


@pytest.mark.parametrize(("ufunc", "method", "more", "hint"), METHODS, ids=lambda x: str(x)[:20])
@every_kind
def test_methods_of_ufuncs_raise_and_name_themselves(ufunc, method, more, hint, kind):
    name = rf"numpy\.{ufunc.__name__}\.{method} does not take"
    if ufunc is np.matmul:  # numpy refuses this one itself
        name = "matmul|Reduction not defined"
    with pytest.raises((TypeError, RuntimeError), match=name) as error:
        getattr(ufunc, method)(NODES[kind](), *more)
    assert ufunc is np.matmul or (error.type is TypeError and hint in str(error.value))


def test_a_node_in_any_place_of_a_method_raises():
    array = A.copy()
    with pytest.raises(TypeError, match=r"numpy\.add\.at"):
        np.add.at(array, 0, Tensor(A[0]))
    with pytest.raises(TypeError, match=r"numpy\.add\.outer"):
        np.add.outer(A, Tensor(A))
    np.testing.assert_array_equal(array, A)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("out", np.empty((2, 3))),
        ("where", A > 0),
        ("dtype", np.float32),
        ("casting", "unsafe"),
        ("order", "F"),
        ("subok", False),
    ],
)
@pytest.mark.parametrize("f", [np.add, np.less, np.matmul], ids=lambda f: f.__name__)
@every_kind
def test_options_of_ufuncs_raise_and_are_named(option, value, f, kind):
    if f is np.matmul and option == "where":  # which it does not have
        return
    with pytest.raises(TypeError, match=rf"numpy\.{f.__name__} of an? .* takes no {option}="):
        f(NODES[kind](), 2.0, **{option: value})


def test_options_that_change_nothing_may_be_given():
    options = {"where": True, "casting": "same_kind", "order": "K", "dtype": None, "out": None}
    for kind in NODES:
        node = NODES[kind]()
        result = np.add(node, 1.0, **options)
        assert type(result).__name__ == kind
        np.testing.assert_array_equal(result.data, np.asarray(node.data) + 1.0)
        np.testing.assert_array_equal(np.less(node, 1.0, **options), np.less(node.data, 1.0))


@every_kind
def test_an_array_takes_in_no_node(kind):
    """`array += x` has nowhere to keep the history of x."""
    node = NODES[kind]()
    for apply in (operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ipow):
        array = np.abs(A)
        with pytest.raises(TypeError, match=r"takes no out=.*a = a \+ x"):
            apply(array, node)
        np.testing.assert_array_equal(array, np.abs(A))
    with pytest.raises(TypeError, match="out="):
        np.add(array, node, out=array)
    with pytest.raises(TypeError, match="out="):
        np.add(array, array, out=node if kind == "Tensor" else (node,))
    square = np.eye(3)
    with pytest.raises(TypeError, match="out="):
        square @= NODES[kind](0.5 if kind == "Value" else np.eye(3))


def test_ufuncs_that_are_not_numpys():
    """Of another library the name may be the same and the meaning another."""

    def tanh(x):
        return x + 1.0

    another = np.frompyfunc(tanh, 1, 1)
    for kind in NODES:
        with pytest.raises(TypeError, match=r"^tanh \(vectorized\) does not take"):
            another(NODES[kind]())
    special = pytest.importorskip("scipy.special")
    with pytest.raises(TypeError, match=r"^erf does not take a Tensor: use tb\.erf"):
        special.erf(Tensor(A))


# --- other functions ----------------------------------------------------------------------------

INDICES = np.array([[2, 0], [1, 1]])
FUNCTION_CASES = {
    "sum": [
        lambda x: np.sum(x),
        lambda x: np.sum(x, 0),
        lambda x: np.sum(x, axis=1, keepdims=True),
    ],
    "mean": [lambda x: np.mean(x), lambda x: np.mean(x, (0, 1)), lambda x: np.mean(x, axis=-1)],
    "var": [
        lambda x: np.var(x),
        lambda x: np.var(x, 1, ddof=1),
        lambda x: np.var(x, keepdims=True),
    ],
    "max": [lambda x: np.max(x), lambda x: np.max(x, 0), lambda x: np.max(x, 1, None, True)],
    "min": [lambda x: np.min(x), lambda x: np.min(x, axis=0), lambda x: np.min(x, keepdims=True)],
    "amax": [lambda x: np.amax(x), lambda x: np.amax(x, 1)],
    "amin": [lambda x: np.amin(x), lambda x: np.amin(x, axis=1)],
    "prod": [lambda x: np.prod(x), lambda x: np.prod(x, axis=0), lambda x: np.prod(a=x, axis=1)],
    "cumsum": [lambda x: np.cumsum(x), lambda x: np.cumsum(x, 1), lambda x: np.cumsum(x, axis=0)],
    "reshape": [lambda x: np.reshape(x, (3, 2)), lambda x: np.reshape(x, -1, order="C")],
    "transpose": [lambda x: np.transpose(x), lambda x: np.transpose(x, axes=[1, 0])],
    "expand_dims": [lambda x: np.expand_dims(x, 1), lambda x: np.expand_dims(x, axis=(0, -1))],
    "squeeze": [lambda x: np.squeeze(x[:1]), lambda x: np.squeeze(x[:, 1:2], axis=1)],
    "broadcast_to": [lambda x: np.broadcast_to(x, (2, 2, 3))],
    "flip": [lambda x: np.flip(x), lambda x: np.flip(x, 0), lambda x: np.flip(m=x, axis=(1,))],
    "pad": [
        lambda x: np.pad(x, 1),
        lambda x: np.pad(x, (1, 0), mode="constant"),
        lambda x: np.pad(x, ((1, 0), (0, 2)), "constant", constant_values=2.5),
    ],
    "tril": [lambda x: np.tril(x), lambda x: np.tril(x, 1), lambda x: np.tril(x, k=-1)],
    "triu": [lambda x: np.triu(x), lambda x: np.triu(x, 1), lambda x: np.triu(m=x, k=-1)],
    "take": [
        lambda x: np.take(x, INDICES),
        lambda x: np.take(x, [0, 2], 1),
        lambda x: np.take(x, 1, axis=0, mode="raise"),
    ],
    "take_along_axis": [
        lambda x: np.take_along_axis(x, INDICES, axis=1),
        lambda x: np.take_along_axis(x, INDICES[1:, 1:], 0),
    ],
    "concatenate": [
        lambda x, y: np.concatenate([x, y]),
        lambda x, y: np.concatenate((x, A, y), axis=1),
        lambda x, y: np.concatenate([y, x], -1),
    ],
    "stack": [lambda x, y: np.stack([x, y]), lambda x, y: np.stack(arrays=(y, B, x), axis=2)],
    "split": [
        lambda x: np.split(x, 3, axis=1)[2],
        lambda x: np.split(x, [1])[1],
        lambda x: np.split(x, indices_or_sections=np.array([1, 2]), axis=-1)[1],
    ],
    "einsum": [
        lambda x: np.einsum("ij->i", x),
        lambda x, y: np.einsum("ij,kj", x, y),
        lambda x, y: np.einsum("ij,ij->j", x, y, optimize=False, out=None),
        lambda x: np.einsum("ij,j->", x, ROW, order="K", casting="safe"),
    ],
    "where": [
        lambda x: np.where(A > 0, x, 0.0),
        lambda x, y: np.where(B > 0, x, y),
        lambda x: np.where(x > 0, B, x),
    ],
    "clip": [
        lambda x: np.clip(x, -1.25, 1.25),
        lambda x: np.clip(x, None, 1.25),
        lambda x: np.clip(x, -1.25, a_max=None, out=None, casting="same_kind"),
        lambda x: np.clip(x, ROW - 0.5, a_max=ROW + 0.5),
        lambda x, y: np.clip(x, y, 0.7),
        lambda x, y: np.clip(B + 0.1, x - 3.2, y + 0.3),
    ],
}


if hasattr(np, "astype"):  # since numpy 2.1
    FUNCTION_CASES["astype"] = [lambda x: np.astype(x, np.float64)]


def test_every_function_has_cases():
    assert set(FUNCTION_CASES) == {f.__name__ for f in FUNCTIONS if not isinstance(f, np.ufunc)}


@arrays_of
@pytest.mark.parametrize(
    "f",
    [
        pytest.param(f, id=f"{name}-{i}")
        for name, fs in FUNCTION_CASES.items()
        for i, f in enumerate(fs)
    ],
)
def test_functions_of_arrays(f, make):
    operands = [A, B][: len(inspect.signature(f).parameters)]
    agrees(f, operands, make)


@pytest.mark.skipif("min" not in inspect.signature(np.clip).parameters, reason="numpy before 2.1")
@arrays_of
def test_the_other_names_of_clips_bounds(make):
    agrees(lambda x: np.clip(x, min=-1.25), [A], make)
    agrees(lambda x, y: np.clip(x, min=y, max=0.7), [A, B], make)
    with pytest.raises(TypeError, match=r"numpy\.clip: give the bounds"):
        np.clip(make(A), -1.0, max=1.0)


def test_where_and_clip_of_single_values():
    def scalar(x):
        return Value(float(x))

    x, y = np.array(0.8), np.array(-1.3)
    agrees(lambda x, y: np.where(True, x * y, x), [x, y], scalar)
    agrees(lambda x, y: np.where(x < 0, x, np.square(y)), [x, y], scalar)
    agrees(lambda x: np.clip(x, None, 0.5), [x], scalar)
    agrees(lambda x, y: np.clip(x, y, 2.0), [x, y], scalar)


@given(
    st.sampled_from([np.sum, np.mean, np.var, np.max, np.min, np.prod]),
    hnp.arrays(float, hnp.array_shapes(max_dims=4, max_side=3), elements=st.floats(-4, 4)),
    st.data(),
)
def test_reductions_of_any_shape(f, array, data):
    """Not linked to the rules' own tests: the arguments must come through as numpy means them."""
    axes = hnp.valid_tuple_axes(array.ndim, min_size=1)
    axis = data.draw(st.none() | st.integers(-array.ndim, array.ndim - 1) | axes)
    keepdims = data.draw(st.booleans())
    expected = f(array, axis=axis, keepdims=keepdims)
    for result in (
        f(Tensor(array), axis, keepdims=keepdims),
        f(values(array), axis, keepdims=keepdims),
    ):
        assert np.shape(result) == expected.shape
        np.testing.assert_allclose(result.data, expected, rtol=1e-12, atol=1e-12)


def test_a_loss_written_in_numpy():
    """The same text for numbers and for nodes."""

    def loss(W, b):
        h = np.tanh(A @ W + b)
        p = np.exp(h - np.max(h, axis=1, keepdims=True))
        p = p / np.sum(p, axis=1, keepdims=True)
        return -np.mean(np.log(np.take_along_axis(p, np.array([[1], [0]]), axis=1)))

    random = np.random.default_rng(6)
    operands = [random.normal(size=(3, 2)), random.normal(size=2)]
    agrees(loss, operands, Tensor)
    agrees(loss, operands, values)


def test_float32_stays_float32():
    x = Tensor(A, dtype=np.float32)
    for result in (
        np.tanh(x),
        np.add(x, 1.0),
        np.multiply(np.float64(2.0), x),
        np.clip(x, None, 1.0),
        np.clip(x, 0, 1),
        np.where(A > 0, x, 0.0),
        np.sum(x),
        np.pad(x, 1),
        np.zeros_like(x),
    ):
        assert result.dtype == np.float32
    assert np.add(A, x).dtype == np.float64


# --- what is refused ----------------------------------------------------------------------------


def overridable():
    """All of numpy's functions that hand a call on, ours and the others'."""
    overrides = pytest.importorskip("numpy.testing.overrides")
    return overrides.get_overridable_numpy_array_functions()


def test_every_function_without_a_rule_raises_and_names_itself():
    refused = overridable() - FUNCTIONS.keys() - OF_SHAPE
    assert len(refused) > 150
    for function in refused:
        for kind in NODES:
            node = NODES[kind]()
            with pytest.raises(TypeError) as error:
                type(node).__array_function__(node, function, (type(node),), (node,), {})
            message = str(error.value)
            assert message.startswith(f"{function.__module__}.{function.__name__} does not take a")
            assert ".data" in message


REFUSED = {
    "numpy.std": lambda x: np.std(x),
    "numpy.median": lambda x: np.median(x),
    "numpy.sort": lambda x: np.sort(x),
    "numpy.argmax": lambda x: np.argmax(x),
    "numpy.linalg.inv": lambda x: np.linalg.inv(x),
    "numpy.linalg.norm": lambda x: np.linalg.norm(x, 1),
    "numpy.dot": lambda x: np.dot(x, A),
    "numpy.fft.fft": lambda x: np.fft.fft(x),
    "numpy.vstack": lambda x: np.vstack([A, x]),
    "numpy.copyto": lambda x: np.copyto(A.copy(), x),
    "numpy.allclose": lambda x: np.allclose(x, x),
    "numpy.zeros": lambda x: np.zeros(2, like=x),
    "numpy.cbrt": lambda x: np.cbrt(x),
    "numpy.isfinite": lambda x: np.isfinite(x),
    "numpy.isnan": lambda x: np.isnan(x),
    "numpy.sign": lambda x: np.sign(x),
    "numpy.logical_and": lambda x: np.logical_and(True, x),
    "numpy.floor_divide": lambda x: np.float64(7.0) // x,
    "numpy.remainder": lambda x: np.arange(3) % x,
}


@pytest.mark.parametrize("name", REFUSED)
@every_kind
def test_functions_without_a_rule_as_they_are_called(name, kind):
    with pytest.raises(TypeError, match=rf"^{name} does not take an? .*{kind}: .*\.data"):
        REFUSED[name](NODES[kind]())


@pytest.mark.parametrize(
    ("name", "hint"),
    [("numpy.linalg.norm", "norm"), ("numpy.dot", "matmul"), ("numpy.vstack", "concatenate")],
)
def test_the_hint_is_what_does_the_same(name, hint):
    with pytest.raises(TypeError, match=rf"use tb\.{hint}, or numpy on \.data"):
        REFUSED[name](Tensor(A))
    with pytest.raises(TypeError, match=r"there is no rule for it; use numpy on \.data"):
        np.linalg.inv(Tensor(np.eye(2)))


def test_hints_exist():
    assert {name for name in INSTEAD.values() if not hasattr(tb, name)} == set()
    for name in INSTEAD:
        function = operator.attrgetter(name)(np) if hasattr(np, name.split(".")[0]) else None
        assert function is None or function not in FUNCTIONS


OTHER_ARGUMENTS = {
    "sum-dtype": lambda x: np.sum(x, dtype=np.float32),
    "sum-out": lambda x: np.sum(x, out=np.empty(())),
    "sum-initial": lambda x: np.sum(x, initial=1.0),
    "sum-where": lambda x: np.sum(x, where=A > 0),
    "mean-dtype": lambda x: np.mean(x, None, np.float32),
    "var-mean": lambda x: np.var(x, mean=0.0),
    "var-correction": lambda x: np.var(x, correction=1),
    "max-out": lambda x: np.max(x, 0, np.empty(3)),
    "min-initial": lambda x: np.min(x, initial=0.0),
    "prod-where": lambda x: np.prod(x, where=A > 0),
    "cumsum-dtype": lambda x: np.cumsum(x, dtype=np.float32),
    "reshape-order": lambda x: np.reshape(x, -1, order="F"),
    "broadcast_to-subok": lambda x: np.broadcast_to(x, (2, 3), subok=True),
    "pad-mode": lambda x: np.pad(x, 1, mode="edge"),
    "pad-stat_length": lambda x: np.pad(x, 1, stat_length=2),
    "take-mode": lambda x: np.take(x, [7], mode="wrap"),
    "concatenate-dtype": lambda x: np.concatenate([x, x], dtype=np.float32),
    "concatenate-out": lambda x: np.concatenate([x, x], out=np.empty((4, 3))),
    "concatenate-casting": lambda x: np.concatenate([x, x], casting="unsafe"),
    "stack-casting": lambda x: np.stack([x, x], casting="no"),
    "einsum-optimize": lambda x: np.einsum("ij->i", x, optimize=True),
    "einsum-dtype": lambda x: np.einsum("ij->i", x, dtype=np.float32),
    "clip-out": lambda x: np.clip(x, 0.0, 1.0, np.empty((2, 3))),
    "clip-where": lambda x: np.clip(x, 0.0, 1.0, where=A > 0),
}


@pytest.mark.parametrize("case", OTHER_ARGUMENTS)
@arrays_of
def test_arguments_that_the_rule_lacks_are_named(case, make):
    function, argument = case.split("-")
    match = rf"numpy\.{function} of an? .* takes no {argument}="
    with pytest.raises(TypeError, match=match):
        OTHER_ARGUMENTS[case](make(A))


@arrays_of
def test_numpys_defaults_may_be_given(make):
    x = make(A)
    for result, expected in [
        (np.sum(x, None, None, None), np.sum(A)),
        (np.sum(x, keepdims=False, dtype=None), np.sum(A)),
        (np.var(x, None, None, None, 0), np.var(A)),
        (np.concatenate([x, x], 0, None, dtype=None, casting="same_kind").sum(), 2 * np.sum(A)),
        (np.take(x, [0, 1], None, None, "raise"), [1.5, -2.0]),
    ]:
        np.testing.assert_allclose(result.data, expected, rtol=1e-14)


def test_defaults_that_are_left_out_are_the_same():
    """An argument left at numpy's default is left at the rule's."""
    compared = 0
    for function, rule in FUNCTIONS.items():
        if isinstance(function, np.ufunc) or function in (np.where, np.concatenate):
            continue
        numpys = inspect.signature(function).parameters
        for name, parameter in inspect.signature(rule).parameters.items():
            if name in numpys and parameter.default is not parameter.empty:
                default = numpys[name].default
                if type(default).__name__ == "_NoValueType":
                    assert parameter.default in (None, False)
                else:
                    assert default == parameter.default or default is inspect.Parameter.empty
                compared += 1
    assert compared > 20


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda x: np.take(x, Tensor([0.0])), r"numpy\.take: indices .* a Tensor; use its \.data"),
        (lambda x: np.sum(x, axis=Value(0.0)), r"numpy\.sum: axis .* a Value; use its \.data"),
        (lambda x: np.split(x, values([1.0])), r"numpy\.split: .* an array of Values"),
        (lambda x: np.take_along_axis(x, Tensor(A), 0), r"numpy\.take_along_axis: indices"),
        (lambda x: np.pad(x, 1, constant_values=Value(1.0)), r"numpy\.pad: constant_values"),
        (lambda x: np.full_like(x, Value(1.0)), r"numpy\.full_like: fill_value"),
        (lambda x: np.where(x), r"numpy\.where"),
        (lambda x: np.einsum(x, [0, 1], [0]), r"numpy\.einsum .* subscripts first"),
        (lambda x: np.concatenate([x, x], axis=None), "concatenate"),
        (lambda x: np.sum(x, 0, foo=1), "foo"),
    ],
)
@arrays_of
def test_arguments_that_mean_nothing(call, match, make):
    with pytest.raises(TypeError, match=match):
        call(make(A))


def test_single_values_are_no_arrays():
    x = Value(1.0)
    calls = [np.sum, np.max, np.transpose, np.squeeze, lambda x: np.stack([x, x]), np.cumsum]
    for call in [*calls, lambda x: np.matmul(x, A), lambda x: A @ x, lambda x: np.einsum("i", x)]:
        with pytest.raises(TypeError, match="works on arrays"):
            call(x)
    for call in (np.tanh, np.isnan):  # an array with a Value in it is none of ours
        with pytest.raises(TypeError):
            call(np.array([x, None], dtype=object))


# --- the shape ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "f",
    [
        np.shape,
        np.ndim,
        np.size,
        lambda x: np.size(x, 0),
        np.zeros_like,
        np.ones_like,
        lambda x: np.ones_like(x, dtype=int, shape=(2,)),
        lambda x: np.full_like(x, 7.5),
        lambda x: np.full_like(a=x, fill_value=A[:, :1]),
    ],
)
@arrays_of
def test_functions_of_the_shape(f, make):
    for array in (A, np.ones((2, 0))):
        result, expected = f(make(array)), f(array)
        assert type(result) is type(expected)
        np.testing.assert_array_equal(result, expected)
        if isinstance(expected, np.ndarray):
            assert result.dtype == expected.dtype


def test_the_shape_of_a_single_value():
    x = Value(2.0)
    assert (np.shape(x), np.ndim(x), np.size(x)) == ((), 0, 1)
    for result, number in [(np.zeros_like(x), 0), (np.ones_like(x), 1), (np.full_like(x, 3), 3)]:
        assert type(result) is np.ndarray
        assert result.dtype == np.float64
        assert result == number


# --- comparisons --------------------------------------------------------------------------------


@pytest.mark.parametrize("f", COMPARISONS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("other", [0.5, 1, np.float64(0.5), np.float32(0.5), A[::-1], B], ids=repr)
@arrays_of
def test_comparisons_are_plain_arrays_of_bool(f, other, make):
    for got, expected in [
        (f(make(A), other), f(A, other)),
        (f(other, make(A)), f(other, A)),
        (f(make(A), make(B)), f(A, B)),
        (f(make(A), make(A)), f(A, A)),
    ]:
        assert type(got) is np.ndarray
        assert got.dtype == bool
        np.testing.assert_array_equal(got, expected)


ORDER = [operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne]


@pytest.mark.parametrize("apply", ORDER)
@pytest.mark.parametrize("scalar", [np.float64, np.float32, np.int64, np.float16])
def test_operators_of_comparison_with_numpy_on_the_left(apply, scalar):
    array = np.array([0.0, 1.0, 2.0])
    others = [scalar(1), np.array([1, 1, 0]).astype(scalar)]
    for other in others[: 1 if scalar is np.float16 else 2]:  # Tensors know no arrays of float16
        got = apply(other, Tensor(array))
        assert type(got) is np.ndarray
        np.testing.assert_array_equal(got, apply(other, array))
    for number in (0.0, 1.0, 2.0):
        assert apply(scalar(1), Value(number)) == apply(1.0, number)


def test_a_number_on_the_left_is_compared_in_the_tensors_precision():
    """numpy hands it over as an array, which would count as float64."""
    x = Tensor([0.1], dtype=np.float32)
    assert (np.float64(0.1) == x) == (x == np.float64(0.1)) == (x == 0.1) == [True]
    assert not (np.float64(0.1) < x).any()


def test_equality_with_what_is_no_number():
    for kind in ("Tensor", "Value"):
        x = NODES[kind]()
        for other in (np.True_, np.str_("a"), np.datetime64("2020-01-01")):
            assert (other == x) is False
            assert (x == other) is False
            assert (other != x) is True
            with pytest.raises(TypeError):
                other < x  # noqa: B015
            with pytest.raises(TypeError):
                x >= other  # noqa: B015
    assert (Value(1.0) == A) is False
    assert (A == Value(1.0)) is False  # noqa: SIM300
    with pytest.raises(TypeError, match="got ndarray"):
        A < Value(1.0)  # noqa: B015, SIM300


# --- numpy on the left of an operator -----------------------------------------------------------

BASIC = [operator.add, operator.sub, operator.mul, operator.truediv, operator.pow]
LEFT = [
    np.abs(A),
    np.abs(A).astype(np.float32),
    np.arange(1, 4),
    np.array(2.5),
    np.float64(2.5),
    np.float32(2.5),
    np.int64(2),
    np.uint8(2),
]


@pytest.mark.parametrize("apply", BASIC)
@pytest.mark.parametrize("left", LEFT, ids=repr)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_operators_with_numpy_on_the_left(apply, left, dtype):
    """As ever: a Tensor, of numpy's dtype with the scalar as a weak number."""
    x = Tensor(np.abs(B), dtype=dtype)
    result = apply(left, x)
    weak = float(left) if isinstance(left, np.generic) else left
    if not isinstance(weak, float) and weak.dtype.kind == "i":
        weak = weak.astype(float)
    expected = apply(weak, x.data)
    assert type(result) is Tensor
    assert result.dtype == expected.dtype
    np.testing.assert_allclose(result.data, expected, rtol=1e-6 if dtype == np.float32 else 1e-14)
    if result.dtype == np.float64 and dtype == np.float64:
        agrees(lambda x: apply(left, x), [np.abs(B)], Tensor)


@pytest.mark.parametrize("apply", BASIC)
def test_arrays_and_single_values_do_not_mix(apply):
    for array in (A, np.array(2.0)):
        with pytest.raises(TypeError, match=r"got ndarray; for arrays use tb\.Tensor"):
            apply(array, Value(2.0))
    for scalar in (np.float64(3.0), np.float32(3.0), np.int64(3)):
        result = apply(scalar, Value(2.0))
        assert isinstance(result, Value)
        assert result.data == apply(3.0, 2.0)
    with pytest.raises(TypeError, match="got bool"):
        apply(np.True_, Value(2.0))


@pytest.mark.parametrize("apply", BASIC[:4])
@pytest.mark.parametrize("kind", ["Tensor", "Value"])
def test_masked_arrays_do_not_take_a_node_apart(apply, kind):
    """`np.ma` would compute with the data, and the history were lost."""
    masked = np.ma.array(A, mask=A > 0)
    with pytest.raises(TypeError, match=r"masked|MaskedArray"):
        apply(masked, NODES[kind]())
    with pytest.raises(TypeError, match=r"masked|MaskedArray"):
        np.multiply(masked, NODES[kind]())


MIXED = [
    (lambda: Tensor(A), lambda: Value(1.0)),
    (lambda: Tensor(A), lambda: values(A)),
    (lambda: Value(1.0), lambda: Tensor(A)),
    (lambda: values(A), lambda: Tensor(A)),
]


@pytest.mark.parametrize(("left", "right"), MIXED)
@pytest.mark.parametrize(
    "f",
    [
        np.add,
        np.maximum,
        np.less,
        np.equal,
        lambda x, y: np.where(True, x, y),
        lambda x, y: np.clip(x, y, 7.0),
        operator.mul,
    ],
)
def test_tensors_and_values_do_not_mix(left, right, f):
    with pytest.raises(TypeError, match="do not mix: convert with"):
        f(left(), right())


def test_values_and_single_values_do_mix():
    v, x = values(A), Value(0.5)
    for f in (np.maximum, np.add, np.arctan2):
        for result, expected in [(f(v, x), f(A, 0.5)), (f(x, v), f(0.5, A))]:
            assert type(result) is Values
            np.testing.assert_allclose(result.data, expected, rtol=1e-15)
    np.testing.assert_array_equal(np.less(x, v), A > 0.5)
    np.testing.assert_array_equal(np.less(v, x), A < 0.5)


# --- the interpreter of the node decides --------------------------------------------------------


def test_an_operator_on_a_node_does_not_ask_numpy(monkeypatch):
    """The way through numpy is for what starts there: it costs microseconds."""

    def refuse(*unused):
        raise AssertionError("asked numpy")

    for name in ("__array_ufunc__", "__array_function__"):
        monkeypatch.setattr(Tensor, name, refuse)
        monkeypatch.setattr(Value, name, refuse)
    x, a = Tensor(A), Value(2.0)
    for apply in BASIC:
        with np.errstate(all="ignore"):
            for other in (A, 2.0, np.float64(2.0), x):
                assert type(apply(x, other)) is Tensor
            assert isinstance(apply(a, a), Value)
            assert isinstance(apply(a, np.float64(2.0)), Value)
    assert type(x @ A.T) is type(2.0 * x) is type(tb.tanh(x)) is type(x.sum()) is Tensor
    (tb.tanh(x @ A.T) ** 2).sum().backward()
    with pytest.raises(AssertionError):
        A * x


def test_a_kind_of_node_with_an_interpreter_of_its_own():
    """numpy's functions hand over the rule; what it does there is the type's affair."""
    seen = []

    class Watched(Tensor):
        __slots__ = ()

        @staticmethod
        def _interpret(rule, operands, parameters=(), options=None):
            seen.append((rule.name, len(operands), parameters, options))
            return "interpreted"

    x = Watched(A)
    calls = [
        (lambda: np.tanh(x), ("tanh", 1, (), None)),
        (lambda: np.maximum(A, x), ("maximum", 2, (), None)),
        (lambda: np.matmul(A.T, x), ("matmul", 2, (), {})),
        (lambda: np.where(A > 0, 0.0, x), ("where", 3, (), None)),
        (lambda: np.clip(x, None, 1.0), ("clip", 3, (), None)),
        (lambda: np.sum(x, 1), ("sum", 1, (), {"axis": 1})),
        (lambda: np.sum(x, keepdims=True), ("sum", 1, (), {"keepdims": True})),
        (lambda: np.concatenate([A, x], axis=1), ("concatenate", 2, (), {"axis": 1})),
        (lambda: np.einsum("ij,kj", A, x), ("contract", 2, ("ij,kj",), {})),
        (lambda: np.take_along_axis(x, INDICES, 1), None),
    ]
    for call, expected in calls:
        seen.clear()
        assert call() == "interpreted"
        if expected is not None:
            assert [(*s[:3], s[3] or expected[3]) for s in seen] == [expected]


def test_a_kind_of_node_with_comparisons_of_its_own():
    """Between nodes they are Python's, which asks the subclass first."""

    class Reversed(Tensor):
        __slots__ = ()

        def __gt__(self, other):
            return "asked"

    x, y = Tensor(A), Reversed(A)
    assert (np.less(x, y), np.greater(y, x), np.less(A, y)) == ("asked",) * 3


def test_every_function_of_a_rules_name_is_there():
    for name, rule in (RULES | ARRAY_RULES).items():
        if hasattr(np, name) and name not in {"clip", "reshape", "take_along_axis"}:
            assert FUNCTIONS[getattr(np, name)] is rule
            assert isinstance(rule, ArrayRule) == (name in ARRAY_RULES)


# --- __array__ ----------------------------------------------------------------------------------


def test_asarray_gives_the_data():
    leaf = Tensor(A)
    for x in (leaf, leaf * 1.0):
        for array in (np.asarray(x), np.array(x), x.__array__(), np.array(x, copy=True)):
            assert type(array) is np.ndarray
            np.testing.assert_array_equal(array, A)
            array[:] = 0.0  # a copy: it is the caller's
        np.testing.assert_array_equal(x.data, A)
    for dtype in (np.float32, np.float64, np.float16, int, complex):
        array = np.asarray(leaf, dtype)
        assert array.dtype == dtype
        np.testing.assert_array_equal(array, A.astype(dtype))
    assert bool(np.asarray(Tensor(0.5))) is True
    assert bool(np.asarray(Tensor(0.0))) is False


def test_without_a_copy_it_is_a_read_only_view():
    leaf = Tensor(A)
    for x in (leaf, leaf * 1.0, leaf.detach()):
        for view in (np.asarray(x, copy=False), np.array(x, copy=False), x.__array__(copy=False)):
            np.testing.assert_array_equal(view, A)
            assert np.shares_memory(view, x._array)
            assert not view.flags.writeable
            with pytest.raises(ValueError, match="read-only"):
                view[0] = 1.0
        assert np.asarray(x, np.float64, copy=False).base is not None
        with pytest.raises(ValueError, match="copy"):
            np.asarray(x, np.float32, copy=False)


def test_looking_does_not_disturb_a_graph():
    x = Tensor(A)
    y = np.square(x)
    np.asarray(x)[:] = 7.0
    np.asarray(y)[:] = 7.0
    y.sum().backward()
    np.testing.assert_array_equal(x.grad, 2.0 * A)


def test_under_no_grad_nothing_is_recorded():
    x = Tensor(A)
    with tb.no_grad():
        for result in (np.tanh(x), np.sum(x), A * x, np.concatenate([x, A])):
            assert not result.requires_grad
