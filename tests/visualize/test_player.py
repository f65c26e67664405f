"""The player, as a user meets it: in a real browser, step by step."""

import json
import math
import re

import numpy as np
import pytest
from playing import HOSTILE, hostile, layers, neuron, recurrent
from test_svg import contrast

import tinygrad_bp as tb
from tinygrad_bp import Value, explain
from tinygrad_bp.text import number
from tinygrad_bp.visualize import play
from tinygrad_bp.visualize.page import POINTERS
from tinygrad_bp.visualize.svg import THEMES

GRAPHS = pytest.mark.parametrize("graph", [neuron, recurrent, layers], ids=lambda g: g.__name__)


# --- the page in the browser ----------------------------------------------------------------------


@pytest.fixture
def shown(chrome, tmp_path):
    """A function that opens the player of a graph; in the end nobody may have complained."""

    def opened(node, **options):
        play(node, tmp_path / "player.html", **options)
        chrome.open(tmp_path / "player.html")
        return chrome

    yield opened
    chrome.scripts(on=True)
    assert chrome.complaints() == []
    assert chrome.requests() == [(tmp_path / "player.html").as_uri()]


SNAPSHOT = """(() => {
  const all = (selector) => [...document.querySelectorAll(selector)];
  const box = (g) => Number(g.id.slice(1));
  return {
    count: document.querySelector("#count").textContent,
    now: all("#now p").map((p) => p.textContent),
    visited: all("#picture g.visited").map(box),
    lit: all("#picture g.lit").map(box),
    pending: all("#picture g.pending[role]").map(box),
    rows: Object.fromEntries(all("#sofar tbody tr").map((row) => [row.cells[0].textContent, {
      box: Number(row.dataset.box),
      data: [row.cells[1].textContent, row.cells[1].title],
      grad: [row.cells[2].textContent, row.cells[2].title],
      uses: row.cells[3].textContent,
      visited: row.classList.contains("visited"),
    }])),
    drawn: Object.fromEntries(all("#picture g[role] text[fill='COLOUR']").map(
      (t) => [box(t.parentNode), t.textContent])),
  };
})()""".replace("COLOUR", THEMES["light"]["gradient"])


def numbers_in(title):
    return [float(x) for x in re.findall(r"[-+.\d]+(?:e[-+]\d+)?|nan|inf", title)]


def shows(grad, expected):
    """Whether a cell shows a gradient, in few digits, and in full on hovering."""
    text, title = grad
    expected = np.asarray(expected)
    if expected.size <= 6:
        assert numbers_in(title) == expected.ravel().tolist()
        short = [float(x) for x in numbers_in(text.replace("−", "-"))]
        return short == [float(number(x)) for x in expected.ravel().tolist()]
    shape, _, sizes = title.partition("), ")
    assert numbers_in(shape) == list(expected.shape)
    norm, low, high = numbers_in(sizes.partition(", ")[2])
    assert norm == pytest.approx(math.sqrt((expected**2).sum()), rel=1e-14)
    return (low, high) == (expected.min(), expected.max())


