# %% [markdown]
# # 8. Attention
#
# A recurrent network hands the past on from step to step, through the same narrow state. In
# *attention* each step reads from all others directly: nothing has to survive a long product of
# Jacobians (notebook 7). Here is one attention with every delta derived and checked (E30), the
# projections that are shared by all steps (E17), the causal mask, and a small Transformer.
#
# *About 40 minutes. You need deep networks (4) and shared weights (5).*
#
# **Notation.** Here rows are usual in textbooks too (Vaswani et al. 2017): $X$ has a step in each
# row, $T \times d$. So formulas and code agree, and nothing is transposed.

# %%
import numpy as np

import tinygrad_bp as tb
from tinygrad_bp import explain, nn, optim
from tinygrad_bp.visualize import draw, plots

np.set_printoptions(precision=4, suppress=True, linewidth=100)


def same(a, b):
    """Whether two arrays are equal but for rounding."""
    return bool(np.allclose(a, b, rtol=1e-10, atol=1e-13))


# %% [markdown]
# ## Forward
#
# $$Q = X W_q, \quad K = X W_k, \quad V = X W_v, \qquad S = \tfrac{1}{\sqrt d}\, Q K^\top, \quad
# P = \operatorname{softmax}(S) \text{ by rows}, \quad O = P V$$
#
# $P_{ts}$ is how much step $t$ reads of step $s$. `nn.attention_weights` is the first half; we
# write it all out once, and name what we want to see.

# %%
rng = np.random.default_rng(0)
T, d = 4, 3
X = tb.Tensor(rng.normal(size=(T, d)), "X")
Wq, Wk, Wv = (tb.Tensor(rng.normal(size=(d, d)), name) for name in ("W_q", "W_k", "W_v"))
target = rng.normal(size=(T, d))

Q, K, V = (nn.named(X @ W, n) for W, n in ((Wq, "Q"), (Wk, "K"), (Wv, "V")))
S = nn.named(Q @ K.T * (1 / np.sqrt(d)), "S")
P = nn.named(tb.softmax(S), "P")
O = nn.named(P @ V, "O")
loss = nn.squared_error(O, target, "sum")

print("rows of P:", P.data.sum(1), "the same as the library's:",
      same(O.data, nn.scaled_dot_product_attention(Q, K, V).data))  # fmt: skip
print(P.data)

# %% [markdown]
# ## E30 · Backward, by hand
#
# With $\delta_M = \partial C/\partial M$ for each matrix $M$, from the loss
# $C = \tfrac12\|O - Y\|^2$ backwards. A product $M = AB$ has $\delta_A = \delta_M B^\top$ and
# $\delta_B = A^\top \delta_M$; that is nearly all of it:
#
# $$\delta_O = O - Y, \qquad \delta_V = P^\top \delta_O, \qquad \delta_P = \delta_O V^\top$$
#
# The softmax of a row $p$ has the Jacobian $\operatorname{diag}(p) - p\,p^\top$ (E2), so row by row
#
# $$\delta_S = P \odot (\delta_P - \rho\, 1^\top), \qquad \rho_t = \sum_s P_{ts}\, \delta_{P,ts}$$
#
# $$\delta_Q = \tfrac{1}{\sqrt d}\, \delta_S K, \qquad \delta_K = \tfrac{1}{\sqrt d}\, \delta_S^\top Q, \qquad
# \frac{\partial C}{\partial W_q} = X^\top \delta_Q, \quad \frac{\partial C}{\partial W_k} = X^\top \delta_K, \quad
# \frac{\partial C}{\partial W_v} = X^\top \delta_V$$

# %%
p, q, k, v, x = (node.data for node in (P, Q, K, V, X))
delta = {"O": O.data - target}
delta["V"] = p.T @ delta["O"]
delta["P"] = delta["O"] @ v.T
delta["S"] = p * (delta["P"] - (p * delta["P"]).sum(1, keepdims=True))
delta["Q"] = delta["S"] @ k / np.sqrt(d)
delta["K"] = delta["S"].T @ q / np.sqrt(d)

