"""The equations of the curriculum, E1 to E26: the sweep against the formulas.

Every formula is written as a textbook has it, in plain numpy and in columns: `z = W a + b`, samples
side by side. The network has samples in rows, so its arrays are transposed where the two meet.
"""

from functools import partial
from itertools import pairwise

import numpy as np
import pytest

import tinygrad_bp as tb
from tinygrad_bp import nn, optim

# Both sides add the same few dozen terms, in another order: that moves the last two digits.
close = partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-14)


def sigmoid(z):
    return 1.0 / (1.0 + np.exp(-z))


def softmax(o):
    e = np.exp(o - o.max(0))
    return e / e.sum(0)


PHI = {
    "identity": (lambda z: z, np.ones_like),
    "sigmoid": (sigmoid, lambda z: sigmoid(z) * (1.0 - sigmoid(z))),
    "tanh": (np.tanh, lambda z: 1.0 - np.tanh(z) ** 2),
    "relu": (lambda z: z * (z > 0), lambda z: 1.0 * (z > 0)),
    "softplus": (lambda z: np.log(1.0 + np.exp(z)), sigmoid),
    "softmax": (softmax, None),
}


def labelled(root):
    """The labelled nodes that `root` was computed from, by label."""
    return {node.label: node for node in tb.topological_order(root) if node.label}


def columns(array):
    return np.asarray(array).T


# --- A. a deep network ---------------------------------------------------------------------------

NETWORKS = {
    "1-1": ([1, 1], ["sigmoid"]),
    "2-3": ([2, 3], ["tanh"]),
    "3-4-2": ([3, 4, 2], ["tanh", "identity"]),
    "3-5-4-2": ([3, 5, 4, 2], ["sigmoid", "tanh", "sigmoid"]),
    "4-6-5-4-3": ([4, 6, 5, 4, 3], ["relu", "softplus", "tanh", "identity"]),
}


class Hand:
    """A network as it stands in the derivation: W[n], b[n], z[n], a[n] from n = 1, and a[0] = x."""

    def __init__(self, model, names):
        self.W = [None] + [columns(layer.W.data) for layer in model.layers]
        self.b = [None] + [layer.b.data[:, None].copy() for layer in model.layers]
        self.L = len(names)
        self.phi = [None] + [PHI[name][0] for name in names]
        self.dphi = [None] + [PHI[name][1] for name in names]

    def forward(self, x):
        self.a, self.z = [x], [None]
        for W, b, phi in zip(self.W[1:], self.b[1:], self.phi[1:], strict=True):
            self.z.append(W @ self.a[-1] + b)
            self.a.append(phi(self.z[-1]))
        return self.a[-1]

    def deltas(self, last):
        """E3, from the delta of the last layer downwards."""
        delta = [None] * self.L + [last]
        for n in range(self.L - 1, 0, -1):
            delta[n] = (self.W[n + 1].T @ delta[n + 1]) * self.dphi[n](self.z[n])
        return delta

    def squared_error_deltas(self, y):
        """E1 and E2, then E3."""
        return self.deltas((self.a[self.L] - y) * self.dphi[self.L](self.z[self.L]))


def make(sizes, names, samples=1, seed=0):
    """A model with random biases too, its twin in columns, and data in columns."""
    rng = np.random.default_rng(seed)
    model = nn.MLP(sizes, names, rng=rng)
    for layer in model.layers:
        layer.b.data = rng.normal(size=layer.b.shape)
    x, y = rng.normal(size=(sizes[0], samples)), rng.uniform(size=(sizes[-1], samples))
    hand = Hand(model, names)
    hand.forward(x)
    return model, hand, x, y


@pytest.fixture(params=NETWORKS)
def network(request):
    return make(*NETWORKS[request.param])


def test_e01_squared_error(network):
    model, hand, x, y = network
    output = model(x.T)
    loss = nn.squared_error(output, y.T)
    loss.backward()
    close(loss.item(), 0.5 * np.linalg.norm(hand.a[-1] - y) ** 2)
    close(columns(output.grad), hand.a[-1] - y)


def test_e02_output_delta(network):
    model, hand, x, y = network
    loss = nn.squared_error(model(x.T), y.T)
    loss.backward()
    last = hand.L
    expected = (hand.a[last] - y) * hand.dphi[last](hand.z[last])
    close(columns(labelled(loss)[f"z{last}"].grad), expected)


def softmax_jacobian(a):
    return np.diag(a) - np.outer(a, a)


@pytest.mark.parametrize("sizes", [[3, 2], [4, 5, 3], [2, 3, 4, 5]])
def test_e02_output_delta_of_a_softmax_is_through_its_full_jacobian(sizes):
    names = ["tanh"] * (len(sizes) - 2) + ["softmax"]
    model, hand, x, y = make(sizes, names)
    J = softmax_jacobian(hand.a[-1][:, 0])
    output = model(x.T)
    for i, row in enumerate(J):
        output.backward(np.eye(sizes[-1])[i : i + 1])
        close(output.x.grad[0], row)
    loss = nn.squared_error(output, y.T)
    loss.backward()
    delta = hand.deltas(J.T @ (hand.a[-1] - y))
    for n in range(1, hand.L + 1):
        close(columns(labelled(loss)[f"z{n}"].grad), delta[n])


