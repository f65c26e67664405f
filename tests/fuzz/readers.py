"""How every kind of file is read, and what has to hold of what was read.

What was read is whole: saved again and read again it is the same, and a program runs.
"""

import importlib.util
import json
import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import tinygrad_bp as tb
from tinygrad_bp import datasets, replay
from tinygrad_bp.training.checkpoint import FORMAT, read_checkpoint, write_checkpoint

from . import Mismatch
from .real_files import DATA, MODELS, content_of, folder, fresh_run, idx, packed

WORK = 10**7  # numbers in a program that is run


class Reader:
    """How a kind of file is read, and what has to hold of what was read."""

    names_file = True

    def __init__(self, which: str) -> None:
        self.kind = next(kind for kind, reader in READERS.items() if reader is type(self))
        self.which = which
        self.found: Any = None

    def path(self, path: Path) -> Path:
        """Where the file has to be."""
        return path

    def files(self, path: Path) -> list[Path]:
        """All files that are there then."""
        return [path]

    def state(self) -> Any:
        """What must not change if the file is refused."""
        return None

    def read(self, path: Path) -> None:
        """Read it."""
        raise NotImplementedError

    def check(self, path: Path, tally: Any) -> None:
        """What has been read: again it is the same."""
        first = _bits(self.found)
        self.read(path)
        if _bits(self.found) != first:
            raise Mismatch("read again, it is something else")


def _bits(x: Any) -> Any:
    """What is equal only for the same numbers of the same types."""
    if isinstance(x, np.ndarray):
        return x.dtype.str, x.shape, x.tobytes()
    if isinstance(x, (list, tuple)):
        return [_bits(part) for part in x]
    if isinstance(x, dict):
        return sorted((repr(name), _bits(part)) for name, part in x.items())
    return repr(x)


class Model(Reader):
    """Parameters."""

    def __init__(self, which: str) -> None:
        super().__init__(which)
        self.model = MODELS[which](2)

    def state(self) -> Any:
        return _bits(self.model.state_dict())

    def read(self, path: Path) -> None:
        tb.load_model(self.model, path)

    def check(self, path: Path, tally: Any) -> None:
        tb.save_model(self.model, path)
        other = MODELS[self.which](3)
        tb.load_model(other, path)
        if _bits(other.state_dict()) != self.state():
            raise Mismatch("saved and read again, it is something else")
        kinds = [(x.shape, x.dtype) for x in other.state_dict().values()]
        if kinds != [(x.shape, x.dtype) for x in MODELS[self.which](4).state_dict().values()]:
            raise Mismatch("the parameters have other shapes or dtypes")


class Checkpoint(Reader):
    """The state of a run."""

    def __init__(self, which: str) -> None:
        super().__init__(which)
        self.run = fresh_run(which)
        content = content_of(f"checkpoint {which}")
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        self.settings = json.loads(header["__metadata__"][FORMAT])["settings"]

    def state(self) -> Any:
        run = self.run
        place = run.epoch, run.batch, run.stop, run.best_epoch, run.losses, run.columns
        arrays = run.model.state_dict(), run.best, run.order, run.optimizer.state_dict()
        return _bits([*place, *arrays, run.scheduler.state_dict(),
            [g.bit_generator.state for g in run.generators]])  # type: ignore[union-attr]  # fmt: skip

    def read(self, path: Path) -> None:
        read_checkpoint(path, self.run, self.settings)

    def check(self, path: Path, tally: Any) -> None:
        state = self.state()
        write_checkpoint(path, self.run, self.settings)
        other = Checkpoint(self.which)
        other.read(path)
        if other.state() != state:
            raise Mismatch("saved and read again, it is something else")
        for g in self.run.generators:  # they draw, and go on drawing
            g.random(1000)
            g.integers(0, 9, 1000, np.uint32)
        x = self.run.model(DATA).sum()
        with np.errstate(all="ignore"):
            x.backward()
            self.run.optimizer.step()


class Replayed(Reader):
    """Programs."""

    def read(self, path: Path) -> None:
        self.found = replay.load(path)

    def check(self, path: Path, tally: Any) -> None:
        program = self.found
        str(program).encode()
        replay.save(program, path)
        content = path.read_bytes()
        again = replay.load(path)
        replay.save(again, path)
        if path.read_bytes() != content or str(again) != str(program):
            raise Mismatch("saved and read again, it is something else")
        if _is_small(program):
            _run(program, tally)
        else:
            tally["program: too large to be run"] += 1


def _is_small(program: Any) -> bool:
    sizes = [int(np.prod(shape, dtype=float)) for shape in program.shapes]
    drawn = [x for d in program.draws for x in _integers((d.parameters, d.options))]
    products = 1.0
    for i in range(len(program)):
        if program.shapes and getattr(program.rule(i), "name", "") in ("einsum", "matmul"):
            shapes = [program.shapes[k] for k in program.operands_of(i)]
            products = max(products, float(np.prod([n for s in shapes for n in s], dtype=float)))
    return sum(sizes) < WORK and products < 1e3 * WORK and max(drawn, default=0) < WORK


