# %% [markdown]
# # 6. Back-propagation through time, in full
#
# Notebook 5 took two steps by hand. Here is the whole of it: a recurrent network of any length,
# with vectors for states and a loss at every step. We derive each gradient (E22 to E26), compute it
# by hand in a few lines of numpy, and hold it against the backward sweep. At the end the same
# network learns English text.
#
# *About 45 minutes. You need the two steps by hand (5).*
#
# **Notation.** A textbook has column vectors; $x(t)$, $h(t)$, $o(t)$, $\hat y(t)$ belong to time
# step $t = 1 \dots \tau$:
#
# $$z(t) = U x(t) + W h(t-1) + b, \quad h(t) = \tanh z(t), \quad o(t) = V h(t) + c, \quad \hat y(t) = \operatorname{softmax}(o(t))$$
#
# The library has samples in **rows**, `h = tanh(x @ U + h @ W + b)`, so its arrays `U`, `W`, `V`
# are the transposes of the textbook's matrices. That is the only difference, and this is the only
# place where we say so: below, `.T` is where the two meet.

# %%
import textwrap

import numpy as np

import tinygrad_bp as tb
from tinygrad_bp import datasets, explain, nn, optim, training
from tinygrad_bp.visualize import draw, plots

np.set_printoptions(precision=4, suppress=True, linewidth=100)


def same(a, b):
    """Whether two arrays are equal but for rounding."""
    return bool(np.allclose(a, b, rtol=1e-12, atol=1e-14))


# %% [markdown]
# ## A network that reads *hello*
#
# Four symbols, three hidden units, four steps: at each it sees a letter and predicts the next.

# %%
text = "hello"
symbols = sorted(set(text))
codes = np.array([symbols.index(s) for s in text])
x = np.eye(len(symbols))[codes[:-1]]  # x(1) ... x(4), a one-hot row each
y = np.eye(len(symbols))[codes[1:]]  # y(1) ... y(4), the letter that follows
tau = len(x)

model = nn.CharRNN(symbols=4, hidden=3, rng=0)
rng = np.random.default_rng(1)
model.cell.b.data, model.c.data = rng.normal(size=3), rng.normal(size=4)  # biases that are not zero
print(symbols, {name: p.shape for name, p in model.named_parameters()})

# %% [markdown]
# ## What the article prints wrong: the loss
#
# The article that this notebook follows (article 0) prints
# $L(t) = \sum_i y_i \log \hat y_i + (1 - y_i) \log(1 - \hat y_i)$ beside a softmax. Two things are
# wrong with it.
#
# 1. **The sign.** This sum is negative; descending along its gradient would make predictions
#    *worse*.
# 2. **The form.** This is the *binary* cross-entropy, which belongs to independent sigmoid units.
#    The gradient that the article derives from it, $\partial L(t)/\partial o(t) = \hat y(t) - y(t)$,
#    is that of the softmax cross-entropy,
#
# $$L(t) = -\sum_i y_i(t) \log \hat y_i(t).$$
#
# Numbers decide. Here are three losses of the same logits and their gradients:

# %%
logits = np.array([[0.5, -1.0, 0.2, 0.1]])
target = np.array([[0.0, 0.0, 1.0, 0.0]])


def as_printed(o):
    p = tb.softmax(o)
    return tb.sum(target * tb.log(p) + (1 - target) * tb.log(1 - p))


losses = {
    "as printed": as_printed,
    "with its minus sign": lambda o: -as_printed(o),
    "softmax cross-entropy": lambda o: -tb.sum(target * tb.log(tb.softmax(o))),
}
prediction = tb.softmax(tb.Tensor(logits)).data
print(f"{'ŷ − y':22}       {(prediction - target)[0]}")
for name, loss in losses.items():
    value, gradient = tb.value_and_grad(loss)(logits)
    print(
        f"{name:22} L = {value:+.3f}, ∂L/∂o = {gradient[0]}, is ŷ − y: {same(gradient, prediction - target)}"
    )
    after = tb.softmax(tb.Tensor(logits - 0.5 * gradient)).data[0, 2]
    print(f"{'':22} one step down it: ŷ of the right class {prediction[0, 2]:.3f} → {after:.3f}")

