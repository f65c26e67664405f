"""`draw`: what to draw, and how, checked and handed on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tinygrad_bp.arguments import flag, flag_or_none, is_integer, shown
from tinygrad_bp.graph import Node
from tinygrad_bp.nn.module import Module
from tinygrad_bp.replay import Compiled, Program
from tinygrad_bp.scalars import Values

from .building import Built, Options, build
from .grouping import Collapse
from .highlighting import highlighted
from .picture import Picture
from .placing import LAYOUTS, chosen
from .scene import SHOWN, Scene, listing
from .structure import program_scene, structure_of
from .svg import render
from .themes import THEMES


def draw(
    node: Any,
    *,
    inputs: Any = None,
    layout: str = "auto",
    collapse: Collapse = None,
    fold: bool | None = None,
    show: Sequence[str] = ("data", "grad", "local"),
    shared: str = "once",
    heat_maps: bool = False,
    strip: bool = False,
    highlight: Any = None,
    direction: str = "LR",
    max_nodes: int = 300,
    theme: str = "light",
) -> Picture:
    """Draw the graph that a Value or a Tensor was computed by.

    A box is a node, with its value and, after `backward()`, its gradient; green boxes are leaves,
    dashed ones constants, and the thick one is the node that was asked for. An edge leads from an
    operand to its result and carries the local derivative: a gradient is the sum over the edges
    that leave a box, of the local derivative times the gradient at the edge's end.

    Args:
        node: the result of the computation; or an array of Values. Or a Module, which is run on
            `inputs`, or without them drawn as the parameters it has. Or a compiled Program.
        inputs: what a Module is called with; several arguments as a tuple.
        layout: `"layered"`, from operands to results; `"time"`, a column for each time step of an
            unrolled network; `"dot"`, the places that Graphviz finds (extra `dot`, or the program);
            `"auto"`, in time where there are steps, else layered.
        collapse: scopes to be drawn as one box each: those nested to a depth (1 for the outermost),
            and less deep ones that have none within them; or a list of their paths, in which `*`
            stands for anything: `["mlp/layer*"]`. What is used by one such box alone is inside it,
            and Values that are called like elements of an array are drawn as that array.
        fold: draw the middle ones of time steps or layers that are alike as one box. If None, only
            where the graph is too large without.
        show: any of `"data"`, `"grad"`, `"local"` (derivatives or pullbacks, at the edges) and
            `"contribution"`: what an edge adds to its operand's gradient, upstream times local; of
            an array its norm.
        shared: leaves that are used several times `"once"`, or `"per use"`.
        heat_maps: draw arrays of up to 400 numbers as colours: blue negative, red positive.
        strip: under the steps of the layout in time, the norm of the loss's derivative by each
            step's state.
        highlight: a node, array of Values or Module whose uses are to stand out; or a path, as its
            nodes in order.
        direction: `"LR"` from left to right, or `"TB"` from top to bottom; time goes to the right.
        max_nodes: the most boxes. Of a larger graph scopes are collapsed, the innermost first, and
            repeated ones folded, until it fits; the picture says so.
        theme: `"light"` or `"dark"`.

    Raises:
        TypeError: an argument is of another type.
        ValueError: the graph is too large even so, or an argument has no such value.
        ImportError: the layout "dot" needs a package that is not installed.
    """
    _check_types(max_nodes, collapse, show)
    fold = flag_or_none(fold, "draw: fold")
    flag(heat_maps, "draw: heat_maps")
    flag(strip, "draw: strip")
    _check_choice("layout", layout, LAYOUTS)
    _check_choice("shared", shared, ("once", "per use"))
    _check_choice("direction", direction, ("LR", "TB"))
    _check_choice("theme", theme, tuple(THEMES))
    options = Options(
        max_nodes,
        collapse if isinstance(collapse, int) or collapse is None else tuple(collapse),
        fold,
        tuple(show),
        shared,
        heat_maps,
        strip,
    )
    scene = _scene(node, inputs, options, highlight)
    chosen_layout = chosen(scene, layout)
    if strip and chosen_layout != "time":
        raise ValueError(f"draw: a strip goes under layout='time', not {chosen_layout!r}")
    svg = render(scene, direction, theme, chosen_layout)
    return Picture(svg, listing(scene), scene, direction)


def _scene(node: Any, inputs: Any, options: Options, highlight: Any) -> Scene:
    if inputs is not None and not isinstance(node, Module):
        raise TypeError(
            f"draw: inputs go with a Module, got {shown(inputs)} for a {type(node).__name__}"
        )
    is_recorded = not isinstance(node, Program) and not (
        isinstance(node, Module) and inputs is None
    )
    if highlight is not None and not is_recorded:
        raise TypeError(
            f"draw: highlight needs a recorded graph (inputs of a Module), got "
            f"{type(node).__name__}"
        )
    if isinstance(node, Program):
        return program_scene(node, options.max_nodes)
    if isinstance(node, Module) and inputs is None:
        return structure_of(node, options.show, options.max_nodes)
    if isinstance(node, Module):
        node = node(*inputs) if isinstance(inputs, tuple) else node(inputs)
        roots = list(_nodes_in(node))
        if not roots:
            raise TypeError("draw: the Module returned no Value and no Tensor")
    else:
        roots = list(_nodes_in(node)) if isinstance(node, (Node, Values)) else []
    if not roots:
        raise TypeError(
            f"draw: node must be a Value or a Tensor, got {type(node).__name__}{_hint(node)}"
        )
    built: Built = build(roots, options)
    return built.scene if highlight is None else highlighted(built, highlight)


def _hint(node: Any) -> str:
    if isinstance(node, Compiled):
        return "; draw its f.program(...), or what f.f(...) returns"
    return "; draw one element, or their sum" if hasattr(type(node), "flat") else ""


def _nodes_in(x: Any) -> list[Node]:
    """The nodes of what a Module returned."""
    if isinstance(x, Node):
        return [x]
    if isinstance(x, Values):
        return list(x.flat)
    if isinstance(x, dict):
        x = list(x.values())
    if isinstance(x, (list, tuple)):
        return [node for part in x for node in _nodes_in(part)]
    return []


def _check_types(max_nodes: Any, collapse: Any, show: Any) -> None:
    if not is_integer(max_nodes):
        raise TypeError(f"draw: max_nodes must be an int, got {type(max_nodes).__name__}")
    if max_nodes < 1:
        raise ValueError(f"draw: max_nodes must be at least 1, got {max_nodes}")
    is_depth = isinstance(collapse, int) and not isinstance(collapse, bool)
    is_list = isinstance(collapse, (list, tuple)) and all(isinstance(p, str) for p in collapse)
    if collapse is not None and not is_depth and not is_list:
        raise TypeError(
            "draw: collapse must be a depth or a list of scopes' paths, got "
            f"{type(collapse).__name__}"
        )
    if is_depth and collapse < 1:
        raise ValueError(f"draw: collapse must be at least 1, the outermost scopes, got {collapse}")
    if isinstance(show, (str, bytes)) or not isinstance(show, Sequence):
        raise TypeError(f"draw: show must be a tuple of str, got {type(show).__name__}")
    for each in show:
        _check_choice("show", each, SHOWN)


def _check_choice(name: str, given: Any, choices: tuple[str, ...]) -> None:
    if not isinstance(given, str):
        raise TypeError(f"draw: {name} must be a str, got {type(given).__name__}")
    if given not in choices:
        raise ValueError(f"draw: {name} must be one of {', '.join(choices)}, got {given!r}")
