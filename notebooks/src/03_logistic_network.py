# %% [markdown]
# # 3. A logistic network on real data
#
# A network of sigmoid units that tells malignant from benign tumours, with every quantity of its
# back-propagation worked out by hand in numpy and read from the library's graph: the deltas, each
# sample's share of a gradient, regularisation. Then it is trained.
#
# *About 40 minutes. You need the chain rule ([notebook 2](02_chain_rule_and_paths.ipynb)) and products of
# matrices.*
#
# Sources: Rumelhart, Hinton & Williams (1986); the form with $m$ samples and $K$ outputs is that of
# Andrew Ng's course *Machine Learning*, week 5, which one of our articles follows. Data: Wolberg et al.
# (1995), by way of scikit-learn.

# %%
import numpy as np

import tinygrad_bp as tb
from tinygrad_bp import explain, nn, optim
from tinygrad_bp.training import fit
from tinygrad_bp.visualize import draw, plots

data = tb.datasets.breast_cancer()
learnt, held_out = tb.datasets.train_test_split(data, 0.25, rng=0, stratify=data.y)
mean, spread = learnt.x.mean(0), learnt.x.std(0)  # of the data to learn from alone
X, y = (learnt.x - mean) / spread, learnt.y[:, None].astype(float)
X_test, y_test = (held_out.x - mean) / spread, held_out.y[:, None].astype(float)
m = len(X)
print(f"{m} tumours to learn from, {len(X_test)} held out; {X.shape[1]} measurements each")
print(f"{y.mean():.0%} are benign (1), the others malignant (0)")

# %% [markdown]
# ## The network, and one notation
#
# Layers $l = 1, 2$; $a^0 = x$; weighted inputs $z^l$ and activations $a^l$:
#
# $$z^l = W^l a^{l-1} + b^l, \qquad a^l = g(z^l), \qquad g(z) = \frac{1}{1 + e^{-z}}, \qquad g' = g\,(1-g).$$
#
# **Rows and columns, once for all notebooks.** In textbooks, and in the formulas here, a sample is a
# *column* and $W_{jk}$ leads from $k$ to $j$. In the code a sample is a *row*, as in PyTorch:
# `z = a @ W + b`, so that the code's `W` is the transpose of the formula's $W$. Where the two meet you
# see a `.T`. (The article writes $\Theta^{(l)}$ for $W^l$ and counts layers from the input: its
# $\delta^{(3)}$ is our $\delta^2$, its $\delta^{(2)}$ our $\delta^1$.)

# %%
model = nn.MLP([30, 8, 1], ["sigmoid", "sigmoid"], rng=0)


def g(z):
    return 1.0 / (1.0 + np.exp(-z))


W1, W2 = (layer.W.data.T for layer in model.layers)
b1, b2 = (layer.b.data[:, None] for layer in model.layers)
z1 = W1 @ X.T + b1
a1 = g(z1)
z2 = W2 @ a1 + b2
a2 = g(z2)
print("W1", W1.shape, "a1", a1.shape, "W2", W2.shape, "a2", a2.shape)
print("the same outputs:", np.allclose(a2.T, model(X).data, rtol=1e-12))

# %% [markdown]
# ## The cost (E9)
#
# Over $m$ samples and $K$ outputs $h = a^2$ (here $K = 1$), the binary cross-entropy
#
# $$J = \frac{1}{m}\sum_{i=1}^{m}\sum_{k=1}^{K}\Bigl[-y_k^{(i)}\log h_k^{(i)} - (1-y_k^{(i)})\log\bigl(1-h_k^{(i)}\bigr)\Bigr].$$
#
# The formula has a trap: for a confident and wrong output $h$ rounds to 1, and $\log(1-h)$ is minus
# infinity. Computed from $z$ itself, as $\log(1 + e^{z}) - y z$, nothing overflows:

# %%
by_hand = 0.0
for i in range(m):
    h, t = a2[0, i], y[i, 0]
    by_hand += (-t * np.log(h) - (1.0 - t) * np.log(1.0 - h)) / m
