"""Replay of arrays by numpy: straight-line code, with places for the results prepared.

A program on arrays has its backward pass in it, as further instructions. Every rule is run once
more, over a namespace that writes down which functions of numpy it calls (as the rules compute
arrays over a namespace that calls them). What comes out is one long function without a branch, in
which numpy writes into buffers: a buffer is used again as soon as nothing needs what is in it.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinygrad_bp import arrays
from tinygrad_bp.array_rules import ArrayRule
from tinygrad_bp.replay.array_calls import OUT, Call, Calls, Symbol, flat, witnesses
from tinygrad_bp.replay.program import CONSTANT, INPUT, Program, filled_in, placeholders

_BUFFER = "b"  # what the names of buffers begin with, and no others

# --- a program as code --------------------------------------------------------------------------


class Runner:
    """A program of arrays, ready to run. It may be used by one thread at a time.

    Args:
        program: the program.
        exact: whether to add up in numpy's order, which gives the bits of the eager engine.
        hopeful: whether to leave out precautions for as long as none is missed.
    """

    def __init__(self, program: Program, exact: bool = True, hopeful: bool = True) -> None:
        self.program, self.exact = program, exact
        self._careful: Runner | None = None
        self._names: dict[str, Any] = {}
        self.source = self._source(hopeful) or self._source(False) or ""
        self._compiled = compile(self.source, "<program>", "exec")  # every name in it is ours
        exec(self._compiled, self._names)
        self._function = self._names["run"]

    def twin(self) -> Runner:
        """Another runner of the program, for another thread."""
        other = copy.copy(self)
        other._careful = None
        other._names = {
            name: np.empty_like(x) if name.startswith(_BUFFER) else x
            for name, x in self._names.items()
        }
        exec(other._compiled, other._names)
        other._function = other._names["run"]
        return other

    @np.errstate(all="ignore")
    def values(self, inputs: Sequence[Any]) -> list[Any]:
        """The outputs, and then the guards' conditions; nothing else holds these arrays."""
        result: list[Any] | None = self._function(*inputs)
        if result is None:  # there is a nan, and with every precaution there may be none
            self._careful = self._careful or Runner(self.program, self.exact, hopeful=False)
            return self._careful.values(inputs)
        return result

    def _source(self, hopeful: bool) -> str | None:
        """The code; None if there are hopes, and one that comes to nothing may not show."""
        code = Calls(hopeful, self.exact)
        with np.errstate(all="ignore"):
            symbols = self._run_rules(code)
        outputs = [symbols[i] for i in self.program.outputs]
        wanted = [*outputs, *(symbols[g.condition] for g in self.program.guards)]
        calls = _needed(code.all, wanted)
        looked_at = witnesses(calls, outputs)
        if looked_at is None or code.unseen:
            return None
        return self._write(calls, wanted, looked_at)

    def _run_rules(self, code: Calls) -> list[Any]:
        """What every instruction gives: a symbol, or a constant."""
        program = self.program
        symbols: list[Any] = [None] * len(program)
        for number, i in enumerate(program.inputs):
            sample = np.ones(program.shapes[i], program.dtypes[i])
            if sample.dtype.kind in "iu":
                sample = np.zeros_like(sample)
            symbols[i] = Symbol(code, sample, f"i{number}")
        for i in range(len(program)):
            rule = program.rule(i)
            if rule == INPUT:
                continue
            if rule == CONSTANT:
                symbols[i] = program.constants[i]
                continue
            operands = [symbols[j] for j in program.operands_of(i)]
            apply = self._application(i, rule, len(operands))
            before = len(code.all)
            try:
                symbols[i] = apply(code, *operands)
            except TypeError:  # a rule of the user's, in functions that m does not have
                del code.all[before:]
                symbols[i] = code.call(functools.partial(apply, arrays), tuple(operands), {})
        return symbols

    def _application(self, i: int, rule: Any, count: int) -> Callable[..., Any]:
        """An instruction as a function of a namespace and the operands."""
        if not isinstance(rule, ArrayRule):
            return rule.value  # type: ignore[no-any-return]
        detail = self.program.details[i]
        count -= placeholders(detail.parameters)

        def apply(m: Any, *operands: Any) -> Any:
            parameters = filled_in(detail.parameters, operands)
            return rule.apply(m, operands[:count], parameters, detail.options)

        return apply

    def _write(
        self, calls: Sequence[Call], wanted: Sequence[Any], looked_at: Sequence[Symbol]
    ) -> str:
        """The code, with a buffer for every result that numpy can write into one."""
        last: dict[Symbol, int] = {}  # by owner of memory, the last call that needs it
        for number, call in enumerate(calls):
            for x in flat(call.arguments):
                if isinstance(x, Symbol):
                    last[x.owner] = number
        kept = {x.owner for x in wanted if isinstance(x, Symbol)}
        free: dict[Any, list[str]] = {}
        buffer_of: dict[Symbol, str] = {}
        lines = []
        for number, call in enumerate(calls):
            dying = {
                x.owner
                for x in flat(call.arguments)
                if isinstance(x, Symbol) and x.owner in buffer_of and last[x.owner] == number
            } - kept
            result = call.result
            if call.elementwise:
                self._release(dying, buffer_of, free)
            if call.into is None or result in kept:
                result.name = f"v{number}"
                arguments = [self._named(x) for x in call.arguments]
                options = [f"{key}={self._named(x)}" for key, x in call.options.items()]
                text = self._call(call.function, [*arguments, *options])
                lines.append(f"{result.name} = {text}")
            else:
                key = _layout(result)
                if free.get(key):
                    result.name = free[key].pop()
                else:
                    result.name = self._constant(np.empty_like(result.sample), _BUFFER)
                buffer_of[result] = result.name
                out = "out=" if isinstance(call.into, np.ufunc) else ""
                places = list(call.arguments)
                if not any(x is OUT for x in places):
                    places.append(OUT)
                arguments = [out + result.name if x is OUT else self._named(x) for x in places]
                lines.append(self._call(call.into, arguments))
            if not call.elementwise:
                self._release(dying, buffer_of, free)
        lines += [self._look(x) for x in looked_at]
        results = [self._returned(x, any(x is y for y in wanted[:i])) for i, x in enumerate(wanted)]
        inputs = ", ".join(f"i{n}" for n in range(len(self.program.inputs)))
        body = "".join(f"    {line}\n" for line in lines)
        return f"def run({inputs}):\n{body}    return [{', '.join(results)}]\n"

    def _call(self, function: Callable[..., Any], arguments: Sequence[str]) -> str:
        if function is np.dot:  # of two arrays; as a method it takes less time to begin
            return f"{arguments[0]}.dot({', '.join(arguments[1:])})"
        return f"{self._constant(function)}({', '.join(arguments)})"

    def _look(self, x: Symbol) -> str:
        """Return nothing if there is a nan: then the sum of squares is one, too."""
        square = self._call(np.dot if x.ndim == 1 else np.vdot, [x.name, x.name])
        total = square if x.ndim else x.name
        return f"if (total := {total}) != total: return None"

    def _release(
        self, dying: set[Symbol], buffer_of: dict[Symbol, str], free: dict[Any, list[str]]
    ) -> None:
        for owner in dying:
            free.setdefault(_layout(owner), []).append(buffer_of.pop(owner))

    def _named(self, x: Any) -> str:
        """An argument, as it stands in the code."""
        if isinstance(x, Symbol):
            return x.name
        if type(x) in (list, tuple):
            inner = ", ".join(self._named(part) for part in x)
            if type(x) is list:
                return f"[{inner}]"
            return f"({inner},)" if x else "()"
        if x is None or x is OUT:
            return "None"
        if type(x) in (bool, int):
            return repr(x)
        return self._constant(x)

    def _constant(self, x: Any, prefix: str = "c") -> str:
        """A name for an object in the code."""
        if callable(x):
            name = f"f{len(self._names)}_{getattr(x, '__name__', 'function').strip('<>_')}"
            name = name if name.isidentifier() else f"f{len(self._names)}"
        else:
            name = f"{prefix}{len(self._names)}"
        self._names[name] = x
        return name

    def _returned(self, x: Any, again: bool) -> str:
        if not isinstance(x, Symbol):
            return f"{self._constant(np.array(x))}.copy()"
        fresh = x.owner is x and x.name.startswith("v") and not again
        return x.name if fresh else f"{self._constant(np.array)}({x.name})"


def _layout(symbol: Symbol) -> Any:
    """What the buffers for a result have in common: also the order of the axes in memory.

    numpy adds up in that order, and so the last bits of a sum depend on it.
    """
    sample = symbol.sample
    ordered = sample.flags.c_contiguous
    return sample.shape, sample.dtype, None if ordered else np.empty_like(sample).strides


def _needed(every: Sequence[Call], wanted: Sequence[Any]) -> list[Call]:
    """The calls without those that nothing needs."""
    needed = {x for x in wanted if isinstance(x, Symbol)}
    calls = []
    for call in reversed(every):
        if call.result in needed or call.raises:
            calls.append(call)
            needed.update(x for x in flat(call.arguments) if isinstance(x, Symbol))
    return calls[::-1]
