"""The numbers that a textbook divides by, as far as a graph shows them: samples, outputs, steps."""

from __future__ import annotations

from itertools import product

import numpy as np

from tinygrad_bp.explain.recurrence import recurrence_of
from tinygrad_bp.explain.resweep import Graph, operands_of
from tinygrad_bp.explain.targets import parameters_of


class Sizes:
    """The numbers that a textbook divides by, as far as the graph shows them.

    Attributes:
        samples, outputs, steps: m, K and τ; 1 where there is one, or none is to be seen.
    """

    def __init__(self, graph: Graph) -> None:
        products = [n for n in graph.order if getattr(n.rule, "name", "") in ("matmul", "linear")]
        inputs = [np.shape(operands_of(node)[0]) for node in products]
        lengths = [shape[0] for shape in inputs if len(shape) >= 2]
        self.samples = max(set(lengths), key=lengths.count) if lengths else 1
        self.outputs = np.shape(products[-1].data)[-1] if products and lengths else 1  # type: ignore[attr-defined]
        self.steps = max(len(recurrence_of(graph).steps), 1)
        if not lengths:  # weight by weight: a weight is used once per sample and step
            arrays = [target for target in parameters_of(graph) if len(target.nodes) > 1]
            several = [uses for target in arrays for uses in target.uses(graph)]
            counts = {len({use.node for use in uses}) for uses in several}
            self.samples = counts.pop() // self.steps if len(counts) == 1 else 1

    def named(self) -> list[tuple[float, str]]:
        """Factors that a mistake may bring in, the simple before the composed, and their words."""
        known = {
            "m, the number of samples": self.samples,
            "K, the number of outputs": self.outputs,
            "τ, the number of time steps": self.steps,
        }
        known = {words: n for words, n in known.items() if n > 1}
        found = [(2.0, ""), (0.5, "")]
        for chosen in product((0, 1), repeat=len(known)):
            words = [w for w, yes in zip(known, chosen, strict=True) if yes]
            n = float(np.prod([known[w] for w in words]))
            if words:
                text = " times ".join(words)
                found += [(n, text), (1 / n, f"1 by {text}")]
                found += [(2 * n, f"2 times {text}"), (2 / n, f"2 by {text}")]
                found += [(n / 2, f"½ times {text}"), (0.5 / n, f"1 by 2 times {text}")]
        if self.samples > 2:
            m = self.samples
            found.append((m / (m - 1), "m by m − 1, m the number of samples"))
        return sorted(found, key=lambda pair: len(pair[1]))
