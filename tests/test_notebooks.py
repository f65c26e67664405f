"""The notebooks: each runs, says what it said when it was written, and is its source's pair."""

import importlib.util
import json
import re
import subprocess
import sys

import pytest
import repository

for _package in ("jupytext", "nbclient", "ipykernel", "sklearn", "matplotlib"):
    if importlib.util.find_spec(_package) is None:
        pytest.skip(f"{_package} is missing: the extra notebooks", allow_module_level=True)

FOLDER = repository.file("notebooks")
SOURCES = sorted((FOLDER / "src").glob("*.py"))
# What a notebook needs beyond the extra's common part, by its number.
NEEDS = {"10": ("numba", "jax"), "11": ("numba", "jax")}

every_notebook = pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)


def loaded(path):
    return json.loads(path.read_text(encoding="utf-8"))


def text_of(lines):
    return lines if isinstance(lines, str) else "".join(lines)


def pair_of(source):
    return loaded(FOLDER / f"{source.stem}.ipynb")


@pytest.fixture(scope="module")
def build():
    spec = importlib.util.spec_from_file_location("build_notebooks", FOLDER / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- outputs that say the same -------------------------------------------------------------------

NOISE = 1e-10  # what rounding leaves of 0: differences by hand, and central differences
NUMBER = re.compile(r"(?<![\w#])[-+−]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")
# matplotlib's names of shapes are checksums of their coordinates.
IDENTIFIERS = re.compile(r'(?:id="|href="#|url\(#)[\w-]+')


def unit(number):
    """One in the last digit that a number shows."""
    mantissa, _, exponent = number.partition("e")
    return 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))


def value(number):
    return float(number.replace(",", "").replace("−", "-"))


def is_alike(old, new, slack=0.0):
    """The same words, and the same numbers but for one in the last digit shown.

    Training adds up the same numbers in another order on another processor: the last digits of
    what comes of it differ.
    """
    old, new = IDENTIFIERS.sub("", old), IDENTIFIERS.sub("", new)
    if NUMBER.sub("0", old).split() != NUMBER.sub("0", new).split():
        return False
    pairs = zip(NUMBER.findall(old), NUMBER.findall(new), strict=True)
    return all(abs(value(a) - value(b)) <= max(1.01 * unit(a), slack, NOISE) for a, b in pairs)


def outputs_of(cell):
    """What a cell shows: kind and text of each part, in order."""
    for output in cell.get("outputs", []):
        if "text" in output:
            yield output["name"], text_of(output["text"])
        for kind, content in sorted(output.get("data", {}).items()):
            yield kind, text_of(content)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("loss 0.1234", "loss 0.1235", True),
        ("loss 0.1234", "loss 0.1236", False),
        ("loss 0.1234", "cost 0.1234", False),
        ("1.5e-07 and 2", "1.6e-07 and 2", True),
        ("1.5e-07 and 2", "1.5e-07 and 4", False),
        ("difference 6.9e-18", "difference 0", True),
        ("1,797 images", "1,797 images", True),
        ('<path id="m1a"/>', '<path id="m2b"/>', True),
        ("[1 2]", "[1 2 3]", False),
    ],
)
def test_outputs_are_compared_as_they_are_read(old, new, expected):
    assert is_alike(old, new) is expected


# --- the notebooks -------------------------------------------------------------------------------


@every_notebook
def test_source_and_notebook_are_a_pair(source, build):
    expected = [(c.cell_type, c.source, c.metadata.get("tags")) for c in build.read(source).cells]
    cells = pair_of(source)["cells"]
    found = [(c["cell_type"], text_of(c["source"]), c["metadata"].get("tags")) for c in cells]
    assert found == expected, f"run: python notebooks/build.py {source.name[:2]}"


def test_every_notebook_has_a_source():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == {path.stem for path in SOURCES}


@every_notebook
def test_outputs_are_those_of_a_fresh_run(source, tmp_path):
    for package in NEEDS.get(source.name[:2], ()):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is missing: the extra notebooks")
    command = [sys.executable, str(FOLDER / "build.py"), source.name[:2], "--into", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    fresh = loaded(tmp_path / f"{source.stem}.ipynb")["cells"]
    for old, new in zip(pair_of(source)["cells"], fresh, strict=True):
        if "measured" in old["metadata"].get("tags", []):
            continue
        shown, again = list(outputs_of(old)), list(outputs_of(new))
        assert [kind for kind, _ in shown] == [kind for kind, _ in again], old["id"]
        for (kind, before), (_, after) in zip(shown, again, strict=True):
            slack = 1.0 if "svg" in before[:400] else 0.0  # a point, of a picture's coordinates
            assert is_alike(before, after, slack), f"{old['id']}, {kind}:\n{before}\n{after}"


@every_notebook
def test_notebooks_are_small_and_quiet(source):
    notebook = pair_of(source)
    assert (FOLDER / f"{source.stem}.ipynb").stat().st_size < 1_500_000
    assert notebook["metadata"].keys() == {"kernelspec", "language_info"}
    for cell in notebook["cells"]:
        assert cell["metadata"].keys() <= {"tags"}
        for kind, content in outputs_of(cell):
            assert kind != "stderr"
            assert not kind.startswith("image/") or kind == "image/svg+xml"
            assert "<script" not in content
            assert " at 0x" not in content, f"{cell['id']} shows an address"
            assert len(content.splitlines()) <= 70 or "svg" in kind, cell["id"]


@every_notebook
def test_each_ends_with_exercises_and_folded_solutions(source):
    cells = [text_of(c["source"]) for c in pair_of(source)["cells"]]
    (start,) = [i for i, text in enumerate(cells) if text.startswith("## Exercises")]
    after = "\n".join(cells[start:])
    assert after.count("<details>") == after.count("</details>") >= 1
    assert "compare(" in after
    assert 15 <= len(cells) <= 45


def is_there(target):
    """Whether a link leads somewhere; that to a later notebook may be ahead of it."""
    later = target[:2].isdigit() and target[:2] > SOURCES[-1].name[:2]
    return later or (FOLDER / target).exists()


def test_links_lead_somewhere_and_the_table_of_contents_has_every_notebook():
    contents = (FOLDER / "README.md").read_text(encoding="utf-8")
    texts = [contents, *(path.read_text(encoding="utf-8") for path in SOURCES)]
    for target in re.findall(r"\]\(([\w./-]+\.(?:ipynb|md))\)|\]\((src)\)", "\n".join(texts)):
        assert is_there("".join(target)), target
    for source in SOURCES:
        assert f"({source.stem}.ipynb)" in contents
