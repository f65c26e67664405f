"""The graph with nodes of its own: derivatives that are fractions, and no rule of the package."""

import re
import weakref
from contextlib import contextmanager
from fractions import Fraction

import pytest

from tinygrad_bp import graph, scope, sweep, topological_order
from tinygrad_bp.graph import MORE, UNTRACKED, Node, Segment
from tinygrad_bp.hooks import hooks_of
from tinygrad_bp.recording import ROOT, Label, Observer, _Block


class Plain(Node):
    """A node without a number: the graph needs none."""

    def __init__(self, *pairs, rule="made", place=ROOT):
        self._birth, self._grad, self._place = graph.born(), None, place
        self.rule = rule if pairs else None
        self.x = self.dx = self.y = self.dy = None
        if pairs:
            self.x, self.dx = pairs[0]
        if len(pairs) == 2:
            self.y, self.dy = pairs[1]
        elif len(pairs) > 2:
            self.y, self.dy = pairs[1:], MORE

    def _seed(self, gradient):
        return Fraction(1) if gradient is None else Fraction(gradient)


def exactly(message):
    return re.escape(message) + "$"


def contributions(steps):
    """The sweep as plain numbers: per node the gradient, and what goes where."""
    return [
        (step.node, step.gradient, [(e.parent, e.local, e.contribution) for e in step.edges])
        for step in steps
    ]


# --- nodes --------------------------------------------------------------------------------------


def test_operands_of_one_two_and_more():
    a, b = Plain(), Plain()
    assert (a.operands, a.locals, a.parents) == ((), (), ())
    one = Plain((a, 2))
    assert (one.operands, one.locals, one.parents) == ((a,), (2,), (a,))
    two = Plain((5.0, None), (b, 3))
    assert (two.operands, two.locals, two.parents) == ((5.0, b), (None, 3), (b,))
    more = Plain((a, 2), (7.0, None), (b, 3), (a, 4))
    assert (more.operands, more.locals) == ((a, 7.0, b, a), (2, None, 3, 4))
    assert more.parents == (a, b, a)


def test_leaves_and_constants():
    a = Plain()
    b = Plain((a, 2))
    c = Plain()
    c.rule = UNTRACKED
    assert [n.is_leaf for n in (a, b, c)] == [True, False, True]
    assert [n.requires_grad for n in (a, b, c)] == [True, True, False]
    assert (repr(UNTRACKED), repr(MORE)) == ("untracked", "more")


def test_a_label_takes_a_place_of_its_own_only_where_there_is_something_to_say():
    with scope("layer", 3) as _:
        here = graph.current_state()
    a = Plain(place=here)
    assert (a.label, a.line, a.scope) == ("", "", here)
    a.label = "w"
    assert (a.label, a.line, a.scope) == ("w", "", here)
    a.label = ""
    assert a._place is here
    a._place = Label("", here, "line 7")
    a.label = "w"
    assert (a.label, a.line, a.scope) == ("w", "line 7", here)
    a.label = ""
    assert (a.label, a.line, a.scope) == ("", "line 7", here)
    hook = a.register_hook(lambda g: None)
    a._place.line = ""
    a.label = ""
    assert len(hooks_of(a)) == 1
    a.label = "v"
    assert (a.label, len(hooks_of(a))) == ("v", 1)
    hook.remove()
    assert hooks_of(a) == {}


def test_what_each_error_says():
    a = Plain()
    with pytest.raises(TypeError, match=exactly("label: expected a str, got int 3")):
        a.label = 3
    with pytest.raises(TypeError, match=exactly("hook: expected a function, got str")):
        a.register_hook("print")
    message = "root: expected a Value or a Tensor, got float 1.0"
    for begin in (graph.backward, graph.leaf_gradients, sweep, topological_order):
        with pytest.raises(TypeError, match="^" + exactly(message)):
            list(begin(1.0))
    message = "leaves_only: expected True or False, got str 'no'"
    with pytest.raises(TypeError, match="^" + exactly(message)):
        graph.backward(a, leaves_only="no")
    a.rule = UNTRACKED
    message = "register_hook: this node requires no gradient, and is never visited"
    with pytest.raises(ValueError, match="^" + exactly(message)):
        a.register_hook(print)
    message = (
        "this Plain requires no gradient: it is a constant, was detached, or was computed "
        "from constants or under no_grad()"
    )
    for differentiate in (graph.backward, sweep):
        with pytest.raises(ValueError, match="^" + exactly(message)):
            differentiate(a)


@pytest.mark.parametrize(
    "ask", [lambda n: n._seed(None), lambda n: n.again(None), lambda n: n.kept()]
)
def test_what_a_kind_of_node_has_to_say_for_itself(ask):
    node = object.__new__(Segment)
    with pytest.raises(NotImplementedError):
        ask(node)