swept = explain.deltas(loss)
print({name: same(swept[name].delta, array) for name, array in delta.items()})
explain.compare(loss, {
    "W_q": x.T @ delta["Q"], "W_k": x.T @ delta["K"], "W_v": x.T @ delta["V"],
})  # fmt: skip

# %% [markdown]
# Rows of $\delta_S$ add up to zero: raising all scores of a row by the same number changes nothing.

# %%
print(np.abs(delta["S"].sum(1)).max() < 1e-14)

# %% [markdown]
# The derivation, generated from the graph, and the picture of the forward pass:

# %%
explain.derive(loss, [Wq, Wk, Wv], convention="rows")

# %%
draw(loss, direction="TB")

# %% [markdown]
# ## Shared projections: one matrix, many uses
#
# $X$ is used three times, for $Q$, $K$ and $V$; its gradient is the sum of three terms (E17):
#
# $$\frac{\partial C}{\partial X} = \delta_Q W_q^\top + \delta_K W_k^\top + \delta_V W_v^\top$$

# %%
explain.contributions(loss, X).table()

# %%
terms = [delta["Q"] @ Wq.data.T, delta["K"] @ Wk.data.T, delta["V"] @ Wv.data.T]
uses = explain.contributions(loss, X)
print(
    "each use is one of the terms:",
    all(any(same(use, term) for term in terms) for use in uses.arrays),
)
print("their sum is the gradient:", same(uses.total, sum(terms)))

# %% [markdown]
# And each projection is used by every step, as the recurrent matrix is:
# $\partial C/\partial W_q = \sum_t x_t^\top \delta_{Q,t}$. With one matrix for all three roles,
# $W_q = W_k = W_v = W$, the gradient is the sum of the three:

# %%
W = tb.Tensor(Wq.data, "W")


def one_attention(a, b, c):
    return nn.squared_error(nn.scaled_dot_product_attention(x @ a, x @ b, x @ c), target, "sum")


copies = tb.grad(one_attention, (0, 1, 2))(W.data, W.data, W.data)
shared = tb.grad(lambda W: one_attention(W, W, W))(W.data)
print(
    "copies:",
    [f"{np.linalg.norm(c):.4f}" for c in copies],
    "their sum:",
    f"{np.linalg.norm(sum(copies)):.4f}",
)
print("the shared one is their sum:", same(shared, sum(copies)))

# %% [markdown]
# ## Why divide by √d?
#
# A product of two random vectors of length $d$ has variance $d$. Without the division scores grow,
# the softmax saturates, its Jacobian $\operatorname{diag}(p) - p\,p^\top$ goes to zero, and no
# gradient reaches $Q$ and $K$ (Vaswani et al. 2017, section 3.2.1). In numbers, means over 200
# draws:


# %%
def jacobian_size(d, scale, draws=200):
    random = np.random.default_rng(1)
    sizes = []
    for _ in range(draws):
        p = tb.softmax(tb.Tensor(random.normal(size=(8, d)) @ random.normal(size=d) * scale)).data
        sizes.append(np.linalg.norm(np.diag(p) - np.outer(p, p)))
    return np.mean(sizes)


for width in (1, 4, 16, 64, 256):
    print(
        f"d = {width:3}: ‖J‖ without {jacobian_size(width, 1):.3f}, with 1/√d {jacobian_size(width, width**-0.5):.3f}"
    )

# %% [markdown]
# ## The causal mask
#
# Who predicts the next symbol must not read it. Scores of later steps are set to $-\infty$: their
# weight is exactly 0, and so is every gradient that would pass there.

# %%
causal = nn.attention_weights(Q, K, causal=True)
print(causal.data)
reads = tb.jacobian(
    lambda X: nn.scaled_dot_product_attention(X @ Wq.data, X @ Wk.data, X @ Wv.data, causal=True)
)(x)
print("does output t depend on input s?")
print((np.abs(reads).max((1, 3)) > 0).astype(int))

# %% [markdown]
# ## A short way back
#
# In notebook 7 the gradient from step $t$ to step $k$ had to pass $t - k$ Jacobians. Here it passes
# one attention, whatever the distance. Mean norms of
# $\partial(\text{output } t)/\partial(\text{input } k)$ by lag, of both, over 40 steps:

