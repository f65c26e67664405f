"""Runs programs of one kind by the million: counts, resumes, shrinks and prints.

    python -m tests.fuzz KIND [--count N] [--seed S] [--first K] [--jobs J]
                              [--state FILE] [--time SECONDS]

Program k of seed S depends on S, the kind and k alone. Programs are handed out in chunks, to
processes of their own; what a chunk found enters the results, and the state file, as a whole or not
at all. So an interrupted run resumes and repeats nothing, and every order gives the same totals.

A failure is made smaller as long as it stays the same failure: the same exception, from the same
place and, for a `Mismatch`, with the same words before the first colon of its message. Failures
that come down to programs that differ in their numbers alone are one group.

A tally's keys that begin with "skipped" or "(" are no comparisons. A kind may have a `CHUNK`, the
number of programs handed out at once (1,000 if not).
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import pkgutil
import random
import re
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from . import Mismatch

SHRUNK_OF_A_CHUNK = 8  # failures beyond these are counted, and not made smaller
TRIES = 5000  # programs tried to make one failure smaller
SAVED_EVERY = 2.0  # seconds
PROTOCOL = ("generate", "check", "smaller", "code")


# --- one program --------------------------------------------------------------------------------


def kinds() -> list[str]:
    """The names of the kinds of programs: the modules of this package that follow the protocol."""
    names = [m.name for m in pkgutil.iter_modules([str(Path(__file__).parent)])]
    own = {"__main__", "driver"}
    files = {name: Path(__file__).with_name(f"{name}.py") for name in names if name not in own}
    return sorted(
        name
        for name, file in files.items()
        if not name.startswith("test_")
        and all(f"\ndef {function}(" in file.read_text("utf-8") for function in PROTOCOL)
    )


def module_of(kind: str) -> Any:
    """The module of a kind."""
    if not kind.isidentifier():
        raise ValueError(f"kind: expected a name, got {kind!r}")
    return importlib.import_module(f"{__package__}.{kind}")


def program(module: Any, kind: str, seed: int, k: int) -> Any:
    """Program k of a seed."""
    return module.generate(random.Random(f"{seed} {kind} {k}"))


def failure_of(module: Any, candidate: Any, tally: Counter[str] | None = None) -> Any:
    """What a program's check raises; None if all is well."""
    try:
        module.check(candidate, Counter() if tally is None else tally)
    except Exception as error:
        return error
    return None


def sort_of(error: BaseException) -> str:
    """What makes two failures the same: the exception, and where it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{Path(frames[-1].filename).stem}.{frames[-1].name}" if frames else ""
    what, colon, _ = str(error).partition(":")
    words = f" ({what})" if isinstance(error, Mismatch) and colon else ""
    return f"{type(error).__name__} in {place}{words}"


def shrunk(module: Any, candidate: Any, error: BaseException) -> tuple[Any, BaseException]:
    """The smallest program found that fails in the same way, and its failure."""
    sort, tries = sort_of(error), 0
    while True:
        for smaller in module.smaller(candidate):
            tries += 1
            if tries > TRIES:
                return candidate, error
            found = failure_of(module, smaller)
            if found is not None and sort_of(found) == sort:
                candidate, error = smaller, found
                break
        else:
            return candidate, error


def shape_of(code: str) -> str:
    """A program's code without its numbers."""
    return re.sub(r"(?<![\w.])-?(\d+\.?\d*(e[-+]?\d+)?|inf|nan)\b", "#", code)


# --- one chunk ----------------------------------------------------------------------------------


