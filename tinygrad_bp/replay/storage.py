"""Programs in files: data, from which no code is ever run.

A file is a zip archive of numpy arrays (`.npy`) and of one JSON text for everything else. Rules are
saved by name; those of users are given again at loading. Nothing in the archive is compressed, so
it holds no more than it takes up, and what is read is in proportion to the file.

Loading checks everything: a file that is damaged, or made up, gives a ValueError that says what is
wrong with it. Shapes and types are checked by inference: every rule is applied to arrays that have
a shape and a dtype, but one number in memory (`_Ghost`), in a namespace of functions that compute
shapes (`_Shapes`). So the time it takes does not depend on how large the arrays would be.
"""

from __future__ import annotations

import functools
import gc
import io
import json
import math
import os
import secrets
import struct
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.lib import format as npy
from numpy.lib.array_utils import normalize_axis_index, normalize_axis_tuple

from tinygrad_bp import arrays
from tinygrad_bp.array_rules import ArrayRule
from tinygrad_bp.replay.program import (
    CONSTANT,
    INPUT,
    OPERATIONS,
    Details,
    Guard,
    Placeholder,
    Program,
    filled_in,
    placeholders,
)
from tinygrad_bp.rules import RULES, Rule

FORMAT, VERSION = "tinygrad_bp program", 1
TEXT, CODES, OPERANDS, KINDS = "program.json", "codes.npy", "operands.npy", "kinds.npy"
LONGEST_TEXT = 2**24  # bytes of JSON
LARGEST = 2**40  # elements of one array
DEEPEST = 16  # arguments within arguments

_DTYPES = {
    name: np.dtype(name)
    for name in (
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float32", "float64"),
    )
}
_TYPES: dict[str, Any] = {"float": float, "float32": np.float32, "float64": np.float64}


def save(program: Program, path: str | os.PathLike[str]) -> None:
    """Write a program to a file, which appears there complete or not at all.

    Args:
        program: what to save; `compile(f).program(...)` gives it.
        path: the file; one that is there already is replaced.

    Raises:
        ValueError: the program cannot be saved; the message says why.
    """
    path = Path(path)
    try:
        _check(program)
        content = _archive(program)
    except ValueError as error:
        raise ValueError(f"{path}: cannot save the program: {error}") from None
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: str | os.PathLike[str], operations: Iterable[Rule | ArrayRule] = ()) -> Program:
    """Read a program from a file, and check all of it.

    Args:
        path: a file that `save` wrote.
        operations: the rules of your own that occur in it.

    Returns:
        A program that gives the results of the saved one, bit for bit.

    Raises:
        ValueError: the file does not hold a program, or one with an operation that is not known;
            the message names the file, and what is wrong.
        OSError: the file cannot be read.
    """
    mine: dict[str, Any] = {}
    for rule in operations:
        if mine.setdefault(rule.name, rule) is not rule:
            raise ValueError(f"operations: two are called {rule.name!r}")
    content = Path(path).read_bytes()
    try:
        program = _program(_members(content), mine)
        _check(program)
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)}: {error}") from None
    except Exception as error:  # a damaged file may upset the zip and JSON readers in any way
        kind = type(error).__name__
        raise ValueError(f"{os.fspath(path)}: not a readable program: {kind}: {error}") from None
    return program


def _wrong(what: str) -> NoReturn:
    raise ValueError(what)


# --- the archive --------------------------------------------------------------------------------


