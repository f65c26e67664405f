"""The Jacobian of a recurrent state by an earlier one: why gradients vanish or explode.

Through a network's state the derivative of one step by an earlier one is a product,
`∂h(t)/∂h(k) = J(t) J(t-1) ... J(k+1)`, one factor for each step. Its norm falls or rises
exponentially with the lag (Bengio et al. 1994; Pascanu et al. 2013).

The product is right only if nothing but the state passes from step to step. So it is looked for in
the graph: whether every way back leads through the state before. Where one does not, as for the h
of an LSTM without its c, derivatives are taken by sweeps through the whole graph.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from tinygrad_bp.arguments import is_integer, out_of_range, shown
from tinygrad_bp.derivatives import read_only
from tinygrad_bp.explain import limits
from tinygrad_bp.explain.quantities import Array
from tinygrad_bp.explain.samples import is_axis
from tinygrad_bp.explain.states import State, states_of
from tinygrad_bp.explain.steps import joint_order
from tinygrad_bp.explain.tables import Shown, Table
from tinygrad_bp.graph import Node

_NORMS = ("fro", "nuc", 2, -2, 1, -1, math.inf, -math.inf)  # of matrices


class Jacobians(Shown):
    """∂h(t)/∂h(k) for any two steps: `jacobians[t, k]`.

    A Jacobian has shape (units of h(t), units of h(k)), with a batch axis (samples, units, units),
    in float64; J[i, j] is the derivative of unit i by unit j, as textbooks have it. Parts of a
    state that is a tuple stand side by side, and are moved independently of one another: h(k) is
    not computed again from a c(k) that was moved.

    Attributes:
        steps: the time steps of the states, rising.
        name: what the state is called.
        is_chained: whether the state is all that passes from step to step, so that one-step
            Jacobians multiply.
    """

    __slots__ = ("_axis", "_factors", "_order", "_row", "_states", "is_chained", "name", "steps")

    def __init__(self, states: Sequence[State], order: Sequence[Node], axis: int | None) -> None:
        self._states = states
        self._axis = axis
        self.name = states[0].symbol
        self.steps = tuple(state.step for state in states)
        self._order = {node: i for i, node in enumerate(order)}
        reaches = [
            _between(state.nodes, before.nodes, self._order) for before, state in pairwise(states)
        ]
        self.is_chained = _is_chained(states, reaches)
        self._factors: list[Array] = []
        self._row: tuple[int, dict[int, Array]] = (-1, {})
        self._check_size(sum(map(len, reaches)))
        if self.is_chained:
            for i, reach in enumerate(reaches):
                self._factors.append(self._sweeps(reach, i + 1, [i], states[i].nodes)[i])

    def __getitem__(self, cell: tuple[int, int]) -> Array:
        """∂h(t)/∂h(k), read-only; zero for k > t.

        Raises:
            KeyError: there is no state of step t or k.
        """
        if not isinstance(cell, tuple) or len(cell) != 2:
            raise KeyError(f"expected two time steps, jacobians[t, k], got {cell!r}")
        if not set(cell) <= set(self.steps):
            raise KeyError(f"expected two of the steps {self.steps[0]} ... {self.steps[-1]}")
        t, k = map(self.steps.index, cell)
        if t <= k:
            return read_only(self._identity() * (t == k))  # type: ignore[no-any-return]
        return read_only(self._of(t)[k])  # type: ignore[no-any-return]

    def block(self, t: int, k: int, of: str, by: str) -> Array:
        """The part of `jacobians[t, k]` that is the derivative of one part of a tuple by another.

        Args:
            t, k: time steps.
            of, by: what the parts are called: "c" for c(t).

        Raises:
            KeyError: there is no such step, or no such part.
        """
        symbols = [part.place.symbol for part in self._states[0].parts]
        for name, symbol in (("of", of), ("by", by)):
            if not isinstance(symbol, str) or symbol not in symbols:
                raise KeyError(f"{name}: expected one of the parts {symbols}, got {shown(symbol)}")
        t, k = self._step(t, "t"), self._step(k, "k")
        part = self._units(self._states[0].part_of_units())[0]
        rows, columns = part == symbols.index(of), part == symbols.index(by)
        return read_only(self[t, k][..., rows, :][..., columns])  # type: ignore[no-any-return]

    def singular_values(self, t: int, k: int) -> Array:
        """The singular values of `jacobians[t, k]`, the largest first; a row for each sample."""
        t, k = self._step(t, "t"), self._step(k, "k")
        return np.linalg.svd(self[t, k], compute_uv=False)

    def _step(self, t: Any, what: str) -> int:
        if not is_integer(t) or t not in self.steps:
            first, last = self.steps[0], self.steps[-1]
            raise KeyError(f"{what}: expected a time step, {first} to {last}, got {shown(t)}")
        return int(t)

    def norms(self, ord: Any = "fro") -> Array:
        """The norm of every Jacobian: shape (steps, steps), [i, j] of ∂h(steps[i])/∂h(steps[j]).

        Args:
            ord: as of `np.linalg.norm`: "fro", or 2 for the largest singular value, which takes
                longer.

        Returns:
            Zeros above the diagonal; with a batch axis, shape (steps, steps, samples).
        """
        if not self.is_chained:
            self._check_visits(len(self.steps) * len(self._order))
        if ord not in _NORMS if isinstance(ord, (str, int, float)) else True:
            raise out_of_range("ord", f"one of {', '.join(map(str, _NORMS))}", ord)
        count, identity = len(self.steps), self._identity()
        norms = np.zeros((count, count, *identity.shape[:-2]))
        for i in range(count):
            norms[i, i] = np.linalg.norm(identity, ord, (-2, -1))
            for j, jacobian in (self._of(i) if i else {}).items():
                norms[i, j] = np.linalg.norm(jacobian, ord, (-2, -1))
        return norms

    def table(self, t: int | None = None) -> Table:
        """The Jacobians of one state by those before it, by lag.

        Args:
            t: its time step; the last, if not given.

        Returns:
            A `Table`: the largest singular value, and its root of order `lag`, the factor per step.
        """
        t = self.steps[-1] if t is None else self._step(t, "t")
        rows = []
        for k in self.steps[: self.steps.index(t)][::-1]:
            values = self.singular_values(t, k)
            largest, smallest = values.max(-1), values.min(-1)
            frobenius = np.sqrt((values**2).sum(-1))
            rows.append((t - k, k, largest, largest ** (1.0 / (t - k)), smallest, frobenius))
        how = (
            "products of the Jacobians of single steps: the state is all that passes between them"
            if self.is_chained
            else "by sweeps: more than this state passes from step to step"
        )
        columns = ["lag", "k", "largest singular value", "per step", "smallest", "Frobenius norm"]
        return Table(f"∂{self.name}({t})/∂{self.name}(k)", columns, rows, [how])

    def text(self) -> str:
        return self.table().text()

    def html(self) -> str:
        return self.table().html()

    # --- how they are computed ------------------------------------------------------------------

    def _of(self, t: int) -> dict[int, Array]:
        """The Jacobians of the state number t by all before it; kept for the next question."""
        if self._row[0] != t:
            row: dict[int, Array] = {}
            if self.is_chained:
                product = self._factors[t - 1]
                row[t - 1] = product
                for k in range(t - 2, -1, -1):
                    with np.errstate(all="ignore"):
                        product = row[k] = product @ self._factors[k]
            else:
                reach = _between(self._states[t].nodes, (), self._order)
                row = self._sweeps(reach, t, range(t), ())
            self._row = t, row
        return self._row[1]

    def _sweeps(
        self, reach: Sequence[Node], t: int, at: Collection[int], cut: Collection[Node]
    ) -> dict[int, Array]:
        """The Jacobians of the state number t by those numbered `at`: one sweep for each unit."""
        state = self._states[t]
        wanted = {node for k in at for node in self._states[k].nodes}
        self._check_samples(reach, state, at, wanted, cut)
        samples, units = self._units(state.array({})).shape
        found = {k: np.zeros((samples, units, units)) for k in at}
        for i in range(units):
            seed = np.zeros((samples, units))
            seed[:, i] = 1.0
            gradients = _pull(reach, state.seeds(self._array(seed)), wanted, cut)
            for k in at:
                found[k][:, i] = self._units(self._states[k].array(gradients))
        if self._axis is None:
            return {k: jacobian[0] for k, jacobian in found.items()}
        return found

    def _check_samples(
        self,
        reach: Sequence[Node],
        state: State,
        at: Collection[int],
        wanted: set[Node],
        cut: Collection[Node],
    ) -> None:
        """Raise if the first sample's state depends on another sample."""
        samples, units = self._units(state.array({})).shape
        if samples < 2:
            return
        seed = np.zeros((samples, units))
        seed[0] = np.random.default_rng(0).normal(size=units)
        gradients = _pull(reach, state.seeds(self._array(seed)), wanted, cut)
        if any(self._units(self._states[k].array(gradients))[1:].any() for k in at):
            raise ValueError(
                f"batch: along axis {self._axis} {self.name}({state.step}) of one sample depends "
                "on another sample; leave batch out, for the Jacobian by all of them"
            )

    def _units(self, x: Array) -> Array:
        """An array of the state's shape, as (samples, units)."""
        if self._axis is None:
            return x.reshape(1, -1)
        return np.moveaxis(x, self._axis, 0).reshape(x.shape[self._axis], -1)

    def _array(self, units: Array) -> Array:
        """The reverse of `_units`."""
        shape = self._states[0].shape
        if self._axis is None:
            return units.reshape(shape)
        moved = np.moveaxis(np.empty(shape), self._axis, 0).shape
        return np.moveaxis(units.reshape(moved), 0, self._axis)

    def _identity(self) -> Array:
        samples, units = self._units(self._states[0].array({})).shape
        identity = np.eye(units)
        return identity if self._axis is None else np.repeat(identity[None], samples, 0)

    def _check_size(self, nodes: int) -> None:
        samples, units = self._units(self._states[0].array({})).shape
        if len(self.steps) * samples * units * units > limits.MOST_NUMBERS:
            hint = "" if self._axis is not None else ", or say which axis the samples lie along"
            raise ValueError(
                f"states: {len(self.steps)} Jacobians of {units} units for {samples} samples are "
                f"more than {limits.MOST_NUMBERS} numbers; take fewer steps or samples{hint}"
            )
        self._check_visits(nodes if self.is_chained else len(self._order))

    def _check_visits(self, nodes: int) -> None:
        units = self._units(self._states[0].array({})).shape[1]
        if nodes * units > limits.MOST_VISITS:
            raise ValueError(
                f"states: sweeps from {units} units through {nodes} nodes are more than "
                f"{limits.MOST_VISITS} visits; take fewer steps, or the whole state, or Tensors"
            )


