"""The training loop: against a loop written out, killed and resumed, and what it refuses."""

import itertools
import json
import math
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

import tinygrad_bp as tb
from tinygrad_bp import nn, optim
from tinygrad_bp.training import (
    Callback,
    EarlyStopping,
    History,
    accuracy,
    fit,
    minibatches,
    save_model,
)


def problem(samples=50, seed=0):
    """Two classes in the plane, apart by a curve."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(samples, 2))
    return x, (x[:, 0] * x[:, 1] > 0).astype(int)


def network(seed=0, **options):
    return nn.MLP([2, 6, 2], ["tanh", "identity"], rng=seed, **options)


def numbers(model):
    return {name: x.tobytes() for name, x in model.state_dict().items()}


def plain_loop(model, optimizer, x, y, epochs, size, rng, clip=None):
    losses = []
    for _ in range(epochs):
        total = 0.0
        for batch in minibatches(len(x), size, rng):
            loss = nn.cross_entropy(model(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            if clip:
                optim.clip_grad_norm(optimizer.parameters, clip)
            optimizer.step()
            total += loss.item() * len(batch)
        losses.append(total / len(x))
    return losses


@pytest.mark.parametrize("clip", [None, 0.1])
@pytest.mark.parametrize("size", [16, 50, 1000])
def test_it_is_the_plain_loop(size, clip):
    x, y = problem()
    one, other = network(), network()
    expected = plain_loop(
        one, optim.Adam(one.parameters(), 0.01), x, y, 3, size, np.random.default_rng(7), clip
    )
    history = fit(
        other, (x, y), nn.cross_entropy, optim.Adam(other.parameters(), 0.01),
        epochs=3, batch_size=size, rng=7, clip_norm=clip,
    )  # fmt: skip
    assert numbers(one) == numbers(other)
    np.testing.assert_allclose(history["loss"], expected, rtol=1e-12)
    np.testing.assert_array_equal(history["lr"], [0.01] * 3)
    assert history.epochs == 3
    assert not history.stopped


def test_compiled_it_comes_out_the_same_but_for_rounding():
    x, y = problem()
    models, histories = [network(), network()], []
    for model, compiled in zip(models, (False, True), strict=True):
        histories.append(
            fit(
                model, (x, y), nn.cross_entropy, optim.Adam(model.parameters(), 0.01), epochs=4,
                batch_size=16, rng=0, compiled=compiled, validation=problem(20, 1),
                metrics=[accuracy],
            )
        )  # fmt: skip
    for name, column in histories[0].items():
        np.testing.assert_allclose(histories[1][name], column, rtol=1e-9)
    for name, p in models[0].state_dict().items():
        np.testing.assert_allclose(models[1].state_dict()[name], p, rtol=1e-8, atol=1e-10)


def test_a_network_of_single_values_is_trained_as_well():
    x, y = problem(6)
    tensors, singles = network(), network().scalar_view()
    for model in (tensors, singles):
        fit(
            model, (x, y), nn.cross_entropy, optim.SGD(model.parameters(), 0.1), epochs=2,
            batch_size=3, rng=0,
        )  # fmt: skip
    for name, p in tensors.state_dict().items():
        np.testing.assert_allclose(singles.state_dict()[name], p, rtol=1e-12, atol=1e-14)


def test_validation_and_metrics_are_those_of_the_data_held_out():
    x, y = problem()
    held, truth = problem(33, 1)
    model, seen = network(), []

    def f1(outputs, labels):
        """A metric that is no mean over samples."""
        guesses = outputs.argmax(1)
        return 2 * (guesses & labels).sum() / (guesses.sum() + labels.sum())

    def after(run):
        with tb.no_grad():
            outputs = run.model(held)
            seen.append((nn.cross_entropy(outputs, truth).item(), f1(outputs.data, truth)))

    history = fit(
        model, (x, y), nn.cross_entropy, optim.Adam(model.parameters(), 0.05), epochs=4,
        batch_size=10, rng=0, validation=(held, truth), metrics={"f1": f1, "right": accuracy},
        callbacks=[after],
    )  # fmt: skip
    assert list(history) == ["loss", "lr", "val_loss", "val_f1", "val_right"]
    np.testing.assert_allclose(np.c_[history["val_loss"], history["val_f1"]], seen, rtol=1e-12)
    with tb.no_grad():
        assert history["val_right"][-1] == (model(held).data.argmax(1) == truth).mean()


def test_dropout_is_on_in_training_and_off_in_validation():
    class Watched(nn.Module):
        def __init__(self):
            self.linear, self.modes = nn.Linear(2, 2, rng=0), []

        def forward(self, x):
            self.modes.append((self.training, self.linear.training, tb.is_grad_enabled()))
            return self.linear(x)

    model = Watched().eval()
    model.linear.train()
    fit(
        model, problem(4), nn.cross_entropy, optim.SGD(model.parameters(), 0.1), epochs=1,
        batch_size=4, rng=0, validation=problem(4),
    )  # fmt: skip
    assert model.modes == [(True, True, True), (False, False, False)]
    assert (model.training, model.linear.training) == (False, True)


def test_several_inputs():
    class Sum(nn.Module):
        def __init__(self):
            self.a, self.b = nn.Linear(2, 1, rng=0), nn.Linear(3, 1, rng=1)

        def forward(self, x, z):
            return self.a(x) + self.b(z)

    rng = np.random.default_rng(0)
    x, z = rng.normal(size=(40, 2)), rng.normal(size=(40, 3))
    y = x @ [[1.0], [2.0]] + z @ [[3.0], [-1.0], [0.5]] + 4.0
    for compiled in (False, True):
        model = Sum()
        history = fit(
            model, (x, z, y), nn.squared_error, optim.Adam(model.parameters(), 0.1), epochs=100,
            batch_size=20, rng=0, compiled=compiled,
        )  # fmt: skip
        assert history["loss"][-1] < 1e-3
        np.testing.assert_allclose(model.b.W.data[:, 0], [3.0, -1.0, 0.5], atol=0.05)


@pytest.mark.parametrize("per", ["epoch", "batch"])
def test_the_schedule_goes_by_epoch_or_by_batch(per):
    model = network()
    sgd = optim.SGD(model.parameters(), 1.0)
    history = fit(
        model, problem(30), nn.cross_entropy, sgd, epochs=4, batch_size=10, rng=0,
        scheduler=optim.StepLR(sgd, 2, gamma=0.5), scheduler_per=per,
    )  # fmt: skip
    expected = [1.0, 1.0, 0.5, 0.5] if per == "epoch" else [0.5, 0.125, 0.0625, 0.015625]
    np.testing.assert_allclose(history["lr"], expected)


def test_callbacks_see_every_batch_and_can_stop():
    class Watch(Callback):
        def __init__(self):
            self.losses, self.epochs = [], []

        def on_batch_end(self, run):
            assert run.batch == len(self.losses) % 3 + 1
            self.losses.append(run.batch_loss)

        def on_epoch_end(self, run):
            assert run.history.epochs == run.epoch + 1
            self.epochs.append(run.epoch)
            run.stop = run.epoch == 1

    model, watch = network(), Watch()
    history = fit(
        model, problem(30), nn.cross_entropy, optim.SGD(model.parameters(), 0.1), epochs=9,
        batch_size=10, rng=0, callbacks=[watch],
    )  # fmt: skip
    assert watch.epochs == [0, 1]
    assert history.stopped
    np.testing.assert_allclose(history["loss"], np.reshape(watch.losses, (2, 3)).mean(1))


# --- early stopping ------------------------------------------------------------------------------


def scripted(values, stopping, epochs=20):
    """Train with a validation metric that takes given values; the parameters of every epoch."""
    model, states, script = network(), [], iter(values)
    history = fit(
        model, problem(4), nn.cross_entropy, optim.SGD(model.parameters(), 0.1), epochs=epochs,
        batch_size=4, rng=0, validation=problem(4), metrics={"m": lambda *_: next(script)},
        early_stopping=stopping, callbacks=[lambda run: states.append(numbers(run.model))],
    )  # fmt: skip
    return history, states, numbers(model)


@pytest.mark.parametrize(
    ("values", "stopping", "epochs", "best"),
    [
        ([5, 4, 3, 3, 3, 9], EarlyStopping(2, "val_m"), 5, 3),
        ([5, 6, 4, 6, 6, 6, 3], EarlyStopping(3, "val_m"), 6, 3),
        ([1, 2, 3, 2, 2, 9], EarlyStopping(2, "val_m", mode="max"), 5, 3),
        ([5, 4.5, 4.1, 3.9, 3.5, 3.4, 3], EarlyStopping(3, "val_m", min_delta=1.0), 7, 4),
        ([math.nan, 3, math.nan, 4, 1], EarlyStopping(2, "val_m"), 4, 2),
    ],
)
def test_early_stopping(values, stopping, epochs, best):
    history, states, final = scripted(values, stopping)
    assert history.epochs == len(states) == epochs
    assert history.best_epoch == best
    assert history.stopped
    assert final == states[best - 1]
    _, states, final = scripted(values, stopping._replace(restore_best=False))
    assert final == states[-1]


def test_the_best_epoch_is_kept_also_without_a_stop():
    history, states, final = scripted([3, 1, 2], EarlyStopping(5, "val_m"), epochs=3)
    assert not history.stopped
    assert final == states[1]


# --- going on after a kill -----------------------------------------------------------------------

RUN = """
import sys, numpy as np, tinygrad_bp as tb
from tinygrad_bp import nn, optim
from tinygrad_bp.training import EarlyStopping, accuracy, fit, save_model