def _archive(program: Program) -> bytes:
    """The bytes of the file."""
    found: list[Any] = []
    names = [[rule.name, OPERATIONS.get(rule.name) is not rule] for rule in program.rules[2:]]
    users = [name for name, users_own in names if users_own]
    if len(set(users)) < len(users):
        _wrong(f"two of the operations {sorted(users)} have the same name")
    shapes: dict[Any, int] = {}
    dtypes: dict[Any, int] = {}
    kinds = [
        (shapes.setdefault(s, len(shapes)), dtypes.setdefault(np.dtype(d).name, len(dtypes)))
        for s, d in zip(program.shapes, program.dtypes, strict=True)
    ]
    details = [
        [
            *(i, list(map(int, detail.operands)), _encoded(detail.parameters, found)),
            {name: _encoded(x, found) for name, x in detail.options.items()},
        ]
        for i, detail in program.details.items()
    ]
    content = {
        "format": FORMAT,
        "version": VERSION,
        "kind": program.kind,
        "rules": names,
        "details": details,
        "inputs": list(map(int, program.inputs)),
        "constants": [[i, _encoded(x, found)] for i, x in program.constants.items()],
        "outputs": list(map(int, program.outputs)),
        "guards": [[int(g.condition), bool(g.outcome), g.line] for g in program.guards],
        "shapes": [list(map(int, s)) for s in shapes],
        "dtypes": list(dtypes),
        "arrays": len(found),
    }
    text = json.dumps(content, allow_nan=False).encode()
    if len(text) > LONGEST_TEXT:
        _wrong(f"it takes {len(text)} bytes of text, {LONGEST_TEXT} is the limit")
    members = {TEXT: text, CODES: _npy(program.codes), OPERANDS: _npy(program.operands)}
    members[KINDS] = _npy(np.array(kinds, np.int32).reshape(-1, 2))
    members |= {f"{k}.npy": _npy(x) for k, x in enumerate(found)}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data)  # dated 1980: the same file each time
    return file.getvalue()


def _npy(x: Any) -> bytes:
    file = io.BytesIO()
    npy.write_array(file, np.asarray(x), (1, 0), allow_pickle=False)
    return file.getvalue()


def _array(data: bytes, name: str) -> Any:
    """The array of a member, whose header must agree with how much there is."""
    file = io.BytesIO(data)
    if npy.read_magic(file) != (1, 0):
        _wrong(f"{name}: expected version 1.0 of numpy's format")
    shape, columns_first, dtype = npy.read_array_header_1_0(file)
    if dtype not in _DTYPES.values():
        _wrong(f"{name}: arrays of {dtype} do not occur")
    _checked_shape(shape)
    start = file.tell()
    if len(data) - start != math.prod(shape) * dtype.itemsize:
        _wrong(f"{name}: shape {shape} does not fit its {len(data) - start} bytes")
    flat = np.frombuffer(data, dtype, offset=start).copy()
    if dtype.kind == "b":
        flat = flat.view(np.uint8) != 0  # any other bit would make a truth value of its own
    return flat.reshape(shape, order="F" if columns_first else "C")


