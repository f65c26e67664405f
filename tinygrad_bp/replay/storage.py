"""Programs in files: data, from which no code is ever run.

A file is a zip archive of numpy arrays (`.npy`) and of one JSON text for everything else. Rules are
saved by name; those of users are given again at loading. Nothing in the archive is compressed, so
it holds no more than it takes up, and what is read is in proportion to the file.

Loading checks everything: a file that is damaged, or made up, gives a ValueError that says what is
wrong with it (see `validation`).
"""

from __future__ import annotations

import gc
import io
import json
import os
import struct
import zipfile
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.lib import format as npy

from tinygrad_bp.arguments import file_path, instance, several
from tinygrad_bp.array_rules import ArrayRule
from tinygrad_bp.files import array_of, read_whole, shown, write_whole
from tinygrad_bp.interrupts import undone
from tinygrad_bp.replay.program import (
    CONSTANT,
    INPUT,
    OPERATIONS,
    Details,
    Draw,
    Guard,
    Placeholder,
    Program,
)
from tinygrad_bp.replay.scopes import Place, Scopes
from tinygrad_bp.replay.validation import check_program, checked_shape, wrong
from tinygrad_bp.rules import Rule

FORMAT, VERSION = "tinygrad_bp program", 1
TEXT, CODES, OPERANDS, KINDS = "program.json", "codes.npy", "operands.npy", "kinds.npy"
LONGEST_FILE = 2**32  # bytes
LONGEST_TEXT = 2**24  # bytes of JSON
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
    instance(program, "program", Program, "a Program")
    path = file_path(path, "path")
    try:
        check_program(program)
        content = _archive(program)
    except ValueError as error:
        raise ValueError(f"{path}: cannot save the program: {shown(error, 160)}") from None
    write_whole(path, content)


def load(path: str | os.PathLike[str], operations: Iterable[Rule | ArrayRule] = ()) -> Program:
    """Read a program from a file, and check all of it.

    Args:
        path: a file that `save` wrote.
        operations: the rules of your own that occur in it.

    Returns:
        A program that gives the results of the saved one, bit for bit.

    Raises:
        ValueError: the file does not hold a program, or one with an operation that is not known,
            or has more than 4 GiB; the message names the file, and what is wrong.
        OSError: the file cannot be read.
    """
    mine: dict[str, Any] = {}
    path = file_path(path, "path")
    for rule in several(operations, "operations", "operations"):
        instance(rule, "operations", (Rule, ArrayRule), "operations")
        if mine.setdefault(rule.name, rule) is not rule:
            raise ValueError(f"operations: two are called {rule.name!r}")
    content = read_whole(path, LONGEST_FILE)
    try:
        program = _program(_members(content), mine)
        check_program(program)
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)}: {shown(error, 190)}") from None
    except Exception as error:  # a damaged file may upset the zip and JSON readers in any way
        what = shown(f"{type(error).__name__}: {error}", 150)
        raise ValueError(f"{os.fspath(path)}: not a readable program: {what}") from None
    return program


# --- the archive --------------------------------------------------------------------------------


def _archive(program: Program) -> bytes:
    """The bytes of the file."""
    found: list[Any] = []
    names = [[rule.name, OPERATIONS.get(rule.name) is not rule] for rule in program.rules[2:]]
    users = [name for name, users_own in names if users_own]
    if len(set(users)) < len(users):
        wrong(f"two of the operations {sorted(users)} have the same name")
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
        "guards": [[int(g.condition), bool(g.outcome), _line(g)] for g in program.guards],
        "shapes": [list(map(int, s)) for s in shapes],
        "dtypes": list(dtypes),
        "scopes": [list(place) for place in program.scopes.table],
        "places": np.stack([program.scopes.starts, program.scopes.places], 1).tolist(),
        "draws": [
            [
                *(draw.generator, draw.method, _encoded(draw.parameters, found)),
                *({name: _encoded(x, found) for name, x in draw.options.items()}, draw.count),
            ]
            for draw in program.draws
        ],
        "arrays": len(found),
    }
    text = json.dumps(content, allow_nan=False).encode()
    if b"\\ud" in text and not _is_unicode(content):
        wrong("a text in it, such as a name, has half a character")
    if len(text) > LONGEST_TEXT:
        wrong(f"it takes {len(text)} bytes of text, {LONGEST_TEXT} is the limit")
    members = {TEXT: text, CODES: _npy(program.codes), OPERANDS: _npy(program.operands)}
    members[KINDS] = _npy(np.array(kinds, np.int32).reshape(-1, 2))
    members |= {f"{k}.npy": _npy(x) for k, x in enumerate(found)}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data)  # dated 1980: the same file each time
    return file.getvalue()