# %%
steps, width = 40, 8
random = np.random.default_rng(0)
inputs = random.normal(size=(steps, width))
a, b, c = (random.normal(size=(width, width)) / np.sqrt(width) for _ in range(3))
of_attention = tb.jacobian(
    lambda X: nn.scaled_dot_product_attention(X @ a, X @ b, X @ c, causal=True)
)(inputs)
cell = nn.RNNCell(width, width, rng=0)


def recurrent(X):
    return tb.stack(nn.unroll(cell, X, cell.initial_state()))


of_rnn = tb.jacobian(recurrent)(inputs)


def by_lag(jacobian, lag):
    return np.mean([np.linalg.norm(jacobian[t, :, t - lag]) for t in range(lag, steps)])


print("lag      ", *(f"{lag:8}" for lag in (1, 5, 10, 20, 35)))
print("RNN      ", *(f"{by_lag(of_rnn, lag):8.1e}" for lag in (1, 5, 10, 20, 35)))
print("attention", *(f"{by_lag(of_attention, lag):8.1e}" for lag in (1, 5, 10, 20, 35)))

# %%
plot = plots.curves(
    {
        n: [by_lag(J, lag) for lag in range(1, 36)]
        for n, J in (("RNN", of_rnn), ("attention", of_attention))
    },
    log=True,
)
plot.figure.axes[0].set(xlabel="lag t − k", title="‖∂ output(t) / ∂ input(k)‖, mean over t")
plot

# %% [markdown]
# ## A small Transformer
#
# By itself attention does not know the order of the steps: shuffle its input, and the output is
# shuffled in the same way.

# %%
shuffle = [2, 0, 3, 1]
plain = nn.scaled_dot_product_attention(Q, K, V).data
print(
    same(nn.scaled_dot_product_attention(Q[shuffle], K[shuffle], V[shuffle]).data, plain[shuffle])
)

# %% [markdown]
# So symbols become vectors, and to each a vector is added that tells its position. Then one block:
# causal attention with two heads (two attentions side by side, each on half of the features), and a
# small network at each step; and logits. The task cannot be done without looking back: the second
# half of each sequence repeats the first. So a symbol of the second half can be known, one of the
# first half cannot.


# %%
class Transformer(nn.Module):
    """One block of a Transformer that predicts the next symbol."""

    def __init__(self, symbols, features, steps, rng):
        rng = np.random.default_rng(rng)
        self.embedding = nn.Embedding(symbols, features, rng=rng)
        self.positions = nn.PositionalEncoding(steps, features, learned=True, rng=rng)
        self.positions.P.data = nn.positional_encoding(steps, features)  # sines, to begin with
        self.block = nn.TransformerBlock(features, 2, rng=rng, norm_first=True)
        self.out = nn.Linear(features, symbols, rng=rng)
        self.out.W.data = 0.1 * self.out.W.data  # starts without an opinion

    def forward(self, codes):
        return self.out(self.block(self.positions(self.embedding(codes)), causal=True))


symbols, half, batch = 8, 6, 32


def draw_batch(random):
    """Sequences that say the same twice, (time, batch); inputs, and the next symbols."""
    first = random.integers(0, symbols, (half, batch))
    twice = np.concatenate([first, first])
    return twice[:-1], twice[1:]


network = Transformer(symbols, 32, 2 * half, rng=0)
optimizer = optim.Adam(network.parameters(), lr=0.01)


@tb.compile
def step(network, inputs, targets):
    return nn.cross_entropy(network(inputs), targets)


random, history = np.random.default_rng(0), []
for _ in range(250):
    optimizer.zero_grad()
    history.append(float(step.backward(network, *draw_batch(random))))
    optimizer.step()

# %% [markdown]
# What is the best possible loss? Of the 11 predictions the first 5 are guesses among 8 symbols, and
# the other 6 can be certain: $\tfrac{5}{11} \ln 8$ nats.

