"""Files as an enemy would make them."""

import collections
import gzip
import io
import json
import os
import random
import struct
import sys
import zipfile

import numpy as np
import pytest

import tinygrad_bp as tb
from tinygrad_bp import datasets, nn, replay
from tinygrad_bp.files import array_of

pytest.importorskip("safetensors", reason="files need the extra `data`")
from fuzz import Mismatch, files, readers
from fuzz.mutations import npy
from fuzz.real_files import content_of, packed, shifted
from saving import listing

MANY = int(os.environ.get("TINYGRAD_BP_FUZZ", "1"))  # times as many


# --- contents ------------------------------------------------------------------------------------


def with_generator(bits, change):
    """A checkpoint with the state of its generator changed."""
    content = content_of(f"checkpoint {bits}")
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    (name, text), = header["__metadata__"].items()  # fmt: skip
    state = json.loads(text)
    change(state["generators"][0])
    header["__metadata__"][name] = json.dumps(state)
    new = json.dumps(header).encode()
    return struct.pack("<Q", len(new)) + new + content[8 + length :]


@pytest.mark.parametrize("place", [-1, -(10**6), 625, 10**9])
def test_a_generator_whose_place_is_none_is_refused(tmp_path, place):
    """numpy takes any, and reads there: another's memory, or none at all."""
    path = tmp_path / "f"
    long = [1] * 700
    for bits, change in (
        ("MT19937", lambda g: g["state"].update(pos=place)),
        ("MT19937", lambda g: g["state"].update(pos=place, key=long)),
        ("Philox", lambda g: g.update(buffer_pos=place)),
    ):
        path.write_bytes(with_generator(bits, change))
        reader = readers.Checkpoint(bits)
        before = reader.state()
        with pytest.raises(ValueError, match=r"at no place|damaged"):
            reader.read(path)
        assert reader.state() == before


def test_places_of_a_generator_that_are_some_are_taken(tmp_path):
    for place in (0, 624):
        (tmp_path / "f").write_bytes(
            with_generator("MT19937", lambda g, place=place: g["state"].update(pos=place))
        )
        readers.Checkpoint("MT19937").read(tmp_path / "f")


def test_a_count_of_steps_that_no_float_holds_is_refused():
    model = nn.Linear(2, 3, rng=0)
    adam = tb.optim.Adam(model.parameters())
    state = {"state": {0: {"step": 10**400}}, "param_groups": adam.state_dict()["param_groups"]}
    with pytest.raises(ValueError, match=r"state\[0\]\['step'\]: expected a number below"):
        adam.load_state_dict(state)


def test_a_program_without_a_result_is_refused(tmp_path):
    """Its gradient would be that of nothing: machine code would write beside an array."""
    program = tb.compile(shifted).program(0.3, 1.7)
    program.outputs = []
    with pytest.raises(ValueError, match="outputs: expected at least one"):
        replay.save(program, tmp_path / "p")


def program_with(change):
    """A program with its JSON changed."""
    with zipfile.ZipFile(io.BytesIO(content_of("program scalar"))) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["program.json"] = change(members["program.json"])
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: b'{"kind": 1, ' + text[1:], "has a name twice"),
        (lambda text: text.replace(b'"line', b'"\\ud800line').replace(
            b'"guards": [[', b'"guards": [[0, true, "\\uD800"], ['), "half a character"),
        (lambda text: b'{"' + b"x" * 10**6 + b'": 0}', "not a program"),
        (lambda text: text.decode().encode("utf-16"), "decode|not a"),
        (lambda text: text.replace(b'"version": 1', b'"version": "\\u001b[2J' + b"9" * 999 + b'"'),
         "version"),
    ],
)  # fmt: skip
def test_texts_that_lie(tmp_path, change, message):
    (tmp_path / "f").write_bytes(program_with(change))
    with pytest.raises(ValueError, match=message) as caught:
        replay.load(tmp_path / "f")
    text = str(caught.value).replace(str(tmp_path / "f"), "")
    assert text.isprintable()
    assert len(text) <= 200


def header(descr="'<f8'", order="False", shape="(1,)", data=bytes(8), version=b"\1\0", more=""):
    text = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, {more}}}\n".encode()
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text + data


@pytest.mark.parametrize(
    "data",
    [
        header(shape=f"({2**62},)"),
        header(shape=f"({2**40}, {2**40}, 0)", data=b"x"),
        header(shape="(-1, -1)"),
        header(shape="(" + "1," * 40 + ")"),
        header(shape="(1if 1else 2,)"),
        header(shape="1_0,"),
        header(shape="(" * 5000),
        header(descr="'|O'"),
        header(descr="'\\d'"),
        header(descr="__import__('os').getcwd()"),
        header(version=b"\3\0"),
        header(data=bytes(7)),
        header(data=bytes(9)),
        b"",
        b"\x93NUMPY",
        b"\x80\x04\x95",
    ],
)
def test_arrays_that_lie(data):
    with pytest.raises(ValueError, match=r"."):  # and no warning, which would be an error here
        array_of(data)


