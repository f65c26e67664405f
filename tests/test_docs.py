"""What the documentation shows is what happens."""

import contextlib
import doctest
import importlib
import io
import pkgutil
import re
from pathlib import Path

import numpy as np
import pytest
import repository

import tinygrad_bp as tb
from tinygrad_bp.nn import Module

MODULES = sorted(
    name
    for package in ("tinygrad_bp", "tinygrad_bp.visualize")
    for _, name, _ in pkgutil.walk_packages(
        importlib.import_module(package).__path__, package + "."
    )
)


NEEDS = {"tinygrad_bp.replay.kernels": "numba", "tinygrad_bp.replay.scalar_numba": "numba"}


def imported(name):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name], reason="what this engine needs is not installed")
    return importlib.import_module(name)


def readme():
    return repository.file("README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", readme(), re.S)


def test_the_readme_prints_what_it_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    printed, names = io.StringIO(), {}
    with contextlib.redirect_stdout(printed):
        for code in blocks("python"):
            exec(code, names)
    shown, got = "".join(blocks("text")).split(), printed.getvalue().split()
    assert len(shown) == len(got) > 10
    for expected, actual in zip(shown, got, strict=True):
        try:
            # One unit in the last digit shown: training is not bit-equal on all processors.
            number = float(expected.strip("[]"))
            assert float(actual.strip("[]")) == pytest.approx(number, abs=2e-4)
        except ValueError:
            assert actual == expected
    golden = repository.file("visualize/gallery/neuron.svg")
    assert (tmp_path / "neuron.svg").read_text() == golden.read_text()


def test_every_operation_is_exported_and_in_the_readme():
    inner = {"azmul", "contract", "scaled_sum", "scatter"}
    public = (tb.RULES.keys() | tb.ARRAY_RULES.keys()) - inner
    table = set(re.findall(r"\w+", readme().partition("## Operations")[2]))
    assert public - table == set()
    for name in public - {"getitem"}:
        assert getattr(tb, name) is (tb.RULES.get(name) or tb.ARRAY_RULES.get(name))


def test_there_are_two_commands_and_ci_calls_the_second():
    first, second = blocks("sh")
    assert first.count("\n") == second.count("\n") == 1
    assert first.rstrip().endswith("tinygrad-bp tour")
    assert second.rstrip().endswith("-m pytest")
    assert "grep -m1 'python -m pytest' README.md" in repository.file(".ci/run").read_text()
    assert len(repository.file(".github/workflows/ci.yml").read_text().splitlines()) <= 40


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name):
    module = imported(name)
    known = {"Value": tb.Value, "Tensor": tb.Tensor, "Module": Module, "np": np, "tb": tb}
    known["no_grad"], known["check_gradients"] = tb.no_grad, tb.check_gradients
    assert doctest.testmod(module, extraglobs=known).failed == 0


@pytest.mark.parametrize("name", MODULES)
def test_public_names_have_docstrings(name):
    module = imported(name)
    for key, thing in vars(module).items():
        if key.startswith("_") or getattr(thing, "__module__", None) != name:
            continue
        if name.endswith((".floats", ".arrays", ".kernels")) or key.endswith(("_dx", "_dy")):
            continue  # numpy's names; and partials and pullbacks, explained at their rule
        assert getattr(thing, "__doc__", None) or name.endswith("rules"), f"{name}.{key}"


def test_links_in_the_readme_lead_somewhere():
    for target in re.findall(r"\]\(([^)#:]+)\)", readme()):
        installed = Path(tb.__file__).parent.parent / target  # beside the package, its own files
        assert repository.file(target).exists() or installed.exists(), target


def test_the_security_policy_names_tests_and_commands_that_are_there():
    text = repository.file(".github/SECURITY.md").read_text(encoding="utf-8")
    paths = set(re.findall(r"`((?:tests|\.ci|\.github)/[\w./-]+|pyproject\.toml)", text))
    modules = set(re.findall(r"`python -m (tests[\w.]*)", text))
    assert len(paths) > 15
    assert modules == {"tests.fuzz", "tests.mutation"}
    paths |= {f"{module.replace('.', '/')}/__main__.py" for module in modules}
    kinds = re.findall(r"`python -m tests\.fuzz (\w+)", text)
    paths |= {f"tests/fuzz/{kind}.py" for kind in kinds}
    assert sorted(path for path in paths if not repository.file(path).exists()) == []


def cells():
    """The cells of `.ci/matrix` that texts call."""
    for text in (".github/SECURITY.md", ".github/CONTRIBUTING.md"):
        content = repository.file(text).read_text(encoding="utf-8")
        yield from re.findall(r"\.ci/matrix (\w+)", content)
    workflow = repository.file(".github/workflows/ci.yml").read_text(encoding="utf-8")
    for words in re.findall(r"cells: ([\w -]+)", workflow):
        yield from (word for word in words.split() if not word.startswith("-"))


def test_cells_of_the_matrix_are_called_by_their_names_and_all_of_them_by_ci():
    script = repository.file(".ci/matrix").read_text(encoding="utf-8")
    known = re.findall(r'"(\w+)"', re.search(r"^CELLS = \[(.*)\]$", script, re.M)[1])
    assert set(cells()) == set(known)


def test_the_workflow_may_only_read_and_ends_in_time():
    text = repository.file(".github/workflows/ci.yml").read_text(encoding="utf-8")
    assert re.findall(r"permissions:\n((?:  .*\n)+)", text) == ["  contents: read\n"]
    assert "secrets" not in text
    assert text.count("runs-on:") == text.count("timeout-minutes:") == 2
    used = re.findall(r"uses: (.*)", text)
    assert used
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", action) for action in used)
    assert text.count("actions/checkout@") == text.count("persist-credentials: false")
