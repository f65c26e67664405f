"""The scalar fuzzer: a slice of it, and that its oracles find what is wrong."""

import contextlib
import random
from collections import Counter
from math import inf, isfinite, nan

import mpmath
import pytest
from oracles import DIGITS, EPS, FORMULAS, TINY, truth

import tinygrad_bp as tb
from tinygrad_bp import rules
from tinygrad_bp.value import Value, _binary, _methods, _unary

from . import Mismatch, driver, scalar_programs, scalars
from .derivations import COMPLEX, PARTIALS, ROUNDINGS, VALUES, complex_step
from .driver import Task, failure_of, run, shrunk, sort_of
from .scalars import Program, check, code, generate, smaller

SLICE = 20_000


def test_a_slice():
    task = Task("scalars", 20_260, 0, SLICE, scalars.CHUNK)
    state = run(task)
    assert not state.groups, "\n\n".join(g["code"] for g in state.groups.values())
    tally = state.tally
    assert sum(n for what, n in tally.items() if "explained" in what) < SLICE / 2000
    assert tally["skipped: a constant"] < SLICE / 20
    assert tally["(programs with a value that is not finite)"] < SLICE / 10
    for way in ("complex step", "create_graph", "forward mode", "Tensor", "replay"):
        assert tally[way] > SLICE / 100, way


def execute_code(program):
    """Run a program's code, with this package under the name that it has here."""
    exec(code(program).replace("from tests.fuzz", f"from {__package__}"), {})


# --- the programs -------------------------------------------------------------------------------


def programs(count, seed=1):
    return [driver.program(scalars, "scalars", seed, k) for k in range(count)]


def test_every_rule_has_a_second_derivation():
    assert set(VALUES) == set(PARTIALS) == set(rules.RULES)
    smooth = {name for name, rule in rules.RULES.items() if rule.analytic}
    assert set(COMPLEX) >= smooth - {"erf", "erfc", "gelu", "where"}  # not among cmath's


def test_programs_have_every_rule_length_and_kind_of_operand():
    many = programs(3000)
    names = Counter(name for p in many for name, _ in p.operations)
    assert set(names) == set(scalar_programs.NAMES)
    assert min(names.values()) > 200
    assert {len(p.operations) for p in many} == set(range(1, 41))
    assert {len(p.leaves) for p in many} == {1, 2, 3}
    kinds = {tuple(map(type, operands)) for p in many for _, operands in p.operations}
    assert {(int, float), (float, int), (int, int), (tuple, int, float)} <= kinds
    numbers = [x for p in many for x, _ in p.leaves]
    assert {repr(x) for x in (*scalar_programs.EDGES, inf, -inf, nan)} <= set(map(repr, numbers))
    assert 1 / 65 < sum(p.every_way for p in many) / len(many) < 1 / 40


@pytest.mark.parametrize("program", programs(60, seed=2))
def test_smaller_programs_are_well_formed_and_end(program):
    def size(p):
        return (
            len(p.operations),
            sum(type(o) is int for _, operands in p.operations for o in operands),
            sum(tracked for _, tracked in p.leaves) + p.every_way,
        )

    for small in smaller(program):
        assert size(small) <= size(program)
        nodes = scalars.execute(small, [Value(x, requires_grad=t) for x, t in small.leaves])
        assert len(nodes) == len(small.leaves) + len(small.operations)
    with contextlib.redirect_stdout(None):
        execute_code(program)


# --- the second derivation, itself in 400 digits ------------------------------------------------


@pytest.mark.parametrize("name", [name for name in PARTIALS if name not in ("clip", "where")])
def test_the_second_derivation_is_right_to_within_its_size(name):
    draw = random.Random(name)
    rule = rules.RULES[name]
    points = [tuple(draw.uniform(*d) for d in rule.domain) for _ in range(6)]
    points += [tuple(x * draw.choice([1e-5, 8.0]) for x in p) for p in points[:4]]
    compared = 0
    for point in points:
        if rule.kinks and (0.0 in point or len(set(point)) < len(point)):
            continue
        z = VALUES[name](*point)
        if not isfinite(z):
            continue
        pairs = PARTIALS[name](*point, z)
        for which in range(len(point)):
            d, size = pairs[2 * which : 2 * which + 2]
            with mpmath.mp.workdps(DIGITS):
                expected = truth(name, point, which)
                if expected is None:
                    continue
                # The result z is rounded, and a formula that uses it is wrong by as much.
                assert abs(mpmath.mpf(d) - expected.number) <= ROUNDINGS * EPS * size + TINY
            compared += 1
    assert compared >= 6 * rule.arity


