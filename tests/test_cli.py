"""The command, as it is called; and the tour on real data, whole."""

import math
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from importlib.metadata import version

import pytest

import tinygrad_bp
from tinygrad_bp import datasets, tour
from tinygrad_bp.cli import main

LINE = "the quick brown fox jumps over the lazy dog, <b>&amp; again;\n"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("tour") / "made" / "here"
    pytest.importorskip("sklearn", reason="the tour needs the extra `data`")
    command = [sys.executable, "-W", "error", "-m", "tinygrad_bp.cli", "tour", "--out", str(out)]
    return subprocess.run(command, capture_output=True, text=True), out


def test_the_tour_reaches_its_targets(finished):
    run, _ = finished
    assert run.returncode == 0, run.stderr
    accuracy = float(re.search(r"([\d.]+)% of the 360 held-out", run.stdout)[1])
    assert accuracy >= 95.0
    start, end = re.search(r"from ([\d.]+) nats .* to ([\d.]+)", run.stdout).groups()
    symbols = int(re.search(r"(\d+) symbols", run.stdout)[1])
    assert float(start) == pytest.approx(math.log(symbols), abs=0.3)
    assert float(end) < 2.3
    assert run.stdout.count("derivatives agree") == 8
    assert "DISAGREE" not in run.stdout


def test_the_tour_shows_progress(finished):
    assert "digits: 100%" in finished[0].stderr
    assert "text: 100%" in finished[0].stderr


def test_the_page_holds_every_picture(finished):
    _, out = finished
    page = (out / "index.html").read_text(encoding="utf-8")
    pictures = re.findall(r'<img src="([^"]+)"', page)
    assert {p.name for p in out.iterdir()} == {*pictures, "index.html"}
    assert len(pictures) == 6
    for picture in pictures:
        assert ET.parse(out / picture).getroot().tag.endswith("svg")


def test_gradients_in_the_tour_are_those_of_the_formula(finished):
    # y = tanh(w1 x1 + w2 x2 + b) at w = (-0.5, 1.5), x = (2, -1), b = 3
    slope = 1.0 - math.tanh(0.5) ** 2
    shown = dict(re.findall(r"∂y/∂(\w+) = ([+-][\d.]+)", finished[0].stdout))
    expected = {"w1": 2 * slope, "w2": -slope, "x1": -0.5 * slope, "x2": 1.5 * slope, "b": slope}
    assert {k: float(v) for k, v in shown.items()} == pytest.approx(expected, abs=1e-6)


def test_a_text_of_the_readers_own(tmp_path):
    page = tour.Page(tmp_path)
    assert tour.train_text(page, datasets.encode(LINE * 200), "a <text>", steps=150)
    body = "".join(page.parts)
    assert "a &lt;text&gt;" in body
    assert "<b>" not in body
    assert ET.parse(tmp_path / "text.svg")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("short.txt", b"too short", "5,000 characters or more, got 9"),
        ("bytes.bin", b"\xff\xfe" * 5000, "expected UTF-8 text"),
        ("missing.txt", None, "missing.txt"),
    ],
)
def test_bad_data_is_refused_before_anything_is_written(tmp_path, capsys, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    out = tmp_path / "out"
    assert main(["tour", "--out", str(out), "--data", str(tmp_path / name)]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_a_directory_that_cannot_be_made(tmp_path, capsys):
    (tmp_path / "file").write_text("here already")
    assert main(["tour", "--out", str(tmp_path / "file")]) == 2
    assert "file" in capsys.readouterr().err


def test_without_scikit_learn_the_extra_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert main(["tour", "--out", str(tmp_path / "out")]) == 2
    assert "tinygrad_bp[data]" in capsys.readouterr().err


def test_help_and_version(capsys):
    for option in ("--help", "--version"):
        with pytest.raises(SystemExit) as end:
            main([option])
        assert end.value.code == 0
    assert "tour" in capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        main([])
    assert end.value.code == 2


def test_the_package_can_be_run():
    run = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tinygrad_bp", "--version"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert run.stdout.strip() == tinygrad_bp.__version__ == version("tinygrad_bp")


OWN = """
import tinygrad_bp as tb
def loss():
    x = tb.Value(0.5, "x")
    return tb.sin(x) * x
def losses():
    w = tb.Value(0.5, "w")
    h, made = w, []
    for t in (1, 2, 3):
        with tb.scope("step", t):
            h = tb.tanh(w * h)
            made.append(h * h)
    return made
number = 3
"""


@pytest.fixture
def own(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(OWN)
    return file


@pytest.mark.parametrize("name", ["loss", "losses"])
def test_explain_writes_a_page_about_a_function(own, tmp_path, name, capsys):
    out = tmp_path / "page.html"
    assert main(["explain", f"{own}:{name}", "--out", str(out)]) == 0
    page = out.read_text(encoding="utf-8")
    assert "The derivation" in page
    assert ("Through time" in page) == (name == "losses")
    assert str(out) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("number", "there is no function 'number'"),
        ("none", "there is no function"),
        ("", "expected FILE.py:function"),
    ],
)
def test_explain_says_what_it_expected(own, tmp_path, name, said, capsys):
    out = tmp_path / "page.html"
    assert main(["explain", f"{own}:{name}", "--out", str(out)]) == 2
    assert said in capsys.readouterr().err
    assert not out.exists()
