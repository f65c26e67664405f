"""The chain of strongest contributions: whole, from the root to the node, for every node."""

import math
from itertools import pairwise

import numpy as np
import pytest

import tinygrad_bp as tb
from tinygrad_bp import nn
from tinygrad_bp.explain.survey import Survey, larger, size_of


@pytest.mark.parametrize("scalar", [False, True])
@pytest.mark.parametrize("backwards", [False, True])
def test_every_chain_leads_from_the_root_to_its_node(scalar, backwards):
    """In any order of asking, since what is known of one chain is used for others."""
    model = nn.MLP([3, 4, 2], rng=0)
    model = model.scalar_view() if scalar else model
    loss = nn.squared_error(model(np.ones((2, 3))), np.zeros((2, 2)))
    survey = Survey(loss)
    loss.backward()
    order = survey.order[::-1] if backwards else survey.order
    for node in order:
        links = survey.chain(node)
        assert all(below.consumer is above.node for above, below in pairwise(links))
        if node is loss:
            assert links == []
            continue
        assert links[0].consumer is loss
        assert links[-1].node is node
        made = math.prod(link.factor * link.added for link in links)
        assert made == pytest.approx(np.abs(node.grad).max(), rel=1e-12)
        for link in links:
            uses = survey.uses[link.node]
            assert link.contribution == max(use.size for use in uses)


def test_sizes():
    assert size_of(-2.0) == 2.0
    assert size_of(np.array([1.0, -3.0])) == 3.0
    assert size_of(np.zeros((0, 2))) == 0.0
    assert math.isnan(size_of(np.array([math.inf, math.nan])))
    assert sorted([math.nan, 1.0, math.inf, 0.0], key=larger)[:3] == [0.0, 1.0, math.inf]


def test_the_sweep_of_a_survey_writes_nothing():
    x = tb.Value(2.0)
    y = x * x
    Survey(y)
    assert x.grad is None
    assert y.grad is None