# --- the sweep ----------------------------------------------------------------------------------


def test_every_way_to_hand_on_a_gradient():
    """First and later contributions, from nodes of one, two and more operands."""
    a, b = Plain(), Plain()
    one = Plain((a, 2))
    two = Plain((a, 3), (b, 5))
    more = Plain((b, 7), (one, 11), (9.0, None), (two, 13), (a, 17), (one, 19))
    last = Plain((0.0, None), (more, 23), (a, 29), (8.0, None), (b, 31))
    steps = contributions(sweep(last))
    assert steps == [
        (last, 1, [(more, 23, 23), (a, 29, 29), (b, 31, 31)]),
        (
            more,
            23,
            [(b, 7, 161), (one, 11, 253), (two, 13, 299), (a, 17, 391), (one, 19, 437)],
        ),
        (two, 299, [(a, 3, 897), (b, 5, 1495)]),
        (one, 690, [(a, 2, 1380)]),
        (b, 31 + 161 + 1495, []),
        (a, 29 + 391 + 897 + 1380, []),
    ]
    graph.backward(last)
    assert [n._grad for n in (a, b, one, two, more, last)] == [2697, 1687, 690, 299, 23, 1]


def test_a_first_operand_without_derivative():
    a = Plain()
    b = Plain((4.0, None), (a, 3))
    assert contributions(sweep(b, 2)) == [(b, 2, [(a, 3, 6)]), (a, 2 * 3, [])]
    assert topological_order(b) == [a, b]


def test_gradients_are_returned_and_stored_nowhere():
    a, b, other = Plain(), Plain(), Plain()
    c = Plain((a, 2), (b, 3))
    d = Plain((c, 5), (a, 7))
    for order in (None, topological_order(d)):
        assert graph.gradients(d, Fraction(2), [b, other, a], order) == [30, None, 34]
    assert all(node._grad is None for node in (a, b, c, d))
    assert graph.gradients(d, Fraction(2), [c]) == [None]  # its memory was free to be used again


def test_gradients_of_all_leaves_are_set_when_they_are_committed():
    a, b = Plain(), Plain()
    c = Plain((a, 2), (b, 3))
    d = Plain((c, 5), (a, 7))
    assert graph.leaf_gradients(d) == {a: 17, b: 15}
    found = graph.leaf_gradients(d, 2)
    assert found == {a: 34, b: 30}
    assert all(node._grad is None for node in (a, b, c, d))
    b._grad = 100
    graph.commit(found, found)
    assert [node._grad for node in (a, b, c, d)] == [34, 130, None, None]


def test_an_order_that_is_known_is_not_searched_again(monkeypatch):
    a = Plain()
    b = Plain((a, 2))
    order = topological_order(b)
    monkeypatch.setattr(graph, "_search", None)
    assert graph.gradients(b, 3, [a], order) == [6]


def backward_to_leaves(root):
    graph.backward(root, leaves_only=True)


def leaf_gradients_committed(root):
    found = graph.leaf_gradients(root)
    graph.commit(found, found)


@pytest.mark.parametrize(
    ("differentiate", "most"),
    [(backward_to_leaves, 2), (leaf_gradients_committed, 2), (graph.backward, 5)],
)
def test_gradients_of_inner_nodes_are_let_go_of_on_the_way(differentiate, most):
    """Where only the leaves' are wanted, an inner one lives until its node has been visited."""
    made = []

    class Local:
        def __mul__(self, g):
            made.append(weakref.ref(g))
            return Counted(sum(x() is not None for x in made))

    class Counted:
        def __init__(self, alive):
            self.alive = alive

    class Root(Plain):
        def _seed(self, gradient):
            return Counted(0)

    a = Plain()
    b = a
    for kind in (Plain, Plain, Plain, Plain, Root):
        b = kind((b, Local()))
    differentiate(b)
    assert a._grad.alive == most  # the last, and the one before it; or all of them


def test_arithmetic_is_done_where_the_root_wants_it():
    inside = []

    class Local:
        def __mul__(self, g):
            inside.append(entered[0])
            return g

    class Careful(Plain):
        @contextmanager
        def _arithmetic(self):
            entered[0] += 1
            yield
            entered[0] -= 1

    entered = [0]
    a = Plain()
    b = Careful((a, Local()))
    graph.backward(b)
    graph.gradients(b, 1, [a])
    graph.leaf_gradients(b)
    for _ in sweep(b):
        assert entered == [0]  # not while others work
    assert inside == [1, 1, 1, 1]


# --- hooks --------------------------------------------------------------------------------------


