"""Places to save at and to read from that are no files, or that change meanwhile."""

import contextlib
import errno
import os
import resource
import stat
import threading

import pytest

import tinygrad_bp as tb
from tinygrad_bp import nn
from tinygrad_bp.files import read_whole, write_whole

pytest.importorskip("safetensors", reason="files need the extra `data`")
from saving import READS, SAVES, listing


@pytest.fixture(params=SAVES)
def save(request):
    return request.param, SAVES[request.param]


@pytest.fixture(params=READS)
def read(request):
    return READS[request.param]


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
