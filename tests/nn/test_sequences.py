"""RNN, LSTM and GRU against PyTorch: stacked, in both directions, and of unequal lengths."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import tinygrad_bp as tb
from tinygrad_bp import nn

RNG = np.random.default_rng
KINDS = ["RNN", "LSTM", "GRU"]


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="PyTorch is the oracle")


def make(kind, layers=1, bidirectional=False, **options):
    """A layer of 3 inputs and 4 features of state, with random numbers in every parameter."""
    layer = getattr(nn, kind)(3, 4, rng=0, layers=layers, bidirectional=bidirectional, **options)
    rng = RNG(1)
    for p in layer.parameters():
        p.data = rng.normal(size=p.shape) / 2.0
    return layer


def twin(torch, layer, **options):
    """PyTorch's layer with the same weights."""
    other = getattr(torch.nn, type(layer).__name__)(
        3,
        4,
        num_layers=len(layer.cells),
        bidirectional=bool(layer.reverse_cells),
        dtype=torch.float64,
        **options,
    )
    state = {name: torch.tensor(x) for name, x in nn.torch_state_dict(layer).items()}
    other.load_state_dict(state)
    return other


def close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-13)


def same_gradients(layer, other):
    """The gradients of two layers, in PyTorch's names and shapes."""
    there = {name: p.grad.numpy() for name, p in other.named_parameters()}
    for p in layer.parameters():
        p.data = p.grad
    for name, ours in nn.torch_state_dict(layer).items():
        if "bias_hh" not in name:  # ours is in the first
            close(ours, there[name])
        elif isinstance(layer, nn.GRU):
            close(ours[8:], there[name][8:])


def parts(state):
    return list(state) if isinstance(state, tuple) else [state]


def packed(state, kind):
    return tuple(state) if kind == "LSTM" else state[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("layers", "bidirectional"), [(1, False), (2, False), (3, False), (1, True), (2, True)]
)
@pytest.mark.parametrize("unequal", [False, True])
def test_equals_torch(torch, kind, layers, bidirectional, unequal):
    layer = make(kind, layers, bidirectional)
    other = twin(torch, layer)
    rng = RNG(2)
    directions = 1 + bidirectional
    lengths = [3, 5, 1, 5] if unequal else [5] * 4
    xs = rng.normal(size=(5, 4, 3))
    starts = rng.normal(size=(2 if kind == "LSTM" else 1, layers * directions, 4, 4))
    ours = [tb.Tensor(xs), *map(tb.Tensor, starts)]
    theirs = [torch.tensor(x.data, requires_grad=True) for x in ours]
    outputs, state = layer(ours[0], packed(ours[1:], kind), lengths if unequal else None)
    if unequal:
        sequence = torch.nn.utils.rnn.pack_padded_sequence(
            theirs[0], torch.tensor(lengths), enforce_sorted=False
        )
        outputs_there, state_there = other(sequence, packed(theirs[1:], kind))
        outputs_there, _ = torch.nn.utils.rnn.pad_packed_sequence(outputs_there)
    else:
        outputs_there, state_there = other(theirs[0], packed(theirs[1:], kind))
    loss = loss_there = 0.0
    pairs = zip([outputs, *parts(state)], [outputs_there, *parts(state_there)], strict=True)
    for a, b in pairs:
        close(a.data, b.detach().numpy())
        weights = rng.normal(size=a.shape)
        loss = loss + tb.sum(a * weights)
        loss_there = loss_there + (b * torch.tensor(weights)).sum()
    loss.backward()
    loss_there.backward()
    for a, b in zip(ours, theirs, strict=True):
        close(a.grad, b.grad.numpy())
    same_gradients(layer, other)


def test_an_rnn_of_rectifiers_equals_torch(torch):
    layer = make("RNN", 2, activation="relu")
    other = twin(torch, layer, nonlinearity="relu")
    xs = RNG(2).normal(size=(5, 4, 3))
    close(layer(xs)[0].data, other(torch.tensor(xs))[0].detach().numpy())


