"""RNN, unroll and CharRNN against PyTorch, and truncation by detach."""

import numpy as np
import pytest

import tinygrad_bp as tb
from tinygrad_bp import nn

RNG = np.random.default_rng


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="PyTorch is the oracle")


def make(activation="tanh", inputs=3, hidden=4):
    cell = nn.RNNCell(inputs, hidden, rng=0, activation=activation)
    cell.b.data = RNG(1).normal(size=hidden)
    return cell


def twin(torch, cell, activation="tanh"):
    """PyTorch's cell: columns for rows, and two biases, the second of which is zero here."""
    inputs, hidden = cell.U.shape
    other = torch.nn.RNNCell(inputs, hidden, nonlinearity=activation, dtype=torch.float64)
    with torch.no_grad():
        other.weight_ih.copy_(torch.tensor(cell.U.data.T))
        other.weight_hh.copy_(torch.tensor(cell.W.data.T))
        other.bias_ih.copy_(torch.tensor(cell.b.data))
        other.bias_hh.zero_()
    return other


def close(ours, torchs):
    np.testing.assert_allclose(ours, torchs.detach().numpy(), rtol=1e-10, atol=1e-14)


def same_gradients(cell, other):
    close(cell.U.grad, other.weight_ih.grad.T)
    close(cell.W.grad, other.weight_hh.grad.T)
    close(cell.b.grad, other.bias_ih.grad)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize(("tau", "batch"), [(1, 1), (4, 1), (6, 5)])
def test_unrolled_cell_equals_torch(torch, activation, tau, batch):
    cell = make(activation)
    other = twin(torch, cell, activation)
    xs, g = RNG(2).normal(size=(tau, batch, 3)), RNG(3).normal(size=(tau, batch, 4))
    h0 = RNG(4).normal(size=(batch, 4))
    start, start_there = tb.Tensor(h0), torch.tensor(h0, requires_grad=True)
    states = nn.unroll(cell, xs, start)
    h, there = start_there, []
    for x in torch.tensor(xs):
        h = other(x, h)
        there.append(h)
    tb.sum(tb.stack(states) * g).backward()
    (torch.stack(there) * torch.tensor(g)).sum().backward()
    for ours, theirs in zip(states, there, strict=True):
        close(ours.data, theirs)
    same_gradients(cell, other)
    close(start.grad, start_there.grad)


@pytest.mark.parametrize(("tau", "every"), [(6, 2), (7, 3), (4, 1)])
def test_detach_truncates_as_in_torch(torch, tau, every):
    cell = make()
    other = twin(torch, cell)
    xs = RNG(2).normal(size=(tau, 2, 3))
    h, there = cell.initial_state(2), torch.zeros(2, 4, dtype=torch.float64)
    for first in range(0, tau, every):
        block = nn.unroll(cell, xs[first : first + every], h, start=first + 1)
        tb.sum(tb.square(tb.stack(block))).backward()
        h = block[-1].detach()
        loss = 0.0
        for x in torch.tensor(xs[first : first + every]):
            there = other(x, there)
            loss = loss + (there * there).sum()
        loss.backward()
        there = there.detach()
    close(h.data, there)
    same_gradients(cell, other)


def test_detach_cuts_the_gradient_and_nothing_else():
    cell, xs = make(), RNG(2).normal(size=(4, 1, 3))
    whole = nn.unroll(cell, xs, cell.initial_state(1))
    first = nn.unroll(cell, xs[:2], cell.initial_state(1))
    second = nn.unroll(cell, xs[2:], first[-1].detach(), start=3)
    np.testing.assert_array_equal(second[-1].data, whole[-1].data)
    second[-1].sum().backward()
    assert first[-1].grad is None
    nodes = {node.label for node in tb.topological_order(second[-1])}
    assert {"h(3)", "h(4)"} <= nodes
    assert not {"h(1)", "h(2)"} & nodes


