"""Parameters in files: what comes back, what is refused, and what a kill leaves behind."""

import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from hypothesis import given, strategies as st

import tinygrad_bp as tb
from tinygrad_bp import files, nn

safetensors = pytest.importorskip("safetensors", reason="files need the extra `data`")
safe_numpy = pytest.importorskip("safetensors.numpy")


class Odd(nn.Module):
    """Parameters of every kind."""

    def __init__(self, seed):
        rng = np.random.default_rng(seed)
        self.single = tb.Value(rng.normal())
        self.point = tb.Tensor(rng.normal())
        self.empty = tb.Tensor(np.zeros((0, 3)))
        self.narrow = tb.Tensor(rng.normal(size=(2, 3)).astype(np.float32))
        self.turned = tb.Tensor(rng.normal(size=(4, 2)).T)
        self.scalars = tb.values(rng.normal(size=(2, 2)))
        self.frozen = tb.Tensor([seed], requires_grad=False)


def state_of(model):
    return {name: (x.dtype, x.tobytes(), x.shape) for name, x in model.state_dict().items()}


@pytest.mark.parametrize(
    "make", [Odd, lambda seed: nn.MLP([3, 4, 2], rng=seed), lambda seed: nn.MLP([3, 2], rng=seed)]
)
def test_what_is_saved_comes_back_bit_for_bit(tmp_path, make):
    model, other = make(1), make(2)
    path = tmp_path / "model.safetensors"
    tb.save_model(model, path)
    assert state_of(model) != state_of(other)
    tb.load_model(other, str(path))
    assert state_of(model) == state_of(other)
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_odd_numbers_survive(tmp_path):
    model, other = nn.Linear(3, 1, rng=0), nn.Linear(3, 1, rng=1)
    model.W.data = [[np.nan], [-0.0], [np.inf]]
    tb.save_model(model, tmp_path / "m")
    tb.load_model(other, tmp_path / "m")
    assert state_of(model) == state_of(other)


def test_the_library_reads_and_writes_the_same(tmp_path):
    model = nn.MLP([3, 4, 2], rng=0)
    tb.save_model(model, tmp_path / "ours")
    theirs = safe_numpy.load_file(tmp_path / "ours")
    assert theirs.keys() == {"layers.0.W", "layers.0.b", "layers.1.W", "layers.1.b"}
    np.testing.assert_array_equal(theirs["layers.1.W"], model.layers[1].W.data)
    doubled = {name: 2.0 * x for name, x in theirs.items()}
    safe_numpy.save_file(doubled, tmp_path / "theirs", metadata={"format": "pt"})
    tb.load_model(model, tmp_path / "theirs")
    np.testing.assert_array_equal(model.layers[1].W.data, doubled["layers.1.W"])


def test_a_graph_recorded_before_loading_stays_valid(tmp_path):
    model = nn.Linear(1, 1, rng=0)
    tb.save_model(model, tmp_path / "m")
    model.W.data = [[5.0]]
    loss = tb.sum(model.W * model.W)
    tb.load_model(model, tmp_path / "m")
    loss.backward()
    assert model.W.grad[0, 0] == 10.0


# --- files that do not fit, or are none ----------------------------------------------------------


def fitting():
    return nn.Linear(2, 3, rng=0).state_dict()