class Task(NamedTuple):
    """What to run: a kind, a seed, the programs first ... first + count - 1, in chunks."""

    kind: str
    seed: int
    first: int
    count: int
    chunk: int

    def programs(self, number: int) -> range:
        """The programs of a chunk."""
        start = self.first + number * self.chunk
        return range(start, min(start + self.chunk, self.first + self.count))

    @property
    def chunks(self) -> int:
        """How many chunks there are."""
        return -(-self.count // self.chunk)


def run_chunk(module: Any, task: Task, number: int) -> dict[str, Any]:
    """All programs of a chunk: what they compared, the failures, and the processor time."""
    start = time.process_time()
    tally: Counter[str] = Counter()
    failures = []
    for k in task.programs(number):
        try:
            candidate = program(module, task.kind, task.seed, k)
            module.check(candidate, tally)
        except Exception as error:
            if len(failures) >= SHRUNK_OF_A_CHUNK or "candidate" not in locals():
                failures.append(_described(k, error, f"# program {k}: not made smaller"))
            else:
                small, error = shrunk(module, candidate, error)
                failures.append(_described(k, error, module.code(small)))
    spent = time.process_time() - start
    programs = len(task.programs(number))
    return {"programs": programs, "tally": tally, "failures": failures, "cpu": spent}


def _described(k: int, error: BaseException, code: str) -> dict[str, Any]:
    return {"k": k, "sort": sort_of(error), "message": str(error)[:2000], "code": code}


# --- processes ----------------------------------------------------------------------------------


def _work(task: Task, pipe: Connection) -> None:
    """A worker: runs the chunks whose numbers it is sent, until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what becomes of the run
    module = module_of(task.kind)
    warnings.simplefilter("error", RuntimeWarning)
    try:
        while True:
            pipe.send(run_chunk(module, task, pipe.recv()))
    except (EOFError, BrokenPipeError):
        pass


class _Worker:
    """A process, the pipe to it, and the chunk that it is at."""

    def __init__(self, task: Task) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=_work, args=(task, other), daemon=True)
        self.process.start()
        other.close()
        self.chunk = -1

    def result(self) -> dict[str, Any]:
        """What the chunk found; that the process died over it, if it did."""
        try:
            return self.pipe.recv()  # type: ignore[no-any-return]
        except (EOFError, ConnectionResetError):
            self.process.join()
            return {"crash": self.process.exitcode}


def _results(task: Task, numbers: Iterator[int], jobs: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """The chunks' results as they come. A process that dies is replaced by another."""
    if jobs == 0:
        module = module_of(task.kind)
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            for number in numbers:
                yield number, run_chunk(module, task, number)
        return
    busy: dict[Any, _Worker] = {}

    def give(worker: _Worker | None) -> None:
        number = next(numbers, None)
        if number is None:
            if worker is not None:
                worker.pipe.close()
            return
        worker = worker or _Worker(task)
        worker.chunk = number
        worker.pipe.send(number)
        busy[worker.pipe] = worker

    try:
        for _ in range(jobs):
            give(None)
        while busy:
            for pipe in wait(list(busy)):
                worker = busy.pop(pipe)
                result = worker.result()
                if "crash" in result:
                    programs = task.programs(worker.chunk)
                    result = _crash(programs, result["crash"])
                    yield worker.chunk, result
                    give(None)
                else:
                    yield worker.chunk, result
                    give(worker)
    finally:
        for worker in busy.values():
            worker.process.kill()
            worker.process.join()


def _crash(programs: range, exitcode: int) -> dict[str, Any]:
    where = f"programs {programs.start} to {programs.stop - 1}"
    failure = {
        "k": programs.start,
        "sort": f"crash of the process (exit code {exitcode})",
        "message": f"the process died in {where}",
        "code": f"# {where}: run them with --first {programs.start} --count {len(programs)}",
    }
    return {"programs": len(programs), "tally": Counter(), "failures": [failure], "cpu": 0.0}


# --- the state of a run -------------------------------------------------------------------------


class State:
    """What a run has found so far, in memory and in a file that is replaced as a whole.

    Attributes:
        done: the numbers of the chunks that are in it.
        tally: what was compared, and what was not.
        groups: the failures: per group the first program, how many, and the shrunk code.
        programs, failures: how many.
        cpu: processor time of the chunks, in seconds.
    """

    def __init__(self, task: Task, path: Path | None = None) -> None:
        self.task, self.path = task, path
        self.done: set[int] = set()
        self.tally: Counter[str] = Counter()
        self.groups: dict[str, dict[str, Any]] = {}
        self.programs = self.failures = 0
        self.cpu = 0.0
        self._saved = 0.0
        if path is not None and path.exists():
            self._load(path)

    def add(self, number: int, result: dict[str, Any]) -> None:
        """Enter what a chunk found."""
        self.done.add(number)
        self.tally.update(result["tally"])
        self.programs += result["programs"]
        self.cpu += result["cpu"]
        for failure in result["failures"]:
            self.failures += 1
            key = f"{failure['sort']}\n{shape_of(failure['code'])}"
            group = self.groups.setdefault(key, {**failure, "times": 0})
            times = group["times"] + 1
            if failure["k"] < group["k"]:
                group.update(failure)
            group["times"] = times
        if time.monotonic() > self._saved + SAVED_EVERY:
            self.save()

    def save(self) -> None:
        """Write the file anew, and put it in the place of the old one."""
        if self.path is None:
            return
        content = {
            "task": self.task._asdict(),
            "done": _ranges(self.done),
            "programs": self.programs,
            "tally": dict(self.tally),
            "cpu": self.cpu,
            "failures": self.failures,
            "groups": self.groups,
        }
        new = self.path.with_name(f"{self.path.name}.new")
        new.write_text(json.dumps(content, indent=1), "utf-8")
        os.replace(new, self.path)
        self._saved = time.monotonic()

    def _load(self, path: Path) -> None:
        try:
            content = json.loads(path.read_text("utf-8"))
            task = Task(**content["task"])
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"state: {path} is not the state of a run ({error})") from None
        if task != self.task:
            asked, held = self.task._asdict(), task._asdict()
            other = [f"{k} {held[k]!r}, not {asked[k]!r}" for k in asked if held[k] != asked[k]]
            raise ValueError(f"state: {path} is that of another run: {', '.join(other)}")
        self.done = {i for start, stop in content["done"] for i in range(start, stop)}
        self.tally = Counter(content["tally"])
        self.programs, self.cpu = content["programs"], content["cpu"]
        self.failures, self.groups = content["failures"], content["groups"]


