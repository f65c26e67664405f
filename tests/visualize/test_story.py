"""The story of a computation: the engine's numbers, in the engine's order."""

import math

import numpy as np
import pytest
from hypothesis import given, strategies as st
from test_array_rules import every_case

import tinygrad_bp as tb
from tinygrad_bp import Tensor, Value
from tinygrad_bp.rules import RULES
from tinygrad_bp.visualize.consumers import sum_over_consumers
from tinygrad_bp.visualize.equations import text
from tinygrad_bp.visualize.story import story_of


def told(root):
    return story_of(root, 10_000)


def lines(story, phase):
    return [text(line) for m in story.moments if m.phase == phase for line in m.lines]


def asked(story, name):
    i = [term.name for term in story.terms].index(name)
    return [text(line) for line in sum_over_consumers(story, i)]


def same(a, b):
    return np.array_equal(np.asarray(a), np.asarray(b), equal_nan=True)


def agrees_with_the_engine(root):
    """Each step's sums are those of the sweep, on the way and in the end; `.grad` is untouched."""
    before = [(step.node, step.node._grad) for step in tb.sweep(root)]
    story = told(root)
    assert all(node._grad is grad for node, grad in before)
    moments = [m for m in story.moments if m.phase == "backward"]
    sofar = {}
    with np.errstate(all="ignore"):
        for step, moment in zip(tb.sweep(root), moments, strict=True):
            name = story.terms[moment.visited].name
            assert not step.node.label or name.startswith(step.node.label[:10])
            sofar[moment.visited] = step.gradient
            sources = [story.scene.edges[e].source for e in moment.edges]
            assert [story.scene.edges[e].target for e in moment.edges] == [moment.visited] * len(
                step.edges
            )
            for source, edge in zip(sources, step.edges, strict=True):
                old = sofar.get(source)
                sofar[source] = edge.contribution if old is None else old + edge.contribution
            assert {total.box for total in moment.sums} == {moment.visited, *sources}
            assert all(same(total.sofar, sofar[total.box]) for total in moment.sums)
    assert story.gradients.keys() == sofar.keys()
    assert all(same(story.gradients[i], g) for i, g in sofar.items())
    return story


def test_a_neuron():
    w, x, b = Value(0.5, "w"), Value(2.0, "x"), Value(-0.3, "b")
    z = w * x + b
    z.label = "z"
    story = agrees_with_the_engine(tb.tanh(z))
    assert lines(story, "forward") == [
        "v1 = w · x = 0.5 · 2 = 1",
        "z = w · x + b = 0.5 · 2 + (−0.3) = 0.7",
        "L = tanh(z) = tanh(0.7) = 0.6044",
    ]
    assert lines(story, "backward") == [  # 1 - tanh(0.7)**2 = 0.63474
        "δ = ∂L/∂L = 1: the sweep begins here",
        "z.grad += (1 − L²) · δ = 0.6347 · 1 = 0.6347",
        "δ = ∂L/∂z = 0.6347: complete, one contribution",
        "v1.grad += 1 · δ = 1 · 0.6347 = 0.6347",
        "b.grad += 1 · δ = 1 · 0.6347 = 0.6347",
        "δ = ∂L/∂v1 = 0.6347: complete, one contribution",
        "w.grad += x · δ = 2 · 0.6347 = 1.269",
        "x.grad += w · δ = 0.5 · 0.6347 = 0.3174",
        "∂L/∂b = 0.6347: complete, one contribution; a leaf, nothing to hand on",
        "∂L/∂x = 0.3174: complete, one contribution; a leaf, nothing to hand on",
        "∂L/∂w = 1.269: complete, one contribution; a leaf, nothing to hand on",
    ]
    assert lines(story, "end")[1:] == ["∂L/∂w = 1.269", "∂L/∂x = 0.3174", "∂L/∂b = 0.6347"]


def test_the_sum_over_the_consumers():
    a = Value(3.0, "a")
    b, c = a * a, a + 1.0
    b.label, c.label = "b", "c"
    story = agrees_with_the_engine(b * c)
    # d(a² (a + 1)) = (3 a² + 2 a) da; the sweep comes to c first, and to b's two uses in turn
    assert asked(story, "a") == [
        "∂L/∂a = ∂L/∂c · ∂c/∂a + ∂L/∂b · ∂b/∂a + ∂L/∂b · ∂b/∂a",
        "= 9 · 1 + 4 · 3 + 4 · 3",
        "= 9 + 12 + 12",
        "= 33",
    ]
    assert asked(story, "L") == ["∂L/∂L = 1: the sweep begins here"]


def test_a_name_for_everything():
    x = Value(2.0)
    scaled = x * -0.5 + Tensor([1.0]).data[0]
    story = told(scaled * Value(4.0, "k", requires_grad=False))
    names = [term.name for term in story.terms]
    assert names == ["v1", "-0.5", "v2", "1", "v3", "k", "L"]
    assert lines(story, "forward")[0] == "v2 = v1 · (−0.5) = 2 · (−0.5) = −1"
    assert asked(story, "k") == ["k: no gradient flows here"]


def test_names_are_short_and_different():
    a, b, c = Value(1.0, "x" * 50 + "a"), Value(2.0, "x" * 50 + "b"), Value(3.0, "L")
    names = [term.name for term in told(a * b * c).terms]
    assert len(set(names)) == len(names)
    assert max(map(len, names)) < 30
    assert names[-1] == "v2"  # L is somebody else's name


