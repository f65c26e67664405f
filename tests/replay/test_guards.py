"""Comparisons are recorded, and where Python takes a decision, it is taken again."""

import math
import operator

import numpy as np
import pytest

import tinygrad_bp as tb
from tinygrad_bp import Tensor, Value

nan, inf = math.nan, math.inf
NUMBERS = [1.0, -1.0, 0.0, -0.0, 2.5, nan, inf, -inf, 0.5, 1.0]
PAIRS = [
    np.array(NUMBERS),
    np.array(NUMBERS[::-1]),
    np.zeros(10),
    np.full(10, nan),
    np.arange(10.0),
]


def follows(f, *data_sets, recordings=1):
    """f gives what the eager engine gives on data of all kinds, in this order."""
    step = tb.compile(f)
    for data in (*data_sets, *data_sets[::-1]):
        data = data if isinstance(data, tuple) else (data,)
        nodes = [Tensor(x) if np.ndim(x) else Value(x) for x in data]
        assert np.array_equal(step(*data), f(*nodes).data, equal_nan=True), data
    assert step.recordings == recordings


# --- recorded -----------------------------------------------------------------------------------

OPERATORS = [operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne]
every_operator = pytest.mark.parametrize("compare", OPERATORS, ids=lambda f: f.__name__)


@every_operator
def test_a_comparison_is_computed_at_each_run(compare):
    follows(lambda x: tb.where(compare(x, 0.5), x * 2.0, -x), *PAIRS)
    follows(lambda x: tb.where(compare(x, x[::-1]), x * 2.0, -x), *PAIRS)
    follows(lambda x: tb.where(compare(np.linspace(-1, 1, 10), x), x, -x), *PAIRS)
    follows(lambda x: tb.where(compare(x, 0.5), x * 2.0, -x), *NUMBERS)
    follows(lambda x: tb.where(compare(0.5, x), x * 2.0, -x), *NUMBERS)
    follows(lambda x, y: tb.where(compare(x, y), x, -y), *zip(NUMBERS, NUMBERS[::-1], strict=True))


@every_operator
def test_numpys_comparison_is_computed_at_each_run(compare):
    names = {"lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal"}
    name = names.get(compare.__name__, {"eq": "equal", "ne": "not_equal"}.get(compare.__name__))
    function = getattr(np, name)
    follows(lambda x: tb.where(function(x, 0.5), x * 2.0, -x), *PAIRS)
    follows(lambda x: tb.where(function(np.ones(10), x), x * 2.0, -x), *PAIRS)


def negated(condition):
    """What ~ is of comparisons; a Value's is Python's own bool, of which ~ is an integer."""
    return not condition if isinstance(condition, bool) else ~condition


COMBINED = {
    "and": lambda x, m: (x > 0.0) & (x < 2.0),
    "or": lambda x, m: (x > 2.0) | (x < 0.0),
    "not": lambda x, m: negated(x > 0.0),
    "nested": lambda x, m: negated((x > 0.0) & negated(x == 1.0)) | (x != x),
    "with a mask": lambda x, m: (x > 0.0) & m,
    "mask on the left": lambda x, m: m | (x > 0.0),
    "and a mask on the left": lambda x, m: m & (x > 0.0),
}
EQUALS = {
    "equal": lambda x, m: (x > 0.0) == (x > 1.0),
    "not equal": lambda x, m: (x > 0.0) != (x > 1.0),
    "exclusive": lambda x, m: (x > 0.0) ^ (x > 1.0),
}


@pytest.mark.parametrize("combine", (COMBINED | EQUALS).values(), ids=list(COMBINED | EQUALS))
@pytest.mark.parametrize("kind", ["array", "number"])
def test_conditions_are_combined_at_each_run_or_refused(combine, kind):
    mask = np.arange(10) % 2 == 0 if kind == "array" else True

    def f(x):
        return tb.where(combine(x, mask), x * 2.0, -x)

    try:
        tb.compile(f)(PAIRS[0] if kind == "array" else 1.0)
    except TypeError:
        return
    follows(f, *(PAIRS if kind == "array" else NUMBERS))