class Net(nn.Module):
    def __init__(self, rng):
        self.first = nn.Linear(2, 8, rng=rng)
        self.dropout = nn.Dropout(0.3, rng=rng)
        self.again = [nn.Dropout(0.1, rng=9)]  # with a generator of its own
        self.last = nn.Linear(8, 2, rng=5)

    def forward(self, x):
        return self.last(self.again[0](self.dropout(tb.tanh(self.first(x)))))


def train(checkpoint, resume, bits="PCG64", every=1, epochs=5, **changes):
    data = np.random.default_rng(1)
    x = data.normal(size=(50, 2))
    y = (x[:, 0] * x[:, 1] > 0).astype(int)
    rng = np.random.Generator(getattr(np.random, bits)(3))
    model = Net(rng)
    optimizer = changes.pop("optimizer", optim.AdamW)(model.parameters(), lr=0.05)
    warm_up = optim.LinearLR(optimizer, 0.1, total_iters=10)
    parts = [warm_up, optim.CosineAnnealingLR(optimizer, 30)]
    options = dict(
        batch_size=8, scheduler=optim.SequentialLR(optimizer, parts, [10]), scheduler_per="batch",
        validation=(x[:20], y[:20]), metrics=[accuracy], clip_norm=1.0,
        early_stopping=EarlyStopping(4, "val_accuracy", mode="max"), epochs=epochs, rng=rng,
    )
    options.update(changes)
    history = fit(
        model, (x, y), nn.cross_entropy, optimizer,
        checkpoint=checkpoint, checkpoint_every=every if checkpoint else None, resume=resume,
        **options,
    )
    return model, history