def test_arrays_that_do_not_lie():
    for x in (np.arange(6.0).reshape(2, 3), np.arange(6)[::2], np.asfortranarray(np.eye(3, 2))):
        np.testing.assert_array_equal(array_of(npy(x)), x)
    np.testing.assert_array_equal(array_of(header()), [0.0])
    assert array_of(header(descr="'|b1'", data=b"\7")).tobytes() == b"\1"


def test_bombs(tmp_path):
    path = tmp_path / "b.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in "xy":
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                for _ in range(257):
                    file.write(bytes(2**20))
    with pytest.raises(ValueError, match=r"'x' would become 269,484,032 bytes from"):
        datasets.npz(path)
    lies = bytearray(packed(x=np.zeros(3), y=np.zeros(3)))
    at = lies.find(b"PK\1\2")
    lies[at + 20 : at + 28] = struct.pack("<2I", 2**28, 2**28)
    path.write_bytes(lies)
    with pytest.raises(ValueError, match="claims to be longer than the file"):
        datasets.npz(path)
    name = "train-images-idx3-ubyte.gz"
    (tmp_path / name).write_bytes(gzip.compress(struct.pack(">4I", 0x803, 2**10, 2**10, 2**11)))
    with pytest.raises(ValueError, match=r"expected 2,147,483,648 bytes"):
        datasets.mnist(tmp_path)


def test_a_text_keeps_its_zeros(tmp_path):
    """An array of texts would drop them."""
    (tmp_path / "t").write_bytes(b"a\0b\0")
    text = datasets.text(tmp_path / "t")
    assert text.decode(text.codes) == "a\0b\0"


def test_two_parameters_of_one_name_are_not_saved(tmp_path):
    model = nn.Module()
    model.parts = {"a": {"b": tb.Tensor([1.0])}, "a.b": tb.Tensor([2.0])}
    with pytest.raises(ValueError, match=r"two parameters have the name 'parts\.a\.b'"):
        tb.save_model(model, tmp_path / "m")
    assert not listing(tmp_path)


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "a/b", "a\0b", "\x1b[2J", "ü" * 99, ""])
def test_names_are_names_alone(tmp_path, name):
    """Whatever a parameter is called, it is in the one file, and comes back."""
    for value in (1.0, 2.0):
        model = nn.Module()
        model.parts = {name: tb.Tensor([value])}
        if value == 1.0:
            tb.save_model(model, tmp_path / "m")
    tb.load_model(model, tmp_path / "m")
    assert model.parts[name].data.tolist() == [1.0]
    assert listing(tmp_path) == ["m"]


# --- many ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", range(8))
def test_files_that_were_changed_are_refused_or_whole(part, monkeypatch):
    monkeypatch.setenv("TINYGRAD_BP_FUZZ_NUMBA", "0")  # it compiles for as long as all else takes
    tally = collections.Counter()
    for k in range(180 * MANY):
        program = files.generate(random.Random(f"{part} {k}"))
        try:
            files.check(program, tally)
        except Exception as error:
            error.add_note(files.code(program))
            raise
    outcomes = [tally[f"{kind}: {how}"] for kind in readers.READERS for how in ("refused", "read")]
    assert sum(outcomes) == 180 * MANY
    assert tally["program: refused"] > 0 < tally["program: read"]


def test_a_reader_that_does_too_much_is_found_out(monkeypatch):
    """The check itself."""
    whole = files.Changed("text", ())
    files.check(whole, collections.Counter())
    real = readers.Reading.read

    def opens(self, path):
        real(self, path)
        open(path.with_name("other"), "w").close()

    def runs(self, path):
        real(self, path)
        eval("1 + 1")

    def reads_other(self, path):
        real(self, path)
        open("/etc/hostname" if os.path.exists("/etc/hostname") else sys.executable).close()

    for bad, message in (
        (opens, "while it was read|folder"),
        (runs, "while it was read"),
        (reads_other, "while it was read"),
    ):
        monkeypatch.setattr(readers.Reading, "read", bad)
        with pytest.raises(Mismatch, match=message):
            files.check(whole, collections.Counter())


def test_an_archive_that_ends_early_is_said_to_be_damaged(tmp_path):
    """A directory that claims more of a member than there is: the zip reader's error is empty."""
    np.savez(tmp_path / "a.npz", x=np.ones((2, 2)), y=np.ones(2))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    place = content.rfind(b"PK\x01\x02")
    for field in (20, 24):  # its size in the file, and its size
        content[place + field : place + field + 4] = (9999).to_bytes(4, "little")
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.npz: \S+.{8,}"):
        datasets.npz(tmp_path / "a.npz")
