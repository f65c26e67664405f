"""Data sets: shapes, what the problems say of their answers, and files that are refused."""

import gzip
import math
import os
import pickle
import struct
import sys

import numpy as np
import pytest
from hypothesis import given, strategies as st

import tinygrad_bp as tb
from tinygrad_bp import datasets
from tinygrad_bp.datasets import REBER_SYMBOLS, XY, train_test_split


@pytest.fixture
def sklearn():
    return pytest.importorskip("sklearn", reason="these data come with scikit-learn")


# --- real ones -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shape", "counts"),
    [
        ("digits", (1797, 64), [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]),
        ("iris", (150, 4), [50, 50, 50]),
        ("breast_cancer", (569, 30), [212, 357]),
    ],
)
def test_tables_have_their_published_sizes(sklearn, name, shape, counts):
    data = getattr(tb.datasets, name)()
    assert data.x.shape == shape
    assert data.x.dtype == np.float64
    assert data.y.dtype == np.int64
    assert np.bincount(data.y).tolist() == counts
    if name == "digits":
        assert data.x.min() == 0.0
        assert data.x.max() == 1.0
    else:
        assert len(data.features) == shape[1]
        assert len(data.classes) == len(counts)
    if name == "iris":
        assert data.classes[0] == "setosa"
        assert data.x[:50, 2].max() < data.x[50:, 2].min()  # whose petals are the shortest


@pytest.mark.parametrize("name", ["digits", "iris", "breast_cancer"])
def test_without_scikit_learn_the_extra_is_named(monkeypatch, name):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"tinygrad_bp\[data\]"):
        getattr(datasets, name)()


def test_english_is_english():
    text = datasets.english()
    assert len(text.codes) > 300_000
    assert len(text.symbols) <= 256
    assert text.decode(text.codes).count(" the ") > 3000


def test_encoding_can_be_undone_and_rare_symbols_become_one():
    text = datasets.encode("hello")
    assert text.decode(text.codes) == "hello"
    many = "".join(chr(0x4E00 + i) for i in range(400)) + "aaa"
    codes, symbols = datasets.encode(many)
    assert len(symbols) == 256
    assert codes.max() == 255
    assert symbols[codes[-1]] == "a"
    assert np.count_nonzero(codes == 255) == 401 - 255
    with pytest.raises(ValueError, match="at least one character"):
        datasets.encode("")


# --- made up ones --------------------------------------------------------------------------------

MADE = {
    "moons": lambda rng: datasets.moons(40, rng=rng),
    "spirals": lambda rng: datasets.spirals(40, 3, rng=rng),
    "adding": lambda rng: datasets.adding(40, 9, rng=rng),
    "sequence_copy": lambda rng: datasets.sequence_copy(40, 3, 5, rng=rng),
    "reber": lambda rng: datasets.reber(40, rng=rng),
    "embedded": lambda rng: datasets.reber(40, embedded=True, rng=rng),
    "binary_addition": lambda rng: datasets.binary_addition(40, rng=rng),
}


@pytest.mark.parametrize("name", MADE)
def test_the_generator_decides(name):
    one, same, other = (MADE[name](seed) for seed in (0, np.random.default_rng(0), 1))
    for a, b in zip(one, same, strict=True):
        np.testing.assert_array_equal(a, b)
        assert len(a) == 40
    assert any(a.shape != b.shape or (a != b).any() for a, b in zip(one, other, strict=True))


def test_moons_lie_on_their_half_circles():
    x, y = datasets.moons(101, noise=0.0, rng=0)
    assert np.bincount(y).tolist() == [51, 50]
    upper, lower = x[y == 0], [1.0, 0.5] - x[y == 1]
    for points in (upper, lower):
        np.testing.assert_allclose(np.linalg.norm(points, axis=1), 1.0)
        assert (points[:, 1] >= 0.0).all()


def test_spirals_are_turned_copies_of_one_another():
    x, y = datasets.spirals(300, 3, turns=0.5, noise=0.0, rng=0)
    assert np.bincount(y).tolist() == [100, 100, 100]
    radius, angle = np.hypot(*x.T), np.arctan2(x[:, 1], x[:, 0])
    off = (angle - np.pi * radius - 2 * np.pi * y / 3) / (2 * np.pi)
    np.testing.assert_allclose(off, np.round(off), atol=1e-12)
    assert 0.1 <= radius.min() < radius.max() <= 1.0