@pytest.mark.parametrize("batch", [(), (1,), (2, 3)])
def test_initial_state_is_zeros_and_constant(batch):
    cell = make()
    h = cell.initial_state(*batch)
    np.testing.assert_array_equal(np.asarray(h), np.zeros((*batch, 4)))
    assert not getattr(h, "requires_grad", False)
    assert cell(np.ones((*batch, 3)), h).shape == (*batch, 4)
    view = cell.scalar_view()
    assert view(np.ones((*batch, 3)), view.initial_state(*batch)).shape == (*batch, 4)


def test_float32_stays_float32():
    model = nn.CharRNN(3, 4, rng=0, dtype=np.float32)
    logits, h = model(np.eye(3, dtype=np.float32)[:, None], model.cell.initial_state(1))
    loss = nn.cross_entropy(logits[-1], [0])
    loss.backward()
    assert {h.dtype, logits[0].dtype, loss.dtype} == {np.dtype(np.float32)}
    assert {p.grad.dtype for p in model.parameters()} == {np.dtype(np.float32)}


@pytest.mark.parametrize("start", [1, 5])
def test_states_are_named_and_stand_in_the_scope_of_their_step(start):
    cell = make()
    states = nn.unroll(cell, np.ones((3, 1, 3)), cell.initial_state(1), start=start, name="s")
    steps = range(start, start + 3)
    assert [s.label for s in states] == [f"s({t})" for t in steps]
    assert [s.scope.path for s in states] == [f"step({t})/rnncell" for t in steps]
    assert [s.scope.outer.index for s in states] == list(steps)
    assert [s.x.label for s in states] == ["z"] * 3
    view = cell.scalar_view()
    states = nn.unroll(view, np.ones((1, 1, 3)), view.initial_state(1), start=start)
    assert states[0][0, 2].label == f"h({start})[0, 2]"


def test_the_parameters_stand_in_the_graph_once():
    cell = make()
    h = nn.unroll(cell, np.ones((5, 1, 3)), cell.initial_state(1))[-1]
    leaves = [node for node in tb.topological_order(h) if node.is_leaf]
    assert sorted(leaf.label for leaf in leaves) == ["U", "W", "b"]


@pytest.mark.parametrize("kind", [np.asarray, list, tb.Tensor])
def test_a_sequence_may_be_of_any_kind(kind):
    cell, xs = make(), RNG(2).normal(size=(3, 2, 3))
    states = nn.unroll(cell, kind(xs), cell.initial_state(2))
    expected = nn.unroll(cell, xs, cell.initial_state(2))
    np.testing.assert_array_equal(states[-1].data, expected[-1].data)


def test_any_function_is_a_cell():
    w = tb.Value(0.5)
    states = nn.unroll(lambda x, h: w * h + x, [1.0, 2.0, 3.0], tb.Value(0.0))
    assert [s.data for s in states] == [1.0, 2.5, 4.25]
    states[-1].backward()
    assert w.grad == 2.5 + 0.5 * 1.0  # h(2) + w h(1)


def test_unroll_refuses_an_empty_sequence():
    with pytest.raises(ValueError, match="xs: expected at least one time step"):
        nn.unroll(make(), np.ones((0, 1, 3)), np.zeros((1, 4)))


@pytest.mark.parametrize(
    ("x", "h", "message"),
    [
        ((1, 2), (1, 4), r"RNNCell input: expected \(\.\.\., 3\) features"),
        ((1, 3), (1, 3), r"RNNCell state: expected \(\.\.\., 4\) features"),
        ((), (1, 4), "RNNCell input"),
    ],
)
def test_rnn_refuses_other_numbers_of_features(x, h, message):
    with pytest.raises(ValueError, match=message):
        make()(np.ones(x), np.ones(h))


@pytest.mark.parametrize("sizes", [(0, 4), (3, 0), (3, 1.5)])
def test_rnn_refuses_sizes(sizes):
    with pytest.raises(ValueError, match="expected a positive integer"):
        nn.RNNCell(*sizes, rng=0)


# --- LSTM and GRU -------------------------------------------------------------------------------


def filled(module, seed=5):
    """The module, with random numbers in every parameter: biases too."""
    rng = RNG(seed)
    for p in module.parameters():
        p.data = rng.normal(size=p.shape) / 2.0
    return module


