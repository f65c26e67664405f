"""`python -m tinygrad_bp.visualize gallery --out DIR` draws every picture of the gallery."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tinygrad_bp.text import clean
from tinygrad_bp.visualize.examples import write


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns 0; 2 if a file cannot be written."""
    parser = argparse.ArgumentParser(prog="python -m tinygrad_bp.visualize")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("gallery", help="draw every picture of the gallery")
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to write")
    options = parser.parse_args(arguments)
    try:
        for path in write(options.out):
            print(clean(str(path)))
    except OSError as error:
        print(f"visualize: {clean(str(error))}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