def test_e02_output_delta_of_a_softmax_fused_with_cross_entropy():
    model, hand, x, _ = make([4, 5, 3], ["tanh", "softmax"])
    y, a = np.array([[0.2], [0.7], [0.1]]), hand.a[-1]
    logits = model.layers[1](tb.tanh(model.layers[0](x.T)))
    nn.cross_entropy(logits, y.T).backward()
    (-(y.T * tb.log(model(x.T)))).sum().backward()  # not fused
    close(columns(logits.grad), softmax_jacobian(a[:, 0]).T @ (-y / a))
    close(columns(logits.grad), a - y)
    close(model.layers[1].b.grad[:, None], 2.0 * (a - y))  # the two ways, added up


def test_e03_recursion(network):
    model, hand, x, y = network
    loss = nn.squared_error(model(x.T), y.T)
    loss.backward()
    delta = hand.squared_error_deltas(y)
    for n in range(1, hand.L + 1):
        close(columns(labelled(loss)[f"z{n}"].grad), delta[n])


def test_e04_weights(network):
    model, hand, x, y = network
    nn.squared_error(model(x.T), y.T).backward()
    delta = hand.squared_error_deltas(y)
    for n, layer in enumerate(model.layers, 1):
        close(columns(layer.W.grad), delta[n] @ hand.a[n - 1].T)


def test_e04_weights_one_by_one(network):
    model, hand, x, y = network
    loss = nn.squared_error(model.scalar_view()(x.T), y.T)
    delta = hand.squared_error_deltas(y)
    uses = {}
    for step in tb.sweep(loss):
        for edge in step.edges:
            if edge.parent.label.startswith("W"):
                uses.setdefault(edge.parent.label, []).append(edge)
    assert len(uses) == sum(W.size for W in hand.W[1:])
    for n in range(1, hand.L + 1):
        for j, k in np.ndindex(hand.W[n].shape):
            (edge,) = uses[f"W{n}[{k}, {j}]"]  # rows in the code
            close(edge.local, hand.a[n - 1][k, 0])
            close(edge.contribution, delta[n][j, 0] * hand.a[n - 1][k, 0])


def test_e05_biases(network):
    model, hand, x, y = network
    nn.squared_error(model(x.T), y.T).backward()
    delta = hand.squared_error_deltas(y)
    for n, layer in enumerate(model.layers, 1):
        close(layer.b.grad[:, None], delta[n])


def test_e06_every_scalar_term(network):
    model, hand, x, y = network
    delta = hand.squared_error_deltas(y)
    terms, steps = {}, {}
    for step in tb.sweep(nn.squared_error(model.scalar_view()(x.T), y.T)):
        steps[step.node.label] = step
        for edge in step.edges:
            others = [operand for operand in step.node.operands if operand is not edge.parent]
            if others and getattr(others[0], "label", ""):
                terms[edge.parent.label, others[0].label] = edge
    for n in range(1, hand.L):
        W = hand.W[n + 1]
        for j in range(W.shape[1]):
            total = 0.0
            for k in range(W.shape[0]):
                edge = terms[f"a{n}[0, {j}]", f"W{n + 1}[{j}, {k}]"]
                close(edge.local, W[k, j])
                close(edge.contribution, delta[n + 1][k, 0] * W[k, j])
                total += delta[n + 1][k, 0] * W[k, j]
            (edge,) = steps[f"a{n}[0, {j}]"].edges
            close(steps[f"a{n}[0, {j}]"].gradient, total)
            close(edge.local, hand.dphi[n](hand.z[n])[j, 0])
            close(edge.contribution, delta[n][j, 0])
            close(steps[f"z{n}[0, {j}]"].gradient, delta[n][j, 0])


@pytest.mark.parametrize("samples", [1, 2, 7])
@pytest.mark.parametrize("name", NETWORKS)
def test_e07_mini_batch_is_the_mean_over_samples(name, samples):
    model, hand, x, y = make(*NETWORKS[name], samples)
    loss = nn.squared_error(model(x.T), y.T)
    loss.backward()
    delta = hand.squared_error_deltas(y)
    full = [[p.grad for p in layer.parameters()] for layer in model.layers]
    for n, (W_grad, b_grad) in enumerate(full, 1):
        shares = [np.outer(delta[n][:, i], hand.a[n - 1][:, i]) for i in range(samples)]
        close(columns(labelled(loss)[f"z{n}"].grad), delta[n] / samples)
        close(columns(W_grad), sum(shares) / samples)
        close(columns(W_grad), delta[n] @ hand.a[n - 1].T / samples)
        close(b_grad, delta[n].mean(1))
    model.zero_grad()
    for i in range(samples):
        nn.squared_error(model(x.T[i : i + 1]), y.T[i : i + 1]).backward()
    for layer, (W_grad, b_grad) in zip(model.layers, full, strict=True):
        close(layer.W.grad / samples, W_grad)
        close(layer.b.grad / samples, b_grad)