def test_options_reach_the_cells():
    assert all(cell.activation is tb.sigmoid for cell in make("RNN", 2, activation="sigmoid").cells)
    lstm = nn.LSTM(3, 4, rng=0, layers=2, forget_bias=5.0, recurrent=nn.init.zeros)
    for cell in lstm.cells:
        np.testing.assert_array_equal(cell.b.data[4:8], 5.0)
        assert not cell.W.data.any()


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 9, 10, 17])
def test_a_tracked_sequence_of_any_length_gets_its_gradient(steps):
    layer = make("GRU")
    x, g = RNG(0).normal(size=(steps, 2, 3)), RNG(1).normal(size=(steps, 2, 4))
    whole, parts = tb.Tensor(x), [tb.Tensor(step) for step in x]
    for sequence in (whole, parts):
        tb.sum(layer(sequence)[0] * g).backward()
    np.testing.assert_array_equal(whole.grad, [part.grad for part in parts])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_padding_never_contributes(kind, bidirectional):
    """Each sequence on its own, without any padding, is the oracle."""
    layer = make(kind, 2, bidirectional, learn_initial_state=True)
    sequences = [RNG(i).normal(size=(length, 3)) for i, length in enumerate([2, 4, 1])]
    xs, lengths = nn.pad_sequences(sequences, np.nan)
    leaf = tb.Tensor(xs)
    outputs, state = layer(leaf, lengths=lengths)
    tb.sum(tb.square(outputs)).backward()
    gradients = [p.grad for p in layer.parameters()]
    layer.zero_grad()
    for i, sequence in enumerate(sequences):
        alone = tb.Tensor(sequence)
        outputs_alone, state_alone = layer(alone)
        tb.sum(tb.square(outputs_alone)).backward()
        close(outputs.data[: lengths[i], i], outputs_alone.data)
        assert not outputs.data[lengths[i] :, i].any()
        for a, b in zip(parts(state), parts(state_alone), strict=True):
            close(a.data[:, i], b.data)
        close(leaf.grad[: lengths[i], i], alone.grad)
        assert not leaf.grad[lengths[i] :, i].any()
    for g, p in zip(gradients, layer.parameters(), strict=True):
        close(g, p.grad)


@given(
    kind=st.sampled_from(KINDS),
    bidirectional=st.booleans(),
    layers=st.integers(1, 2),
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    more=st.integers(0, 2),
)
@settings(max_examples=30, deadline=None)
def test_sequences_of_any_lengths_are_each_as_if_alone(kind, bidirectional, layers, lengths, more):
    layer = make(kind, layers, bidirectional, outputs="last")
    sequences = [RNG(i).normal(size=(length, 3)) for i, length in enumerate(lengths)]
    xs, _ = nn.pad_sequences(sequences, np.nan)
    xs = np.concatenate([xs, np.full((more, len(lengths), 3), np.inf)])
    outputs, _ = layer(xs, lengths=lengths)
    weights = RNG(7).normal(size=outputs.shape)
    tb.sum(outputs * weights).backward()
    together = [p.grad for p in layer.parameters()]
    layer.zero_grad()
    for sequence, row, weight in zip(sequences, outputs.data, weights, strict=True):
        alone, _ = layer(sequence)
        close(row, alone.data)
        tb.sum(alone * weight).backward()
    for g, p in zip(together, layer.parameters(), strict=True):
        close(g, p.grad)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_of_constant_data_never_contributes(kind):
    layer = make(kind)
    xs, lengths = nn.pad_sequences([np.ones((2, 3)), np.ones((4, 3))], np.nan)
    outputs, _ = layer(xs, lengths=lengths)
    outputs.sum().backward()
    assert all(np.isfinite(p.grad).all() for p in layer.parameters())
    assert np.isfinite(outputs.data).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_last_outputs_are_the_last_states_of_the_top_layer(kind, bidirectional):
    layer = make(kind, 2, bidirectional, outputs="last")
    xs, lengths = RNG(1).normal(size=(5, 3, 3)), [5, 2, 3]
    last, state = layer(xs, lengths=lengths)
    h = parts(state)[0]
    expected = np.concatenate(list(h.data[-2:] if bidirectional else h.data[-1:]), -1)
    np.testing.assert_array_equal(last.data, expected)
    layer.outputs = "all"
    outputs = layer(xs, lengths=lengths)[0].data
    np.testing.assert_array_equal(
        last.data[:, :4], outputs[np.array(lengths) - 1, np.arange(3), :4]
    )
    if bidirectional:
        np.testing.assert_array_equal(last.data[:, 4:], outputs[0, :, 4:])