def test_adding_is_the_sum_of_what_is_marked():
    x, y = datasets.adding(2000, 11, rng=0)
    assert x.shape == (2000, 11, 2)
    assert y.shape == (2000, 1)
    marks = x[:, :, 1]
    assert set(np.unique(marks)) == {0.0, 1.0}
    assert (marks[:, :5].sum(1) == 1).all()
    assert (marks[:, 5:].sum(1) == 1).all()
    assert (marks.sum(0) > 0).all()
    for sample, answer in zip(x, y, strict=True):
        assert answer[0] == sum(number for number, mark in sample if mark)
    assert ((y - 1.0) ** 2).mean() == pytest.approx(1 / 6, abs=0.02)


def test_sequence_copy_repeats_after_the_sign():
    x, y = datasets.sequence_copy(50, length=4, delay=6, symbols=5, rng=0)
    assert x.shape == y.shape == (50, 15)
    assert x.dtype == y.dtype == np.int64
    np.testing.assert_array_equal(y[:, -4:], x[:, :4])
    assert x[:, :4].max() == 4
    assert (x[:, 4:10] == 5).all()
    assert (x[:, 10] == 6).all()
    assert (x[:, 11:] == 5).all()
    assert (y[:, :-4] == 5).all()


# The grammar a second time, as a regular expression.
REBER = r"B(TS*X(XT*V(PXT*V)*(PS|V)|S)|PT*V(PXT*V)*(PS|V)|TS*XXT*V(PXT*V)*(PS|V))E"


@pytest.mark.parametrize("embedded", [False, True])
def test_reber_strings_are_of_the_grammar(embedded):
    import re

    data = datasets.reber(500, embedded, rng=0)
    assert data.x.shape == (*data.y.shape, 7) == data.possible.shape
    assert data.y.shape[1] == data.lengths.max()
    following = {}
    for x, y, possible, length in zip(*data, strict=True):
        assert (x[:length].sum(1) == 1).all()
        assert not x[length:].any()
        assert not possible[length:].any()
        assert not y[length:].any()
        assert possible[np.arange(length), y[:length]].all()
        string = REBER_SYMBOLS[x[0].argmax()] + "".join(REBER_SYMBOLS[c] for c in y[:length])
        np.testing.assert_array_equal(x[1:length].argmax(1), y[: length - 1])
        inner = string
        if embedded:
            assert re.fullmatch(r"B([TP]).*\1E", string)
            assert "".join(np.array([*REBER_SYMBOLS])[possible[length - 2]]) == string[1]
            inner = string[2:-2]
        assert re.fullmatch(REBER, inner), string
        for t in range(length):
            before = string[: t + 1]
            following.setdefault(before, [set(), possible[t]])[0].add(y[t])
    # Where a beginning was met often, all that is possible did come, and nothing else.
    for before in ("B", "BT", "BP") if not embedded else ("B", "BTB", "BPB"):
        came, possible = following[before]
        assert came == set(np.flatnonzero(possible))


def test_every_sum_of_two_bytes():
    x, y = datasets.binary_addition()
    assert x.shape == (65536, 9, 2)
    assert y.shape == (65536, 9, 1)
    powers = 2.0 ** np.arange(9)
    a, b, total = powers @ x[:, :, 0].T, powers @ x[:, :, 1].T, powers @ y[:, :, 0].T
    np.testing.assert_array_equal(a + b, total)
    assert len({*zip(a, b, strict=True)}) == 65536
    assert (x[:, 8] == 0.0).all()


