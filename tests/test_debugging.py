"""Finding the first nan or infinity: what is found, what is named, and what is left alone."""

import asyncio
import inspect
import itertools
import math
import os
import threading
from contextlib import ExitStack

import numpy as np
import pytest

import tinygrad_bp as tb
from tinygrad_bp import Tensor, Value, detect_anomaly, enable_grad, nn, no_grad, scope
from tinygrad_bp.recording import ROOT, current_state

nan, inf = math.nan, math.inf


def here():
    """The line that this is called from."""
    return inspect.currentframe().f_back.f_lineno


def message(function, *arguments, **options):
    """What is said about the first nan or infinity in a call."""
    with pytest.raises(FloatingPointError) as caught, detect_anomaly(**options):
        function(*arguments)
    assert current_state() is ROOT
    return str(caught.value)


def start(function, *arguments, **options):
    """The message up to the line of the program."""
    return message(function, *arguments, **options).partition(f", in {__file__}")[0]


def is_quiet(function, *arguments, **options):
    with detect_anomaly(**options):
        function(*arguments)
    return True


# --- forward ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "x", "expected"),
    [
        (tb.log, -1.0, "log(x = -1) made the first nan"),
        (tb.log, 0.0, "log(x = 0) made the first inf"),
        (tb.sqrt, -2.5, "sqrt(x = -2.5) made the first nan"),
        (tb.exp, 1000.0, "exp(x = 1000) made the first inf"),
        (lambda x: x / 0.0, 1.0, "divide(x = 1, 0) made the first inf"),
        (lambda x: 0.0 / x, 0.0, "divide(0, x = 0) made the first nan"),
        (lambda x: x * x, 1e200, "multiply(x = 1e+200, x = 1e+200) made the first inf"),
        (lambda x: x - 1e308, -1e308, "subtract(x = -1e+308, 1e+308) made the first inf"),
        (lambda x: x**0.5, -1.0, "power(x = -1, 0.5) made the first nan"),
        (lambda x: tb.clip(x / 0.0, 0.0, 1.0), 1.0, "divide(x = 1, 0) made the first inf"),
    ],
)
@pytest.mark.parametrize("under", [enable_grad, no_grad])
@pytest.mark.parametrize("tracked", [True, False])
def test_first_result_that_is_not_finite(function, x, expected, under, tracked):
    def run(x):
        with under():
            function(x)

    assert start(run, Value(x, "x", requires_grad=tracked)) == expected
    x = Tensor([1.0, x], "x", requires_grad=tracked)
    if x.data[1] != 1.0:
        assert start(run, x) == expected + " at index [1]"
    else:
        assert start(run, x) == expected + " at index [0]"


def test_values_in_arrays_are_named():
    x = tb.values([[1.0, 2.0], [-3.0, 4.0]], "x")
    assert start(tb.log, x) == "log(x[1, 0] = -3) made the first nan"


def test_first_of_several():
    def f(x):
        y = tb.exp(x)
        z = y - y
        return tb.log(z)

    assert start(f, Value(1000.0)).startswith("exp(1000)")


def test_index_and_operands_are_those_of_the_nan_and_not_of_an_infinity_before_it():
    x = Tensor([[0.0, 3.0], [-4.0, 0.0]], "x")
    assert start(tb.log, x) == "log(x = -4) made the first nan at index [1, 0]"
    assert start(tb.log, x, infinite=False) == "log(x = -4) made the first nan at index [1, 0]"


def test_operands_are_broadcast_to_the_place():
    x = Tensor([[1.0], [0.0]], "x")
    y = Tensor([1.0, 2.0, 0.0], "y")
    assert start(tb.divide, x, y) == "divide(x = 0, y = 0) made the first nan at index [1, 2]"
    y = Tensor(np.array([0.0, 2.0]), "y")
    text = start(tb.divide, np.ones((2, 1)), y)
    assert text == "divide(1, y = 0) made the first inf at index [0, 0]"


