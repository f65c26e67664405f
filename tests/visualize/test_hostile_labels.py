"""Text from anywhere stays text: in pictures, tables, formulas, Markdown, DOT and plots.

The pages are opened in a browser by `test_hostile_pages`.
"""

import json
import re
import warnings
import xml.etree.ElementTree as ET

import hostile
import inert
import numpy as np
import pytest
from hostile import TEXTS, displayed
from hypothesis import given, strategies as st

import tinygrad_bp as tb
from tinygrad_bp import explain
from tinygrad_bp.explain.derivation import _inert
from tinygrad_bp.explain.markup import escaped_latex
from tinygrad_bp.explain.tables import escaped
from tinygrad_bp.text import clean, clean_lines
from tinygrad_bp.training.history import History
from tinygrad_bp.visualize import draw, play
from tinygrad_bp.visualize.graphviz_layout import digraph
from tinygrad_bp.visualize.page import _json

ids = [f"{i}:{text[:12].encode('unicode_escape').decode()}" for i, text in enumerate(TEXTS)]
every_text = pytest.mark.parametrize("text", TEXTS, ids=ids)
few = TEXTS[::4]
GRAPHS = {"scalars": hostile.scalars, "arrays": hostile.arrays, "in time": hostile.in_time}
ANY = st.one_of(st.text(), st.sampled_from(TEXTS), st.lists(st.sampled_from(TEXTS)).map("".join))


def check(picture):
    """What is shown of a picture; everything it writes is inert."""
    root = inert.svg(picture.svg)
    page = inert.html(
        picture.html,
        {"html", "head", "meta", "title", "body", "details", "summary", "svg"},
        {"http-equiv", "charset", "lang"},
    )
    assert picture._repr_mimebundle_() == {"image/svg+xml": picture.svg, "text/plain": picture.text}
    assert not set(picture.text) & {"\x1b", "\x07", "\0", "\x9b", "\u202e"}
    picture.text.encode()
    assert "default-src 'none'" in page.elements[3][1]["content"]
    return root


# --- pictures -----------------------------------------------------------------------------------


@every_text
@pytest.mark.parametrize("kind", ["scalars", "arrays"])
def test_pictures_of_graphs(kind, text):
    y, _ = GRAPHS[kind](text)
    root = check(draw(y, heat_maps=True, show=("data", "grad", "local", "contribution")))
    name = re.escape(displayed(text))
    titles = "\n".join(inert.texts(root, "title"))
    assert re.search(name, titles)  # in full; on the box it may be cut
    check(draw(y, collapse=1, theme="dark", direction="TB", highlight=y))
    check(draw(y, shared="per use", max_nodes=12))


@pytest.mark.parametrize("text", few)
def test_pictures_in_time(text):
    y, _, _ = hostile.in_time(text)
    for options in ({"layout": "time"}, {"fold": True}, {"collapse": [text, "*/step(*)"]}):
        root = check(draw(y, **options))
        assert re.search(re.escape(displayed(text)), "\n".join(inert.texts(root, "title")))


@every_text
def test_pictures_of_modules(text):
    root = check(draw(hostile.network(text)))
    assert displayed(text) in "\n".join(inert.texts(root, "title"))


@pytest.mark.parametrize("text", few)
def test_players(text):
    y, _ = hostile.scalars(text)
    player = play(y, title=text)
    page = inert.html(player.html, inert.OF_PLAYER, inert.OF_CONTROLS)
    assert displayed(text) in page.text
    assert not set(player.text) & {"\x1b", "\x07", "\0", "\x9b", "\u202e"}


def test_the_name_of_a_rule_that_looks_like_a_hole_is_its_name():
    y = hostile.rule_called("{7} {0p} {y}")(tb.Value(3.0, "x"))
    assert "L = {7} {0p} {y}(x) = {7} {0p} {y}(3) = 9" in play(y).text


def test_pictures_of_programs():
    for text in TEXTS:
        rule = hostile.rule_called(text)
        compiled = tb.compile(lambda x, rule=rule: rule(x) * 2.0)
        check(draw(compiled.program(tb.Value(3.0))))


# --- tables -------------------------------------------------------------------------------------


def explanations(kind, text):
    """Every explanation that there is of a graph."""
    y, w, *losses = GRAPHS[kind](text)
    g = np.asarray(w.grad)
    yield explain.derive(y)
    yield explain.deltas(y)
    yield from explain.deltas(y)
    yield explain.contributions(y, w)
    yield explain.why(y)
    yield explain.why(y, w)
    yield explain.mistakes.museum(y)
    yield from explain.mistakes.museum(y)
    yield explain.compare(y, [(w, 1.5 * g)], deltas=[])
    if kind == "scalars":
        yield explain.paths(y, w)
    for found in losses:
        table = explain.through_time(found, w)
        yield table
        yield table.blocks(2)