def _integers(x: Any) -> Iterator[int]:
    if isinstance(x, dict):
        x = list(x.values())
    if isinstance(x, (list, tuple)):
        if x and all(isinstance(n, (int, np.integer)) for n in x):
            yield int(np.prod([float(n) for n in x]))
        for part in x:
            yield from _integers(part)
    elif isinstance(x, (int, float, np.number)) and x == x:
        yield int(min(abs(float(x)), 1e18))
    elif isinstance(x, np.ndarray):
        yield int(min(np.nan_to_num(np.abs(x.astype(float))).sum(), 1e18))


@np.errstate(all="ignore")
def _run(program: Any, tally: Any) -> None:
    """Run it by every engine there is that knows its operations: nothing may break the process."""
    drawn = sum(draw.count for draw in program.draws)
    given = program.inputs[: len(program.inputs) - drawn]
    if program.draws:
        try:
            late = program.drawn(np.random.default_rng(0), *[np.random.default_rng(1)] * 9)
        except (ValueError, TypeError) as error:  # numpy's own, of what it shall draw
            tally[f"program: drew nothing, {type(error).__name__}"] += 1
            return
    else:
        late = []
    if program.kind == "array":
        inputs = [np.full(program.shapes[i], 0.5).astype(program.dtypes[i]) for i in given]
    else:
        inputs = [0.5 + 0.25 * k for k in range(len(given))]
    runner = replay.runner(program)
    found = runner.values([*inputs, *late])
    tally["program: run"] += 1
    if program.kind == "array":
        for i, x in zip(program.outputs, found, strict=False):
            if np.shape(x) != tuple(program.shapes[i]) or np.asarray(x).dtype != program.dtypes[i]:
                raise Mismatch(f"%{i} has shape {np.shape(x)} and dtype {np.asarray(x).dtype}")
        return
    if _used(program) not in _known_sets():
        return
    if importlib.util.find_spec("numba") and os.environ.get("TINYGRAD_BP_FUZZ_NUMBA", "1") != "0":
        other = replay.runner(program, "numba")
        np.testing.assert_allclose(other.values([*inputs, *late]), found, rtol=1e-9, atol=1e-300)
        other.value_and_gradient([*inputs, *late])
        if inputs or late:
            other.batch([np.full(3, x) for x in (*inputs, *late)])
        tally["program: run by numba"] += 1


def _used(program: Any) -> frozenset[Any]:
    """The operations that occur."""
    return frozenset(program.rules[code] for code in np.unique(program.codes))


@cache
def _known_sets() -> frozenset[Any]:
    """Operations for which numba may compile an interpreter, which takes seconds."""
    path, found = folder() / "known", set()
    for name in ("program scalar", "program draws"):
        path.write_bytes(content_of(name))
        found.add(_used(replay.load(path)))
    path.unlink()
    return frozenset(found)


class Archive(Reader):
    """Arrays in numpy's archive."""

    def read(self, path: Path) -> None:
        self.found = datasets.npz(path)

    def check(self, path: Path, tally: Any) -> None:
        data = self.found
        if len(data.x) != len(data.y) or data.x.dtype.hasobject or data.y.dtype.hasobject:
            raise Mismatch("no data")
        path.write_bytes(packed(x=data.x, y=data.y))
        again = datasets.npz(path)
        if _bits([again.x, again.y]) != _bits([data.x, data.y]):
            raise Mismatch("saved and read again, it is something else")


class Table(Reader):
    """Text with columns."""

    def read(self, path: Path) -> None:
        self.found = datasets.csv(path, classes=True)

    def check(self, path: Path, tally: Any) -> None:
        super().check(path, tally)
        if not np.isfinite(self.found.x).all() or len(self.found.x) != len(self.found.y):
            raise Mismatch("no data")


class Reading(Reader):
    """Text."""

    def read(self, path: Path) -> None:
        self.found = datasets.text(path)

    def check(self, path: Path, tally: Any) -> None:
        text = self.found.decode(self.found.codes)
        path.write_bytes(text.encode())
        if datasets.text(path).decode(datasets.text(path).codes) != text:
            raise Mismatch("saved and read again, it is something else")


class Images(Reader):
    """One of the four files of MNIST."""

    names_file = False
    name = "train-images-idx3-ubyte"

    def path(self, path: Path) -> Path:
        for name, size in (("train-labels-idx1", 6), ("t10k-labels-idx1", 2)):
            (path.parent / f"{name}-ubyte").write_bytes(idx(np.zeros(size, np.uint8)))
        held = np.ones((2, 3, 4), np.uint8)
        (path.parent / "t10k-images-idx3-ubyte").write_bytes(idx(held))
        return path.with_name(self.name)

    def files(self, path: Path) -> list[Path]:
        names = ("train-labels-idx1", "t10k-labels-idx1", "t10k-images-idx3")
        return sorted([path, *(path.parent / f"{name}-ubyte" for name in names)])

    def read(self, path: Path) -> None:
        self.found = datasets.mnist(path.parent)

    def check(self, path: Path, tally: Any) -> None:
        super().check(path, tally)
        x = self.found.train.x
        if len(x) != 6 or x.shape[1] != 12 or not (x >= 0).all() or not (x <= 1).all():
            raise Mismatch("no images")


class Packed(Images):
    """The same, compressed."""

    name = "train-images-idx3-ubyte.gz"


READERS: dict[str, Callable[[str], Any]] = {
    "model": Model,
    "checkpoint": Checkpoint,
    "program": Replayed,
    "npz": Archive,
    "csv": Table,
    "text": Reading,
    "idx": Images,
    "idx.gz": Packed,
}
