"""The layered layout: nothing overlaps, edges keep clear of boxes, and what can be straight is."""

from __future__ import annotations

import random
import time

import geometry
import pytest
from hypothesis import given, settings, strategies as st

from tinygrad_bp.visualize.layered import layout

BOX = (80.0, 50.0)
LABEL = (40.0, 16.0)


def placed(count, pairs, label=LABEL, **options):
    edges = [(source, target, label) for source, target in pairs]
    result = layout([BOX] * count, edges, **options)
    geometry.check(result, edges, options.get("direction", "LR"))
    return result


def middle(box):
    return box.y + box.height / 2


def middle_of(r, across):
    return (r.y + r.height / 2) if across else (r.x + r.width / 2)


def curves(route):
    """How often a line leaves its height."""
    return sum(a[1] != b[1] for a, b in zip(route.points, route.points[1:], strict=False))


def test_no_box_and_one_box():
    assert layout([], []).boxes == ()
    (box,) = layout([BOX], []).boxes
    assert (box.width, box.height) == BOX


def test_chain_is_one_straight_line():
    result = placed(4, [(0, 1), (1, 2), (2, 3)])
    assert len({middle(box) for box in result.boxes}) == 1
    assert all(len(route.points) == 2 for route in result.routes)
    xs = [box.x for box in result.boxes]
    assert xs == sorted(xs)


def test_chain_of_boxes_of_different_sizes_is_straight_too():
    sizes = [(60.0, 30.0), (90.0, 81.0), (70.0, 55.0)]
    result = layout(sizes, [(0, 1, LABEL), (1, 2, LABEL)])
    assert all(curves(route) == 0 for route in result.routes)


def test_diamond_is_symmetric():
    result = placed(4, [(0, 1), (0, 2), (1, 3), (2, 3)])
    start, upper, lower, end = map(middle, result.boxes)
    assert upper < lower
    assert start == end == (upper + lower) / 2
    assert result.boxes[1].x == result.boxes[2].x


def test_edges_that_need_not_cross_do_not():
    result = placed(5, [(0, 3), (1, 2), (2, 4), (3, 4)])
    ys = [middle(box) for box in result.boxes]
    assert (ys[0] < ys[1]) == (ys[3] < ys[2])


def test_long_edge_bends_at_most_twice():
    result = placed(6, [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (0, 5)])
    assert curves(result.routes[-1]) <= 2


def test_parallel_edges_have_their_own_labels_and_ends():
    result = placed(2, [(0, 1), (0, 1), (0, 1)])
    assert len({route.label for route in result.routes}) == 3
    assert len({route.points[-1] for route in result.routes}) == 3


def test_edges_of_one_source_share_a_trunk():
    # 0 is used by each of the chain 1..5; each edge but the longest begins on another one's line,
    # or at the box.
    result = placed(6, [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (0, 3), (0, 4), (0, 5)])
    assert [route.branches for route in result.routes[5:]] == [True, True, False]


def test_a_leaf_stands_by_its_first_user():
    result = placed(5, [(0, 1), (1, 2), (2, 4), (3, 4)])
    assert result.boxes[3].x == result.boxes[2].x


def test_a_computed_box_stands_by_its_operand_and_its_leaf_follows():
    # 0 1 2 3 4 is a chain; 6 = f(1, 5) is used only at the end. It stands next to 1.
    pairs = [(0, 1), (1, 2), (2, 3), (3, 4), (1, 6), (5, 6), (4, 7), (6, 7)]
    result = placed(8, pairs)
    assert result.boxes[6].x == result.boxes[2].x
    assert result.boxes[5].x == result.boxes[1].x


def test_unlabelled_edges_are_shorter():
    edges = [(0, 2, LABEL), (1, 2, None)]
    result = layout([BOX, (30.0, 22.0), BOX], edges)
    geometry.check(result, edges)
    assert result.boxes[0].x + BOX[0] < result.boxes[1].x


@pytest.mark.parametrize("pairs", [[(0, 2), (1, 2)], [(1, 2), (0, 2)]])
def test_edges_of_an_ordered_box_arrive_in_the_order_given(pairs):
    result = placed(3, pairs, ordered=[2])
    first, second = (route.points[-1][1] for route in result.routes)
    assert first < second
    # There was nothing in the way, so their sources stand in that order as well.
    assert middle(result.boxes[pairs[0][0]]) < middle(result.boxes[pairs[1][0]])


def test_ordered_holds_even_where_edges_must_cross_for_it():
    pairs = [(0, 2), (1, 2), (1, 3), (0, 3)]
    result = placed(4, pairs, ordered=[2, 3])
    ends = [route.points[-1][1] for route in result.routes]
    assert ends[0] < ends[1]
    assert ends[2] < ends[3]