J = nn.binary_cross_entropy(model(X), y)
print(f"by hand {by_hand:.12f}   library {J.item():.12f}")

z = tb.Tensor([[1000.0, -1000.0]])
loss = nn.binary_cross_entropy_with_logits(z, [[0.0, 1.0]])
loss.backward()
print("loss", loss.item(), "  derivative by z", z.grad)

# %% [markdown]
# ## The output delta (E10)
#
# $\delta^l$ is the derivative of a sample's cost by $z^l$. At the output, the sigmoid's derivative cancels
# against the denominator of the cost's:
#
# $$\delta^2 = \underbrace{\frac{a^2 - y}{a^2(1-a^2)}}_{\partial J/\partial a^2}\;\underbrace{a^2(1-a^2)}_{g'(z^2)} = a^2 - y.$$
#
# `explain.deltas` reads all deltas from the recorded graph. They are derivatives of $J$, the mean over
# the batch, and so hold its factor $1/m$ (the note below the table says so).

# %%
deltas = explain.deltas(J)
delta2 = a2 - y.T
through_both = (a2 - y.T) / (a2 * (1.0 - a2)) * (a2 * (1.0 - a2))
print("cancelled = not cancelled:", np.allclose(delta2, through_both, rtol=1e-12))
print("by hand = library:", np.allclose(delta2 / m, deltas["z2"].delta.T, rtol=1e-12))
deltas.summary()

# %% [markdown]
# ## Down one layer, and the gradients (E11)
#
# $$\delta^1 = \bigl((W^2)^\mathsf{T}\,\delta^2\bigr)\odot g'(z^1), \qquad
# \frac{\partial J}{\partial W^2} = \frac1m\,\delta^2\,(a^1)^\mathsf{T}, \qquad
# \frac{\partial J}{\partial W^1} = \frac1m\,\delta^1\,(a^0)^\mathsf{T}.$$
#
# With the samples side by side, the products of matrices add up over the samples by themselves.

# %%
delta1 = (W2.T @ delta2) * a1 * (1.0 - a1)
J.backward()
hand = {"W2": delta2 @ a1.T / m, "b2": delta2.sum(1) / m}
hand |= {"W1": delta1 @ X / m, "b1": delta1.sum(1) / m}
explain.compare(J, {name: gradient.T for name, gradient in hand.items()})

# %% [markdown]
# The picture for three samples, with the cost computed from $z^2$: each box is an array, with its shape, and
# an arrow carries the name of the local derivative.

# %%
to_z2 = nn.MLP([30, 8, 1], "sigmoid", rng=0)  # the same weights, as far as z2
few = nn.binary_cross_entropy_with_logits(to_z2(X[:3]), y[:3])
few.backward()
draw(few, direction="TB")

# %% [markdown]
# ## Sample by sample (E12)
#
# The article goes through the samples one by one and accumulates, with a **bias unit** $a_0 = 1$ in each
# layer, so that the bias is column 0 of $\Theta$:
#
# $$\Delta^{(l)}_{ij} \leftarrow \Delta^{(l)}_{ij} + a^{(l)}_j\,\delta^{(l+1)}_i, \qquad
# \frac{\partial J}{\partial \Theta^{(l)}} = \frac{1}{m}\,\Delta^{(l)}.$$
#
# On the way down a bias unit gets a number too, but nothing leads into it: that number is dropped.

# %%
Theta1, Theta2 = np.hstack([b1, W1]), np.hstack([b2, W2])
Delta1, Delta2 = np.zeros_like(Theta1), np.zeros_like(Theta2)
for i in range(m):
    a_1 = np.concatenate([[1.0], X[i]])
    a_2 = np.concatenate([[1.0], g(Theta1 @ a_1)])
    delta_3 = g(Theta2 @ a_2) - y[i]
    delta_2 = (Theta2.T @ delta_3) * a_2 * (1.0 - a_2)
    Delta2 += np.outer(delta_3, a_2)
    Delta1 += np.outer(delta_2[1:], a_1)  # without the bias unit's

