"""Files as an enemy would make them, places that are no files, and saves that are cut off."""

import collections
import contextlib
import errno
import gzip
import io
import json
import os
import random
import resource
import stat
import struct
import subprocess
import sys
import threading
import zipfile

import numpy as np
import pytest

import tinygrad_bp as tb
from tinygrad_bp import datasets, nn, replay
from tinygrad_bp.files import array_of, read_whole, write_whole
from tinygrad_bp.training.checkpoint import write_checkpoint
from tinygrad_bp.visualize import draw

pytest.importorskip("safetensors", reason="files need the extra `data`")
from fuzz import files as fuzz

MANY = int(os.environ.get("TINYGRAD_BP_FUZZ", "1"))  # times as many


# --- what saves, and what reads ------------------------------------------------------------------


def save_model(path, version):
    model = nn.Linear(30 + version, 40, rng=0)
    tb.save_model(model, path)


def save_program(path, version):
    program = tb.compile(lambda x: (x * np.arange(900.0 + version)).sum()).program(tb.Tensor(2.0))
    replay.save(program, path)


RUNS = {}


def save_checkpoint(path, version):
    if version not in RUNS:
        RUNS[version] = fuzz.Checkpoint(fuzz.BITS[version])
    write_checkpoint(path, RUNS[version].run, RUNS[version].settings)


def save_picture(path, version):
    x = tb.Value(2.0, "x")
    draw(x * x if version else x * x + tb.exp(x)).save(path)


SAVES = {
    "model": save_model,
    "program": save_program,
    "checkpoint": save_checkpoint,
    "picture.svg": save_picture,
}
READS = {
    "model": lambda path: tb.load_model(nn.Linear(2, 3, rng=0), path),
    "checkpoint": lambda path: fuzz.Checkpoint("PCG64").read(path),
    "program": replay.load,
    "npz": datasets.npz,
    "csv": datasets.csv,
    "text": datasets.text,
}


@pytest.fixture(params=SAVES)
def save(request):
    return request.param, SAVES[request.param]


@pytest.fixture(params=READS)
def read(request):
    return READS[request.param]


def listing(folder):
    return sorted(entry.name for entry in os.scandir(folder))


# --- places to save at ---------------------------------------------------------------------------


def test_what_is_no_file_is_not_replaced(save, tmp_path):
    name, write = save
    os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match="expected a file, got a folder, a pipe or a device"):
        write(tmp_path / name, 0)
    assert stat.S_ISFIFO(os.lstat(tmp_path / name).st_mode)
    (tmp_path / "folder" / name).mkdir(parents=True)
    with pytest.raises(ValueError, match="expected a file, got a folder, a pipe or a device"):
        write(tmp_path / "folder" / name, 0)
    assert listing(tmp_path) == sorted([name, "folder"])
    assert listing(tmp_path / "folder") == [name]


@pytest.mark.skipif(not os.path.exists("/dev/null"), reason="no such device")
def test_a_device_stays_a_device(monkeypatch):
    monkeypatch.setattr(os, "replace", None)  # where it is not refused, nothing shall be lost
    with pytest.raises(ValueError, match="expected a file, got a folder, a pipe or a device"):
        write_whole("/dev/null", b"")


def test_links(save, tmp_path):
    """Models, programs and checkpoints refuse them; a picture is written where they lead."""
    name, write = save
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "old").write_bytes(b"old")
    follows = name == "picture.svg"
    for target in ("elsewhere/old", "elsewhere/new", "elsewhere", name):
        link = tmp_path / name
        link.symlink_to(tmp_path / target)
        if follows and "/" in target:
            write(link, 0)
            assert (tmp_path / target).read_bytes().startswith(b"<svg")
        else:
            with pytest.raises((ValueError, OSError)) as caught:
                write(link, 0)
            assert str(link) in str(caught.value) or str(tmp_path / target) in str(caught.value)
        assert link.is_symlink()
        assert listing(tmp_path) == sorted(["elsewhere", name])
        link.unlink()
    assert listing(tmp_path / "elsewhere") == (["new", "old"] if follows else ["old"])


def test_folders_that_are_missing_or_none(save, tmp_path):
    name, write = save
    (tmp_path / "file").write_bytes(b"")
    for parent in ("missing", "file"):
        with pytest.raises((ValueError, OSError), match=r"there is no (folder|directory)"):
            write(tmp_path / parent / name, 0)
    with pytest.raises((ValueError, OSError)):
        write(tmp_path / f"a\0{name}", 0)
    assert listing(tmp_path) == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(save, tmp_path):
    name, write = save
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError):
        write(tmp_path / name, 0)
    tmp_path.chmod(0o700)
    assert not listing(tmp_path)


