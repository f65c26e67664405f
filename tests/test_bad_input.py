"""Bad arguments, for every parameter of every public callable: refused in words that help.

A case is one parameter of one callable, given one bad value, with all else as in a good call. It
ends in a result, where the parameter takes such values (`accepted`); or in a TypeError, a
ValueError or another fitting error that names the argument and says what came, in at most 200
characters. Nothing else may happen: no error from the depths, no warning, no answer to nonsense.
"""

from __future__ import annotations

import faulthandler
import functools
import os
import warnings
import zlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accepted import PARAMETERS, Accepts, anything, node
from bad_values import BAD, BESIDES, ERRORS, FOREIGN, Plain, complaint, is_leaked
from public_calls import Call, calls, parameters_of

from tinygrad_bp.explain.wrong import DoesNotApplyError

resource = pytest.importorskip("resource", reason="limits of memory are those of Unix")

CALLS = calls()


# What else an argument is called: an operation's operands by the operation itself.
ALIASES = {
    "add": ("add",), "sub": ("subtract",), "mul": ("multiply",), "truediv": ("divide",),
    "pow": ("power",), "gather": ("take_along_axis",), "hessian": ("jacobian",),
    "ge": ("comparison", "instances"), "gt": ("comparison", "instances"),
    "le": ("comparison", "instances"), "lt": ("comparison", "instances"),
    "hvp": ("tangents",), "jvp": ("tangents",), "vjp": ("x",), "Compiled": ("argument",),
    "x": ("input", "embedded", "linear"), "h": ("state", "input"), "lengths": ("time",),
    "xs": ("input", "state", "lengths", "step"),
    "name": ("label",), "dropout": ("p",), "activations": ("activation",),
    "layers": ("activation",), "sizes": ("inputs",),
    **dict.fromkeys(("MLP", "Sequential"), ("Linear",)),
    # Two arguments that do not fit one another: either is named.
    **dict.fromkeys(("a", "h", "z", "log_q", "o"), ("y", "p", "a", "subtract", "multiply")),
    "y": ("a", "subtract", "multiply", "azmul"), "weight": ("multiply", "azmul"),
    **dict.fromkeys(("q", "k", "v"), ("attention", "matmul", "transpose", "scores")),
    "outputs": ("labels",), "sequence": ("targets", "k1", "k2"), "batch": ("lengths",),
    "schedulers": ("optimizer",), "root": ("gradient", "node"), "einsum": ("contract",),
}  # fmt: skip


def names_of(name: str, parameter: str, value: Any) -> tuple[str, ...]:
    """The names by which an error may call the argument."""
    last = name.replace(" of Values", "").split()[-1].split(".")[-1]
    of = name.split(".")[0]
    names = (parameter, last, of, *ALIASES.get(parameter, ()), *ALIASES.get(last, ()))
    names += ALIASES.get(of, ())
    if parameter in ("path", "folder", "checkpoint"):
        names += (str(value),)
    if callable(value):  # errors of a function that was called are its own
        names += ("return",)
        names += (getattr(value, "__name__", type(value).__name__), type(value).__name__)
    if "Values getitem" in name:
        names += (
            "index",
            "indices",
            "axis",
            "sequence",
        )  # numpy's own words: a look beforehand would cost
    if is_leaked(value):
        names += ("quantity", "forward mode")
    return names


def accepted(name: str, parameter: str) -> Accepts:
    """What the parameter takes: of this callable alone, or everywhere."""
    full = f"{name.replace(' of Values', '')}.{parameter}"
    own = [PARAMETERS.get(key) for key in (full, full.partition(".")[2])]
    if name.startswith("mistakes.") and parameter == "loss":
        return node
    return next(filter(None, own), PARAMETERS.get(parameter, anything))


def judged(name: str, parameter: str, bad: str) -> str:
    """What is wrong with the answer to a bad value; empty if nothing is."""
    call, value = CALLS[name](), (BAD[bad] if bad in BAD else FOREIGN[bad][1])()
    accepts = accepted(name, parameter)
    arguments: Any = (value,) if call.is_variadic(parameter) else value
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            call.run(**{parameter: arguments})
    except DoesNotApplyError as error:
        return "" if str(error) else "says nothing"
    except ERRORS + BESIDES as error:
        found = complaint(error, names_of(name, parameter, value), value)
        if "Values getitem" in name and "say what came" in found:
            found = ""
        if (isinstance(value, type) or "<lambda>" in str(error)) and "what came" in found:
            found = ""  # a function that was called, and failed or returned another thing
        return f"{type(error).__name__} {found}: {error}" if found else ""
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return "" if accepts(as_numpy(value) if bad in FOREIGN else value) else "silence"