@pytest.mark.parametrize("size", [12, 1, 4], ids=["full", "stochastic", "mini-batch"])
def test_e08_gradient_descent_reduces_the_loss(size):
    eta, epochs, samples = 0.1, 40, 12
    model, hand, x, y = make([3, 5, 2], ["tanh", "sigmoid"], samples)
    sgd = optim.SGD(model.parameters(), lr=eta)
    rng = np.random.default_rng(1)
    losses = []
    for _ in range(epochs):
        losses.append(np.sum((hand.forward(x) - y) ** 2) / (2 * samples))
        order = rng.permutation(samples)
        for batch in (order[i : i + size] for i in range(0, samples, size)):
            sgd.zero_grad()
            nn.squared_error(model(x.T[batch]), y.T[batch]).backward()
            sgd.step()
            hand.forward(x[:, batch])
            delta = hand.squared_error_deltas(y[:, batch])
            for n in range(1, hand.L + 1):
                hand.W[n] -= eta * delta[n] @ hand.a[n - 1].T / size
                hand.b[n] -= eta * delta[n].mean(1, keepdims=True)
    close(
        nn.squared_error(model(x.T), y.T).item(), np.sum((hand.forward(x) - y) ** 2) / (2 * samples)
    )
    for n, layer in enumerate(model.layers, 1):
        close(columns(layer.W.data), hand.W[n])
        close(layer.b.data[:, None], hand.b[n])
    assert losses[-1] < 0.7 * losses[0]
    if size == samples:
        assert all(later < earlier for earlier, later in pairwise(losses))


# --- B. a logistic network -----------------------------------------------------------------------
# The article counts layers from the input: its z², a², z³ are the code's z1, a1, z2.


def logistic(samples, outputs, seed=0):
    return make([3, 4, outputs], ["sigmoid", "sigmoid"], samples, seed)


def logits_of(model, x):
    return model.layers[1](tb.sigmoid(model.layers[0](x)))


@pytest.mark.parametrize(("samples", "outputs"), [(1, 1), (5, 1), (1, 3), (6, 4)])
def test_e09_cost(samples, outputs):
    model, hand, x, y = logistic(samples, outputs)
    h, J = hand.a[2], 0.0
    for i in range(samples):
        for k in range(outputs):
            J += (-y[k, i] * np.log(h[k, i]) - (1 - y[k, i]) * np.log(1 - h[k, i])) / samples
    close(nn.binary_cross_entropy(model(x.T), y.T).item(), J)
    close(nn.binary_cross_entropy_with_logits(logits_of(model, x.T), y.T).item(), J)


def test_e09_cost_of_a_saturated_output_is_finite():
    z = tb.Tensor([[1000.0, -1000.0, 1000.0, -1000.0]])
    y = [[1.0, 0.0, 0.0, 1.0]]
    fused = nn.binary_cross_entropy_with_logits(z, y)
    fused.backward()
    assert fused.item() == 2000.0  # -log(1 - h) of the third, -log(h) of the fourth
    np.testing.assert_array_equal(z.grad, [[0.0, 0.0, 1.0, -1.0]])
    z.zero_grad()
    held = nn.binary_cross_entropy(tb.sigmoid(z), y)  # h is 1 or 0, to the last bit
    held.backward()
    assert held.item() == 200.0
    np.testing.assert_array_equal(z.grad, np.zeros((1, 4)))


@pytest.mark.parametrize("samples", [1, 5])
@pytest.mark.parametrize("outputs", [1, 3])
def test_e10_output_delta(samples, outputs):
    model, hand, x, y = logistic(samples, outputs)
    for reduction, share in (("sum", 1.0), ("mean", 1.0 / samples)):
        loss = nn.binary_cross_entropy(model(x.T), y.T, reduction)
        loss.backward()
        close(columns(labelled(loss)["z2"].grad), share * (hand.a[2] - y))
        z = logits_of(model, x.T)
        nn.binary_cross_entropy_with_logits(z, y.T, reduction).backward()
        close(columns(z.grad), share * (hand.a[2] - y))


def g_prime(z):
    return sigmoid(z) * (1.0 - sigmoid(z))


@pytest.mark.parametrize("outputs", [1, 3])
def test_e11_hidden_delta_and_weights(outputs):
    model, hand, x, y = logistic(1, outputs)
    loss = nn.binary_cross_entropy(model(x.T), y.T)
    loss.backward()
    delta3 = hand.a[2] - y
    delta2 = (hand.W[2].T @ delta3) * g_prime(hand.z[1])
    close(columns(labelled(loss)["z1"].grad), delta2)
    close(columns(model.layers[1].W.grad), delta3 @ hand.a[1].T)
    close(columns(model.layers[0].W.grad), delta2 @ x.T)


