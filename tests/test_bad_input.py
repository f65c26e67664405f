"""Bad arguments, for every parameter of every public callable: refused in words that help.

A case is one parameter of one callable, given one bad value, with all else as in a good call. It
ends in a result, where the parameter takes such values (`accepted`); or in a TypeError, a
ValueError or another fitting error that names the argument and says what came, in at most 200
characters. Nothing else may happen: no error from the depths, no warning, no answer to nonsense.
"""

from __future__ import annotations

import faulthandler
import os
import warnings
from typing import Any

import pytest
from bad_values import BAD, BESIDES, ERRORS, complaint, is_leaked
from public_calls import calls, parameters_of

from accepted import PARAMETERS, anything

CALLS = calls()


# What else an argument is called: an operation's operands by the operation itself.
ALIASES = {
    "add": ("add",), "sub": ("subtract",), "mul": ("multiply",), "truediv": ("divide",),
    "pow": ("power",), "gather": ("take_along_axis",), "hessian": ("jacobian",),
    "ge": ("comparison", "instances"), "gt": ("comparison", "instances"),
    "le": ("comparison", "instances"), "lt": ("comparison", "instances"),
    "hvp": ("tangents",), "jvp": ("tangents",), "vjp": ("x",), "Compiled": ("argument",),
    "x": ("input", "embedded"), "h": ("state", "input"), "xs": ("input", "state", "lengths", "step"),
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
        names += (getattr(value, "__name__", type(value).__name__), type(value).__name__)
    if "Values getitem" in name:
        names += ("index", "indices", "axis")  # numpy's own words: a look beforehand would cost
    if is_leaked(value):
        names += ("quantity", "forward mode")
    return names


def judged(name: str, parameter: str, bad: str) -> str:
    """What is wrong with the answer to a bad value; empty if nothing is."""
    call, value = CALLS[name](), BAD[bad]()
    given = call.arguments[parameter]
    accepts = PARAMETERS.get(f"{name}.{parameter}") or PARAMETERS.get(parameter, anything)
    arguments: Any = (value,) if call.is_variadic(parameter) else value
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            call.run(**{parameter: arguments})
    except ERRORS + BESIDES as error:
        found = complaint(error, names_of(name, parameter, value), value)
        if "Values getitem" in name and "say what came" in found:
            found = ""
        return f"{type(error).__name__} {found}: {error}" if found else ""
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return "" if accepts(value) else "silence"