def _ranges(numbers: set[int]) -> list[list[int]]:
    """Numbers as pairs [start, stop]."""
    ranges: list[list[int]] = []
    for i in sorted(numbers):
        if ranges and ranges[-1][1] == i:
            ranges[-1][1] = i + 1
        else:
            ranges.append([i, i + 1])
    return ranges


# --- the run ------------------------------------------------------------------------------------


def run(
    task: Task,
    jobs: int = 0,
    path: Path | None = None,
    seconds: float | None = None,
    progress: Callable[[State, float], None] | None = None,
) -> State:
    """Run what the state says is still to do.

    Args:
        task: the programs.
        jobs: the number of processes; 0 for this one.
        path: the state file: read if it exists, written as the run goes on and at its end.
        seconds: after this time no further chunk is begun.
        progress: called after every chunk with the state and the seconds since the start.

    Raises:
        ValueError: the state file is that of another run, or none.
    """
    state = State(task, path)
    start = time.monotonic()

    def numbers() -> Iterator[int]:
        for number in range(task.chunks):
            if seconds is not None and time.monotonic() - start > seconds:
                return
            if number not in state.done:
                yield number

    results = _results(task, iter(list(numbers()) if seconds is None else numbers()), jobs)
    try:
        for number, result in results:
            state.add(number, result)
            if progress is not None:
                progress(state, time.monotonic() - start)
    finally:
        results.close()
        state.save()
    return state


def report(state: State, out: TextIO) -> None:
    """Print the failures as code, what was compared, and a row of a Markdown table."""
    for key, group in sorted(state.groups.items(), key=lambda item: item[1]["k"]):
        sort = key.partition("\n")[0]
        print(f"# {group['times']} times {sort}, first in program {group['k']}", file=out)
        print("\n".join(f"#   {line}" for line in group["message"].splitlines()), file=out)
        print(f"{group['code']}\n", file=out)
    for what, times in sorted(state.tally.items()):
        print(f"{times:>14,}  {what}", file=out)
    compared = sum(n for what, n in state.tally.items() if not what.startswith(("skipped", "(")))
    task = state.task
    print("\n| kind | seed | programs | comparisons | mismatches | CPU time |", file=out)
    print("|---|---:|---:|---:|---:|---:|", file=out)
    print(
        f"| {task.kind} | {task.seed} | {state.programs:,} | {compared:,} | {state.failures:,} "
        f"| {state.cpu:,.0f} s |",
        file=out,
    )


def _progress(state: State, seconds: float) -> None:
    share = state.programs / state.task.count
    print(
        f"\r{state.programs:,} programs ({share:.1%}), {state.failures} failures in "
        f"{len(state.groups)} groups, {seconds:.0f} s ",
        end="",
        file=sys.stderr,
        flush=True,
    )


def main(arguments: list[str] | None = None) -> int:
    """The command line. Returns 1 if there were failures, 130 if it was interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description=__doc__.split("\n")[0]
    )
    parser.add_argument("kind", help=f"one of {', '.join(kinds())}")
    parser.add_argument("--count", type=int, default=10_000, help="how many programs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, metavar="K", help="the first program")
    parser.add_argument("--jobs", type=int, default=1, help="processes; 0: this one alone")
    parser.add_argument("--state", type=Path, metavar="FILE", help="to resume from")
    parser.add_argument("--time", type=float, metavar="SECONDS", help="begin nothing after this")
    given = parser.parse_args(arguments)
    if given.kind not in kinds():
        parser.error(f"kind: expected one of {', '.join(kinds())}, got {given.kind!r}")
    if given.count < 1 or given.first < 0 or given.jobs < 0:
        parser.error("expected --count of at least 1, and --first and --jobs of at least 0")
    chunk = getattr(module_of(given.kind), "CHUNK", 1000)
    task = Task(given.kind, given.seed, given.first, given.count, chunk)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite end, as by Ctrl-C
    try:
        state = run(task, given.jobs, given.state, given.time, _progress)
    except ValueError as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        print("\ninterrupted; the same command with the same --state goes on", file=sys.stderr)
        return 130
    print(file=sys.stderr)
    report(state, sys.stdout)
    if state.programs < task.count:
        print(f"{task.count - state.programs:,} programs are still to run", file=sys.stderr)
    return int(state.failures > 0)
