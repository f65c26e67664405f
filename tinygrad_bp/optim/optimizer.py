"""`Optimizer`: groups of parameters with their settings, and one step that moves them all.

An update is a pure function: from a parameter's numbers, its gradient, what was remembered of it
and the settings, to its new numbers and what to remember. All updates are computed before the
first parameter moves, so that a step happens as a whole or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import numpy as np

from tinygrad_bp.arguments import at_least_zero, fraction, out_of_range, several, wrong_kind
from tinygrad_bp.inputs import as_array
from tinygrad_bp.interrupts import Write, write
from tinygrad_bp.scalars import Values
from tinygrad_bp.tensor import Tensor
from tinygrad_bp.value import Value

Group = dict[str, Any]
State = dict[str, Any]
Check = Callable[[Any, str], Any]


class Optimizer:
    """Parameters and settings; `step()` moves each parameter against its gradient.

    Args:
        parameters: leaves, such as `model.parameters()`; or groups with settings of their own,
            as in PyTorch: `[{"params": [...], "lr": 0.1}, {"params": [...]}]`.
        settings: for the groups that do not say otherwise, by name.

    Attributes:
        param_groups: one dict per group, with its leaves under "params" and its settings, which
            may be changed between steps.
        state: what is remembered of each parameter, by its number through all groups.

    Raises:
        TypeError: a parameter is not a tracked leaf.
        ValueError: there are no parameters, one is given twice, or a setting is out of range.
    """

    checks: ClassVar[dict[str, Check]] = {}  # the settings, and what they may be
    buffers: ClassVar[tuple[str, ...]] = ()  # the arrays that may be remembered of a parameter

    def __init__(self, parameters: Iterable[Any], **settings: Any) -> None:
        if isinstance(parameters, (Tensor, Mapping)):
            raise wrong_kind("parameters", "leaves, as model.parameters() gives", parameters)
        listed = several(parameters, "parameters", "leaves, as model.parameters() gives")
        self.defaults = self._checked(settings)
        self.param_groups: list[Group] = []
        self.state: dict[int, State] = {}
        if any(isinstance(entry, dict) for entry in listed):
            for group in listed:
                self.add_param_group(group)
        else:
            self.add_param_group({"params": listed})

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Add parameters, with settings of their own.

        Args:
            group: leaves under "params"; the settings it does not name are the optimiser's.
        """
        if not isinstance(group, Mapping) or "params" not in group:
            raise wrong_kind("parameters: group", "a dict with 'params'", group)
        parameters = group["params"]
        one = isinstance(parameters, (Tensor, Values, Value))
        parameters = [parameters] if one else several(parameters, "parameters", "leaves")
        if not parameters:
            raise ValueError("parameters: expected at least one, got none")
        for i, p in enumerate(parameters):
            if not (isinstance(p, (Tensor, Values, Value)) and p.is_leaf and p.requires_grad):
                raise wrong_kind(f"parameters[{i}]", "a tracked leaf", p)
        known = [*self.parameters, *parameters]
        if len({id(p) for p in known}) < len(known):
            raise ValueError("parameters: one is given twice, and would be moved twice")
        own = {name: setting for name, setting in group.items() if name != "params"}
        self.param_groups.append({"params": parameters, **self._checked({**self.defaults, **own})})

    @property
    def parameters(self) -> list[Any]:
        """The parameters of all groups, in order."""
        return [p for group in self.param_groups for p in group["params"]]

    @property
    def lr(self) -> float:
        """The learning rate; setting it sets that of every group.

        Raises:
            ValueError: (when read) the groups have different ones; see `param_groups`.
        """
        rates = {group["lr"] for group in self.param_groups}
        if len(rates) > 1:
            raise ValueError(f"lr: the groups have different ones, {sorted(rates)}")
        return float(rates.pop())

    @lr.setter
    def lr(self, lr: float) -> None:
        for group in self.param_groups:
            group["lr"] = at_least_zero(lr, "lr")

    def zero_grad(self) -> None:
        """Forget every parameter's gradient."""
        write(each for p in self.parameters for each in p._grad_writes(None))

    def step(self) -> None:
        """Move every parameter that has a gradient; those without are left alone.

        A step that fails or is interrupted has moved all of them, with what is remembered, or none.
        """
        if not all(p.is_leaf for p in self.parameters):
            raise TypeError("a parameter is a leaf no longer: an element of it was computed")
        moves: list[Write] = []
        state = dict(self.state)
        numbered = enumerate((p, group) for group in self.param_groups for p in group["params"])
        for i, (p, group) in numbered:
            gradient = gradient_of(p)
            if gradient is not None:
                numbers, state[i] = self._update(_numbers(p), gradient, state.get(i, {}), group)
                moves += p._data_writes(numbers)
        write([*moves, (setattr, self, "state", state)])

    def _update(self, x: Any, g: Any, state: State, group: Group) -> tuple[Any, State]:
        """New numbers for x, whose gradient is g, and what to remember; changes nothing."""
        raise NotImplementedError

    def _checked(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        unknown = settings.keys() - self.checks.keys() - {"initial_lr"}
        if unknown:
            raise ValueError(
                f"{type(self).__name__} has no setting {sorted(unknown)[0]!r}; it has "
                f"{', '.join(self.checks)}"
            )
        other: Check = at_least_zero
        return {name: self.checks.get(name, other)(x, name) for name, x in settings.items()}

    # --- saving -----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """All that a later run needs to go on: what is remembered, and the settings, as copies.

        Returns:
            A dict in PyTorch's form: "state", by a parameter's number and then by name; and
            "param_groups", where "params" are numbers.
        """
        groups, first = [], 0
        for group in self.param_groups:
            numbers = list(range(first, first + len(group["params"])))
            groups.append({**group, "params": numbers})
            first += len(numbers)
        state = {
            i: {name: x if isinstance(x, int) else np.array(x) for name, x in remembered.items()}
            for i, remembered in self.state.items()
        }
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict()` of an optimiser of the same kind and parameters.

        Raises:
            ValueError: it does not fit; then nothing is changed.
        """
        if not isinstance(state, Mapping) or state.keys() != {"state", "param_groups"}:
            raise out_of_range("state", "a dict of 'state' and 'param_groups'", state)
        given, own = state["param_groups"], self.state_dict()["param_groups"]
        if [g["params"] for g in given] != [g["params"] for g in own]:
            raise ValueError("state: the groups hold other numbers of parameters")
        for i, group in enumerate(given):
            if missing := self.checks.keys() - group.keys():
                raise ValueError(f"state: group {i} has no {sorted(missing)[0]!r}")
        settings = [
            self._checked({name: x for name, x in group.items() if name != "params"})
            for group in given
        ]
        remembered = {
            i: self._checked_memory(i, memory) for i, memory in dict(state["state"]).items()
        }
        pairs = zip(self.param_groups, settings, strict=True)
        changes: list[Write] = [(dict.update, group, found) for group, found in pairs]
        write([*changes, (setattr, self, "state", remembered)])

    def _checked_memory(self, i: Any, memory: Mapping[str, Any]) -> State:
        parameters = self.parameters
        if type(i) is not int or not 0 <= i < len(parameters):
            raise ValueError(f"state: expected parameters 0 ... {len(parameters) - 1}, got {i!r}")
        checked: State = {}
        for name, x in memory.items():
            what = f"state[{i}][{name!r}]"
            if name == "step":
                checked[name] = _count(x, what)
                continue
            if name not in self.buffers:
                raise ValueError(f"{what}: {type(self).__name__} remembers no such thing")
            p = parameters[i]
            array = as_array(x, what, p.dtype if isinstance(p, Tensor) else None)
            if array.shape != np.shape(_numbers(p)):
                raise ValueError(
                    f"{what}: expected shape {np.shape(_numbers(p))}, got {array.shape}"
                )
            checked[name] = array.item() if isinstance(p, Value) else array
        return checked


def gradient_of(p: Any) -> Any:
    """The gradient of a leaf, not to be written to; None if it has none."""
    # A Tensor's own slot: reading it spares the copy that `.grad` makes for whoever may write.
    return p._grad if isinstance(p, Tensor) else p.grad


def _numbers(p: Any) -> Any:
    return p._array if isinstance(p, Tensor) else p.data


# --- what settings may be ------------------------------------------------------------------------


def two_fractions(x: tuple[float, float], what: str) -> tuple[float, float]:
    """Two numbers in [0, 1)."""
    if not isinstance(x, (tuple, list)):
        raise wrong_kind(what, "two numbers", x)
    if len(x) != 2:
        raise ValueError(f"{what}: expected two numbers, got {len(x)}")
    return fraction(x[0], f"{what}[0]"), fraction(x[1], f"{what}[1]")


def _count(x: Any, what: str) -> int:
    if not isinstance(x, int) or isinstance(x, bool) or x < 1:
        raise out_of_range(what, "a number of steps", x)
    if x >= 2**63:
        raise ValueError(f"{what}: expected a number below 2**63, got a larger one")
    return x
