"""What a function reaches beside its arguments is read, seen to have changed, or refused."""

import functools
import importlib
import sys
import types
from collections import deque

import numpy as np
import pytest

import tinygrad_bp as tb
from tinygrad_bp import Tensor, Value, nn
from tinygrad_bp.replay.surroundings import LARGEST, MOST

SCALE = 2.0
SHIFT = np.array([1.0, 2.0, 3.0])
TABLE = {"a": [1.0, {"b": 2.0}], "c": (3.0,)}
CONFIG = types.SimpleNamespace(scale=2.0, deep=types.SimpleNamespace(flag=True))
X = np.array([1.0, -2.0, 0.5])


class Plain:
    scale = 3.0

    def __init__(self):
        self.factor = 2.0

    def times(self, x):
        return x * self.factor * Plain.scale * SCALE


PLAIN = Plain()


def by_a_helper(x):
    return x * SCALE


def activation(x):
    return tb.tanh(x)


ACTIVATION = activation

FUNCTIONS = {
    "global": lambda x: x * SCALE,
    "array": lambda x: x * SHIFT,
    "part of an array": lambda x: x * SHIFT[::-1] + SHIFT[1:2],
    "of an array": lambda x: x * float(SHIFT.std()),
    "helper": lambda x: by_a_helper(x),
    "inner": lambda x: (lambda y: y * SCALE)(x),
    "containers": lambda x: x * TABLE["a"][0] + TABLE["a"][1]["b"] - TABLE["c"][0] + len(TABLE),
    "namespace": lambda x: x * CONFIG.scale if CONFIG.deep.flag else -x,
    "object": lambda x: x * PLAIN.factor,
    "method": PLAIN.times,
    "class": lambda x: x * Plain.scale,
    "partial": functools.partial(lambda table, x: x * table["a"][0] * SCALE, TABLE),
    "default": lambda x, table=TABLE: x * table["a"][0],
    "function": lambda x: ACTIVATION(x),
    "module": lambda x: x * sys.modules[__name__].SCALE if SCALE else x,
}


def changes():
    """Every change of what the functions go by, one after the other, and back."""
    this = sys.modules[__name__]

    def put(holder, name, value):
        before = getattr(holder, name) if isinstance(name, str) else holder[name]
        (setattr if isinstance(name, str) else type(holder).__setitem__)(holder, name, value)
        return before

    yield "nothing"
    for holder, name, value in [
        (this, "SCALE", 3.0),
        (this, "SCALE", -0.0),
        (this, "SHIFT", np.array([5.0, 1.0, 7.0])),
        (this, "ACTIVATION", tb.relu),
        (this, "TABLE", {"a": [2.0, {"b": 3.0}], "c": (4.0,)}),
        (this, "CONFIG", types.SimpleNamespace(scale=5.0, deep=CONFIG.deep)),
        (CONFIG, "scale", 7.0),
        (CONFIG.deep, "flag", False),
        (PLAIN, "factor", 11.0),
        (Plain, "scale", 13.0),
    ]:
        before = put(holder, name, value)
        yield name
        put(holder, name, before)
        yield f"{name} back"
    for change, back in [
        (lambda: SHIFT.__setitem__(1, 9.0), lambda: SHIFT.__setitem__(1, 2.0)),
        (lambda: TABLE["a"].__setitem__(0, 9.0), lambda: TABLE["a"].__setitem__(0, 1.0)),
        (lambda: TABLE["a"][1].update(b=9.0), lambda: TABLE["a"][1].update(b=2.0)),
        (lambda: TABLE.update(d=0.0), lambda: TABLE.pop("d")),
    ]:
        change()
        yield "in place"
        back()
        yield "and back"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_change_of_what_is_reached_is_seen(name):
    f = FUNCTIONS[name]
    step = tb.compile(f)
    seen = set()
    for change in changes():
        for _ in range(2):
            expected = f(Tensor(X)).data
            assert step(X).tobytes() == expected.tobytes(), change
        seen.add(expected.tobytes())
    assert len(seen) > 1  # some of the changes are the function's
    assert step.recordings >= len(seen)
    assert step.recordings < 12