def _members(content: bytes) -> dict[str, bytes]:
    """The members of an archive by name."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        infos = archive.infolist()
        names = [info.filename for info in infos]
        if len(set(names)) < len(names):
            _wrong("a member occurs twice")
        for info in infos:
            if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
                _wrong(f"{info.filename!r} is compressed")
        if sum(info.file_size for info in infos) > len(content):
            _wrong("its members claim to be larger than the file")
        text = next((info for info in infos if info.filename == TEXT), None)
        if text is None or text.file_size > LONGEST_TEXT:
            _wrong(f"it has no {TEXT}, or too long a one")
        return {info.filename: archive.read(info) for info in infos}


# --- arguments as JSON --------------------------------------------------------------------------


def _encoded(x: Any, found: list[Any], depth: int = 0) -> Any:
    """An argument or a constant as JSON: itself, or a list that begins with what it is.

    Arrays are collected in `found`.
    """
    if depth > DEEPEST:
        _wrong(f"arguments nested more than {DEEPEST} deep")
    if x is None or type(x) in (bool, str):
        return x
    if type(x) is int:
        return x if abs(x) < 2**63 else _wrong(f"the integer {x} has more than 64 bits")
    if type(x) is float:
        return ["float", struct.pack("<d", x).hex()]  # its bits: nan has several
    if type(x) in (list, tuple):
        return [type(x).__name__, *(_encoded(part, found, depth + 1) for part in x)]
    if isinstance(x, slice):
        return ["slice", *(_encoded(part, found, depth + 1) for part in (x.start, x.stop, x.step))]
    if x is ...:
        return ["..."]
    if isinstance(x, Placeholder):
        return ["operand", x.position]
    if type(x) is np.ndarray and x.dtype in _DTYPES.values():
        found.append(x)
        return ["array", len(found) - 1]
    if isinstance(x, np.generic) and x.dtype in _DTYPES.values():
        return ["scalar", x.dtype.name, x.tobytes().hex()]
    if isinstance(x, np.dtype) and x in _DTYPES.values():
        return ["dtype", x.name]
    for name, known in _TYPES.items():
        if x is known:
            return ["type", name]
    return _wrong(f"an argument of type {type(x).__name__} cannot be saved")


def _decoded(x: Any, take: Callable[[Any], Any], depth: int = 0) -> Any:
    """What `_encoded` was given; `take` gives the arrays by number."""
    if depth > DEEPEST:
        _wrong(f"arguments nested more than {DEEPEST} deep")
    if x is None or type(x) in (bool, str):
        return x
    if type(x) is int and abs(x) < 2**63:
        return x
    if type(x) is not list or not x:
        _wrong(f"{str(x)[:40]!r} is no argument")
    kind, *parts = x
    if kind in ("list", "tuple"):
        decoded = [_decoded(part, take, depth + 1) for part in parts]
        return decoded if kind == "list" else tuple(decoded)
    if kind == "slice" and len(parts) == 3:
        ends = [_decoded(part, take, depth + 1) for part in parts]
        if all(end is None or isinstance(end, (int, np.integer)) for end in ends) and ends[2] != 0:
            return slice(*ends)
    if kind == "..." and not parts:
        return ...
    if kind == "float" and len(parts) == 1:
        return struct.unpack("<d", bytes.fromhex(parts[0]))[0]
    if kind == "operand" and len(parts) == 1 and type(parts[0]) is int:
        return Placeholder(parts[0])
    if kind == "array" and len(parts) == 1:
        return take(parts[0])
    if kind == "scalar" and len(parts) == 2 and parts[0] in _DTYPES:
        (scalar,) = np.frombuffer(bytes.fromhex(parts[1]), _DTYPES[parts[0]])
        return scalar
    if kind == "dtype" and len(parts) == 1 and parts[0] in _DTYPES:
        return _DTYPES[parts[0]]
    if kind == "type" and len(parts) == 1 and parts[0] in _TYPES:
        return _TYPES[parts[0]]
    return _wrong(f"{str(x)[:40]!r} is no argument")


def _parsed(text: bytes) -> Any:
    """JSON as objects. The collector would look at all of a million lists again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        return json.loads(text)
    finally:
        if enabled:
            gc.enable()


