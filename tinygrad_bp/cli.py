"""The command `tinygrad-bp`."""

from __future__ import annotations

import argparse
import functools
import operator
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

import tinygrad_bp
from tinygrad_bp.text import clean


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns 0; 1 if a target of the tour was missed; 2 on bad input."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except (ImportError, OSError, TypeError, ValueError) as error:
        print(f"tinygrad-bp: {clean(str(error))}", file=sys.stderr)
        return 2


def _tour(options: argparse.Namespace) -> int:
    from tinygrad_bp.tour import tour

    return 0 if tour(options.out, options.data) else 1


def _explain(options: argparse.Namespace) -> int:
    from tinygrad_bp.visualize.report import report

    file, _, name = options.function.rpartition(":")
    if not file.endswith(".py") or not name.isidentifier():
        raise ValueError(f"expected FILE.py:function, got {options.function!r}")
    function = runpy.run_path(file).get(name)
    if not callable(function):
        raise ValueError(f"there is no function {name!r} in {file}")
    losses = function()
    is_sequence = isinstance(losses, (list, tuple))
    loss = functools.reduce(operator.add, losses) if is_sequence and losses else losses
    written = report(loss, options.out, losses=losses if is_sequence else None, title=name)
    print(f"written: {clean(str(written))}")
    return 0


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
    command.set_defaults(run=_tour)
    command = commands.add_parser(
        "explain",
        help="write a page about the gradient of a function of yours",
        description=(
            "Calls a function of a Python file, without arguments, and writes a page about the "
            "gradient of the loss that it returns: the graph, the derivation, the deltas, and "
            "every use of every parameter. If it returns a list of the losses of single time "
            "steps, also the table over time. The file is run: explain what you trust."
        ),
    )
    command.add_argument("function", metavar="FILE.py:function", help="what returns the loss")
    command.add_argument(
        "--out",
        type=Path,
        default=Path("report.html"),
        metavar="FILE",
        help="where to write (default: report.html)",
    )
    command.set_defaults(run=_explain)
    return parser


if __name__ == "__main__":
    sys.exit(main())