def test_a_name_as_long_as_names_can_be(tmp_path):
    for name in ("n" * 255, "ä" * 127):
        write_whole(tmp_path / name, b"content")
        assert (tmp_path / name).read_bytes() == b"content"
    assert len(listing(tmp_path)) == 2


def test_who_may_read_the_old_file_may_read_the_new_one(tmp_path):
    write_whole(tmp_path / "f", b"old")
    for mode in (0o600, 0o640, 0o400):
        (tmp_path / "f").chmod(mode)
        write_whole(tmp_path / "f", b"new")
        assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == mode


def test_a_full_disk_leaves_the_old_file(save, tmp_path):
    name, write = save
    write(tmp_path / name, 0)
    before = (tmp_path / name).read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
            write(tmp_path / name, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / name).read_bytes() == before
    assert listing(tmp_path) == [name]


# --- places to read from -------------------------------------------------------------------------


def test_what_never_ends_or_never_begins_is_not_read(read, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero", tmp_path):
        with pytest.raises(ValueError, match="expected a file, got a folder, a pipe or a device"):
            read(path)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "dangling").symlink_to(tmp_path / "missing")
    for name in ("loop", "dangling", "missing", "a\0b", "n" * 300):
        with pytest.raises((ValueError, OSError)):
            read(tmp_path / name)


def test_a_terabyte_of_nothing_is_not_read(read, tmp_path):
    with open(tmp_path / "huge", "wb") as file:
        file.truncate(2**40)
    with pytest.raises(ValueError, match=r"at most [\d,]+ are read|no \.npz archive"):
        read(tmp_path / "huge")


def test_a_file_that_changes_while_it_is_read(tmp_path, monkeypatch):
    path = tmp_path / "f"
    for size, after in ((100, 50), (100, 150), (0, 1)):
        path.write_bytes(bytes(size))

        def opened(path, after=after):
            file = open(path, "rb", buffering=0)  # noqa: SIM115
            known = os.fstat(file.fileno())
            monkeypatch.setattr("tinygrad_bp.files.os.fstat", lambda _: known)
            os.truncate(path, after)
            return file

        with monkeypatch.context():
            monkeypatch.setattr("tinygrad_bp.files.open_file", opened)
            with pytest.raises(ValueError, match="changed while it was read"):
                read_whole(path, 120)
        monkeypatch.undo()


def test_a_file_that_is_cut_while_it_is_loaded_breaks_nothing(tmp_path):
    """Numbers in a file that is mapped to memory, and then cut, would end the process."""
    path, model, stop = tmp_path / "f", nn.Linear(200, 200, rng=0), threading.Event()
    tb.save_model(model, path)
    whole = path.read_bytes()

    def cut():
        while not stop.is_set():
            os.truncate(path, 100)
            path.write_bytes(whole)

    thread = threading.Thread(target=cut)
    thread.start()
    try:
        for _ in range(100):
            with contextlib.suppress(ValueError):
                tb.load_model(model, path)
    finally:
        stop.set()
        thread.join()
    tb.load_model(model, path)


# --- contents ------------------------------------------------------------------------------------


def with_generator(bits, change):
    """A checkpoint with the state of its generator changed."""
    content = fuzz.content_of(f"checkpoint {bits}")
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
        reader = fuzz.Checkpoint(bits)
        before = reader.state()
        with pytest.raises(ValueError, match=r"at no place|damaged"):
            reader.read(path)
        assert reader.state() == before


def test_places_of_a_generator_that_are_some_are_taken(tmp_path):
    for place in (0, 624):
        (tmp_path / "f").write_bytes(
            with_generator("MT19937", lambda g, place=place: g["state"].update(pos=place))
        )
        fuzz.Checkpoint("MT19937").read(tmp_path / "f")


def test_a_count_of_steps_that_no_float_holds_is_refused():
    model = nn.Linear(2, 3, rng=0)
    adam = tb.optim.Adam(model.parameters())
    state = {"state": {0: {"step": 10**400}}, "param_groups": adam.state_dict()["param_groups"]}
    with pytest.raises(ValueError, match=r"state\[0\]\['step'\]: expected a number below"):
        adam.load_state_dict(state)


def test_a_program_without_a_result_is_refused(tmp_path):
    """Its gradient would be that of nothing: machine code would write beside an array."""
    program = tb.compile(fuzz.shifted).program(0.3, 1.7)
    program.outputs = []
    with pytest.raises(ValueError, match="outputs: expected at least one"):
        replay.save(program, tmp_path / "p")


def program_with(change):
    """A program with its JSON changed."""
    with zipfile.ZipFile(io.BytesIO(fuzz.content_of("program scalar"))) as archive:
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
        np.testing.assert_array_equal(array_of(fuzz.npy(x)), x)
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
    lies = bytearray(fuzz.packed(x=np.zeros(3), y=np.zeros(3)))
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
        program = fuzz.generate(random.Random(f"{part} {k}"))
        try:
            fuzz.check(program, tally)
        except Exception as error:
            error.add_note(fuzz.code(program))
            raise
    outcomes = [tally[f"{kind}: {how}"] for kind in fuzz.READERS for how in ("refused", "read")]
    assert sum(outcomes) == 180 * MANY
    assert tally["program: refused"] > 0 < tally["program: read"]