# %% [markdown]
# Descending along the loss as printed makes the prediction worse. And only the last one has the
# gradient $\hat y - y$; it is the loss of everything below, summed over time: $L = \sum_t L(t)$.
#
# A word on words: the article calls its algorithm *gradient descent*. Back-propagation **computes**
# a gradient; gradient descent is one way to **use** it. Up to the last section, nothing here
# descends.
#
# ## Forward, twice
#
# `nn.unroll` inside of `CharRNN` is a loop over time. We write the same loop in columns, as the
# textbook has it.

# %%
h0 = np.zeros((1, 3))
outputs, _ = model(x[:, None], h0)  # logits o(1) ... o(τ), each of shape (1, 4)
step_losses = []
for t, o in enumerate(outputs, 1):
    with tb.scope("step", t):
        step_losses.append(nn.named(nn.cross_entropy(o, y[t - 1 : t]), f"L({t})"))
L = nn.named(sum(step_losses[1:], step_losses[0]), "L")

U, W, V = (p.data.T for p in (model.cell.U, model.cell.W, model.V))
b, c = model.cell.b.data, model.c.data
h, yhat = {0: h0[0]}, {}
for t in range(1, tau + 1):
    h[t] = np.tanh(U @ x[t - 1] + W @ h[t - 1] + b)
    e = np.exp(V @ h[t] + c)
    yhat[t] = e / e.sum()
by_hand = -sum(y[t - 1] @ np.log(yhat[t]) for t in h if t)
print(f"L = {L.item():.6f} by the library, {by_hand:.6f} by hand")

# %% [markdown]
# ## E22 · The delta of the output
#
# $$\frac{\partial L(t)}{\partial o(t)} = \hat y(t) - y(t)$$
#
# *Why:* with $\log \hat y_i = o_i - \log \sum_k e^{o_k}$ and $\sum_i y_i = 1$, the loss is
# $L = \log \sum_k e^{o_k} - \sum_i y_i o_i$; the derivative of the first term by $o_j$ is
# $\hat y_j$, that of the second $y_j$.

# %%
deltas = explain.deltas(L)  # every named quantity, with its value and ∂L/∂(it)
for t in range(1, tau + 1):
    print(t, yhat[t] - y[t - 1], same(deltas["o", t].delta, yhat[t] - y[t - 1]))

# %% [markdown]
# ## E25 and E24 · The deltas of the states, backwards
#
# Write $\delta(t) = \partial L/\partial h(t)$. The last state acts on one loss only:
#
# $$\delta(\tau) = V^\top (\hat y(\tau) - y(\tau)) \tag{E25}$$
#
# Every earlier state acts twice: on its own output, and on the next state. Two ways, so two terms:
#
# $$\delta(t) = V^\top (\hat y(t) - y(t)) + W^\top \operatorname{diag}(1 - h(t+1)^2)\, \delta(t+1) \tag{E24}$$
#
# The factor $1 - h(t+1)^2$ is the slope of tanh where it was passed.

# %%
delta = {tau: V.T @ (yhat[tau] - y[tau - 1])}
for t in range(tau - 1, 0, -1):
    delta[t] = V.T @ (yhat[t] - y[t - 1]) + W.T @ ((1 - h[t + 1] ** 2) * delta[t + 1])
for t in range(tau, 0, -1):
    print(t, delta[t], same(deltas["h", t].delta, delta[t]))

# %% [markdown]
# **Two meanings of δ.** The article's section on deep networks takes $\delta$ by the weighted input
# $z$; its section on recurrent ones by the state $h$. Both are fine, mixing them is not. They
# differ by the slope: $\delta_z(t) = (1 - h(t)^2) \odot \delta_h(t)$. Each has a row of its own in
# the table.

# %%
for t in range(1, tau + 1):
    ratio = deltas["z", t].delta / deltas["h", t].delta
    print(f"t = {t}: δ_z / δ_h = {ratio[0]}, 1 − h² = {1 - h[t] ** 2}")

