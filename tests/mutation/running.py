"""Running a module's own tests against its mutants, each in a forked copy of the process.

The tests are collected once. A mutant meets only those that ran its statement, those that have
killed its neighbours first, then the quick ones; one failure is enough. Who survives that meets all
of them once more, imported in a process that has not seen the original.
"""

from __future__ import annotations

import gc
import json
import mmap
import os
import resource
import select
import signal
import sys
import threading
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from types import CodeType
from typing import Any

import coverage
import pytest

from .mutants import Mutant, Mutants
from .patching import Finder, functions_of, in_functions, patched

ROOT = Path(__file__).parents[2]
os.environ["HYPOTHESIS_PROFILE"] = "mutation"  # a failure is enough, it need not be small
TESTS = {
    "graph": ["tests/test_graph.py", "tests/test_graph_alone.py"],
    "rules": [
        "tests/test_rules.py",
        "tests/test_rules_on_arrays.py",
        "tests/test_rules_alone.py",
    ],
    "array_rules": ["tests/test_array_rules.py", "tests/test_array_rules_alone.py"],
}
OPTIONS = [
    "-q",
    "-s",
    "-p",
    "no:cacheprovider",
    "-p",
    "no:faulthandler",
    "-p",
    "no:logging",
    "--rootdir",
    str(ROOT),
]
MEMORY = 6 << 30
MISTAKE = 70  # of this file, and not of a mutant
CERTAIN = "survived, as it stands in place"


def file_of(name: str) -> Path:
    return ROOT / "tinygrad_bp" / f"{name}.py"


def forked(work: Any, seconds: float) -> int | None:
    """The exit code of `work()` in a forked process; None if it took too long."""
    child = os.fork()
    if not child:
        code = MISTAKE
        try:
            os.setpgid(0, 0)
            null = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(null, stream)
            resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
            code = work()
        except BaseException:
            if "MUTATION_TRACE" in os.environ:  # to look for mistakes of this file
                Path(os.environ["MUTATION_TRACE"]).write_text(traceback.format_exc())
        finally:
            os._exit(code)
    watch = os.pidfd_open(child)
    try:
        if not select.select([watch], [], [], seconds)[0]:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
        status = os.waitpid(child, 0)[1]
    finally:
        os.close(watch)
    return os.waitstatus_to_exitcode(status)


class Note:
    """The name of the test that is running, as its process leaves it to whoever started that."""

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, 4096)

    def write(self, name: str) -> None:
        self.memory[:1024] = name.encode()[:1024].ljust(1024)

    def read(self) -> str:
        return self.memory[:1024].rstrip(b"\0 ").decode(errors="replace")


# --- what a test runs ---------------------------------------------------------------------------


class _Lines:
    """The lines of one file that are run by functions."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.seen: set[int] = set()

    def _call(self, frame: Any, event: str, argument: Any) -> Any:
        code = frame.f_code
        if code.co_filename != self.path or code.co_name == "<module>":
            return None
        self.seen.add(frame.f_lineno)
        return self._line

    def _line(self, frame: Any, event: str, argument: Any) -> Any:
        self.seen.add(frame.f_lineno)
        return self._line

    def __enter__(self) -> set[int]:
        self.seen = set()
        threading.settrace(self._call)
        sys.settrace(self._call)
        return self.seen

    def __exit__(self, *error: object) -> None:
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]


def statement_lines(source: str) -> dict[int, tuple[int, int]]:
    """For every line the first and the last line of its statement, without a block's body."""
    import ast

    spans: dict[int, tuple[int, int]] = {}
    for node in ast.walk(ast.parse(source)):  # outer ones first
        if isinstance(node, ast.stmt):
            body = getattr(node, "body", None)
            first = min(
                (d.lineno for d in getattr(node, "decorator_list", ())), default=node.lineno
            )
            last = body[0].lineno - 1 if body else node.end_lineno
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.end_lineno:
                for line in range(first, node.lineno):
                    spans[line] = (line, line)  # a lambda in a decorator
                first, last = node.lineno, node.end_lineno
            for line in range(first, max(first, last or first) + 1):
                spans[line] = (first, max(first, last or first))
    return spans


def interrupts(test: str) -> bool:
    """Whether a test interrupts at random points, and so might coverage.py as it holds its lock.

    Such a test is not traced, and taken to run everything.
    """
    return "interrupt" in test


# --- the runner, as a plugin of pytest ----------------------------------------------------------


