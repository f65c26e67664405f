"""Interrupts at chosen places: a real SIGINT, raised when a given instruction is about to run.

Python looks for signals at certain instructions only. An exception thrown by a tracer would come at
others as well, where none can come in life; so the tracer only has the signal raised, in C, and
Python delivers it by itself at the next place where it looks.
"""

import ctypes
import signal
import sys

_trip = ctypes.pythonapi.PyErr_SetInterrupt
_trip.argtypes, _trip.restype = (ctypes.py_object,) * 3, None


class Instructions:
    """Counts the instructions of Python code while something runs; raises SIGINT at one of them."""

    def __init__(self, at=None):
        self.at, self.count = at, 0

    def __call__(self, frame, event, argument):
        if self.at is not None and self.count >= self.at:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self.instruction

    def instruction(self, frame, event, argument):
        if event == "opcode":
            self.count += 1
            if self.count == self.at:
                _untrace(frame.f_back)
                frame.f_trace = _trip  # called in C, at this frame's next instruction
                return None
        return self.instruction


def _untrace(frame):
    """Have no more of this file run for frames further out: Python would look for signals in it."""
    while frame is not None:
        frame.f_trace = None
        frame = frame.f_back


def run(work, at=None):
    """Call `work`, interrupted at an instruction if there is one.

    Returns:
        Whether it was interrupted, and the number of instructions until then.
    """
    instructions = Instructions(at)
    ending, late = False, False

    def handler(signum, frame):
        nonlocal late
        if ending:  # in an audit hook of `settrace`, which cannot be called in there
            late = True
            return
        sys.settrace(None)
        raise KeyboardInterrupt

    old, traced = signal.signal(signal.SIGINT, handler), sys.gettrace()
    interrupted = False
    try:
        try:
            sys.settrace(instructions)
            work()
        finally:
            ending = True
            sys.settrace(None)
    except KeyboardInterrupt:
        interrupted = True
    interrupted |= late
    try:
        signal.signal(signal.SIGINT, old)  # one that is still pending is delivered before
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, old)
    sys.settrace(traced)
    return interrupted, instructions.count