@GRAPHS
def test_every_step_to_the_end_and_back(graph, shown):
    root = graph()
    sweep = list(tb.sweep(root))
    inner = sum(step.node.rule is not None for step in sweep)
    last = 1 + inner + len(sweep)
    page = shown(root)
    seen = [page.run(SNAPSHOT)]
    for _ in range(last):
        page.press("ArrowRight")
        seen.append(page.run(SNAPSHOT))
    assert [one["count"] for one in seen] == [f"{k} of {last}" for k in range(last + 1)]

    # Forwards: in the order of the program, and nothing has a gradient yet.
    program = [step.node for step in reversed(sweep) if step.node.rule is not None]
    for k, node in enumerate(program, 1):
        rows = seen[k]["rows"]
        assert seen[k]["visited"] == [rows[node.label]["box"]]
        assert seen[k]["now"][1].startswith(f"{node.label} = ")
        assert {row["grad"][0] for row in rows.values()} == {"–"}
        assert set(seen[k]["drawn"].values()) <= {"–", ""}
        pending = {rows[other.label]["box"] for other in program[k:]}
        assert set(seen[k]["pending"]) == pending
        assert shows(rows[node.label]["data"], np.asarray(node.data))
        assert all(rows[other.label]["data"][0] == "" for other in program[k:])

    # Backwards: as the engine sweeps.
    sofar, given = {}, {}
    for step, one in zip(sweep, seen[inner + 1 :], strict=False):
        sofar[step.node.label] = step.gradient
        for parent, _, share in step.edges:
            old = sofar.get(parent.label)
            sofar[parent.label] = share if old is None else old + share
            given[parent.label] = given.get(parent.label, 0) + 1
        assert one["visited"] == [one["rows"][step.node.label]["box"]]
        assert [name for name, row in one["rows"].items() if row["visited"]] == [step.node.label]
        assert len(one["lit"]) == len(step.edges)
        assert len(one["now"]) == 2 + len(step.edges)
        for name, row in one["rows"].items():
            if name not in sofar:
                assert row["grad"] == ["–", ""]
                continue
            assert shows(row["grad"], sofar[name]), (name, row, sofar[name])
            assert row["uses"].startswith(f"{given.get(name, '')}")
            if np.size(sofar[name]) == 1:
                in_box = one["drawn"][str(row["box"])].strip("[]\xa0")
                assert in_box == number(np.asarray(sofar[name]).item())
    assert sofar.keys() == seen[-1]["rows"].keys()

    for one in reversed(seen[:-1]):
        page.press("ArrowLeft")
        assert page.run(SNAPSHOT) == one


def test_the_numbers_of_a_neuron(shown):
    page = shown(neuron())
    page.press("End")
    rows = page.run(SNAPSHOT)["rows"]
    slope = 1.0 / math.cosh(0.7) ** 2
    expected = {"y": 1.0, "z": slope, "b": slope, "w": 2.0 * slope, "x": 0.5 * slope}
    for name, derivative in expected.items():
        assert float(rows[name]["grad"][1]) == pytest.approx(derivative, rel=1e-14)
        assert rows[name]["grad"][0] == number(float(rows[name]["grad"][1]))


# --- a node is asked for --------------------------------------------------------------------------


ASKED = """({
  title: document.querySelector("#asked h3")?.textContent ?? null,
  lines: [...document.querySelectorAll("#asked p")].map((p) => p.textContent),
  rows: [...document.querySelectorAll("#asked tbody tr")].map(
    (row) => [...row.cells].map((cell) => cell.textContent)),
  full: [...document.querySelectorAll("#asked tbody tr")].map(
    (row) => row.lastElementChild.firstElementChild.title),
  used: [...document.querySelectorAll("#picture g.used")].length,
  users: [...document.querySelectorAll("#picture g.user")].map(
    (g) => g.getAttribute("aria-label").split(",")[0]),
})"""


def box_of(page, name):
    return page.run(SNAPSHOT)["rows"][name]["box"]


def test_click_on_a_shared_weight(shown):
    loss = recurrent()
    page = shown(loss)
    page.click(f"#n{box_of(page, 'w')}")
    asked = page.run(ASKED)
    assert asked["title"] == "w leaf"
    assert asked["lines"][0] == "∂l(2)/∂w = ∂l(2)/∂a(2) · ∂a(2)/∂w + ∂l(2)/∂a(1) · ∂a(1)/∂w"
    assert asked["used"] == 2
    assert asked["users"] == ["a(1)", "a(2)"]
    # ∂L/∂w by hand: each step's share is δ(t) h(t−1)
    h0 = 0.2
    h1 = math.tanh(0.9 * h0 + 0.5)
    h2 = math.tanh(0.9 * h1 - 0.25)
    d2 = 2.0 * (h2 - 0.6) * (1 - h2**2)
    d1 = (2.0 * (h1 - 0.3) + 0.9 * d2) * (1 - h1**2)
    got = [float(x) for x in asked["full"]]
    assert got == pytest.approx([d2 * h1, d1 * h0], rel=1e-13)
    w = next(step.node for step in tb.sweep(loss) if step.node.label == "w")
    assert got == [float(c.contribution) for c in explain.contributions(loss, w)]
    assert [row[0] for row in asked["rows"]] == ["2", "1"]
    assert [row[1] for row in asked["rows"]] == ["a(2) multiply", "a(1) multiply"]
    shares = [number(x).replace("-", "−") for x in got]
    shares = [f"({x})" if x.startswith("−") else x for x in shares]
    assert asked["lines"][2] == f"= {' + '.join(shares)}"
    assert asked["lines"][3] == f"= {number(sum(got)).replace('-', '−')}"


