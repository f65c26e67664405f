"""Programs in files: the same bits come back, and nothing but a program is ever accepted."""

import gc
import io
import json
import os
import random
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from test_array_rules import CASES, numbers

import tinygrad_bp as tb
from tinygrad_bp import arrays, nn
from tinygrad_bp.array_rules import ARRAY_RULES
from tinygrad_bp.replay import compile
from tinygrad_bp.replay.program import OPERATIONS, Placeholder
from tinygrad_bp.replay.storage import _parsed, load, save
from tinygrad_bp.replay.validation import _Shapes
from tinygrad_bp.rules import RULES


def recorded(f, *args, mode="value"):
    return compile(f)._run(mode, args)[0].program


def shifted(x, y):
    return tb.where(x > y, tb.sin(x) * y, tb.clip(x, -1.0, y)) + (x if y > 0.0 else -x)


def network():
    model = nn.MLP([4, 3, 2], ["tanh", "sigmoid"], rng=0)

    def step(x, classes):
        return nn.cross_entropy(model(x), classes)

    return recorded(step, numbers(5, 4), np.array([0, 1, 1, 0, 1]), mode="backward")


def indexed():
    return recorded(
        lambda x, i: (x[i], x[:, i[0]], tb.one_hot(i, 4), tb.take(x, i, axis=1), x[None, ..., 1:]),
        tb.Tensor(numbers(3, 4)), np.array([0, 2, 1]),
    )  # fmt: skip


def scalar():
    return recorded(shifted, 0.3, 1.7)


def same(x, y):
    """Equal to the last bit, and of the same types all through."""
    if type(x) is not type(y):
        return False
    if isinstance(x, np.ndarray):
        return x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes()
    if isinstance(x, (float, np.floating)):
        return np.float64(x).tobytes() == np.float64(y).tobytes()
    if isinstance(x, (list, tuple)):
        return len(x) == len(y) and all(map(same, x, y))
    if isinstance(x, dict):
        return list(x) == list(y) and all(same(x[key], y[key]) for key in x)
    return x == y


def same_program(p, q):
    return (
        str(p) == str(q)
        and all(one is other for one, other in zip(p.rules, q.rules, strict=True))
        and same(p.codes, q.codes)
        and same(p.operands, q.operands)
        and p.details.keys() == q.details.keys()
        and all(
            same(d.operands, q.details[i].operands)
            and same(d.parameters, q.details[i].parameters)
            and same(d.options, q.details[i].options)
            for i, d in p.details.items()
        )
        and same(p.constants, q.constants)
        and p.guards == q.guards
        and (p.inputs, p.outputs, p.kind) == (q.inputs, q.outputs, q.kind)
        and (p.shapes, p.dtypes) == (q.shapes, q.dtypes)
    )


def round_trip(program, path, **options):
    save(program, path)
    return load(path, **options)


