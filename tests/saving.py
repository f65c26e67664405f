"""What saves a file, what reads one, and what is in a folder."""

import os

import numpy as np
from fuzz import readers
from fuzz.real_files import BITS

import tinygrad_bp as tb
from tinygrad_bp import datasets, nn, replay
from tinygrad_bp.training.checkpoint import write_checkpoint
from tinygrad_bp.visualize import draw


def save_model(path, version):
    model = nn.Linear(30 + version, 40, rng=0)
    tb.save_model(model, path)


def save_program(path, version):
    program = tb.compile(lambda x: (x * np.arange(900.0 + version)).sum()).program(tb.Tensor(2.0))
    replay.save(program, path)


RUNS = {}


def save_checkpoint(path, version):
    if version not in RUNS:
        RUNS[version] = readers.Checkpoint(BITS[version])
    write_checkpoint(path, RUNS[version].run, RUNS[version].settings)


def save_picture(path, version):
    x = tb.Value(2.0, "x")
    draw(x * x if version else x * x + tb.exp(x)).save(path)


SAVES = {
    "model": save_model,
    "program": save_program,
    "checkpoint": save_checkpoint,
    "picture.svg": save_picture,
}
READS = {
    "model": lambda path: tb.load_model(nn.Linear(2, 3, rng=0), path),
    "checkpoint": lambda path: readers.Checkpoint("PCG64").read(path),
    "program": replay.load,
    "npz": datasets.npz,
    "csv": datasets.csv,
    "text": datasets.text,
}


def listing(folder):
    return sorted(entry.name for entry in os.scandir(folder))
