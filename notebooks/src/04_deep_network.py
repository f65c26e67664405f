# %% [markdown]
# # 4. A deep network, any activation, any cost
#
# The four equations of back-propagation, first for one sample and in columns, then element by element,
# then for a whole mini-batch; each worked out in numpy and read from the graph. The library then writes
# the derivation itself, marks yours, and the network learns to read digits.
#
# *About 50 minutes. You need [notebook 3](03_logistic_network.ipynb), for its notation too.*
#
# Sources: Rumelhart, Hinton & Williams (1986); Nielsen (2015), *Neural Networks and Deep Learning*,
# chapter 2, whose equations BP1 to BP4 are E2 to E5 here. Data: Alpaydin & Kaynak (1998).

# %%
import numpy as np

import tinygrad_bp as tb
from tinygrad_bp import explain, nn, optim
from tinygrad_bp.training import accuracy, fit
from tinygrad_bp.visualize import draw, plots

# %% [markdown]
# ## The network
#
# Layers $l = 1 \dots L$ of widths $N_l$, $a^0 = x$, and an activation $\sigma^l$ for each layer:
#
# $$z^l = W^l a^{l-1} + b^l, \qquad a^l = \sigma^l(z^l), \qquad C = C(a^L, y).$$
#
# Here 4–5–3–2 with tanh, sigmoid, sigmoid. `W[l]`, `b[l]`, `z[l]`, `a[l]` are the formulas' columns.

# %%
rng = np.random.default_rng(1)
model = nn.MLP([4, 5, 3, 2], ["tanh", "sigmoid", "sigmoid"], rng=rng)
for layer in model.layers:
    layer.b.data = rng.normal(size=layer.b.shape)
x, y = rng.normal(size=(4, 1)), np.array([[0.9], [0.2]])


def logistic(z):
    return 1.0 / (1.0 + np.exp(-z))


sigma = [None, np.tanh, logistic, logistic]
slope = [
    None,
    lambda z: 1.0 - np.tanh(z) ** 2,
    lambda z: logistic(z) * (1.0 - logistic(z)),
    lambda z: logistic(z) * (1.0 - logistic(z)),
]
W = [None] + [layer.W.data.T for layer in model.layers]
b = [None] + [layer.b.data[:, None] for layer in model.layers]


def forward(x):
    z, a = [None], [x]
    for l in range(1, 4):
        z.append(W[l] @ a[l - 1] + b[l])
        a.append(sigma[l](z[l]))
    return z, a


z, a = forward(x)
print("by hand", a[3].ravel().round(6), "  library", model(x.T).data.ravel().round(6))

# %% [markdown]
# ## The cost (E1) and the output delta (E2)
#
# $$C = \tfrac12\lVert a^L - y\rVert^2, \qquad \frac{\partial C}{\partial a^L} = a^L - y, \qquad
# \delta^L := \frac{\partial C}{\partial z^L} = \frac{\partial C}{\partial a^L}\odot\sigma'^L(z^L).$$

# %%
C = nn.squared_error(model(x.T), y.T)
deltas = explain.deltas(C)
delta = [None, None, None, (a[3] - y) * slope[3](z[3])]
for name, hand in [("a3", a[3] - y), ("z3", delta[3])]:
    library = deltas[name].delta.ravel().round(6)
    print(f"∂C/∂{name}  by hand {hand.ravel().round(6)}  library {library}")

# %% [markdown]
# ## The recursion (E3)
#
# A delta goes down one layer by the transposed weights and the slope of the activation there:
#
# $$\delta^l = \bigl((W^{l+1})^\mathsf{T}\,\delta^{l+1}\bigr)\odot\sigma'^l(z^l).$$
#
# The table has the library's deltas in this order, from the cost down: by $a^l$ and by $z^l$ in turn.

# %%
for l in (2, 1):
    delta[l] = (W[l + 1].T @ delta[l + 1]) * slope[l](z[l])
for l in (3, 2, 1):
    equal = np.allclose(delta[l].T, deltas[f"z{l}"].delta, rtol=1e-12, atol=0.0)
    print(f"δ{l} by hand {delta[l].ravel().round(5)}  equal: {equal}")
deltas

# %% [markdown]
# ## The gradients (E4, E5)
#
# $$\frac{\partial C}{\partial W^l} = \delta^l\,(a^{l-1})^\mathsf{T}, \qquad
# \frac{\partial C}{\partial b^l} = \delta^l, \qquad\text{that is}\qquad
# \frac{\partial C}{\partial W^l_{jk}} = \delta^l_j\, a^{l-1}_k.$$

