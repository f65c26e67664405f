"""All mutants of a module: its source, with one small thing changed, by mutmut's operators.

mutmut itself leaves out whatever is decorated, and whatever runs when the module is imported, since
it chooses among mutated functions at run time. Here that is nearly everything: rules are decorated
functions, and their derivatives are lambdas in the decorators. So the operators are mutmut's, and
what is visited and how a mutant is run is our own.
"""

from __future__ import annotations

import itertools
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import libcst as cst
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation.file_mutation import NEVER_MUTATE_FUNCTION_CALLS
from mutmut.mutation.mutators import mutation_operators


class Mutant(NamedTuple):
    """One change: where, what it was, and what it becomes."""

    number: int
    line: int
    column: int
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.line}:{self.column}  {_short(self.old)}  ->  {_short(self.new)}"

    @property
    def key(self) -> str:
        return f"{self.line}:{self.column} {self.old} -> {self.new}"


def _short(code: str) -> str:
    return " ".join(code.split())


class Mutants:
    """The mutants of one source file, in the order of their places."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._text = path.read_text()
        lengths = map(len, self._text.splitlines(keepends=True))
        self._starts = list(itertools.accumulate(lengths, initial=0))
        wrapper = MetadataWrapper(cst.parse_module(self._text))
        self._module = wrapper.module
        visitor = _Visitor()
        wrapper.visit(visitor)
        self._changes = visitor.changes

    @cached_property
    def all(self) -> list[Mutant]:
        code = self._module.code_for_node
        return [
            Mutant(i, where.line, where.column, code(old), code(new))
            for i, (where, old, new) in enumerate(self._changes)
        ]

    def source(self, number: int) -> str:
        """The whole file with one change."""
        where, old, new = self._changes[number]
        before = self._starts[where.line - 1] + where.column
        code = self._module.code_for_node
        if self._text.startswith(code(old), before):  # quicker than to write it all anew
            return self._text[:before] + code(new) + self._text[before + len(code(old)) :]
        mutated: Any = self._module.deep_replace(old, new)
        return str(mutated.code)


class _Visitor(cst.CSTVisitor):
    """mutmut's visitor, which also looks into decorators and decorated functions."""

    METADATA_DEPENDENCIES = (PositionProvider,)

    def __init__(self) -> None:
        self.changes: list[tuple[Any, cst.CSTNode, cst.CSTNode]] = []

    def on_visit(self, node: cst.CSTNode) -> bool:
        if isinstance(node, cst.Annotation) or _is_left_alone(node):
            return False
        for kind, operator in mutation_operators:
            if isinstance(node, kind):
                where = self.get_metadata(PositionProvider, node, None)
                self.changes += [
                    (where.start, node, new)  # type: ignore[union-attr]
                    for new in operator(node)
                    if has_domain(node) == has_domain(new)
                ]
        return True


def has_domain(node: cst.CSTNode) -> bool:
    arguments = node.args if isinstance(node, cst.Call) else ()
    return any(x.keyword is not None and x.keyword.value == "domain" for x in arguments)


# Module-level names of types, which only annotations use; and where the tests sample.
NO_BEHAVIOUR = {"M", "X", "Partial", "Axis", "Pullback", "SMOOTH", "POSITIVE", "UNIT"}


def _is_left_alone(node: cst.CSTNode) -> bool:
    """What has no behaviour of its own; and, as with mutmut, `len` and `isinstance`."""
    if isinstance(node, cst.Call) and isinstance(node.func, cst.Name):
        return node.func.value in NEVER_MUTATE_FUNCTION_CALLS
    if isinstance(node, cst.Arg) and node.keyword is not None:
        return node.keyword.value == "domain"
    if isinstance(node, cst.Assign) and isinstance(node.targets[0].target, cst.Name):
        return node.targets[0].target.value in NO_BEHAVIOUR
    return False
