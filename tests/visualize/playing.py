"""Graphs to play, with a label on every node that has a gradient."""

import numpy as np

import tinygrad_bp as tb
from tinygrad_bp import Tensor, Value


def labelled(node, label):
    node.label = label
    return node


def neuron():
    w, x, b = Value(0.5, "w"), Value(2.0, "x"), Value(-0.3, "b")
    z = labelled(labelled(w * x, "p") + b, "z")
    return labelled(tb.tanh(z), "y")


def recurrent():
    """Two steps of h = tanh(w h + u x), with the loss of both."""
    w, u = Value(0.9, "w"), Value(0.5, "u")
    h, loss = Value(0.2, "h0"), Value(0.0, "l0")
    for t, (x, target) in enumerate([(1.0, 0.3), (-0.5, 0.6)], 1):
        with tb.scope("step", t):
            a, b = labelled(w * h, f"a({t})"), labelled(u * x, f"b({t})")
            h = labelled(tb.tanh(labelled(a + b, f"z({t})")), f"h({t})")
            e = labelled(labelled(h - target, f"d({t})") ** 2, f"e({t})")
            loss = labelled(loss + e, f"l({t})")
    return loss


def layers():
    """A network on arrays: the larger ones are shown by their sizes."""
    random = np.random.default_rng(0)
    x = Tensor(random.normal(size=(4, 2)), label="x", requires_grad=False)
    W, V = Tensor(random.normal(size=(2, 3)), label="W"), Tensor(np.ones((3, 1)), label="V")
    h = labelled(tb.sigmoid(labelled(x @ W, "z")), "h")
    y = labelled(labelled(h @ V, "o") ** 2.0, "q")
    return labelled(labelled(y.sum(), "s") * 0.5, "L")


HOSTILE = [
    '<img src=x onerror="window.bad = 1">',
    "</script><script>window.bad = 2</script>",
    "<!--<script>",
    "</title></style><svg onload='window.bad = 3'>",
    "{{data}}{{script}}",
    "\u2028\u2029]]>&lt;\u202e",
    "javascript:window.bad=4",
]


def hostile():
    leaves = [Value(float(i + 1), label) for i, label in enumerate(HOSTILE)]
    total = leaves[0]
    for leaf in leaves[1:]:
        total = total * leaf
    return labelled(total, HOSTILE[1])