# %% tags=["measured"]
best = 5 / 11 * np.log(symbols)
print(f"start {history[0]:.2f}, end {np.mean(history[-20:]):.2f}, best possible {best:.2f}")
inputs, targets = draw_batch(np.random.default_rng(1))
with tb.no_grad():
    guesses = network(inputs).data.argmax(-1)
right = (guesses == targets).mean(1)
print("share of right answers at each step:", right.round(2))

# %% tags=["measured"]
smooth = np.convolve(history, np.ones(10) / 10, "valid")[::5]
plot = plots.curves({"loss": smooth, "best possible": [best] * len(smooth)})
plot.figure.axes[0].set_xlabel("update / 5")
plot

# %% [markdown]
# Where does it look? The symbol after step $t$ of the second half, $t = 5, \dots, 10$ (counted from
# 0), is that of step $t - 5$. The weights of each head, for one sequence, last six rows:

# %% tags=["measured"]
with tb.no_grad():
    h = network.block.norm1(network.positions(network.embedding(inputs)))
    _, weights = network.block.attention(h, causal=True, need_weights=True)
for head in (0, 1):
    print(
        f"head {head}: most read step",
        weights.data[0, head].argmax(-1)[5:],
        "weight",
        weights.data[0, head].max(-1)[5:].round(2),
    )
print("        t − 5          ", np.arange(6))

# %% [markdown]
# ## Exercises
#
# **1.** Article 3 states $\delta = (\partial C/\partial a) \odot \sigma'(z)$ (E2) for every output
# layer; for a sigmoid, $\sigma' = a(1 - a)$. Does it hold for a softmax?

# %%
mine = p * (1 - p) * delta["P"]  # <- as article 3 would have it: δ = (∂C/∂a) ⊙ σ'(z)
explain.compare(loss, {"W_q": x.T @ (mine @ k / np.sqrt(d))}, {"S": mine})

# %% [markdown]
# <details><summary>Solution</summary>
#
# No: the whole Jacobian belongs here, $J = \operatorname{diag}(p) - p\,p^\top$, and so
# `p * (delta["P"] - (p * delta["P"]).sum(1, keepdims=True))`. The softmax is not elementwise: each
# of its outputs depends on every score of the row.
# </details>
#
# **2.** What is $\partial C/\partial W_v$ if all scores are equal (say $W_q = 0$)? Derive it before
# you run the cell.

# %%
P0, zero = np.full((T, T), 1 / T), np.zeros((d, d))
guess = x.T @ (P0 @ v)  # <- yours, from x, P0, v and target
of_equal = one_attention(tb.Tensor(zero, "W_q"), Wk, Wv)
explain.compare(of_equal, {Wv: guess})

# %% [markdown]
# <details><summary>Solution</summary>
#
# Every row of $P$ is $1/T$, so every output is the mean of $V$:
# $\partial C/\partial W_v = X^\top P^\top (P V - Y)$, `x.T @ P0.T @ (P0 @ v - target)`.
# </details>
#
# **3.** Let both $W_q$ and $W_k$ start at zero. Which of the three projections will ever move? Look
# at $\delta_Q$ and $\delta_K$, then run:

# %%
print([f"{np.linalg.norm(g):.3f}" for g in tb.grad(one_attention, (0, 1, 2))(zero, zero, Wv.data)])
print(
    [f"{np.linalg.norm(g):.3f}" for g in tb.grad(one_attention, (0, 1, 2))(zero, Wk.data, Wv.data)]
)

# %% [markdown]
# <details><summary>Solution</summary>
#
# $\delta_Q = \delta_S K / \sqrt d$ is zero where $K = 0$, and
# $\delta_K = \delta_S^\top Q / \sqrt d$ where $Q = 0$: from zero for both, only $W_v$ moves, for
# ever. With $W_q = 0$ alone, $W_q$ moves at once, and $W_k$ after it.
# </details>
#
# ## Sources
#
# A. Vaswani et al., *Attention is all you need*, NeurIPS (2017). · R. Xiong et al., *On layer
# normalization in the Transformer architecture*, ICML (2020). · D. Bahdanau, K. Cho, Y. Bengio,
# *Neural machine translation by jointly learning to align and translate*, ICLR (2015).