class Runner:
    """Takes the place of pytest's loop over the tests."""

    def __init__(
        self,
        name: str,
        results: Path,
        out: Any,
        sure: Any,
        wanted: set[int] | None,
        every: int = 1,
    ) -> None:
        self.name = name
        self.path = file_of(name)
        self.mutants = Mutants(self.path)
        self.original = compile(self.path.read_text(), str(self.path), "exec", dont_inherit=True)
        self.results = results
        self.out = out
        self.sure = sure
        self.wanted = wanted
        self.every = every
        self.killers: Counter[tuple[int, str]] = Counter()
        self.import_lines = _Lines(self.path)  # of functions that run before any test does
        self.import_lines.__enter__()

    def say(self, text: str) -> None:
        self.out.write(text + "\n")
        self.out.flush()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: Any) -> bool:
        self.items = {item.nodeid: item for item in session.items}
        if session.testsfailed:
            raise session.Failed("the tests could not be collected")
        self.session = session
        self.imported = set(self.import_lines.seen)
        self.import_lines.__exit__()
        self.baseline()
        self.functions = functions_of(str(self.path))
        gc.collect()
        gc.freeze()  # what forked processes share stays shared
        done = self.done()
        self.spans = statement_lines(self.path.read_text())
        for mutant in self.mutants.all[:: self.every]:
            if mutant.key in done or (self.wanted is not None and mutant.number not in self.wanted):
                continue
            begun = time.monotonic()
            outcome = self.judge(mutant)
            record = {"key": mutant.key, "number": mutant.number, **outcome}
            with self.results.open("a") as file:
                file.write(json.dumps(record) + "\n")
            seconds = time.monotonic() - begun
            self.say(
                f"{mutant.number}/{len(self.mutants.all)} {outcome['by'] or 'SURVIVED':60.60} "
                f"{seconds:5.1f} s  {str(mutant)[:150]}"
            )
        return True

    def done(self) -> set[str]:
        if not self.results.exists():
            return set()
        return {json.loads(line)["key"] for line in self.results.read_text().splitlines()}

    # --- the tests themselves -------------------------------------------------------------------

    def baseline(self) -> None:
        """Which lines each test runs, and how long it takes; kept, but for tests that are new."""
        kept = self.results.with_suffix(".tests.json")
        found = json.loads(kept.read_text()) if kept.exists() else {}
        found = {test: known for test, known in found.items() if test in self.items}
        if new := [test for test in self.items if test not in found]:
            code = forked(lambda: self._trace(new, kept, found), 3600.0)
            if code != 0:
                raise RuntimeError(f"the tests fail without a mutant ({code})")
            found = json.loads(kept.read_text())
        self.lines = {test: set(lines) for test, (lines, _) in found.items()}
        self.seconds = {test: seconds for test, (_, seconds) in found.items()}
        self.say(f"{len(found)} tests in {sum(self.seconds.values()):.0f} s when traced")

    def _trace(self, tests: list[str], kept: Path, found: dict[str, Any]) -> int:
        tracer = coverage.Coverage(data_file=None, config_file=False, include=[str(self.path)])
        seconds = {}
        tracer.start()
        for test in tests:
            item = self.items[test]
            if interrupts(test):
                tracer.stop()
            else:
                tracer.switch_context(test)
            begun = time.process_time()
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
            seconds[test] = time.process_time() - begun
            if self.session.testsfailed:
                return 1
            if interrupts(test):
                tracer.start()
        tracer.stop()
        every_line = list(range(1, 1 + len(self.path.read_text().splitlines())))
        lines = {test: every_line if interrupts(test) else [] for test in seconds}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tests may have run no line at all
            data = tracer.get_data()
        for line, users in data.contexts_by_lineno(str(self.path)).items():
            for test in filter(None, users):
                lines[test].append(line)
        found |= {test: (lines[test], seconds[test]) for test in tests}
        kept.write_text(json.dumps(found))
        return 0

    # --- a mutant -------------------------------------------------------------------------------

    def judge(self, mutant: Mutant) -> dict[str, Any]:
        try:
            code = compile(
                self.mutants.source(mutant.number), str(self.path), "exec", dont_inherit=True
            )
        except SyntaxError:
            return {"by": "no program: a syntax error", "way": "none"}
        span = range(self.spans[mutant.line][0], self.spans[mutant.line][1] + 1)
        tests = [test for test, lines in self.lines.items() if not lines.isdisjoint(span)]
        if not tests and self.imported.isdisjoint(span) and in_functions(self.original, code):
            return {"by": None, "way": "run by no test"}
        if not tests:  # run at import: a part of a rule's table entry, maybe
            tests = list(self.seconds)
        tests.sort(key=lambda t: (-self.killers[span.start, t], self.seconds[t]))
        if tests:
            by = self.quick(tests, code)
            if by != CERTAIN and by is not None:
                self.killers[span.start, by] += 1
                return {"by": by, "way": "patched"}
            if by == CERTAIN and self.imported.isdisjoint(span):
                return {"by": None, "way": "patched"}
        rest = sorted(self.seconds.keys() - set(tests), key=self.seconds.__getitem__)
        everything = [(test, self.seconds[test]) for test in (*tests, *rest)]
        by = self.sure.judge(self.name, code, everything)
        return {"by": by, "way": "imported"}

    def quick(self, tests: list[str], code: CodeType) -> str | None:
        """The test that kills a mutant patched into a copy of this process; or `CERTAIN`, or None.

        None says that it survived, but may not have been in place.
        """
        note = Note()
        limit = 20.0 + 5.0 * sum(self.seconds[test] for test in tests)

        def work() -> int:
            module = sys.modules[f"tinygrad_bp.{self.name}"]
            try:
                certain = patched(self.functions, module, self.original, code)
            except Exception:
                return 3  # it cannot even be imported
            chosen = [(self.items[test], self.seconds[test]) for test in tests]
            return run(chosen, note) or (0 if certain else 2)

        exit_code = forked(work, limit)
        if exit_code == MISTAKE:
            raise RuntimeError(f"the runner failed at {note.read()!r}: see MUTATION_TRACE")
        if exit_code in (0, 2):
            return None if exit_code else CERTAIN
        how = "" if exit_code == 1 else " (too long)" if exit_code is None else f" ({exit_code})"
        return (note.read() or "import") + how