@GRAPHS
def test_the_sum_of_every_node_is_its_gradient(graph, shown):
    root = graph()
    page = shown(root)
    for step in tb.sweep(root):
        page.click(f"#n{box_of(page, step.node.label)}")
        asked = page.run(ASKED)
        assert asked["title"].startswith(step.node.label)
        full = page.run("[...document.querySelectorAll('#asked p .num')].at(-1).title")
        text = page.run("[...document.querySelectorAll('#asked p .num')].at(-1).textContent")
        assert shows([text, full], step.gradient)
        uses = sum(parent is step.node for s in tb.sweep(root) for parent, *_ in s.edges)
        assert len(asked["rows"]) == asked["used"] == uses


def test_enter_and_escape(shown):
    page = shown(neuron())
    page.run(f"document.querySelector('#n{box_of(page, 'z')}').focus()")
    page.press("Enter")
    assert page.run(ASKED)["title"] == "z add"
    page.press("Escape")
    assert page.run(ASKED)["title"] is None
    assert page.run(ASKED)["used"] == 0
    page.press(" ")
    assert page.run(ASKED)["title"] == "z add"
    page.click("#asked button")
    assert page.run(ASKED)["title"] is None
    assert page.run("document.activeElement.id") == f"n{box_of(page, 'z')}"


# --- buttons and keys -----------------------------------------------------------------------------


def step_of(page):
    return int(page.run("document.querySelector('#count').textContent").split()[0])


def test_buttons(shown):
    page = shown(neuron())
    for button, step in [("next", 1), ("next", 2), ("back", 1), ("last", 10), ("next", 10)]:
        page.click(f"#{button}")
        assert step_of(page) == step
    page.click("#first")
    assert step_of(page) == 0
    page.click("#back")
    assert step_of(page) == 0
    page.run("document.querySelector('#next').focus()")
    page.press(" ")
    assert step_of(page) == 1
    assert "play" in page.run("document.querySelector('#play').textContent")
    page.press("ArrowLeft")
    page.run("document.querySelector('#seek').focus()")
    page.press("ArrowRight")
    assert step_of(page) == 1
    assert page.run("document.querySelector('#seek').getAttribute('aria-valuetext')") == (
        "step 1 of 10, forward"
    )


def test_home_and_end(shown):
    page = shown(neuron())
    page.press("End")
    assert step_of(page) == 10
    page.press("ArrowRight")
    assert step_of(page) == 10
    page.press("Home")
    assert step_of(page) == 0
    page.press("ArrowLeft")
    assert step_of(page) == 0


CHANGED = """new Promise((done) => {
  const look = () => {
    if (CONDITION) done(document.querySelector("#count").textContent);
    else setTimeout(look, 20);
  };
  look();
})"""


def wait_until(page, condition):
    return page.run(CHANGED.replace("CONDITION", condition))


def test_space_plays_and_pauses(shown):
    page = shown(neuron())
    page.run("document.querySelector('#speed').value = 5")
    page.press(" ")
    assert "pause" in page.run("document.querySelector('#play').textContent")
    wait_until(page, "document.querySelector('#count').textContent.startsWith('2 ')")
    page.press(" ")
    assert "play" in page.run("document.querySelector('#play').textContent")
    step = step_of(page)
    page.run("new Promise((done) => setTimeout(done, 800))")  # two steps would fit
    assert step_of(page) == step
    page.press(" ")
    wait_until(page, "document.querySelector('#play').textContent.includes('play')")
    assert step_of(page) == 10  # it stops at the end
    page.press(" ")
    assert step_of(page) == 0  # and begins again
    page.press("ArrowRight")
    assert "play" in page.run("document.querySelector('#play').textContent")


