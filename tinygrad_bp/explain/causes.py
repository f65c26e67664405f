"""Why one edge of the graph hands on nothing, little, much, or what is not a number: in words.

An edge is judged by its operation and the numbers it was computed from. What is not known here,
such as an operation of the user's own, is named with its factor, and nothing is made up.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from tinygrad_bp.explain.survey import Link, Survey, numbers_in, size_of
from tinygrad_bp.graph import Node
from tinygrad_bp.text import clean, number

SATURATING = frozenset(
    {"sigmoid", "tanh", "softplus", "log_sigmoid", "silu", "gelu", "elu", "erf", "erfc"}
    | {"arctan", "logaddexp", "exp"}
)
RECTIFIERS = frozenset({"relu", "leaky_relu"})
PRODUCTS = frozenset({"multiply", "azmul", "matmul", "linear", "einsum"})
FLAT_AT_ZERO = frozenset({"square", "absolute", "power", "hypot"})
# A product of random terms is smaller than its largest term by chance, but hardly a hundred times.
CANCELLED = 100.0
POLES = {
    "log": "log of {x}",
    "log1p": "log1p of {x}",
    "sqrt": "square root of {x}",
    "divide": "division by {y}",
    "power": "{x} to the power {y}",
    "arcsin": "arcsin of {x}",
    "arccos": "arccos of {x}",
}


class Cause(NamedTuple):
    """What is to blame, as one of a few kinds, and in a sentence."""

    kind: str
    text: str


class Words:
    """The names by which nodes and numbers are mentioned."""

    def __init__(self, survey: Survey, names: Mapping[Node, str]) -> None:
        self.survey = survey
        self._names = names

    def name(self, x: Any) -> str:
        """A node by its name, a constant by its number or shape."""
        if isinstance(x, Node) and x in self._names:
            return self._names[x]
        shape = np.shape(numbers_in(x))
        label = clean(x.label) if isinstance(x, Node) else ""
        if not shape:
            return f"the constant {label + ' = ' if label else ''}{span(x)}"
        own = f"the constant {label}" if label else "a constant"
        return f"{own} of shape {'×'.join(map(str, shape))}"

    def operation(self, link: Link) -> str:
        """An operation and its result: `sigmoid a1`."""
        return f"{link.rule} {self.name(link.consumer)}"


def span(x: Any) -> str:
    """Numbers by their range."""
    array = np.asarray(numbers_in(x), np.float64).ravel()
    if not array.size:
        return "empty"
    with np.errstate(all="ignore"):
        low, high = number(float(array.min())), number(float(array.max()))
    return low if low == high else f"{low} … {high}"


def arriving(link: Link, words: Words, x: Any) -> Any:
    """The elements of an operand at which a gradient arrives."""
    gradient = np.asarray(words.survey.gradients[link.consumer])
    x = np.asarray(x, np.float64)
    try:
        chosen = np.broadcast_to(x, gradient.shape)[gradient != 0.0]
    except ValueError:  # not an elementwise operation
        return x
    return chosen if chosen.size else x


def _places(link: Link, words: Words) -> str:
    """At how many places of an array a gradient arrives."""
    count = np.count_nonzero(words.survey.gradients[link.consumer])
    return "" if np.ndim(link.result) == 0 else f" at all {count} places that a gradient reaches"


# --- nothing ------------------------------------------------------------------------------------


def of_zero(link: Link, words: Words) -> Cause:
    """Why an edge hands on exactly zero, though a gradient arrives."""
    if link.rule in ("softmax", "log_softmax"):
        return _softmax(link, words)
    if link.rule in PRODUCTS:
        return _zero_product(link, words)
    partial = link.partial
    if partial is None:
        return Cause(
            "zero derivative",
            f"{words.operation(link)} does not depend on {words.name(link.node)} where a gradient "
            "arrives",
        )
    if np.any(arriving(link, words, partial) != 0.0):
        return _lost(link, words)
    return _zero_partial(link, words)


def _lost(link: Link, words: Words) -> Cause:
    """Why nothing is left of a gradient, though the local derivative is not 0 where it arrives."""
    with np.errstate(all="ignore"):
        products = np.asarray(words.survey.gradients[link.consumer]) * link.partial
    if np.any(products):
        return Cause(
            "cancellation", f"the sum over the elements of {words.operation(link)} cancels"
        )
    return Cause("underflow", f"the product underflows at {words.operation(link)}")


def _zero_partial(link: Link, words: Words) -> Cause:
    x = arriving(link, words, link.numbers[link.operand])
    rule, name = link.rule, words.name(link.node)
    if rule in RECTIFIERS:
        return Cause(
            "dead relu",
            f"{words.operation(link)} is off{_places(link, words)}: {name} is {span(x)}",
        )
    if rule in ("maximum", "minimum", "where"):
        how = {"where": "chooses the other side"}.get(rule, "takes the other operand")
        return Cause("masked", f"{words.operation(link)} {how}{_places(link, words)}")
    if rule == "clip":
        low, high = map(span, link.numbers[1:3])
        text = f"{words.operation(link)} holds {name}, {span(x)}, between {low} and {high}"
        return Cause("masked", text)
    if rule in FLAT_AT_ZERO and link.operand == 0 and not np.any(x):
        return _minimum(link, words, "0")
    if rule in SATURATING:
        return _saturated(link, words, x)
    return Cause("zero derivative", f"the derivative of {words.operation(link)} by {name} is 0")


def _minimum(link: Link, words: Words, how: str) -> Cause:
    """An operand near 0, where the operation is flat: often the error that a loss measures."""
    squared = link.rule != "power" or np.all(np.asarray(link.numbers[1]) == 2.0)
    if getattr(link.node.rule, "name", "") == "subtract" and squared:
        x, y = map(words.name, link.node.operands)
        return Cause(
            "at minimum", f"the difference {x} - {y} is {how}, where {link.rule} has its minimum"
        )
    return Cause("stationary point", f"{words.name(link.node)} is {how}, where {link.rule} is flat")


def _saturated(link: Link, words: Words, x: Any) -> Cause:
    most = size_of(arriving(link, words, link.partial))
    return Cause(
        "saturated",
        f"{words.operation(link)} is saturated: {words.name(link.node)} is {span(x)}, where the "
        f"derivative is at most {number(most)}",
    )


def _softmax(link: Link, words: Words) -> Cause:
    local = link.local
    axis = local.options.get("axis", local.parameters[0] if local.parameters else -1)
    shape = np.shape(link.result)
    if axis is not None and shape[axis] == 1:
        return Cause(
            "softmax of one logit",
            f"{words.operation(link)} has one logit: it is constant, whatever the logit is",
        )
    with np.errstate(all="ignore"):
        y = np.exp(link.result) if link.rule == "log_softmax" else link.result
        one_hot = np.all(np.abs(y - np.round(y)) < 1e-3)
    if link.rule == "log_softmax":
        how = "at" if link.contribution == 0.0 else "near"
        return Cause(
            "at minimum",
            f"{words.operation(link)} is {how} the minimum: probabilities and targets differ by at "
            f"most {number(link.factor)} of the gradient that arrives",
        )
    if one_hot:
        return Cause("saturated", f"{words.operation(link)} is saturated: all its mass is on one")
    return Cause(
        "cancellation",
        f"the gradients by the outputs of {words.operation(link)}, which add up to 1, are equal",
    )


def _zero_product(link: Link, words: Words) -> Cause:
    partners = _partners(link)
    if not partners:
        return Cause(
            "cancellation", f"the gradients of the samples cancel in {words.name(link.node)}"
        )
    for other, x in partners:
        if not np.any(x):
            bare = np.ndim(x) == 0 and not isinstance(other, Node)  # then its name is its number
            text = words.name(other) + ("" if bare else " is 0")
            return _of_factor("zero", other, text, link, words)
    if link.partial is None:
        return Cause(
            "zero derivative",
            f"the products in {words.operation(link)} are 0, since a gradient arrives only where "
            "the other operand is 0, or they cancel",
        )
    other, x = partners[0]
    if not np.any(arriving(link, words, x)):
        text = f"{words.name(other)} is 0 wherever a gradient arrives"
        return _of_factor("zero", other, text, link, words)
    return _lost(link, words)


def _partners(link: Link) -> list[tuple[Any, Any]]:
    """What a node is multiplied by in a product, with its numbers; nothing if it is a bias."""
    if link.rule == "linear":
        return [] if link.operand == 2 else link.others[:1]
    return link.others


def _of_factor(size: str, other: Any, text: str, link: Link, words: Words) -> Cause:
    """A product is blamed on its other factor: a parameter, a constant, or something computed."""
    text += f", in the product {words.name(link.consumer)}"
    if not isinstance(other, Node) or not other.requires_grad:
        return Cause(f"{size} operand", f"{text}: an input, a mask or an initial state")
    return Cause(f"{size} {'weights' if other.rule is None else 'operand'}", text)


# --- little and much ----------------------------------------------------------------------------


def of_small(link: Link, words: Words) -> Cause:
    """Why an edge hands on much less than it was handed."""
    rule, x = link.rule, link.numbers[link.operand]
    if rule in SATURATING and link.partial is not None:
        return _saturated(link, words, arriving(link, words, x))
    if rule in ("softmax", "log_softmax"):
        return _softmax(link, words)
    most = size_of(arriving(link, words, x))
    if rule in FLAT_AT_ZERO and link.operand == 0 and most < 1.0:
        return _minimum(link, words, f"at most {number(most)}")
    if rule in PRODUCTS and _partners(link):
        other, factor = _largest_partner(link)
        if size_of(factor) <= CANCELLED * link.factor:
            bound = f", at most {number(size_of(factor))}" if np.ndim(factor) else ""
            text = f"{words.name(other)} is small{bound}"
            return _of_factor("small", other, text, link, words)
        return Cause("cancellation", f"the products in {words.operation(link)} nearly cancel")
    if rule == "divide":
        return Cause("small factor", f"{words.operation(link)} divides by {span(link.numbers[1])}")
    if rule in ("mean", "scaled_sum"):
        count = np.size(x)
        what = "averages over" if rule == "mean" else f"scales by {number(link.factor)} the sum of"
        return Cause("average", f"{words.operation(link)} {what} {count:,} elements")
    return _generic("small", link, words)


def of_large(link: Link, words: Words) -> Cause:
    """Why an edge hands on much more than it was handed."""
    rule = link.rule
    if rule in PRODUCTS:
        other, factor = _largest_partner(link) if _partners(link) else (None, 0.0)
        if size_of(factor) * CANCELLED >= link.factor:
            bound = f", up to {number(size_of(factor))}" if np.ndim(factor) else ""
            text = f"{words.name(other)} is large{bound}"
            return _of_factor("large", other, text, link, words)
        return Cause("many uses", f"the products in {words.operation(link)} add up")
    if rule in POLES:
        return Cause("near a pole", f"{_pole(link, words)}, derivative {number(link.factor)}")
    return _generic("large", link, words)


def _largest_partner(link: Link) -> tuple[Any, Any]:
    return max(_partners(link), key=lambda pair: size_of(pair[1]))


def _generic(size: str, link: Link, words: Words) -> Cause:
    return Cause(
        f"{size} factor",
        f"{words.operation(link)} hands on {number(link.factor)} times what it is handed",
    )


def _pole(link: Link, words: Words, at: tuple[int, ...] = ()) -> str:
    """An operation with the operands at which it has a pole: `log of 0`."""
    shape = np.shape(link.result)
    numbers = [np.broadcast_to(np.asarray(x, np.float64), shape) for x in link.numbers]
    if len(at) != len(shape):  # where the operand with the pole is closest to 0
        small = np.abs(numbers[1 if link.rule == "divide" else 0])
        at = tuple(map(int, np.unravel_index(np.argmin(small), shape)))
    shown = [number(float(x[at])) for x in numbers]
    return f"{POLES[link.rule].format(x=shown[0], y=shown[-1])} at {words.name(link.consumer)}"


# --- infinite, and not a number -----------------------------------------------------------------


def of_nonfinite(link: Link, words: Words) -> Cause:
    """Why a finite gradient becomes infinite or nan at an edge."""
    for x in [*link.numbers, link.result]:
        if not np.all(np.isfinite(np.asarray(x, np.float64))):
            return of_forward(link.consumer, words)
    partial = link.partial
    if partial is None:
        if np.isnan(words.survey.contribution(link)).any():
            return Cause("not defined", f"the pullback of {words.operation(link)} gives nan")
        return Cause("overflow", f"the product overflows at {words.operation(link)}")
    bad = np.broadcast_to(~np.isfinite(partial), np.shape(link.result))
    if not bad.any():
        return Cause("overflow", f"the product overflows at {words.operation(link)}")
    if link.rule not in POLES:
        return Cause("pole", f"the derivative of {words.operation(link)} is not finite there")
    arrives = np.argwhere(bad & (np.asarray(words.survey.gradients[link.consumer]) != 0.0))
    where = _pole(link, words, tuple(map(int, arrives[0])) if len(arrives) else ())
    return Cause("pole", f"{where}, where the derivative is infinite")


def of_forward(node: Node, words: Words) -> Cause:
    """The operation at which the forward pass lost its numbers, among what `node` is made of."""
    while True:
        numbers = _operand_numbers(node)
        worst = [
            (operand, x)
            for operand, x in zip(node.operands, numbers, strict=True)
            if not np.all(np.isfinite(np.asarray(x, np.float64)))
        ]
        if not worst:
            return _made_here(node, numbers, words)
        operand, x = worst[0]
        if not isinstance(operand, Node) or operand.is_leaf:
            at = np.argwhere(~np.isfinite(np.asarray(x)))[0]
            place = f"[{', '.join(map(str, at))}]" if len(at) else ""
            bad = number(float(np.asarray(x)[tuple(at)]))
            return Cause(
                "data not finite", f"{words.name(operand)}{place} is {bad} before any operation"
            )
        node = operand


def _operand_numbers(node: Node) -> list[Any]:
    """As they were recorded."""
    local = next((local for local in node.locals if local is not None), None)
    recorded = getattr(local, "operands", None)
    return recorded if recorded is not None else [numbers_in(x) for x in node.operands]


def _made_here(node: Node, numbers: list[Any], words: Words) -> Cause:
    rule = node.rule.name
    result = np.asarray(numbers_in(node))
    at = np.argwhere(~np.isfinite(result))[0]
    value = number(float(result[tuple(at)]))
    arguments = ", ".join(_at(x, at, result) for x in numbers)
    place = f"[{', '.join(map(str, at))}]" if len(at) else ""
    kind = "not defined" if value == "nan" else "pole" if rule in POLES else "overflow"
    text = f"in the forward pass {rule}({arguments}) is {value}, at {words.name(node)}{place}"
    return Cause(kind, text)


def _at(x: Any, at: Any, result: Any) -> str:
    """The element of an operand that went into one of the result, or its range."""
    array = np.asarray(x, np.float64)
    try:
        return number(float(np.broadcast_to(array, result.shape)[tuple(at)]))
    except ValueError:
        return span(array)