def accumulate(hand, x, y):
    """E12: Δ of each layer, sample by sample, with a bias unit as number 0 of each layer."""
    Theta1, Theta2 = (np.hstack([hand.b[n], hand.W[n]]) for n in (1, 2))
    Delta1, Delta2 = np.zeros_like(Theta1), np.zeros_like(Theta2)
    shares = []
    for i in range(x.shape[1]):
        a1 = np.concatenate([[1.0], x[:, i]])
        z2 = Theta1 @ a1
        a2 = np.concatenate([[1.0], sigmoid(z2)])
        delta3 = sigmoid(Theta2 @ a2) - y[:, i]
        delta2 = (Theta2.T @ delta3)[1:] * g_prime(z2)  # the bias unit's is dropped
        shares.append((np.outer(delta2, a1), np.outer(delta3, a2)))
        Delta1 += shares[-1][0]
        Delta2 += shares[-1][1]
    return (Theta1, Theta2), (Delta1, Delta2), shares


def with_bias_column(layer):
    """A layer's gradient as that of Θ: the bias first."""
    return np.hstack([layer.b.grad[:, None], columns(layer.W.grad)])


@pytest.mark.parametrize(("samples", "outputs"), [(1, 1), (5, 3), (8, 2)])
@pytest.mark.parametrize("penalty", [0.0, 0.7])
def test_e12_accumulation_over_samples(samples, outputs, penalty):
    model, hand, x, y = logistic(samples, outputs)
    Theta, Delta, _ = accumulate(hand, x, y)
    J = nn.binary_cross_entropy(model(x.T), y.T)
    if penalty:
        J = J + nn.weight_decay(model.parameters(), penalty / samples)
    J.backward()
    for layer, T, D in zip(model.layers, Theta, Delta, strict=True):
        D = D / samples
        D[:, 1:] += penalty / samples * T[:, 1:]  # never of the bias
        close(with_bias_column(layer), D)


def test_e12_each_samples_share():
    model, hand, x, y = logistic(5, 3)
    *_, shares = accumulate(hand, x, y)
    losses = nn.binary_cross_entropy(model(x.T), y.T, "none")
    for i, share in enumerate(shares):
        model.zero_grad()
        losses.backward(np.eye(5)[i])
        for layer, expected in zip(model.layers, share, strict=True):
            close(with_bias_column(layer), expected)


# --- C. the chain rule ---------------------------------------------------------------------------

FUNCTIONS = {  # with their derivatives, by hand
    "square": (lambda x: x * x, lambda x: 2 * x),
    "sin": (tb.sin, np.cos),
    "exp": (tb.exp, np.exp),
    "tanh": (tb.tanh, lambda x: 1 / np.cosh(x) ** 2),
    "sigmoid": (tb.sigmoid, lambda x: sigmoid(x) * (1 - sigmoid(x))),
    "quotient": (lambda x: x / (1.0 + x * x), lambda x: (1 - x * x) / (1 + x * x) ** 2),
}


@pytest.mark.parametrize("outer", FUNCTIONS)
@pytest.mark.parametrize("inner", FUNCTIONS)
@pytest.mark.parametrize("x", [-0.7, 0.4, 1.3])
def test_e13_chain_rule(outer, inner, x):
    (f, f_prime), (g, g_prime) = FUNCTIONS[outer], FUNCTIONS[inner]
    expected = f_prime(float(g(x))) * g_prime(x)
    assert tb.grad(lambda x: f(g(x)))(x) == pytest.approx(expected, rel=1e-13)
    assert tb.jvp(lambda x: f(g(x)), x, 1.0)[1] == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_e13_remainder_shrinks_faster_than_the_step(name):
    g, _ = FUNCTIONS[name]
    x, slope = 0.6, tb.grad(g)(0.6)
    steps = [2.0**-k for k in range(4, 12)]
    remainders = [abs(float(g(x + h)) - float(g(x)) - slope * h) / h for h in steps]
    for wide, narrow in pairwise(remainders):
        # o(h)/h tends to 0; these functions are smooth, so it halves with h, but for terms in h².
        assert narrow == pytest.approx(wide / 2, rel=0.1)


