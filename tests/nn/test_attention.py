"""Attention and the Transformer block against PyTorch, a loop over pairs of steps, and masks."""

import math

import numpy as np
import pytest

import tinygrad_bp as tb
from tinygrad_bp import nn

RNG = np.random.default_rng
T, B, E, H = 5, 3, 6, 2


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="PyTorch is the oracle")


def filled(module, seed=5):
    rng = RNG(seed)
    for p in module.parameters():
        p.data = rng.normal(size=p.shape) / 2.0
    return module


def loaded(torch, other, module):
    """PyTorch's module with the weights of ours."""
    state = {name: torch.tensor(x) for name, x in nn.torch_state_dict(module).items()}
    other.load_state_dict(state)
    return other


def close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-13)


def same_gradients(module, other):
    there = {name: p.grad.numpy() for name, p in other.named_parameters()}
    for p in module.parameters():
        p.data = p.grad
    for name, ours in nn.torch_state_dict(module).items():
        close(ours, there[name])


def lengths_mask(lengths):
    """PyTorch's key_padding_mask: True where there is padding."""
    return np.arange(T) >= np.array(lengths)[:, None]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shape", [(T, E), (B, T, E), (B, 2, T, E)])
def test_scaled_dot_product_attention_equals_torch(torch, causal, shape):
    q, k, v, g = RNG(0).normal(size=(4, *shape))
    ours = [tb.Tensor(x) for x in (q, k, v)]
    theirs = [torch.tensor(x, requires_grad=True) for x in (q, k, v)]
    read = nn.scaled_dot_product_attention(*ours, causal=causal)
    there = torch.nn.functional.scaled_dot_product_attention(*theirs, is_causal=causal)
    close(read.data, there.detach().numpy())
    read.backward(g)
    there.backward(torch.tensor(g))
    for a, b in zip(ours, theirs, strict=True):
        close(a.grad, b.grad.numpy())


def test_a_mask_has_pytorchs_meaning(torch):
    q, k, v = RNG(0).normal(size=(3, B, T, E))
    mask = RNG(1).uniform(size=(B, T, T)) < 0.5
    mask[..., 0] = True
    read = nn.scaled_dot_product_attention(*map(tb.Tensor, (q, k, v)), mask)
    there = torch.nn.functional.scaled_dot_product_attention(
        *map(torch.tensor, (q, k, v)), torch.tensor(mask)
    )
    close(read.data, there.numpy())


def test_a_causal_mask_and_another_both_hold():
    q = tb.Tensor(RNG(0).normal(size=(T, E)))
    mask = RNG(1).uniform(size=(T, T)) < 0.5
    mask[:, 0] = True
    weights = nn.attention_weights(q, q, mask, causal=True).data
    np.testing.assert_array_equal(weights > 0.0, mask & np.tri(T, dtype=bool))


def test_nan_in_the_padding_of_another_sequence_is_not_read():
    module = filled(nn.MultiHeadAttention(E, H, rng=0))
    query, key, value = (RNG(i).normal(size=(T, 2, E)) for i in range(3))
    expected = module(query, key, value, lengths=[5, 3]).data
    key[3:, 1] = value[3:, 1] = np.nan
    leaves = [tb.Tensor(x) for x in (query, key, value)]
    read = module(*leaves, lengths=[5, 3])
    np.testing.assert_array_equal(read.data, expected)
    read.sum().backward()
    for x in [*leaves, *module.parameters()]:
        assert np.isfinite(x.grad).all()


def test_attention_by_hand():
    """One sum over the steps for each query, in plain Python."""
    q, k, v = RNG(0).normal(size=(3, T, E))
    read = nn.scaled_dot_product_attention(*map(tb.Tensor, (q, k, v)), causal=True)
    for t in range(T):
        e = [math.exp(sum(q[t] * k[s]) / math.sqrt(E)) for s in range(t + 1)]
        expected = sum(e[s] / sum(e) * v[s] for s in range(t + 1))
        np.testing.assert_allclose(read.data[t], expected, rtol=1e-13)


def test_what_may_not_be_read_has_no_weight_and_no_gradient():
    q, k, v = (tb.Tensor(x) for x in RNG(0).normal(size=(3, T, E)))
    weights = nn.attention_weights(q, k, causal=True)
    assert not np.triu(weights.data, 1).any()
    np.testing.assert_allclose(weights.data.sum(-1), 1.0, rtol=1e-14)
    (weights @ v)[1].sum().backward()
    for leaf in (k, v):
        assert leaf.grad[:2].any()
        assert not leaf.grad[2:].any()