# %%
by_hand = {}
for l in (1, 2, 3):
    by_hand[f"W{l}"] = (delta[l] @ a[l - 1].T).T
    by_hand[f"b{l}"] = delta[l].ravel()
explain.compare(C, by_hand)

# %% [markdown]
# ## Element by element (E6)
#
# The matrices only bundle sums. For one neuron $j$ of layer 1, what comes back is a sum over the neurons
# $k$ of layer 2 that it feeds:
#
# $$\frac{\partial C}{\partial a^1_j} = \sum_k W^2_{kj}\,\delta^2_k, \qquad
# \delta^1_j = \frac{\partial C}{\partial a^1_j}\,\sigma'^1(z^1_j).$$
#
# `scalar_view()` is the same network with every weight a number of its own, so that each term of this
# sum is an edge of the graph. Here are the three terms of neuron $j = 0$: `local` is $W^2_{kj}$,
# `upstream` is $\delta^2_k$.

# %%
view = model.scalar_view()
C_view = nn.squared_error(view(x.T), y.T)
neuron = next(n for n in tb.topological_order(C_view) if n.label == "a1[0, 0]")
print("W²_k0   ", W[2][:, 0].round(4), "  δ²_k", delta[2].ravel().round(4))
explain.contributions(C_view, neuron)

# %% [markdown]
# Drawn weight by weight, a 2–2–1 network is already a full picture. Here are its output for the inputs 1
# and −1, and the gradients of that output.

# %%
small = nn.MLP([2, 2, 1], ["tanh", "sigmoid"], rng=3).scalar_view()
output = small(tb.values([[1.0, -1.0]], requires_grad=False))[0, 0]
output.backward()
draw(output, direction="TB")

# %% [markdown]
# ## A mini-batch (E7)
#
# With $m$ samples side by side in $A^l$ and $\Delta^l$, one product of matrices adds up the samples:
#
# $$\frac{\partial C}{\partial W^l} = \frac1m\,\Delta^l (A^{l-1})^\mathsf{T}
# = \frac1m\sum_{i=1}^m \delta^{l(i)}\,\bigl(a^{l-1(i)}\bigr)^\mathsf{T}.$$

# %%
m = 7
X, Y = rng.normal(size=(4, m)), rng.uniform(size=(2, m))


def backward(x, y):
    """The deltas of each layer and the activations, for one sample or several."""
    z, a = forward(x)
    delta = [None, None, None, (a[3] - y) * slope[3](z[3])]
    for l in (2, 1):
        delta[l] = (W[l + 1].T @ delta[l + 1]) * slope[l](z[l])
    return delta, a


Delta, A = backward(X, Y)
at_once = Delta[1] @ A[0].T / m
one_by_one = np.zeros_like(W[1])
for i in range(m):
    delta_i, a_i = backward(X[:, [i]], Y[:, [i]])
    one_by_one += np.outer(delta_i[1], a_i[0]) / m
C = nn.squared_error(model(X.T), Y.T)
print("matrix form = loop:", np.allclose(at_once, one_by_one, rtol=1e-12))
explain.compare(C, {"W1": at_once.T, "b1": Delta[1].mean(1)})

# %% [markdown]
# ## The derivation, written by the library
#
# `explain.derive` knows no network beforehand. It reads the recorded graph and sets the derivation as a
# textbook would; each formula has been evaluated on the recorded numbers before it is shown. With
# `indices="nielsen"` it also writes each equation element by element.

# %%
explain.derive(C, ["W1", "b1"])

# %%
derivation = explain.derive(C, ["W1", "W2"], indices="nielsen")
for equation in derivation:
    if equation.kind == "element":
        print(derivation.write(equation.lhs), "=", derivation.write(equation.rhs))

# %% [markdown]
# ## Your derivation, marked
#
# `explain.compare` also takes deltas, and then says which is the first, walking back from the cost, that
# departs. Here is a run of the recursion in which the slope of layer 1 was computed from the formula for
# the sigmoid, where the layer is a tanh:

# %%
wrong = list(Delta)
wrong[1] = (W[2].T @ Delta[2]) * A[1] * (1.0 - A[1])
explain.compare(
    C,
    {f"W{l}": (wrong[l] @ A[l - 1].T).T / m for l in (3, 2, 1)},
    deltas={f"z{l}": wrong[l].T / m for l in (3, 2, 1)},
)