def test_structural_operations():
    x = Tensor([[1e308, 1e308], [1.0, 1.0]], "x")
    assert start(tb.sum, x, 1) == "sum made the first inf at index [0]"
    assert start(tb.matmul, x, np.ones((2, 1))) == "matmul made the first inf at index [0, 0]"
    assert start(tb.prod, x) == "prod made the first inf"
    assert start(tb.mean, Tensor(np.zeros(0))) == "mean made the first nan"


def test_sums_of_opposite_infinities():
    x = Tensor([1.0, inf, -inf], "x")
    assert start(tb.sum, x) == "sum made the first nan"
    assert start(lambda: x - x) == "subtract(x = inf, x = inf) made the first nan at index [1]"
    y = Value(inf, "y")
    assert start(lambda: y - y) == "subtract(y = inf, y = inf) made the first nan"
    assert start(lambda: y * 0.0) == "multiply(y = inf, 0) made the first nan"


def test_nan_that_was_given():
    x = Value(nan, "x")
    assert start(tb.exp, x) == "nan came into exp with x"
    assert start(lambda: 2.0 * Value(nan)) == "nan came into multiply with an operand"
    assert start(lambda: Tensor([1.0]) + np.array([nan])) == "nan came into add with an operand"
    t = Tensor([[1.0, nan]], "t")
    assert start(tb.sum, t) == "nan came into sum with t"
    assert start(tb.concatenate, [Tensor([[1.0]]), t], 1) == "nan came into concatenate with t"


def test_nan_that_is_not_chosen_is_not_reported():
    x = Tensor([1.0, nan])
    assert is_quiet(lambda: tb.where(np.array([True, False]), x, 0.0))
    x = Tensor([inf, nan])
    assert is_quiet(lambda: tb.where(np.array([True, False]), x, 0.0))


def test_nan_made_beside_one_that_was_given_and_masked():
    # the nan of `x` is not chosen; that of the root is new
    @tb.elementwise(
        None, lambda m, c, x, y: m.where(c, m.divide(0.5, y), 0.0), domain=(0.5, 2.0), check=False
    )
    def root_where(m, c, x):
        return m.where(c, m.sqrt(x), 0.0)

    x = Tensor([nan, -1.0], "x")
    text = start(root_where, np.array([False, True]), x)
    assert text == "root_where(1, x = -1) made the first nan at index [1]"


def test_infinity_that_was_given_is_not_reported():
    mask = np.array([0.0, -inf])
    x = Tensor([1.0, 2.0])
    assert is_quiet(lambda: tb.softmax(x + mask).sum().backward())
    assert is_quiet(lambda: Value(inf) * 2.0 + 1.0)
    assert is_quiet(lambda: tb.sum(Tensor([inf, 1.0])))


def test_infinity_made_beside_one_that_was_given():
    mask = np.array([-inf, 0.0, 0.0])
    x = Tensor([1.0, 1.0, 1000.0])
    text = start(lambda: tb.exp(x + mask))
    assert text == "exp(1000) made the first inf at index [2]"
    text = start(lambda: Tensor([inf, 1e308], "x") * 10.0)
    assert text == "multiply(x = 1e+308, 10) made the first inf at index [1]"


def test_without_infinities_only_nan_counts():
    def f(x):
        y = 1.0 / x  # inf
        return y - y

    assert start(f, Value(0.0), infinite=False).startswith("subtract(inf, inf)")
    assert is_quiet(lambda: tb.log(Tensor([0.0, 1.0])).sum(), infinite=False)
    assert is_quiet(lambda: tb.sqrt(Value(0.0)).backward(), infinite=False)


def test_overflow_of_float32():
    x = Tensor(np.array([1.0, 3e38], np.float32), "x")
    assert start(lambda: x * 10.0) == "multiply(x = 3e+38, 10) made the first inf at index [1]"