def test_a_hook_sees_a_gradient_when_it_is_complete_and_may_replace_it():
    a = Plain()
    b = Plain((a, 2))
    c = Plain((b, 3), (b, 5))
    seen = []
    handle = b.register_hook(seen.append)
    assert contributions(sweep(c))[1:] == [(b, 8, [(a, 2, 16)]), (a, 16, [])]
    assert seen == [8]
    b.register_hook(lambda g: g * 10)
    assert contributions(sweep(c))[1:] == [(b, 80, [(a, 2, 160)]), (a, 160, [])]
    handle.remove()
    graph.backward(c)
    assert (a._grad, b._grad, seen) == (160, 80, [8, 8])


# --- parts that are run again -------------------------------------------------------------------


class Part(Segment):
    """A part that makes two results of `a` and `b`, and hands on what they are given."""

    def __init__(self, a, b, unused=False):
        self._birth, self._grad, self._place, self.rule = graph.born(), None, ROOT, "part"
        self.x = self.dx = None
        self.y, self.dy = ((a, "later"), (b, "later")), MORE
        self.unused = unused
        self.runs = []

    def again(self, gradients):
        (a, _), (b, _) = self.y
        inner = Plain((a, 2))
        first, second = Plain((inner, 3)), Plain((inner, 5), (b, 7))
        third = Plain((inner, 1000))  # of which nobody asks anything
        nodes = [inner, first, second, *([third] if self.unused else [])]
        self.runs.append((gradients, nodes))
        return nodes, {[first, second][i]: g for i, g in gradients.items()}


class Which:
    """The derivative of a result by its part: its number and its gradient."""

    def __init__(self, i):
        self.i = i

    def __mul__(self, g):
        return _Both({self.i: g})


class _Both(dict):
    def __add__(self, other):
        return _Both(self | other)


@pytest.mark.parametrize("unused", [False, True])
@pytest.mark.parametrize("leaves_only", [False, True])
def test_a_part_is_run_again_when_the_sweep_comes_to_it(unused, leaves_only):
    a, b = Plain(), Plain()
    before = Plain((a, 11))
    part = Part(before, b, unused)
    first, second = Plain((part, Which(0))), Plain((part, Which(1)))
    last = Plain((first, 13), (second, 17), (b, 19))
    graph.backward(last, None, leaves_only)
    # by `before`: 13 * 3 * 2 + 17 * 5 * 2; by b: 17 * 7 + 19
    assert (a._grad, b._grad) == ((78 + 170) * 11, 119 + 19)
    assert before._grad == (None if leaves_only else 248)
    assert (first._grad, second._grad) == ((None, None) if leaves_only else (13, 17))
    ((gradients, nodes),) = part.runs
    assert gradients == {0: 13, 1: 17}
    assert all(node._grad is None for node in nodes)
    assert part._grad is None


@pytest.mark.parametrize("unused", [False, True])
def test_a_sweep_shows_what_was_run_again_in_the_place_of_the_part(unused):
    a, b = Plain(), Plain()
    part = Part(a, b, unused)
    first, second = Plain((part, Which(0))), Plain((part, Which(1)))
    last = Plain((first, 13), (second, 17))
    steps = contributions(sweep(last))
    inner, one, two, *_ = part.runs[0][1]
    assert steps == [
        (last, 1, [(first, 13, 13), (second, 17, 17)]),
        (two, 17, [(inner, 5, 85), (b, 7, 119)]),
        (one, 13, [(inner, 3, 39)]),
        (inner, 124, [(a, 2, 248)]),
        (b, 119, []),
        (a, 248, []),
    ]
    assert graph.gradients(last, 1, [a, b]) == [248, 119]


# --- those who look on --------------------------------------------------------------------------


class Watch(_Block, Observer):
    """Writes down what a sweep shows, and what had been reached by then."""

    def __init__(self):
        self.seen = []

    def _observers(self, outer):
        return (*outer, self)

    def swept(self, step, reached):
        self.seen.append((step.node, set(reached)))


@pytest.mark.parametrize("way", ["backward", "gradients", "sweep"])
def test_observers_are_shown_every_step(way):
    a = Plain()
    b = Plain((a, 2))
    c = Plain((b, 3), (a, 5))
    outer, inner = Watch(), Watch()
    with outer, inner:
        if way == "backward":
            graph.backward(c)
        elif way == "gradients":
            assert graph.gradients(c, 1, [a]) == [11]
        else:
            assert len(list(sweep(c))) == 3
    graph.backward(c)  # of which they see nothing
    expected = [(c, set()), (b, {b, a}), (a, {b, a})]
    assert outer.seen == expected
    assert inner.seen == expected