def _program(members: dict[str, bytes], mine: dict[str, Any]) -> Program:
    """The program in an archive; what it holds is of the right types, and not checked further."""
    content = _parsed(members.pop(TEXT))
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        _wrong("it is not a program of tinygrad_bp")
    if content.get("version") != VERSION:
        _wrong(f"it has version {content.get('version')!r}, {VERSION} is known")
    fields = {
        *("format", "version", "kind", "rules", "details", "inputs", "constants", "outputs"),
        *("guards", "shapes", "dtypes", "arrays"),
    }
    if content.keys() != fields:
        _wrong(f"{TEXT} has the fields {sorted(content)}, expected {sorted(fields)}")
    for name in fields - {"format", "version", "kind", "arrays"}:
        if type(content[name]) is not list:
            _wrong(f"{name} is no list")
    count = content["arrays"]
    expected = {CODES, OPERANDS, KINDS}
    if type(count) is int and 0 <= count <= len(members):
        expected |= {f"{k}.npy" for k in range(count)}
    if members.keys() != expected:
        odd = sorted(members.keys() ^ expected)
        _wrong(f"it has the wrong members, or not all: {', '.join(map(repr, odd[:5]))}")
    loaded = {name: _array(data, name) for name, data in members.items()}

    def take(k: Any) -> Any:
        name = f"{k}.npy"
        if type(k) is not int or name not in loaded:
            _wrong(f"array {str(k)[:40]!r} is missing, or used twice")
        return loaded.pop(name)

    codes, operands, kinds = (loaded.pop(name) for name in (CODES, OPERANDS, KINDS))
    if codes.dtype != np.uint16 or operands.dtype != np.int32 or kinds.dtype != np.int32:
        _wrong("codes, operands or kinds have the wrong dtype")
    shapes = [tuple(_integers(shape, "a shape")) for shape in content["shapes"]]
    if not all(type(name) is str and name in _DTYPES for name in content["dtypes"]):
        _wrong(f"dtypes: expected some of {', '.join(_DTYPES)}")
    dtypes = [_DTYPES[name] for name in content["dtypes"]]
    if kinds.shape[1:] != (2,) or (kinds < 0).any():
        _wrong("kinds: expected two numbers each")
    if kinds.size and (kinds.max(axis=0) >= (len(shapes), len(dtypes))).any():
        _wrong("kinds: there is no such shape or dtype")
    details = {}
    for i, of, parameters, options in _rows(content["details"], 4, "details"):
        arguments = _decoded(parameters, take)
        if type(arguments) is not tuple or type(options) is not dict:
            _wrong(f"instruction {i} has no arguments")
        named = {name: _decoded(x, take) for name, x in options.items()}
        details[i] = Details(tuple(_integers(of, "operands")), arguments, named)
    constants = {i: _decoded(x, take) for i, x in _rows(content["constants"], 2, "constants")}
    if loaded:
        _wrong(f"the array {next(iter(loaded))} belongs to nothing")
    guards = []
    for condition, outcome, line in _rows(content["guards"], 3, "guards", unique=False):
        if type(outcome) is not bool or type(line) is not str:
            _wrong("guards: expected an instruction, its outcome, and a line")
        guards.append(Guard(condition, outcome, line))
    return Program(
        kind=content["kind"],
        rules=[INPUT, CONSTANT, *_rules(content["rules"], mine)],
        codes=codes,
        operands=operands,
        details=details,
        inputs=_integers(content["inputs"], "inputs"),
        constants=constants,
        outputs=_integers(content["outputs"], "outputs"),
        guards=guards,
        shapes=[shapes[k] for k in kinds[:, 0].tolist()],
        dtypes=[dtypes[k] for k in kinds[:, 1].tolist()],
    )


def _rules(names: list[Any], mine: dict[str, Any]) -> list[Any]:
    rules, missing = [], []
    for entry in names:
        if type(entry) is not list or [type(part) for part in entry] != [str, bool]:
            _wrong("rules: expected names")
        name, users_own = entry
        rule = (mine if users_own else OPERATIONS).get(name)
        if rule is None and not users_own:
            _wrong(f"there is no operation {name[:40]!r}")
        if rule is None:
            missing.append(name)
        rules.append(rule)
    if missing:
        _wrong(
            f"it uses the operations {', '.join(map(repr, missing))}, which are not the package's: "
            "give them, load(path, operations=[...])"
        )
    return rules


def _integers(x: Any, what: str) -> list[int]:
    if type(x) is not list or not all(type(k) is int and abs(k) < 2**63 for k in x):
        _wrong(f"{what}: expected integers")
    return list(x)


def _rows(x: list[Any], length: int, what: str, unique: bool = True) -> list[Any]:
    """Lists of one length, of which the first part is the number of an instruction."""
    if not all(type(row) is list and len(row) == length and type(row[0]) is int for row in x):
        _wrong(f"{what}: expected lists of {length}")
    if unique and len({row[0] for row in x}) < len(x):
        _wrong(f"{what}: an instruction occurs twice")
    return x


# --- whether it is a program --------------------------------------------------------------------


def _check(program: Program) -> None:
    """Raise a ValueError if the program could not run, or would not give what it says."""
    codes, rules, count = program.codes, program.rules, len(program.codes)
    if program.kind not in ("scalar", "array"):
        _wrong(f"kind: expected 'scalar' or 'array', got {program.kind!r}")
    if codes.shape != (count,) or program.operands.shape != (count, 3):
        _wrong("codes and operands do not have the same number of instructions")
    if len(rules) < 2 or rules[:2] != [INPUT, CONSTANT] or len(rules) > 2**16:
        _wrong("the first two operations must be input and constant")
    if count and int(codes.max()) >= len(rules):
        _wrong(f"there are {len(rules)} operations, but not number {int(codes.max())}")
    if sorted(program.inputs) != np.flatnonzero(codes == 0).tolist():
        _wrong("inputs: expected each instruction of this kind once")
    if sorted(program.constants) != np.flatnonzero(codes == 1).tolist():
        _wrong("constants: expected each instruction of this kind once")
    for what, numbers in (
        ("outputs", program.outputs),
        ("guards", [guard.condition for guard in program.guards]),
    ):
        if not all(0 <= k < count for k in numbers):
            _wrong(f"{what}: there are only {count} instructions")
    _check_operands(program)
    many = [count, count] if program.kind == "array" else [0, 0]
    if [len(program.shapes), len(program.dtypes)] != many:
        _wrong("shapes and dtypes: expected one for each instruction on arrays")
    if program.kind == "scalar":
        for i, x in program.constants.items():
            if not isinstance(x, (bool, int, float, np.generic)):
                _wrong(f"constant {i} is not a number")
    else:
        _check_shapes(program)