# %% [markdown]
# ## E23 and E26 · The gradients of the parameters
#
# Each parameter stands in every step, as if it were $\tau$ copies; the copies' gradients are added
# (E17):
#
# $$\frac{\partial L}{\partial c} = \sum_t (\hat y(t) - y(t)), \qquad \frac{\partial L}{\partial V} = \sum_t (\hat y(t) - y(t))\, h(t)^\top \tag{E23}$$
#
# $$\frac{\partial L}{\partial W} = \sum_t \operatorname{diag}(1 - h(t)^2)\, \delta(t)\, h(t-1)^\top, \quad
# \frac{\partial L}{\partial b} = \sum_t \operatorname{diag}(1 - h(t)^2)\, \delta(t), \quad
# \frac{\partial L}{\partial U} = \sum_t \operatorname{diag}(1 - h(t)^2)\, \delta(t)\, x(t)^\top \tag{E26}$$

# %%
steps = range(1, tau + 1)
error = {t: yhat[t] - y[t - 1] for t in steps}
delta_z = {t: (1 - h[t] ** 2) * delta[t] for t in steps}
hand = {
    "c": sum(error[t] for t in steps),
    "V": sum(np.outer(error[t], h[t]) for t in steps).T,
    "W": sum(np.outer(delta_z[t], h[t - 1]) for t in steps).T,
    "b": sum(delta_z[t] for t in steps),
    "U": sum(np.outer(delta_z[t], x[t - 1]) for t in steps).T,
}
explain.compare(L, hand)

# %% [markdown]
# Five gradients, all equal within rounding: that *is* back-propagation through time (Werbos 1990).
# The engine knows nothing of time. It walks one graph backwards, in which `W` stands once and is
# used $\tau$ times (at $t = 1$ it meets $h(0)$, here zero, and so contributes nothing):

# %%
explain.contributions(L, model.cell.W).table()

# %% [markdown]
# ## The derivation, generated
#
# `explain.derive` reads the recorded graph and writes the derivation, in columns. It recognises
# that steps $1 \dots \tau$ repeat and states the recursion once. Every line has been evaluated on
# this graph's numbers. Compare with E22 to E26 above.

# %%
explain.derive(L)

# %% [markdown]
# ## The picture
#
# For a picture to be readable: one hidden unit, two steps, and every number a node. Green boxes are
# leaves. `W` and `U` stand once, with an edge for each use; follow the edges from the loss to `W`,
# and you see the terms of E26. (Numbers at edges are local derivatives.)

# %%
tiny = nn.RNNCell(1, 1, rng=3).scalar_view()
states = nn.unroll(tiny, np.array([[1.0], [-0.5]]), np.array([0.4]))
end = nn.squared_error(states[-1], np.array([0.5]))
end.backward()
draw(end, direction="TB")

# %% [markdown]
# ## Which loss learns from which step
#
# A sum over $t$ hides a table. $L(t)$ depends on the use of $W$ at every step $k \le t$, so
# $\partial L/\partial W = \sum_t \sum_{k \le t} \partial L(t)/\partial W|_{\text{via } k}$ (E21):

# %%
table = explain.through_time(step_losses, model.cell.W)
table

# %%
print("the sum of all cells is ∂L/∂W:", same(table.total, hand["W"]))
plots.heat_map(table)

# %% [markdown]
# The column $k = 1$ is zero, since $h(0) = 0$. In rows 3 and 4, what comes by way of $k = 2$ is
# less than half of what comes by $k = 3$: how the past fades is the subject of notebook 7.
#
# ## Real text
#
# The same class with 64 hidden units, on English (the help pages of Python's own library). Long
# text is cut into pieces of 25 steps; the state is carried over from piece to piece, its history is
# not (`detach`, truncated BPTT; Williams & Peng 1990). `tb.compile` records the step once and
# replays it (notebook 10). Gradients are clipped to norm 5 (Pascanu et al. 2013).

# %%
codes, alphabet = datasets.english()
words = "".join(np.array(alphabet)[codes]).split()
words = [word for word in words if word.strip(".,;:()").isalpha()]  # without tables and signs
codes, alphabet = datasets.encode(" ".join(words))
one_hot = np.eye(len(alphabet))
network = nn.CharRNN(len(alphabet), 64, rng=0)
optimizer = optim.Adam(network.parameters(), lr=5e-3)


@tb.compile
def step(network, inputs, targets, state):
    logits, state = network(inputs, state)
    return nn.cross_entropy(tb.stack(logits), targets), state