class _Hasty:
    """Ends a forked process at the first failure, which nobody is going to read."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_makereport(self, item: Any, call: Any) -> None:
        error = call.excinfo
        if error is not None and not error.errisinstance(pytest.skip.Exception):
            os._exit(1)


def run(items: list[tuple[Any, float]], note: Note) -> int:
    """Run tests, which take some seconds each, until one fails or takes very much longer.

    The name of each is written before.
    """
    session = items[0][0].session
    session.config.pluginmanager.register(_Hasty())
    for i, (item, seconds) in enumerate(items):
        note.write(item.nodeid)
        signal.setitimer(signal.ITIMER_PROF, min(4.0 + 3.0 * seconds, 40.0))  # then it is killed
        following = items[i + 1][0] if i + 1 < len(items) else None
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.testsfailed:
            return 1
    return 0


# --- the sure way -------------------------------------------------------------------------------


class _Ordered:
    """Takes the place of pytest's loop in a process that has imported the mutant."""

    def __init__(self, tests: list[tuple[str, float]], note: Note) -> None:
        self.tests = tests
        self.note = note

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: Any) -> bool:
        items = {item.nodeid: item for item in session.items}
        if session.testsfailed or not {test for test, _ in self.tests} <= set(items):
            self.note.write("collection")
            os._exit(1)  # the mutant changed what is there to be tested
        os._exit(run([(items[test], seconds) for test, seconds in self.tests], self.note))


class Sure:
    """A process that has imported what the tests need, but nothing of the package."""

    def __init__(self, limit: float) -> None:
        import marshal
        from multiprocessing import Pipe

        self.marshal = marshal
        self.limit = limit
        self.pipe, other = Pipe()
        self.process = os.fork()
        if not self.process:
            try:
                self.serve(other)
            finally:
                os._exit(0)
        other.close()

    def judge(self, name: str, code: CodeType, tests: list[tuple[str, float]]) -> str | None:
        self.pipe.send((name, self.marshal.dumps(code), tests))
        answer: str | None = self.pipe.recv()
        return answer

    def serve(self, pipe: Any) -> None:
        self.pipe.close()
        import mpmath
        import numpy

        assert numpy
        assert mpmath
        while True:
            try:
                name, code, tests = pipe.recv()
            except EOFError:
                return
            pipe.send(self.outcome(name, self.marshal.loads(code), tests))

    def outcome(self, name: str, code: CodeType, tests: list[tuple[str, float]]) -> str | None:
        note = Note()

        def work() -> int:
            Finder(f"tinygrad_bp.{name}", file_of(name), code).install()
            return int(pytest.main([*OPTIONS, *TESTS[name]], plugins=[_Ordered(tests, note)]))

        exit_code = forked(work, self.limit)
        if exit_code == MISTAKE:
            raise RuntimeError(f"the runner failed at {note.read()!r}: see MUTATION_TRACE")
        if exit_code == 0:
            return None
        how = "" if exit_code == 1 else " (too long)" if exit_code is None else f" ({exit_code})"
        return (note.read() or "import") + how