def _check_operands(program: Program) -> None:
    """Every instruction has the operands of its operation, which come before it."""
    codes, rules, count = program.codes, program.rules, len(program.codes)
    arity = [0, 0]
    for rule in rules[2:]:
        if isinstance(rule, ArrayRule) and program.kind == "scalar":
            _wrong(f"{rule.name} is no operation on single numbers")
        arity.append(rule.arity if isinstance(rule, Rule) and rule.arity <= 3 else -1)
    expected = np.array(arity)[codes]
    described = np.flatnonzero(expected < 0).tolist()
    if sorted(program.details) != described:
        _wrong("details: expected one for each instruction with arguments")
    own = np.arange(count)
    for k in range(3):
        column, used = program.operands[:, k], (expected > k)
        unused = (expected <= k) & (expected >= 0)
        if ((column < 0) | (column >= own))[used].any() or (column != -1)[unused].any():
            _wrong("operands: expected earlier instructions, as many as the operation takes")
    rows = program.operands[described].tolist()
    for i, row in zip(described, rows, strict=True):
        detail, rule = program.details[i], rules[codes[i]]
        if not all(0 <= k < i for k in detail.operands):
            _wrong(f"instruction {i}: expected operands that come before it")
        further = placeholders(detail.parameters)
        direct = detail.operands[: max(0, len(detail.operands) - further)]
        if isinstance(rule, Rule):
            fits = len(direct) == rule.arity and not (detail.parameters or detail.options)
        elif rule.takes_sequence:
            fits = len(direct) >= 1
        else:
            fits = len(direct) == len(rule.pullbacks)
        if not fits:
            _wrong(f"instruction {i}: {rule.name} does not take {len(direct)} operands")
        if row not in (_row(direct), _row(detail.operands)):
            _wrong(f"instruction {i}: its operands contradict each other")
        positions = sorted(_positions(detail.parameters))
        if positions != list(range(len(direct), len(detail.operands))):
            _wrong(f"instruction {i}: the operands in its arguments are not those it has")
        if any(True for x in detail.options.values() for _ in _positions(x)):
            _wrong(f"instruction {i}: an operand stands in the options")


def _row(operands: Sequence[int]) -> list[int]:
    return [*operands, -1, -1, -1][:3] if len(operands) <= 3 else [-1, -1, -1]


def _positions(parameters: Any) -> Iterable[int]:
    if isinstance(parameters, Placeholder):
        yield parameters.position
    elif isinstance(parameters, (list, tuple)):
        for part in parameters:
            yield from _positions(part)


def _checked_shape(shape: Sequence[int]) -> None:
    if len(shape) > 32 or any(n < 0 for n in shape) or math.prod(shape) > LARGEST:
        _wrong(f"an array cannot have the shape {str(tuple(shape))[:80]}")


def _check_shapes(program: Program) -> None:
    """Every instruction gives the shape and dtype that the program says it has."""
    for shape in set(program.shapes):
        _checked_shape(shape)
    values: list[Any] = []
    for i, code in enumerate(program.codes.tolist()):
        rule, shape, dtype = program.rules[code], program.shapes[i], np.dtype(program.dtypes[i])
        if code == 0:
            result: Any = _ghost(shape, dtype)
        elif code == 1:
            result = program.constants[i]
            if not isinstance(result, (bool, float, np.generic, np.ndarray)):
                _wrong(f"constant {i} is no number, and no array")
        else:
            try:
                result = _inferred(program, i, rule, values)
            except Exception as error:  # whatever a rule does with arguments that do not fit
                _wrong(f"instruction {i}, {rule.name}: {error or type(error).__name__}")
        kind = np.shape(result), np.asarray(result).dtype
        if kind != (shape, dtype):
            name = rule if isinstance(rule, str) else rule.name
            _wrong(f"instruction {i}, {name}: it has shape and dtype {kind}, not {(shape, dtype)}")
        values.append(_ghost(shape, dtype) if np.ndim(result) else result)