CHOICES = {
    "maximum": lambda x: tb.maximum(x, 0.5),
    "minimum": lambda x: tb.minimum(0.5, x),
    "clip": lambda x: tb.clip(x, -1.0, 1.0),
    "relu": tb.relu,
    "leaky_relu": tb.leaky_relu,
    "absolute": abs,
    "where of itself": lambda x: tb.where(x, x + 1.0, -7.0),
}


@pytest.mark.parametrize("f", CHOICES.values(), ids=list(CHOICES))
def test_a_choice_is_made_at_each_run(f):
    follows(f, *PAIRS)
    follows(f, *NUMBERS)


def test_nan_before_does_not_matter_after():
    step = tb.compile(lambda x: (tb.where(x > 0, tb.log(x), x * x) / x).sum())
    x = np.array([1.0, 2.0, -3.0])
    expected = step.value_and_grad(x)
    step.value_and_grad(np.array([nan, inf, 0.0]))
    again = step.value_and_grad(x)
    assert again[0] == expected[0]
    assert again[1].tolist() == expected[1].tolist()


# --- Python's decisions -------------------------------------------------------------------------


def test_both_ways_are_kept_and_chosen():
    step = tb.compile(lambda x: x * 2.0 if x > 0.0 else -x)
    for _ in range(3):
        assert [step(x) for x in (1.0, -1.0, 3.0, -3.0, 0.0)] == [2.0, 1.0, 6.0, 3.0, 0.0]
    assert step.recordings == 2


def test_nan_goes_the_way_of_false():
    follows(lambda x: x * 2.0 if x > 0.0 else x * 0.0, 1.0, nan, -1.0, recordings=2)
    follows(lambda x: x * 2.0 if x != x else x * 3.0, 1.0, nan, recordings=2)


def test_truth_of_a_number_is_guarded():
    follows(lambda x: x + 1.0 if x else x - 1.0, 2.0, 0.0, -0.0, nan, recordings=2)
    follows(lambda x: x + 1.0 if not x else x - 1.0, 2.0, 0.0, recordings=2)
    follows(lambda x: x + 1.0 if x.sum() else x - 1.0, np.ones(2), np.zeros(2), recordings=2)


def test_and_or_and_chains_of_comparisons_are_guarded():
    follows(
        lambda x: x * 2.0 if 0.0 < x < 1.0 or x > 5.0 else -x,
        0.5,
        2.0,
        7.0,
        -1.0,
        0.0,
        recordings=4,
    )


def test_a_condition_may_be_compared_with_true():
    follows(lambda x: x if (x > 0.0) == True else -x, 3.0, -3.0, recordings=2)  # noqa: E712


@pytest.mark.parametrize(
    "choose", [max, min, lambda *x: sorted(x)[1]], ids=["max", "min", "sorted"]
)
def test_pythons_own_choices_are_guarded(choose):
    step = tb.compile(lambda x, y, z: choose(x, y, z) * 2.0)
    random = np.random.default_rng(0)
    for _ in range(30):
        numbers = random.normal(size=3).tolist()
        assert step(*numbers) == choose(*numbers) * 2.0
    assert step.recordings <= 6


def test_loops_as_long_as_the_data_say():
    def halved(x):
        while x > 1.0:
            x = x / 2.0
        return x

    step = tb.compile(halved)
    for x in (1.0, 8.0, 100.0, 3.0, 0.5, 1000.0, 100.0, 7.5):
        assert step(x) == halved(x)
    assert step.value_and_grad(100.0) == (100 / 128, 1 / 128)
    assert step.value_and_grad(3.0) == (0.75, 0.25)


