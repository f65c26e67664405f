"""`python -m tests.mutation MODULE`: judge each mutant of a module by the module's own tests."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import pytest

from .mutants import Mutants
from .running import OPTIONS, ROOT, TESTS, Runner, Sure, file_of


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("module", choices=TESTS)
    parser.add_argument("--results", type=Path, default=ROOT / ".mutation", help="a folder")
    parser.add_argument("--again", action="store_true", help="judge the survivors once more")
    parser.add_argument("--only", type=int, nargs="+", help="mutants, by number")
    parser.add_argument("--every", type=int, default=1, help="each n-th mutant only, for a look")
    parser.add_argument("--survivors", action="store_true", help="list them, and run nothing")
    arguments = parser.parse_args()
    os.chdir(ROOT)
    arguments.results.mkdir(parents=True, exist_ok=True)
    results = arguments.results / f"{arguments.module}.jsonl"
    if arguments.again:
        forget_survivors(results)
    if not arguments.survivors:
        runner = Runner(
            arguments.module,
            results,
            os.fdopen(os.dup(1), "w"),
            Sure(limit=900.0),
            set(arguments.only) if arguments.only else None,
            arguments.every,
        )
        code = pytest.main([*OPTIONS, *TESTS[arguments.module]], plugins=[runner])
        if code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            return int(code)
    return report(arguments.module, results)


def forget_survivors(results: Path) -> None:
    lines = results.read_text().splitlines()
    results.write_text("".join(f"{line}\n" for line in lines if json.loads(line)["by"]))


def report(module: str, results: Path) -> int:
    """Print the survivors and the figures; 0 if at least 95 % of the mutants were killed."""
    records = [json.loads(line) for line in results.read_text().splitlines()]
    outcome = {record["key"]: record["by"] for record in records}
    mutants = [m for m in Mutants(file_of(module)).all if m.key in outcome]
    survivors = [m for m in mutants if outcome[m.key] is None]
    for mutant in survivors:
        print(f"{mutant.number:5} {mutant}")
    killed = len(mutants) - len(survivors)
    print(f"{module}: {len(mutants)} mutants, {killed} killed, {killed / len(mutants):.1%}")
    return int(killed < 0.95 * len(mutants))


if __name__ == "__main__":
    sys.exit(main())