class FiveThreeOne:
    """Five inputs, three hidden neurons, one output, as single numbers; and its paths, by hand."""

    def __init__(self, reading):
        random = np.random.default_rng(5)
        self.reading = reading
        self.x = [tb.Value(v, f"x{k}") for k, v in enumerate(random.normal(size=5), 1)]
        self.V = random.normal(size=(3, 5))
        self.u = random.normal(size=3)
        self.w = tb.Value(0.7, "w")
        self.y = self.forward()

    def edge(self, j, k):
        """The weight from input k to neuron j: numbers, and where the reading has it, w."""
        if self.reading == "an edge":
            return self.w if (j, k) == (0, 0) else self.V[j, k]
        if self.reading == "into the neuron":
            return self.V[j, k]
        return self.w if k == 0 else self.V[j, k]  # shared by the edges out of input 1

    def forward(self):
        a = list(self.x)
        if self.reading == "into the neuron":  # neuron 1 of the first layer is w times its input
            a[0] = self.w * a[0]
        self.a = a
        self.h = [
            tb.tanh(sum(self.edge(j, k) * a[k] for k in range(1, 5)) + self.edge(j, 0) * a[0])
            for j in range(3)
        ]
        return sum(float(self.u[j]) * self.h[j] for j in range(3))

    def products(self):
        """Along every path from w to y, the product of the local derivatives."""
        slope = [1 - h.data**2 for h in self.h]
        x1 = self.x[0].data
        if self.reading == "an edge":
            return [self.u[0] * slope[0] * x1]
        if self.reading == "into the neuron":
            return [self.u[j] * slope[j] * self.V[j, 0] * x1 for j in range(3)]
        return [self.u[j] * slope[j] * x1 for j in range(3)]


def paths_by_hand(root, leaf):
    """Every path of the recorded graph, as the list of its local derivatives."""
    if root is leaf:
        yield []
    for parent, local in zip(root.operands, root.locals, strict=True):
        if local is not None:
            for rest in paths_by_hand(parent, leaf):
                yield [local, *rest]


@pytest.mark.parametrize(
    ("reading", "count"),
    [("an edge", 1), ("into the neuron", 3), ("shared by the edges out", 3)],
)
def test_e14_paths_of_the_5_3_1_network(reading, count):
    network = FiveThreeOne(reading)
    network.y.backward()
    expected = network.products()
    assert len(expected) == count
    assert network.w.grad == pytest.approx(sum(expected), rel=1e-13)
    found = [np.prod(path) for path in paths_by_hand(network.y, network.w)]
    close(sorted(found), sorted(expected))


@pytest.mark.parametrize("depth", [1, 10, 70, 1000])
def test_e15_paths_double_while_the_sweep_visits_each_edge_once(depth):
    a = b = tb.Value(1.0)
    for _ in range(depth):
        b = b + b
    edges = [edge for step in tb.sweep(b) for edge in step.edges]
    assert len(edges) == 2 * depth
    b.backward()
    # All local derivatives are 1, so the gradient is the number of paths: exact, a power of 2.
    assert int(a.grad) == 2**depth


@pytest.mark.parametrize(("width", "depth"), [(2, 3), (3, 4), (4, 30)])
def test_e15_paths_through_layers(width, depth):
    x = tb.Value(1.0)
    layer = [x] * width
    for _ in range(depth):
        layer = [sum(layer[1:], layer[0]) for _ in range(width)]
    y = sum(layer[1:], layer[0])
    edges = sum(len(step.edges) for step in tb.sweep(y))
    assert edges <= 2 * width * width * (depth + 1)
    y.backward()
    assert x.grad == float(width ** (depth + 1))


def test_e16_cost_of_the_gradient():
    """Reverse mode costs a few evaluations; forward mode and differences one per parameter."""
    for width in (2, 8, 40):
        x, y = np.ones((4, width)), np.ones((4, 1))
        model = nn.MLP([width, width, 1], rng=0)
        parameters = sum(p.size for p in model.parameters())

        def loss(model, x=x, y=y):
            return nn.squared_error(model(x), y)

        with tb.count_operations() as once, tb.no_grad():
            loss(model)
        with tb.count_operations() as reverse:
            tb.grad(loss)(model)
        assert reverse.total <= 4 * once.total
        if width < 40:
            with tb.count_operations() as forward:
                tb.jacobian(loss, mode="forward")(model)
            assert parameters * once.total < forward.total < 4 * parameters * once.total


def test_e17_product_rule():
    x = tb.Value(1.7)
    copies = [tb.Value(1.7) for _ in range(3)]
    (x * x * x).backward()
    (copies[0] * copies[1] * copies[2]).backward()
    assert x.grad == sum(copy.grad for copy in copies)
    assert x.grad == pytest.approx(3 * 1.7**2, rel=1e-15)


def recurrence(W, xs):
    """h ← tanh(W[t] h + x), with a matrix for every step."""
    h = xs[0]
    for w, x in zip(W, xs, strict=True):
        h = tb.tanh(h @ w + x)
    return tb.sum(h * h)


def attention(P, xs):
    """Scaled dot products of queries, keys and values, which share one projection."""
    queries, keys, contents = (xs @ p for p in P)
    scores = tb.softmax(queries @ tb.transpose(keys) * 0.5, -1)
    return tb.sum((scores @ contents) ** 2)


