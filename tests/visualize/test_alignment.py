"""Boxes in rows stand by their neighbours, in order and apart."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, strategies as st

from tinygrad_bp.visualize.alignment import _spread, aligned

NUMBER = st.floats(-100, 100)


@given(st.lists(st.tuples(NUMBER, st.floats(0, 50), st.floats(0.1, 5)), min_size=1, max_size=8))
def test_spread_is_the_nearest_arrangement(items):
    wanted, distances, weights = zip(*items, strict=True)
    places = _spread(wanted, distances[1:], weights)
    slack = [b - a - d for (a, b), d in zip(pairwise(places), distances[1:], strict=True)]
    assert all(s > -1e-9 for s in slack)
    # The conditions of Karush, Kuhn and Tucker: the force on what is left of a gap pushes right
    # where the gap is tight, and there is none where it is not; all forces together are none.
    force = 0.0
    for w, x, p, s in zip(weights, wanted, places, [*slack, 1.0], strict=True):
        force += w * (x - p)
        assert force == pytest.approx(0, abs=1e-6) if s > 1e-6 else force > -1e-6


def test_a_chain_is_straight_and_a_pair_stands_about_its_user():
    widths = {(0, 0): 30.0, (0, 1): 30.0, (1, 0): 80.0, (2, 0): 40.0}
    pairs = [((0, 0), (1, 0)), ((0, 1), (1, 0)), ((1, 0), (2, 0))]
    left = aligned(widths, pairs, 10.0)
    middle = {slot: left[slot] + widths[slot] / 2 for slot in widths}
    assert middle[1, 0] == middle[2, 0] == (middle[0, 0] + middle[0, 1]) / 2
    assert middle[0, 1] - middle[0, 0] == 40.0
    assert min(left.values()) == 0.0


def test_what_is_light_gives_way():
    widths = {(0, 0): 40.0, (1, 0): 20.0, (1, 1): 40.0, (2, 0): 40.0}
    pairs = [((0, 0), (1, 1)), ((1, 0), (2, 0)), ((1, 1), (2, 0))]
    left = aligned(widths, pairs, 10.0, light=[(1, 0)])
    assert left[0, 0] == left[1, 1] == left[2, 0] == left[1, 0] + 30.0
