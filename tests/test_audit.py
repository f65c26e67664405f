"""The library alone: no network, no process, no code from data, no file but those it is told of.

Python reports what a program asks of the system to an audit hook (PEP 578), which cannot be taken
out again. The main flows of the library run under one, in a process of their own.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FLOWS = Path(__file__).parent / "flows.py"
REPORTED = (
    *("socket.", "ssl.", "urllib.", "http.", "ftplib.", "smtplib.", "imaplib.", "poplib."),
    *("webbrowser.", "subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn"),
    *("os.spawn", "os.startfile", "pty.", "pickle.find_class", "ctypes.dlopen"),
)
UNDER_A_HOOK = f"""
import os, runpy, sys
sys.dont_write_bytecode = True
def hook(event, arguments):
    if event.startswith({REPORTED}):
        print("REPORTED", event, str(arguments)[:200])
    writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT
    is_file = event == "open" and isinstance(arguments[0], (str, bytes))
    if is_file and isinstance(arguments[2], int) and arguments[2] & writes:
        print("WRITTEN", os.fsdecode(arguments[0]))
    if event in ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink"):
        print("WRITTEN", *(os.fsdecode(x) for x in arguments if isinstance(x, (str, bytes))))
"""
IMPORTS = "import numpy\nsys.addaudithook(hook)\nimport tinygrad_bp, tinygrad_bp.visualize\n"
FLOW = "sys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name='__main__')\n"
FILES = """
import pathlib, numpy, safetensors.numpy, sklearn.datasets, threadpoolctl, tqdm
sys.addaudithook(hook)
from tinygrad_bp import datasets, nn, training
folder = pathlib.Path(sys.argv[1])
data, model = datasets.iris(), nn.MLP([4, 3], ["identity"], rng=0)
training.save_model(model, folder / "model.safetensors")
training.load_model(model, folder / "model.safetensors")
for batch in training.progress(range(3), "batches"):
    pass
"""
ASKED_FOR = """
import numpy
sys.modules["pygraphviz"] = None
sys.addaudithook(hook)
import tinygrad_bp as tb
from tinygrad_bp.visualize import draw
try:
    draw(tb.Value(2.0) * 3.0, layout="dot")
except RuntimeError:
    print("it ran")
"""


def said(code, *arguments, **environment):
    """What a program printed that ran under the hook."""
    run = subprocess.run(
        [sys.executable, "-c", UNDER_A_HOOK + code, *map(str, arguments)],
        capture_output=True, text=True, check=False, env={**os.environ, **environment},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


def written(lines, folder):
    """The files outside of a folder that were written, or would have been."""
    paths = [line.split(maxsplit=1)[1] for line in lines if line.startswith("WRITTEN ")]
    return [path for path in paths if str(folder) not in path and path != os.devnull]


def test_importing_and_the_main_flows_ask_nothing_of_the_system_but_their_own_files(tmp_path):
    lines = said(IMPORTS + FLOW, FLOWS, tmp_path)
    assert sum(line.startswith(("numbers:", "drawn:", "replayed:")) for line in lines) == 3
    assert [line for line in lines if line.startswith("REPORTED")] == []
    assert any(line.startswith("WRITTEN") for line in lines)  # the hook does see them
    assert written(lines, tmp_path) == []
    assert {path.name for path in tmp_path.iterdir()} == {
        *("f.program", "graph.svg", "graph.html", "player.html", "report.html")
    }


def test_nor_do_the_flows_of_the_extra_data(tmp_path):
    for package in ("safetensors", "sklearn", "threadpoolctl", "tqdm"):
        pytest.importorskip(package, reason="the extra `data`")
    lines = said(FILES, tmp_path)
    assert [line for line in lines if line.startswith("REPORTED")] == []
    assert written(lines, tmp_path) == []
    assert {path.name for path in tmp_path.iterdir()} == {"model.safetensors"}


@pytest.mark.skipif(os.name == "nt", reason="a script stands in for the program")
def test_a_process_is_started_when_it_is_asked_for(tmp_path):
    """Graphviz's `dot`, and seen by the hook: which shows that it does see."""
    program = tmp_path / "dot"
    program.write_text("#!/bin/sh\nexit 3\n")
    program.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ.get('PATH', '')}"
    lines = said(ASKED_FOR, PATH=path)
    assert "it ran" in lines
    reported = [line for line in lines if line.startswith("REPORTED")]
    assert {line.split()[1] for line in reported} <= {
        *("subprocess.Popen", "os.fork", "os.posix_spawn", "os.exec")
    }
    assert str(program) in reported[0]