# %% [markdown]
# ## Softmax: no elementwise slope (E2 again)
#
# $\delta^L = \partial C/\partial a^L \odot \sigma'(z^L)$ holds only if each $a_j$ depends on its own $z_j$
# alone. In a softmax, $a_j = e^{z_j} / \sum_k e^{z_k}$, every output depends on every input, and a full
# Jacobian stands in the place of the slope:
#
# $$\delta^L = J^\mathsf{T}\,\frac{\partial C}{\partial a^L}, \qquad J = \operatorname{diag}(a) - a\,a^\mathsf{T}.$$
#
# With the cross-entropy $C = -\sum_k y_k \log a_k$ it all cancels to $\delta^L = a - y$.

# %%
logits = tb.Tensor([[1.0, -0.5, 0.3]], "z")
t = np.array([[0.0, 1.0, 0.0]])
p = np.exp(logits.data[0]) / np.exp(logits.data[0]).sum()
J = np.diag(p) - np.outer(p, p)
library = tb.jacobian(tb.softmax)(logits.data[0])
print("J by hand = library:", np.allclose(J, library, rtol=1e-12))

C_square = nn.squared_error(tb.softmax(logits), t)
C_cross = nn.cross_entropy(logits, t)
pairs = {"squared error": (C_square, p - t[0]), "cross-entropy": (C_cross, -t[0] / p)}
for name, (cost, by_output) in pairs.items():
    delta_z = J.T @ by_output
    status = explain.compare(cost, {"z": [delta_z]})["z"].status
    print(f"{name:14} Jᵀ ∂C/∂a = {delta_z.round(6)} {status}")
print("cross-entropy  a − y     =", (p - t[0]).round(6))

# %% [markdown]
# ## Gradient descent reads digits (E8)
#
# $W \leftarrow W - \eta\,\partial C/\partial W$, with the gradient of all samples, of one, or of a
# mini-batch. First ten steps with all samples: the cost falls at every step.

# %%
digits = tb.datasets.digits()
learnt, held_out = tb.datasets.train_test_split(digits, 0.2, rng=0, stratify=digits.y)


def reader():
    return nn.MLP([64, 32, 16, 10], "tanh", rng=0)


network = reader()
sgd = optim.SGD(network.parameters(), lr=0.5)
costs = []
for _ in range(10):
    C = nn.cross_entropy(network(learnt.x), learnt.y)
    sgd.zero_grad()
    C.backward()
    sgd.step()
    costs.append(C.item())
print(" ".join(f"{c:.3f}" for c in costs))

# %% [markdown]
# In the same number of epochs, mini-batches get much further: an epoch of mini-batches of 32 has 45 updates,
# one of single samples (*stochastic* gradient descent, here at a smaller rate) 1,437. Each digit is 8 × 8
# numbers; the outputs are ten logits.

