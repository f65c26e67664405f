"""The pictures in a real browser: with its fonts, every text stays in its box."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest

import tinygrad_bp as tb
from tinygrad_bp import nn
from tinygrad_bp.visualize import draw

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
OPTIONS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--virtual-time-budget=2000",
    "--dump-dom",
]
# For each text, the smallest box that holds its middle, and by how much the text sticks out of it.
MEASURE = """<script>
const boxes = [...document.querySelectorAll("rect")].map(r => r.getBBox());
const out = [...document.querySelectorAll("text")].map(t => {
  const b = t.getBBox(), x = b.x + b.width / 2, y = b.y + b.height / 2;
  const holds = r => r.x <= x && x <= r.x + r.width && r.y <= y && y <= r.y + r.height;
  const around = boxes.filter(holds);
  around.sort((p, q) => p.width * p.height - q.width * q.height);
  const r = around[0];
  return [t.textContent, Math.max(r.x - b.x, b.x + b.width - r.x - r.width)];
});
document.body.innerHTML = "<pre>" + JSON.stringify(out).replace(/[<&]/g, "") + "</pre>";
</script>"""


def neuron():
    y = tb.tanh(tb.Value(-0.123456, "a rather long name") * tb.Value(2e-9, "x") + 1e300)
    y.backward()
    return y


def network():
    model = nn.MLP([2, 3, 1], rng=0).scalar_view()
    loss = nn.squared_error(model(np.array([[1.0, -0.5]])), np.array([[1.0]]))
    loss.backward()
    return loss


def arrays():
    model = nn.MLP([2, 3, 1], "sigmoid", rng=0)
    loss = nn.squared_error(model(np.array([[1.0, -0.5]])), np.array([[1.0]]))
    loss.backward()
    return loss


def unrolled():
    cell = nn.LSTMCell(1, 2, rng=0)
    states = nn.unroll(cell, np.ones((9, 1)), cell.initial_state())
    loss = tb.sum(states[-1][0])
    loss.backward()
    return loss


def collapsed():
    model = nn.MLP([12, 30, 20, 3], rng=0).scalar_view()
    loss = nn.squared_error(model(np.ones((1, 12))), np.ones((1, 3)))
    loss.backward()
    return loss


@pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium browser")
@pytest.mark.parametrize(
    "graph", [neuron, network, arrays, unrolled, collapsed], ids=lambda graph: graph.__name__
)
def test_no_text_leaves_its_box(graph, tmp_path):
    page = tmp_path / "page.html"
    page.write_text(
        f"<!doctype html><meta charset=utf-8><body>{draw(graph(), fold=True).svg}{MEASURE}"
    )
    command = [CHROMIUM, *OPTIONS, f"--user-data-dir={tmp_path / 'profile'}", page.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    texts = json.loads(re.search(r"<pre>(.*)</pre>", dom, re.S)[1].replace("&gt;", ">"))
    assert len(texts) > 10
    assert [text for text, excess in texts if excess > 0.5] == []