def _line(guard: Guard) -> str:
    """Where a guard was recorded; names of files may have characters that no text has."""
    return guard.line.encode(errors="replace").decode()


def _npy(x: Any) -> bytes:
    file = io.BytesIO()
    npy.write_array(file, np.asarray(x), (1, 0), allow_pickle=False)
    return file.getvalue()


def _array(data: bytes, name: str) -> Any:
    """The array of a member, whose header must agree with how much there is."""
    try:
        x = array_of(data)
    except ValueError as error:
        wrong(f"{name}: {error}")
    if x.dtype not in _DTYPES.values():
        wrong(f"{name}: arrays of {x.dtype} do not occur")
    checked_shape(x.shape)
    return x


def _members(content: bytes) -> dict[str, bytes]:
    """The members of an archive by name."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        infos = archive.infolist()
        names = [info.filename for info in infos]
        if len(set(names)) < len(names):
            wrong("a member occurs twice")
        for info in infos:
            if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
                wrong(f"{info.filename!r} is compressed")
        if sum(info.file_size for info in infos) > len(content):
            wrong("its members claim to be larger than the file")
        text = next((info for info in infos if info.filename == TEXT), None)
        if text is None or text.file_size > LONGEST_TEXT:
            wrong(f"it has no {TEXT}, or too long a one")
        return {info.filename: archive.read(info) for info in infos}


# --- arguments as JSON --------------------------------------------------------------------------


def _encoded(x: Any, found: list[Any], depth: int = 0) -> Any:
    """An argument or a constant as JSON: itself, or a list that begins with what it is.

    Arrays are collected in `found`.
    """
    if depth > DEEPEST:
        wrong(f"arguments nested more than {DEEPEST} deep")
    if x is None or type(x) in (bool, str):
        return x
    if type(x) is int:
        return x if abs(x) < 2**63 else wrong(f"the integer {x} has more than 64 bits")
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
    return wrong(f"an argument of type {type(x).__name__} cannot be saved")


def _decoded(x: Any, take: Callable[[Any], Any], depth: int = 0) -> Any:
    """What `_encoded` was given; `take` gives the arrays by number."""
    if depth > DEEPEST:
        wrong(f"arguments nested more than {DEEPEST} deep")
    if x is None or type(x) in (bool, str):
        return x
    if type(x) is int and abs(x) < 2**63:
        return x
    if type(x) is not list or not x:
        wrong(f"{str(x)[:40]!r} is no argument")
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
    return wrong(f"{str(x)[:40]!r} is no argument")


def _parsed(text: bytes) -> Any:
    """JSON as objects. The collector would look at all of a million lists again and again."""
    collect = gc.enable if gc.isenabled() else gc.disable

    def parsed() -> Any:
        gc.disable()
        return json.loads(text.decode(), object_pairs_hook=_once)

    content = undone(parsed, collect)
    if b"\\ud" in text.lower() and not _is_unicode(content):
        wrong("a text in it has half a character")
    return content


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose names are all different."""
    found = dict(pairs)
    if len(found) < len(pairs):
        wrong(f"{TEXT} has a name twice")
    return found


