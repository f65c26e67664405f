"""Pages with hostile text in a real browser: nothing of it runs, loads or becomes an element.

And what stands behind that, should an escape ever be forgotten: the policy of every page.
"""

import re

import hostile
import inert
import pytest
from hostile import TEXTS, displayed

import tinygrad_bp as tb
from tinygrad_bp import explain, tour
from tinygrad_bp.cli import main
from tinygrad_bp.explain.tables import Table
from tinygrad_bp.tour import Page
from tinygrad_bp.visualize import draw, play
from tinygrad_bp.visualize.report import report

DRAWN = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><path d="M0 0h9v9z"/></svg>'
FRAME = {"html", "head", "meta", "title", "style", "body", "h1", "h2", "section", "header", "main"}


def mixed(k=0):
    """A graph with a different text in every place."""
    texts = (TEXTS[k:] + TEXTS[:k])[:15]
    leaves = [tb.Value(0.5 + i / 10, text) for i, text in enumerate(texts)]
    total = leaves[0]
    for leaf in leaves[1:]:
        total = total * leaf
    y, _ = hostile.scalars("", *texts[:5])
    return y + total


def write_player(folder):
    play(mixed(), folder / "page.html", title=TEXTS[1])


def write_player_in_time(folder):
    play(hostile.in_time(TEXTS[5])[0], folder / "page.html", title=TEXTS[4])


def write_report(folder):
    report(mixed(15), folder / "page.html", title=TEXTS[4])


def write_report_over_time(folder):
    y, _, losses = hostile.in_time(TEXTS[5])
    report(y, folder / "page.html", losses=losses, title=TEXTS[1], theme="dark")


def write_picture(folder):
    draw(mixed(30), heat_maps=True).save(folder / "page.html")


def write_tour(folder):
    page = Page(folder)
    page.heading(TEXTS[0])
    page.say(TEXTS[17])
    page.quote("\n".join(TEXTS[:36]))
    page.picture("a.svg", DRAWN, TEXTS[1])
    page.finish().rename(folder / "page.html")


WRITERS = [
    write_player,
    write_player_in_time,
    write_report,
    write_report_over_time,
    write_picture,
    write_tour,
]
written = pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__[6:])


ELEMENTS = """[...new Set([...document.querySelectorAll('*')].flatMap(
    (e) => [e.localName, ...e.getAttributeNames().map((name) => '@' + name)]))]"""


@written
def test_nothing_but_text(chrome, tmp_path, write):
    write(tmp_path)
    path = tmp_path / "page.html"
    chrome.open(path)
    assert chrome.run("window.bad") is None
    assert not [name for name, _ in chrome.events if name == "Page.javascriptDialogOpening"]
    assert chrome.complaints() == []
    outside = [url for url in chrome.requests() if not url.startswith("data:image/svg+xml;base64,")]
    assert {*outside} <= {path.as_uri(), (tmp_path / "a.svg").as_uri()}
    found = chrome.run(ELEMENTS)
    tags = {name for name in found if name[0] != "@"}
    own = inert.OF_PLAYER if "player" in write.__name__ else {"details", "summary", "a", "figure"}
    own = own | {"figcaption", "img", "svg"}
    assert tags <= FRAME | inert.TABLES | inert.MATHEMATICS | inert.SHAPES | own
    names = {name[1:] for name in found if name[0] == "@"}
    assert not [name for name in names if name.startswith(("on", "style", "xlink", "formaction"))]
    sources = chrome.run("[...document.querySelectorAll('[src],[href]')].map("
                         "(e) => e.getAttribute('src') || e.getAttribute('href'))")  # fmt: skip
    assert all(re.match(r"data:image/svg\+xml;base64,|a\.svg$", source) for source in sources)
    assert all(chrome.run("[...document.images].map((image) => image.naturalWidth)"))


@written
def test_labels_are_to_be_read(chrome, tmp_path, write):
    write(tmp_path)
    chrome.open(tmp_path / "page.html")
    text = " ".join(chrome.run("document.documentElement.textContent").split())
    planted = {"report": TEXTS[16], "report_over_time": TEXTS[5], "picture": TEXTS[31],
               "player": TEXTS[2], "player_in_time": TEXTS[5], "tour": TEXTS[17]}  # fmt: skip
    name = displayed(planted[write.__name__.removeprefix("write_")])
    start = name if "player" not in write.__name__ else name[:8]  # where names are cut
    assert start in text


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_picture_alone(chrome, tmp_path, theme):
    path = draw(mixed(), theme=theme).save(tmp_path / "graph.svg")
    chrome.open(path)
    assert chrome.run("window.bad") is None
    assert chrome.complaints() == []
    assert chrome.requests() == [path.as_uri()]
    assert {*chrome.run(ELEMENTS)} <= inert.SHAPES | {f"@{name}" for name in inert.OF_SHAPES}
    assert displayed(TEXTS[0]) in chrome.run("document.documentElement.textContent")