def _inferred(program: Program, i: int, rule: Any, values: list[Any]) -> Any:
    operands = [values[k] for k in program.operands_of(i)]
    if isinstance(rule, Rule):
        return _pointwise(lambda *tiny: rule.value(arrays, *tiny), *operands)
    detail = program.details[i]
    operands = [x if isinstance(x, np.ndarray) else np.asarray(x) for x in operands]
    given = filled_in(detail.parameters, operands)
    direct = operands[: len(operands) - placeholders(detail.parameters)]
    return rule.apply(_Shapes, direct, given, detail.options)


# --- shapes without numbers ---------------------------------------------------------------------


class _Ghost(np.ndarray[Any, Any]):
    """An array of which only shape and dtype count: every element is the same zero in memory."""

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        if method != "__call__" or ufunc.signature or options:
            return NotImplemented
        return _pointwise(ufunc, *inputs)

    def __getitem__(self, index: Any) -> Any:
        return _Shapes.getitem(self, index)

    def one_hot(self, classes: int, dtype: Any = None) -> Any:
        """Rows with a one: see `array_rules.one_hot`."""
        if self.dtype.kind not in "iu":
            _wrong("the indices are not integers")
        return _ghost((*self.shape, classes), np.dtype(dtype or np.float64))


def _ghost(shape: Sequence[int], dtype: Any) -> Any:
    _checked_shape(shape)
    return np.broadcast_to(np.zeros((), dtype), shape).view(_Ghost)


@np.errstate(all="ignore")
def _pointwise(f: Callable[..., Any], *operands: Any) -> Any:
    """What a function of single elements gives: it is called on one of each operand."""
    shape = np.broadcast_shapes(*map(np.shape, operands))
    tiny = [np.ones(1, x.dtype) if isinstance(x, np.ndarray) else x for x in operands]
    result = np.asarray(f(*tiny))
    if result.size != 1:
        _wrong("an elementwise operation gave more than one number per element")
    return _ghost(shape, result.dtype)


def _plain(x: Any) -> Any:
    return x.view(np.ndarray) if isinstance(x, _Ghost) else np.asarray(x)


def _as_index(x: Any) -> Any:
    """A list as numpy understands it in an index."""
    if not isinstance(x, list):
        return x
    array = np.asarray(x)
    return array if array.size else array.astype(np.intp)


def _check_positions(index: Any, length: int) -> None:
    if index.dtype.kind not in "iu":
        _wrong(f"an index of {index.dtype}")
    if isinstance(index, _Ghost) or not index.size:
        return
    if int(index.min()) < -length or int(index.max()) >= length:
        _wrong(f"an index outside of an axis of length {length}")


