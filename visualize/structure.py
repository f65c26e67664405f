"""Scenes of what is no recorded graph: the parameters of a Module, and a compiled Program."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tinygrad_bp.nn.module import Module, Parameter
from tinygrad_bp.replay.program import CONSTANT, INPUT, Program

from .boxes import INFIX, SYMBOLS
from .scene import Box, Edge, Scene
from .summaries import Row, summary
from .text import clean, number


def structure_of(module: Module, show: tuple[str, ...], max_nodes: int) -> Scene:
    """The modules within one another, and their parameters.

    Raises:
        ValueError: there are more modules and parameters than max_nodes.
    """
    boxes: list[Box] = []
    edges: list[Edge] = []
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    done: dict[int, int] = {}

    def add(x: Any, name: str) -> int:
        if id(x) in done:
            return done[id(x)]
        below = [add(child, label) for label, child in _parts(x)]
        if isinstance(x, Module):
            count = sum(p.size if hasattr(p, "size") else 1 for p in x.parameters())
            boxes.append(_module_box(x, name, count, x is module))
        else:
            boxes.append(_parameter_box(x, names.get(id(x), name), show))
        done[id(x)] = len(boxes) - 1
        for i in below:
            text = f"{boxes[i].name} belongs to {boxes[-1].name}"
            edges.append(Edge(i, len(boxes) - 1, "", text))
        return len(boxes) - 1

    add(module, "")
    _check_size(len(boxes), max_nodes, "the module has {} modules and parameters")
    return Scene(tuple(boxes), tuple(sorted(edges, key=lambda e: e.target)))


def _parts(x: Any) -> Iterator[tuple[str, Any]]:
    """The modules and parameters that a module or a container holds itself, with names."""
    if not isinstance(x, Module):
        return
    pending: list[tuple[str, Any]] = list(vars(x).items())[::-1]
    while pending:
        name, value = pending.pop()
        if isinstance(value, Module):
            yield name, value
        elif isinstance(value, Parameter):
            if value.is_leaf and value.requires_grad:
                yield name, value
        elif isinstance(value, dict):
            pending += [(f"{name}.{key}", part) for key, part in value.items()][::-1]
        elif isinstance(value, (list, tuple)):
            pending += [(f"{name}.{i}", part) for i, part in enumerate(value)][::-1]


def _module_box(module: Module, name: str, count: int, is_root: bool) -> Box:
    kind = clean(type(module).__name__)
    label = clean(name)
    return Box(
        kind="group",
        label=label,
        symbol=kind,
        rows=(("numbers", f"{count:,}"),),
        is_compact=False,
        is_root=is_root,
        is_ordered=False,
        scope="",
        name=label or kind,
        formula=kind,
        details=(label or kind, f"{kind} of {count:,} numbers"),
    )


def _parameter_box(parameter: Any, name: str, show: tuple[str, ...]) -> Box:
    data = np.asarray(parameter.data, np.float64)
    rows: list[Row] = [("shape", str(data.shape))] if data.ndim else []
    if "data" in show:
        rows += summary("data", data)
    if "grad" in show and parameter.grad is not None:
        rows += summary("grad", np.asarray(parameter.grad, np.float64))
    label = clean(getattr(parameter, "label", "") or name)
    return Box(
        kind="leaf",
        label=label,
        symbol="",
        rows=tuple(rows),
        is_compact=False,
        is_root=False,
        is_ordered=False,
        scope="",
        name=clean(name),
        formula="",
        details=(clean(name), f"parameter of shape {data.shape}"),
    )


def program_scene(program: Program, max_nodes: int) -> Scene:
    """The instructions of a Program, each a box, and their operands.

    Raises:
        ValueError: there are more instructions than max_nodes.
    """
    _check_size(len(program), max_nodes, "the program has {} instructions")
    boxes, edges = [], []
    outputs = set(program.outputs)
    for i in range(len(program)):
        operands = program.operands_of(i)
        boxes.append(_instruction_box(program, i, operands, i in outputs))
        edges += [Edge(j, i, "", f"%{j} → %{i}, operand {k}") for k, j in enumerate(operands, 1)]
    return Scene(tuple(boxes), tuple(edges))


def _instruction_box(program: Program, i: int, operands: tuple[int, ...], is_output: bool) -> Box:
    rule: Any = program.rule(i)
    given = isinstance(rule, str)
    name = rule if given else rule.name
    label = f"input {program.inputs.index(i)}" if rule == INPUT else f"%{i}"
    shape = program.shapes[i] if program.shapes else ()
    rows: list[Row] = [("shape", str(tuple(shape)))] if program.shapes else []
    is_number = rule == CONSTANT and np.size(program.constants[i]) == 1
    if is_number:
        rows = [("data", number(float(np.asarray(program.constants[i]).item())))]
    elif rule == CONSTANT:
        rows.append(("data", "array"))
    texts = [f"%{j}" for j in operands]
    formula = f" {INFIX[name]} ".join(texts) if name in INFIX and len(texts) == 2 else ""
    return Box(
        kind={INPUT: "leaf", CONSTANT: "constant"}.get(name, "inner"),
        label=label if rule != CONSTANT else "",
        symbol="" if given else SYMBOLS.get(name, clean(name)),
        rows=tuple(rows),
        is_compact=is_number,
        is_root=is_output,
        is_ordered=len(operands) > 1,
        scope="",
        name=rows[0][1] if is_number else f"%{i}",
        formula=formula or f"{clean(name)}({', '.join(texts)})",
        details=(f"%{i}", clean(name), *(f"guarded: {g.outcome}{clean(g.line)}"
                                         for g in program.guards if g.condition == i)),
    )  # fmt: skip


def _check_size(count: int, max_nodes: int, what: str) -> None:
    if count > max_nodes:
        raise ValueError(
            f"draw: {what.format(count)}, more than max_nodes={max_nodes}; pass a larger one"
        )