def test_large_scores_are_finite():
    q = tb.Tensor([[1000.0, 0.0], [-1000.0, 0.0]])
    read = nn.scaled_dot_product_attention(q, q, q, causal=True)
    tb.sum(tb.square(read)).backward()
    np.testing.assert_array_equal(read.data, q.data)
    assert np.isfinite(q.grad).all()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("lengths", [None, [5, 2, 3]])
def test_multi_head_attention_equals_torch(torch, causal, lengths):
    module = filled(nn.MultiHeadAttention(E, H, rng=0))
    other = loaded(torch, torch.nn.MultiheadAttention(E, H, dtype=torch.float64), module)
    x, g = RNG(1).normal(size=(2, T, B, E))
    counted = np.ones((T, B, 1)) if lengths is None else ~lengths_mask(lengths).T[..., None]
    leaf, leaf_there = tb.Tensor(x), torch.tensor(x, requires_grad=True)
    read, weights = module(leaf, causal=causal, lengths=lengths, need_weights=True)
    read_there, weights_there = other(
        leaf_there,
        leaf_there,
        leaf_there,
        attn_mask=torch.tensor(~nn.causal_mask(T)) if causal else None,
        key_padding_mask=None if lengths is None else torch.tensor(lengths_mask(lengths)),
        average_attn_weights=False,
    )
    close(read.data, read_there.detach().numpy() * counted)
    rows = np.broadcast_to(counted[..., 0].T[:, None, :, None], weights.shape)
    close(weights.data * rows, weights_there.detach().numpy() * rows)
    read.backward(g)
    read_there.backward(torch.tensor(g * counted))
    close(leaf.grad, leaf_there.grad.numpy())
    same_gradients(module, other)


def test_attention_to_another_sequence_equals_torch(torch):
    module = filled(nn.MultiHeadAttention(E, H, rng=0))
    other = loaded(torch, torch.nn.MultiheadAttention(E, H, dtype=torch.float64), module)
    rng = RNG(1)
    query, key, value = (rng.normal(size=(n, B, E)) for n in (2, T, T))
    lengths = [5, 2, 3]
    ours = [tb.Tensor(x) for x in (query, key, value)]
    theirs = [torch.tensor(x, requires_grad=True) for x in (query, key, value)]
    read = module(*ours, lengths=lengths)
    read_there, _ = other(*theirs, key_padding_mask=torch.tensor(lengths_mask(lengths)))
    close(read.data, read_there.detach().numpy())
    read.sum().backward()
    read_there.sum().backward()
    for a, b in zip(ours, theirs, strict=True):
        close(a.grad, b.grad.numpy())
    same_gradients(module, other)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("lengths", [None, [5, 2, 3]])
def test_transformer_block_equals_torch(torch, norm_first, activation, lengths):
    block = nn.TransformerBlock(E, H, 7, rng=0, norm_first=norm_first, activation=activation)
    filled(block)
    other = torch.nn.TransformerEncoderLayer(
        E, H, 7, 0.0, activation, norm_first=norm_first, dtype=torch.float64
    )
    loaded(torch, other, block)
    x, g = RNG(1).normal(size=(2, T, B, E))
    counted = np.ones((T, B, 1)) if lengths is None else ~lengths_mask(lengths).T[..., None]
    leaf, leaf_there = tb.Tensor(x), torch.tensor(x, requires_grad=True)
    y = block(leaf, causal=True, lengths=lengths)
    there = other(
        leaf_there,
        torch.tensor(~nn.causal_mask(T)),
        None if lengths is None else torch.tensor(lengths_mask(lengths)),
    )
    close(y.data, there.detach().numpy() * counted)
    y.backward(g)
    there.backward(torch.tensor(g * counted))
    close(leaf.grad, leaf_there.grad.numpy())
    same_gradients(block, other)


