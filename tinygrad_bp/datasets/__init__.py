"""Data to learn from: real, made up, and the user's own.

Samples lie along the first axis. What is random takes an explicit generator or seed, and gives the
same data for the same one.
"""

from tinygrad_bp.datasets.files import csv, mnist, npz, text
from tinygrad_bp.datasets.plane import moons, spirals
from tinygrad_bp.datasets.reber import REBER_SYMBOLS, reber
from tinygrad_bp.datasets.samples import MNIST, XY, Sequences, Table, Text, train_test_split
from tinygrad_bp.datasets.sequences import adding, binary_addition, sequence_copy
from tinygrad_bp.datasets.tables import breast_cancer, digits, iris
from tinygrad_bp.datasets.words import encode, english

__all__ = [
    "MNIST",
    "REBER_SYMBOLS",
    "XY",
    "Sequences",
    "Table",
    "Text",
    "adding",
    "binary_addition",
    "breast_cancer",
    "csv",
    "digits",
    "encode",
    "english",
    "iris",
    "mnist",
    "moons",
    "npz",
    "reber",
    "sequence_copy",
    "spirals",
    "text",
    "train_test_split",
]
