"""The driver: every program once, failures small, and nothing lost when it is stopped."""

import io
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from . import Mismatch, driver
from .driver import State, Task, main, module_of, run

ROOT = Path(__file__).parents[2]


class Numbers:
    """A kind: a program is a list of digits, and wrong where a 7 comes before a 3."""

    @staticmethod
    def generate(random):
        return [random.randrange(10) for _ in range(random.randrange(1, 12))]

    @staticmethod
    def check(program, tally):
        tally["digits"] += len(program)
        if 3 in program[program.index(7) :] if 7 in program else False:
            raise Mismatch(f"order: {program}")
        if program[0] == 9:
            raise ZeroDivisionError("nine")

    @staticmethod
    def smaller(program):
        for i in range(len(program)):
            if len(program) > 1:
                yield program[:i] + program[i + 1 :]

    @staticmethod
    def code(program):
        return f"numbers({program})"


@pytest.fixture
def numbers(monkeypatch):
    monkeypatch.setattr(driver, "module_of", lambda kind: Numbers)
    return Task("numbers", 5, 0, 400, 7)


def totals(state):
    return state.programs, state.tally, state.failures, state.groups


def test_a_program_depends_on_seed_kind_and_number_alone():
    programs = [driver.program(Numbers, "numbers", 5, k) for k in (3, 4, 3)]
    assert programs[0] == programs[2] != programs[1]
    assert driver.program(Numbers, "numbers", 6, 3) != programs[0]
    assert driver.program(Numbers, "others", 5, 3) != programs[0]


def test_chunks_have_every_program_once():
    for task in (Task("x", 0, 0, 10, 3), Task("x", 0, 5, 9, 3), Task("x", 0, 5, 1, 3)):
        found = [k for number in range(task.chunks) for k in task.programs(number)]
        assert found == list(range(task.first, task.first + task.count))


def test_the_size_of_chunks_changes_no_total(numbers):
    state = run(numbers)
    assert state.programs == 400
    shrunk = {g["code"]: g["times"] for g in state.groups.values() if "not made" not in g["code"]}
    assert set(shrunk) == {"numbers([7, 3])", "numbers([9])"}  # of each failure the smallest
    assert sum(g["times"] for g in state.groups.values()) == state.failures > 20
    assert totals(run(numbers._replace(chunk=1))) == totals(run(numbers._replace(chunk=2)))


def test_a_failure_stays_the_same_failure_while_it_shrinks():
    program = [9, 7, 3]
    with pytest.raises(Mismatch):
        Numbers.check(program, Counter())
    error = driver.failure_of(Numbers, program)
    small, smallest = driver.shrunk(Numbers, program, error)
    assert (small, str(smallest)) == ([7, 3], "order: [7, 3]")


class StopError(Exception):
    pass


def test_a_run_that_is_stopped_goes_on_where_it_was(numbers, tmp_path):
    whole = run(numbers)
    file = tmp_path / "state.json"

    def stop_at(chunks):
        def progress(state, seconds):
            if len(state.done) >= chunks:
                raise StopError

        return progress

    for chunks in (1, 10, 11, 40):
        with pytest.raises(StopError):
            run(numbers, path=file, progress=stop_at(chunks))
        assert len(json.loads(file.read_text())["done"]) == 1  # one range
    assert totals(run(numbers, path=file)) == totals(whole)
    assert totals(run(numbers, path=file)) == totals(whole)  # there is nothing left to do


def test_time_ends_a_run_that_can_go_on(numbers, tmp_path):
    file = tmp_path / "state.json"
    assert run(numbers, path=file, seconds=-1.0).programs == 0
    assert run(numbers, path=file).programs == 400


def test_processes_give_the_totals_of_one():
    task = Task("scalars", 3, 100, 60, 11)
    assert totals(run(task, jobs=2)) == totals(run(task))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"seed": 6}, "seed 5, not 6"),
        ({"count": 401}, "count 400, not 401"),
        ({"chunk": 8}, "chunk 7, not 8"),
        ({"kind": "others"}, "kind 'numbers', not 'others'"),
    ],
)
def test_the_state_of_another_run_is_refused(numbers, tmp_path, change, told):
    file = tmp_path / "state.json"
    run(numbers, path=file)
    with pytest.raises(ValueError, match=f"state.json is that of another run: {told}"):
        State(numbers._replace(**change), file)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"task": {"kind": 1}}'])