def members(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(path, content, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in content.items() if isinstance(content, dict) else content:
            archive.writestr(name, data)


def npy(x):
    file = io.BytesIO()
    np.lib.format.write_array(file, x, (1, 0))
    return file.getvalue()


# --- what is saved comes back -------------------------------------------------------------------


@pytest.mark.parametrize("make", [scalar, network, indexed])
def test_a_program_comes_back_as_it_was(make, tmp_path):
    program = make()
    assert same_program(program, round_trip(program, tmp_path / "p"))
    assert os.listdir(tmp_path) == ["p"]


@pytest.mark.parametrize("name", CASES)
def test_every_structural_rule_comes_back_and_its_shape_is_inferred(name, tmp_path):
    for case in CASES[name]:
        leaves = [tb.Tensor(np.asarray(x, float)) for x in case.operands]
        mode = "value" if name == "prod" else "value_and_grad"  # its pullback looks at the data
        program = recorded(lambda *x, f=case.call: f(*x).sum(), *leaves, mode=mode)
        assert same_program(program, round_trip(program, tmp_path / "p"))


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_elementwise_rule_comes_back(rule, dtype, tmp_path):
    shapes = [(2, 1, 3), (4, 1), ()]
    operands = [tb.Tensor(np.full(s, 0.5, dtype)) for s in shapes[: rule.arity]]

    def call(*x):
        return rule(x[0] > 0.0, *x[1:]) if rule.name == "where" else rule(*x)

    program = recorded(lambda *x: call(*x).sum(), *operands, mode="value_and_grad")
    assert same_program(program, round_trip(program, tmp_path / "p"))


def test_numbers_keep_their_bits(tmp_path):
    program = scalar()
    i = next(iter(program.constants))
    odd = struct.unpack("<d", bytes.fromhex("010000000000f8ff"))[0]  # a nan with a payload
    for x in (odd, -0.0, 5e-324, float("inf"), 0.1, np.float64(odd), True, np.True_):
        program.constants[i] = x
        assert same(round_trip(program, tmp_path / "p").constants[i], x)


def test_arguments_of_every_type_come_back(tmp_path):
    program = recorded(lambda x: x.sum(), tb.Tensor(numbers(3)))
    (i,) = program.details
    every = (
        *(None, True, 3, -(2**62), 1.5, float("nan"), "text", ..., slice(None, -1), slice(0, 5, 2)),
        *((), [1, (2, [3.0])], np.int64(4), np.float32(0.1), np.arange(4), np.array([True, False])),
        *(np.asfortranarray(numbers(2, 3)), np.array(1.5), np.zeros((0, 2), np.uint8)),
        *(np.dtype("float32"), np.float64, float),
    )
    from tinygrad_bp.replay import storage

    found = []
    encoded = json.loads(json.dumps(storage._encoded(every, found)))
    assert same(storage._decoded(encoded, found.__getitem__), every)
    for odd in (object(), 2**63, 1j, np.array([None]), {1}, np.datetime64(0, "s")):
        program.details[i].options["odd"] = odd
        with pytest.raises(ValueError, match="cannot save the program"):
            save(program, tmp_path / "p")
    assert not os.listdir(tmp_path)


def test_operations_of_a_user_are_given_again(tmp_path):
    @tb.elementwise(lambda m, x, y: m.cos(x) * 2.0)
    def twice_sin(m, x):
        return 2.0 * m.sin(x)

    def halved_dx(m, g, y, x):
        return m.divide(g, 2.0)

    @tb.structural(halved_dx)
    def halved(m, x):
        return m.divide(m.transpose(x), 2.0)

    program = recorded(lambda x: halved(twice_sin(x)) @ tb.exp(x), tb.Tensor(numbers(3, 3)))
    save(program, tmp_path / "p")
    with pytest.raises(ValueError, match=r"'twice_sin'.*'halved'.*operations=|'halved'"):
        load(tmp_path / "p")
    with pytest.raises(ValueError, match="'halved', which"):
        load(tmp_path / "p", [twice_sin])
    assert same_program(program, load(tmp_path / "p", operations=[halved, twice_sin, tb.exp]))
    with pytest.raises(ValueError, match="two are called"):
        load(tmp_path / "p", [halved, ARRAY_RULES["sum"], tb.structural(halved_dx)(halved.value)])


def test_a_kill_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    save(scalar(), tmp_path / "p")
    before = (tmp_path / "p").read_bytes()

    def killed(*unused):
        raise KeyboardInterrupt

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, killed)
            with pytest.raises(KeyboardInterrupt):
                save(network(), tmp_path / "p")
        assert os.listdir(tmp_path) == ["p"]
        assert (tmp_path / "p").read_bytes() == before
    save(network(), tmp_path / "p")
    assert load(tmp_path / "p").kind == "array"


def test_a_missing_file_is_reported_as_such(tmp_path):
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "nothing")


def test_every_function_of_arrays_has_its_shape():
    assert all(hasattr(_Shapes, name) for name in arrays.__all__)


# --- what is no program is refused --------------------------------------------------------------


