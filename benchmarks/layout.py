"""Our layered layout against Graphviz's `dot`: crossings and length of lines on twenty graphs.

Both place the same boxes and labels; the lines are measured as they are drawn, as polylines. Two
lines of one source that run together count once, on either side. Needs the extra `dot`.
"""

from __future__ import annotations

import math
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "visualize"))

from graphs import GRAPHS

from tinygrad_bp import nn
from tinygrad_bp.visualize import draw
from tinygrad_bp.visualize.building import scene_of
from tinygrad_bp.visualize.placing import place
from tinygrad_bp.visualize.things import things_of

PIECES = 12  # straight pieces of a curve


def polyline(route: Any) -> list[tuple[float, float]]:
    """The points of a line, with its curves in straight pieces."""
    points = list(route.points)
    if route.curve == "bezier":
        curves = [points[i : i + 4] for i in range(0, len(points) - 1, 3)]
    else:
        downward = points[-2][0] == points[-1][0]
        curves = [_s(a, b, downward) for a, b in pairwise(points)]
    line = [points[0]]
    for curve in curves:
        count = 1 if len(curve) == 2 else PIECES
        line += [_on(curve, i / count) for i in range(1, count + 1)]
    return line


def _s(a: Any, b: Any, downward: bool) -> list[Any]:
    if a[0] == b[0] or a[1] == b[1]:
        return [a, b]
    if downward:
        middle = (a[1] + b[1]) / 2
        return [a, (a[0], middle), (b[0], middle), b]
    middle = (a[0] + b[0]) / 2
    return [a, (middle, a[1]), (middle, b[1]), b]


def _on(curve: list[Any], t: float) -> tuple[float, float]:
    """De Casteljau's construction."""
    points = curve
    while len(points) > 1:
        points = [
            tuple((1 - t) * u + t * v for u, v in zip(p, q, strict=True))
            for p, q in pairwise(points)
        ]
    return points[0]


def crossings(lines: list[Any], sources: list[int], targets: list[int]) -> int:
    """Pairs of lines that cross and have no end in common."""
    total = 0
    for i, a in enumerate(lines):
        for j in range(i):
            if sources[i] != sources[j] and targets[i] != targets[j] and _cross(a, lines[j]):
                total += 1
    return total


def _cross(a: Any, b: Any) -> bool:
    p, q = np.array(a), np.array(b)
    if (p.max(0) < q.min(0)).any() or (q.max(0) < p.min(0)).any():
        return False
    d, e = np.diff(p, axis=0)[:, None], np.diff(q, axis=0)[None]
    between = q[None, :-1] - p[:-1, None]
    cross = d[..., 0] * e[..., 1] - d[..., 1] * e[..., 0]
    with np.errstate(all="ignore"):
        t = (between[..., 0] * e[..., 1] - between[..., 1] * e[..., 0]) / cross
        u = (between[..., 0] * d[..., 1] - between[..., 1] * d[..., 0]) / cross
    return bool(((t > 0) & (t <= 1) & (u > 0) & (u <= 1)).any())


def length(lines: list[Any]) -> float:
    """The sum of the lengths."""
    return sum(math.dist(a, b) for line in lines for a, b in pairwise(line))


def measure(scene: Any, layout: str) -> tuple[int, float, float, float]:
    """Crossings, length, area and seconds."""
    start = time.perf_counter()
    result = place(scene, "LR", layout)
    seconds = time.perf_counter() - start
    lines = [polyline(route) for route in result.routes]
    sources, targets = [e.source for e in scene.edges], [e.target for e in scene.edges]
    return (
        crossings(lines, sources, targets),
        length(lines),
        result.width * result.height,
        seconds,
    )


def main() -> None:
    """Print a table, and the ratios of the sums."""
    print(f"{'':18}{'boxes':>6}{'crossings':>16}{'length':>18}{'area':>8}{'seconds':>16}")
    print(f"{'':24}{'ours':>8}{'dot':>8}{'ours':>9}{'dot':>9}{'ratio':>8}{'ours':>8}{'dot':>8}")
    sums = np.zeros((2, 4))
    for graph in GRAPHS:
        root = graph()
        root.backward()
        scene = scene_of(root, 1000)
        ours, dots = measure(scene, "layered"), measure(scene, "dot")
        sums += [ours, dots]
        print(
            f"{graph.__name__:18}{len(scene.boxes):6}{ours[0]:8}{dots[0]:8}{ours[1]:9.0f}"
            f"{dots[1]:9.0f}{ours[2] / dots[2]:8.2f}{ours[3]:8.3f}{dots[3]:8.3f}"
        )
    (c, n, area, _), (dc, dn, darea, _) = sums
    print(
        f"\nours / dot: crossings {c:.0f} / {dc:.0f} = {c / dc:.2f}, length {n / dn:.2f}, "
        f"area {area / darea:.2f}"
    )


def _mlp(sizes: list[int], rows: int) -> Any:
    """The loss of an MLP, weight by weight."""
    model = nn.MLP(sizes, rng=0).scalar_view()
    loss = nn.squared_error(model(np.ones((rows, sizes[0]))), np.ones((rows, sizes[-1])))
    loss.backward()
    return loss


def _rnn(steps: int) -> Any:
    """The loss of a recurrent network, weight by weight."""
    cell = nn.RNNCell(1, 2, rng=0).scalar_view()
    states = nn.unroll(cell, np.ones((steps, 1)), np.zeros(2))
    loss = sum((h * h).sum() for h in states)
    loss.backward()
    return loss


def times() -> None:
    """Print how long pictures of large graphs take."""
    print("\nwhole pictures, the best of three")
    for name, root, most in (
        ("MLP 10-20-16-1, all of it", _mlp([10, 20, 16, 1], 1), 5000),
        ("RNN of 95 steps in time, all of it", _rnn(95), 5000),
        ("MLP 64-128-100-10 on 2 samples, collapsed", _mlp([64, 128, 100, 10], 2), 300),
        ("RNN of 5,000 steps, folded", _rnn(5000), 300),
    ):
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            picture = draw(root, max_nodes=most)
            seconds.append(time.perf_counter() - start)
        things = len(things_of([root]))
        boxes = len(picture.scene.boxes)
        print(f"{name:44}{things:8,} nodes, {boxes:5,} boxes{min(seconds):8.2f} s")


if __name__ == "__main__":
    main()
    times()