def _shape_at(shape: tuple[int, ...], index: Any) -> tuple[int, ...]:
    """The shape of x[index], after numpy's rules: the axes of index arrays come where the first
    stands, or, if slices stand between them, in front.
    """  # fmt: skip
    parts = [_as_index(part) for part in (index if isinstance(index, tuple) else (index,))]
    parts = [np.asarray(p) if isinstance(p, (bool, np.bool_)) else p for p in parts]
    taken = 0
    for part in parts:
        mask = isinstance(part, np.ndarray) and part.dtype.kind == "b"
        taken += part.ndim if mask else part is not None and part is not ...
    dots = sum(part is ... for part in parts)
    if taken > len(shape) or dots > 1:
        _wrong("too many indices")
    if not dots:
        parts.append(...)
    rest = len(shape) - taken
    lengths = iter(shape)
    kept: list[int] = []
    chosen: list[tuple[int, ...]] = []  # the shapes of index arrays
    places: list[int] = []  # how many axes came before each
    runs, joined = 0, False
    for part in parts:
        advanced = isinstance(part, (np.ndarray, int, np.integer))
        if advanced and not joined:
            runs += 1
        joined = advanced
        if part is None:
            kept.append(1)
        elif part is ...:
            kept += [next(lengths) for _ in range(rest)]
        elif isinstance(part, slice):
            kept.append(len(range(*part.indices(next(lengths)))))
        elif isinstance(part, np.ndarray) and part.dtype.kind == "b":
            if isinstance(part, _Ghost):
                _wrong("a mask that is given at each run: the shape would depend on its data")
            if tuple(next(lengths) for _ in range(part.ndim)) != part.shape:
                _wrong("a mask of another shape")
            chosen.append((int(np.count_nonzero(part)),))
            places.append(len(kept))
        elif advanced:
            position = part if isinstance(part, np.ndarray) else np.asarray(part)
            _check_positions(position, next(lengths))
            chosen.append(position.shape)
            places.append(len(kept))
        else:
            _wrong(f"an index of type {type(part).__name__}")
    if not chosen:
        return tuple(kept)
    at = places[0] if runs == 1 else 0
    return (*kept[:at], *np.broadcast_shapes(*chosen), *kept[at:])