MODULES = {
    "attention": lambda **options: nn.MultiHeadAttention(E, H, rng=0, **options),
    "post-norm": lambda **options: nn.TransformerBlock(E, H, rng=0, **options),
    "pre-norm": lambda **options: nn.TransformerBlock(E, H, rng=0, norm_first=True, **options),
}


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("causal", [False, True])
def test_the_padding_never_contributes(name, causal):
    """Each sequence on its own, without any padding, is the oracle."""
    module = filled(MODULES[name]())
    sequences = [RNG(i).normal(size=(length, E)) for i, length in enumerate([2, 4, 1])]
    xs, lengths = nn.pad_sequences(sequences, np.nan)
    leaf = tb.Tensor(xs)
    outputs = module(leaf, causal=causal, lengths=lengths)
    tb.sum(tb.square(outputs)).backward()
    gradients = [p.grad for p in module.parameters()]
    module.zero_grad()
    for i, sequence in enumerate(sequences):
        alone = tb.Tensor(sequence)
        alone_there = module(alone, causal=causal)
        tb.sum(tb.square(alone_there)).backward()
        close(outputs.data[: lengths[i], i], alone_there.data)
        assert not outputs.data[lengths[i] :, i].any()
        close(leaf.grad[: lengths[i], i], alone.grad)
        assert not leaf.grad[lengths[i] :, i].any()
    for g, p in zip(gradients, module.parameters(), strict=True):
        close(g, p.grad)


@pytest.mark.parametrize("name", MODULES)
def test_gradients_pass_the_check(name):
    module = filled(MODULES[name]())
    weights = RNG(2).normal(size=(3, 2, E))

    def loss(x):
        return tb.sum(module(x, causal=True, lengths=[3, 2]) * weights)

    assert tb.check_gradients(loss, [tb.Tensor(RNG(1).normal(size=(3, 2, E)))])


@pytest.mark.parametrize("name", MODULES)
def test_second_derivatives(name):
    module = filled(MODULES[name]())
    x, v = RNG(3).normal(size=(2, 3, 2, E))
    f = lambda x: tb.sum(tb.square(module(x, causal=True)))  # noqa: E731
    gradient, step = tb.grad(f), 1e-6
    expected = (gradient(x + step * v) - gradient(x - step * v)) / (2 * step)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(tb.hvp(f, x, v), expected, rtol=1e-6, atol=1e-7 * scale)


@pytest.mark.parametrize("name", MODULES)
def test_compiled_modules_have_the_same_gradients(name):
    module = filled(MODULES[name]())

    def loss(module, x):
        return tb.sum(tb.square(module(x, causal=True, lengths=[3, 2])))

    x = RNG(1).normal(size=(3, 2, E))
    value, gradient = tb.compile(loss).value_and_grad(module, x)
    expected = loss(module, x)
    expected.backward()
    close(value, expected.data)
    for parameter, p in module.named_parameters():
        close(gradient[parameter], p.grad)