@pytest.mark.parametrize("kind", KINDS)
def test_a_sequence_without_batch(kind):
    layer = make(kind, 2, True)
    xs = RNG(1).normal(size=(5, 3))
    outputs, state = layer(xs)
    batched, batched_state = layer(xs[:, None])
    close(outputs.data, batched.data[:, 0])
    for a, b in zip(parts(state), parts(batched_state), strict=True):
        close(a.data, b.data[:, 0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_in_pieces_is_the_stream(kind):
    layer = make(kind, 2)
    xs = RNG(1).normal(size=(6, 2, 3))
    whole, _ = layer(xs)
    first, state = layer(xs[:2])
    second, _ = layer(list(xs[2:]), state)
    close(np.concatenate([first.data, second.data]), whole.data)


@pytest.mark.parametrize("kind", KINDS)
def test_a_learned_initial_state_is_one_that_is_given_to_every_sequence(kind):
    layer = make(kind, 2, True, learn_initial_state=True)
    names = [name for name, _ in layer.named_parameters() if "." not in name]
    assert names == (["h0", "c0"] if kind == "LSTM" else ["h0"])
    assert layer.h0.shape == (4, 4)
    xs = RNG(1).normal(size=(3, 2, 3))
    outputs, _ = layer(xs)
    given = [tb.Tensor(np.repeat(getattr(layer, n).data[:, None], 2, 1)) for n in names]
    same, _ = layer(xs, packed(given, kind))
    np.testing.assert_array_equal(outputs.data, same.data)
    tb.sum(tb.square(outputs)).backward()
    tb.sum(tb.square(same)).backward()
    for name, leaf in zip(names, given, strict=True):
        close(getattr(layer, name).grad, leaf.grad.sum(1))


@pytest.mark.parametrize("kind", KINDS)
def test_the_scalar_view_has_the_same_gradients(kind):
    layer = getattr(nn, kind)(2, 2, rng=0, layers=2, bidirectional=True, learn_initial_state=True)
    view = layer.scalar_view()
    xs, lengths = nn.pad_sequences([np.ones((2, 2)), np.full((1, 2), -0.5)], np.nan)
    for network in (layer, view):
        outputs, _ = network(xs, lengths=lengths)
        (outputs * np.arange(16.0).reshape(2, 2, 4)).sum().backward()
    for p, q in zip(layer.parameters(), view.parameters(), strict=True):
        np.testing.assert_allclose(q.grad, p.grad, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_pass_the_check(kind):
    layer = make(kind, 2, True)

    def loss(xs):
        outputs, state = layer(xs, lengths=[3, 2])
        return tb.sum(tb.square(outputs)) + tb.sum(parts(state)[-1])

    xs = tb.Tensor(RNG(3).normal(size=(3, 2, 3)))
    assert tb.check_gradients(loss, [xs], method="complex step")


@pytest.mark.parametrize("kind", KINDS)
def test_second_derivatives(kind):
    """Hessian times vector, against differences of gradients."""
    layer = make(kind, 1, True)
    xs, v = RNG(3).normal(size=(2, 3, 2, 3))
    f = lambda xs: tb.sum(tb.square(layer(xs, lengths=[3, 1])[0]))  # noqa: E731
    gradient, step = tb.grad(f), 1e-6
    expected = (gradient(xs + step * v) - gradient(xs - step * v)) / (2 * step)
    np.testing.assert_allclose(tb.hvp(f, xs, v), expected, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_compiled_layers_have_the_same_gradients(kind):
    layer = make(kind, 2, True)

    def loss(layer, xs):
        return tb.sum(tb.square(layer(xs, lengths=[4, 2])[0]))

    xs = RNG(1).normal(size=(4, 2, 3))
    value, gradient = tb.compile(loss).value_and_grad(layer, xs)
    expected = loss(layer, xs)
    expected.backward()
    close(value, expected.data)
    for name, p in layer.named_parameters():
        close(gradient[name], p.grad)


@pytest.mark.parametrize("kind", KINDS)
def test_float32_stays_float32(kind):
    layer = getattr(nn, kind)(
        3, 4, rng=0, layers=2, bidirectional=True, dropout=0.5, dtype=np.float32
    )
    outputs, state = layer(np.ones((3, 2, 3), np.float32), lengths=[3, 1])
    outputs.sum().backward()
    kinds = {outputs.dtype, *(s.dtype for s in parts(state))}
    assert kinds | {p.grad.dtype for p in layer.parameters()} == {np.dtype(np.float32)}


def test_states_are_named_and_stand_in_the_scope_of_their_layer():
    layer = make("LSTM", 2, True)
    outputs, _ = layer(np.ones((3, 2, 3)))
    named = {(n.scope.path, n.label) for n in tb.topological_order(outputs) if not n.is_leaf}
    for place in ("layer1", "layer2", "reverse1", "reverse2"):
        for t in (1, 2, 3):
            cell = f"lstm/{place}/step({t})/lstmcell"
            assert {(cell, f"h({t})"), (cell, f"c({t})"), (cell, "i")} <= named
    labels = [p.label for p in layer.parameters()]
    assert labels == ["U1", "W1", "b1", "U2", "W2", "b2"] + [
        f"{name}_reverse" for name in ["U1", "W1", "b1", "U2", "W2", "b2"]
    ]


def test_dropout_is_between_layers_and_in_training_only():
    """Half of the lower states gone and the others doubled: the upper layer's inputs."""
    layer = make("RNN", 2, dropout=0.5)
    xs = RNG(1).normal(size=(3, 50, 3))
    dropped, _ = layer(xs)
    plain, _ = layer.eval()(xs)
    assert np.abs(dropped.data - plain.data).max() > 0.01
    single = make("RNN", 1, dropout=0.5)
    np.testing.assert_array_equal(single(xs)[0].data, single.eval()(xs)[0].data)
    lower = nn.unroll(layer.cells[0], xs, np.zeros((50, 4)))
    upper = nn.unroll(layer.cells[1], lower, np.zeros((50, 4)))
    np.testing.assert_array_equal(plain.data[-1], upper[-1].data)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.ones((4, 2, 2)),), r"RNNCell input: expected \(\.\.\., 3\) features"),
        ((np.ones(3),), r"xs: expected shape \(time, batch, features\) or \(time, features\)"),
        ((np.ones((0, 2, 3)),), "xs: expected at least one step"),
        ((np.ones((4, 0, 3)),), "xs: expected at least one step, sample and feature"),
        (([],), "xs: expected at least one step"),
        (([np.ones((4, 3)), np.ones((2, 3))],), "pad sequences of unequal length by"),
        ((np.ones((4, 2, 3)), np.ones((1, 3, 4))), r"state: expected h of shape \(1, 2, 4\)"),
        ((np.ones((4, 2, 3)), None, [4]), "lengths: expected one per sequence"),
        ((np.ones((4, 2, 3)), None, [4, 0]), r"lengths: expected 1 \.\.\. 4, got 0"),
        ((np.ones((4, 2, 3)), None, [4, 5]), r"lengths: expected 1 \.\.\. 4, got 4 \.\.\. 5"),
        ((np.ones((4, 3)), None, [4]), "lengths: expected one per sequence"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        make("RNN")(*arguments)


def test_bad_kinds_are_named():
    xs = np.ones((4, 2, 3))
    with pytest.raises(TypeError, match="lengths: expected integers"):
        make("RNN")(xs, lengths=[4.0, 2.0])
    with pytest.raises(TypeError, match=r"state: expected \(h, c\), got ndarray"):
        make("LSTM")(xs, np.zeros((1, 2, 4)))
    with pytest.raises(TypeError, match="state: h: expected a Tensor or an array, got float"):
        make("GRU")(xs, 0.0)


@pytest.mark.parametrize(
    "options", [{"layers": 0}, {"layers": 1.5}, {"outputs": "first"}, {"dropout": 1.0}]
)
def test_bad_options_are_named(options):
    with pytest.raises(ValueError, match=next(iter(options)).replace("dropout", "p")):
        nn.LSTM(3, 4, rng=0, **options)


def test_pad_sequences():
    xs, lengths = nn.pad_sequences([[[1.0]], [[2.0], [3.0]]], -1.0)
    np.testing.assert_array_equal(xs, [[[1.0], [2.0]], [[-1.0], [3.0]]])
    np.testing.assert_array_equal(lengths, [1, 2])
    for bad in ([], [np.ones((0, 2))], [np.ones((2, 2)), np.ones((2, 3))]):
        with pytest.raises(ValueError, match="sequences:"):
            nn.pad_sequences(bad)


@pytest.mark.parametrize("kind", [list, tuple, np.array, lambda x: np.array(x, np.uint8)])
def test_padded_symbols_stay_integers(kind):
    """Numbers that are no integers would be taken for features."""
    xs, _ = nn.pad_sequences([kind([2, 0]), kind([1])], 2)
    np.testing.assert_array_equal(xs, [[2, 1], [0, 2]])
    rows = nn.Embedding(3, 3, rng=0)
    np.testing.assert_array_equal(rows(xs).data, rows.E.data[xs])
    for value in (0.5, np.nan, 2.0**70):
        with pytest.raises(ValueError, match=r"value: expected one of u?int"):
            nn.pad_sequences([kind([2, 0]), kind([1])], value)