if __name__ == "__main__":
    print("ready", flush=True)
    model, history = train(sys.argv[1], True)
    save_model(model, sys.argv[2])
"""
exec(RUN.partition("if __name__")[0], names := {"__name__": "the_run"})
train = names["train"]


@pytest.fixture
def file(tmp_path):
    pytest.importorskip("safetensors", reason="checkpoints need the extra `data`")
    return tmp_path / "run.ckpt"


def same(a, b):
    (model, history), (other, second) = a, b
    assert numbers(model) == numbers(other)
    assert repr(history) == repr(second)
    for name in history:
        np.testing.assert_array_equal(history[name], second[name])


class Killed(BaseException):
    """What ends a run in a test."""


@pytest.mark.parametrize("bits", ["PCG64", "MT19937", "Philox", "SFC64", "PCG64DXSM"])
@pytest.mark.parametrize("every", [1, 3, None])
def test_a_run_that_ends_anywhere_goes_on_with_the_same_bits(file, bits, every):
    uninterrupted = train(None, False, bits)
    rng = np.random.default_rng(0)

    class Kill(Callback):
        def __init__(self):
            self.left = int(rng.integers(1, 12))

        def on_batch_end(self, run):
            self.left -= 1
            if not self.left:
                raise Killed

        def on_epoch_end(self, run):
            self.on_batch_end(run)

    for attempt in itertools.count():  # noqa: B007
        try:
            resumed = train(file, True, bits, every, callbacks=[Kill()])
        except Killed:
            continue
        break
    assert attempt > 2
    same(uninterrupted, resumed)
    same(uninterrupted, train(file, True, bits, every))  # it is finished, and says so
    assert [p.name for p in file.parent.iterdir()] == ["run.ckpt"]


def test_a_process_killed_at_any_moment_goes_on_with_the_same_bits(file, tmp_path):
    script, final, straight = (tmp_path / name for name in ("run.py", "final", "straight"))
    script.write_text(textwrap.dedent(RUN))
    save_model(train(None, False)[0], straight)
    rng, seen = np.random.default_rng(0), set()

    def version():
        return file.exists() and (file.stat().st_ino, file.stat().st_mtime_ns)

    while not final.exists():
        command = [sys.executable, str(script), str(file), str(final)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            for _ in range(rng.integers(1, 6)):  # so many checkpoints, and some time
                before = version()
                while version() == before and process.poll() is None:
                    time.sleep(0.0005)
            time.sleep(rng.uniform(0.0, 0.005))
            process.send_signal(signal.SIGKILL)
        seen.add(file.read_bytes())
    assert len(seen) > 3  # it was killed at different places
    assert final.read_bytes() == straight.read_bytes()


def test_a_finished_run_goes_on_to_more_epochs(file):
    straight = train(None, False, epochs=4, early_stopping=None)
    train(file, False, epochs=2, early_stopping=None)
    same(straight, train(file, True, epochs=4, early_stopping=None))


def test_a_checkpoint_is_not_overwritten_unasked(file):
    train(file, False, epochs=1)
    before = file.read_bytes()
    with pytest.raises(ValueError, match="is there; resume=True goes on from it"):
        train(file, False, epochs=1)
    assert file.read_bytes() == before


OTHER = np.zeros((20, 2)), np.zeros(20, int)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 9}, "the run in it had batch_size 8, this one has 9"),
        ({"clip_norm": None}, "clip_norm 1.0, this one has None"),
        ({"optimizer": optim.Adam}, "optimizer AdamW, this one has Adam"),
        ({"scheduler": None}, "scheduler SequentialLR, this one has None"),
        ({"scheduler_per": "epoch"}, "scheduler_per batch"),
        ({"early_stopping": EarlyStopping(3)}, "early_stopping"),
        ({"validation": OTHER}, "the run in it had other validation"),
        ({"bits": "SFC64"}, "generators"),
        ({"rng": 3}, "generators"),
    ],
)
def test_another_run_is_refused(file, changes, message):
    train(file, False, epochs=1)
    with pytest.raises(ValueError, match=message):
        train(file, True, **changes)


def damaged(change):
    """A checkpoint with something changed in its JSON or its arrays."""

    def damage(content):
        numpy = pytest.importorskip("safetensors.numpy")
        length = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + length])["__metadata__"]
        state = json.loads(metadata["tinygrad_bp checkpoint"])
        arrays = numpy.load(content)
        change(state, arrays)
        return numpy.save(arrays, {"tinygrad_bp checkpoint": json.dumps(state)})

    return damage


def set_to(*keys, to):
    def change(state, arrays):
        place = state
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = to

    return damaged(change)


def array_to(name, to):
    return damaged(lambda state, arrays: arrays.update({name: to}))


DAMAGES = {
    "cut short": (lambda content: content[:-5], "damaged"),
    "no checkpoint": (
        lambda content: pytest.importorskip("safetensors.numpy").save({"W": np.zeros(3)}),
        "a safetensors file, but no checkpoint",
    ),
    "version": (set_to("version", to=99), "version 99, not 1"),
    "no settings": (set_to("settings", to={}), "damaged checkpoint"),
    "no dict": (set_to("settings", to=None), "damaged checkpoint"),
    "epoch": (set_to("epoch", to=-1), "a count is no number"),
    "epoch of text": (set_to("epoch", to="1"), "a count is no number"),
    "batch": (set_to("batch", to=7), "'losses': expected float64 of shape"),
    "stop": (set_to("stop", to=1), "damaged"),
    "best": (set_to("best_epoch", to=2), "no such best epoch"),
    "generator": (set_to("generators", 0, "state", to={}), "damaged checkpoint"),
    "generators": (set_to("generators", to=[]), "shorter|longer"),
    "groups": (set_to("param_groups", to=[]), "other numbers of parameters"),
    "rate": (set_to("param_groups", 0, "lr", to=-1), "lr: expected"),
    "rate of text": (set_to("param_groups", 0, "lr", to="x"), "damaged checkpoint"),
    "steps": (set_to("steps", "0", to="many"), "expected a number of steps"),
    "another parameter": (set_to("steps", "17", to=1), "expected parameters 0 ... 3"),
    "schedule": (set_to("scheduler", to={}), "last_epoch"),
    "a parameter's shape": (array_to("model/last.b", np.zeros(5)), "expected float64 of shape"),
    "a parameter's dtype": (array_to("model/last.b", np.zeros(2, "f4")), "got float32"),
    "one more": (array_to("model/x", np.zeros(2)), "unknown 'model/x'"),
    "memory": (array_to("optimizer/0/exp_avg", np.zeros(3)), "expected float64 of shape"),
    "unknown memory": (array_to("optimizer/0/velocity", np.zeros(3)), "unknown"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_checkpoint_is_refused_and_changes_nothing(file, name):
    damage, message = DAMAGES[name]
    train(file, False, epochs=1)
    file.write_bytes(damage(file.read_bytes()))
    model = names["Net"](np.random.default_rng(3))
    adam = optim.AdamW(model.parameters(), lr=0.05)
    before = numbers(model), adam.state_dict()
    data = np.random.default_rng(1)
    x = data.normal(size=(50, 2))
    y = (x[:, 0] * x[:, 1] > 0).astype(int)
    rng = model.dropout.rng
    at_start = rng.bit_generator.state
    warm_up = optim.LinearLR(adam, 0.1, total_iters=10)
    sequence = optim.SequentialLR(adam, [warm_up, optim.CosineAnnealingLR(adam, 30)], [10])
    rates = adam.lr
    with pytest.raises(ValueError, match=message) as caught:
        fit(
            model, (x, y), nn.cross_entropy, adam, epochs=5, batch_size=8, rng=rng,
            scheduler=sequence, scheduler_per="batch", validation=(x[:20], y[:20]),
            metrics=[accuracy], clip_norm=1.0, checkpoint=file, resume=True,
            early_stopping=EarlyStopping(4, "val_accuracy", mode="max"),
        )  # fmt: skip
    assert len(str(caught.value).replace(str(file), "")) <= 200
    assert numbers(model) == before[0]
    assert adam.state_dict()["state"] == before[1]["state"] == {}
    assert adam.lr == rates
    assert rng.bit_generator.state == at_start
    assert sequence.last_epoch == 0


def test_a_checkpoint_that_cannot_be_written_is_known_before_anything_is_trained(file):
    folder = file.parent / "nowhere"
    calls = []
    with pytest.raises(ValueError, match=f"there is no folder {folder}"):
        train(folder / "run.ckpt", False, callbacks=[calls.append])
    assert not calls
    assert not list(file.parent.iterdir())


def test_a_validation_loss_that_is_none():
    x, y = problem(4)
    model, losses = network(), iter([1.0, math.nan])
    with pytest.raises(FloatingPointError, match="validation loss: after epoch 1, it is nan"):
        fit(
            model, (x, y), lambda o, y: nn.cross_entropy(o, y) * next(losses),
            optim.SGD(model.parameters(), 0.1), epochs=1, rng=0, validation=(x, y),
        )  # fmt: skip


def test_parameters_that_would_not_be_saved_are_refused(file):
    model, stranger = network(), tb.Tensor([1.0])
    with pytest.raises(ValueError, match="moves parameters that the model lacks"):
        fit(
            model, problem(), nn.cross_entropy, optim.SGD([stranger], 0.1), epochs=1, rng=0,
            checkpoint=file,
        )  # fmt: skip


# --- what is refused -----------------------------------------------------------------------------

X, Y = problem(8)
HOLED = X.copy()
HOLED[5, 1] = np.nan
LEAF = tb.Tensor([1.0])


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model": len}, TypeError, "model: expected a Module, got builtin_function"),
        ({"optimizer": 0.1}, TypeError, "optimizer: expected an Optimizer, got float"),
        ({"data": X}, TypeError, r"data: expected arrays \(x, y\), got ndarray"),
        ({"data": (X,)}, ValueError, "data: expected inputs and targets, got tuple of length 1"),
        (
            {"data": (X, Y[:5])},
            ValueError,
            r"data\[1\]: expected 8 samples, as in the first, got 5",
        ),
        ({"data": (X[:0], Y[:0])}, ValueError, r"data\[0\]: expected samples, got ndarray of"),
        ({"data": (HOLED, Y)}, ValueError, r"data\[0\]: sample 5 has nan or infinity"),
        ({"data": (X.astype(str), Y)}, TypeError, r"data\[0\]: expected numbers, got ndarray of"),
        ({"validation": (HOLED, Y)}, ValueError, r"validation\[0\]: sample 5 has nan"),
        ({"epochs": -1}, ValueError, "epochs: expected an integer of at least 0, got -1"),
        ({"batch_size": 0}, ValueError, "batch_size: expected an integer of at least 1, got 0"),
        ({"metrics": [accuracy]}, ValueError, "metrics: they are of the validation data"),
        (
            {"metrics": ["accuracy"], "validation": (X, Y)},
            TypeError,
            "metrics: expected functions, got str",
        ),
        ({"early_stopping": 3}, ValueError, "there is no 'val_loss' to monitor; there are loss"),
        ({"early_stopping": EarlyStopping(0, "loss")}, ValueError, "patience: expected an integer"),
        (
            {"early_stopping": EarlyStopping(1, "loss", mode="least")},
            ValueError,
            "expected 'min' or 'max', got 'least'",
        ),
        (
            {"scheduler": optim.StepLR(optim.SGD([LEAF], 0.1), 1)},
            ValueError,
            "of the optimizer tha",
        ),
        ({"scheduler_per": "step"}, ValueError, "scheduler_per: expected 'epoch' or 'batch'"),
        ({"data": (X, Y + 1)}, ValueError, "2"),  # cross_entropy names the class
        ({"loss": lambda o, y: o}, ValueError, "loss: expected a single number"),
        ({"loss": lambda o, y: 1.0}, TypeError, "loss: expected a Value or a Tensor, got float"),
        (
            {"loss": lambda o, y: nn.cross_entropy(o, y) * np.inf},
            FloatingPointError,
            "loss: in epoch 1, batch 1 of 1, it is inf; with detect_anomaly",
        ),
    ],
)
@pytest.mark.parametrize("compiled", [False, True])
def test_bad_input_is_named_and_nothing_moves(changes, error, message, compiled):
    model = network()
    before = numbers(model)
    arguments = {
        "model": model, "data": (X, Y), "loss": nn.cross_entropy,
        "optimizer": optim.SGD(model.parameters(), 0.1), "epochs": 1, "rng": 0,
    }  # fmt: skip
    if compiled and "loss" in changes:  # here the recorder says it
        message = message.replace("a Value or a Tensor", "a Value, a Tensor or Values")
        message = message.replace("loss: expected", "expected.*")
    with pytest.raises(error, match=message):
        fit(**{**arguments, **changes}, compiled=compiled)
    assert numbers(model) == before


def test_a_record_with_dropout_leaves_out_what_the_model_would():
    def trained(compiled):
        rng = np.random.default_rng(1)  # of two layers, in turns
        model = nn.Sequential(
            nn.Linear(2, 8, rng=0), nn.Dropout(0.3, rng=rng), "tanh", nn.Linear(8, 8, rng=1),
            nn.Dropout(0.2, rng=rng), nn.Dropout(0.1, rng=9), nn.Linear(8, 2, rng=2),
        )  # fmt: skip
        optimizer = optim.Adam(model.parameters(), lr=0.01)
        fit(
            model, problem(), nn.cross_entropy, optimizer, epochs=3, batch_size=16, rng=3,
            compiled=compiled,
        )  # fmt: skip
        return rng.bit_generator.state, model.state_dict()

    (state, expected), (drawn, found) = trained(False), trained(True)
    assert drawn == state
    for name, x in expected.items():
        np.testing.assert_allclose(found[name], x, rtol=1e-9, atol=1e-12, err_msg=name)


def test_a_record_follows_what_a_callback_changes():
    """The loss and a part of the model are handed on by functions of ours."""

    def trained(compiled):
        strength, scale = {"now": 1.0}, [1.0]
        model = nn.Sequential(
            nn.Linear(2, 3, rng=0), lambda x: x * scale[0], nn.Linear(3, 2, rng=1)
        )

        def loss(output, y):
            return nn.cross_entropy(output, y) * strength["now"]

        def change(run):
            strength["now"] += 1.0
            scale[0] *= 0.5

        return fit(
            model, problem(), loss, optim.SGD(model.parameters(), 0.1), epochs=3, rng=0,
            batch_size=16, callbacks=[change], compiled=compiled,
        )["loss"]  # fmt: skip

    np.testing.assert_allclose(trained(True), trained(False), rtol=1e-12)


def test_metrics_need_one_array_by_sample():
    class Transposed(nn.Module):
        def __init__(self):
            self.linear = nn.Linear(2, 2, rng=0)

        def forward(self, x):
            return self.linear(x).T

    model = Transposed()
    with pytest.raises(ValueError, match="output to be one array of 5 samples, got Tensor"):
        fit(
            model, problem(5), lambda o, y: nn.cross_entropy(o.T, y),
            optim.SGD(model.parameters(), 0.1), epochs=1, rng=0, validation=problem(5),
            metrics=[accuracy],
        )  # fmt: skip


def test_accuracy():
    outputs = [[[0.1, 0.9], [0.8, 0.2]], [[0.3, 0.7], [0.6, 0.4]]]
    assert accuracy(outputs, [[1, 0], [0, 0]]) == 0.75
    for labels in ([1, 0], [[1.0, 0.0], [0.0, 0.0]]):
        with pytest.raises(ValueError, match="labels: expected integers of shape"):
            accuracy(outputs, labels)
    with pytest.raises(ValueError, match="at least one sample"):
        accuracy(np.zeros((0, 2)), np.zeros(0, int))


def test_the_history_shows_itself_as_a_table():
    history = History({"loss": [2.0, 1.0, 0.5], "val_loss": [3.0, 1.25, 1.5]}, 2, stopped=True)
    assert repr(history) == (
        "epoch  loss  val_loss\n"
        "    1     2         3\n"
        "    2     1      1.25\n"
        "    3   0.5       1.5\n"
        "best: epoch 2, stopped"
    )
    long = repr(History({"loss": np.arange(1, 101)}))
    assert [line.split()[0] for line in long.splitlines()[1:]] == [
        *("1", "2", "3", "…", "95", "96", "97", "98", "99", "100")
    ]


def test_progress_is_shown_and_needs_tqdm(capsys, monkeypatch):
    pytest.importorskip("tqdm")
    model = network()
    arguments = problem(30), nn.cross_entropy, optim.SGD(model.parameters(), 0.1)
    fit(model, *arguments, epochs=2, batch_size=10, rng=0, progress=True)
    assert "6/6" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(ImportError, match=r"tinygrad_bp\[data\]"):
        fit(model, *arguments, epochs=2, batch_size=10, rng=0, progress=True)


@pytest.mark.parametrize("kind", [list, np.array, tb.Tensor, tb.values])
def test_accuracy_is_of_arrays_and_of_nodes(kind):
    assert accuracy(kind([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]]), [1, 1, 1]) == 2 / 3