@pytest.mark.parametrize(
    ("function", "uses", "shape"), [(recurrence, 6, (6, 2, 4)), (attention, 3, (5, 4))]
)
def test_e17_a_shared_parameter_is_the_sum_of_its_copies(function, uses, shape):
    random = np.random.default_rng(7)
    W, xs = random.normal(size=(4, 4)), random.normal(size=shape)
    shared = tb.grad(lambda W: function([W] * uses, xs))(W)
    copies = tb.grad(lambda copies: function(copies, xs))([W] * uses)
    assert len(copies) == uses
    close(shared, sum(copies), rtol=1e-13)
    # Each copy's derivative is that of moving it alone.
    v = random.normal(size=W.shape)
    for k, copy in enumerate(copies):
        moved = [
            function([W + h * v if i == k else W for i in range(uses)], tb.Tensor(xs)).item()
            for h in (1e-6, -1e-6)
        ]
        assert np.sum(copy * v) == pytest.approx((moved[0] - moved[1]) / 2e-6, rel=1e-6)


# --- D. BPTT, two steps by hand ------------------------------------------------------------------

X0, X1, S_BEFORE, Y = 0.7, -1.3, 0.4, 0.8
U, W, K, V = 0.5, -1.1, 0.3, 1.7


def two_steps(u0, u1, w0, w1, k, v, function):
    """The article's chain, as far as q: the states get its names."""
    z0 = nn.named(u0 * X0 + w0 * S_BEFORE + k, "z0")
    s0 = nn.named(function(z0), "s0")
    z1 = nn.named(u1 * X1 + w1 * s0 + k, "z1")
    s1 = nn.named(function(z1), "s1")
    return nn.named(v * s1, "q")


class Chain:
    """The same in plain numbers, with sigmoid and binary cross-entropy on top."""

    def __init__(self, name):
        phi, dphi = PHI[name]
        z0 = U * X0 + W * S_BEFORE + K
        self.s0, self.ds0 = phi(z0), dphi(z0)  # ∂s₀/∂z₀
        z1 = U * X1 + W * self.s0 + K
        self.s1, self.ds1 = phi(z1), dphi(z1)
        o = sigmoid(V * self.s1)
        self.E = -Y * np.log(o) - (1 - Y) * np.log(1 - o)
        dE_do = -Y / o + (1 - Y) / (1 - o)
        self.dq = dE_do * o * (1 - o)  # ∂E/∂o · ∂o/∂q
        self.common = self.dq * V * self.ds1


@pytest.fixture(params=["sigmoid", "tanh"])
def chain(request):
    return Chain(request.param), getattr(tb, request.param)


def test_e18_copies_of_each_step(chain):
    hand, function = chain
    u0, u1, w0, w1, k, v = map(tb.Value, (U, U, W, W, K, V))
    q = two_steps(u0, u1, w0, w1, k, v, function)
    E = nn.binary_cross_entropy(tb.sigmoid(q), Y)
    E.backward()
    close(E.data, hand.E)
    close(q.grad, hand.dq)
    inner = labelled(E)
    close(inner["s1"].grad, hand.dq * V)
    close(inner["z1"].grad, hand.common)
    close(inner["s0"].grad, hand.common * W)  # through b₁ = w₁ s₀
    close(inner["z0"].grad, hand.common * W * hand.ds0)
    close(u1.grad, hand.common * X1)
    close(u0.grad, hand.common * W * hand.ds0 * X0)
    shared = [tb.Value(U), tb.Value(W)]
    q = two_steps(shared[0], shared[0], shared[1], shared[1], k, v, function)
    nn.binary_cross_entropy(tb.sigmoid(q), Y).backward()
    assert shared[0].grad == u1.grad + u0.grad
    assert shared[1].grad == w1.grad + w0.grad


def shared_chain(function):
    u, w, k, v = map(tb.Value, (U, W, K, V))
    return (u, w, k, v), two_steps(u, u, w, w, k, v, function)


def test_e19_input_weight(chain):
    hand, function = chain
    (u, *_), q = shared_chain(function)
    nn.binary_cross_entropy_with_logits(q, Y).backward()
    close(u.grad, hand.common * (X1 + W * hand.ds0 * X0))


def test_e20_recurrent_weight_and_what_the_article_omits(chain):
    hand, function = chain
    (_, w, k, v), q = shared_chain(function)
    nn.binary_cross_entropy(tb.sigmoid(q), Y).backward()
    close(w.grad, hand.common * (hand.s0 + W * hand.ds0 * S_BEFORE))
    close(k.grad, hand.common * (1 + W * hand.ds0))
    close(v.grad, hand.dq * hand.s1)


@pytest.mark.parametrize("function", [tb.sigmoid, tb.tanh])
def test_e18_the_softmax_of_one_logit_gives_no_gradient(function):
    parameters, q = shared_chain(function)
    E = nn.cross_entropy(tb.values([q]), [1.0])
    E.backward()
    assert E.data == 0.0
    assert [p.grad for p in parameters] == [0.0] * 4
    parameters, q = shared_chain(function)
    o = tb.softmax(tb.values([q]))
    assert o[0].data == 1.0
    (-tb.log(o[0])).backward()
    assert [p.grad for p in parameters] == [0.0] * 4


# --- E. BPTT in full -----------------------------------------------------------------------------