def test_the_order_of_the_focus(shown):
    page = shown(neuron())
    order = []
    for _ in range(20):
        page.press("Tab")
        order.append(page.run("document.activeElement.id || document.activeElement.tagName"))
    controls = ["first", "back", "play", "next", "last", "seek", "speed", "fit"]
    boxes = [f"n{i}" for i in range(6)]
    assert order[:8] == controls
    found = [one for one in order[8:] if one in boxes]
    assert found == boxes
    assert "SUMMARY" in order


def test_what_is_said_to_those_who_do_not_see(shown):
    page = shown(neuron())
    assert page.run("document.documentElement.lang") == "en"
    assert page.run("document.querySelector('#now').getAttribute('aria-live')") == "polite"
    w = box_of(page, "w")
    assert page.run(f"document.querySelector('#n{w}').getAttribute('aria-label')") == (
        "w, leaf, data 0.5"
    )
    unnamed = """[...document.querySelectorAll("button, select, input, [role]")].filter((e) =>
      !(e.getAttribute("aria-label") || e.textContent.trim() || e.labels?.length)).length"""
    assert page.run(unnamed) == 0


def test_nothing_moves_for_those_who_asked_for_it(shown):
    page = shown(neuron())
    still = [{"name": "prefers-reduced-motion", "value": "reduce"}]
    duration = "getComputedStyle(document.querySelector('#n0 rect')).transitionDuration"
    assert page.run(duration) == "0.2s"
    page.call("Emulation.setEmulatedMedia", features=still)
    assert page.run(duration) == "0s"
    page.call("Emulation.setEmulatedMedia", features=[])


@pytest.mark.parametrize("theme", THEMES)
def test_contrast(theme, shown):
    colours = {**THEMES[theme], **POINTERS[theme]}
    for behind in ("background", "raised"):
        for ink in ("text", "quiet", "gradient"):
            assert contrast(colours[ink], colours[behind]) >= 4.5, (ink, behind)
        for shape in ("visited", "asked"):
            assert contrast(colours[shape], colours[behind]) >= 3.0, (shape, behind)
    page = shown(neuron(), theme=theme)
    red, green, blue = (int(colours["background"][i : i + 2], 16) for i in (1, 3, 5))
    faint = "text => getComputedStyle(text).opacity * getComputedStyle(text.parentNode).opacity < 1"
    assert page.run(f"[...document.querySelectorAll('text')].filter({faint}).length") == 0
    assert page.run("getComputedStyle(document.body).backgroundColor") == (
        f"rgb({red}, {green}, {blue})"
    )


def long_on_the_way():
    """The sum of a gradient is short, and its parts are long."""
    a = Value(1.0, "a")
    return a * 0.123456 + a * 0.876544


# By how much a text leaves its box, or runs into the next one on its line.
EXCESS = """Math.max(...[...document.querySelectorAll("#picture g[role]")].flatMap((g) => {
  const r = g.querySelector("rect").getBBox();
  const texts = [...g.querySelectorAll("text")].filter((t) => t.textContent);
  const seen = texts.map((t) => t.getBBox());
  return seen.flatMap((b, i) => [r.x - b.x, b.x + b.width - r.x - r.width,
    ...seen.slice(i + 1).filter((c) => c.y === b.y).map((c) => b.x + b.width - c.x)]);
}))"""


@pytest.mark.parametrize(
    "graph", [neuron, recurrent, layers, long_on_the_way], ids=lambda g: g.__name__
)
def test_no_text_of_the_drawing_leaves_its_box(graph, shown):
    page = shown(graph())
    for _ in range(int(page.run("document.querySelector('#seek').max")) + 1):
        assert page.run(EXCESS) <= 0.5
        page.press("ArrowRight")


