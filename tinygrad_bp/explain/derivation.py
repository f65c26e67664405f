"""A derivation, as it is shown: in text, LaTeX, Markdown and HTML."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tinygrad_bp.explain.equations import Equation
from tinygrad_bp.explain.evaluating import Numbers, evaluate
from tinygrad_bp.explain.formulas import Expr
from tinygrad_bp.explain.markup import LatexWriter, MathWriter, tidy
from tinygrad_bp.explain.tables import Shown, cell, escaped
from tinygrad_bp.explain.writing import TextWriter, Writer
from tinygrad_bp.text import clean

SECTIONS = {
    "forward": "Forward",
    "notation": "Notation",
    "rule": "Local derivatives",
    "backward": "Backward",
    "parameter": "Parameters",
    "element": "Element by element",
}
_WIDE = 100


class Derivation(Shown):
    """The equations of a derivation, in order.

    It prints as text with Unicode, and shows itself in notebooks by Markdown with LaTeX, which
    Jupyter and GitHub both set.

    Attributes:
        equations: what it consists of; each has been evaluated on the recorded numbers.
        notes: what a reader must know: the convention, the samples, what was used to simplify.
        tau: the last time step, which is written as τ, or None.
    """

    __slots__ = ("_ng", "_numbers", "_show_numbers", "equations", "notes", "targets", "tau")

    def __init__(
        self,
        equations: Sequence[Equation],
        notes: Sequence[str],
        numbers: Numbers,
        targets: Sequence[Expr],
        ng: bool,
        show_numbers: bool,
    ) -> None:
        self.equations = list(equations)
        self.notes = list(notes)
        self.targets = tuple(targets)
        self._numbers, self._ng, self._show_numbers = numbers, ng, show_numbers
        steps = [e.steps[1] for e in equations if e.steps]
        steps += [e.step for e in equations if e.step is not None]
        self.tau = max(steps) if steps and max(steps) > 1 else None
        if self.tau is not None:
            self.notes.append(f"τ = {self.tau}, the last time step.")

    def __len__(self) -> int:
        return len(self.equations)

    def __iter__(self) -> Iterator[Equation]:
        return iter(self.equations)

    def evaluate(self, formula: Expr, t: int | None = None, **indices: int) -> Any:
        """What a formula of this derivation comes to on the recorded numbers.

        Args:
            formula: one side of an equation.
            t: the time step, where the equation is stated for step t.
            indices: the values of an element's indices, from 0.

        Returns:
            A matrix, of the shape in which the formula is printed (1×1 for a single number); for
            what differs between the samples of a batch a stack of one for each.
        """
        return evaluate(formula, self._numbers, t, indices)

    def write(self, formula: Expr) -> str:
        """A formula of this derivation as a line of text."""
        text: str = self._writer(TextWriter).write(formula)
        return text

    # --- parts that all notations share ---------------------------------------------------------

    @property
    def title(self) -> str:
        """What is derived."""
        writer = self._writer(TextWriter)
        names = [writer.write(target) for target in self.targets]
        shown = names if len(names) <= 12 else [*names[:12], "…"]
        return f"Derivation of {', '.join(shown)}"

    def _writer(self, kind: type[Writer]) -> Any:
        return kind(self.tau, self._ng)

    def _sections(self) -> Iterator[tuple[str, list[Equation]]]:
        for kind, heading in SECTIONS.items():
            kinds = ("backward", "boundary") if kind == "backward" else (kind,)
            found = [e for e in self.equations if e.kind in kinds]
            if found:
                yield heading, found

    def _range(self, equation: Equation, writer: Writer) -> str:
        """The time steps an equation holds for: t = 1, …, τ - 1."""
        if equation.steps is None:
            return ""
        low, high = equation.steps
        t = writer.name("t") + writer.signs(" = ")
        if self.tau is not None and high == self.tau - 1 and low != high and high > 2:
            end = writer.name("τ") + writer.signs(f" {writer.minus} 1")
        else:
            end = writer.step(high)
        between = writer.signs(", ") if high == low + 1 else writer.signs(", …, ")
        return t + writer.signs(str(low).replace("-", writer.minus)) + between + end

    def _shape(self, equation: Equation) -> str:
        return "×".join(map(str, equation.shape))

    def _comes_to(self, equation: Equation) -> list[str]:
        """The numbers of an equation, a line for each array or time step."""
        numbers = equation.numbers
        if not self._show_numbers or numbers is None or equation.kind in ("notation", "element"):
            return []
        if isinstance(numbers, dict):
            return [line for t, x in numbers.items() for line in _lines(x, f"t = {t}: ")]
        return _lines(numbers, "")

    # --- the notations --------------------------------------------------------------------------

    def text(self) -> str:
        writer = self._writer(TextWriter)
        lines = [self.title, *map(clean, self.notes)]
        for heading, equations in self._sections():
            lines += ["", heading]
            if heading == SECTIONS["notation"]:
                lines += [f"  {',   '.join(row)}" for row in self._notation(equations, writer)]
                continue
            for equation in equations:
                lines += self._text_of(equation, writer)
        return "\n".join(lines)

    def _notation(self, equations: Sequence[Equation], writer: Any) -> Iterator[list[str]]:
        """What each δ stands for, four to a line."""
        equal = writer.signs(" = ")
        said = [f"{writer.write(e.lhs)}{equal}{writer.write(e.rhs)}" for e in equations]
        for i in range(0, len(said), 4):
            yield said[i : i + 4]

    def _text_of(self, equation: Equation, writer: Any) -> list[str]:
        left = writer.write(equation.lhs)
        rights = [writer.write(form) for form in equation.forms]
        extra = "   ".join(
            part
            for part in (self._range(equation, writer), f"({self._shape(equation)})")
            if part != "()"
        )
        one = f"  {left} = {' = '.join(rights)}"
        if len(one) <= _WIDE:
            lines = [one]
        else:
            pad = " " * len(left)
            lines = [f"  {left} = {rights[0]}", *(f"  {pad} = {r}" for r in rights[1:])]
        if extra:
            lines[0] = f"{lines[0]:<60}   {extra}"
        return lines + [f"      {line}" for line in self._comes_to(equation)]

    def latex(self) -> str:
        """The equations in LaTeX (amsmath), a block for each section; without numbers."""
        blocks = [
            f"\\paragraph{{{heading}}}\n\\[\n{self._aligned(equations)}\n\\]"
            for heading, equations in self._sections()
        ]
        text = "\n\n".join(blocks) + "\n"
        # What MathJax and KaTeX know; the signs themselves would open tags in a page.
        missing = [f"\\providecommand{{\\{n}}}{{{c}}}" for n, c in (("lt", "<"), ("gt", ">"))]
        return "\n".join([*missing, text]) if "\\gt" in text or "\\lt" in text else text

    def markdown(self) -> str:
        """Markdown with the equations in LaTeX, as Jupyter and GitHub show it."""
        notes = "\n".join(f"- {_inert(note)}" for note in self.notes)
        blocks = [f"**{_inert(self.title)}**\n\n{notes}"]
        for heading, equations in self._sections():
            blocks.append(f"### {heading}\n\n$$\n{self._aligned(equations)}\n$$")
            numbers = [line for e in equations for line in self._named_numbers(e)]
            if numbers:
                # Fenced, because notebooks look for dollar signs in what is merely indented. No
                # line can end it: those with a name go on behind it.
                blocks.append("\n".join(["```", *numbers, "```"]))
        return "\n\n".join(blocks) + "\n"

    def _named_numbers(self, equation: Equation) -> list[str]:
        lines = self._comes_to(equation)
        name = self._writer(TextWriter).write(equation.lhs)
        return [f"{name}:", *(f"  {line}" for line in lines)] if lines else []

    def _aligned(self, equations: Sequence[Equation]) -> str:
        writer = self._writer(LatexWriter)
        rows = []
        if equations[0].kind == "notation":
            rows = ["& " + ", \\quad ".join(row) for row in self._notation(equations, writer)]
            equations = []
        for equation in equations:
            left = writer.write(equation.lhs)
            steps = self._range(equation, writer)
            for i, form in enumerate(equation.forms):
                row = f"{'' if i else left} &= {writer.write(form)}"
                rows.append(row + (f" && {steps}" if steps and not i else ""))
        body = " \\\\\n".join(map(tidy, rows))
        return f"\\begin{{aligned}}\n{body}\n\\end{{aligned}}"

    def html(self) -> str:
        """A piece of HTML with the equations in MathML: no scripts, every name escaped."""
        notes = "".join(f"<p>{escaped(note)}</p>\n" for note in self.notes)
        parts = [f"<h3>{escaped(self.title)}</h3>\n{notes}"]
        for heading, equations in self._sections():
            parts.append(f"<h4>{heading}</h4>\n")
            if heading == SECTIONS["notation"]:
                for row in self._notation(equations, self._writer(MathWriter)):
                    maths = ", &emsp;".join(map(_math, row))
                    parts.append(f"<div>{maths}</div>\n")
                continue
            rows = "".join(self._html_of(e) for e in equations)
            parts.append(f"<table>\n{rows}</table>\n")
        return "".join(parts)

    def _html_of(self, equation: Equation) -> str:
        """The rows of a table: both sides, the time steps, the shape; and numbers below."""
        writer = self._writer(MathWriter)
        shape = self._shape(equation)
        aside = [_math(self._range(equation, writer)), f"<small>{shape}</small>" if shape else ""]
        rows = ""
        for i, form in enumerate(equation.forms):
            left = "" if i else _math(writer.write(equation.lhs))
            cells = [left, "=", _math(writer.write(form)), *(["", ""] if i else aside)]
            rows += "<tr>" + "".join(map(_cell, cells, _ALIGNED)) + "</tr>\n"
        numbers = html.escape("\n".join(self._comes_to(equation)))
        if numbers:
            rows += f'<tr><td colspan="5"><pre>{numbers}</pre></td></tr>\n'
        return rows

    def _repr_markdown_(self) -> str:
        return self.markdown()

    def _repr_html_(self) -> Any:
        """Nothing, so that notebooks take the Markdown, whose formulas they set themselves."""
        return None


_ALIGNED = ("right", "center", "left", "left", "right")


def _math(inner: str) -> str:
    return f'<math displaystyle="true"><mrow>{inner}</mrow></math>' if inner else ""


def _cell(inner: str, align: str) -> str:
    return f'<td align="{align}">{inner}</td>'


# What means something to Markdown, and where an address begins, which it would make a link.
_MARKS = re.compile(r"[\\`*_{}\[\]<>#|$~&@]|:(?=//)|(?<=www)\.", re.IGNORECASE)


def _inert(text: str) -> str:
    """A text from anywhere, inert within a line of Markdown; for the elements see `escaped`."""
    return _MARKS.sub(_entity, clean(text))


def _entity(sign: re.Match[str]) -> str:
    entity = f"&#{ord(sign[0])};"
    return f"<span>{entity}</span>" if sign[0] in "$\\" else entity


def _lines(x: Any, before: str) -> list[str]:
    array = np.asarray(x)
    if array.size == 1:
        return [f"{before}{cell(float(array.reshape(())))}"]
    if 1 in array.shape[-2:]:  # vectors on one line each
        array = array.reshape(*array.shape[:-2], -1)
    if array.size > 200:
        return [f"{before}{cell(array)}"]
    text = np.array2string(array, precision=4, suppress_small=False, max_line_width=96)
    first, *rest = text.splitlines()
    return [f"{before}{first}", *(f"{' ' * len(before)}{line}" for line in rest)]