@pytest.mark.parametrize(
    ("kind", "text"),
    [*((kind, text) for kind in ("scalars", "arrays") for text in TEXTS[::2])]
    + [("in time", text) for text in TEXTS[1::6]],
)
def test_tables_and_derivations(kind, text):
    for found in explanations(kind, text):
        page = inert.html(found.html())
        inert.no_mathematics(page)
        said = str(found)
        assert not set(said) & {"\x1b", "\x07", "\0", "\x9b", "\u202e"}
        said.encode()
        page.text.encode()


def test_a_name_is_shown_as_it_is():
    text = r"<b>x</b> $\alpha$ & &amp; \(y\)"
    y, w = hostile.scalars(text)
    for found in (explain.deltas(y), explain.why(y, w), explain.paths(y, w)):
        assert text in inert.html(found.html()).text
        assert text in str(found)


@every_text
def test_verdicts_are_found_by_the_name_that_was_given(text):
    if not displayed(text):
        return
    W = tb.Tensor(np.ones(2), text)
    y = tb.sum(tb.tanh(W) ** 2)
    y.backward()
    comparison = explain.compare(y, {text: 2.0 * W.grad})
    assert comparison[text].status == "different"
    inert.html(comparison.html())


@given(ANY)
def test_escaped_html_is_the_text(text):
    page = inert.html(escaped(text))
    assert page.text == clean(text)
    assert {tag for tag, _ in page.elements} <= {"span"}
    inert.no_mathematics(page)


@given(ANY)
def test_clean_text_is_what_is_displayed(text):
    # `clean` also joins letters with their marks, and drops marks of which there are too many.
    if text.isascii():
        assert clean(text) == displayed(text)
    lines = clean_lines(text)
    assert clean(lines) == clean(" ".join(text.splitlines()))
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202e]", lines)


@given(st.lists(st.tuples(ANY, st.floats(allow_nan=False) | ANY)).map(lambda x: [dict(x), x]))
def test_data_in_a_script_is_the_data(data):
    written = _json(data)
    assert json.loads(written) == json.loads(json.dumps(data))
    assert not set(written) & set("<>&\u2028\u2029")


# --- formulas -----------------------------------------------------------------------------------

# What stands for a character that means something to TeX.
SHOWN_AS = {
    r"\backslash{}": "\\", r"\{": "{", r"\}": "}", r"\$": "$", r"\&{}": "&", r"\#": "#",
    r"\%": "%", r"\_": "_", r"\wedge{}": "^", r"\sim{}": "~", r"\lt{}": "<", r"\gt{}": ">",
    r"\prime{}": "`", "~": " ", r"\ast{}": "*", r"\vert{}": "|", r"\lbrack{}": "[",
    r"\rbrack{}": "]", r"\mathord{!}": "!",
}  # fmt: skip
SIGN = re.compile("|".join(re.escape(sign) for sign in sorted(SHOWN_AS, key=len, reverse=True)))


@given(ANY)
def test_escaped_latex_is_the_text(text):
    written = escaped_latex(text)
    inert.latex(written)
    assert SIGN.sub(lambda sign: SHOWN_AS[sign[0]], written) == clean(text)


@every_text
@pytest.mark.parametrize("kind", ["scalars", "arrays"])
def test_latex_has_no_command_of_a_name(kind, text):
    inert.latex(explain.derive(GRAPHS[kind](text)[0]).latex())


@every_text
def test_markdown_as_renderers_read_it(text):
    mistune = pytest.importorskip("mistune", reason="reads Markdown")
    known = ["table", "url", "strikethrough", "footnotes", "task_lists", "math"]
    render = mistune.create_markdown(escape=False, plugins=known)
    for kind in ("scalars", "arrays"):
        written = explain.derive(GRAPHS[kind](text)[0])._repr_markdown_()
        check_source(written)
        check_markdown(render(written))


@pytest.mark.parametrize("text", few)
def test_markdown_as_notebooks_show_it(text):
    exporters = pytest.importorskip("nbconvert.filters", reason="shows notebooks")
    derived = explain.derive(hostile.arrays(text)[0])
    check_markdown(exporters.markdown2html(derived.markdown()))


def check_source(written):
    """Nothing outside of formulas and code that GitHub or Jupyter would make one, or a link."""
    rest = re.sub(r"^```\n.*?^```$", "", written, flags=re.DOTALL | re.MULTILINE)
    rest = re.sub(r"^\$\$\n.*?^\$\$$", "", rest, flags=re.DOTALL | re.MULTILINE)
    assert "$" not in rest
    assert not re.search(r"[\w.+-]@|https?://|www\.", rest)  # GFM, 6.9: extended autolinks


def check_markdown(written):
    """Headings, one list, formulas and code blocks, and no more."""
    page = inert.html(written, {"strong", "ul", "li", "code", "a"}, {"href", "id"})
    for tag, attributes in page.elements:
        if tag == "a":  # nbconvert's, beside a heading
            assert attributes["class"] == "anchor-link"
            assert attributes["href"].startswith("#")
    for string, around in page.strings:
        if "pre" not in around and not re.match(r"\s*(\$\$|\\\[)\s", string):
            assert string in ("$", "\\") or not set(string) & {"$", "\\"}, string
    formulas = [x for x, around in page.strings if re.match(r"\s*(\$\$|\\\[)\s", x)]
    for formula in formulas:
        inert.latex(re.sub(r"^\s*(\$\$|\\\[)|(\$\$|\\\])\s*$", "", formula))
    assert len(formulas) == sum(tag == "h3" for tag, _ in page.elements)