def test_a_reader_that_does_too_much_is_found_out(monkeypatch):
    """The check itself."""
    whole = fuzz.Changed("text", ())
    fuzz.check(whole, collections.Counter())
    real = fuzz.Reading.read

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
        monkeypatch.setattr(fuzz.Reading, "read", bad)
        with pytest.raises(fuzz.Mismatch, match=message):
            fuzz.check(whole, collections.Counter())


# --- saves that are cut off ----------------------------------------------------------------------


@pytest.mark.parametrize("error", [OSError("full"), KeyboardInterrupt()], ids=["error", "Ctrl-C"])
@pytest.mark.parametrize("call", ["fsync", "replace", "fchmod", "lstat", "open"])
def test_whatever_fails_on_the_way_leaves_the_old_file(save, tmp_path, monkeypatch, call, error):
    name, write = save
    write(tmp_path / name, 0)
    before, real, failed = (tmp_path / name).read_bytes(), getattr(os, call), []

    def fails(*args, **options):
        if (args and str(args[0]).endswith(".part")) or call in ("fsync", "fchmod", "replace"):
            failed.append(args)
            raise error
        return real(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fails)
        with contextlib.suppress(OSError, KeyboardInterrupt):
            write(tmp_path / name, 1)
    assert failed
    assert (tmp_path / name).read_bytes() == before or call in ("lstat", "open")
    write(tmp_path / name, 1)
    assert (tmp_path / name).read_bytes() != before
    assert listing(tmp_path) == [name]


def test_many_writers_of_one_file(tmp_path):
    """Each writes its own temporary file; those that others left are removed."""
    path, contents = tmp_path / "f", [bytes([k]) * 5000 for k in range(6)]
    (tmp_path / ".f.0.part").write_bytes(b"left by one that was killed")
    failures = []

    def write(content):
        try:
            for _ in range(60):
                write_whole(path, content)
                if path.read_bytes() not in contents:
                    failures.append("torn")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=[content]) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert listing(tmp_path) == ["f"]


def test_what_somebody_still_writes_is_not_removed(tmp_path):
    fcntl = pytest.importorskip("fcntl", reason="locks of files")
    with open(tmp_path / ".f.0.part", "wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        write_whole(tmp_path / "f", b"mine")
        assert listing(tmp_path) == [".f.0.part", "f"]
    (tmp_path / ".f.1.part").symlink_to(tmp_path / "f")  # not ours: left alone
    write_whole(tmp_path / "f", b"mine")
    assert listing(tmp_path) == [".f.1.part", "f"]
    assert (tmp_path / "f").read_bytes() == b"mine"


KILLER = """
import os, random, signal, sys, time
sys.path[:0] = sys.argv[2:]
import test_hostile_files as t

chance = random.Random(0)
for name, save in t.SAVES.items():
    os.mkdir(folder := os.path.join(os.getcwd(), name.partition(".")[0]))
    path, contents = os.path.join(folder, name), []
    for version in (0, 1):
        save(path, version)
        contents.append(open(path, "rb").read())
    assert contents[0] != contents[1]
    start = time.perf_counter()
    for k in range(8):
        save(path, k % 2)
    each = (time.perf_counter() - start) / 8
    most = seen = 0
    for k in range(int(sys.argv[1])):
        ready, tell = os.pipe()
        child = os.fork()
        if not child:
            os.write(tell, b"x")
            version = k
            while True:
                version += 1
                save(path, version % 2)
        os.read(ready, 1)
        time.sleep(chance.uniform(0.0, 3.0 * each))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(ready), os.close(tell)
        assert open(path, "rb").read() in contents, k
        left = [f for f in os.listdir(folder) if f != name]
        seen += bool(left)
        most = max(most, len(left))
        assert all(f.startswith(f".{name}.") and f.endswith(".part") for f in left), left
    save(path, 0)
    assert os.listdir(folder) == [name], os.listdir(folder)
    print(name, k + 1, most, seen)
"""


def test_kills_at_random_moments(tmp_path):
    """The file is the old or the new one; one temporary file may be left, until the next save."""
    here = os.path.dirname(__file__)
    command = [sys.executable, "-c", KILLER, str(10 * MANY), here]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    results = [line.split() for line in done.stdout.splitlines()]
    print(done.stdout)
    assert [name for name, *_ in results] == list(SAVES)
    assert all(int(kills) == 10 * MANY and int(most) <= 1 for _, kills, most, _ in results)
