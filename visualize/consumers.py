"""A gradient as the sum over the consumers: `∂L/∂a = Σ ∂L/∂tᵢ · ∂tᵢ/∂a`, with its numbers.

The chain rule for a quantity with several uses: each consumer t of a hands back its own gradient,
times its derivative by a.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import reduce
from html import escape
from operator import add
from typing import Any

import numpy as np

from tinygrad_bp.derivatives import Elementwise

from .equations import Line, Part, Use, figure, html, in_parentheses, named, plain, product
from .story import Contribution, Story, derivative
from .text import clean

WRITTEN_OUT = 6  # consumers of a node at most, whose sum is one equation


def sum_over_consumers(story: Story, i: int) -> list[Line]:
    """`∂L/∂a = Σ ∂L/∂tᵢ · ∂tᵢ/∂a`: written out where there are few consumers, with its numbers.

    (Rumelhart, Hinton and Williams 1986, eq. 6, for any graph.)
    """
    root, name = story.terms[story.root].name, story.terms[i].name
    shares = story.contributions.get(i, [])
    if i not in story.gradients:
        return [[*named(name), Part(": no gradient flows here")]]
    left = derivative(root, name)
    if not shares:
        total = figure(story.gradients[i])
        return [[*left, Part(" = "), total, Part(": the sweep begins here")]]
    added = total_of(share.use.contribution for share in shares)
    if len(shares) > WRITTEN_OUT:
        products = [*derivative(root, "tᵢ"), Part(" · "), *derivative("tᵢ", name)]
        line = [*left, Part(" = Σ "), *products, Part(f", over {len(shares)} uses t")]
        return [line, [Part("= "), figure(added), *_by_hook(added, story.gradients[i])]]
    is_scalar = all(isinstance(share.use.local, (int, float)) for share in shares)
    symbols = [_symbols(share.use, root, name, is_scalar) for share in shares]
    lines = [[*left, Part(" = "), *_joined(symbols)]]
    if is_scalar:
        factors = [(figure(share.use.upstream), figure(share.use.local)) for share in shares]
        numbers = [[*in_parentheses(g), Part(" · "), *in_parentheses(x)] for g, x in factors]
        lines.append([Part("= "), *_joined(numbers)])
    if len(shares) > 1:
        parts = [in_parentheses(figure(share.use.contribution)) for share in shares]
        lines.append([Part("= "), *_joined(parts)])
    return [*lines, [Part("= "), figure(added), *_by_hook(added, story.gradients[i])]]


def _symbols(use: Use, root: str, name: str, is_scalar: bool) -> Line:
    upstream = derivative(root, use.result.name)
    if is_scalar:
        return [*upstream, Part(" · "), *derivative(use.result.name, name)]
    return product(use, upstream)[0]


def _joined(terms: list[Line]) -> Line:
    return [part for term in terms for part in (Part(" + "), *term)][1:]


def total_of(contributions: Iterable[Any]) -> Any:
    """Their sum, in their order, as the sweep adds them."""
    with np.errstate(all="ignore"):
        return reduce(add, contributions)


def _by_hook(added: Any, gradient: Any) -> Line:
    if np.array_equal(np.asarray(added), np.asarray(gradient), equal_nan=True):
        return []
    return [Part(", which a hook has replaced by "), figure(gradient)]


# --- to HTML ------------------------------------------------------------------------------------


def section(story: Story, i: int) -> str:
    """The sum over the consumers of a box, and a table of its uses, as HTML."""
    name = story.terms[i].name
    lines = "".join(f"<p>{html(line)}</p>" for line in sum_over_consumers(story, i))
    uses = story.contributions.get(i, [])
    head = f"<h3><bdi>{escape(name)}</bdi> <small>{escape(story.kinds[i])}</small></h3>"
    return f'<section id="a{i}">{head}{lines}{_uses(uses, name, story)}</section>'


def _uses(uses: list[Contribution], name: str, story: Story) -> str:
    if not uses:
        return ""
    has_steps = any(use.step is not None for use in uses)
    root = story.terms[story.root].name
    headings = ["used by t", f"∂{root}/∂t", f"∂t/∂{name}", "contribution"]
    headings = ["step", *headings] if has_steps else headings
    head = "".join(f'<th scope="col">{escape(heading)}</th>' for heading in headings)
    rows = "".join(f"<tr>{''.join(_cells(use, has_steps))}</tr>" for use in uses)
    count = f"{len(uses)} use{'' if len(uses) == 1 else 's'}"
    return (
        f"<table><caption>{count}, in the order of the sweep</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    )


def _cells(contribution: Contribution, has_steps: bool) -> Iterator[str]:
    use = contribution.use
    if has_steps:
        yield f"<td>{'' if contribution.step is None else contribution.step}</td>"
    rule = clean(use.rule)
    yield f"<td><bdi>{escape(use.result.name)}</bdi> <small>{escape(rule)}</small></td>"
    yield f"<td>{html([figure(use.upstream)])}</td>"
    yield f"<td>{html(_local(use.local))}</td>"
    yield f"<td>{html([figure(use.contribution)])}</td>"


def _local(local: Any) -> Line:
    if isinstance(local, (int, float)):
        return [figure(local)]
    if isinstance(local, Elementwise):
        return [figure(local.partial())]
    return plain(clean(str(local.name)))
