"""One operation as an equation with its numbers: forward, and backward along one edge.

An equation is a line of parts: plain text, the names of quantities, and numbers. A number is shown
in few digits and knows itself in full. What is written for an operation are two small tables; an
operation that is in neither is written as a call, and its local derivative as `∂y/∂x`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np

from tinygrad_bp.derivatives import Elementwise

from .text import clean, number

SMALL = 6  # elements of an array that are shown one by one


class Part(NamedTuple):
    """A piece of an equation: `kind` is `""`, `"name"` or `"num"`, whose `full` is all of it."""

    text: str
    kind: str = ""
    full: str = ""


Line = list[Part]


class Term(NamedTuple):
    """A quantity in an equation."""

    name: str
    data: Any


# `{0}` is the first operand; `{0p}` stands in parentheses where it is negative.
FORMS = {
    "add": "{0} + {1p}",
    "subtract": "{0} − {1p}",
    "multiply": "{0} · {1p}",
    "divide": "{0} / {1p}",
    "power": "{0p}^{1p}",
    "negative": "−{0p}",
    "positive": "{0}",
    "square": "{0p}²",
    "sqrt": "√{0}",
    "absolute": "|{0}|",
    "matmul": "{0} @ {1}",
    "transpose": "{0}ᵀ",
    "linear": "{0} @ {1} + {2}",
    "sum": "Σ {0}",
    "scaled_sum": "{1p} · Σ {0}",
}
# The local derivative by each operand; `{y}` is the result. (What cannot go wrong with an operand
# is written as a textbook does; the numbers beside it are always those of the engine.)
LOCALS = {
    "add": ("1", "1"),
    "subtract": ("1", "(−1)"),
    "multiply": ("{1}", "{0}"),
    "divide": ("1/{1}", "(−{y}/{1})"),
    "power": ("{1} · {0}^({1} − 1)", "{y} · log({0})"),
    "negative": ("(−1)",),
    "positive": ("1",),
    "square": ("2 · {0}",),
    "sqrt": ("1/(2 · {y})",),
    "exp": ("{y}",),
    "log": ("1/{0}",),
    "sin": ("cos({0})",),
    "cos": ("(−sin({0}))",),
    "tanh": ("(1 − {y}²)",),
    "sigmoid": ("{y} · (1 − {y})",),
    "softplus": ("sigmoid({0})",),
    "relu": ("[{0} > 0]",),
}
_HOLE = re.compile(r"\{(\d|y)(p?)\}")
WEIGHTED = ("multiply", "matmul")  # may be written out within a sum: z = w · x + b


# --- parts --------------------------------------------------------------------------------------


def named(name: str) -> Line:
    """The name of a quantity."""
    return [Part(name, "name")]


def plain(text: str) -> Line:
    """Words and signs."""
    return [Part(text)]


def figure(x: Any, arrays: str = "summary") -> Part:
    """A number in few digits; a small array in full; of a larger one its shape, norm and range.

    Args:
        x: a number or an array.
        arrays: `"summary"`, or `"shape"` for larger arrays by their shape alone.
    """
    data = np.asarray(x)
    if data.size == 0:
        return Part(f"empty, shape {data.shape}", "num", f"shape {data.shape}, {data.dtype}")
    if data.size <= SMALL:
        return Part(_nested(data, _short), "num", _nested(data, _exact))
    sizes = _sizes(data)
    full = ", ".join(f"{name} {_exact(x)}" for name, x in sizes)
    norm, low, high = (_short(x) for _, x in sizes)
    text = f"shape {data.shape}"
    if arrays == "summary":
        text += f", norm {norm}, {low} … {high}"
    return Part(text, "num", f"shape {data.shape}, {data.dtype}, {full}")


def _sizes(data: Any) -> list[tuple[str, Any]]:
    with np.errstate(all="ignore"):  # nan and inf are what a reader looks for
        norm = np.linalg.norm(data.astype(np.float64).ravel())
        return [("norm", norm), ("min", data.min()), ("max", data.max())]


def _nested(data: Any, text: Callable[[Any], str]) -> str:
    if data.ndim == 0:
        return text(data[()])
    return f"[{', '.join(_nested(row, text) for row in data)}]"


def _short(x: Any) -> str:
    return number(x.item()).replace("-", "−")


def _exact(x: Any) -> str:
    return str(x)  # of numpy's numbers: the fewest digits that give back the same number


def in_parentheses(part: Part) -> Line:
    """A number as a factor or a term: in parentheses if it is negative."""
    if part.text.startswith("−"):
        return [Part("("), part, Part(")")]
    return [part]


# --- forward ------------------------------------------------------------------------------------


def forward(rule: str, result: Term, operands: Sequence[Term], within: dict[int, Any]) -> Line:
    """`z = w · x + b = 0.5 · 2 + (−0.3) = 0.7`.

    Args:
        rule: the name of the operation.
        result, operands: what it gave, and was given.
        within: for operands that are to be written out, their rule and operands.
    """

    def filled(write: Callable[[Term, bool], Line]) -> Line:
        def fill(i: str, protected: bool) -> Line:
            if int(i) not in within:
                return write(operands[int(i)], protected)
            inner_rule, inner = within[int(i)]
            return _filled(
                *_form(inner_rule, inner), lambda j, p: write(inner[int(j)], p or protected)
            )

        return _filled(*_form(rule, operands), fill)

    line = [*named(result.name), Part(" = "), *filled(_symbol)]
    if not all(np.size(x.data) > SMALL for x in operands):
        line += [Part(" = "), *filled(_number)]
    return [*line, Part(" = "), figure(result.data)]


def _symbol(term: Term, protected: bool) -> Line:
    if not term.name.startswith("-"):
        return named(term.name)
    part = Part(term.name.replace("-", "−"))  # a constant is called by its number
    return in_parentheses(part) if protected else [part]


def _number(term: Term, protected: bool) -> Line:
    part = figure(term.data, "shape")
    return in_parentheses(part) if protected else [part]


def _form(rule: str, operands: Sequence[Term]) -> tuple[str, str]:
    """What stands before, and the form: the name of a rule may look like a hole and is none."""
    if rule == "power" and operands[1].name == "2":
        rule, operands = "square", operands[:1]
    form = FORMS.get(rule, "")
    holes = {int(i) for i, _ in _HOLE.findall(form)}
    if holes == set(range(len(operands))):
        return "", form
    return clean(rule), f"({', '.join(f'{{{i}}}' for i in range(len(operands)))})"


def _filled(before: str, form: str, fill: Callable[[str, bool], Line]) -> Line:
    """A form with its holes filled by `fill(which, whether to protect a minus)`."""
    line: Line = [Part(before)]
    end = 0
    for hole in _HOLE.finditer(form):
        line += [Part(form[end : hole.start()]), *fill(hole[1], bool(hole[2]))]
        end = hole.end()
    return [part for part in [*line, Part(form[end:])] if part.text]


# --- backward -----------------------------------------------------------------------------------


class Use(NamedTuple):
    """One use of a quantity, as the sweep shows it.

    Attributes:
        rule: the name of the operation; `result` is what it gave, `operands` what it was given.
        which: the number of the operand that the quantity was.
        local: the local derivative, as the engine has it.
        upstream: the gradient of the result; `contribution` is what is handed on.
    """

    rule: str
    result: Term
    operands: tuple[Term, ...]
    which: int
    local: Any
    upstream: Any
    contribution: Any


def product(use: Use, delta: Line) -> tuple[Line, Line]:
    """Local derivative times gradient, in symbols and in numbers: `x · δ` and `2 · 0.6347`.

    Args:
        use: of a quantity.
        delta: what the gradient is called.

    Returns:
        The two lines; the second is empty where the operation is no product of two numbers.
    """
    if isinstance(use.local, (int, float)):
        numbers = [*in_parentheses(figure(use.local)), Part(" · ")]
        numbers += in_parentheses(figure(use.upstream))
        return [*_local(use), Part(" · "), *delta], numbers
    if isinstance(use.local, Elementwise):
        return _elementwise(use, delta)
    return _structural(use, delta)


def _local(use: Use) -> Line:
    """The local derivative, in symbols."""
    forms = LOCALS.get(use.rule, ())
    if use.rule == "power" and use.operands[1].name == "2":
        forms = (*LOCALS["square"], forms[1])
    if len(forms) != len(use.operands):
        y, x = use.result.name, use.operands[use.which].name
        return [Part("∂"), *named(y), Part("/∂"), *named(x)]

    return _filled(
        "",
        forms[use.which],
        lambda i, _: _symbol(use.result if i == "y" else use.operands[int(i)], protected=True),
    )


def _elementwise(use: Use, delta: Line) -> tuple[Line, Line]:
    """Of arrays: the product by elements, summed along the axes of a broadcast."""
    partial, g = use.local.partial(), np.asarray(use.upstream)
    sign = " · " if np.ndim(partial) == 0 or g.ndim == 0 else " ⊙ "
    symbols = [*_local(use), Part(sign), *delta]
    if max(np.size(partial), g.size) > SMALL:
        numbers: Line = []
    else:
        numbers = [*in_parentheses(figure(partial)), Part(sign), *in_parentheses(figure(g))]
    shape = np.shape(use.contribution)
    if shape != g.shape:
        to = Part(f" (summed to shape {shape})" if shape else " (summed)")
        symbols.append(to)
        numbers = [*numbers, to] if numbers else []
    return symbols, numbers


def _structural(use: Use, delta: Line) -> tuple[Line, Line]:
    """Of arrays: the pullback, as a product of matrices where it is one."""
    if use.rule in ("matmul", "linear") and all(np.ndim(x.data) == 2 for x in use.operands[:2]):
        return _matrices(use, delta) if use.which < 2 else ([Part("Σ rows of "), *delta], [])
    if use.rule == "sum":
        return [*delta, Part(" to each term of the sum")], []
    if use.rule == "scaled_sum":
        (factor,) = use.local.parameters or use.local.options.values()
        factors = [*in_parentheses(figure(factor)), Part(" · ")]
        return [*factors, *delta, Part(" to each term of the sum")], []
    return [Part(f"{clean(str(use.local.name))}("), *delta, Part(")")], []


def _matrices(use: Use, delta: Line) -> tuple[Line, Line]:
    """Of x @ W: δ @ Wᵀ and xᵀ @ δ."""
    other = use.operands[1 - use.which]
    transposed = figure(np.transpose(other.data), "shape")
    g = figure(use.upstream, "shape")
    if use.which == 0:
        return [*delta, Part(" @ "), *named(other.name), Part("ᵀ")], [g, Part(" @ "), transposed]
    return [*named(other.name), Part("ᵀ @ "), *delta], [transposed, Part(" @ "), g]


# --- to HTML ------------------------------------------------------------------------------------


def html(line: Line) -> str:
    """A line as HTML: every text escaped; of a number, all digits as its title."""
    return "".join(_element(part) for part in line)


def _element(part: Part) -> str:
    text = escape(part.text)
    if part.kind == "name":  # a name of another script must not turn its surroundings around
        return f"<bdi>{text}</bdi>"
    if part.kind == "num":
        return f'<span class="num" title="{escape(part.full)}">{text}</span>'
    return text


def text(line: Line) -> str:
    """A line as plain text."""
    return "".join(part.text for part in line)