def test_what_is_not_reached_does_not_matter():
    unrelated = [1.0]
    step = tb.compile(lambda x: x * 2.0)
    for k in range(5):
        unrelated[0] = k
        assert step(1.0) == 2.0
    assert step.recordings == 1


@pytest.mark.parametrize("value", [3, 3.5, True, "sin", None, np.float32(2.0), float("nan")])
def test_a_cell_is_seen_to_change(value):
    setting = "cos"

    def f(x):
        if isinstance(setting, str):
            return tb.sin(x) if setting == "sin" else tb.cos(x)
        return x if setting is None else x * float(setting)

    step = tb.compile(f)
    for current in ("cos", value, "cos", value):
        setting = current
        assert np.array_equal(step(0.5), f(Value(0.5)).data, equal_nan=True)
    assert step.recordings == 2


# --- Modules ------------------------------------------------------------------------------------


class Layer(nn.Module):
    def __init__(self):
        self.w = Tensor([1.0, 2.0, 3.0])
        self.training = True
        self.scale = 2.0
        self.mask = np.array([1.0, 0.0, 1.0])
        self.history = []
        self.inner = nn.MLP([3, 3], "tanh", rng=0)

    def forward(self, x):
        y = self.inner(self.w * x * self.scale * SCALE)
        return (y * self.mask).sum() if self.training else y.sum()


