"""The direction of imports: every module has a layer, and imports nothing from above it."""

import ast
import itertools
import subprocess
import sys
from pathlib import Path

import pytest

import tinygrad_bp
import tinygrad_bp.visualize

PACKAGE = Path(tinygrad_bp.__file__).parent
VISUALIZE = Path(tinygrad_bp.visualize.__file__).parent

# From the bottom to the top. A name stands for a module, or for a package with all it contains.
LAYERS = [
    {"recording", "hooks", "interrupts", "text", "files", "arguments"},
    {"graph", "rules", "floats", "array_rules", "arrays"},
    {
        "inputs",
        "failures",
        "operators",
        "value",
        "numpy_protocol",
        "derivatives",
        "tensor",
        "scalars",
    },
    {"differentiable", "series"},
    {
        "nn",
        "optim",
        "containers",
        "evaluation",
        "calculus",
        "checkpointing",
        "check",
        "custom",
        "debugging",
        "counting",
    },
    {"explain", "training", "replay", "datasets"},
    {"__init__"},  # the table of contents
    {"visualize"},
    {"cli", "tour"},
    {"__main__"},
]
COMMANDS = {"cli", "tour"}
LAYER = {name: i for i, names in enumerate(LAYERS) for name in names}
# Ways of running a program that need a package of their own, and are imported when asked for.
ENGINES = {
    "replay.kernels": {"numba"},
    "replay.scalar_numba": {"numba"},
    "replay.jax_engine": {"jax"},
    "replay.jax_rules": {"jax"},
}
NO_NUMPY = {
    *("recording", "hooks", "interrupts", "text", "arguments", "graph", "rules", "floats", "value"),
}
ONLY_WHEN_ASKED_FOR = {
    "graphviz",
    "pygraphviz",
    "safetensors",
    "sklearn",
    "tqdm",
    "scipy",
    "matplotlib",
    "cairosvg",
    "numba",
    "jax",
}


def modules():
    """Every file of the package, by its dotted name below `tinygrad_bp`."""
    for folder, prefix in [(PACKAGE, ()), (VISUALIZE, ("visualize",))]:
        for file in sorted(folder.rglob("*.py")):
            *parents, name = (*prefix, *file.relative_to(folder).with_suffix("").parts)
            if name == "__main__" and parents:
                name = "cli"
            yield ".".join([*parents, name] if name != "__init__" or not parents else parents), file


FILES = dict(modules())
PACKAGES = {name for name, file in FILES.items() if file.stem == "__init__"}
every_module = pytest.mark.parametrize("name", sorted(FILES))


def type_checking_only(tree):
    """The nodes of `if TYPE_CHECKING:` blocks, which are not run."""
    blocks = [n for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.dump(n)]
    return {id(n) for block in blocks for statement in block.body for n in ast.walk(statement)}