def test_guards_inside_of_loops():
    def f(x):
        total = x[0] * 0.0
        for k in range(4):
            total = total + x[k] if x[k] > 0.0 else total - 2.0 * x[k]
        return total

    step = tb.compile(f)
    for signs in range(16):
        x = np.array([1.0 if signs >> k & 1 else -1.0 for k in range(4)]) * [1, 2, 3, 4]
        value, gradient = step.value_and_grad(x)
        assert value == np.where(x > 0, x, -2.0 * x).sum()
        assert gradient.tolist() == np.where(x > 0, 1.0, -2.0).tolist()
    assert step.recordings == 16


def test_more_ways_than_are_kept():
    def f(x):
        k = 0
        while x > float(k):
            k += 1
        return x * float(k)

    step = tb.compile(f)
    for x in [*range(40), *range(40)]:
        assert step(x + 0.5) == (x + 0.5) * (x + 1)
    assert sum(len(kept) for kept in step._kept.values()) <= 16


def test_a_guard_on_what_depends_on_a_leaf_that_is_reached():
    w = Value(1.0)
    step = tb.compile(lambda x: x * 2.0 if x * w > 0.0 else -x)
    assert step(3.0) == 6.0
    w.data = -1.0
    assert step(3.0) == -3.0
    assert step.recordings == 2


def test_search_in_a_list_is_guarded():
    follows(
        lambda x, y: x if y in [1.0, 2.0] else -x, (3.0, 1.0), (3.0, 2.0), (3.0, 5.0), recordings=3
    )


def test_a_decision_over_all_elements_is_guarded():
    step = tb.compile(lambda x: x * 2.0 if (x > 0.0).all() else -x)
    assert step(np.ones(2)).tolist() == [2.0, 2.0]
    assert step(np.array([1.0, -1.0])).tolist() == [-1.0, 1.0]
    step = tb.compile(lambda x: x * 2.0 if (x > 0.0).any() else -x)
    assert step(np.array([1.0, -1.0])).tolist() == [2.0, -2.0]
    assert step(-np.ones(2)).tolist() == [1.0, 1.0]


def test_a_decision_over_several_elements_is_refused():
    for ask in (bool, any):
        with pytest.raises((ValueError, TypeError, AttributeError)):
            tb.compile(lambda x, ask=ask: x if ask(x > 0.0) else -x)(np.ones((2, 2)))


def test_an_error_on_one_way_does_not_reach_the_other():
    def f(x, i):
        return tb.take(x, i).sum() if x.sum() > 0.0 else x.sum()

    step = tb.compile(f)
    assert step(np.ones(2), np.array([1])) == 1.0
    assert step(-np.ones(2), np.array([7])) == -2.0


# --- refused ------------------------------------------------------------------------------------


def test_another_way_can_be_refused_and_the_line_is_named():
    def f(x):
        if x > 0.0:
            return x * 2.0
        return -x

    step = tb.compile(f, on_branch="raise")
    assert step(1.0) == 2.0
    with pytest.raises(RuntimeError, match=r"test_guards\.py, line \d+: if x > 0\.0:"):
        step(-1.0)
    with pytest.raises(RuntimeError, match="False, and was recorded True"):
        step(nan)
    assert step(3.0) == 6.0
    assert step.recordings == 1


def test_where_a_way_is_refused_the_first_that_differs_is_named():
    def f(x):
        y = x if x > 0.0 else -x
        return y if y > 1.0 else y * 2.0  # this one

    step = tb.compile(f, on_branch="raise")
    step(3.0)
    with pytest.raises(RuntimeError, match="this one"):
        step(0.5)


def test_refusing_is_by_kind_of_arguments():
    step = tb.compile(lambda x: x if x.sum() > 0.0 else -x, on_branch="raise")
    step(np.ones(2))
    assert step(-np.ones(3)).tolist() == [1.0, 1.0, 1.0]
    with pytest.raises(RuntimeError, match="branch"):
        step(-np.ones(2))


def test_an_unknown_way_to_go_on_is_refused():
    with pytest.raises(ValueError, match="on_branch"):
        tb.compile(abs, on_branch="error")