# %%
histories = {}
ways = {"all samples": (1437, 0.2), "mini-batches of 32": (32, 0.2), "single samples": (1, 0.02)}
for name, (size, rate) in ways.items():
    network = reader()
    histories[name] = fit(
        network,
        learnt,
        nn.cross_entropy,
        optim.SGD(network.parameters(), lr=rate),
        epochs=15,
        batch_size=size,
        rng=0,
        validation=held_out,
        metrics=[accuracy],
    )
    updates, right = -(-len(learnt.x) // size), histories[name]["val_accuracy"][-1]
    print(f"{name:20} {updates:5,} updates an epoch; held out: {right:.0%} right")
picture = plots.curves({name: h["loss"] for name, h in histories.items()}, log=True)
picture.figure.axes[0].set(title="cost on the samples learnt from")
picture

# %% [markdown]
# And the deltas of the three layers, while it learns? Here they are read from the graph of the first 200
# samples after each epoch. All three shrink as the cost does, and the lowest layer's is the largest: over
# three layers nothing has vanished yet ([notebook 7](07_vanishing_and_truncation.ipynb) shows where it does).

# %%
network, sizes = reader(), {"z3": [], "z2": [], "z1": []}


def read_deltas(run):
    deltas = explain.deltas(nn.cross_entropy(run.model(learnt.x[:200]), learnt.y[:200]))
    for name, row in sizes.items():
        row.append(np.linalg.norm(deltas[name].delta))


sgd = optim.SGD(network.parameters(), lr=0.2)
fit(network, learnt, nn.cross_entropy, sgd, epochs=30, rng=0, callbacks=[read_deltas])
picture = plots.gradients({f"δ{name[1]}": row for name, row in sizes.items()})
picture.figure.axes[0].set(xlabel="epoch", title="log₁₀ ‖δ‖ of each layer")
picture

# %% [markdown]
# ## What the articles print wrong
#
# **E2 is claimed for every output layer.** Used on a softmax, it takes the Jacobian's diagonal for all of
# it. The library knows this mistake by name:

# %%
elementwise = (p - t[0]) * p * (1.0 - p)
explain.compare(C_square, {"z": [elementwise]})

# %% [markdown]
# **A famous worked example** elsewhere on the web does one step for a 2–2–2 network by hand and prints a total error
# of 0.291027924 afterwards. The right value is 0.291027774. The difference is a mistake worth knowing: the
# output weights had been updated already when the delta was taken down through them.


# %%
def total_error(W1, W2):
    hidden = tb.sigmoid(np.array([[0.05, 0.10]]) @ W1 + 0.35)
    return nn.squared_error(tb.sigmoid(hidden @ W2 + 0.60), [[0.01, 0.99]])


W1 = tb.Tensor([[0.15, 0.25], [0.20, 0.30]], "W1")
W2 = tb.Tensor([[0.40, 0.50], [0.45, 0.55]], "W2")
error = total_error(W1, W2)
mistake = explain.mistakes.updated_weights(error, learning_rate=0.5)
ways = {"old weights": mistake.right, "updated weights": mistake.wrong}
print(f"total error before the step {error.item():.9f}")
for name, gradients in ways.items():
    after = total_error(W1 - 0.5 * gradients["W1"], W2 - 0.5 * gradients["W2"])
    print(f"down through the {name:15}  {after.item():.9f}")

# %% [markdown]
# ## Exercises
#
# **1.** A classifier: 4–6–3, relu, then a softmax with cross-entropy. Derive $\delta^2$ and $\delta^1$ and
# complete the cell. The attempt writes E2 with the slope $a\,(1-a)$ at the output.

# %%
classifier = nn.MLP([4, 6, 3], "relu", rng=5)
inputs, classes = rng.normal(size=(8, 4)), rng.integers(0, 3, 8)
C = nn.cross_entropy(classifier(inputs), classes)

V1, V2 = (layer.W.data.T for layer in classifier.layers)
z1 = V1 @ inputs.T  # the biases are zero
a1 = np.maximum(z1, 0.0)
a2 = np.exp(V2 @ a1) / np.exp(V2 @ a1).sum(0)
t = np.eye(3)[classes].T

delta2 = (a2 - t) * a2 * (1.0 - a2) / 8
delta1 = (V2.T @ delta2) * (z1 > 0.0)
explain.compare(
    C,
    {"W2": (delta2 @ a1.T).T, "W1": (delta1 @ inputs).T},
    deltas={"z2": delta2.T, "z1": delta1.T},
)

# %% [markdown]
# <details><summary>Solution</summary>
#
# The softmax is part of the cost here, and everything cancels: $\delta^2 = \frac1m(a^2 - y)$. The slope of
# relu is 1 where $z > 0$ and 0 elsewhere, as in the attempt.
#
# ```python
# delta2 = (a2 - t) / 8
# ```
#
# </details>
#
# **2.** Let the library check E3 for *any* activation: write `swish(z) = z σ(z)` and its slope by hand, and
# replace the question mark.

# %%
net = nn.MLP([4, 5, 1], ["silu", "identity"], rng=2)
C = nn.squared_error(net(inputs), np.ones((8, 1)))

U1, U2 = (layer.W.data.T for layer in net.layers)
z1 = U1 @ inputs.T
s = logistic(z1)
swish_slope = s  # ?
delta2 = (U2 @ (z1 * s) - 1.0) / 8
explain.compare(C, {"W1": ((U2.T @ delta2) * swish_slope @ inputs).T})

# %% [markdown]
# <details><summary>Solution</summary>
#
# By the product rule $\sigma(z) + z\,\sigma(z)\,(1 - \sigma(z))$:
#
# ```python
# swish_slope = s + z1 * s * (1.0 - s)
# ```
#
# `explain.derive(C, "W1")` prints it in another form: $a + (1 - a)\,\sigma(z)$ with $a = z\,\sigma(z)$, which is the same.
#
# </details>
#
# Next: [back-propagation through time, in two steps](05_bptt_two_steps.ipynb).
