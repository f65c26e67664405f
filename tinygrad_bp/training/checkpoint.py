"""Checkpoints: all that a killed run needs to go on with the same bits.

A safetensors file: arrays under the names `model/...`, `optimizer/...`, `best/...`, `history/...`;
and the rest as JSON in the header. What it says is compared with the run that wants to go on, and
nothing of that run is changed unless all of it fits.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tinygrad_bp.files import Path_, shown
from tinygrad_bp.training.plan import Plan
from tinygrad_bp.training.saving import Arrays as File, read_arrays, write_arrays

if TYPE_CHECKING:
    from tinygrad_bp.training.loop import Run

FORMAT, VERSION = "tinygrad_bp checkpoint", 1
LONGEST_HISTORY = 2**26  # bytes of the history in a file
Arrays = Mapping[str, NDArray[Any]]
Settings = dict[str, Any]


def settings_of(plan: Plan, run: Run) -> Settings:
    """What has to be the same when a run goes on, as JSON has it."""
    return {
        "batch_size": int(plan.batch_size),
        "optimizer": type(run.optimizer).__name__,
        "scheduler": type(run.scheduler).__name__ if run.scheduler else None,
        "scheduler_per": plan.scheduler_per,
        "early_stopping": list(plan.stopping) if plan.stopping else None,
        "clip_norm": plan.clip_norm,
        "compiled": bool(plan.compiled),
        "generators": [type(g.bit_generator).__name__ for g in run.generators],
        "history": plan.columns,
        "data": [_digest(x) for x in plan.data],
        "validation": [_digest(x) for x in plan.validation or ()],
    }


def _digest(x: NDArray[Any]) -> list[Any]:
    """Enough to see that an array is another one: its shape, dtype, and a checksum."""
    return [list(x.shape), str(x.dtype), zlib.crc32(np.ascontiguousarray(x).data)]


def write_checkpoint(path: Path_, run: Run, settings: Settings) -> None:
    """Write the state of a run to a file, which appears whole or not at all."""
    optimizer = run.optimizer.state_dict()
    arrays = {f"model/{name}": x for name, x in run.model.state_dict().items()}
    arrays |= {f"best/{name}": x for name, x in (run.best or {}).items()}
    arrays |= {f"history/{name}": np.array(x, np.float64) for name, x in run.columns.items()}
    arrays["losses"] = np.array(run.losses, np.float64)
    arrays["order"] = np.array([] if run.order is None else run.order, np.int64)
    steps = {}
    for i, memory in optimizer["state"].items():
        steps[str(i)] = memory.get("step")
        arrays |= {f"optimizer/{i}/{name}": x for name, x in memory.items() if name != "step"}
    text = json.dumps(
        {
            "version": VERSION,
            "settings": settings,
            "epoch": run.epoch,
            "batch": run.batch,
            "stop": run.stop,
            "best_epoch": run.best_epoch,
            "param_groups": optimizer["param_groups"],
            "steps": steps,
            "scheduler": run.scheduler.state_dict() if run.scheduler else None,
            "generators": [g.bit_generator.state for g in run.generators],
        },
        default=_plain,
    )
    write_arrays(path, arrays, {FORMAT: text})


def _plain(x: Any) -> Any:
    """Some generators keep arrays."""
    if isinstance(x, (np.ndarray, np.generic)):
        return x.tolist()
    raise TypeError(f"a checkpoint cannot hold a {type(x).__name__}")


def read_checkpoint(path: Path_, run: Run, settings: Settings) -> None:
    """Bring a run to the state that a file holds.

    Raises:
        ValueError: it is no checkpoint, belongs to another run, or is damaged. Then the run is as
            it was.
    """
    file = read_arrays(path, _most(run, settings))
    text = file.metadata.get(FORMAT)
    if text is None:
        raise ValueError(f"{path}: a safetensors file, but no checkpoint")
    try:
        state = json.loads(text)
        if state["version"] != VERSION:
            raise ValueError(f"it has version {shown(state['version'], 20)}, not {VERSION}")
        _compare_settings(state["settings"], settings)
        arrays = _arrays(file, run, state)
        generators = [
            _generator_like(g, saved)
            for g, saved in zip(run.generators, state["generators"], strict=True)
        ]
        _check_place(state, arrays, settings)
        _restore_optimizer(run, state, arrays)
    except (LookupError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise ValueError(f"{path}: a damaged checkpoint: {shown(repr(error), 80)}") from None
    except ValueError as error:
        what = str(error).removeprefix(f"{path}: ")
        raise ValueError(f"{path}: {shown(what, 180)}") from None
    # From here on nothing can fail.
    for g, saved in zip(run.generators, generators, strict=True):
        g.bit_generator.state = saved.state
    run.model.load_state_dict(_under("model/", arrays))
    run.best = _under("best/", arrays) or None
    run.columns = {name: arrays[f"history/{name}"].tolist() for name in run.columns}
    run.epoch, run.batch, run.stop = state["epoch"], state["batch"], state["stop"]
    run.best_epoch = state["best_epoch"]
    run.losses = arrays["losses"].tolist()
    run.order = arrays["order"] if len(arrays["order"]) else None


def _compare_settings(found: Any, settings: Settings) -> None:
    here = json.loads(json.dumps(settings, default=_plain))
    for name, value in here.items():
        if found[name] != value:
            if name in ("data", "validation"):
                raise ValueError(f"the run in it had other {name}")
            raise ValueError(
                f"the run in it had {name} {shown(found[name], 40)}, this one has "
                f"{shown(value, 40)}"
            )


def _most(run: Run, settings: Settings) -> int:
    """How many bytes of numbers the checkpoint of a run may have."""
    parameters = sum(x.size for x in run.model.state_dict().values())
    samples = int(settings["data"][0][0][0])  # an order and, at most as many, losses
    return 8 * (2 + len(run.optimizer.buffers)) * parameters + 16 * samples + LONGEST_HISTORY


def _arrays(file: File, run: Run, state: dict[str, Any]) -> dict[str, NDArray[Any]]:
    """The arrays of the file, after a look at their names, shapes and dtypes."""
    mine = run.model.state_dict()
    epochs, batches = state["epoch"], state["batch"]
    expected = {f"model/{name}": x for name, x in mine.items()}
    if state["best_epoch"] is not None:
        expected |= {f"best/{name}": x for name, x in mine.items()}
    expected |= {f"history/{name}": _like((epochs,)) for name in run.columns}
    expected["losses"] = _like((batches,))
    samples = state["settings"]["data"][0][0][0] if batches else 0
    expected["order"] = _like((samples,), np.int64)
    shapes = [(np.shape(p.data), getattr(p, "dtype", None)) for p in run.optimizer.parameters]
    for key in file.entries:
        room, _, rest = key.partition("/")
        number, _, name = rest.partition("/")
        if room == "optimizer" and number in state["steps"] and name in run.optimizer.buffers:
            shape, dtype = shapes[int(number)]
            expected[key] = _like(shape, np.float32 if dtype == np.float32 else np.float64)
    return file.arrays(expected)


def _like(shape: tuple[int, ...], dtype: Any = np.float64) -> NDArray[Any]:
    """An array of a shape and dtype, that takes no memory."""
    if not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError("a damaged checkpoint: a count is no number")
    return np.broadcast_to(np.zeros((), dtype), shape)


def _check_place(state: dict[str, Any], arrays: Arrays, settings: Settings) -> None:
    """Whether the place in the epoch is one, and the order is an order."""
    order, samples = arrays["order"], settings["data"][0][0][0]
    batches = -(-samples // settings["batch_size"])
    if state["batch"] > batches or not np.array_equal(np.sort(order), np.arange(len(order))):
        raise ValueError("a damaged checkpoint: the order of the samples is none")
    best = state["best_epoch"]
    if type(state["stop"]) is not bool or not (
        best is None or (type(best) is int and 1 <= best <= state["epoch"])
    ):
        raise ValueError("a damaged checkpoint: there is no such best epoch")


def _generator_like(g: np.random.Generator, saved: Any) -> Any:
    """A bit generator of the same kind in the saved state: the trial before the real one."""
    trial = type(g.bit_generator)()
    trial.state = saved
    # numpy believes what it is told of the place in its numbers, and would read what is not there.
    taken: Any = trial.state
    for place, numbers in (("pos", "key"), ("buffer_pos", "buffer")):
        for part in (taken, taken.get("state")):
            known = isinstance(part, dict) and place in part
            if known and not 0 <= part[place] <= len(part[numbers]):
                raise ValueError("a damaged checkpoint: a generator is at no place in its numbers")
    return trial


def _restore_optimizer(run: Run, state: dict[str, Any], arrays: Arrays) -> None:
    """Optimiser and schedule, both or neither."""
    memory: dict[int, dict[str, Any]] = {}
    for i, step in state["steps"].items():
        memory[int(i)] = _under(f"optimizer/{i}/", arrays)
        if step is not None:
            memory[int(i)]["step"] = step
    before = run.optimizer.state_dict()
    groups = [dict(group) for group in state["param_groups"]]
    run.optimizer.load_state_dict({"state": memory, "param_groups": groups})
    try:
        if run.scheduler is not None:
            run.scheduler.load_state_dict(state["scheduler"])
    except BaseException:
        run.optimizer.load_state_dict(before)
        raise


def _under(prefix: str, arrays: Arrays) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): x for name, x in arrays.items() if name.startswith(prefix)}
