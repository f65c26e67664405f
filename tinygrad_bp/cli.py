"""The command `tinygrad-bp`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import tinygrad_bp


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns 0; 1 if a target of the tour was missed; 2 on bad input."""
    options = _parser().parse_args(arguments)
    try:
        from tinygrad_bp.tour import tour

        return 0 if tour(options.out, options.data) else 1
    except (ImportError, OSError, ValueError) as error:
        print(f"tinygrad-bp: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tinygrad-bp", description="Back-propagation that can be read."
    )
    parser.add_argument("--version", action="version", version=tinygrad_bp.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser(
        "tour",
        help="train a network and a recurrent network on real data, and draw what happened",
        description=(
            "An expression and its gradients; a network trained on handwritten digits; a character "
            "network trained by back-propagation through time on English text; every gradient "
            "checked; and a page with the pictures. Well under a minute."
        ),
    )
    command.add_argument(
        "--out",
        type=Path,
        default=Path("tour"),
        metavar="DIR",
        help="where to write (default: tour)",
    )
    command.add_argument(
        "--data",
        type=Path,
        metavar="FILE",
        help="a UTF-8 text of your own to learn from, of 5,000 characters or more",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
