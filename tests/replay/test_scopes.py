"""The scopes of a recording stay with its instructions: through the passes, and in files."""

import json
import zipfile

import numpy as np
import pytest

import tinygrad_bp as tb
from tinygrad_bp import nn
from tinygrad_bp.recording import scope
from tinygrad_bp.replay.program import Program
from tinygrad_bp.replay.scopes import Place, Scopes, scopes_problem
from tinygrad_bp.replay.storage import load, save


def loss(model, x):
    return tb.sum(nn.unroll(model, x, model.initial_state(2))[-1])


def program_of(T=3, **options):
    model, x = nn.RNNCell(3, 4, rng=0), np.ones((T, 2, 3))
    gradient = options.pop("gradient", False)
    return tb.compile(loss, **options).program(model, tb.Tensor(x), gradient=gradient)


def paths(program):
    """Of each operation that is no leaf its name and its scope."""
    places = program.scopes.each(len(program))
    return [
        (program.rule(i).name, program.scopes.path(places[i]))
        for i in np.flatnonzero(program.codes >= 2)
    ]


STEP = ["linear", "matmul", "add", "tanh"]


def test_instructions_remember_their_scopes():
    found = paths(program_of(optimize=False))
    expected = []
    for t in (1, 2, 3):
        expected += [("getitem", f"step({t})")] + [(name, f"step({t})/rnncell") for name in STEP]
    assert found == [*expected, ("sum", "")]


def test_the_backward_pass_is_in_the_scopes_of_its_nodes():
    found = paths(program_of(optimize=False, gradient=True))
    backward = [path for name, path in found if name == "cosh"]
    assert backward == [f"backward/step({t})/rnncell" for t in (3, 2, 1)]
    assert ("sum", "") in found


def test_what_is_gathered_is_in_no_scope():
    found = paths(program_of(optimize=True))
    assert ("linear", "") in found  # of all steps
    assert [path for name, path in found if name == "tanh"] == [
        f"step({t})/rnncell" for t in (1, 2, 3)
    ]


def test_a_scope_that_is_entered_again_is_the_same():
    def f(x):
        with scope("step", 1):
            y = x * 2.0
        with scope("step", 2):
            z = y * 3.0
        with scope("step", 1):
            return z + y

    program = tb.compile(f).program(1.0)
    assert paths(program) == [("multiply", "step(1)"), ("multiply", "step(2)"), ("add", "step(1)")]
    assert program.scopes.table == [Place("step", 1, -1), Place("step", 2, -1)]


def test_passes_keep_the_scopes_of_what_is_left():
    def f(x):
        with scope("first"):
            y = tb.exp(x)
            tb.sin(x)  # for nothing
        with scope("second"):
            z = tb.exp(x)  # once more
            return tb.cos(y) + tb.tan(z)

    assert paths(tb.compile(f).program(1.0)) == [
        ("exp", "first"), ("cos", "second"), ("tan", "second"), ("add", "second"),
    ]  # fmt: skip


def test_scopes_are_shown():
    def f(x):
        with scope("step", 1):
            return x * x

    assert str(tb.compile(f).program(1.0)).splitlines() == [
        "%0 = input 0",
        "# step(1)",
        "%1 = multiply(%0, %0)",
        "return %1",
    ]


def test_an_instruction_takes_no_more_memory():
    """The scopes of long stretches: two numbers for each."""

    def f(x):
        for t in range(10):
            with scope("step", t):
                for _ in range(100):
                    x = x * 1.5 + x
        return x

    program = tb.compile(f).program(1.0)
    assert len(program) > 2000
    assert program.scopes.starts.nbytes + program.scopes.places.nbytes <= 10 * 8
    assert program.scopes.starts.dtype == program.scopes.places.dtype == np.int32


def test_each_and_back():
    each = [-1, -1, 0, 0, 1, -1, 0]
    scopes = Scopes([Place("a", None, -1), Place("b", 3, 0)]).of_each(each)
    assert scopes.each(len(each)).tolist() == each
    assert scopes.starts.tolist() == [2, 4, 5, 6]
    assert [scopes.path(k) for k in (-1, 0, 1)] == ["", "a", "a/b(3)"]
    assert Scopes().each(3).tolist() == [-1] * 3


# --- files --------------------------------------------------------------------------------------


def test_scopes_are_saved(tmp_path):
    for gradient in (False, True):
        program = program_of(gradient=gradient)
        save(program, tmp_path / "p")
        assert str(load(tmp_path / "p")) == str(program)
        assert paths(load(tmp_path / "p")) == paths(program)


EDITS = {
    "no list": lambda t: t.update(scopes={}),
    "a place too short": lambda t: t["scopes"].append(["a", 1]),
    "a name that is none": lambda t: t["scopes"].append([1, 1, -1]),
    "a number that is none": lambda t: t["scopes"].append(["a", "1", -1]),
    "in itself": lambda t: t["scopes"].append(["a", 1, len(t["scopes"])]),
    "in nothing": lambda t: t["scopes"].append(["a", 1, -2]),
    "no such place": lambda t: t["places"][-1].__setitem__(1, 99),
    "a place below none": lambda t: t["places"][-1].__setitem__(1, -2),
    "a start that comes back": lambda t: t["places"].append(t["places"][0]),
    "a start outside": lambda t: t["places"].append([10**6, 0]),
    "a negative start": lambda t: t["places"].insert(0, [-1, 0]),
    "a large number": lambda t: t["places"].append([2**40, 0]),
    "a start too short": lambda t: t["places"].append([10**6]),
    "a start that is none": lambda t: t["places"].append(["a", 0]),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=list(EDITS))
def test_scopes_that_are_none_are_refused(edit, tmp_path):
    save(program_of(), tmp_path / "good")
    with zipfile.ZipFile(tmp_path / "good") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    text = json.loads(members["program.json"])
    edit(text)
    members["program.json"] = json.dumps(text).encode()
    with zipfile.ZipFile(tmp_path / "bad", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(ValueError, match=r"scopes|places"):
        load(tmp_path / "bad")


def test_scopes_that_are_none_are_not_saved(tmp_path):
    program: Program = program_of()
    program.scopes.starts = program.scopes.starts[::-1].copy()
    assert scopes_problem(program.scopes, len(program))
    with pytest.raises(ValueError, match="scopes"):
        save(program, tmp_path / "p")
