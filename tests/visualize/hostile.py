"""Texts that would like to be more than text, and graphs in which they stand everywhere."""

import unicodedata

import numpy as np

import tinygrad_bp as tb
from tinygrad_bp import nn
from tinygrad_bp.custom import elementwise

TEXTS = [
    "<script>window.bad=1</script>",
    '"><img src=x onerror=window.bad=2>',
    "'><svg/onload=window.bad=3>",
    "</text></svg><script>window.bad=4</script>",
    "</title></style></script><script>window.bad=5</script>",
    "</pre></td></table><iframe src=javascript:parent.bad=6>",
    "]]><![CDATA[<!--",
    "<!DOCTYPE x [<!ENTITY y SYSTEM 'file:///etc/passwd'>]>&y;",
    "<?xml-stylesheet href='http://x.invalid/a.css'?>",
    "javascript:window.bad=7",
    "&#x6a;&lt;b&gt;&amp;&nbsp;",
    "{{7*7}}{{script}}{title}{0}{x!r}",
    "${7*7} %s %(x)s %",
    "url(http://x.invalid/a) @import 'http://x.invalid/b';",
    "http://x.invalid www.x.invalid me@x.invalid",
    r"\input{/etc/passwd}",
    r"\write18{id} ^^5cinput",
    r"$\href{javascript:window.bad=8}{here}$",
    r"\(\href{javascript:window.bad=9}{here}\)",
    r"\begin{align}x\end{align} \[ x \]",
    "$$ x $$ $y$",
    r"} \end{aligned} $$ <b>bold</b> $$ \begin{aligned} {",
    "[here](javascript:window.bad=10) ![x](http://x.invalid/c.png)",
    "**bold** __bold__ *i* _i_ ~~s~~ `code`",
    "```",
    "a|b||c",
    "x\n\n# heading\n\n| a |\n|---|\n\n- [ ] item\n\n***",
    "x\n    code\n\n[^1]: foot\n[r]: http://x.invalid",
    '"];evil[label="',
    r"\N \G \E \T \H \L \n \l \r \\",
    "<<b>x</b>>",
    "<b>x</b>",
    "\\",
    "nul\x00 bell\x07 escape\x1b]0;title\x07\x1b[31m delete\x7f csi\x9b1m",
    "half \ud800 and \udfff, none \ufffe\uffff",
    "evil\u202egnp.exe\u2066",
    "one\u2028two\u2029three\x85four\x0bfive\r\nsix",
    "W" * 10_000,
    "9" * 10_000,
    "h(" + "9" * 5000 + ")",
    "W[" + "9" * 5000 + "]",
    "W[99999999999999999, 99999999999999999]",
    "h(99999999999999999)",
    "👩‍👩‍👧‍👦 漢字 שלום",
    "Z" + "\u0334\u0335\u0336\u0337" * 30,
    "_",
    "δ",
    "\xa0",
]
CONTROLS = ("Cc", "Cs", "Cn")


def displayed(text):
    """What a reader should see of a text: all that is visible of it, on one line."""
    text = " ".join(text.split())
    directions = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
    kept = (c for c in text if unicodedata.category(c) not in CONTROLS and c not in directions)
    shown, marks = "", 0
    for c in " ".join("".join(kept).split()):
        marks = marks + 1 if unicodedata.category(c) in ("Mn", "Me") else 0
        shown += c if marks <= 2 else ""  # more of them climb out of the line
    return shown


def rule_called(name):
    """An operation x², whose function has been given a name."""

    def square(m, x):
        return x * x

    square.__name__ = name
    return elementwise(lambda m, x, y: 2.0 * x, check=False)(square)


def scalars(text, *more):
    """A graph of Values; the names are those of the leaf, the scope, the results, the rule."""
    leaf, scope, inner, rule, root = more or [text] * 5
    with tb.scope(scope):
        w, x = tb.Value(-3.0, leaf), tb.Value(2.0, leaf, requires_grad=False)
        z = nn.named(w * x + tb.Value(1.5, inner), inner)
        y = nn.named(tb.tanh(rule_called(rule)(z)) * z + w, root)
    y.backward()
    return y, w


def arrays(text, *more):
    """The same of Tensors."""
    leaf, scope, inner, rule, root = more or [text] * 5
    rng = np.random.default_rng(0)
    with tb.scope(scope):
        W, b = tb.Tensor(rng.normal(size=(3, 2)), leaf), tb.Tensor(np.zeros(2), inner)
        x = tb.Tensor(rng.normal(size=(4, 3)), leaf, requires_grad=False)
        z = nn.named(x @ W + b, inner)
        a = nn.named(tb.tanh(rule_called(rule)(z)), inner)
        y = nn.named(tb.sum(a * a), root)
    y.backward()
    return y, W


def in_time(text):
    """Six steps of a recurrent network: the loss, its parameter, and the losses of the steps."""
    W, h = tb.Tensor(np.eye(2) / 2, text), tb.Tensor(np.ones((1, 2)), text, requires_grad=False)
    losses = []
    for t in range(1, 7):
        with tb.scope(text), tb.scope("step", t):
            h = nn.named(tb.tanh(h @ W + 0.1), text)
            losses.append(tb.sum(h * h))
    y = nn.named(sum(losses), text)
    y.backward()
    return y, W, losses


def network(text):
    """A Module whose class, whose part and whose parameter have the name."""
    part = type("Part", (nn.Module,), {})()
    part.weights = {text: tb.Tensor(np.ones((2, 1)), text)}
    name = text.replace("\0", "").encode("utf-8", "replace").decode()  # what Python allows
    whole = type(name, (nn.Module,), {})()
    whole.parts = {text: part}
    return whole