def _is_unicode(content: Any) -> bool:
    """Whether all texts could be written somewhere else."""
    try:
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _program(members: dict[str, bytes], mine: dict[str, Any]) -> Program:
    """The program in an archive; what it holds is of the right types, and not checked further."""
    content = _parsed(members.pop(TEXT))
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        wrong("it is not a program of tinygrad_bp")
    if content.get("version") != VERSION:
        wrong(f"it has version {content.get('version')!r}, {VERSION} is known")
    fields = {
        *("format", "version", "kind", "rules", "details", "inputs", "constants", "outputs"),
        *("guards", "shapes", "dtypes", "draws", "arrays", "scopes", "places"),
    }
    if content.keys() != fields:
        wrong(f"{TEXT} has the fields {sorted(content)}, expected {sorted(fields)}")
    for name in fields - {"format", "version", "kind", "arrays"}:
        if type(content[name]) is not list:
            wrong(f"{name} is no list")
    count = content["arrays"]
    expected = {CODES, OPERANDS, KINDS}
    if type(count) is int and 0 <= count <= len(members):
        expected |= {f"{k}.npy" for k in range(count)}
    if members.keys() != expected:
        odd = sorted(members.keys() ^ expected)
        wrong(f"it has the wrong members, or not all: {', '.join(map(repr, odd[:5]))}")
    loaded = {name: _array(data, name) for name, data in members.items()}

    def take(k: Any) -> Any:
        name = f"{k}.npy"
        if type(k) is not int or name not in loaded:
            wrong(f"array {str(k)[:40]!r} is missing, or used twice")
        return loaded.pop(name)

    codes, operands, kinds = (loaded.pop(name) for name in (CODES, OPERANDS, KINDS))
    if codes.dtype != np.uint16 or operands.dtype != np.int32 or kinds.dtype != np.int32:
        wrong("codes, operands or kinds have the wrong dtype")
    shapes = [tuple(_integers(shape, "a shape")) for shape in content["shapes"]]
    if not all(type(name) is str and name in _DTYPES for name in content["dtypes"]):
        wrong(f"dtypes: expected some of {', '.join(_DTYPES)}")
    dtypes = [_DTYPES[name] for name in content["dtypes"]]
    if kinds.shape[1:] != (2,) or (kinds < 0).any():
        wrong("kinds: expected two numbers each")
    if kinds.size and (kinds.max(axis=0) >= (len(shapes), len(dtypes))).any():
        wrong("kinds: there is no such shape or dtype")
    details = {}
    for i, of, parameters, options in _rows(content["details"], 4, "details"):
        arguments = _decoded(parameters, take)
        if type(arguments) is not tuple or type(options) is not dict:
            wrong(f"instruction {i} has no arguments")
        named = {name: _decoded(x, take) for name, x in options.items()}
        details[i] = Details(tuple(_integers(of, "operands")), arguments, named)
    draws = [_draw(row, take) for row in _rows(content["draws"], 5, "draws", unique=False)]
    constants = {i: _decoded(x, take) for i, x in _rows(content["constants"], 2, "constants")}
    if loaded:
        wrong(f"the array {next(iter(loaded))} belongs to nothing")
    guards = []
    for condition, outcome, line in _rows(content["guards"], 3, "guards", unique=False):
        if type(outcome) is not bool or type(line) is not str:
            wrong("guards: expected an instruction, its outcome, and a line")
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
        scopes=_scopes(content["scopes"], content["places"]),
        draws=draws,
    )


def _scopes(table: list[Any], places: list[Any]) -> Scopes:
    if not all(type(place) is list and len(place) == 3 for place in table):
        wrong("scopes: expected a name, a number and a place each")
    rows = [_integers(row, "places") for row in places]
    if not all(len(row) == 2 and max(map(abs, row)) < 2**31 for row in rows):
        wrong("places: expected an instruction and a scope each")
    starts, numbers = np.array(rows, np.int32).reshape(-1, 2).T
    return Scopes([Place(*place) for place in table], starts, numbers)


def _draw(row: list[Any], take: Callable[[Any], Any]) -> Draw:
    generator, method, parameters, options, count = row
    given = _decoded(parameters, take)
    if type(method) is not str or type(given) is not tuple or type(options) is not dict:
        wrong("draws: expected a generator, a method, its arguments, and a count")
    _integers([count], "draws")
    named = {name: _decoded(x, take) for name, x in options.items()}
    return Draw(generator, method, given, named, count)


def _rules(names: list[Any], mine: dict[str, Any]) -> list[Any]:
    rules, missing = [], []
    for entry in names:
        if type(entry) is not list or [type(part) for part in entry] != [str, bool]:
            wrong("rules: expected names")
        name, users_own = entry
        rule = (mine if users_own else OPERATIONS).get(name)
        if rule is None and not users_own:
            wrong(f"there is no operation {name[:40]!r}")
        if rule is None:
            missing.append(name)
        rules.append(rule)
    if missing:
        wrong(
            f"it uses the operations {', '.join(map(repr, missing))}, which are not the package's: "
            "give them, load(path, operations=[...])"
        )
    return rules


def _integers(x: Any, what: str) -> list[int]:
    if type(x) is not list or not all(type(k) is int and abs(k) < 2**63 for k in x):
        wrong(f"{what}: expected integers")
    return list(x)


def _rows(x: list[Any], length: int, what: str, unique: bool = True) -> list[Any]:
    """Lists of one length, of which the first part is the number of an instruction."""
    if not all(type(row) is list and len(row) == length and type(row[0]) is int for row in x):
        wrong(f"{what}: expected lists of {length}")
    if unique and len({row[0] for row in x}) < len(x):
        wrong(f"{what}: an instruction occurs twice")
    return x
