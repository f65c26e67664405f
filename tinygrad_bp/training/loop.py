"""`fit`: the training loop, in one place.

An epoch goes through the samples in random order, in batches; each batch is a forward pass, a
backward sweep and a step of the optimiser. All that the next batch depends on is in a `Run`, and
that is what a checkpoint holds: parameters, optimiser, schedule, random generators, the order of
the samples and the place in it. So a run that was killed goes on from its checkpoint, and ends with
the same bits as one that was not.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from tinygrad_bp.arguments import file_path, flag, function, integer, several, wrong_kind
from tinygrad_bp.interrupts import undone, write
from tinygrad_bp.nn import init
from tinygrad_bp.nn.module import Module
from tinygrad_bp.optim import LRScheduler, Optimizer, clip_grad_norm
from tinygrad_bp.recording import no_grad
from tinygrad_bp.replay import compile
from tinygrad_bp.scalars import Values
from tinygrad_bp.tensor import Tensor
from tinygrad_bp.training.batches import progress as progress_bar
from tinygrad_bp.training.checkpoint import read_checkpoint, settings_of, write_checkpoint
from tinygrad_bp.training.history import EarlyStopping, History
from tinygrad_bp.training.plan import (
    Arrays,
    Loss,
    Metric,
    Plan,
    arrays_of,
    check_plan,
    check_trained,
    named_metrics,
    stopping_of,
)
from tinygrad_bp.value import Value

_T = TypeVar("_T")


class Callback:
    """Somebody who is called while a model is trained; override what is of interest.

    A plain function counts as `on_epoch_end`. What a callback remembers is not in the checkpoint.
    After a kill, the end of an epoch that was not yet in the checkpoint is called again.
    """

    def on_batch_end(self, run: Run) -> None:
        """After every update; `run.batch_loss` is the loss before it."""

    def on_epoch_end(self, run: Run) -> None:
        """After every epoch, when its row of `run.history` is there."""


class Run:
    """The state of a training, as callbacks see it.

    Attributes:
        model, optimizer: those being trained.
        epoch: the number of epochs completed.
        batch: how many batches of the present epoch are done.
        batch_loss: the loss of the last one, before its update.
        stop: set it to end the training after this epoch.
    """

    def __init__(
        self,
        model: Module,
        optimizer: Optimizer,
        scheduler: LRScheduler | None,
        generators: list[np.random.Generator],
        columns: list[str],
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.generators = generators
        self.columns: dict[str, list[float]] = {name: [] for name in columns}
        self.epoch = self.batch = 0
        self.stop = False
        self.order: NDArray[np.int64] | None = None  # of the samples, in the present epoch
        self.losses: list[float] = []  # of its batches so far
        self.best: dict[str, NDArray[Any]] | None = None
        self.best_epoch: int | None = None

    @property
    def batch_loss(self) -> float:
        """The loss of the last batch, before its update."""
        return self.losses[-1]

    @property
    def history(self) -> History:
        """The numbers of the epochs so far."""
        return History(self.columns, self.best_epoch, self.stop)


def fit(
    model: Module,
    data: Iterable[Any],
    loss: Loss,
    optimizer: Optimizer,
    *,
    epochs: int,
    batch_size: int = 32,
    rng: np.random.Generator | int,
    validation: Iterable[Any] | None = None,
    metrics: Mapping[str, Metric] | Iterable[Metric] = (),
    early_stopping: EarlyStopping | int | None = None,
    scheduler: LRScheduler | None = None,
    scheduler_per: Literal["epoch", "batch"] = "epoch",
    clip_norm: float | None = None,
    callbacks: Iterable[Callback | Callable[[Run], Any]] = (),
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int | None = None,
    resume: bool = False,
    compiled: bool = False,
    progress: bool | str = False,
) -> History:
    """Train a model.

    Args:
        model: the module to train. It is in training mode meanwhile, but for the validation.
        data: arrays (x, y), or several inputs and the target last, (x1, x2, y): samples along the
            first axis of each (a recurrent layer wants time there: let the model transpose).
            Floats must be finite; integers are indices and classes.
        loss: a function of the model's output and a batch of targets that gives a single number,
            such as `nn.cross_entropy`. The output is `model(x)`, or `model(x1, x2)`.
        optimizer: moves the parameters.
        epochs: how often to go through the data, altogether.
        batch_size: how many samples to an update; the last batch of an epoch may be smaller.
        rng: a numpy Generator, or a seed: decides the order of the samples.
        validation: like data; the loss and the metrics of it are computed after every epoch.
        metrics: functions of all outputs and targets of the validation data, as arrays, that give
            a number: named by a dict, or by themselves. `accuracy` is one.
        early_stopping: when to stop; a number is the patience with regard to the validation loss.
        scheduler: goes on by one with every epoch, or with every batch (`scheduler_per`).
        clip_norm: the largest norm of the gradient, see `optim.clip_grad_norm`.
        callbacks: `Callback`s, or functions of the `Run`, called after every epoch.
        checkpoint: a file that is written after every epoch, from which a killed run goes on.
        checkpoint_every: also after so many batches.
        resume: go on from the checkpoint, if there is one; everything else has to be as it was,
            except that `epochs` may be larger.
        compiled: record the step once and replay it (see `compile`). The results differ in
            rounding; what is left out by dropout is drawn at every step, as ever.
        progress: show a progress bar; a text is its description.

    Returns:
        The `History`.

    Raises:
        TypeError, ValueError: an argument is not as above; the data have nan, no samples, or
            different numbers of them; the checkpoint is there and resume is not asked for; it
            belongs to another run, or is damaged. The message says which. Nothing was changed.
        FloatingPointError: the loss is nan or infinite; the parameters are those before it.
        ImportError: for a checkpoint or a progress bar the extra `data` is not installed.

    Example:
        >>> from tinygrad_bp import nn, optim, training
        >>> X, t = np.array([[0, 0], [0, 1], [1, 0], [1, 1.0]]), np.array([[0], [1], [1], [0.0]])
        >>> model = nn.MLP([2, 8, 1], ["tanh", "identity"], rng=0)
        >>> history = training.fit(
        ...     model, (X, t), nn.binary_cross_entropy_with_logits,
        ...     optim.Adam(model.parameters(), lr=0.1), epochs=50, batch_size=4, rng=0,
        ... )
        >>> bool(history["loss"][-1] < 0.1)
        True
    """
    check_trained(model, optimizer, scheduler, compiled)
    integer(epochs, "epochs", 0)
    flag(resume, "resume")
    if not isinstance(progress, str):
        flag(progress, "progress")
    checkpoint = None if checkpoint is None else file_path(checkpoint, "checkpoint")
    callbacks = several(callbacks, "callbacks", "Callbacks or functions")
    for callback in callbacks:
        if not isinstance(callback, Callback):
            function(callback, "callbacks")
    if checkpoint_every is not None:
        integer(checkpoint_every, "checkpoint_every", 1)
    plan = Plan(
        data=arrays_of(data, "data"),
        loss=loss,
        batch_size=batch_size,
        validation=None if validation is None else arrays_of(validation, "validation"),
        metrics=named_metrics(metrics),
        stopping=stopping_of(early_stopping),
        scheduler_per=scheduler_per,
        clip_norm=clip_norm,
        callbacks=list(callbacks),
        compiled=compiled,
    )
    check_plan(plan)
    generators = _generators(model, init.generator(rng))
    run = Run(model, optimizer, scheduler, generators, plan.columns)
    loop = _Loop(run, plan)
    if checkpoint is not None:
        loop.keep(checkpoint, checkpoint_every, resume)
    if progress:
        done = run.epoch * plan.batches + run.batch
        title = progress if isinstance(progress, str) else "fit"
        with progress_bar(None, title, epochs * plan.batches, done) as loop.bar:
            loop.run_to(epochs)
    else:
        loop.run_to(epochs)
    return run.history


class _Loop:
    """The steps of a run: batch, epoch, validation."""

    def __init__(self, run: Run, plan: Plan) -> None:
        self.run, self.plan, loss = run, plan, plan.loss
        self.save: Callable[[], None] | None = None
        self.save_every = math.inf
        self.bar: Any = None
        self.step: Any = None
        self.predict: Callable[..., Any] = run.model
        if plan.compiled:
            self.step = compile(lambda model, *batch: loss(model(*batch[:-1]), batch[-1]))
            forward = compile(lambda model, *inputs: model(*inputs))
            self.predict = lambda *inputs: _nodes(forward(run.model, *inputs))

    def keep(self, path: str | os.PathLike[str], every: int | None, resume: bool) -> None:
        """Have the run written to a checkpoint, and go on from the one that is there."""
        run, settings = self.run, settings_of(self.plan, self.run)
        saved = {id(p) for p in run.model.parameters()}
        if any(id(p) not in saved for p in run.optimizer.parameters):
            raise ValueError("checkpoint: the optimizer moves parameters that the model lacks")
        if os.path.lexists(path):
            if not resume:
                raise ValueError(
                    f"checkpoint: {path} is there; resume=True goes on from it, or move it away"
                )
            read_checkpoint(path, run, settings)
        else:  # whatever may be wrong with it is better known now than after an epoch
            write_checkpoint(path, run, settings)
        self.save = lambda: write_checkpoint(path, run, settings)
        self.save_every = every or math.inf

    def run_to(self, epochs: int) -> None:
        """Train until so many epochs are done, or it is time to stop."""
        run = self.run

        def epochs_left() -> None:
            while run.epoch < epochs and not run.stop:
                self._epoch()

        _in_mode(run.model, True, epochs_left)
        if self.plan.stopping and self.plan.stopping.restore_best and run.best is not None:
            run.model.load_state_dict(run.best)

    def _epoch(self) -> None:
        run, size = self.run, self.plan.batch_size
        if run.order is None:
            run.order = run.generators[0].permutation(self.plan.samples)
        for start in range(run.batch * size, len(run.order), size):
            self._batch(run.order[start : start + size])
            if self.save is not None and run.batch % self.save_every == 0:
                self.save()
        self._record()
        if run.scheduler is not None and self.plan.scheduler_per == "epoch":
            run.scheduler.step()
        for callback in self.plan.callbacks:
            (callback.on_epoch_end if isinstance(callback, Callback) else callback)(run)
        run.epoch, run.batch, run.order, run.losses = run.epoch + 1, 0, None, []
        if self.save is not None:
            self.save()

    def _batch(self, indices: NDArray[np.int64]) -> None:
        run = self.run
        batch = tuple(part[indices] for part in self.plan.data)
        run.optimizer.zero_grad()
        run.losses.append(self._differentiated(batch))
        if self.plan.clip_norm is not None:
            clip_grad_norm(run.optimizer.parameters, self.plan.clip_norm)
        run.optimizer.step()
        if run.scheduler is not None and self.plan.scheduler_per == "batch":
            run.scheduler.step()
        run.batch += 1
        for callback in self.plan.callbacks:
            if isinstance(callback, Callback):
                callback.on_batch_end(run)
        if self.bar is not None:
            self.bar.update(1)

    def _differentiated(self, batch: Arrays) -> float:
        """The loss of a batch; its gradient goes to the parameters."""
        if self.step is not None:
            number = _number(self.step.backward(self.run.model, *batch))
            self._check_finite(number, self._place)
            return number
        node = self.plan.loss(self.run.model(*batch[:-1]), batch[-1])
        number = _number(node)
        self._check_finite(number, self._place)
        if not isinstance(node, (Tensor, Values, Value)):
            raise TypeError(f"loss: expected a Value or a Tensor, got {type(node).__name__}")
        node.backward(leaves_only=True)
        return number

    @property
    def _place(self) -> str:
        run = self.run
        return f"loss: in epoch {run.epoch + 1}, batch {run.batch + 1} of {self.plan.batches}"

    def _check_finite(self, number: float, place: str) -> None:
        if not math.isfinite(number):
            raise FloatingPointError(
                f"{place}, it is {number}; with detect_anomaly() the operation is named"
            )

    def _record(self) -> None:
        """The numbers of an epoch that has ended, and whether it was the best."""
        run, plan = self.run, self.plan
        sizes = np.full(plan.batches, plan.batch_size)
        sizes[-1] = plan.samples - plan.batch_size * (plan.batches - 1)
        row = {
            "loss": float(np.average(run.losses, weights=sizes)),
            "lr": run.optimizer.param_groups[0]["lr"],
            **self._validated(),
        }
        for name, number in row.items():
            run.columns[name].append(number)
        if plan.stopping is not None:
            self._judge(row[plan.stopping.monitor], plan.stopping)
        if self.bar is not None:
            self.bar.set_postfix({name: f"{x:.4g}" for name, x in row.items() if name != "lr"})

    def _judge(self, number: float, stopping: EarlyStopping) -> None:
        run, epoch = self.run, self.run.epoch + 1
        before = run.columns[stopping.monitor]
        best = None if run.best_epoch is None else before[run.best_epoch - 1]
        if stopping.improves(number, best):
            run.best_epoch, run.best = epoch, run.model.state_dict()
        elif epoch - (run.best_epoch or 0) >= stopping.patience:
            run.stop = True

    def _validated(self) -> dict[str, float]:
        """The loss and the metrics of the validation data."""
        plan, data = self.plan, self.plan.validation
        if data is None:
            return {}
        with no_grad():
            total, outputs = _in_mode(self.run.model, False, lambda: self._predicted(data))
        self._check_finite(total, f"validation loss: after epoch {self.run.epoch + 1}")
        numbers = {"val_loss": total / len(data[0])}
        for name, metric in plan.metrics.items():
            numbers[f"val_{name}"] = float(metric(np.concatenate(outputs), data[-1]))
        return numbers

    def _predicted(self, data: Arrays) -> tuple[float, list[NDArray[Any]]]:
        """The sum of the samples' losses; and the outputs, where there are metrics of them."""
        plan, total, outputs = self.plan, 0.0, []
        for start in range(0, len(data[0]), plan.batch_size):
            batch = tuple(part[start : start + plan.batch_size] for part in data)
            output = self.predict(*batch[:-1])
            total += _number(plan.loss(output, batch[-1])) * len(batch[-1])
            if plan.metrics:
                outputs.append(_outputs(output, len(batch[-1])))
        return total, outputs