def _reduction(ufunc: Any) -> Callable[..., Any]:
    def reduced(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
        axes = range(x.ndim) if axis is None else normalize_axis_tuple(axis, x.ndim)
        if ufunc.identity is None and any(x.shape[a] == 0 for a in axes):
            _wrong("nothing to choose from")
        shape = [1 if i in axes else n for i, n in enumerate(x.shape) if keepdims or i not in axes]
        return _ghost(shape, ufunc.reduce(np.ones(1, x.dtype)).dtype)

    return reduced


class _Shapes:
    """The functions of `arrays`, computing shapes and dtypes."""

    sum, prod = staticmethod(_reduction(np.add)), staticmethod(_reduction(np.multiply))
    max, min = staticmethod(_reduction(np.maximum)), staticmethod(_reduction(np.minimum))

    @staticmethod
    def detached(x: Any) -> Any:
        return x

    @staticmethod
    def astype(x: Any, dtype: Any) -> Any:
        return _ghost(x.shape, dtype)

    @staticmethod
    def reshape(x: Any, shape: Any) -> Any:
        lengths: list[Any] = [shape] if isinstance(shape, (int, np.integer)) else list(shape)
        known = math.prod(n for n in lengths if n != -1)
        if lengths.count(-1) == 1 and known:
            lengths[lengths.index(-1)] = x.size // known
        if min(lengths, default=0) < 0 or math.prod(lengths) != x.size:
            _wrong(f"{x.size} elements do not fill the shape {str(shape)[:80]}")
        return _ghost(lengths, x.dtype)

    @staticmethod
    def transpose(x: Any, axes: Any = None) -> Any:
        return _ghost(_plain(x).transpose(axes).shape, x.dtype)

    @staticmethod
    def expand_dims(x: Any, axis: Any) -> Any:
        return _ghost(np.expand_dims(_plain(x), axis).shape, x.dtype)

    @staticmethod
    def squeeze(x: Any, axis: Any = None) -> Any:
        return _ghost(np.squeeze(_plain(x), axis).shape, x.dtype)

    @staticmethod
    def broadcast_to(x: Any, shape: Any) -> Any:
        return _ghost(np.broadcast_to(_plain(x), shape).shape, x.dtype)

    @staticmethod
    def flip(x: Any, axis: Any = None) -> Any:
        return _ghost(np.flip(_plain(x), axis).shape, x.dtype)

    @staticmethod
    def cumsum(x: Any, axis: Any = None) -> Any:
        if axis is None:
            return _ghost((x.size,), x.dtype)
        normalize_axis_index(axis, x.ndim)
        return _ghost(x.shape, x.dtype)

    @staticmethod
    def pad(x: Any, widths: Any, constant_values: Any = 0.0) -> Any:
        if min((w for pair in widths for w in pair), default=0) < 0:
            _wrong("a negative width")
        float(constant_values)
        lengths = [a + n + b for (a, b), n in zip(widths, x.shape, strict=True)]
        return _ghost(lengths, x.dtype)

    @staticmethod
    def tril(x: Any, k: Any = 0) -> Any:
        if not isinstance(k, (int, np.integer)) or not x.ndim:
            _wrong("expected a diagonal of a matrix")
        return _ghost(x.shape if x.ndim > 1 else x.shape * 2, x.dtype)

    triu = tril

    @staticmethod
    def matmul(x: Any, y: Any) -> Any:
        if not (x.ndim and y.ndim) or x.shape[-1] != y.shape[-2 if y.ndim > 1 else -1]:
            _wrong(f"no product of shapes {x.shape} and {y.shape}")
        stack = np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
        shape = (*stack, *x.shape[-2:-1], *(y.shape[-1:] if y.ndim > 1 else ()))
        return _ghost(shape, np.result_type(x.dtype, y.dtype))

    @staticmethod
    def einsum(subscripts: str, *operands: Any) -> Any:
        left, output = subscripts.split("->")
        sizes: dict[str, int] = {}
        for letters, x in zip(left.split(","), operands, strict=True):
            mine = dict(zip(letters, x.shape, strict=True))
            if any(mine[c] != n for c, n in zip(letters, x.shape, strict=True)):
                _wrong(f"{subscripts!r}: a diagonal of unequal axes")
            for c, n in mine.items():
                have = sizes.setdefault(c, n)
                if not (c.isascii() and c.isalpha()) or (have != n and 1 not in (have, n)):
                    _wrong(f"{subscripts!r} does not fit")
                sizes[c] = n if have == 1 else have
        if len(set(output)) < len(output):
            _wrong(f"{subscripts!r} names an axis of the result twice")
        return _ghost([sizes[c] for c in output], np.result_type(*(x.dtype for x in operands)))

    @staticmethod
    def getitem(x: Any, index: Any) -> Any:
        return _ghost(_shape_at(x.shape, index), x.dtype)

    @staticmethod
    def scatter(g: Any, index: Any, shape: Any) -> Any:
        shape = tuple(shape)
        if np.broadcast_shapes(np.shape(g), place := _shape_at(shape, index)) != place:
            _wrong("more than there is place for")
        return _ghost(shape, np.asarray(g).dtype)

    @staticmethod
    def take(x: Any, indices: Any, axis: Any = None) -> Any:
        indices = np.asarray(_as_index(indices)) if not isinstance(indices, _Ghost) else indices
        if axis is None:
            _check_positions(indices, x.size)
            return _ghost(indices.shape, x.dtype)
        axis = normalize_axis_index(axis, x.ndim)
        _check_positions(indices, x.shape[axis])
        return _ghost((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]), x.dtype)

    @staticmethod
    def take_along_axis(x: Any, indices: Any, axis: Any) -> Any:
        axis = normalize_axis_index(axis, x.ndim)
        _check_positions(indices, x.shape[axis])
        if indices.ndim != x.ndim:
            _wrong("expected as many axes of positions as there are")
        around = (*x.shape[:axis], 1, *x.shape[axis + 1 :])
        return _ghost(np.broadcast_shapes(indices.shape, around), x.dtype)

    @staticmethod
    def concatenate(operands: Any, axis: Any = 0) -> Any:
        axis = normalize_axis_index(axis, operands[0].ndim)
        around = {(*x.shape[:axis], *x.shape[axis + 1 :], x.ndim) for x in operands}
        if len(around) > 1:
            _wrong("shapes that cannot be joined")
        shape = list(operands[0].shape)
        shape[axis] = sum(x.shape[axis] for x in operands)
        return _ghost(shape, np.result_type(*(x.dtype for x in operands)))

    @staticmethod
    def stack(operands: Any, axis: Any = 0) -> Any:
        if len({x.shape for x in operands}) > 1:
            _wrong("shapes that cannot be stacked")
        axis = normalize_axis_index(axis, operands[0].ndim + 1)
        shape = list(operands[0].shape)
        shape.insert(axis, len(operands))
        return _ghost(shape, np.result_type(*(x.dtype for x in operands)))


for _name in RULES.keys() & set(arrays.__all__):
    setattr(_Shapes, _name, staticmethod(functools.partial(_pointwise, getattr(arrays, _name))))