def test_what_is_visited_is_in_view(shown):
    page = shown(recurrent())
    hidden = """[["#picture g.visited", "#picture"], ["#sofar tr.visited", "#sofar"]].map(
      ([visited, frame]) => {
        const a = document.querySelector(visited)?.getBoundingClientRect();
        const b = document.querySelector(frame).getBoundingClientRect();
        return a ? Math.max(b.left - a.left, a.right - b.right, b.top - a.top) : 0;
      })"""
    scrolled = set()
    for _ in range(int(page.run("document.querySelector('#seek').max")) + 1):
        assert max(page.run(hidden)) <= 0
        scrolled.add(page.run("document.querySelector('#picture').scrollLeft"))
        page.press("ArrowRight")
    assert len(scrolled) > 1  # there was something to do


# --- scripts off, and scripts of others -----------------------------------------------------------


VISIBLE = """(selector) => [...document.querySelectorAll(selector)].filter(
  (e) => e.checkVisibility()).map((e) => e.textContent)"""


def test_scripts_off(shown, chrome):
    chrome.scripts(on=False)
    root = recurrent()
    page = shown(root)

    def visible(selector):
        return page.run(f"({VISIBLE})({json.dumps(selector)})")

    sweep = list(tb.sweep(root))
    assert visible("#controls, #now, #side, button") == []
    assert "Scripts are off" in visible("noscript")[0]
    steps = visible("#all tbody tr")
    assert len(steps) == 2 + sum(step.node.rule is not None for step in sweep) + len(sweep)
    assert len(visible("#sums section")) >= len(sweep)
    for step in sweep:
        shown_now = number(step.gradient).replace("-", "−")
        assert any(f"∂l(2)/∂{step.node.label} = {shown_now}" in row for row in steps)
    assert visible("#picture svg") != []


def test_hostile_labels_are_text(shown):
    page = shown(hostile(), title=HOSTILE[0])
    for _ in range(3):
        page.press("ArrowRight")
        page.click("#n0")
    page.press("End")
    assert page.run("window.bad") is None
    assert page.run("[document.images.length, document.scripts.length]") == [0, 2]
    assert page.run("document.title") == HOSTILE[0]
    assert page.run("document.querySelector('h1').textContent") == HOSTILE[0]
    assert page.run("document.querySelector('#asked') !== null")
    names = page.run("[...document.querySelectorAll('#sofar th bdi')].map((e) => e.textContent)")
    assert "<!--<script>" in names
    assert "{{data}}{{script}}" in names


def test_the_policy_holds(chrome, tmp_path):
    play(neuron(), tmp_path / "player.html")
    chrome.open(tmp_path / "player.html")
    chrome.run("""(() => {
      const script = document.createElement("script"), style = document.createElement("style");
      script.textContent = "window.bad = 1";
      style.textContent = "body { color: rgb(1, 2, 3) }";
      document.body.append(script, style);
      document.querySelector("h1").innerHTML = "<img src=x onerror='window.bad = 2'>";
    })()""")
    for url in ("data:text/plain,x", (tmp_path / "player.html").as_uri(), "http://localhost:9/"):
        fetched = f"fetch({json.dumps(url)}).then(() => 'sent', () => 'refused')"
        assert chrome.run(fetched) == "refused"
    assert chrome.run("window.bad") is None
    assert chrome.run("getComputedStyle(document.body).color") != "rgb(1, 2, 3)"
    refusals = [c for c in chrome.complaints() if "Content Security Policy" in json.dumps(c)]
    assert len(refusals) >= 5


def test_in_the_frame_of_a_notebook(chrome, tmp_path):
    frame = play(neuron())._repr_mimebundle_()["text/html"]
    (tmp_path / "notebook.html").write_text(f"<!doctype html><meta charset=utf-8>{frame}")
    chrome.open(tmp_path / "notebook.html")
    with chrome.frame():
        assert step_of(chrome) == 0
        chrome.run("document.querySelector('#next').click()")
        assert step_of(chrome) == 1
        assert "p = w · x = 0.5 · 2 = 1" in chrome.run("document.querySelector('#now').textContent")
        assert chrome.run("window.origin") == "null"  # it can reach nothing of the notebook
    assert chrome.complaints() == []