def test_top_to_bottom_is_left_to_right_turned():
    sizes = [(80.0, 50.0), (30.0, 60.0), (44.0, 22.0)]
    edges = [(0, 2, (40.0, 16.0)), (1, 2, None)]
    down = layout(sizes, edges, direction="TB")
    turned = layout(
        [(h, w) for w, h in sizes], [(0, 2, (16.0, 40.0)), (1, 2, None)], direction="LR"
    )
    geometry.check(down, edges, "TB")
    assert [(b.x, b.y, b.width, b.height) for b in down.boxes] == [
        (b.y, b.x, b.height, b.width) for b in turned.boxes
    ]
    assert (down.width, down.height) == (turned.height, turned.width)


def test_backward_edges_and_unknown_directions_are_refused():
    with pytest.raises(ValueError, match="later box"):
        layout([BOX, BOX], [(1, 0, None)])
    with pytest.raises(ValueError, match="later box"):
        layout([BOX], [(0, 0, None)])
    with pytest.raises(ValueError, match="'LR' or 'TB', got 'up'"):
        layout([BOX], [], direction="up")


def recurrent(steps):
    """An unrolled network, h = tanh(u x + w h + b), loss (v h - t)²: edges, and how many boxes."""
    edges, count = [], 4  # u, w, b, v

    def new(*operands, constant=False):
        nonlocal count
        if constant:
            edges.append((count, count + 1, None))
            count += 1
        edges.extend((operand, count, LABEL) for operand in operands)
        count += 1
        return count - 1

    h = total = None
    for _ in range(steps):
        ux = new(0, constant=True)
        wh = new(1, constant=True) if h is None else new(1, h)
        h = new(new(new(ux, wh), 2))
        loss = new(new(new(3, h), constant=True), constant=True)
        total = loss if total is None else new(total, loss)
    return edges, count


def test_recurrent_network_has_few_bends():
    # Measured: 160. Without sweeps 204, without exchanges or the second beginning 169, with ends
    # of edges that are not aligned 168 or more, and with trunks that need not be straight 182.
    edges, count = recurrent(8)
    result = layout([BOX] * count, edges)
    geometry.check(result, edges)
    assert sum(map(curves, result.routes)) <= 160


@st.composite
def graphs(draw):
    count = draw(st.integers(1, 14))
    length = st.integers(5, 60).map(lambda n: 2.0 * n)
    sizes = draw(st.lists(st.tuples(length, length), min_size=count, max_size=count))
    label = st.none() | st.tuples(length, st.just(16.0))
    pair = st.tuples(st.integers(0, count - 1), st.integers(0, count - 1), label)
    drawn = draw(st.lists(pair, max_size=2 * count))
    edges = [(min(s, t), max(s, t), size) for s, t, size in drawn if s != t]
    ordered = draw(st.sets(st.integers(0, count - 1)))
    return sizes, edges, ordered


@settings(max_examples=80, deadline=None)
@given(graphs(), st.sampled_from(["LR", "TB"]))
def test_random_graphs_are_legible(graph, direction):
    sizes, edges, ordered = graph
    result = layout(sizes, edges, ordered, direction)
    geometry.check(result, edges, direction)
    assert result == layout(sizes, edges, ordered, direction)
    across = 0 if direction == "TB" else 1
    labels = [route.label and middle_of(route.label, across) for route in result.routes]
    for box in range(len(sizes)):
        ends = [
            route.points[-1][across]
            for (_, target, _), route in zip(edges, result.routes, strict=True)
            if target == box
        ]
        if box in ordered:
            assert ends == sorted(ends)
        else:  # in the order of the labels, so that no two edges cross in front of it
            pairs = [
                (label, route.points[-1][across])
                for label, route, edge in zip(labels, result.routes, edges, strict=True)
                if label and edge[1] == box
            ]
            assert [end for _, end in sorted(pairs)] == sorted(end for _, end in pairs)


def test_no_graph_is_too_deep():
    count = 3000
    result = layout([BOX] * count, [(i, i + 1, LABEL) for i in range(count - 1)])
    assert len({middle(box) for box in result.boxes}) == 1


def test_three_hundred_boxes_take_well_under_a_second():
    choice = random.Random(7)
    edges = [
        (choice.randrange(max(0, target - 40), target), target, LABEL)
        for target in range(1, 300)
        for _ in range(2)
    ]
    start = time.perf_counter()
    layout([BOX] * 300, edges)
    assert time.perf_counter() - start < 5.0  # measured below 0.5; a busy machine is no failure