CHANGES = {
    "flag": lambda m: setattr(m, "training", False),
    "number": lambda m: setattr(m, "scale", 5.0),
    "array": lambda m: setattr(m, "mask", np.array([0.0, 1.0, 1.0])),
    "array in place": lambda m: m.mask.__setitem__(1, 1.0),
    "leaf": lambda m: setattr(m, "w", Tensor([3.0, 1.0, 2.0])),
    "leaf in place": lambda m: m.w.data.__setitem__(0, 7.0),
    "module": lambda m: setattr(m, "inner", nn.MLP([3, 3], "relu", rng=1)),
    "deep": lambda m: setattr(m.inner.layers[0], "W", Tensor(np.ones((3, 3)))),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
@pytest.mark.parametrize("how", ["captured", "argument", "itself"])
@pytest.mark.parametrize("mode", ["value", "backward"])
def test_a_change_of_a_module_is_seen(change, how, mode):
    model = Layer()
    f, args = {
        "captured": (lambda x: model(x) * 2.0, (X,)),
        "argument": (lambda m, x: m(x) * 2.0, (model, X)),
        "itself": (model, (X,)),
    }[how]
    step = tb.compile(f)
    for k in range(4):
        if k == 2:
            change(model)
        model.zero_grad()
        expected = f(*args)
        if mode == "value":
            assert step(*args) == expected.item()
            continue
        expected.backward()
        exact = [p.grad for p in model.parameters()]
        model.zero_grad()
        assert step.backward(*args) == expected.item()
        for p, g in zip(model.parameters(), exact, strict=True):
            assert np.array_equal(p.grad, g)
    assert step.recordings <= 2


def test_a_training_loop_records_once():
    model = Layer()
    step = tb.compile(lambda x: model(x))
    optimizer = tb.optim.SGD(model.parameters(), 0.1)
    for _ in range(5):
        optimizer.zero_grad()
        step.backward(X)
        optimizer.step()
    assert step.recordings == 1


def test_train_and_eval_are_recorded_once_each():
    model = Layer()
    step = tb.compile(lambda x: model(x))
    for k in range(6):
        model.training = k % 2 == 0
        assert step(X) == model(X).item()
    assert step.recordings == 2


def test_a_leaf_in_a_cell_may_be_replaced():
    w = Tensor([1.0, 2.0, 3.0])
    step = tb.compile(lambda x: (x * w).sum())
    assert step(X) == (X * [1, 2, 3]).sum()
    w = Tensor([4.0, 5.0, 6.0])
    assert step(X) == (X * [4, 5, 6]).sum()
    step.backward(X)
    assert w.grad.tolist() == X.tolist()


# --- what is too large to be looked at ----------------------------------------------------------

LARGE = np.ones(LARGEST // 8 + 1)


@pytest.mark.parametrize(
    "f",
    [
        lambda x: (x.sum() * LARGE).sum(),
        lambda x: x * LARGE[:3],
        lambda x: x * LARGE[3:][::-1][:3].reshape(3, 1)[:, 0],
        lambda x: tb.stack([x, LARGE[:3]]).sum(),
    ],
)
def test_a_large_array_from_outside_is_refused(f):
    with pytest.raises(ValueError, match="pass it as an argument"):
        tb.compile(f)(X)


def test_an_array_of_the_largest_size_is_compared():
    table = np.ones(LARGEST // 8)
    step = tb.compile(lambda x: x * table[-3:])
    assert step(X).tolist() == X.tolist()
    table[-1] = 5.0
    assert step(X).tolist() == (X * [1.0, 1.0, 5.0]).tolist()


def test_a_large_leaf_is_read():
    table = Tensor(LARGE)
    step = tb.compile(lambda x: x * table[:3])
    assert step(X).tolist() == X.tolist()
    table.data[...] = 2.0
    assert step(X).tolist() == (2.0 * X).tolist()
    assert step.recordings == 1


def test_very_long_lists_are_known_by_identity_alone():
    numbers = [1.0] * (MOST + 1)
    step = tb.compile(lambda x: x * numbers[0])
    assert step(3.0) == 3.0
    numbers[0] = 2.0
    assert step(3.0) == 3.0  # as documented
    numbers = [2.0] * (MOST + 1)
    assert step(3.0) == 6.0


def test_a_very_long_list_hides_nothing_else():
    numbers, flag, table = [1.0] * (MOST + 1), True, [2.0]

    def f(x):
        return x * numbers[0] * table[0] * SCALE if flag else -x

    step = tb.compile(f)
    assert step(3.0) == 12.0
    table[0] = 5.0
    assert step(3.0) == 30.0
    flag = False
    assert step(3.0) == -3.0


def test_structures_that_hold_themselves():
    loop = [1.0]
    loop.append(loop)
    step = tb.compile(lambda x: x * loop[1][0])
    assert step(3.0) == 3.0
    loop[0] = 2.0
    assert step(3.0) == 6.0


def test_a_function_that_knows_itself():
    def power(x, n):
        return x if n == 1 else x * power(x, n - 1)

    step = tb.compile(lambda x: power(x, 3))
    assert step(2.0) == 8.0
    assert step.value_and_grad(3.0) == (27.0, 27.0)


def test_what_was_replaced_is_not_taken_for_what_is_new():
    """An object may come to stand where one that has vanished stood."""
    for _ in range(20):
        model = Layer()
        step = tb.compile(lambda m, x: m(x))
        for k in range(5):
            model.scale = float(k)
            model.activation = functools.partial(lambda k, x: x * k, float(k))
            model.forward = lambda x, m=model: m.activation(m.w * x).sum()
            assert step(model, X) == (np.array([1.0, 2.0, 3.0]) * X * k).sum()


# --- what stands for functions, and where they are handed on ------------------------------------


class Slotted:
    __slots__ = ("factor",)


class Reaching(nn.Module):
    factor = 2.0

    def __init__(self):
        self.queue, self.slotted = deque([2.0]), Slotted()
        self.slotted.factor = 2.0
        self.w = Tensor([1.0, 2.0, 3.0])

    @property
    def by_property(self):
        return SCALE

    @staticmethod
    def by_static():
        return SCALE

    @classmethod
    def by_class(cls):
        return SCALE


class Called:
    def __call__(self, x):
        return x * SCALE


REACHED = {
    "attribute of a class": lambda m: m.factor,
    "property": lambda m: m.by_property,
    "static method": lambda m: m.by_static(),
    "class method": lambda m: m.by_class(),
    "deque": lambda m: m.queue[0],
    "slots": lambda m: m.slotted.factor,
}


@pytest.mark.parametrize("reached", REACHED.values(), ids=list(REACHED))
@pytest.mark.parametrize("how", ["captured", "argument"])
def test_a_change_that_a_module_reaches_is_seen(reached, how, monkeypatch):
    model = Reaching()
    if how == "captured":
        step = tb.compile(lambda x: (model.w * x * reached(model)).sum())
        args = (X,)
    else:
        monkeypatch.setattr(Reaching, "forward", lambda m, x: (m.w * x * reached(m)).sum())
        step = tb.compile(lambda m, x: m(x))
        args = (model, X)
    before = step(*args)
    assert before == 2.0 * (model.w.data @ X) == step(*args)
    assert step.recordings == 1
    monkeypatch.setattr(Reaching, "factor", 5.0)
    monkeypatch.setattr(sys.modules[__name__], "SCALE", 5.0)
    model.queue[0] = model.slotted.factor = 5.0
    assert step(*args) == 5.0 * (model.w.data @ X)


@pytest.mark.parametrize("part", [lambda x: x * SCALE, Called()], ids=["function", "object"])
@pytest.mark.parametrize("how", ["captured", "argument"])
def test_a_function_in_a_module_of_ours_is_looked_into(part, how, monkeypatch):
    model = nn.Sequential(part)
    step = tb.compile((lambda x: model(x).sum()) if how == "captured" else lambda m, x: m(x).sum())
    args = (Tensor(X),) if how == "captured" else (model, Tensor(X))
    assert step(*args) == 2.0 * X.sum()
    monkeypatch.setattr(sys.modules[__name__], "SCALE", 5.0)
    assert step(*args) == 5.0 * X.sum()


def test_a_leaf_that_a_function_in_a_module_reaches_may_be_replaced(monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "SCALE", Tensor(2.0))
    model = nn.Sequential(lambda x: x * SCALE)
    step = tb.compile(lambda m, x: m(x).sum())
    for number in (2.0, 5.0):
        monkeypatch.setattr(sys.modules[__name__], "SCALE", Tensor(number))
        assert step.backward(model, Tensor(X)) == number * X.sum()
        assert SCALE.grad == X.sum()


class Derived(Reaching):
    pass


class Empty:
    pass


def test_attributes_that_come_later_are_seen():
    model, empty = Derived(), Empty()
    Derived.forward = lambda m, x: (m.w * x * m.factor * getattr(empty, "factor", 1.0)).sum()
    step = tb.compile(lambda m, x: m(x))
    assert step(model, X) == 2.0 * (model.w.data @ X)
    Derived.factor = 5.0
    assert step(model, X) == 5.0 * (model.w.data @ X)
    empty.factor = 3.0
    assert step(model, X) == 15.0 * (model.w.data @ X)


@pytest.mark.parametrize("installed", [False, True])
def test_files_beside_a_script_are_followed_and_installed_ones_are_not(
    installed, tmp_path, monkeypatch
):
    folder = tmp_path / "site-packages" if installed else tmp_path
    folder.mkdir(exist_ok=True)
    name = f"settings_of_{'others' if installed else 'mine'}"
    (folder / f"{name}.py").write_text("FACTOR = 2.0\n\n\ndef scaled(x):\n    return x * FACTOR\n")
    monkeypatch.syspath_prepend(folder)
    settings = importlib.import_module(name)
    step = tb.compile(lambda x: settings.scaled(x) + 1.0)
    assert step(3.0) == 7.0
    settings.FACTOR = 10.0
    assert step(3.0) == (7.0 if installed else 31.0)
    monkeypatch.delitem(sys.modules, name)