def as_numpy(x: Any) -> Any:
    """What an array of another library may be taken for: none, if it has a gradient."""
    return Plain() if getattr(x, "requires_grad", False) else np.asarray(x)


# --- the cases ----------------------------------------------------------------------------------

EVERY = bool(os.environ.get("BAD_INPUT_EVERY"))  # the full product: a few minutes
FEW = 20  # bad values for each parameter, where not all are tried
MEMORY = 4 << 30  # bytes beyond what the process has: no bad argument may need them


def values_for(name: str, parameter: str) -> list[str]:
    """The bad values that a parameter is tried with: all, or some that differ by parameter."""
    names = list(BAD)
    if EVERY:
        return names
    start = zlib.crc32(f"{name}.{parameter}".encode())
    return [names[(start + 17 * k) % len(names)] for k in range(FEW)]


@pytest.fixture(autouse=True, scope="module")
def guarded(tmp_path_factory):
    """A folder of its own, a limit of memory, and an end to what hangs."""
    faulthandler.dump_traceback_later(1200, exit=True)
    installed()  # their libraries take more than the limit
    here = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("bad_input"))
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)
    os.chdir(here)
    faulthandler.cancel_dump_traceback_later()


@pytest.mark.parametrize("name", CALLS)
def test_the_good_call_is_good(name):
    if name == "datasets.mnist":
        pytest.skip("needs the files of MNIST")
    CALLS[name]().run()


# What a function of the caller's own is called with, or what it is: its errors are its own.
HANDED_ON = {
    "tb.checkpoint.args", "explain.growth.sizes", "explain.cost.inputs", "tb.vjp.primals",
    "Compiled.backward.args", "Compiled.value_and_grad.args", "Compiled.program.args",
    "Compiled.batch.args", "training.truncated_bptt.state", "training.truncated_bptt.sequence",
    "training.truncated_bptt.targets",
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_bad_arguments_are_refused_in_words_that_help(name):
    failures = []
    for parameter in parameters_of(CALLS[name]()):
        for bad in values_for(name, parameter):
            found = judged(name, parameter, bad)
            own = f"{name}.{parameter}" in HANDED_ON and not found.startswith("Recursion")
            if found and not own:
                failures.append(f"{parameter} = {bad}: {found}")
    assert not failures, "\n".join(failures)


@functools.cache
def installed() -> list[str]:
    """The arrays of other libraries that there are; each was made once."""
    found = [bad for bad, (library, _) in FOREIGN.items() if find_spec(library)]
    for bad in found:
        FOREIGN[bad][1]()
    return found


def test_arrays_of_other_libraries_are_taken_as_numbers_or_refused():
    """Each parameter with one of them; those with a gradient of their own never lose it."""
    if not installed():
        pytest.skip("needs PyTorch or JAX")
    failures = []
    for name in CALLS:
        for k, parameter in enumerate(parameters_of(CALLS[name]())):
            some = installed() if EVERY else [installed()[(k + len(name)) % len(installed())]]
            for bad in some:
                found = judged(name, parameter, bad)
                own = f"{name}.{parameter}" in HANDED_ON or "Values getitem" in name
                if found and not own:  # numpy's own words: see `names_of`
                    failures.append(f"{name}.{parameter} = {bad}: {found}")
    assert not failures, "\n".join(failures)


def test_there_are_enough_cases():
    cases = sum(
        len(values_for(name, parameter))
        for name in CALLS
        for parameter in parameters_of(CALLS[name]())
    )
    assert cases >= 10_000
    assert len(set(BAD)) >= 50


# --- the judge itself ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "wrong"),
    [
        (TypeError("axis: expected an int, got str 'a'"), ""),
        (TypeError("expected an int, got str 'a'"), "does not name the argument"),
        (TypeError("axis: expected an int"), "does not say what came"),
        (TypeError("axes: expected an int, got str 'a'"), "does not name the argument"),
        (TypeError(), "says nothing"),
        (TypeError("axis: got str " + 200 * "a"), "says too much: 214 characters"),
    ],
)
def test_the_judge(error, wrong):
    assert complaint(error, ("axis",), "a") == wrong


def test_the_judge_sees_silence_and_errors_from_the_depths(monkeypatch):
    def f(axis):
        if axis is None:
            raise AttributeError("'NoneType' object has no attribute 'axis'")

    monkeypatch.setitem(CALLS, "tb.f", lambda: Call(f, {"axis": 0}))
    assert judged("tb.f", "axis", "None").startswith("AttributeError")
    assert judged("tb.f", "axis", "str") == "silence"
    assert judged("tb.f", "axis", "-1") == ""