def test_finite_numbers_are_left_alone_and_come_out_the_same():
    def run():
        network = nn.MLP([3, 4, 2], rng=0)
        loss = nn.cross_entropy(network(np.ones((5, 3))), np.zeros(5, int))
        loss.backward()
        return [loss.data, *(p.grad for p in network.parameters())]

    plain = run()
    with detect_anomaly():
        watched = run()
    for a, b in zip(plain, watched, strict=True):
        np.testing.assert_array_equal(a, b)


# --- where --------------------------------------------------------------------------------------


def test_line_of_the_program():
    def f(x):
        y = x * 2.0
        return tb.log(y) + y

    line = inspect.getsourcelines(f)[1] + 2
    expected = f"log(-2) made the first nan, in {__file__}, line {line}: return tb.log(y) + y"
    assert message(f, Value(-1.0)) == expected


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.log(),
        lambda x: tb.log(x),
        lambda x: np.log(x),
        lambda x: 1.0 / (x + 1.0),
        lambda x: np.float64(1.0) / (x + 1.0),
        lambda x: nn.binary_cross_entropy_with_logits(x / 0.0, Value(1.0)),
        lambda x: tb.einsum("i,i->", tb.values([1e200]), tb.values([1e200])),  # numpy's own loop
    ],
)
def test_line_is_that_of_the_user_whichever_way_the_operation_was_reached(function):
    line = here() + 1
    text = message(lambda: function(Value(-1.0)))
    first = inspect.getsourcelines(function)[1]
    assert f", in {__file__}, line {first}: lambda" in text
    assert f"line {line}" not in text


def test_line_of_code_beside_the_package():
    # a directory of the user's whose name begins with the package's is the user's
    file = os.path.dirname(tb.__file__) + "_experiments/model.py"
    program: dict = {}
    exec(compile("def f(x):\n    return x.log()\n", file, "exec"), program)
    assert message(program["f"], Value(-1.0)).endswith(f", in {file}, line 2")


def test_scopes_of_modules():
    class Root(nn.Module):
        def forward(self, x):
            return tb.sqrt(x)

    class Net(nn.Module):
        def __init__(self):
            self.root = Root()
            self.root.name = "inner"

        def forward(self, x):
            with scope("step", 3):
                return self.root(x)

    text = message(Net(), Value(-1.0, "x"))
    assert text.startswith("sqrt(x = -1) made the first nan, in scope net/step(3)/inner, in ")
    text = message(Net(), Tensor([nan], "x"))
    assert text.startswith("nan came into sqrt with x, in scope net/step(3)/inner, in ")


# --- backward -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [lambda: Value(0.0, "x"), lambda: Tensor([1.0, 0.0], "x")])
def test_derivative_at_a_pole(kind):
    x = kind()
    with detect_anomaly():
        with scope("layer"):
            line = here() + 1
            y = tb.sqrt(x)
        y.label = "y"
        with pytest.raises(FloatingPointError) as caught:
            tb.sum(y).backward() if isinstance(y, Tensor) else y.backward()
    text = str(caught.value)
    assert text.startswith("the backward sweep made the first inf at sqrt 'y', in scope layer, in ")
    assert "the derivative by x" in text
    assert ("at index [1]" in text) == isinstance(x, Tensor)
    assert f", in {__file__}, line {line}: y = tb.sqrt(x)" in text
    assert x.grad is None
    assert y.grad is None


def test_local_derivative_is_shown_of_single_numbers():
    x = Value(0.0, "x")
    text = message(lambda: (tb.sqrt(x) * 3.0).backward())
    assert "in the derivative by x (local derivative inf)" in text


def test_operand_without_a_name_is_numbered_among_all_operands():
    x = Value(1e-200)
    y = 1.0 / x
    assert "by its operand 1" in message(y.backward)
    x = Value(0.0)
    assert "by its operand 0" in message(tb.sqrt(x).backward)


def test_recorded_outside_and_swept_inside():
    x = Tensor([0.0], "x")
    y = tb.sqrt(x).sum()
    assert message(y.backward).endswith("; it was recorded outside of detect_anomaly()")
    assert x.grad is None