def test_time_steps_of_the_uses():
    w, h = Value(0.9, "w"), Value(0.1, "h0", requires_grad=False)
    for t in (1, 2, 3):
        with tb.scope("step", t):
            h = tb.tanh(w * h + 0.2)
            h.label = "h"
    story = agrees_with_the_engine(h)
    place = [term.name for term in story.terms].index("w")
    assert [use.step for use in story.contributions[place]] == [3, 2, 1]
    assert {"h(1)", "h(2)", "h(3)"} <= {term.name for term in story.terms}
    # ∂h3/∂w = Σ_t (Π_{s>t} (1 − h_s²) w) (1 − h_t²) h_{t−1}
    states = [0.1]
    for _ in range(3):
        states.append(math.tanh(0.9 * states[-1] + 0.2))
    expected, through = [], 1.0
    for before, after in zip(states[-2::-1], states[:0:-1], strict=True):
        expected.append(through * (1 - after**2) * before)
        through *= (1 - after**2) * 0.9
    got = [use.use.contribution for use in story.contributions[place]]
    assert got == pytest.approx(expected, rel=1e-12)


def test_matrices():
    W = Tensor(np.ones((2, 3)), label="W")
    x = Tensor(np.array([[1.0, 2.0]]), label="x", requires_grad=False)
    b = Tensor(np.zeros(3), label="b")
    z = tb.linear(x, W, b)
    z.label = "z"
    story = agrees_with_the_engine((z * z).sum())
    backward = lines(story, "backward")
    assert "W.grad += xᵀ @ δ = [[1], [2]] @ [[6, 6, 6]] = [[6, 6, 6], [12, 12, 12]]" in backward
    assert "b.grad += Σ rows of δ = [6, 6, 6]" in backward
    assert asked(story, "W")[0] == "∂L/∂W = xᵀ @ ∂L/∂z"


def test_a_broadcast_is_undone():
    x, c = Tensor(np.arange(8.0).reshape(4, 2), label="x"), Tensor(2.0, label="c")
    story = agrees_with_the_engine((x * c).sum())
    found = [line for line in lines(story, "backward") if line.startswith("c.grad")]
    assert found == ["c.grad += x ⊙ δ (summed) = 28"]


@pytest.mark.parametrize("name", sorted(RULES))
@pytest.mark.parametrize("kind", [Value, lambda x: Tensor([x, x])], ids=["Value", "Tensor"])
def test_every_elementwise_operation(name, kind):
    rule = RULES[name]
    random = np.random.default_rng(1)
    operands = [kind(float(random.uniform(*domain))) for domain in rule.domain]
    y = rule(*operands)
    if not y.requires_grad:
        pytest.skip("no gradient flows through it")
    agrees_with_the_engine(y if kind is Value else y.sum())


@every_case
def test_every_structural_operation(case):
    y = case.call(*(Tensor(x) for x in case.operands))
    agrees_with_the_engine(tb.sum(y * y) if isinstance(y, Tensor) else sum(map(tb.sum, y)))


@given(st.data())
def test_random_graphs(data):
    nodes = [Value(x) for x in data.draw(st.lists(st.floats(-2, 2), min_size=1, max_size=3))]
    for _ in range(data.draw(st.integers(0, 12))):
        a, b = (data.draw(st.sampled_from(nodes)) for _ in range(2))
        operation = data.draw(st.sampled_from(["a + b", "a * b", "a - b", "tb.tanh(a)", "a ** 2"]))
        nodes.append(eval(operation, {"a": a, "b": b, "tb": tb}))
    agrees_with_the_engine(nodes[-1])


def test_a_hook_is_told():
    a = Value(2.0, "a")
    b = a * 3.0
    b.label = "b"
    b.register_hook(lambda g: -10.0)
    story = agrees_with_the_engine(b * b)
    assert "∂L/∂b = −10: a hook has replaced 12" in lines(story, "backward")
    assert "a.grad += 3 · δ = 3 · (−10) = −30" in lines(story, "backward")
    assert asked(story, "b")[-1] == "= 12, which a hook has replaced by −10"


def test_many_consumers():
    a = Value(2.0, "a")
    story = agrees_with_the_engine(sum((a * float(k) for k in range(1, 11)), start=Value(0.0)))
    assert asked(story, "a") == ["∂L/∂a = Σ ∂L/∂tᵢ · ∂tᵢ/∂a, over 10 uses t", "= 55"]


def test_masked_infinities():
    x = Value(0.0, "x")
    story = agrees_with_the_engine(tb.where(x > 0.0, tb.log(x), x))
    assert lines(story, "end")[1:] == ["∂L/∂x = 1"]


# --- what cannot be told ------------------------------------------------------------------------


def test_a_leaf_written_to():
    w = Value(2.0, "w")
    y = w * 3.0
    told(y)
    w.data = 3.0
    with pytest.raises(RuntimeError, match=r"play: a leaf \(w\) .* multiply .* written to since"):
        told(y)


def test_a_part_that_was_not_kept():
    x = Tensor([1.0, 2.0])
    y = tb.checkpoint(lambda x: tb.exp(x) * x, x).sum()
    with pytest.raises(ValueError, match=r"play: .* without checkpoint"):
        told(y)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (Value(1.0, requires_grad=False), "requires no gradient"),
        (Tensor([1.0, 2.0]), "sum it to a number first"),
    ],
)
def test_what_no_sweep_starts_from(node, message):
    with pytest.raises(ValueError, match=message):
        told(node)
