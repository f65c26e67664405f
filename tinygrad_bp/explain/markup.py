"""Formulas in LaTeX and in MathML. Whatever name a user gave, it is inert there."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

from tinygrad_bp.explain.writing import FACTOR, Writer
from tinygrad_bp.text import clean

_GREEK = {
    "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "varepsilon", "ζ": "zeta",
    "η": "eta", "θ": "theta", "ι": "iota", "κ": "kappa", "λ": "lambda", "μ": "mu", "ν": "nu",
    "ξ": "xi", "π": "pi", "ρ": "rho", "σ": "sigma", "τ": "tau", "υ": "upsilon", "φ": "varphi",
    "χ": "chi", "ψ": "psi", "ω": "omega", "Γ": "Gamma", "Δ": "Delta", "Θ": "Theta",
    "Λ": "Lambda", "Ξ": "Xi", "Π": "Pi", "Σ": "Sigma", "Φ": "Phi", "Ψ": "Psi", "Ω": "Omega",
    "∂": "partial",
}  # fmt: skip
_LATEX_LETTERS = {"ŷ": r"\hat{y}", "𝟏": r"\mathbf{1}"}
# What means something to TeX, to Markdown, or to the HTML that Markdown may hold.
_LATEX_ESCAPES = {
    "\\": r"\backslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&{}", "#": r"\#",
    "%": r"\%", "_": r"\_", "^": r"\wedge{}", "~": r"\sim{}", "<": r"\lt{}", ">": r"\gt{}",
    "`": r"\prime{}", " ": "~", "*": r"\ast{}", "|": r"\vert{}", "[": r"\lbrack{}",
    "]": r"\rbrack{}", "!": r"\mathord{!}",
}  # fmt: skip
_LATEX_SIGNS = {
    "⊤": r"\top", "′": "'", "⊙": r"\odot", "−": "-", "≥": r"\ge", "≤": r"\le", "∧": r"\land",
    "∨": r"\lor", "·": r"\cdot", "…": r"\ldots", ">": r"\gt", "<": r"\lt",
}  # fmt: skip
_LATEX_FUNCTIONS = {"log", "exp", "tanh", "sinh", "cosh", "sin", "cos", "tan", "max", "min"}


def tidy(line: str) -> str:
    """A line of LaTeX without spaces that do nothing; no name holds any."""
    return re.sub(r" +(?=[ _^){},;])", "", line)


def escaped_latex(text: str) -> str:
    """A name from anywhere, inert in LaTeX's mathematics."""
    return "".join(_LATEX_ESCAPES.get(c, c) for c in clean(text))


class LatexWriter(Writer):
    """Formulas in LaTeX."""

    space = r" \, "

    def signs(self, text: str) -> str:
        return "".join(
            f"{_LATEX_SIGNS[c]} "
            if c in _LATEX_SIGNS
            else _LATEX_ESCAPES.get(c, c)
            if c != " "
            else c
            for c in text
        )

    def name(self, text: str) -> str:
        text = clean(text)
        if text in _GREEK:
            return f"\\{_GREEK[text]} "
        if text in _LATEX_LETTERS:
            return _LATEX_LETTERS[text]
        return text if len(text) == 1 and text.isalnum() else self._upright(text)

    def word(self, text: str) -> str:
        if text in _LATEX_FUNCTIONS:
            return f"\\{text}"
        return self.name(text) if len(text) == 1 else f"\\operatorname{{{escaped_latex(text)}}}"

    def _upright(self, text: str) -> str:
        return f"\\mathrm{{{escaped_latex(text)}}}"

    def scripted(self, base: str, above: str, below: str) -> str:
        if below:
            base += f"_{{{below.strip()}}}"
        if above:
            base = f"{{{base}}}" if "^" in base or base.endswith("'") else base
            base += f"^{{{above.strip()}}}"
        return base

    def over(self, above: str, below: str) -> tuple[str, int]:
        return f"\\frac{{{above.strip()}}}{{{below.strip()}}}", FACTOR

    def brackets(self, inner: str, kind: str = "()") -> str:
        tall = any(sign in inner for sign in ("\\frac", "\\sum", "\\begin"))
        bars = {"‖‖": r"\Vert ", "||": r"\vert "}
        left, right = bars.get(kind, kind[0]), bars.get(kind, kind[1])
        return f"\\left{left}{inner}\\right{right}" if tall else f"{left}{inner}{right}"

    def large(self, sign: str, below: str, above: str = "") -> str:
        return f"\\sum_{{{below}}}" + (f"^{{{above.strip()}}}" if above else "")

    def cases(self, rows: Sequence[tuple[str, str]]) -> str:
        otherwise = r"\text{else}"
        lines = [f"{y} & {c or otherwise}" for y, c in rows]
        return r"\begin{cases} " + r" \\ ".join(lines) + r" \end{cases}"

    def root(self, inner: str) -> str:
        return f"\\sqrt{{{inner}}}"


class MathWriter(Writer):
    """Formulas in MathML Core (W3C), which browsers show without scripts."""

    space = '<mspace width="0.17em"></mspace>'

    def signs(self, text: str) -> str:
        out, digits = "", ""
        for c in [*text, " "]:
            if c.isdigit() or (c == "." and digits):
                digits += c
                continue
            if digits:
                out, digits = f"{out}<mn>{digits}</mn>", ""
            if c != " ":
                out += (
                    f"<mo>{html.escape(c)}</mo>"
                    if not c.isalpha()
                    else f"<mi>{html.escape(c)}</mi>"
                )
        return out

    def name(self, text: str) -> str:
        return f"<mi>{html.escape(clean(text))}</mi>"

    def word(self, text: str) -> str:
        return f"<mi>{html.escape(clean(text))}</mi>"

    def row(self, inner: str) -> str:
        return f"<mrow>{inner}</mrow>"

    def scripted(self, base: str, above: str, below: str) -> str:
        base, above, below = map(self.row, (base, above, below))
        empty = self.row("")
        if above == empty:
            return base if below == empty else f"<msub>{base}{below}</msub>"
        if below == empty:
            return f"<msup>{base}{above}</msup>"
        return f"<msubsup>{base}{below}{above}</msubsup>"

    def over(self, above: str, below: str) -> tuple[str, int]:
        return f"<mfrac>{self.row(above)}{self.row(below)}</mfrac>", FACTOR

    def brackets(self, inner: str, kind: str = "()") -> str:
        left, right = (
            f'<mo form="{form}">{sign}</mo>'
            for form, sign in zip(("prefix", "postfix"), kind, strict=True)
        )
        return self.row(left + inner + right)

    def large(self, sign: str, below: str, above: str = "") -> str:
        mo = f"<mo>{sign}</mo>"
        if above:
            return f"<munderover>{mo}{self.row(below)}{self.row(above)}</munderover>"
        return f"<munder>{mo}{self.row(below)}</munder>"

    def cases(self, rows: Sequence[tuple[str, str]]) -> str:
        when = [f"<mtext>if&#160;</mtext>{c}" if c else "<mtext>else</mtext>" for _, c in rows]
        cells = "".join(
            f"<mtr>{_left(y)}{_left(c)}</mtr>" for (y, _), c in zip(rows, when, strict=True)
        )
        return self.row(f'<mo form="prefix">{{</mo><mtable>{cells}</mtable>')

    def root(self, inner: str) -> str:
        return f"<msqrt>{inner}</msqrt>"


def _left(inner: str) -> str:
    return f'<mtd columnalign="left">{inner}</mtd>'