first, second = model.layers
for name, Delta, layer in [("Θ¹", Delta1, first), ("Θ²", Delta2, second)]:
    library = np.hstack([layer.b.grad[:, None], layer.W.grad.T])
    print(f"{name} by hand = library:", np.allclose(Delta / m, library, rtol=1e-10))

# %% [markdown]
# The library does not loop, but each sample's share can still be read: `batch=0` says along which axis
# the samples lie. The shares add up to the gradient.

# %%
shares = explain.contributions(J, second.W, batch=0).by_sample()
print("shares", shares.shape)
print("their sum is the gradient:", np.allclose(shares.sum(0), second.W.grad, rtol=1e-12))
print("share of sample 0:", np.round(m * shares[0, :, 0], 4))
print("delta times a    :", np.round(delta2[0, 0] * a1[:, 0], 4))

# %% [markdown]
# ## Regularisation
#
# $J + \frac{\lambda}{2m}\sum W^2$ pulls every weight towards zero; its gradient gets $\frac{\lambda}{m} W$
# added. Biases are left out, since a large bias makes no function wild. The cell adds the term to the
# biases as well, and is told so.

# %%
strength = 5.0 / m
for layer in model.layers:
    layer.b.data = np.linspace(-0.5, 0.5, layer.b.size)  # biases that are not zero
model.zero_grad()
penalty = nn.weight_decay(model.parameters(), strength)
J_reg = nn.binary_cross_entropy(model(X), y) + penalty
J_reg.backward()
wrong = first.b.grad + strength * first.b.data
explain.compare(J_reg, {"W1": first.W.grad, "b1": wrong})

# %% [markdown]
# ## Training
#
# Gradient descent on mini-batches of 32, with and without regularisation.


# %%
def accuracy(h, y):
    return float(((h > 0.5) == (y > 0.5)).mean())


def trained(strength):
    model = nn.MLP([30, 8, 1], ["sigmoid", "sigmoid"], rng=0)

    def cost(h, y):
        J = nn.binary_cross_entropy(h, y)
        return J + nn.weight_decay(model.parameters(), strength) if strength else J

    history = fit(
        model,
        (X, y),
        cost,
        optim.SGD(model.parameters(), lr=1.0),
        epochs=40,
        rng=0,
        validation=(X_test, y_test),
        metrics={"accuracy": accuracy},
    )
    return model, history


plain, history = trained(0.0)
decayed, history_decayed = trained(5.0 / m)
runs = {"plain": (plain, history), "with L2": (decayed, history_decayed)}
for name, (network, h) in runs.items():
    size = np.sqrt(sum(np.sum(layer.W.data**2) for layer in network.layers))
    right = h["val_accuracy"][-1]
    print(f"{name:8} held out: {right:.1%} right;   ‖W‖ = {size:.1f}")
plots.curves({"loss": history["loss"], "held out": history["val_loss"]}, log=True)

# %% [markdown]
# Who still pulls at the weights after training? The samples with the largest share are those that the
# network gets wrong, or nearly so. Most have almost nothing to say any more.

# %%
J = nn.binary_cross_entropy(plain(X), y)
shares = explain.contributions(J, plain.layers[1].W, batch=0).by_sample()
pull = np.linalg.norm(shares[:, :, 0], axis=1)
order = np.argsort(-pull)
print("sample  is  output  part of all pulls")
for i in order[:4]:
    h, part = plain(X[i : i + 1]).item(), pull[i] / pull.sum()
    print(f"{i:6} {y[i, 0]:3.0f} {h:7.2f} {part:8.0%}")