def _in_mode(model: Module, training: bool, do: Callable[[], _T]) -> _T:
    """`do()` in training mode, or not; afterwards each module in the model has its own again."""
    before = [(module, module.training) for module in model.modules()]

    def in_mode() -> _T:
        model.train(training)
        return do()

    return undone(in_mode, lambda: write((setattr, m, "training", mode) for m, mode in before))


def _number(x: Any) -> float:
    if np.size(getattr(x, "data", x)) != 1:
        raise ValueError(f"loss: expected a single number, got {str(x)[:60]}")
    try:
        return float(x.item()) if isinstance(x, (Tensor, Value)) else float(np.ravel(x)[0])
    except (TypeError, ValueError):
        raise wrong_kind("loss", "a function that returns a number", x) from None


def _nodes(x: Any) -> Any:
    """Arrays as Tensors, for a loss that takes these."""
    if isinstance(x, (list, tuple)):
        return type(x)(map(_nodes, x))
    return Tensor(x, requires_grad=False) if isinstance(x, np.ndarray) else x


def _outputs(output: Any, samples: int) -> NDArray[Any]:
    array = getattr(output, "data", output)
    if not isinstance(array, np.ndarray) or len(array) != samples:
        raise ValueError(
            f"metrics: expected the model's output to be one array of {samples} samples, got "
            f"{type(output).__name__} of shape {np.shape(array)}"
        )
    return array


def _generators(model: Module, rng: np.random.Generator) -> list[np.random.Generator]:
    """The loop's generator, and those that are attributes of modules (of a Dropout); each once."""
    found = {id(rng): rng}
    for module in model.modules():
        for attribute in vars(module).values():
            if isinstance(attribute, np.random.Generator):
                found.setdefault(id(attribute), attribute)
    return list(found.values())