@pytest.mark.parametrize("name", MODULES)
def test_the_scalar_view_has_the_same_gradients(name):
    make = {
        "attention": lambda: nn.MultiHeadAttention(2, 2, rng=0),
        "post-norm": lambda: nn.TransformerBlock(2, 1, 2, rng=0),
        "pre-norm": lambda: nn.TransformerBlock(2, 1, 2, rng=0, norm_first=True),
    }
    module = filled(make[name]())
    view = module.scalar_view()
    x, lengths = nn.pad_sequences([RNG(1).normal(size=(3, 2)), RNG(2).normal(size=(2, 2))])
    for network in (module, view):
        y = network(x, causal=True, lengths=lengths)
        (y * np.arange(12.0).reshape(3, 2, 2)).sum().backward()
    for p, q in zip(module.parameters(), view.parameters(), strict=True):
        np.testing.assert_allclose(q.grad, p.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", MODULES)
def test_float32_stays_float32(name):
    module = MODULES[name](dtype=np.float32, dropout=0.5)
    y = module(np.ones((3, 2, E), np.float32), causal=True, lengths=[3, 1])
    y.sum().backward()
    assert {y.dtype, *(p.grad.dtype for p in module.parameters())} == {np.dtype(np.float32)}


@pytest.mark.parametrize("name", MODULES)
def test_dropout_is_in_training_only(name):
    module, plain = MODULES[name](dropout=0.5), MODULES[name]()
    x = RNG(0).normal(size=(3, 2, E))
    assert not np.allclose(module(x).data, module(x).data)
    np.testing.assert_array_equal(module.eval()(x).data, plain(x).data)


def test_a_block_drops_what_it_adds():
    """Both halves add ones, of which some are gone and the others doubled."""
    block = nn.TransformerBlock(E, H, rng=0, norm_first=True, dropout=0.5)
    for linear in (block.attention.o, block.linear2):
        linear.W.data, linear.b.data = np.zeros(linear.W.shape), np.ones(E)
    x = RNG(0).normal(size=(20, 3, E))
    np.testing.assert_array_equal(np.unique(np.round(block(x).data - x, 12)), [0.0, 2.0, 4.0])


def test_a_block_drops_hidden_units():
    """Eight hidden ones are summed to every feature: each sample has lost units of its own."""
    block = nn.TransformerBlock(E, H, 8, rng=0, norm_first=True, dropout=0.5)
    block.attention.o.W.data = np.zeros((E, E))
    block.linear1.W.data, block.linear1.b.data = np.zeros((E, 8)), np.ones(8)
    block.linear2.W.data = np.ones((8, E))
    x = np.zeros((20, 1, E))
    for sums in block(x).data[:, 0]:
        assert len(np.unique(sums[sums != 0.0])) <= 1
    assert len(np.unique(block(x).data)) > 4


def test_inner_quantities_are_named():
    y = nn.TransformerBlock(E, H, rng=0)(np.ones((3, 2, E)))
    named = {(n.scope.path, n.label) for n in tb.topological_order(y) if n.label and not n.is_leaf}
    block, inner = "transformerblock", "transformerblock/multiheadattention"
    expected = {(f"{inner}/{name}", name) for name in ("q", "k", "v")}
    expected |= {(inner, "scores"), (inner, "weights")}
    expected |= {(f"{block}/linear1", "z"), (block, "a"), (f"{block}/norm1", "x_hat")}
    assert expected <= named
    labels = [p.label for p in nn.TransformerBlock(E, H, rng=0).parameters()]
    assert len(set(labels)) == len(labels)
    assert {"W_q", "b_o", "W1", "b2", "norm1.g"} <= set(labels)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: nn.MultiHeadAttention(6, 4, rng=0), "heads: expected a divisor of 6, got 4"),
        (lambda x: nn.MultiHeadAttention(6, 0, rng=0), "heads: expected a divisor of 6, got 0"),
        (lambda x: nn.MultiHeadAttention(4, 2, rng=0)(x), "MultiHeadAttention query: expected"),
        (lambda x: nn.MultiHeadAttention(6, 2, rng=0)(x, x[:, :1]), "expected key of shape"),
        (
            lambda x: nn.MultiHeadAttention(6, 2, rng=0)(x, x, x[:2]),
            "each of the 5 keys, got 2",
        ),
        (lambda x: nn.MultiHeadAttention(6, 2, rng=0)(x, x[:2], causal=True), "causal: expected"),
        (lambda x: nn.MultiHeadAttention(6, 2, rng=0)(x, lengths=[1]), "lengths: expected one per"),
        (lambda x: nn.MultiHeadAttention(6, 2, rng=0)(x[:, 0], lengths=[1]), "lengths: they need"),
        (lambda x: nn.TransformerBlock(6, 2, rng=0)(x, lengths=[9, 1, 1]), r"expected 1 \.\.\. 5"),
        (lambda x: nn.attention_weights(x, x[..., :2]), r"expected q \(\.\.\., T, d\) and k"),
        (
            lambda x: nn.attention_weights(x, x, np.ones((9, 9), bool)),
            "mask: expected a shape that",
        ),
        (lambda x: nn.attention_weights(x, x, np.eye(3) > 2.0), "a query that may read nothing"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(tb.Tensor(np.ones((T, B, E))))


def test_a_mask_of_numbers_is_refused():
    """PyTorch adds such a mask to the scores: 1.0 would mean nearly nothing there."""
    x = tb.Tensor(np.ones((3, 2)))
    message = "mask: expected True where something may be read, got float64"
    with pytest.raises(TypeError, match=message):
        nn.attention_weights(x, x, np.ones((3, 3)))
    x = tb.Tensor(np.ones((3, 1, E)))
    for module in (nn.MultiHeadAttention(E, H, rng=0), nn.TransformerBlock(E, H, rng=0)):
        with pytest.raises(TypeError, match=message):
            module(x, mask=np.zeros((3, 3)), lengths=[2])


def test_values_must_be_as_many_as_keys():
    q, k, v = (tb.Tensor(np.ones(shape)) for shape in [(2, 3), (4, 3), (5, 3)])
    with pytest.raises(ValueError, match=r"S, d\) and v \(..., S, n\), got \(4, 3\) and \(5, 3\)"):
        nn.scaled_dot_product_attention(q, k, v)


@pytest.mark.parametrize("kind", [np.array, list, tuple])
def test_a_mask_may_be_a_list_or_a_tuple(kind):
    x = tb.Tensor(np.ones((2, 3)))
    weights = nn.attention_weights(x, x, mask=kind([kind([True, False]), kind([True, True])]))
    np.testing.assert_array_equal(weights.data, [[1.0, 0.0], [0.5, 0.5]])