def gated_twin(torch, cell):
    """PyTorch's LSTMCell or GRUCell with the same weights."""
    inputs, hidden = cell.U.shape[0], cell.W.shape[0]
    kind = torch.nn.LSTMCell if isinstance(cell, nn.LSTMCell) else torch.nn.GRUCell
    other = kind(inputs, hidden, dtype=torch.float64)
    with torch.no_grad():
        other.weight_ih.copy_(torch.tensor(cell.U.data.T))
        other.weight_hh.copy_(torch.tensor(cell.W.data.T))
        other.bias_ih.copy_(torch.tensor(cell.b.data))
        other.bias_hh.zero_()
        if isinstance(cell, nn.GRUCell):
            other.bias_hh[2 * hidden :] = torch.tensor(cell.d.data)
    return other


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell])
@pytest.mark.parametrize(("tau", "batch"), [(1, 1), (5, 3)])
def test_gated_cells_equal_torch(torch, kind, tau, batch):
    cell = filled(kind(3, 4, rng=0))
    other = gated_twin(torch, cell)
    rng = RNG(2)
    parts = 2 if kind is nn.LSTMCell else 1
    xs, g = rng.normal(size=(tau, batch, 3)), rng.normal(size=(tau, parts, batch, 4))
    starts = [tb.Tensor(x) for x in rng.normal(size=(parts, batch, 4))]
    starts_there = [torch.tensor(x.data, requires_grad=True) for x in starts]
    states = nn.unroll(cell, xs, tuple(starts) if parts == 2 else starts[0])
    state, loss, there = tuple(starts_there) if parts == 2 else starts_there[0], 0.0, 0.0
    for t in range(tau):
        state = other(torch.tensor(xs[t]), state)
        pairs = zip(
            states[t] if parts == 2 else [states[t]],
            state if parts == 2 else [state],
            g[t],
            strict=True,
        )
        for ours, theirs, weights in pairs:
            close(ours.data, theirs)
            loss = loss + tb.sum(ours * weights)
            there = there + (theirs * torch.tensor(weights)).sum()
    loss.backward()
    there.backward()
    close(cell.U.grad, other.weight_ih.grad.T)
    close(cell.W.grad, other.weight_hh.grad.T)
    close(cell.b.grad, other.bias_ih.grad)
    if kind is nn.GRUCell:
        close(cell.d.grad, other.bias_hh.grad[8:])
    for ours, theirs in zip(starts, starts_there, strict=True):
        close(ours.grad, theirs.grad)


CELLS = [nn.RNNCell, nn.LSTMCell, nn.GRUCell]