def jacobians(states: Sequence[Any], batch: int | None = None) -> Jacobians:
    """The Jacobians ∂h(t)/∂h(k) of the states of a recurrent network, by lag.

    No `.grad` is written, and no hook is called.

    Args:
        states: h(1) ... h(τ), as of `nn.unroll`: Tensors, arrays of Values, or Values; for an LSTM
            tuples (h, c), whose joint Jacobian is taken; `block` gives the one of a part.
        batch: the axis of the samples, which must be independent of one another: then there is a
            Jacobian for each. Without it all elements of a state are its units.

    Raises:
        TypeError: states is no list, or something in it is of another kind.
        ValueError: a state requires no gradient; a time step is not known; the samples are not
            independent; states of several parts are not all that passes from step to step; or the
            Jacobians would be too many numbers.
    """
    found = states_of(states, "states")
    order = joint_order(node for state in found for node in state.nodes)
    ndim = len(found[0].shape)
    if batch is not None:
        if not is_axis(batch):
            raise TypeError(f"batch: expected the number of an axis, got {type(batch).__name__}")
        if not -ndim <= batch < ndim:
            raise ValueError(f"batch: states of shape {found[0].shape} have no axis {batch}")
        if len(found[0].parts) > 1 and batch % ndim == ndim - 1:
            raise ValueError("batch: the parts of a state stand side by side on its last axis")
    return Jacobians(found, order, batch)