def test_formulas_are_those_of_the_other_oracle():
    assert set(FORMULAS) == set(VALUES)


@pytest.mark.parametrize("name", sorted(COMPLEX))
def test_the_complex_step_gives_the_derivations(name):
    draw = random.Random(name)
    rule, compared = rules.RULES[name], 0
    for _ in range(20):
        point = tuple(draw.uniform(*d) for d in rule.domain)
        pairs = PARTIALS[name](*point, VALUES[name](*point))
        for which in range(rule.arity):
            d = complex_step(name, point, which)
            if d is not None:
                assert d == pytest.approx(pairs[2 * which], rel=1e-12, abs=1e-12)
                compared += 1
    assert compared > 10


# --- broken rules are found ---------------------------------------------------------------------


BROKEN = {
    "wrong sign": ("cos", (lambda m, x, y: m.sin(x),), None),
    "wrong sign of one operand": (
        "divide",
        (lambda m, x, y, z: m.divide(1.0, y), lambda m, x, y, z: m.divide(z, y)),
        None,
    ),
    "constant of a wrong sign": ("subtract", (1.0, 1.0), None),
    "dropped term": ("gelu", (lambda m, x, y: 0.5 * m.erfc(-rules.ROOT_HALF * x),), None),
    "swapped operands": (
        "arctan2",
        (rules.RULES["arctan2"].partials[1], rules.RULES["arctan2"].partials[0]),
        None,
    ),
    "no digits in the tail": ("tanh", (lambda m, x, y: 1.0 - y * y,), None),
    "no digits in the other tail": ("sigmoid", (lambda m, x, y: y * (1.0 - y),), None),
    "ten digits": ("erf", (lambda m, x, y: 1.1283791671 * m.exp(-x * x),), None),
    "overflow on the way": ("arctan", (lambda m, x, y: m.divide(1.0, 1.0 + x * x * x * x),), None),
    "overflow to 0": (
        "hypot",
        (
            lambda m, x, y, z: m.divide(x, m.sqrt(x * x + y * y)),
            lambda m, x, y, z: m.divide(y, m.sqrt(x * x + y * y)),
        ),
        None,
    ),
    "another kink": ("relu", (lambda m, x, y: m.where(x >= 0, 1.0, 0.0),), None),
    "a tie to one side": (
        "maximum",
        (
            lambda m, x, y, z: m.where(x >= y, 1.0, 0.0),
            lambda m, x, y, z: m.where(x >= y, 0.0, 1.0),
        ),
        None,
    ),
    "a bound that is left out": (
        "clip",
        (*rules.RULES["clip"].partials[:2], lambda m, x, low, high, y: m.where(x > high, 1.0, 0.0)),
        None,
    ),
    "a wrong value": ("softplus", rules.RULES["softplus"].partials, lambda m, x: m.log1p(m.exp(x))),
    "a wrong value far out": (
        "log_sigmoid",
        rules.RULES["log_sigmoid"].partials,
        lambda m, x: -m.logaddexp(-x, 0.0) * (1.0 + 1e-13),
    ),
    "a wrong sign of zero": (
        "negative",
        rules.RULES["negative"].partials,
        lambda m, x: 0.0 - x,
    ),
    "a wrong sign of zero beside a kink": (
        "relu",
        rules.RULES["relu"].partials,
        lambda m, x: m.where(x > 0, x, -0.0),
    ),
    "a wrong sign of one of two zeros": (
        "maximum",
        rules.RULES["maximum"].partials,
        lambda m, x, y: m.where(x == y, abs(x), m.maximum(x, y)),
    ),
    "a wrong sign of a product with zero": (
        "azmul",
        rules.RULES["azmul"].partials,
        lambda m, g, d: m.where(g == 0, 0.0, g * d),
    ),
}


@contextlib.contextmanager
def rule_with(name, partials, value):
    """The rule changed, and what was made of it with it."""
    rule = rules.RULES[name]
    before = rule.partials, rule.value
    forms = {m: getattr(Value, m) for m in ("__sub__", "__truediv__", "__neg__")}
    made = dict(_methods)
    rule.partials, rule.value = partials, value or rule.value
    _methods.clear()
    Value.__sub__, Value.__truediv__ = _binary(rules.subtract), _binary(rules.divide)
    Value.__neg__ = _unary(rules.negative)
    try:
        yield
    finally:
        rule.partials, rule.value = before
        _methods.clear()
        _methods.update(made)
        for form, function in forms.items():
            setattr(Value, form, function)


