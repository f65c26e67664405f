"""`play` and `Player`: what a user calls, and what notebooks and files get."""

from html.parser import HTMLParser

import numpy as np
import pytest
from playing import hostile, neuron, recurrent

from tinygrad_bp import Value
from tinygrad_bp.visualize import Player, play


class Elements(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.found = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))


def test_one_file_that_refers_to_nothing():
    found = Elements(play(hostile()).html).found
    assert not {tag for tag, _ in found} & {"img", "link", "iframe", "object", "embed", "base", "a"}
    names = {name for _, attributes in found for name in attributes}
    assert not names & {"src", "href", "style", "xlink:href"}
    assert not [name for name in names if name.startswith("on")]
    policy = next(a["content"] for tag, a in found if tag == "meta" and "http-equiv" in a)
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy


def test_the_same_graph_gives_the_same_bytes():
    assert play(recurrent()).html == play(recurrent()).html


def test_save(tmp_path):
    player = play(neuron())
    assert isinstance(player, Player)
    path = player.save(tmp_path / "neuron.HTML")
    assert path.read_text(encoding="utf-8") == player.html
    play(neuron(), str(tmp_path / "other.html"))
    assert (tmp_path / "other.html").read_bytes() == path.read_bytes()
    with pytest.raises(ValueError, match=r"must end in \.html, got 'a\.svg'"):
        player.save(tmp_path / "a.svg")
    with pytest.raises(ValueError, match=r"must end in \.html"):
        play(neuron(), tmp_path / "a.svg")
    with pytest.raises(TypeError, match="path must be a str or a path, got int"):
        player.save(3)
    with pytest.raises(FileNotFoundError, match="there is no directory"):
        player.save(tmp_path / "missing" / "a.html")


def test_what_a_notebook_gets():
    player = play(neuron(), title='"quotes" & <angles>')
    bundle = player._repr_mimebundle_()
    assert bundle["text/plain"] == repr(player) == player.text
    ((tag, attributes),) = Elements(bundle["text/html"]).found
    assert tag == "iframe"
    assert attributes["sandbox"] == "allow-scripts"
    assert attributes["srcdoc"] == player.html
    assert attributes["title"] == '"quotes" & <angles>'
    assert player._repr_mimebundle_(include=["text/plain"]).keys() == {"text/plain"}
    assert player._repr_mimebundle_(exclude=["text/plain"]).keys() == {"text/html"}


@pytest.mark.parametrize("bad", [1.0, None, "b", [Value(1.0)], np.ones(2)])
def test_node_of_another_type(bad):
    expected = f"play: node must be a Value or a Tensor, got {type(bad).__name__}"
    with pytest.raises(TypeError, match=expected):
        play(bad)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"theme": "blue"}, ValueError, "play: theme must be one of light, dark, got 'blue'"),
        ({"theme": None}, TypeError, "play: theme must be a str, got NoneType"),
        ({"title": 1}, TypeError, "play: title must be a str, got int"),
        ({"max_nodes": 10.0}, TypeError, "play: max_nodes must be an int, got float"),
        ({"max_nodes": True}, TypeError, "play: max_nodes must be an int, got bool"),
        ({"max_nodes": 2}, ValueError, "play: .* 3 nodes and constants, more than max_nodes=2"),
    ],
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        play(Value(1.0) + Value(2.0), **options)


def test_nothing_is_written_of_what_cannot_be_played(tmp_path):
    with pytest.raises(ValueError, match="more than max_nodes"):
        play(neuron(), tmp_path / "a.html", max_nodes=2)
    assert list(tmp_path.iterdir()) == []
