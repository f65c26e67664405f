"""The real files that the damaged ones are made of: one of every kind that is read, by its name."""

import contextlib
import gzip
import io
import os
import struct
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import tinygrad_bp as tb
from tinygrad_bp import nn, optim, replay
from tinygrad_bp.training import Callback, fit, loop

# --- models and runs ------------------------------------------------------------------------------


class Odd(nn.Module):
    """Parameters of every kind."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.single = tb.Value(rng.normal())
        self.empty = tb.Tensor(np.zeros((0, 3)))
        self.narrow = tb.Tensor(rng.normal(size=(2, 3)).astype(np.float32))
        self.parts = {"a/b": tb.Tensor(rng.normal(size=2)), "../c": tb.Tensor(rng.normal(size=1))}


MODELS: dict[str, Callable[[int], nn.Module]] = {
    "linear": lambda seed: nn.Linear(2, 3, rng=seed),
    "mlp": lambda seed: nn.MLP([3, 4, 2], "tanh", rng=seed),
    "odd": Odd,
}
BITS = ("PCG64", "MT19937", "Philox", "SFC64")
DATA = np.random.default_rng(0).normal(size=(20, 3))
TARGETS = (DATA[:, 0] > 0).astype(int)


def fresh_run(bits: str) -> loop.Run:
    """A run at its start."""
    rng = np.random.Generator(getattr(np.random, bits)(3))
    model = nn.MLP([3, 4, 2], "tanh", rng=1)
    adam = optim.Adam(model.parameters(), lr=0.05)
    return loop.Run(model, adam, optim.StepLR(adam, 2), [rng], ["loss", "lr"])


def checkpoint_of(bits: str) -> bytes:
    """The checkpoint of a run within its third epoch."""
    run = fresh_run(bits)

    class Enough(Exception):  # noqa: N818
        pass

    class Stop(Callback):
        def on_batch_end(self, now: loop.Run) -> None:
            if now.epoch == 2 and now.batch == 2:
                raise Enough

    path = folder() / "run"
    with contextlib.suppress(Enough):
        fit(
            *(run.model, (DATA, TARGETS), nn.cross_entropy, run.optimizer),
            epochs=5,
            batch_size=8,
            scheduler=run.scheduler,
            rng=run.generators[0],
            callbacks=[Stop()],
            checkpoint=path,
            checkpoint_every=1,
        )
    content = path.read_bytes()
    path.unlink()
    return content


# --- programs ------------------------------------------------------------------------------------


def shifted(x: Any, y: Any) -> Any:
    """A scalar function with a branch."""
    return tb.tanh(x) * y + (x * y if y > 0.0 else -x)


def drawing(x: Any, rng: Any) -> Any:
    """Numbers and arrays with random ones."""
    y = x * rng.normal(0.5, 2.0) + rng.integers(0, 9)
    return y * rng.random() if np.ndim(x) == 0 else (y * rng.random(3)).sum()


def indexed(x: Any, i: Any) -> Any:
    """Indices of every kind."""
    parts = x[i], x[:, i[0]], tb.one_hot(i, 4), tb.take(x, i, axis=1), x[None, ..., 1:]
    return sum((part.sum() for part in parts[1:]), parts[0].sum())


def shaped(x: Any, y: Any) -> Any:
    """The other structural operations."""
    z = tb.einsum("ij,kj->ik", x, y) @ tb.stack([x[:, 0], y[:, 1], x[0]])
    z = tb.concatenate([z, tb.pad(x, ((0, 0), (0, 0))), tb.cumsum(y, 0)])
    return tb.softmax(z.T.reshape(9, 3)).max(1).sum() + tb.tril(x).sum() + tb.mean(z) ** 2


def program_of(f: Any, *args: Any, gradient: bool = False) -> bytes:
    """A saved program."""
    path = folder() / "made"
    replay.save(tb.compile(f).program(*args, gradient=gradient), path)
    content = path.read_bytes()
    path.unlink()
    return content


def recurrent() -> bytes:
    """A network in time: enough steps for a loop, with scopes."""
    model = nn.RNN(2, 3, rng=0)
    x = np.random.default_rng(0).normal(size=(14, 2, 2))
    return program_of(lambda model, x: model(x)[0].sum(), model, x, gradient=True)


# --- all of them ----------------------------------------------------------------------------------


def packed(**arrays: Any) -> bytes:
    """A numpy archive."""
    file = io.BytesIO()
    (np.savez_compressed if len(arrays) > 2 else np.savez)(file, **arrays)
    return file.getvalue()


def idx(array: Any) -> bytes:
    """An array of bytes as MNIST has it."""
    return struct.pack(f">{array.ndim + 1}i", 0x0800 + array.ndim, *array.shape) + array.tobytes()


X = np.arange(12.0).reshape(4, 3)
MAKERS: dict[str, Callable[[], bytes]] = {
    **{f"model {name}": lambda n=name: saved(MODELS[n](1)) for name in MODELS},  # type: ignore[misc]
    **{f"checkpoint {bits}": lambda b=bits: checkpoint_of(b) for bits in BITS},  # type: ignore[misc]
    "program scalar": lambda: program_of(shifted, 0.3, 1.7, gradient=True),
    "program draws": lambda: program_of(drawing, 2.0, np.random.default_rng(0)),
    "program array draws": lambda: program_of(drawing, np.ones(3), np.random.default_rng(0)),
    "program network": lambda: program_of(
        lambda model, x, y: nn.cross_entropy(model(x), y),
        *(MODELS["mlp"](0), DATA[:5], TARGETS[:5]),
        gradient=True,
    ),
    "program indexed": lambda: program_of(indexed, tb.Tensor(X), np.array([0, 2, 1])),
    "program shaped": lambda: program_of(shaped, X[:3], X[1:] / 9.0, gradient=True),
    "program recurrent": recurrent,
    "npz stored": lambda: packed(x=X, y=[1, 2, 3, 4]),
    "npz packed": lambda: packed(x=X, y=[1, 2, 3, 4], more=np.zeros(999)),
    "csv": lambda: b'a,"b ""c""",kind\r\n1.5,-2e-3,x\r\n3,4,y\r\n5,6.25,x\r\n',
    "text": lambda: "Süße Träume,\nto the reader!\r\n".encode(),
    "idx": lambda: idx(np.arange(72, dtype=np.uint8).reshape(6, 3, 4)),
    "idx.gz": lambda: gzip.compress(idx(np.arange(72, dtype=np.uint8).reshape(6, 3, 4)), mtime=0),
}
NAMES = tuple(MAKERS)
OFTEN = NAMES + tuple(name for name in NAMES if name.startswith("program")) * 2


def saved(model: nn.Module) -> bytes:
    """A model's parameters in a file."""
    path = folder() / "made"
    tb.save_model(model, path)
    content = path.read_bytes()
    path.unlink()
    return content


@cache
def content_of(name: str) -> bytes:
    """A real file."""
    return MAKERS[name]()


@cache
def folder() -> Path:
    """Where the files of this process are: in memory, if the system has such a place."""
    keep = tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
    _kept.append(keep)
    return Path(keep.name)


_kept: list[Any] = []