def test_recorded_inside_and_swept_outside_is_not_watched():
    x = Tensor([0.0], "x")
    with detect_anomaly():
        y = tb.sqrt(x)
    y.sum().backward()
    assert x.grad.tolist() == [inf]


def test_lines_are_kept_beside_labels():
    with detect_anomaly():
        line = here() + 1
        y = Value(2.0) * 3.0
    assert f"line {line}" in y.line
    y.label = "y"
    assert (y.label, f"line {line}" in y.line) == ("y", True)
    y.label = ""
    assert f"line {line}" in y.line
    assert (Value(2.0) * 3.0).line == ""


def test_masked_pole_is_not_reported():
    for x in (Value(0.0), Tensor([0.0, 2.0])):
        y = tb.where(x > 0.0, tb.log(x), 0.0)
        y = y.sum() if isinstance(x, Tensor) else y
        assert is_quiet(y.backward)
    assert x.grad.tolist() == [0.0, 0.5]
    x = Tensor([0.0, 2.0])
    assert is_quiet(lambda: tb.where(x > 0.0, tb.log(x), 0.0).sum().backward(), infinite=False)
    assert x.grad.tolist() == [0.0, 0.5]


def test_contributions_that_add_up_to_nan():
    x = Value(0.0, "x")
    y = tb.sqrt(x) - tb.sqrt(x)
    text = message(y.backward, infinite=False)
    assert text.startswith("the gradient of the leaf 'x' is nan")
    assert "contributions to it added up" in text


def test_contributions_that_add_up_to_infinity():
    x = Tensor([1e308], "x")
    y = (x * 1.0).sum() + (x * 1.0).sum()
    assert "the gradient of the leaf 'x' is inf" in message(y.backward, 1e308)


def test_sweep_that_starts_with_nan():
    y = tb.exp(Value(1.0))
    y.label = "y"
    text = message(y.backward, nan)
    assert text.startswith("the gradient of exp 'y' is nan: the sweep was started with it")


def test_step_by_step_sweep_is_watched():
    y = tb.sqrt(Value(0.0, "x"))
    assert "at sqrt" in message(lambda: list(tb.sweep(y)))
    z = tb.sqrt(Tensor([0.0], "x")).sum()
    assert "at sqrt" in message(lambda: list(tb.sweep(z)))


# --- within derivatives -------------------------------------------------------------------------


def root(x):
    return tb.sum(tb.sqrt(x)) if isinstance(x, Tensor) else tb.sqrt(x)


@pytest.mark.parametrize("point", [0.0, np.array([1.0, 0.0])])
@pytest.mark.parametrize(
    "derivative",
    [
        lambda x: tb.grad(root)(x),
        lambda x: tb.value_and_grad(root)(x),
        lambda x: tb.vjp(root, x)[1](1.0),
        lambda x: tb.jvp(root, x, np.ones(np.shape(x)) if np.ndim(x) else 1.0),
        lambda x: tb.grad(root, create_graph=True)(x),
        lambda x: tb.hessian(root)(x),
        lambda x: tb.taylor(root, x, 2),
    ],
)
def test_poles_are_found_in_every_mode(derivative, point):
    assert "made the first inf" in message(derivative, point)
    assert is_quiet(derivative, point + 1.0)


def test_first_derivative_may_be_finite_where_the_second_is_not():
    def f(x):
        return x**1.5

    x = Value(0.0)
    assert is_quiet(tb.grad(f), x)
    line = here() + 1
    assert f"line {line}" in message(lambda: tb.grad(tb.grad(f))(x))


# --- the block ----------------------------------------------------------------------------------


def test_decorated_function():
    @detect_anomaly()
    def f(x, *, scale):
        """Doc."""
        return tb.log(x) * scale

    assert (f.__name__, f.__doc__) == ("f", "Doc.")
    assert f(Value(1.0), scale=2.0).data == 0.0
    for _ in range(2):
        with pytest.raises(FloatingPointError, match="log"):
            f(Value(-1.0), scale=2.0)
        assert current_state() is ROOT
    assert math.isnan(tb.log(Value(-1.0)).data)