def entry(dtype, shape, start, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def raw(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def without(name):
    return {key: x for key, x in fitting().items() if key != name}


FILES = {
    "empty": (b"", "not a safetensors file, or one cut short"),
    "short": (b"\x01\x02", "not a safetensors file, or one cut short"),
    "text": (b"hello, world; this is no such file", "not a safetensors file"),
    "pickle": (b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00.", "not a safetensors file"),
    "zip": (b"PK\x03\x04" + bytes(100), "not a safetensors file"),
    "huge header": (raw(b" " * (2**24 + 1)), "the header has 16,777,217 bytes"),
    "claims a huge header": (raw(b"{}", length=2**63), "not a safetensors file, or one cut short"),
    "no JSON": (raw(b"{nonsense}"), "damaged"),
    "deep JSON": (raw(b"[" * 100_000), "damaged"),
    "a list": (raw([1, 2]), "damaged"),
    "data missing": (raw({"W": entry("F64", [2, 3], 0, 48)}), "damaged"),
    "data left over": (raw({"W": entry("F64", [1], 0, 8)}, bytes(16)), "damaged"),
    "overlap": (
        raw({"W": entry("F64", [1], 0, 8), "b": entry("F64", [1], 4, 12)}, bytes(12)),
        "damaged",
    ),
    "negative": (raw({"W": entry("F64", [-1], 0, 8)}, bytes(8)), "damaged"),
    "overflowing": (raw({"W": entry("F64", [2**62, 2**62], 0, 8)}, bytes(8)), "damaged"),
    "unknown dtype": (raw({"W": entry("O", [1], 0, 8)}, bytes(8)), "damaged"),
    "one missing": (safe_numpy.save(without("b")), "missing 'b', unknown nothing"),
    "one too many": (
        safe_numpy.save({**fitting(), "../../etc/passwd": np.zeros(1)}),
        "missing nothing, unknown '../../etc/passwd'",
    ),
    "control characters": (
        safe_numpy.save({**fitting(), "\x1b[2J\n" * 500: np.zeros(1)}),
        r"unknown '\\x1b\[2J\\n",
    ),
    "many": (
        safe_numpy.save({f"x{i:03}": np.zeros(1) for i in range(100)}),
        "unknown 'x000', 'x001', 'x002' and 97 more",
    ),
    "other shape": (
        safe_numpy.save({**fitting(), "W": np.zeros((3, 2))}),
        r"'W': expected float64 of shape \(2, 3\), got float64 of shape \(3, 2\)",
    ),
    "other dtype": (
        safe_numpy.save({**fitting(), "b": np.zeros(3, np.float32)}),
        r"'b': expected float64 of shape \(3,\), got float32",
    ),
    "bfloat16": (
        raw({"W": entry("F64", [2, 3], 0, 48), "b": entry("BF16", [3], 48, 54)}, bytes(54)),
        "'b': expected float64 .* got BF16",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_what_does_not_fit_is_refused_and_nothing_is_set(tmp_path, name):
    content, message = FILES[name]
    path = tmp_path / "m"
    path.write_bytes(content)
    model = nn.Linear(2, 3, rng=0)
    before = state_of(model)
    with pytest.raises(ValueError, match=message) as caught:
        tb.load_model(model, path)
    assert state_of(model) == before
    assert len(str(caught.value).replace(str(path), "")) <= 200


@given(st.data())
def test_a_file_cut_short_or_changed_in_its_header_never_gives_other_shapes(tmp_path, data):
    whole = safe_numpy.save(fitting())
    header = 8 + int.from_bytes(whole[:8], "little")
    if data.draw(st.booleans()):
        damaged = whole[: data.draw(st.integers(0, len(whole) - 1))]
    else:
        place, byte = data.draw(st.integers(0, header - 1)), data.draw(st.integers(0, 255))
        damaged = whole[:place] + bytes([byte]) + whole[place + 1 :]
    path = tmp_path / "m"
    path.write_bytes(damaged)
    model = nn.Linear(2, 3, rng=0)
    before = state_of(model)
    try:
        tb.load_model(model, path)
    except ValueError:
        assert state_of(model) == before
    else:  # a space for another space, say
        assert state_of(model).keys() == before.keys()


def test_what_is_no_file(tmp_path):
    model = nn.Linear(2, 3, rng=0)
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe")
    for name in ("missing", "loop", "dangling", "a\0b"):
        with pytest.raises(ValueError, match=r"cannot be read|without NUL"):
            tb.load_model(model, tmp_path / name)
    for name in ("pipe", "."):
        with pytest.raises(ValueError, match="expected a file, got a folder, a pipe or a device"):
            tb.load_model(model, tmp_path / name)
    with pytest.raises(ValueError, match="expected a file"):
        tb.load_model(model, "/dev/zero")


def test_links_are_followed_to_be_read_and_refused_to_be_written(tmp_path):
    model, other = nn.Linear(2, 3, rng=0), nn.Linear(2, 3, rng=1)
    tb.save_model(model, tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    tb.load_model(other, tmp_path / "link")
    assert state_of(model) == state_of(other)
    with pytest.raises(ValueError, match="is a symbolic link"):
        tb.save_model(model, tmp_path / "link")
    with pytest.raises(ValueError, match="there is no folder"):
        tb.save_model(model, tmp_path / "nowhere" / "m")


def test_what_cannot_be_saved():
    with pytest.raises(TypeError, match="model: expected a Module, got dict"):
        tb.save_model({}, "m")
    with pytest.raises(ValueError, match="model: Module has no parameters"):
        tb.save_model(nn.Module(), "m")


def test_without_the_library_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    for act in (tb.save_model, tb.load_model):
        with pytest.raises(ImportError, match=r"tinygrad_bp\[data\]"):
            act(nn.Linear(2, 3, rng=0), tmp_path / "m")


# --- kills and failures on the way ---------------------------------------------------------------


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failure_leaves_the_old_file(tmp_path, monkeypatch, call):
    path = tmp_path / "m"
    tb.save_model(nn.Linear(2, 3, rng=0), path)
    before = path.read_bytes()

    def fail(*_):
        raise OSError("full")

    monkeypatch.setattr(files.os, call, fail)
    with pytest.raises(OSError, match="full"):
        tb.save_model(nn.Linear(2, 3, rng=1), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


WRITER = """
import sys, numpy as np, tinygrad_bp as tb
from tinygrad_bp import nn
model = nn.Linear(300, 300, rng=0)
print("ready", flush=True)
n = 1000 * int(sys.argv[2])
while True:
    n += 1
    model.W.data = np.full((300, 300), float(n)); model.b.data = np.full(300, float(n))
    tb.save_model(model, sys.argv[1])
"""


def test_a_kill_at_any_moment_leaves_one_whole_file(tmp_path):
    """Whatever the moment: all numbers of the file are those of one and the same save."""
    path, rng = tmp_path / "m", np.random.default_rng(0)
    model, seen = nn.Linear(300, 300, rng=0), set()

    def version():
        return path.exists() and (path.stat().st_ino, path.stat().st_mtime_ns)

    for k in range(8):
        command = [sys.executable, "-c", WRITER, str(path), str(k)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            before = version()
            while version() == before:
                time.sleep(0.001)
            time.sleep(rng.uniform(0.0, 0.02))
            process.send_signal(signal.SIGKILL)
        tb.load_model(model, path)
        numbers = np.unique(np.concatenate([model.W.data.ravel(), model.b.data]))
        assert len(numbers) == 1
        seen.add(numbers[0] // 1000)
    assert len(seen) == 8


def test_readers_see_one_file_while_it_is_replaced(tmp_path):
    path, models = tmp_path / "m", [nn.Linear(40, 40, rng=seed) for seed in range(2)]
    tb.save_model(models[0], path)
    states = [state_of(model) for model in models]
    stop = threading.Event()

    def write():
        while not stop.is_set():
            for model in models:
                tb.save_model(model, path)

    writer = threading.Thread(target=write)
    writer.start()
    reader = nn.Linear(40, 40, rng=2)
    for _ in range(50):
        tb.load_model(reader, path)
        assert state_of(reader) in states
    stop.set()
    writer.join()
