"""Training on several devices: a recorded step, its batch divided among them by jax.

The loss is recorded once, written with the package's operations. As a function of jax, with the
derivatives of the package's rules, it is compiled for a mesh of devices. The parameters are on
every device (`PartitionSpec()`), and of the batch each device has its share
(`PartitionSpec("data")`). Nothing else is said: where the program sums over the batch, XLA adds up
what the devices have. So the result must be that of one device, up to the order of sums; checked
here to 1e-12, on 8 devices that are simulated on the CPU, and against `tb.value_and_grad` as well.

Run `python benchmarks/data_parallel.py`.

On several hosts the same script runs on each of them, with one call before anything else:

    jax.distributed.initialize("host0:1234", num_processes=4, process_id=...)

(without arguments on clusters that jax knows, such as SLURM's and those of TPUs). `jax.devices()`
are then those of all hosts. Each host loads its own part of the batch, and the array of all is made
by `jax.make_array_from_process_local_data(by_batch, part)` in the place of `jax.device_put`;
parameters, equal on all hosts, are made in the same way with `everywhere`. The rest stays as it is.
The recording has the shape of the whole batch, so every host records the loss with that.
"""

from __future__ import annotations

import os
import sys
from itertools import pairwise
from typing import Any

DEVICES = 8
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={DEVICES}"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_ENABLE_X64"] = "1"

import numpy as np  # noqa: E402  (the settings are read on import)

import tinygrad_bp as tb  # noqa: E402
from tinygrad_bp.replay.jax_engine import function  # noqa: E402

BATCH, STEPS, RATE, TOLERANCE = 256, 60, 0.5, 1e-12


def loss(parameters: Any, x: Any, y: Any) -> Any:
    """The cross-entropy of a network of two hidden layers."""
    (W1, b1), (W2, b2), (W3, b3) = parameters
    h = tb.tanh(tb.linear(x, W1, b1))
    h = tb.silu(tb.linear(h, W2, b2))
    return -tb.mean(tb.sum(tb.log_softmax(tb.linear(h, W3, b3)) * y, axis=-1))


def data() -> tuple[list[Any], Any, Any]:
    """Parameters, and a batch that can be learned: classes from a random direction each."""
    rng = np.random.default_rng(0)
    sizes = [64, 48, 32, 10]
    parameters = [
        (tb.Tensor(rng.normal(0.0, n**-0.5, (n, m))), tb.Tensor(np.zeros(m)))
        for n, m in pairwise(sizes)
    ]
    x = rng.normal(size=(BATCH, sizes[0]))
    classes = np.argmax(x @ rng.normal(size=(sizes[0], sizes[-1])), axis=1)
    return parameters, x, np.eye(sizes[-1])[classes]


def recorded() -> tuple[Any, list[Any], Any, Any]:
    """The step as a function of jax, `(parameters, x, y) -> (loss, gradients)`, and its data."""
    import jax

    parameters, x, y = data()
    flat = [p for layer in parameters for p in layer]
    program = tb.compile(loss).program(parameters, tb.Tensor(x), tb.Tensor(y))
    replay = function(program)

    def value(parameters: list[Any], x: Any, y: Any) -> Any:
        return replay(*parameters, x, y)[0]

    return jax.value_and_grad(value), [p.data for p in flat], x, y


def trained(step: Any, parameters: list[Any], x: Any, y: Any) -> tuple[list[float], Any, Any]:
    """The losses of some steps of gradient descent, the first gradients, and the parameters."""
    import jax

    @jax.jit
    def update(parameters: list[Any], x: Any, y: Any) -> Any:
        value, gradients = step(parameters, x, y)
        new = [p - RATE * g for p, g in zip(parameters, gradients, strict=True)]
        return value, gradients, new

    losses, first = [], None
    for _ in range(STEPS):
        value, gradients, parameters = update(parameters, x, y)
        first = gradients if first is None else first
        losses.append(float(value))
    return losses, first, parameters


def difference(many: list[Any], one: list[Any]) -> float:
    """The largest, relative to the largest element of each array."""
    pairs = [(np.asarray(a), np.asarray(b)) for a, b in zip(many, one, strict=True)]
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)


def main() -> int:
    """Train on one device and on all, and compare."""
    import jax
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    step, parameters, x, y = recorded()
    device = jax.devices()[0]
    alone = trained(step, *jax.device_put((parameters, x, y), device))

    mesh = Mesh(np.array(jax.devices()), ("data",))
    everywhere = NamedSharding(mesh, PartitionSpec())
    by_batch = NamedSharding(mesh, PartitionSpec("data"))
    shared = jax.device_put(parameters, everywhere)
    parts = jax.device_put((x, y), by_batch)
    together = trained(step, shared, *parts)

    rows = [len(shard.data) for shard in parts[0].addressable_shards]
    print(f"{len(rows)} devices, rows of the batch on each: {rows}")
    print(f"loss {alone[0][0]:.6f} -> {alone[0][-1]:.6f} in {STEPS} steps")
    layers, *_ = data()
    exact = tb.value_and_grad(loss)(layers, tb.Tensor(x), tb.Tensor(y))[1]
    eager = [g for layer in exact for g in layer]
    differences = {
        "gradients from the package's own": difference(together[1], eager),
        "losses": difference(together[0], alone[0]),
        "gradients": difference(together[1], alone[1]),
        "parameters": difference(together[2], alone[2]),
    }
    for what, x_ in differences.items():
        print(f"largest relative difference of {what}: {x_:.1e}")
    placed = all(p.sharding.is_fully_replicated for p in together[2])
    met = len(rows) == DEVICES and placed and max(differences.values()) <= TOLERANCE
    learned = alone[0][-1] < 0.5 * alone[0][0]
    print(f"equal to {TOLERANCE:.0e}: {'met' if met and learned else 'NOT MET'}")
    return 0 if met and learned else 1


if __name__ == "__main__":
    sys.exit(main())