@pytest.fixture(scope="module")
def many():
    return [program._replace(every_way=False) for program in programs(6000, seed=7)]


def first_failure(many, name):
    """The first program with the rule that fails, and how."""
    for program in many:
        if any(scalar_programs.RULE_OF[used] == name for used, _ in program.operations):
            error = failure_of(scalars, program)
            if error is not None:
                return program, error
    return None


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_rule_is_found_and_shrunk_to_it(what, many):
    name, partials, value = BROKEN[what]
    with rule_with(name, partials, value):
        found = first_failure(many, name)
        assert found is not None
        program, error = found
        assert isinstance(error, Mismatch)
        small, last = shrunk(scalars, program, error)
        assert sort_of(last) == sort_of(error)
        assert len(small.operations) == 1
        assert name in {scalar_programs.RULE_OF[used] for used, _ in small.operations}
        with pytest.raises(Mismatch) as shown, contextlib.redirect_stdout(None):
            execute_code(small)
        assert str(shown.value) == str(last)
    check(small, Counter())  # as it was before, all is well


def test_a_leak_of_nan_from_a_branch_not_taken_is_found(monkeypatch):
    monkeypatch.setattr("tinygrad_bp.value._Unbounded.__mul__", lambda d, g: float(d) * g)
    program = Program(((0.0, True),), (("log", (0,)), ("where", ((">", 0, 0.0), 1, 0.0))), False)
    with pytest.raises(Mismatch, match="eager: gradient nan"):
        check(program, Counter())


@pytest.mark.parametrize(
    ("way", "target", "wrong"),
    [
        ("forward mode", "tinygrad_bp.jvp", lambda f, at, v: (f(*at), 1e-9)),
        (
            "create_graph",
            "tinygrad_bp.grad",
            lambda f, which, create_graph: lambda *at: [Value(1.0 + 1e-9) for _ in at],
        ),
    ],
)
def test_every_way_is_compared(monkeypatch, way, target, wrong):
    program = Program(((1.0, True),), (("positive", (0,)),), True)
    check(program, tally := Counter())
    assert tally[way] == 1
    monkeypatch.setattr(target, wrong)
    with pytest.raises(Mismatch, match=way):
        check(program, Counter())


def test_a_gradient_that_is_lost_and_one_that_is_made_up_are_found(monkeypatch):
    program = Program(((1.0, True), (2.0, True)), (("square", (0,)),), False)
    check(program, Counter())
    monkeypatch.setattr(Value, "backward", lambda x: None)
    with pytest.raises(Mismatch, match="eager: no gradient of leaf 0, expected 2"):
        check(program, Counter())

    leaves = []
    execute = scalars.execute
    monkeypatch.setattr(
        scalars, "execute", lambda p, given: leaves.extend(given) or execute(p, given)
    )
    monkeypatch.setattr(Value, "backward", lambda x: [setattr(v, "_grad", 2.0) for v in leaves])
    with pytest.raises(Mismatch, match="leaf that nothing depends on"):
        check(program, Counter())


def test_equal_operations_of_a_replay_are_one(monkeypatch):
    """arcsin has an infinite derivative at 1, and the quotient of it by itself none."""
    steps = (("arcsin", (0,)), ("arcsin", (0,)), ("/", (2, 1)), ("*", (3, 2.0)))
    program = Program(((1.0, True),), steps, True)
    check(program, tally := Counter())
    assert tally["(explained, replay: equal operations are one)"] == 1
    monkeypatch.setattr("tinygrad_bp.replay.recorded.optimized", lambda recorded: recorded)
    check(program, tally := Counter())
    assert tally["replay: infinite or nan alike"] == 1
    monkeypatch.undo()
    compile = tb.compile

    class Wrong:
        def __init__(self, *given, **options):
            self.of = compile(*given, **options)

        def value_and_grad(self, *at):
            value, gradients = self.of.value_and_grad(*at)
            return value, [g + 0.5 for g in gradients]

    monkeypatch.setattr(tb, "compile", Wrong)
    with pytest.raises(Mismatch, match=r"replay, equal operations one: gradient 0\.5"):
        check(program, Counter())


def test_generate_uses_the_generator_it_is_given_alone():
    assert repr(generate(random.Random(4))) == repr(generate(random.Random(4)))


@pytest.mark.parametrize("x", [0.0, 1.1125369292536007e-308])
def test_a_bound_beyond_the_largest_float(x):
    """Of an angle at a subnormal point the oracle's bound overflows, and not the derivative."""
    leaves = ((x, True), (1.1125369292536007e-308, True))
    check(Program(leaves, (("arctan2", (0, 1)),), False), Counter())