def imports_of(name):
    """The absolute dotted names that a module imports, and whether at its top level."""
    tree = ast.parse(FILES[name].read_text(encoding="utf-8"))
    skipped = type_checking_only(tree)
    inside = {
        id(n)
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        for n in ast.walk(function)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = node.module or ""
            if node.level:
                path = ["tinygrad_bp", *(name.split(".") if name != "__init__" else [])]
                up = node.level - (name in PACKAGES)
                origin = ".".join([*path[: len(path) - up], *([origin] if origin else [])])
            targets = [f"{origin}.{alias.name}" for alias in node.names]
        else:
            continue
        for target in targets:
            yield target, id(node) not in inside


def resolve(target):
    """The module of ours that an import refers to, or None for somebody else's."""
    first, *rest = target.split(".")
    if first != "tinygrad_bp":
        return None
    for end in range(len(rest), 0, -1):
        if ".".join(rest[:end]) in FILES:
            return ".".join(rest[:end])
    return "__init__"


def ours(name):
    """The modules of ours that a module imports anywhere in its text."""
    found = {resolve(target) for target, _ in imports_of(name)} - {None, name}
    return {other for other in found if not name.startswith(other + ".")}


def room(name):
    return name.split(".")[0]


def layer(name):
    if room(name) not in LAYER:
        pytest.fail(f"{room(name)!r} is a new module: assign it a layer, in LAYERS of this file")
    return LAYER[room(name)]


def test_all_modules_are_found():
    assert {"__init__", "graph", "rules", "floats", "value"} <= set(FILES)


@every_module
def test_module_has_a_layer(name):
    assert layer(name) >= 0


@every_module
def test_imports_point_downwards(name):
    upwards = [other for other in ours(name) if layer(other) > layer(name)]
    if room(name) == "__init__":
        upwards = [other for other in upwards if other != "__init__"]
    assert not upwards, f"{name} imports {upwards} from a higher layer"


def test_there_is_no_cycle():
    above = {name: ours(name) for name in FILES}
    while leaves := {name for name, others in above.items() if not others}:
        above = {name: others - leaves for name, others in above.items() if name not in leaves}
    assert not above, f"modules that import each other: {above}"


@every_module
def test_only_the_command_line_imports_the_pictures(name):
    if room(name) == "visualize":
        return
    for target, top_level in imports_of(name):
        if room(resolve(target) or "") == "visualize" or target.split(".")[0] == "visualize":
            assert room(name) in COMMANDS, f"{name} imports {target}"
            assert not top_level, f"{name} imports the pictures outside a function"


@every_module
def test_optional_packages_are_imported_only_when_asked_for(name):
    top_level = {target.split(".")[0] for target, at_top in imports_of(name) if at_top}
    assert not (top_level & ONLY_WHEN_ASKED_FOR) - ENGINES.get(name, set())


@every_module
def test_the_engine_imports_numpy_and_the_standard_library_only(name):
    foreign = {target.split(".")[0] for target, at_top in imports_of(name) if at_top}
    foreign -= {"tinygrad_bp", "__future__"} | set(sys.stdlib_module_names)
    assert foreign <= {"numpy"} | ENGINES.get(name, set())


@every_module
def test_engines_with_needs_of_their_own_are_imported_late(name):
    early = {resolve(target) for target, at_top in imports_of(name) if at_top}
    assert name in ENGINES or not early & ENGINES.keys()


@pytest.mark.parametrize("name", sorted(NO_NUMPY))
def test_the_scalar_engine_names_no_numpy(name):
    assert "numpy" not in {target.split(".")[0] for target, _ in imports_of(name)}
    assert {room(other) for other in ours(name)} <= NO_NUMPY


WITHOUT_NUMPY = """
import sys, types
package = types.ModuleType("tinygrad_bp")
package.__path__ = [sys.argv[1]]
sys.modules["tinygrad_bp"] = package
sys.modules["numpy"] = None
from tinygrad_bp import graph, rules, value
x = value.Value(3.0)
y = rules.where(x > 0.0, rules.tanh(x) * 0.0 + x ** 2 + 2.0 / x, x)
y.backward()
print(y.data, x.grad, sum(1 for step in graph.sweep(y)) > 5)
"""


def test_the_scalar_engine_runs_without_numpy():
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_NUMPY, str(PACKAGE)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.stderr == ""
    data, grad, steps = run.stdout.split()
    assert float(data) == pytest.approx(9.0 + 2.0 / 3.0, rel=1e-15)
    assert float(grad) == pytest.approx(6.0 - 2.0 / 9.0, rel=1e-15)
    assert steps == "True"


def test_importing_the_package_imports_no_optional_package():
    run = subprocess.run(
        [sys.executable, "-c", "import sys, tinygrad_bp; print(*sys.modules)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    loaded = {name.split(".")[0] for name in run.stdout.split()}
    assert not loaded & ONLY_WHEN_ASKED_FOR


def test_layers_do_not_overlap():
    assert all(not a & b for a, b in itertools.combinations(LAYERS, 2))