@pytest.mark.parametrize("kind", CELLS)
def test_cells_in_the_scalar_view_have_the_same_gradients(kind):
    cell = filled(kind(2, 2, rng=0))
    view = cell.scalar_view()
    for twin in (cell, view):
        last = nn.unroll(twin, RNG(1).normal(size=(3, 2, 2)), twin.initial_state(2))[-1]
        h = last[0] if kind is nn.LSTMCell else last
        (h * np.array([[1.0, 2.0], [-3.0, 4.0]])).sum().backward()
    for p, q in zip(cell.parameters(), view.parameters(), strict=True):
        np.testing.assert_allclose(q.grad, p.grad, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("kind", CELLS)
def test_gradients_of_cells_pass_the_check(kind):
    cell = filled(kind(2, 3, rng=0))
    names = [name for name, _ in cell.named_parameters()]
    xs = RNG(1).normal(size=(3, 2, 2))

    def loss(*parameters):
        twin = kind(2, 3, rng=0)
        vars(twin).update(zip(names, parameters, strict=True))
        last = nn.unroll(twin, xs, twin.initial_state(2))[-1]
        return tb.sum(tb.square(last[0] + last[1] if kind is nn.LSTMCell else last))

    assert tb.check_gradients(loss, cell.parameters(), method="complex step")


def test_lstm_names_its_gates():
    cell = nn.LSTMCell(2, 3, rng=0)
    states = nn.unroll(cell, np.ones((2, 1, 2)), cell.initial_state(1))
    assert [[part.label for part in state] for state in states] == [
        ["h(1)", "c(1)"],
        ["h(2)", "c(2)"],
    ]
    labels = {
        node.label
        for node in tb.topological_order(states[-1][0])
        if node.scope.path.startswith("step(2)")
    }
    assert {"z", "i", "f", "g", "o", "h(2)", "c(2)", "z_i", "z_f", "z_g", "z_o"} <= labels


def test_the_gradient_of_an_lstm_is_the_textbooks():
    """Every delta of one step by hand, from the gates, under the names of the derivation."""
    cell = filled(nn.LSTMCell(2, 3, rng=0))
    x, h0, c0, gh, gc = (RNG(i).normal(size=n) for i, n in enumerate([2, 3, 3, 3, 3]))
    h, c = cell(x, (tb.Tensor(h0), tb.Tensor(c0)))
    (tb.sum(h * gh) + tb.sum(c * gc)).backward()
    node = {n.label: n for n in tb.topological_order(h)}
    i, f, g, o = (node[name].data for name in "ifgo")
    tanh_c = np.tanh(c.data)
    delta_c = gc + gh * o * (1.0 - tanh_c**2)
    deltas = {
        "z_i": delta_c * g * i * (1.0 - i),
        "z_f": delta_c * c0 * f * (1.0 - f),
        "z_g": delta_c * i * (1.0 - g**2),
        "z_o": gh * tanh_c * o * (1.0 - o),
    }
    for name, delta in deltas.items():
        np.testing.assert_allclose(node[name].grad, delta, rtol=1e-12)
    delta = np.concatenate(list(deltas.values()))
    np.testing.assert_allclose(node["z"].grad, delta, rtol=1e-12)
    np.testing.assert_allclose(cell.U.grad, np.outer(x, delta), rtol=1e-12)
    np.testing.assert_allclose(cell.W.grad, np.outer(h0, delta), rtol=1e-12)
    np.testing.assert_allclose(cell.b.grad, delta, rtol=1e-12)


def test_gru_names_its_gates():
    cell = nn.GRUCell(2, 3, rng=0)
    h = nn.unroll(cell, np.ones((1, 1, 2)), cell.initial_state(1))[-1]
    assert {"p", "q", "r", "z", "n", "h(1)", "s_r", "s_z", "s_n"} <= {
        node.label for node in tb.topological_order(h)
    }


def test_lstm_remembers_at_first():
    b = nn.LSTMCell(2, 3, rng=0, forget_bias=2.0).b.data
    np.testing.assert_array_equal(b, [0.0] * 3 + [2.0] * 3 + [0.0] * 6)


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell])
def test_each_gate_starts_as_if_it_stood_alone(kind):
    cell = kind(2, 4, rng=0, recurrent=nn.init.orthogonal)
    for W in np.split(cell.W.data, len(cell.gates), 1):
        np.testing.assert_allclose(W.T @ W, np.eye(4), atol=1e-14)


@pytest.mark.parametrize("kind", CELLS)
def test_cells_of_float32_stay_float32(kind):
    cell = kind(2, 3, rng=0, dtype=np.float32)
    last = nn.unroll(cell, np.ones((2, 1, 2), np.float32), cell.initial_state(1))[-1]
    h = last[0] if kind is nn.LSTMCell else last
    h.sum().backward()
    assert {h.dtype, *(p.grad.dtype for p in cell.parameters())} == {np.dtype(np.float32)}


@pytest.mark.parametrize("kind", CELLS)
def test_unroll_in_reverse_lists_the_states_by_time(kind):
    cell = filled(kind(2, 3, rng=0))
    xs = RNG(1).normal(size=(4, 2, 2))
    states = nn.unroll(cell, xs, cell.initial_state(2), reverse=True)
    mirrored = nn.unroll(cell, xs[::-1], cell.initial_state(2))[::-1]
    for t, (one, other) in enumerate(zip(states, mirrored, strict=True), 1):
        if kind is not nn.LSTMCell:
            one, other = (one,), (other,)
        assert one[0].label == f"h({t})"
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a.data, b.data)