def edited(path, out, edit):
    """The file with its JSON changed by a function."""
    content = members(path)
    text = json.loads(content["program.json"])
    text = edit(text) or text
    content["program.json"] = json.dumps(text).encode()
    write(out, content)


def detail_of(text, rule):
    """The arguments of the first instruction of a rule, given by its parameters' tag."""
    return next(row for row in text["details"] if rule in json.dumps(row[2]))


TEXT_EDITS = {
    "another format": lambda t: t.update(format="x"),
    "version": lambda t: t.update(version=2),
    "kind": lambda t: t.update(kind="text"),
    "a field more": lambda t: t.update(extra=1),
    "a field less": lambda t: {k: v for k, v in t.items() if k != "guards"},
    "no dict": lambda t: [1],
    "rule": lambda t: t["rules"].append(["system", False]),
    "rule of no name": lambda t: t["rules"].__setitem__(0, [["add"], False]),
    "rule dropped": lambda t: t["rules"].pop(),
    "rules exchanged": lambda t: t["rules"].reverse(),
    "input twice": lambda t: t["inputs"].append(t["inputs"][0]),
    "input missing": lambda t: t["inputs"].pop(),
    "input no number": lambda t: t["inputs"].append("0"),
    "output": lambda t: t["outputs"].append(10**6),
    "output negative": lambda t: t["outputs"].append(-1),
    "output a bool": lambda t: t["outputs"].append(True),
    "huge": lambda t: t["outputs"].append(10**400),
    "guard": lambda t: t["guards"].append([10**6, True, ""]),
    "guard no outcome": lambda t: t["guards"].append([0, 1, ""]),
    "constant twice": lambda t: t["constants"].append(t["constants"][0]),
    "constant missing": lambda t: t["constants"].pop(),
    "constant of text": lambda t: t["constants"][0].__setitem__(1, "text"),
    "shape": lambda t: t["shapes"][0].append(2),
    "negative shape": lambda t: t["shapes"].__setitem__(0, [-1]),
    "huge shape": lambda t: t["shapes"].__setitem__(0, [2**40, 2**40]),
    "many axes": lambda t: t["shapes"].__setitem__(0, [1] * 100),
    "dtype": lambda t: t["dtypes"].__setitem__(0, "object"),
    "other dtype": lambda t: t["dtypes"].__setitem__(0, "float32"),
    "details twice": lambda t: t["details"].append(t["details"][0]),
    "details missing": lambda t: t["details"].pop(),
    "details of nothing": lambda t: t["details"].append([10**6, [0], ["tuple"], {}]),
    "operand ahead": lambda t: t["details"][0].__setitem__(1, [10**6]),
    "operand negative": lambda t: t["details"][0].__setitem__(1, [-1]),
    "no operands": lambda t: t["details"][0].__setitem__(1, []),
    "too many operands": lambda t: t["details"][0][1].append(0),
    "parameters no tuple": lambda t: t["details"][0].__setitem__(2, 3),
    "parameter more": lambda t: t["details"][0][2].append(3),
    "unknown option": lambda t: t["details"][0][3].update(surprise=1),
    "placeholder": lambda t: t["details"][0][2].append(["operand", 9]),
    "placeholder in options": lambda t: t["details"][0][3].update(axis=["operand", 0]),
    "unknown tag": lambda t: t["details"][0][2].append(["code", "import os"]),
    "array missing": lambda t: t["details"][0][2].append(["array", 99]),
    "array twice": lambda t: t["details"][0][2].append(["array", 0]),
    "array count": lambda t: t.update(arrays=10**12),
    "array fewer": lambda t: t.update(arrays=t["arrays"] - 1),
    "bad hex": lambda t: t["details"][0][2].append(["float", "zz"]),
    "short float": lambda t: t["details"][0][2].append(["float", "00"]),
    "slice by 0": lambda t: t["details"][0][2].append(["slice", 0, 1, 0]),
    "deep": lambda t: t["details"][0][2].append(
        json.loads('["list",' * 50 + '["list"]' + "]" * 50)
    ),
    "index outside": lambda t: detail_of(t, "slice")[2].__setitem__(1, ["tuple", 7, 7]),
}  # fmt: skip


