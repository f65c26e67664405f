"""Random programs against independent oracles: `python -m tests.fuzz KIND`.

Each kind of program is a module of this package with four functions, and knows nothing of the
driver, which counts, resumes, shrinks and prints:

    generate(random: random.Random) -> Program      plain data, from the seed alone
    check(program, tally: Counter) -> None          raises Mismatch (or whatever the engine raises);
                                                    tally counts what was compared and what was not
    smaller(program) -> Iterator[Program]           programs a step smaller, the boldest first
    code(program) -> str                            Python that shows the mismatch by itself
"""


class Mismatch(AssertionError):  # noqa: N818 (what was found, and not an error of the tests)
    """Two ways of computing the same thing disagree."""