def test_random_sums_of_many_bits():
    x, y = datasets.binary_addition(100, bits=50, rng=0)
    for sample, answer in zip(x.astype(int), y.astype(int), strict=True):
        number = [int("".join(map(str, bits[::-1])), 2) for bits in (*sample.T, answer[:, 0])]
        assert number[0] + number[1] == number[2]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: datasets.moons(0, rng=0), "samples: expected a positive integer, got 0"),
        (lambda: datasets.moons(5, -1.0, rng=0), "noise: expected a number"),
        (lambda: datasets.spirals(5, 0, rng=0), "arms: expected a positive integer, got 0"),
        (lambda: datasets.adding(5, 1, rng=0), "steps: expected at least 2, got 1"),
        (lambda: datasets.adding(5, 2.5, rng=0), "steps: expected a positive integer, got 2.5"),
        (lambda: datasets.sequence_copy(5, delay=0, rng=0), "delay: expected a positive"),
        (lambda: datasets.reber(True, rng=0), "samples: expected a positive integer, got True"),
        (lambda: datasets.binary_addition(bits=11), "bits: expected at most 10, got 11"),
        (lambda: datasets.binary_addition(3), "rng: expected a numpy Generator or a seed"),
        (lambda: datasets.binary_addition(3, 63, rng=0), "bits: expected at most 62, got 63"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# --- splitting -----------------------------------------------------------------------------------


@given(
    counts=st.lists(st.integers(1, 30), min_size=1, max_size=5),
    share=st.floats(0.05, 0.95),
    seed=st.integers(0, 99),
)
def test_a_split_is_a_partition_in_proportion(counts, share, seed):
    y = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    data = XY(np.arange(len(y)) * 10, y)
    try:
        train, test = train_test_split(data, share, rng=seed, stratify=y)
    except ValueError:
        assert math.ceil(len(y) * share) == len(y)
        return
    assert isinstance(train, XY)
    assert sorted([*train.x, *test.x]) == data.x.tolist()
    for part in (train, test):
        np.testing.assert_array_equal(part.y, y[part.x // 10])
        assert (np.diff(part.x) > 0).all()
    assert len(test.y) == math.ceil(len(y) * share)
    for k, count in enumerate(counts):
        assert abs((test.y == k).sum() - count * share) < 1.0 + 1e-9


def test_splits_differ_by_seed_and_keep_what_is_no_array():
    table = datasets.Table(np.arange(20.0)[:, None], np.arange(20), ("a",), ("b",))
    first, again, other = (train_test_split(table, 0.25, rng=seed)[1] for seed in (0, 0, 1))
    assert first.features == ("a",)
    np.testing.assert_array_equal(first.y, again.y)
    assert first.y.tolist() != other.y.tolist()


@pytest.mark.parametrize(
    ("data", "options", "error", "message"),
    [
        ((np.zeros(3), np.zeros(4)), {}, ValueError, r"equally many samples, got \[3, 4\]"),
        ((np.zeros(0),), {}, ValueError, "equally many"),
        (np.zeros(3), {}, TypeError, "expected a tuple of arrays, got ndarray"),
        ((np.zeros(3),), {"test_size": 1.5}, ValueError, r"share in \(0, 1\), got 1.5"),
        ((np.zeros(3),), {"test_size": 0.9}, ValueError, "0.9 of 3 samples leaves one part"),
        ((np.zeros(3),), {"stratify": [1]}, ValueError, r"stratify: expected shape \(3,\)"),
    ],
)
def test_bad_splits(data, options, error, message):
    with pytest.raises(error, match=message):
        train_test_split(data, rng=0, **options)


# --- the user's own ------------------------------------------------------------------------------


def test_a_table_with_names(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('\ufeffwidth,"kind, so to say",height\n1,b,2.5\n\n3e1, a ,-4\n5,b,6\n')
    table = datasets.csv(path, "kind, so to say", classes=True)
    np.testing.assert_array_equal(table.x, [[1, 2.5], [30, -4], [5, 6]])
    np.testing.assert_array_equal(table.y, [1, 0, 1])
    assert table.features == ("width", "height")
    assert table.classes == ("a", "b")


def test_a_table_without_names(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("1;2;3\n4;5;6\n")
    table = datasets.csv(path, 0, delimiter=";")
    np.testing.assert_array_equal(table.x, [[2, 3], [5, 6]])
    np.testing.assert_array_equal(table.y, [1, 4])
    assert table.features == ("x1", "x2")
    assert table.classes == ()
    assert len(datasets.csv(path, delimiter=";", header=True).y) == 1


@pytest.mark.parametrize(
    ("content", "target", "message"),
    [
        (b"", -1, "expected rows, got an empty file"),
        (b"a,b\n", -1, "expected rows, got a header alone"),
        (b"1\n2\n", -1, "expected two columns or more"),
        (b"a,b\n1,2\n1,2,3\n", -1, "line 3: expected 2 columns, got 3"),
        (b"a,b\n1,2\n1,x\n", -1, "line 3, column 'b': expected a number, got 'x'"),
        (b"a,b\n1,2\n,2\n", -1, "line 3, column 'a': expected a number, got ''"),
        (b"a,b\nnan,2\n", -1, "line 2, column 'a': expected a number, got 'nan'"),
        (b"a,b\n1,2\n", "c", "target: no column 'c' in a, b"),
        (b"a,b\n1,2\n", 2, "target: there are 2 columns, got number 2"),
        (b"\xff\xfe\x00", -1, "expected UTF-8 text"),
        (b'a,b\n1,"2\n', -1, "line 2: unexpected end of data"),
    ],
)
def test_bad_tables(tmp_path, content, target, message):
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        datasets.csv(path, target)


def test_missing_files_are_named(tmp_path):
    for read in (datasets.csv, datasets.npz, datasets.text):
        with pytest.raises(ValueError, match=r"nothing: cannot be read: No such file"):
            read(tmp_path / "nothing")
    with pytest.raises(ValueError, match="train-images-idx3-ubyte: cannot be read: No such file"):
        datasets.mnist(tmp_path)


def test_arrays_of_an_archive(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, x=np.arange(6.0).reshape(3, 2), y=[1, 2, 3], other=[1])
    data = datasets.npz(path)
    np.testing.assert_array_equal(data.x, [[0, 1], [2, 3], [4, 5]])
    np.testing.assert_array_equal(data.y, [1, 2, 3])
    with pytest.raises(ValueError, match="no array 'z'; there are x, y, other"):
        datasets.npz(path, y="z")
    with pytest.raises(ValueError, match=r"equally many samples, got shapes \(3, 2\) and \(1,\)"):
        datasets.npz(path, y="other")
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"no \.npz archive, or a damaged one"):
        datasets.npz(path)


class Trap:
    """What would run if a pickle of it was read."""

    def __reduce__(self):
        return os.mkdir, ("sprung",)


def test_nothing_in_an_archive_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("a.npz", x=np.array([Trap()], object), y=[1])
    (tmp_path / "b.npz").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ValueError, match="Python objects, which are not read"):
        datasets.npz("a.npz")
    with pytest.raises(ValueError, match=r"no .npz archive"):
        datasets.npz("b.npz")
    assert not (tmp_path / "sprung").exists()


def test_a_text(tmp_path):
    path = tmp_path / "t.txt"
    path.write_text("\ufeffwäre", encoding="utf-8")
    text = datasets.text(path)
    assert text.decode(text.codes) == "wäre"
    with pytest.raises(ValueError, match="expected 5 characters or more, got 4"):
        datasets.text(path, 5)


# --- MNIST ---------------------------------------------------------------------------------------


def idx(array, magic=None):
    header = struct.pack(">i", (0x0800 if magic is None else magic) + array.ndim)
    return header + struct.pack(f">{array.ndim}i", *array.shape) + array.tobytes()


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for name, samples in (("train", 6), ("t10k", 3)):
        images = rng.integers(0, 256, (samples, 4, 5), np.uint8)
        labels = rng.integers(0, 10, samples).astype(np.uint8)
        (tmp_path / f"{name}-images-idx3-ubyte").write_bytes(idx(images))
        (tmp_path / f"{name}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    return tmp_path


def test_mnist_in_its_original_files(folder):
    data = datasets.mnist(folder)
    rng = np.random.default_rng(0)
    for part, samples in ((data.train, 6), (data.test, 3)):
        images = rng.integers(0, 256, (samples, 4, 5), np.uint8)
        np.testing.assert_allclose(part.x, images.reshape(samples, 20) / 255)
        np.testing.assert_array_equal(part.y, rng.integers(0, 10, samples))
        assert part.x.dtype == np.float64
    assert datasets.mnist(folder, np.float32).train.x.dtype == np.float32


ZEROS = np.zeros((6, 4, 5), np.uint8)
NINES = np.full(6, 9, np.uint8)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train-images-idx3-ubyte", b"", "of 3 axes, got magic number 0"),
        ("train-images-idx3-ubyte", b"\0\0\x08", "of 3 axes, got magic number 0"),
        ("train-images-idx3-ubyte", idx(ZEROS, 0x0900), "of 3 axes, got magic number 2307"),
        ("train-images-idx3-ubyte", idx(ZEROS[0]), "of 3 axes, got magic number 2050"),
        ("train-images-idx3-ubyte", idx(ZEROS)[:-1], "expected 120 bytes for shape"),
        ("train-images-idx3-ubyte", idx(ZEROS) + b"\0", "expected 120 bytes for shape"),
        ("train-images-idx3-ubyte", idx(ZEROS[:5]), "train: 5 images, but 6 labels"),
        ("train-images-idx3-ubyte", idx(ZEROS[:, :3]), "differ in size"),
        (
            "train-images-idx3-ubyte",
            struct.pack(">4I", 0x0803, 2**32 - 1, 2**32 - 1, 2**32 - 1),
            "expected .* bytes for shape",
        ),
        (
            "train-labels-idx1-ubyte",
            idx(NINES + np.uint8(1)),
            "expected labels 0 ... 9, got 10",
        ),
        ("t10k-labels-idx1-ubyte.gz", b"no gzip at all", "cannot be read: Not a gzipped file"),
        ("t10k-labels-idx1-ubyte.gz", gzip.compress(idx(NINES))[:-9], "end-of-stream"),
    ],
)
def test_bad_files_of_mnist(folder, name, content, message):
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        datasets.mnist(folder)