def _between(
    roots: Collection[Node], cut: Collection[Node], position: Mapping[Node, int]
) -> list[Node]:
    """The nodes that the roots were computed from, no further than the cut, in order."""
    ends = set(cut)
    found = set(roots)
    unseen = list(roots)
    while unseen:
        node = unseen.pop()
        if node not in ends:
            for parent in node.parents:
                if parent not in found:
                    found.add(parent)
                    unseen.append(parent)
    return sorted(found, key=position.__getitem__)


def _is_chained(states: Sequence[State], reaches: Sequence[Sequence[Node]]) -> bool:
    """Whether every way from a state to an earlier one leads through the one in between."""
    of_state = {node: i for i, state in enumerate(states) for node in state.nodes}
    for i, reach in enumerate(reaches):
        for node in reach:
            if of_state.get(node, i) not in (i, i + 1):
                if len(states[0].parts) > 1:
                    raise ValueError(
                        f"states: the state of step {states[i + 1].step} depends on that of step "
                        f"{states[of_state[node]].step} past the one in between; add what passes "
                        "by to the state, or take one part at a time"
                    )
                return False
    return True


def _pull(
    order: Sequence[Node],
    seeds: dict[Node, Any],
    wanted: Collection[Node],
    cut: Collection[Node],
) -> dict[Node, Any]:
    """The backward sweep from some nodes, no further than the cut: gradients of those wanted."""
    flight, ends = dict(seeds), set(cut)
    found = {}
    with np.errstate(all="ignore"):
        for node in reversed(order):
            g = flight.pop(node, None)
            if g is None:
                continue
            if node in wanted:
                found[node] = g
            if node in ends:
                continue
            for operand, local in zip(node.operands, node.locals, strict=True):
                if local is not None:
                    c = local * g
                    flight[operand] = flight[operand] + c if operand in flight else c
    return found
