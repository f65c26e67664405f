"""The smallest program that fails, for the tests: the command has limits, and looks at more."""

from collections import Counter

from . import Mismatch


def shrunk(kind, program):
    """The smallest program that fails, found as the command does."""
    smaller = True
    while smaller:
        smaller = next((p for p in kind.smaller(program) if fails(kind, p)), None)
        program = smaller or program
    return program


def fails(kind, program):
    try:
        kind.check(program, Counter())
    except Mismatch:
        return True
    return False


def execute(code, show=lambda *x: None):
    """Run printed code, in whatever package these tests are."""
    exec(code.replace("tests.fuzz", __package__), {"print": show})