def test_tables_in_a_page_without_a_policy(chrome, tmp_path):
    """As in a notebook, which has none, and runs scripts."""
    parts = []
    named = [text for text in TEXTS if displayed(text)]
    for k, text in enumerate(named):
        parts.append(Table(text, [text, "n"], [(text, k)], [text]).html())
    y, w = hostile.scalars(TEXTS[0])
    parts += [explain.derive(y).html(), explain.why(y, w).html(), explain.deltas(y).html()]
    path = tmp_path / "page.html"
    path.write_text(f"<!doctype html><meta charset=utf-8><body>{''.join(parts)}", encoding="utf-8")
    chrome.open(path)
    assert chrome.run("window.bad") is None
    assert chrome.complaints() == []
    assert chrome.requests() == [path.as_uri()]
    rows = "[...document.querySelectorAll('table')].map((t) => t.querySelector('td').textContent)"
    shown = chrome.run(rows)[: len(named)]
    assert [" ".join(name.split()) for name in shown] == [displayed(text) for text in named]


# --- the policy ---------------------------------------------------------------------------------

# As an escape that was forgotten would let them in.
INTRUDERS = {
    "script-src-elem": "<script>window.bad=1</script>",
    "script-src-attr": "<p id=p onclick=window.bad=2></p><img src=x:y onerror=window.bad=3>",
    "img-src": "<img src=http://127.0.0.1:9/a.png>",
    "style-src-elem": "<style>body{background:url(http://127.0.0.1:9/b.png)}</style>"
    "<link rel=stylesheet href=http://127.0.0.1:9/c.css>",
    "style-src-attr": "<p style='background:url(http://127.0.0.1:9/d.png)'></p>",
    "frame-src": "<iframe src=http://127.0.0.1:9/e.html></iframe>",
    "object-src": "<object data=http://127.0.0.1:9/f.swf></object>",
    "base-uri": "<base href=http://127.0.0.1:9/>",
    "form-action": "<form id=f action=http://127.0.0.1:9/g><input name=x></form>",
    "media-src": "<audio src=http://127.0.0.1:9/h.mp3></audio>",
}
LISTEN = """document.violated = [];
document.addEventListener('securitypolicyviolation',
    (event) => document.violated.push(event.effectiveDirective));"""
ACT = """new Promise((done) => {
  document.addEventListener('securitypolicyviolation',
    (event) => event.effectiveDirective === 'form-action' && done());
  document.querySelector('#p').click();
  document.querySelector('#f').submit();
})"""


def intruded(chrome, path):
    """What has been violated on a page, when intruders have been written into it."""
    page = path.read_text(encoding="utf-8")
    assert page.count("</body>") == 1
    path.write_text(page.replace("</body>", "".join(INTRUDERS.values()) + "</body>"), "utf-8")
    listener = chrome.call("Page.addScriptToEvaluateOnNewDocument", source=LISTEN)
    chrome.open(path)
    chrome.run(ACT)
    chrome.call("Page.removeScriptToEvaluateOnNewDocument", identifier=listener["identifier"])
    return chrome.run("document.violated")


@written
def test_the_policy_keeps_intruders_from_acting(chrome, tmp_path, write):
    write(tmp_path)
    path = tmp_path / "page.html"
    assert {*intruded(chrome, path)} == {*INTRUDERS}
    assert chrome.run("window.bad") is None
    blocked = {
        what["requestId"]
        for name, what in chrome.events
        if name == "Network.loadingFailed" and what.get("blockedReason") == "csp"
    }
    for name, what in chrome.events:
        if name == "Network.requestWillBeSent" and "127.0.0.1" in what["request"]["url"]:
            assert what["requestId"] in blocked, what["request"]["url"]
    assert not [n for n, _ in chrome.events if n == "Network.requestWillBeSentExtraInfo"]


def test_without_a_policy_they_would_act(chrome, tmp_path):
    """So the test above could fail."""
    write_report(tmp_path)
    path = tmp_path / "page.html"
    page = path.read_text(encoding="utf-8")
    path.write_text(re.sub('<meta http-equiv="Content-Sec.*?>', "", page, count=1), "utf-8")
    page = path.read_text(encoding="utf-8")
    path.write_text(page.replace("</body>", f"{INTRUDERS['script-src-elem']}</body>"), "utf-8")
    chrome.open(path)
    assert chrome.run("window.bad") == 1


# --- what the commands write --------------------------------------------------------------------


def test_the_tour_says_what_a_text_holds(tmp_path, capsys):
    page = Page(tmp_path)
    page.say("escape \x1b]0;title\x07 half \ud800")
    page.quote("one  two\n\tthree \x1b[31m\n\ud800\u202efour")
    assert capsys.readouterr().out == ("escape ]0;title half\none  two\n        three [31m\nfour\n")
    assert "Content-Security-Policy" in page.finish().read_text(encoding="utf-8")
    assert tour.Page is Page


@pytest.mark.skipif("not __import__('sys').platform.startswith('linux')", reason="names as bytes")
def test_names_of_files_that_are_no_text(tmp_path, capsysbinary):
    file = tmp_path / "own.py"
    file.write_text("import tinygrad_bp as tb\ndef loss():\n    return tb.Value(2.0, 'x') * 3.0\n")
    out = tmp_path / "\udcff\x1b[31m<b>.html"
    assert main(["explain", f"{file}:loss", "--out", str(out)]) == 0
    assert out.exists()
    assert b"\x1b" not in capsysbinary.readouterr().out
    assert main(["explain", f"{out}:loss"]) == 2
    assert b"\x1b" not in capsysbinary.readouterr().err
