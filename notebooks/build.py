"""Execute the sources in `src/` and write the notebooks beside them, the same bytes every time.

A notebook is its source, run. `python notebooks/build.py` builds all of them, `build.py 03 05` some
of them; with `--into DIRECTORY` elsewhere, to be compared. It needs the extra `notebooks`.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
SOURCES = HERE / "src"
LONGEST = 120  # seconds that one cell may take
# Python in the kernel: one thread of BLAS, so that sums are added up in the same order everywhere,
# and no bytecode. Pictures and prints must not depend on who runs this where.
SETTINGS = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    "JAX_PLATFORMS": "cpu",
}
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"file_extension": ".py", "mimetype": "text/x-python", "name": "python"},
}


def sources(numbers: list[str]) -> list[Path]:
    """The sources whose names begin with one of the numbers; all, if there are none."""
    found = sorted(SOURCES.glob("[0-9][0-9]_*.py"))
    chosen = [path for path in found if not numbers or path.name[:2] in numbers]
    missing = sorted(set(numbers) - {path.name[:2] for path in chosen})
    if missing:
        raise SystemExit(f"no source in {SOURCES} begins with {', '.join(missing)}")
    return chosen


def read(source: Path):
    """The notebook of a source: its cells, not yet run."""
    import jupytext

    notebook = jupytext.read(source, fmt="py:percent")
    notebook.metadata = METADATA
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for i, cell in enumerate(notebook.cells, 1):
        cell.id = f"cell-{i:02}"
        tags = cell.metadata.get("tags")
        cell.metadata = {"tags": tags} if tags else {}
    return notebook


def run(notebook) -> None:
    """Execute the cells in a fresh kernel, in this folder.

    Raises:
        CellExecutionError: a cell failed.
        ValueError: a cell wrote to stderr: a warning, which readers need not see.
    """
    from nbclient import NotebookClient

    os.environ.update(SETTINGS)
    client = NotebookClient(
        notebook,
        timeout=LONGEST,
        kernel_name="python3",
        resources={"metadata": {"path": str(HERE)}},
        record_timing=False,
        coalesce_streams=True,  # what is printed arrives in pieces, by chance
    )
    client.execute()
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":
                raise ValueError(f"{cell.id} wrote to stderr:\n{output.text}")
    notebook.metadata = METADATA  # without the version of Python


def build(source: Path, into: Path) -> Path:
    """Run one source and write its notebook.

    Returns:
        The path of the notebook.
    """
    import nbformat

    notebook = read(source)
    run(notebook)
    path = into / f"{source.stem}.ipynb"
    new = path.with_suffix(".part")
    new.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")
    os.replace(new, path)
    return path


def main(arguments: list[str] | None = None) -> None:
    """Build what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("numbers", nargs="*", metavar="NN", help="two digits; all, if none")
    parser.add_argument("--into", type=Path, default=HERE, help="the folder to write to")
    options = parser.parse_args(arguments)
    for source in sources(options.numbers):
        print(build(source, options.into))


if __name__ == "__main__":
    sys.exit(main())