@pytest.mark.parametrize("edit", TEXT_EDITS.values(), ids=list(TEXT_EDITS))
def test_what_is_no_program_is_refused(edit, tmp_path):
    program = recorded(
        lambda x, i: (tb.exp(x[i, :] * numbers(2, 3)), x[0:1, ...] * 2.0),
        tb.Tensor(numbers(4, 3)), np.array([0, 2]),
    )  # fmt: skip
    save(program, tmp_path / "p")
    edited(tmp_path / "p", tmp_path / "q", edit)
    with pytest.raises(ValueError, match=r"[/\\]q: ."):
        load(tmp_path / "q")


def test_arrays_that_lie_are_refused(tmp_path):
    save(scalar(), tmp_path / "p")
    good = members(tmp_path / "p")
    codes = np.load(io.BytesIO(good["codes.npy"]))
    operands = np.load(io.BytesIO(good["operands.npy"]))
    huge = npy(codes).replace(f"({len(codes)},)".encode(), b"(99999999,)", 1)
    bad = {
        "codes.npy": [
            npy(codes + np.uint16(100)),
            npy(codes.astype(np.int64)),
            npy(codes[:-1]),
            npy(codes[None]),
            huge,
            b"",
            b"\x93NUMPY",
            npy(codes)[:-1],
            npy(codes) + b"x",
            b"\x93NUMPY\x02\x00" + npy(codes)[8:],
            npy(codes).replace(b"'<u2'", b"'|O' ", 1),
        ],
        "operands.npy": [
            npy(np.full_like(operands, -1)),
            npy(np.full_like(operands, 10**6)),
            npy(operands + np.int32(1)),
            npy(operands[:, :2].copy()),
            npy(np.arange(len(operands) * 3, dtype=np.int32).reshape(-1, 3)),
        ],
        "kinds.npy": [npy(np.zeros((1, 2), np.int32)), npy(np.zeros(4, np.int32))],
    }
    for name, variants in bad.items():
        for data in variants:
            write(tmp_path / "q", {**good, name: data})
            with pytest.raises(ValueError, match=r"[/\\]q: ."):
                load(tmp_path / "q")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_odd_archives_are_refused(tmp_path):
    save(network(), tmp_path / "p")
    good = members(tmp_path / "p")
    variants = [
        {**good, "../p": b""},
        {**good, "/etc/passwd": b""},
        {**good, "more.npy": npy(np.zeros(3))},
        {**good, "0.npy": b"cos\nsystem\n"},
        [*good.items(), ("codes.npy", good["codes.npy"])],
        {name: data for name, data in good.items() if name != "operands.npy"},
        {name: data for name, data in good.items() if name != "program.json"},
        {**good, "program.json": b'{"a":' * 100_000},
        {**good, "program.json": b"[" * 1_000_000},
        {**good, "program.json": b"\xff\xfe"},
        {**good, "program.json": b"NaN"},
        {},
    ]
    for content in variants:
        write(tmp_path / "q", content)
        with pytest.raises(ValueError, match=r"[/\\]q: ."):
            load(tmp_path / "q")
    write(tmp_path / "q", good, zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="compressed"):
        load(tmp_path / "q")


def test_a_bomb_takes_no_memory(tmp_path):
    save(recorded(lambda x: tb.broadcast_to(x, (5, 3)), tb.Tensor(numbers(3))), tmp_path / "p")
    good = members(tmp_path / "p")
    text = json.loads(good["program.json"])
    text["details"][0][2] = ["tuple", ["tuple", 10**11, 3]]  # what it says is another shape
    write(tmp_path / "a", {**good, "program.json": json.dumps(text)})
    text["shapes"][1] = [10**11, 3]
    write(tmp_path / "b", {**good, "program.json": json.dumps(text)})  # an honest giant: legal
    write(tmp_path / "c", {**good, "0.npy": bytes(10**8)}, zipfile.ZIP_DEFLATED)
    write(tmp_path / "d", {**good, "program.json": b"[" + b"[]," * 5 * 10**6 + b"[]]"})
    for name in "abcd":
        size = (tmp_path / name).stat().st_size
        assert accepted(tmp_path / name) == (name == "b")
        tracemalloc.start()
        accepted(tmp_path / name)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 40 * size + 2**20


