"""Whether the state machines would notice: the package, broken on purpose, in one way at a time."""

import numpy as np
import pytest
import test_state_machine
import test_state_machine_modules
import test_state_machine_tensors
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tinygrad_bp import checkpointing, differentiable, floats, graph, tensor, value
from tinygrad_bp.graph import Node
from tinygrad_bp.nn import Module
from tinygrad_bp.optim import SGD, Optimizer, optimizer
from tinygrad_bp.tensor import Tensor
from tinygrad_bp.value import Value

QUICKLY = settings(
    max_examples=100,
    stateful_step_count=25,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],  # the failure need not be a small one
    suppress_health_check=list(HealthCheck),
)


def forgetful(backward):
    """A sweep that does not add to what was there before."""

    def broken(root, gradient=None, leaves_only=False):
        for node in graph.topological_order(root) if root.requires_grad else ():
            node._grad = None
        backward(root, gradient, leaves_only)

    return broken


def unordered(search):
    """Nodes before all of their consumers."""

    def broken(root):
        order, flight = search(root)
        return order[-2::-1] + order[-1:], flight

    return broken


def twice(hooked):
    return lambda node, g: hooked(node, hooked(node, g))


def constant(pulled):
    def broken(*arguments):
        g = pulled(*arguments)
        return g.detach() if isinstance(g, Node) else g

    return broken


def read_only_the_first(self, state):
    for name, parameter in list(self.named_parameters())[:1]:
        parameter.data = state[name]


def half_a_step(self):
    for p in self.parameters[:1]:
        if p._grad is not None:
            optimizer._set(p, optimizer._numbers(p) - 0.1 * p._grad)


BREAKS = {
    "values": [
        ("leaves forget", value, "backward", forgetful(graph.backward)),
        ("no order", graph, "_search", unordered(graph._search)),
        ("zero_grad does nothing", Node, "zero_grad", lambda self: None),
        ("a wrong derivative", floats, "cos", lambda x: 1.0),
        ("hooks run twice", graph, "hooked", twice(graph.hooked)),
        ("detach does not", Value, "detach", lambda self: self + 0.0),
        ("a part is not looked after", checkpointing, "check_leaf_data", lambda leaves: None),
        ("second derivatives are lost", differentiable, "pulled", constant(differentiable.pulled)),
    ],
    "tensors": [
        ("what is recorded can be written", Tensor, "_read", lambda self: self._array),
        ("gradients share memory", Tensor, "grad", property(lambda self: self._grad)),
        ("leaves forget", tensor, "backward", forgetful(graph.backward)),
        ("seeds are not copied", Tensor, "_seed", lambda self, g: np.asarray(g)),
        (
            "constants are not copied",
            tensor,
            "as_array",
            lambda x, what, dtype=None: np.asarray(x, float),
        ),
        ("a part is not looked after", checkpointing, "check_leaf_data", lambda leaves: None),
    ],
    "modules": [
        ("half of a state", Module, "load_state_dict", read_only_the_first),
        ("half a step", Optimizer, "step", half_a_step),
        ("no momentum", SGD, "_update", lambda self, x, g, s, group: (x - group["lr"] * g, s)),
        ("zero_grad does nothing", Optimizer, "zero_grad", lambda self: None),
    ],
}
MACHINES = {
    "values": test_state_machine.AnyOrder,
    "tensors": test_state_machine_tensors.AnyOrder,
    "modules": test_state_machine_modules.Networks,
}
CASES = [(m, *b) for m, breaks in BREAKS.items() for b in breaks]


@pytest.mark.parametrize(
    ("machine", "what", "room", "name", "broken"), CASES, ids=[f"{m}: {w}" for m, w, *_ in CASES]
)
def test_a_broken_package_is_noticed(machine, what, room, name, broken, monkeypatch):
    monkeypatch.setattr(room, name, broken)
    with pytest.raises(BaseException):  # noqa: B017, PT011 (pytest.fail is no Exception)
        run_state_machine_as_test(MACHINES[machine], settings=QUICKLY)