def test_what_is_no_state_is_refused_and_left_alone(numbers, tmp_path, text):
    file = tmp_path / "state.json"
    file.write_text(text)
    with pytest.raises(ValueError, match="is not the state of a run"):
        run(numbers, path=file)
    assert file.read_text() == text


FRAGILE = """
import os
from tests.fuzz import driver
from tests.fuzz.test_driver import Numbers

class Fragile(Numbers):
    @staticmethod
    def check(program, tally):
        tally["programs"] += 1
        if len(program) == 11:
            os.abort()

driver.module_of = lambda kind: Fragile
if __name__ == "__main__":
    state = driver.run(driver.Task("numbers", 5, 10, 60, 3), 2)
    crashed = [g["code"] for g in state.groups.values()]
    print(state.programs, state.tally["programs"], state.failures, *crashed, sep="\\n")
"""


def test_a_process_that_dies_is_a_failure_of_its_chunk(tmp_path):
    script = tmp_path / "fragile.py"
    script.write_text(FRAGILE)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    told = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, env=environment, check=True
    ).stdout.splitlines()
    task = Task("numbers", 5, 10, 60, 3)
    bad = [
        n
        for n in range(task.chunks)
        if any(len(driver.program(Numbers, "numbers", 5, k)) == 11 for k in task.programs(n))
    ]
    assert [int(line) for line in told[:3]] == [60, 60 - 3 * len(bad), len(bad)]
    first = task.programs(bad[0]).start
    assert f"# programs {first} to {first + 2}: run them with --first {first} --count 3" in told


def command(*arguments):
    return [sys.executable, "-m", "tests.fuzz", "scalars", *arguments]


def row(out):
    """The last line of the report without the time."""
    return out.strip().splitlines()[-1].rsplit("|", 2)[0]


def test_the_command_killed_in_the_middle_gives_the_same_row(tmp_path):
    common = ["--count", "9000", "--seed", "8", "--state", "state.json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    options = {"cwd": tmp_path, "env": environment, "text": True}
    with subprocess.Popen(command(*common), stderr=subprocess.PIPE, **options) as process:
        assert process.stderr.read(20)  # the first chunk is done
        process.send_signal(signal.SIGKILL)
    done = json.loads((tmp_path / "state.json").read_text())["programs"]
    assert 0 < done < 9000
    resumed = subprocess.run(command(*common), capture_output=True, check=True, **options)
    whole = subprocess.run(
        command("--count", "9000", "--seed", "8"), capture_output=True, check=True, **options
    )
    assert row(resumed.stdout) == row(whole.stdout)
    assert "| scalars | 8 | 9,000 |" in row(whole.stdout)


def test_failures_are_printed_and_give_exit_code_1(numbers, monkeypatch, capsys):
    monkeypatch.setattr(driver, "kinds", lambda: ["numbers"])
    assert main(["numbers", "--count", "50", "--jobs", "0"]) == 1
    out = capsys.readouterr().out
    assert "numbers([7, 3])" in out
    assert "times Mismatch in test_driver.check (order), first in program" in out
    assert out.strip().splitlines()[-1].startswith("| numbers | 0 | 50 | ")


@pytest.mark.parametrize("arguments", [["nonsense"], ["scalars", "--count", "0"], ["driver"]])
def test_a_wrong_call_is_told(arguments, capsys):
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2
    assert "expected" in capsys.readouterr().err


def test_what_was_skipped_is_no_comparison():
    state = State(Task("x", 0, 0, 2, 2))
    tally = Counter({"gradients": 5, "skipped: a": 2, "(explained: b)": 1})
    state.add(0, {"programs": 2, "tally": tally, "failures": [], "cpu": 1.0})
    out = io.StringIO()
    driver.report(state, out)
    assert "| x | 0 | 2 | 5 | 0 | 1 s |" in out.getvalue()


def test_kinds_are_the_modules_with_the_four_functions():
    assert driver.kinds() == ["arrays", "branches", "files", "replays", "scalars"]
    for kind in driver.kinds():
        assert all(callable(getattr(module_of(kind), name)) for name in driver.PROTOCOL)


def test_numbers_alone_make_no_other_shape():
    one, other = "x0 = tb.Value(1.5)\nx1 = x0 + -2e-05", "x0 = tb.Value(nan)\nx1 = x0 + 3"
    assert driver.shape_of(one) == driver.shape_of(other) == "x0 = tb.Value(#)\nx1 = x0 + #"
    assert driver.shape_of("sin(x1)") != driver.shape_of("sin(x2)")
