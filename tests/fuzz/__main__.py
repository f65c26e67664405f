"""The command: `python -m tests.fuzz KIND [--count N] [--seed S] [--first K] [--jobs J] ...`."""

from .driver import main

if __name__ == "__main__":  # a worker that is spawned imports this module again
    raise SystemExit(main())