def test_decorated_function_keeps_its_options_and_may_call_itself():
    @detect_anomaly(infinite=False)
    def f(x, depth):
        return f(tb.log(x), depth - 1) if depth else x

    assert f(Value(0.0), 1).data == -inf
    with pytest.raises(FloatingPointError, match="nan"):
        f(Value(0.0), 2)


def test_decorated_within_the_block_it_was_decorated_with():
    block = detect_anomaly()

    @block
    def f(x):
        return tb.log(x)

    with block:
        assert f(Value(1.0)).data == 0.0


def test_decorated_coroutine():
    @detect_anomaly()
    async def f(x):
        await asyncio.sleep(0)
        return tb.log(x)

    async def both():
        return await asyncio.gather(f(Value(-1.0)), other(), return_exceptions=True)

    async def other():
        await asyncio.sleep(0)
        return tb.log(Value(-1.0)).data

    error, number = asyncio.run(both())
    assert isinstance(error, FloatingPointError)
    assert math.isnan(number)


def test_generator_function_cannot_be_decorated():
    with pytest.raises(TypeError, match=r"detect_anomaly\(\) cannot decorate a generator"):

        @detect_anomaly()
        def steps():
            yield


BLOCKS = {
    "no_grad": no_grad,
    "scope": lambda: scope("s"),
    "count": tb.count_operations,
    "enable": enable_grad,
    "detect": detect_anomaly,
}


@pytest.mark.parametrize("order", [*itertools.permutations(BLOCKS)], ids="-".join)
def test_blocks_in_any_order(order):
    path: str | None = ""  # None where nothing is recorded
    for name in order:
        if name == "no_grad":
            path = None
        elif name == "enable":
            path = path or ""
        elif name == "scope" and path is not None:
            path = "s"
    with ExitStack() as stack:
        entered = {name: stack.enter_context(BLOCKS[name]()) for name in order}
        with pytest.raises(FloatingPointError) as caught:
            tb.log(Value(-1.0, "x"))
        y = Value(2.0) * 3.0
    assert y.requires_grad == (path is not None)
    assert y.scope.path == (path or "")
    assert (", in scope s, in " in str(caught.value)) == (path == "s")
    assert entered["count"].multiplications == 1
    assert entered["count"].calls["log"] == (order.index("count") < order.index("detect"))
    assert current_state() is ROOT


def test_outside_of_the_block_nobody_looks(monkeypatch):
    calls = []
    for method in ("operation", "recorded", "swept"):
        monkeypatch.setattr(detect_anomaly, method, lambda *a, m=method: calls.append(m))
    x, t = Value(2.0), Tensor([1.0, 2.0])
    with detect_anomaly():
        pass
    tb.log(x * x).backward()
    tb.sum(tb.log(t)).backward()
    with no_grad():
        tb.log(x)
    tb.grad(tb.log)(2.0)
    assert calls == []
    with detect_anomaly():
        (x * x).backward()
    assert calls == ["operation", "recorded", "swept", "swept"]


def test_other_threads_are_left_alone():
    results = []
    with detect_anomaly():
        thread = threading.Thread(target=lambda: results.append(tb.log(Value(-1.0)).data))
        thread.start()
        thread.join()
    assert math.isnan(results[0])


def test_suspended_generator_does_not_leak_the_block():
    def steps():
        with detect_anomaly():
            yield tb.log(Value(1.0))
            yield tb.log(Value(2.0))

    generator = steps()
    next(generator)
    with pytest.raises(RuntimeError, match="suspended"):
        tb.log(Value(-1.0))
    next(generator)
    generator.close()
    assert current_state() is ROOT


def test_nested_detections_report_once():
    with detect_anomaly(infinite=False):
        assert "made the first inf" in _message_of(lambda: tb.log(Value(0.0)))
        assert tb.log(Value(0.0)).data == -inf


def _message_of(function):
    with pytest.raises(FloatingPointError) as caught, detect_anomaly():
        function()
    return str(caught.value)