class HandRNN:
    """Article 0 in columns: lists over t; number 0 is what stands before the first step."""

    def __init__(self, model, xs, ys, h0):
        self.U, self.W, self.V = (columns(p.data) for p in (model.cell.U, model.cell.W, model.V))
        b, c = model.cell.b.data[:, None], model.c.data[:, None]
        self.tau, self.x, self.y = len(xs), [None, *xs], [None, *ys]
        self.h, self.yhat = [h0], [None]
        for t in range(1, self.tau + 1):
            self.h.append(np.tanh(self.U @ self.x[t] + self.W @ self.h[t - 1] + b))
            self.yhat.append(softmax(self.V @ self.h[t] + c))
        self.error = [None] + [self.yhat[t] - self.y[t] for t in range(1, self.tau + 1)]  # E22

    def slope(self, t):
        """The diagonal of diag(1 - h(t)²), for each sample."""
        return 1.0 - self.h[t] ** 2

    def deltas(self):
        """E25, then E24 backwards: δ(t) = ∂L/∂h(t)."""
        delta = [None] * self.tau + [self.V.T @ self.error[self.tau]]
        for t in range(self.tau - 1, 0, -1):
            carried = self.W.T @ (self.slope(t + 1) * delta[t + 1])
            delta[t] = self.V.T @ self.error[t] + carried
        return delta


def recurrent(tau, batch, symbols=4, hidden=5, seed=3):
    """A CharRNN with random biases, inputs and distributions in columns, and its twin."""
    rng = np.random.default_rng(seed)
    model = nn.CharRNN(symbols, hidden, rng=rng)
    model.cell.b.data, model.c.data = rng.normal(size=hidden), rng.normal(size=symbols)
    xs = rng.normal(size=(tau, symbols, batch))
    ys = rng.dirichlet(np.ones(symbols), size=(tau, batch)).transpose(0, 2, 1)
    h0 = rng.uniform(-1, 1, size=(hidden, batch))
    return model, HandRNN(model, xs, ys, h0)


def run(model, hand):
    """The loss of each step, summed over the samples."""
    logits, _ = model(np.array([x.T for x in hand.x[1:]]), hand.h[0].T)
    pairs = zip(logits, hand.y[1:], strict=True)
    return [nn.cross_entropy(o, y.T, "sum") for o, y in pairs]


def total(losses):
    loss = losses[0]
    for other in losses[1:]:
        loss = loss + other
    return loss


@pytest.fixture(params=[(1, 1), (2, 1), (2, 3), (6, 1), (9, 4)], ids=str)
def swept(request):
    """A network whose loss over all steps was swept, the derivation, and the labelled nodes."""
    model, hand = recurrent(*request.param)
    losses = run(model, hand)
    loss = total(losses)
    loss.backward()
    return model, hand, labelled(loss), losses


def test_e21_the_table_of_losses_and_steps():
    model, hand = recurrent(tau=5, batch=1)
    W_t = [tb.Tensor(model.cell.W.data, f"W({t})") for t in range(1, 6)]
    h, losses = hand.h[0].T, []
    for t in range(1, 6):  # every step with a copy of its own
        h = tb.tanh(hand.x[t].T @ model.cell.U + h @ W_t[t - 1] + model.cell.b)
        losses.append(nn.cross_entropy(h @ model.V + model.c, hand.y[t].T))
    table = np.zeros((6, 6, 5, 5))
    for t in range(1, 6):
        for copy in W_t:
            copy.zero_grad()
        losses[t - 1].backward()
        assert [copy.grad is None for copy in W_t] == [k > t for k in range(1, 6)]
        for k in range(1, t + 1):
            dE_ds = hand.V.T @ hand.error[t]
            ds_ds = np.eye(5)
            for i in range(t, k, -1):
                ds_ds = ds_ds @ np.diag(hand.slope(i)[:, 0]) @ hand.W
            table[t, k] = (hand.slope(k) * (ds_ds.T @ dE_ds)) @ hand.h[k - 1].T
            close(columns(W_t[k - 1].grad), table[t, k])
    losses = run(model, hand)
    for t in range(1, 6):
        model.zero_grad()
        losses[t - 1].backward()
        close(columns(model.cell.W.grad), table[t].sum(0))
    model.zero_grad()
    total(losses).backward()
    close(columns(model.cell.W.grad), table.sum((0, 1)))


def test_e22_logits(swept):
    _, hand, nodes, losses = swept
    for t in range(1, hand.tau + 1):
        close(columns(nodes[f"o({t})"].grad), hand.yhat[t] - hand.y[t])
        close(losses[t - 1].item(), -np.sum(hand.y[t] * np.log(hand.yhat[t])))


def test_e22_does_not_belong_to_the_binary_cross_entropy():
    """Article 0 prints Σ y log ŷ + (1 - y) log(1 - ŷ) beside a softmax."""
    _, hand = recurrent(tau=1, batch=1)
    y, yhat = hand.y[1], hand.yhat[1]
    o = tb.Tensor(np.log(yhat.T))
    nn.binary_cross_entropy(tb.softmax(o), y.T).backward()
    expected = softmax_jacobian(yhat[:, 0]).T @ ((yhat - y) / (yhat * (1 - yhat)))
    close(columns(o.grad), expected)
    assert np.abs(columns(o.grad) - (yhat - y)).max() > 0.1