def accepted(path):
    try:
        load(path)
    except ValueError:
        return False
    return True


def accepted_or_refused(path, original):
    """Whether a changed file was accepted; then it is the program, or another that is one."""
    try:
        program = load(path)
    except ValueError as error:
        message = str(error)
    else:
        message = ""
    if message:
        assert message.startswith(f"{path}: ")
        return False
    str(program)
    assert all(rule in OPERATIONS.values() for rule in program.rules[2:])
    return same_program(original, program) or len(program) > 0


@pytest.mark.parametrize("make", [scalar, network, indexed])
def test_damaged_files_are_refused_or_harmless(make, tmp_path):
    original = make()
    save(original, tmp_path / "p")
    content = (tmp_path / "p").read_bytes()
    random_ = random.Random(0)
    refused = 0
    for k in range(500):
        data = bytearray(content)
        if k % 3 == 0:
            del data[random_.randrange(len(data)) :]
        elif k % 3 == 1:
            for _ in range(random_.choice((1, 1, 2, 8))):
                data[random_.randrange(len(data))] ^= 1 << random_.randrange(8)
        else:
            a, b = sorted(random_.randrange(len(data)) for _ in range(2))
            data[a:b] = random_.choice((b"", data[a:b][::-1], data[a:b] * 2))
        (tmp_path / "q").write_bytes(data)
        refused += not accepted_or_refused(tmp_path / "q", original)
    assert refused > 350


def mutated(x, random_):
    """JSON with one thing in it changed."""
    if isinstance(x, (list, dict)) and x and random_.random() < 0.85:
        key = random_.choice(list(x)) if isinstance(x, dict) else random_.randrange(len(x))
        y = x.copy()
        y[key] = mutated(x[key], random_)
        if random_.random() < 0.05:
            del y[key]
        return y
    if type(x) is int and random_.random() < 0.7:
        return x + random_.choice((-1, 1, 2, -x, 2**31, 2**70))
    odd = (None, True, -1, 0, 1, 0.5, "", "sum", [], {}, ["..."], ["tuple"], ["slice", 0, None, -1])
    return random_.choice((*odd, ["array", 0], ["operand", 1], ["dtype", "float32"], ["list", 1]))


@pytest.mark.parametrize("make", [scalar, network, indexed])
def test_well_formed_files_of_wrong_content_are_refused_or_programs(make, tmp_path):
    original = make()
    save(original, tmp_path / "p")
    good = members(tmp_path / "p")
    text = json.loads(good["program.json"])
    random_ = random.Random(1)
    for k in range(500):
        content = dict(good)
        if k % 3:
            content["program.json"] = json.dumps(mutated(text, random_)).encode()
        elif k % 2:
            one, other = random_.sample(list(good), 2)
            content[one], content[other] = good[other], good[one]
        else:
            name = random_.choice([name for name in good if name != "program.json"])
            data = bytearray(good[name])
            data[random_.randrange(len(data))] ^= 1 << random_.randrange(8)
            content[name] = bytes(data)
        write(tmp_path / "q", content)
        accepted_or_refused(tmp_path / "q", original)


def test_placeholders_are_counted():
    program = indexed()
    assert any(isinstance(p, Placeholder) for d in program.details.values() for p in d.parameters)


def test_an_interrupt_leaves_the_garbage_collector_on():
    pytest.importorskip("ctypes", reason="raises signals through it")
    import signals

    assert gc.isenabled()
    _, count = signals.run(lambda: _parsed(b'{"a": [1]}'))
    try:
        for at in range(1, count + 1):
            signals.run(lambda: _parsed(b'{"a": [1]}'), at)
            assert gc.isenabled(), at
    finally:
        gc.enable()
