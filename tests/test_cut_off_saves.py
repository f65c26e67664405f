"""Saves that are cut off, by an error, by another writer or by the end of the process."""

import contextlib
import os
import subprocess
import sys
import threading

import pytest

from tinygrad_bp.files import write_whole

pytest.importorskip("safetensors", reason="files need the extra `data`")
from saving import SAVES, listing

MANY = int(os.environ.get("TINYGRAD_BP_FUZZ", "1"))  # times as many


@pytest.fixture(params=SAVES)
def save(request):
    return request.param, SAVES[request.param]


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
import saving

chance = random.Random(0)
for name, save in saving.SAVES.items():
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