rest = pull[order[m // 2 :]].sum() / pull.sum()
print(f"the less interesting half together: {rest:.1%}")

# %% [markdown]
# ## What the articles print wrong
#
# **$\Delta$ is never divided by $m$.** The article accumulates $\Delta$ and stops there. The direction is
# right; the size is $m$ times too large, and with it the step.

# %%
J = nn.binary_cross_entropy(model(X), y)
shares = explain.contributions(J, second.W, batch=0).by_sample()
explain.compare(J, {"W2": m * shares.sum(0)})

# %% [markdown]
# **The sum over $k$ is missing in $\delta^1$.** Written out, a hidden unit $j$ hears from *every* output:
#
# $$\delta^1_j = \Bigl(\sum_{k=1}^{K} W^2_{kj}\,\delta^2_k\Bigr)\, g'(z^1_j).$$
#
# With one output nobody notices. Here are three, the species of iris, and what comes of taking only one
# $k$. (The article also writes $\Theta_{ij}$ in one line and $\Theta_{ji}$ in the next for the same
# weight. The first index is where a weight leads *to*; shapes help to keep it so.)

# %%
iris = tb.datasets.iris()
x, t = iris.x - iris.x.mean(0), np.eye(3)[iris.y]
three = nn.MLP([4, 5, 3], ["sigmoid", "sigmoid"], rng=1)
J = nn.binary_cross_entropy(three(x), t)
out, W = three(x).data.T - t.T, three.layers[1].W.data.T
hidden = g(three.layers[0](x).data.T)
complete = (W.T @ out) * hidden * (1.0 - hidden)
one_term = np.outer(W[0], out[0]) * hidden * (1.0 - hidden)
for name, delta in [("all k", complete), ("k = 1 alone", one_term)]:
    verdict = explain.compare(J, {"W1": (delta @ x / len(x)).T})["W1"]
    print(f"{name:12} {verdict.status}, largest difference {verdict.largest:.1e}")

# %% [markdown]
# **Bias units.** The article keeps $\delta^{(2)}_0$, the number that arrives at the hidden layer's bias
# unit. Then the shapes do not fit: $\delta^{(2)}\,(a^{(1)})^\mathsf{T}$ would have a row for a weight that
# does not exist.

# %%
kept = np.outer(delta_2, a_1)
print("with it:", kept.shape, "  Θ¹:", Theta1.shape, "  dropped:", kept[1:].shape)

# %% [markdown]
# ## Exercises
#
# **1.** Replace the cost by the squared error $C = \frac{1}{2m}\sum\lVert a^2 - y\rVert^2$. What are
# $\delta^2$ and the two gradients of the last layer? The attempt below takes the cross-entropy's.

# %%
C = nn.squared_error(model(X), y)
a1 = g(first(X).data.T)
a2 = g(second(a1.T).data.T)

delta2 = a2 - y.T
explain.compare(C, {"W2": (delta2 @ a1.T / m).T, "b2": delta2.sum(1) / m})

# %% [markdown]
# <details><summary>Solution</summary>
#
# Nothing cancels now: $\delta^2 = (a^2 - y) \odot a^2 \odot (1 - a^2)$. That factor is why squared error
# learns so slowly from a saturated unit that is wrong, and why one prefers the cross-entropy
# (Nielsen, chapter 3).
#
# ```python
# delta2 = (a2 - y.T) * a2 * (1.0 - a2)
# ```
#
# </details>
#
# **2.** Which measurement would change the cost most? Derive $\partial J/\partial x$, the derivative by the
# *inputs* of each sample, and complete the cell.

# %%
inputs = tb.Tensor(X, "x")
J = nn.binary_cross_entropy(model(inputs), y)
W1, W2 = first.W.data.T, second.W.data.T
delta1 = (W2.T @ (a2 - y.T)) * a1 * (1.0 - a1)

explain.compare(J, {"x": (W1.T @ delta1).T})

# %% [markdown]
# <details><summary>Solution</summary>
#
# The recursion simply goes on: $\partial J/\partial a^0 = (W^1)^\mathsf{T}\delta^1$, without a factor
# $g'$, since the inputs are not the output of an activation. And $J$ is a mean, so each sample's
# derivative has the factor $1/m$:
#
# ```python
# explain.compare(J, {"x": (W1.T @ delta1).T / m})
# ```
#
# </details>
#
# Next: [deep networks, any activation and cost](04_deep_network.ipynb).