history, state = [], network.cell.initial_state(16)
for i, (inputs, targets) in enumerate(training.streams(codes, 16, 25)):
    if i == 600:
        break
    optimizer.zero_grad()
    loss, state = step.backward(network, one_hot[inputs], targets, state)
    optim.clip_grad_norm(network.parameters(), 5.0)
    optimizer.step()
    history.append(float(loss))

guess = np.log(len(alphabet))
print("at first, a symbol costs about as much as a guess:", abs(history[0] - guess) < 1.0)
print("after 600 updates less than 2.5 nats:", np.mean(history[-50:]) < 2.5)

# %% tags=["measured"]
smooth = np.convolve(history, np.ones(20) / 20, "valid")[::10]
plot = plots.curves({"loss in nats per symbol": smooth})
plot.figure.axes[0].set_xlabel("update / 10")
plot

# %% [markdown]
# And it writes. (Drawn symbol by symbol from the predicted distribution: not much English yet, but
# the shape of words; line breaks are ours.)

# %% tags=["measured"]
rng, state, code, written = np.random.default_rng(0), network.cell.initial_state(1), 0, []
with tb.no_grad():
    for _ in range(300):
        logits, state = network(one_hot[[[code]]], state)
        chances = tb.softmax(logits[0] / 0.6).data[0]
        code = int(rng.choice(len(alphabet), p=chances / chances.sum()))
        written.append(alphabet[code])
print(textwrap.fill("".join(written), 90))

# %% [markdown]
# ## Exercises
#
# **1.** Below is a recursion for δ(t) with a mistake in it. Run the cell: `compare` says that
# something is wrong, and walks the deltas backwards to the first one that departs. Repair the
# marked line.

# %%
mine = {tau: V.T @ error[tau]}
for t in range(tau - 1, 0, -1):
    mine[t] = V.T @ error[t] + W.T @ mine[t + 1]  # <- what is missing?
dW = sum(np.outer((1 - h[t] ** 2) * mine[t], h[t - 1]) for t in steps).T
explain.compare(L, {"W": dW}, {f"h({t})": mine[t][None] for t in steps})

# %% [markdown]
# <details><summary>Solution</summary>
#
# The slope of tanh at step $t+1$, as in E24:
# `mine[t] = V.T @ error[t] + W.T @ ((1 - h[t + 1] ** 2) * mine[t + 1])`. At $\tau$ nothing is
# passed yet, so δ(4) was right, and δ(3) is the first that departs.
# </details>
#
# **2.** Derive $\partial L/\partial h(0)$, the gradient of the initial state, and check it: make
# `h0` a `tb.Tensor` before the forward pass.

# %%
start = tb.Tensor(h0, "h0")
again, _ = model(x[:, None], start)
L_again = sum(nn.cross_entropy(o, y[t : t + 1]) for t, o in enumerate(again))
explain.compare(L_again, {"h0": (W.T @ delta[1])[None]})  # <- your formula here

# %% [markdown]
# <details><summary>Solution</summary>
#
# $h(0)$ acts on the loss through $z(1)$ only:
# $\partial L/\partial h(0) = W^\top \operatorname{diag}(1 - h(1)^2)\, \delta(1)$, that is
# `(W.T @ delta_z[1])[None]`. It is E24 without the output's term, since there is no $o(0)$.
# </details>
#
# **3.** A network whose state is not tanh but sigmoid: which factor changes in E24, and to what?
# Check it with `nn.RNNCell(..., activation="sigmoid")`.
#
# <details><summary>Solution</summary>
#
# $1 - h(t+1)^2$ becomes $h(t+1)\,(1 - h(t+1))$, at most ¼: such a network forgets faster still.
# </details>
#
# ## Sources
#
# P. J. Werbos, *Backpropagation through time: what it does and how to do it*, Proc. IEEE 78 (1990).
# · I. Goodfellow, Y. Bengio, A. Courville, *Deep Learning* (2016), section 10.2.2. · R. J.
# Williams, J. Peng, *An efficient gradient-based algorithm for on-line training of recurrent
# network trajectories*, Neural Computation 2 (1990). · R. Pascanu, T. Mikolov, Y. Bengio, *On the
# difficulty of training recurrent neural networks*, ICML (2013).