@given(ANY)
def test_markdown_of_a_text_is_the_text(text):
    mistune = pytest.importorskip("mistune", reason="reads Markdown")
    known = ["table", "url", "strikethrough", "footnotes", "math"]
    render = mistune.create_markdown(escape=False, plugins=known)
    check_source(_inert(text))
    page = inert.html(render(f"So: {_inert(text)}."))
    assert page.text.strip() == f"So: {clean(text)}."
    assert {tag for tag, _ in page.elements} <= {"p", "span"}
    inert.no_mathematics(page)


# --- DOT ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["scalars", "arrays"])
def test_dot_as_graphviz_reads_it(kind):
    pygraphviz = pytest.importorskip("pygraphviz", reason="reads DOT")
    pytest.importorskip("graphviz", reason="writes DOT")
    for text in TEXTS:
        if len(text) > 4000:  # beyond what Graphviz sets on one line
            continue
        picture = draw(GRAPHS[kind](text)[0])
        graph = pygraphviz.AGraph(string=digraph(picture.scene).source)
        assert len(graph.nodes()) == len(picture.scene.boxes)
        assert len(graph.edges()) == len(picture.scene.edges)
        assert {*graph.node_attr.keys()} <= {"label", "shape", "style", "tooltip"}


def test_labels_as_graphviz_draws_them():
    pygraphviz = pytest.importorskip("pygraphviz", reason="reads DOT")
    pytest.importorskip("graphviz", reason="writes DOT")
    short = [text for text in TEXTS if len(text) < 100]
    total = sum(tb.Value(1.0, text) for text in short)
    scene = draw(total).scene
    drawn = pygraphviz.AGraph(string=digraph(scene).source).draw(format="svg", prog="dot")
    root = ET.fromstring(drawn)
    assert {element.tag.removeprefix(inert.SVG) for element in root.iter()} <= {
        *("svg", "g", "title", "polygon", "path", "text", "a")
    }
    nodes = {}
    for group in root.iter(f"{inert.SVG}g"):
        if group.get("class") == "node":
            name = group.find(f"{inert.SVG}title").text
            nodes[name] = [x.text for x in group.iter(f"{inert.SVG}text")]
    assert len(nodes) == len(scene.boxes)
    for i, box in enumerate(scene.boxes):
        title = " ".join(filter(None, (box.label, box.symbol)))
        if title:
            assert nodes[f"n{i}"][0].replace("\xa0", " ") == title.replace("\xa0", " ")


# --- plots and listings -------------------------------------------------------------------------


@pytest.mark.parametrize("first", range(0, len(TEXTS), 12))
def test_plots(first):
    pytest.importorskip("matplotlib", reason="draws plots")
    from tinygrad_bp.visualize import plots

    names = [name for name in TEXTS[first : first + 12] if displayed(name)]
    history = {name: [1.0, 2.0] for name in names}
    for plot in (plots.curves(history, xlabel=names[0]), plots.gradients(history)):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font", UserWarning)
            warnings.filterwarnings("ignore", "Matplotlib currently does not support", UserWarning)
            root = ET.fromstring(plot.svg)
        tags = {x.tag.removeprefix(inert.SVG) for x in root.iter()}
        assert not tags & {"script", "a", "foreignObject", "iframe"}
        values = [(name, value) for x in root.iter() for name, value in x.attrib.items()]
        for name, value in values:
            assert not name.startswith("on")
            if name.endswith("href"):
                assert value.startswith(("#", "data:image/png;base64,"))
        shown = [" ".join("".join(x.itertext()).split()) for x in root.iter(f"{inert.SVG}text")]
        for name in names:
            assert any(label[:20] == displayed(name)[:20] for label in shown), name


def test_a_plot_of_a_table_over_time():
    pytest.importorskip("matplotlib", reason="draws plots")
    from tinygrad_bp.visualize import plots

    _, W, losses = hostile.in_time(r"$\frac{x")
    table = explain.through_time(losses, W)
    for plot in (plots.heat_map(table.blocks(2)), plots.norms_by_lag({"_a": table, "$x": table})):
        ET.fromstring(plot.svg)
    assert [t.get_text() for t in plot.figure.axes[0].get_legend().get_texts()] == ["_a", "$x"]


@every_text
def test_listings_for_the_terminal(text):
    y, w = hostile.scalars(text)
    model = hostile.network(text)
    history = History({text: [1.0, 2.0]})
    for said in (repr(history), repr(y), repr(w), repr(model)):
        assert not set(said) & {"\x1b", "\x07", "\0", "\x9b", "\u202e"}
    repr(history).encode()
    assert displayed(text) in repr(model)