def test_e23_output_parameters(swept):
    model, hand, *_ = swept
    steps = range(1, hand.tau + 1)
    close(model.c.grad[:, None], sum(hand.error[t] for t in steps).sum(1, keepdims=True))
    close(columns(model.V.grad), sum(hand.error[t] @ hand.h[t].T for t in steps))


def test_e24_states(swept):
    _, hand, nodes, _ = swept
    delta = hand.deltas()
    for t in range(1, hand.tau + 1):
        h = nodes[f"h({t})"]
        close(columns(h.grad), delta[t])
        assert h.x.label == "z"
        close(columns(h.x.grad), hand.slope(t) * delta[t])  # the other meaning of delta


def test_e25_last_state(swept):
    _, hand, nodes, _ = swept
    tau = hand.tau
    close(columns(nodes[f"h({tau})"].grad), hand.V.T @ (hand.yhat[tau] - hand.y[tau]))


def recurrent_gradients(hand):
    """E26: by W, b and U."""
    delta_z = [None] + [hand.slope(t) * hand.deltas()[t] for t in range(1, hand.tau + 1)]
    steps = range(1, hand.tau + 1)
    return (
        sum(delta_z[t] @ hand.h[t - 1].T for t in steps),
        sum(delta_z[t] for t in steps).sum(1, keepdims=True),
        sum(delta_z[t] @ hand.x[t].T for t in steps),
    )


def test_e26_recurrent_parameters(swept):
    model, hand, *_ = swept
    dW, db, dU = recurrent_gradients(hand)
    close(columns(model.cell.W.grad), dW)
    close(model.cell.b.grad[:, None], db)
    close(columns(model.cell.U.grad), dU)


def test_e26_weight_by_weight():
    model, hand = recurrent(tau=3, batch=2, symbols=2, hidden=3)
    view = model.scalar_view()
    loss = total(run(view, hand))
    loss.backward()
    nodes, delta = labelled(loss), hand.deltas()
    for t in range(1, hand.tau + 1):
        for j, i in np.ndindex(delta[t].shape):
            close(nodes[f"h({t})[{i}, {j}]"].grad, delta[t][j, i])
        for k, i in np.ndindex(hand.error[t].shape):
            close(nodes[f"o({t})[{i}, {k}]"].grad, hand.error[t][k, i])
    dW, db, dU = recurrent_gradients(hand)
    close(columns(view.cell.W.grad), dW)
    close(view.cell.b.grad[:, None], db)
    close(columns(view.cell.U.grad), dU)


# --- a famous example that prints a wrong number -------------------------------------------------


def two_two_two(W1, W2):
    """The 2-2-2 network: its total error, sigmoid units, biases that are never updated."""
    a = tb.sigmoid(np.array([[0.05, 0.10]]) @ W1 + 0.35)
    return nn.squared_error(tb.sigmoid(a @ W2 + 0.60), [[0.01, 0.99]])


def test_two_two_two_example():
    W1 = tb.Tensor([[0.15, 0.25], [0.20, 0.30]], "W1")
    W2 = tb.Tensor([[0.40, 0.50], [0.45, 0.55]], "W2")
    before = two_two_two(W1, W2)
    assert before.item() == pytest.approx(0.298371109, abs=5e-10)  # as printed
    before.backward()
    assert W2.grad[0, 0] == pytest.approx(0.082167041, abs=5e-10)  # as printed
    assert W1.grad[0, 0] == pytest.approx(0.000438568, abs=5e-10)  # as printed
    optim.SGD([W1, W2], lr=0.5).step()
    printed = [0.35891648, 0.408666186, 0.511301270, 0.561370121]  # w5 ... w8
    np.testing.assert_allclose(W2.data.T.ravel(), printed, rtol=0, atol=5e-9)
    assert two_two_two(W1, W2).item() == pytest.approx(0.291027774, abs=5e-10)


def test_two_two_two_example_as_its_code_computed_it():
    """Its code took the output delta down through weights that it had already updated."""
    W1, W2 = np.array([[0.15, 0.25], [0.20, 0.30]]), np.array([[0.40, 0.50], [0.45, 0.55]])
    x, y = np.array([[0.05, 0.10]]), np.array([[0.01, 0.99]])
    a1 = sigmoid(x @ W1 + 0.35)
    a2 = sigmoid(a1 @ W2 + 0.60)
    delta2 = (a2 - y) * a2 * (1 - a2)
    updated = W2 - 0.5 * a1.T @ delta2
    for through, error in ((W2, 0.291027774), (updated, 0.291027924)):
        delta1 = (delta2 @ through.T) * a1 * (1 - a1)
        after = two_two_two(tb.Tensor(W1 - 0.5 * x.T @ delta1), tb.Tensor(updated))
        assert after.item() == pytest.approx(error, abs=5e-10)
