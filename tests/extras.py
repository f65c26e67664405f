"""What each extra is for, tried: `python extras.py [EXTRA ...]` names those that are installed.

What an extra is for works where it is installed; elsewhere it raises an ImportError that names it.
"""

import contextlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import tinygrad_bp as tb
from tinygrad_bp import datasets, nn, training
from tinygrad_bp.visualize import draw, plots

HERE = Path(__file__).parent
os.environ["JAX_ENABLE_X64"] = "1"  # jax reads it when it is imported


def model():
    return nn.MLP([2, 1], ["identity"], rng=0)


def parameters_in_files(folder):
    mine, theirs = model(), nn.MLP([2, 1], ["identity"], rng=1)
    training.save_model(mine, folder / "model.safetensors")
    training.load_model(theirs, folder / "model.safetensors")
    pairs = zip(mine.parameters(), theirs.parameters(), strict=True)
    return all(np.array_equal(p.data, q.data) for p, q in pairs)


def tables(folder):
    return len(datasets.iris()[0]) == 150 and len(datasets.digits()[0]) == 1797


def progress_bars(folder):
    with contextlib.redirect_stderr(io.StringIO()) as shown:
        return (
            list(training.progress(range(3), "three")) == [0, 1, 2] and "three" in shown.getvalue()
        )


def by(engine):
    def gradient(folder):
        step = tb.compile(lambda x: tb.tanh(x * x) + tb.erf(x), engine=engine)
        value, slope = step.value_and_grad(0.5)
        eager = tb.value_and_grad(step.f)(0.5)
        return np.allclose([value, slope], eager, rtol=1e-6)

    return gradient


def arrays_by_jax(folder):
    step = tb.compile(lambda x: (tb.softmax(x @ x.T) ** 2).sum(), engine="jax")
    x = np.linspace(-1.0, 1.0, 6).reshape(2, 3)
    return np.allclose(step.value_and_grad(x)[1], tb.grad(step.f)(x), rtol=1e-5)


def a_plot(folder):
    plots.curves({"loss": [1.0, 0.5, 0.2]}).save(folder / "plot.svg")
    return "</svg>" in (folder / "plot.svg").read_text(encoding="utf-8")


def layout_by_graphviz(folder):
    return "</svg>" in draw(tb.Value(2.0) * tb.Value(3.0), layout="dot").svg


def a_picture_as(kind, start):
    def save(folder):
        path = draw(tb.Value(2.0) * tb.Value(3.0)).save(folder / f"picture.{kind}")
        return path.read_bytes().startswith(start)

    return save


def a_notebook(folder):
    command = [sys.executable, HERE.parent / "notebooks" / "build.py", "01", "--into", folder]
    subprocess.run(command, check=True, capture_output=True)
    return (folder / "01_value_and_graph.ipynb").stat().st_size > 1000


def a_test(folder):
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", HERE / "test_value.py"]
    return subprocess.run(command, cwd=HERE.parent, capture_output=True, check=True).returncode == 0


USES = {
    "data": [parameters_in_files, tables, progress_bars],
    "jit": [by("numba")],
    "jax": [by("jax"), arrays_by_jax],
    "plots": [a_plot],
    "dot": [layout_by_graphviz],
    "png": [a_picture_as("png", b"\x89PNG"), a_picture_as("pdf", b"%PDF")],
    "notebooks": [a_notebook],
    "test": [a_test],
}
FROM_OUTSIDE = {"notebooks", "test"}  # nothing in the library asks for these
INSTEAD = {"dot": shutil.which("dot") is not None}  # what does as well


def names_it(extra, use, folder):
    """Whether a use without its extra says which one it needs."""
    try:
        use(folder)
    except ImportError as error:
        return f"tinygrad_bp[{extra}]" in str(error) and len(str(error)) <= 200
    return False


def main(installed):
    """Try all uses; raises SystemExit at the first that is not as it should be."""
    refused = 0
    for extra, uses in USES.items():
        for use in uses:
            with tempfile.TemporaryDirectory() as folder:
                if extra in installed:
                    if not use(Path(folder)):
                        raise SystemExit(f"{extra}: {use.__qualname__} does not work")
                elif extra not in FROM_OUTSIDE and not INSTEAD.get(extra):
                    if not names_it(extra, use, Path(folder)):
                        raise SystemExit(f"without {extra}: {use.__qualname__} does not name it")
                    refused += 1
    print(f"{', '.join(installed) or 'nothing'} works; {refused} uses name the extra they need")


if __name__ == "__main__":
    main(sys.argv[1:])
