"""The page about a loss: its parts, its numbers, and that nothing in it is alive."""

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

import tinygrad_bp as tb
from tinygrad_bp import nn
from tinygrad_bp.explain import through_time
from tinygrad_bp.visualize.report import heat_map, report

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"


def network():
    rng = np.random.default_rng(0)
    model = nn.MLP([3, 4, 2], ["tanh", "identity"], rng=0)
    return model, nn.squared_error(model(rng.normal(size=(5, 3))), rng.normal(size=(5, 2)))


def recurrent():
    net = nn.CharRNN(4, 3, rng=0)
    logits, _ = net(np.eye(4)[[0, 1, 2, 3]][:, None], net.cell.initial_state(1))
    return net, [nn.cross_entropy(o, np.array([1])) for o in logits]


def written(tmp_path, *args, **kwargs):
    return report(*args, tmp_path / "page.html", **kwargs).read_text(encoding="utf-8")


def test_the_page_has_every_part(tmp_path):
    model, loss = network()
    page = written(tmp_path, loss, title="My network")
    headings = re.findall(r"<h[12]>(.*?)</h[12]>", page)
    assert headings[0] == "My network"
    wanted = ["The graph", "The derivation", "Deltas", "Every use of every parameter"]
    assert [h for h in headings if h in wanted] == wanted
    assert "<math" in page
    assert "data:image/svg+xml;base64," in page
    assert f"The loss is {loss.item():.4g}." in page
    assert all(p.grad is None for p in model.parameters())


def test_the_losses_of_the_steps_give_a_table_over_time(tmp_path):
    net, losses = recurrent()
    page = written(tmp_path, sum(losses), losses=losses)
    table = through_time(losses, net.cell.W)
    for t in (2, 3, 4):
        for k in range(2, t + 1):
            norm = np.linalg.norm(table[t, k])
            assert f"<title>t = {t}, k = {k}: {norm:.4g}</title>" in page
    assert "<h3>V</h3>" in page


def test_a_heat_map_is_the_darker_the_larger_the_norm():
    norms = np.array([[1e-4, 0.0], [1e-2, 1.0]])
    mask = np.array([[True, False], [True, True]])
    squares = ET.fromstring(heat_map(norms, mask, (1, 2), (1, 2))).findall(
        "{http://www.w3.org/2000/svg}rect"
    )
    assert [float(square.get("fill-opacity")) for square in squares] == [0.1, 0.55, 1.0]
    places = [(float(square.get("x")), float(square.get("y"))) for square in squares]
    assert len(set(places)) == 3


def test_labels_are_inert_and_nothing_is_loaded(tmp_path):
    x = tb.Value(0.5, HOSTILE)
    page = written(tmp_path, tb.sin(x) * x, title=HOSTILE)
    assert "<script" not in page.lower()
    assert "<img src=x" not in page
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!data:image/svg\+xml;base64,)""", page)
    policy = re.search(r'Content-Security-Policy" content="(.*?)"', page)[1]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert " style=" not in page


def test_a_part_that_would_be_unreadable_says_so(tmp_path):
    x = y = tb.Value(0.1, "x")
    for _ in range(400):
        y = y * x + 1.0
    page = written(tmp_path, y)
    assert page.count('class="refused"') >= 1
    assert "more than max_nodes" in page


def test_what_is_no_loss_is_refused_and_nothing_is_written(tmp_path):
    path = tmp_path / "page.html"
    with pytest.raises(TypeError, match="report: loss must be a Value or a Tensor, got int"):
        report(3, path)
    with pytest.raises(ValueError, match=r"elements|number|shape"):
        report(tb.Tensor([1.0, 2.0]) * 2.0, path)
    with pytest.raises(ValueError, match=r"must end in \.html"):
        report(tb.Value(1.0) * 2.0, tmp_path / "page.pdf")
    with pytest.raises(ValueError, match="theme must be one of light, dark"):
        report(tb.Value(1.0) * 2.0, path, theme="pink")
    assert not path.exists()
