"""What derivatives cost: reverse mode, forward mode and differences, on networks of growing size.

Operations are counted, and times are the best of several. The unit of both is one evaluation of the
function, without derivatives. E16 of the derivations: the gradient by reverse mode costs a small
multiple of the function, whatever the number of parameters (at most 4 times its operations); by
forward mode, or by differences, it costs evaluations in proportion to that number.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

for _variable in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ[_variable] = "1"

import numpy as np  # noqa: E402  (the number of threads is read on import)

import tinygrad_bp as tb  # noqa: E402
from tinygrad_bp import nn  # noqa: E402

WIDTHS = (2, 4, 8, 16, 32, 128, 512)
PARAMETERS_AT_MOST = 1200  # for what needs an evaluation per parameter
SAMPLES = 16

Loss = Callable[[Any], Any]


def network(width: int) -> tuple[nn.MLP, Loss]:
    """An MLP width-width-1 with tanh, and its squared error over some samples."""
    random = np.random.default_rng(width)
    x, y = random.normal(size=(SAMPLES, width)), random.normal(size=(SAMPLES, 1))
    return nn.MLP([width, width, 1], rng=0), lambda model: nn.squared_error(model(x), y)


def function(loss: Loss, model: nn.MLP) -> None:
    """One evaluation."""
    with tb.no_grad():
        loss(model)


def reverse(loss: Loss, model: nn.MLP) -> Any:
    """The gradient by one sweep."""
    return tb.grad(loss)(model)


def forward(loss: Loss, model: nn.MLP) -> Any:
    """The gradient by one directional derivative per parameter."""
    return tb.jacobian(loss, mode="forward")(model)


def differences(loss: Loss, model: nn.MLP) -> Any:
    """The gradient by central differences: two evaluations per parameter."""
    gradient = {name: np.empty(p.shape) for name, p in model.named_parameters()}
    for name, parameter in model.named_parameters():
        for place in np.ndindex(parameter.shape):
            numbers = []
            for step in (1e-5, -1e-5):
                start = parameter.data[place]
                parameter.data[place] = start + step
                with tb.no_grad():
                    numbers.append(loss(model).item())
                parameter.data[place] = start
            gradient[name][place] = (numbers[0] - numbers[1]) / 2e-5
    return gradient


def hessian_product(loss: Loss, model: nn.MLP) -> Any:
    """The product of the Hessian with a vector."""
    return tb.hvp(loss, model, {name: np.ones(p.shape) for name, p in model.named_parameters()})


def operations(run: Callable[[Loss, nn.MLP], Any], loss: Loss, model: nn.MLP) -> int:
    """How many operations on single numbers it takes."""
    with tb.count_operations() as counts:
        run(loss, model)
    return counts.total


def seconds(run: Callable[[Loss, nn.MLP], Any], loss: Loss, model: nn.MLP) -> float:
    """The best time of several, for half a second in all."""
    best, end = float("inf"), time.perf_counter() + 0.5
    while True:
        start = time.perf_counter()
        run(loss, model)
        stop = time.perf_counter()
        best = min(best, stop - start)
        if stop > end:
            return best


def check(loss: Loss, model: nn.MLP) -> None:
    """That all of them compute the same gradient."""
    exact = reverse(loss, model)
    for run, tolerance in ((forward, 1e-12), (differences, 1e-7)):
        for name, gradient in run(loss, model).items():
            np.testing.assert_allclose(gradient, exact[name], rtol=tolerance, atol=tolerance)


def main() -> None:
    """Print both tables."""
    runs = {
        "reverse mode": reverse,
        "Hessian times a vector": hessian_product,
        "forward mode": forward,
        "differences": differences,
    }
    networks = {width: network(width) for width in WIDTHS}
    sizes = {w: sum(p.size for p in model.parameters()) for w, (model, _) in networks.items()}
    for width in WIDTHS:
        if sizes[width] <= 100:
            check(networks[width][1], networks[width][0])
    worst = 0.0
    for title, measure in (("operations", operations), ("time", seconds)):
        print(f"\n{title}, in evaluations of the function\n")
        print("| parameters |" + "".join(f" {sizes[w]:,} |" for w in WIDTHS))
        print("|---|" + "---:|" * len(WIDTHS))
        units = {w: measure(function, loss, model) for w, (model, loss) in networks.items()}
        for name, run in runs.items():
            cells = []
            for width, (model, loss) in networks.items():
                per_parameter = run in (forward, differences)
                if per_parameter and sizes[width] > PARAMETERS_AT_MOST:
                    cells.append("")
                    continue
                ratio = measure(run, loss, model) / units[width]
                cells.append(f"{ratio:,.1f}")
                if run is reverse and title == "operations":
                    worst = max(worst, ratio)
            print(f"| {name} | " + " | ".join(cells) + " |")
    verdict = "met" if worst <= 4.0 else "MISSED"
    print(f"\nreverse mode, at most 4 times the operations of the function: {worst:.2f}, {verdict}")


if __name__ == "__main__":
    main()
