"""`draw` and `Picture`: what a user calls, and what notebooks and files get."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from tinygrad_bp import Tensor, Value, no_grad
from tinygrad_bp.visualize import Picture, draw


@pytest.fixture
def picture():
    a = Value(2.0, label="a")
    return draw(a * a + 3.0 * a)


@pytest.mark.parametrize(
    "node",
    [
        Value(1.0),
        Value(1.0, label="x", requires_grad=False),
        Tensor([1.0, 2.0]),
        Tensor(3.0, requires_grad=False),
        Tensor(np.zeros((0, 3))),
    ],
)
def test_a_graph_of_one_node(node):
    ET.fromstring(draw(node).svg)


def test_result_without_history():
    with no_grad():
        y = Value(2.0) * 3.0
    assert "6" in draw(y).text


@pytest.mark.parametrize("bad", [1.0, None, "b", [Value(1.0)], np.ones(2)])
def test_node_of_another_type(bad):
    expected = f"node must be a Value or a Tensor, got {type(bad).__name__}"
    with pytest.raises(TypeError, match=expected):
        draw(bad)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"direction": "RL"}, ValueError, "direction must be one of LR, TB, got 'RL'"),
        ({"direction": 1}, TypeError, "direction must be a str, got int"),
        ({"theme": "blue"}, ValueError, "theme must be one of light, dark, got 'blue'"),
        ({"theme": None}, TypeError, "theme must be a str, got NoneType"),
        ({"max_nodes": 10.0}, TypeError, "max_nodes must be an int, got float"),
        ({"max_nodes": True}, TypeError, "max_nodes must be an int, got bool"),
        ({"max_nodes": 2}, ValueError, "3 nodes and constants, more than max_nodes=2"),
    ],
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        draw(Value(1.0) + Value(2.0), **options)


def test_drawing_changes_no_gradient():
    a = Value(2.0)
    b = a * a
    draw(b)
    assert a.grad is b.grad is None
    b.backward()
    draw(b)
    assert (a.grad, b.grad) == (4.0, 1.0)


def test_themes_and_directions_differ():
    b = Value(1.0) + Value(2.0)
    assert len({draw(b).svg, draw(b, theme="dark").svg, draw(b, direction="TB").svg}) == 3


# --- Picture ------------------------------------------------------------------------------------


def test_notebook_bundle(picture):
    bundle = picture._repr_mimebundle_()
    assert bundle == {"image/svg+xml": picture.svg, "text/plain": picture.text}
    assert picture._repr_mimebundle_(include=["text/plain"]) == {"text/plain": picture.text}
    assert picture._repr_mimebundle_(exclude={"text/plain"}) == {"image/svg+xml": picture.svg}
    assert picture._repr_mimebundle_(include=set(), exclude=set()) == bundle


def test_repr_is_the_listing(picture):
    assert repr(picture) == picture.text
    assert "a × a" in repr(picture)


def test_save(picture, tmp_path):
    for path in (tmp_path / "graph.svg", str(tmp_path / "GRAPH.SVG")):
        assert picture.save(path) == Path(path)
        assert Path(path).read_bytes() == picture.svg.encode("utf-8")
    assert sorted(os.listdir(tmp_path)) in (["GRAPH.SVG", "graph.svg"], ["graph.svg"])


def test_save_relative_path(picture, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert picture.save("graph.svg") == Path("graph.svg")
    assert (tmp_path / "graph.svg").exists()


@pytest.mark.parametrize("name", ["graph.jpg", "graph", "graph.svg.txt", ".svg"])
def test_save_under_another_ending(picture, tmp_path, name):
    with pytest.raises(ValueError, match=r"must end in \.svg, .*, got"):
        picture.save(tmp_path / name)
    assert not os.listdir(tmp_path)


def test_save_to_no_path(picture):
    with pytest.raises(TypeError, match="path: expected the path of a file, got int"):
        picture.save(3)


def test_save_to_a_missing_directory(picture, tmp_path):
    with pytest.raises(FileNotFoundError):
        picture.save(tmp_path / "missing" / "graph.svg")


def test_failed_save_leaves_the_old_file(picture, tmp_path, monkeypatch):
    path = tmp_path / "graph.svg"
    path.write_text("old")

    def fail(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        picture.save(path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["graph.svg"]


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
def test_save_through_a_link(picture, tmp_path):
    (tmp_path / "link.svg").symlink_to(tmp_path / "real.svg")
    picture.save(tmp_path / "link.svg")
    assert (tmp_path / "link.svg").is_symlink()
    assert (tmp_path / "real.svg").read_text(encoding="utf-8") == picture.svg


def test_other_processes_draw_the_same_bytes_without_graphviz(picture):
    program = (
        "import sys; from tinygrad_bp import Value; from tinygrad_bp.visualize import draw\n"
        "a = Value(2.0, label='a')\n"
        "sys.stdout.buffer.write(draw(a * a + 3.0 * a).svg.encode('utf-8'))\n"
        "assert 'graphviz' not in sys.modules"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, check=True
    )
    assert result.stdout == picture.svg.encode("utf-8")


def test_picture_is_made_of_text():
    assert Picture("<svg/>", "text").svg == "<svg/>"


def test_numbers_and_truth_values_may_be_numpys():
    x = Value(2.0, "x")
    plain = draw(x * x, max_nodes=4, fold=False, strip=False)
    assert draw(x * x, max_nodes=np.int64(4), fold=np.False_, strip=np.False_).text == plain.text
