"""Whether a picture, a page or a formula is nothing but itself: read by real parsers."""

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

SVG = "{http://www.w3.org/2000/svg}"
SHAPES = {"svg", "g", "rect", "path", "circle", "text", "title", "polyline"}
OF_SHAPES = {
    *("width", "height", "viewBox", "role", "aria-label", "font-family", "font-size", "id"),
    *("x", "y", "rx", "cx", "cy", "r", "d", "points", "fill", "stroke", "stroke-width", "opacity"),
    *("stroke-dasharray", "text-anchor", "font-weight", "textLength", "lengthAdjust"),
    *("fill-opacity", "xmlns"),
}
OF_DATA = {"aria-label", "title", "alt", "content"}  # attributes that may hold any text
MATHEMATICS = {
    *("math", "mrow", "mi", "mo", "mn", "mtext", "msub", "msup", "msubsup", "mfrac", "msqrt"),
    *("mtable", "mtr", "mtd", "munder", "munderover", "mspace"),
}
TABLES = {
    *("table", "caption", "thead", "tbody", "tr", "th", "td", "p", "pre", "h3", "h4", "div"),
    *("small", "span"),
}
OF_TABLES = {"align", "colspan", "scope", "form", "displaystyle", "columnalign", "width", "class"}
OF_PLAYER = {
    *("html", "head", "meta", "title", "style", "body", "header", "main", "section", "h1"),
    *("noscript", "button", "label", "output", "select", "option", "details", "summary", "bdi"),
    *("script", "input"),
}
OF_CONTROLS = {
    *("lang", "charset", "http-equiv", "name", "hidden", "for", "type", "min", "value", "open"),
    *("selected", "aria-pressed", "aria-live", "aria-atomic", "tabindex"),
}
VOID = {"meta", "img", "br", "input", "hr", "link", "base"}
COMMANDS = {
    *("providecommand", "lt", "gt", "paragraph", "begin", "end", "frac", "mathrm", "operatorname"),
    *(
        "delta",
        "theta",
        "partial",
        "sum",
        "odot",
        "top",
        "quad",
        "tanh",
        "backslash",
        "wedge",
        "sim",
    ),
    *("prime", "ast", "vert", "Vert", "lbrack", "rbrack", "mathord", "cdot", "ldots", "left"),
    *("right", "sqrt", "tau", "mathbf", "text", "hat", "sigma", "ge", "le"),
    *("\\", "{", "}", "$", "&", "#", "%", "_", ",", "[", "]"),
}


def svg(picture):
    """The root of a picture that consists of shapes and texts alone."""
    assert not re.search(r"<!|<\?", picture), "declarations"
    root = ET.fromstring(picture.encode("utf-8"))
    for element in root.iter():
        assert element.tag.removeprefix(SVG) in SHAPES, element.tag
        for name, value in element.attrib.items():
            assert name in OF_SHAPES, name
            if name not in OF_DATA:
                assert re.fullmatch(r"[\w#.,:/ ()'-]*", value), (name, value)
                assert "url" not in value
                assert ":" not in value
    return root


def texts(root, tag):
    return [element.text or "" for element in root.iter(f"{SVG}{tag}")]


class _Page(HTMLParser):
    """What a piece of HTML consists of.

    Attributes:
        elements: tag and attributes of each, in order.
        strings: each piece of text between two tags, with the elements around it.
    """

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.strings, self.open = [], [], []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.strings.append(("", ()))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> of nothing"
        assert self.open.pop() == tag
        self.strings.append(("", ()))

    def handle_data(self, data):
        before, around = self.strings[-1] if self.strings else ("", ())
        self.strings[-1:] = [(before + data, tuple(self.open) or around)]

    def handle_comment(self, data):
        raise AssertionError(f"a comment: {data!r}")

    def unknown_decl(self, data):
        raise AssertionError(f"a declaration: {data!r}")

    def handle_pi(self, data):
        raise AssertionError(f"an instruction: {data!r}")

    def handle_decl(self, decl):
        assert decl == "doctype html"

    @property
    def text(self):
        return "".join(text for text, _ in self.strings)


def html(piece, tags=frozenset(), attributes=frozenset()):
    """A piece of HTML, of tables and formulas alone, and of the tags and attributes named."""
    page = _Page(piece)
    shapes = {name.lower() for name in OF_SHAPES}
    for tag, given in page.elements:
        assert tag in TABLES | MATHEMATICS | SHAPES | tags, tag
        for name, value in given.items():
            assert name in OF_TABLES | OF_DATA | shapes | attributes, (tag, name)
            if name in ("src", "href"):
                assert re.match(r"data:image/svg\+xml;base64,[\w+/=]*$|[\w-]+\.svg$|#", value), (
                    value
                )
            elif name not in OF_DATA | {"xmlns"}:
                assert ":" not in (value or ""), (name, value)
    return page


def no_mathematics(page):
    """Assert that MathJax finds nothing to set: its delimiters cannot reach over a tag.

    https://docs.mathjax.org/en/latest/options/document.html (skipHtmlTags, includeHtmlTags)
    """
    for text, around in page.strings:
        if not set(around) & {"pre", "code", "math", "script", "style"}:
            assert text in ("$", "\\") or not set(text) & {"$", "\\"}, text


def latex(formula):
    """Check a formula: all commands are ours, and every group is closed."""
    formula = re.sub(r"\\providecommand\{\\[lg]t\}\{[<>]\}\n", "", formula)
    assert not re.search(r"\^\^|[\x00-\x09\x0b-\x1f]", formula), "characters in code"
    commands = re.findall(r"\\([A-Za-z]+|.)", formula, re.DOTALL)
    letters = {c for c in commands if c not in COMMANDS and not c.startswith("\n")}
    assert not letters, letters
    bare = re.sub(r"\\([A-Za-z]+|.)", " ", formula, flags=re.DOTALL)
    assert not set(bare) & set("$#%`~<>|*\\") - {"~"}, bare
    depth = 0
    for c in bare:
        depth += (c == "{") - (c == "}")
        assert depth >= 0, "a group ends that did not begin"
    assert depth == 0, "a group does not end"
    environments = re.findall(r"\\(begin|end)\{(\w+)\}", formula)
    assert {name for _, name in environments} <= {"aligned", "cases"}