def test_lstm_refuses_what_is_not_its_state():
    cell = nn.LSTMCell(2, 3, rng=0)
    with pytest.raises(TypeError, match=r"LSTMCell: expected the states \(h, c\), got ndarray"):
        cell(np.ones((1, 2)), np.zeros((1, 3)))
    with pytest.raises(ValueError, match=r"h has shape \(1, 3\), c \(2, 3\)"):
        cell(np.ones((1, 2)), (np.zeros((1, 3)), np.zeros((2, 3))))


def test_unroll_refuses_another_number_of_names():
    cell = nn.LSTMCell(2, 3, rng=0)
    with pytest.raises(ValueError, match="name: expected 2, one per part"):
        nn.unroll(cell, np.ones((1, 1, 2)), cell.initial_state(1), name="s")


# --- CharRNN -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tau", "batch"), [(1, 1), (5, 3)])
def test_char_rnn_equals_torch(torch, tau, batch):
    model = nn.CharRNN(3, 4, rng=0)
    model.c.data = RNG(1).normal(size=3)
    other = twin(torch, model.cell)
    V, c = (torch.tensor(p.data, requires_grad=True) for p in (model.V, model.c))
    symbols = RNG(2).integers(0, 3, size=(tau + 1, batch))
    xs = np.eye(3)[symbols[:-1]]
    logits, last = model(xs, model.cell.initial_state(batch))
    loss, there = 0.0, 0.0
    h = torch.zeros(batch, 4, dtype=torch.float64)
    for t, o in enumerate(logits):
        loss = loss + nn.cross_entropy(o, symbols[t + 1])
        h = other(torch.tensor(xs[t]), h)
        o_there = h @ V + c
        close(o.data, o_there)
        there = there + torch.nn.functional.cross_entropy(o_there, torch.tensor(symbols[t + 1]))
    loss.backward()
    there.backward()
    close(loss.data, there)
    close(last.data, h)
    same_gradients(model.cell, other)
    close(model.V.grad, V.grad)
    close(model.c.grad, c.grad)


def test_char_rnn_names_its_parameters_and_logits():
    model = nn.CharRNN(3, 4, rng=0)
    names = [name for name, _ in model.named_parameters()]
    assert names == ["cell.U", "cell.W", "cell.b", "V", "c"]
    logits, last = model(np.eye(3)[:, None], model.cell.initial_state(1))
    assert [o.label for o in logits] == ["o(1)", "o(2)", "o(3)"]
    assert last.label == "h(3)"
    assert last.scope.path == "charrnn/step(3)/rnncell"


@pytest.mark.parametrize("kind", CELLS)
def test_char_rnn_on_any_cell(kind):
    model = nn.CharRNN(3, 4, rng=0, cell=kind)
    xs = np.eye(3)[:, None]
    logits, last = model(xs, model.cell.initial_state(1))
    states = nn.unroll(model.cell, xs, model.cell.initial_state(1))
    for o, state in zip(logits, states, strict=True):
        h = state[0] if kind is nn.LSTMCell else state
        np.testing.assert_array_equal(o.data, h.data @ model.V.data + model.c.data)
    assert type(last) is type(states[-1])


def test_char_rnns_logits_stand_in_the_scope_of_their_step():
    model = nn.CharRNN(3, 4, rng=0)
    logits, _ = model(np.eye(3)[:, None], model.cell.initial_state(1))
    assert [o.scope.index for o in logits] == [1, 2, 3]


@pytest.mark.parametrize(
    ("x", "h"), [((4, 2), (3,)), ((4, 2), (1, 3)), ((2,), (4, 3)), ((5, 2), (4, 3))]
)
def test_an_input_and_a_state_of_different_batches_are_refused(x, h):
    cell = nn.RNNCell(2, 3, rng=0)
    with pytest.raises(ValueError, match="batch shape"):
        cell(np.ones(x), np.zeros(h))
