# %% [markdown]
# # 7. Vanishing gradients, truncation, gates
#
# The gradient of a recurrent network is a sum over pairs of times: which loss learns from which
# step. How large are its terms (E27)? What do we lose when we leave the distant ones out (E28)? And
# what do the gates of an LSTM or a GRU change (E29)?
#
# *About 45 minutes. You need back-propagation through time (6).*
#
# **Notation** as in notebook 6: $h(t) = \tanh(U x(t) + W h(t-1) + b)$, column vectors; the
# library's arrays are the transposes (`W.T` is the textbook's $W$).

# %%
import numpy as np

import tinygrad_bp as tb
from tinygrad_bp import datasets, explain, nn, optim, training
from tinygrad_bp.visualize import plots

np.set_printoptions(precision=4, suppress=True, linewidth=100)


def same(a, b):
    """Whether two arrays are equal but for rounding."""
    return bool(np.allclose(a, b, rtol=1e-10, atol=1e-14))


# %% [markdown]
# ## E27 · A product, one factor for each step
#
# $$\frac{\partial h(t)}{\partial h(k)} = \prod_{i=t}^{k+1} \operatorname{diag}(1 - h(i)^2)\, W
# = \operatorname{diag}(1 - h(t)^2)\, W \;\cdots\; \operatorname{diag}(1 - h(k+1)^2)\, W$$
#
# The order matters, as matrices do not commute: the factor of the *last* step stands on the left.
# By hand, and by `explain.jacobians`:

# %%
rng = np.random.default_rng(0)
tau, units = 20, 8
xs = rng.normal(size=(tau, 1, 2))
cell = nn.RNNCell(2, units, rng=1)
states = nn.unroll(cell, xs, cell.initial_state(1))  # h(1) ... h(20)
J = explain.jacobians(states)

t, k = 7, 4
W = cell.W.data.T
h = {i: states[i - 1].data[0] for i in range(1, tau + 1)}
product, reversed_product = np.eye(units), np.eye(units)
for i in range(t, k, -1):  # i = 7, 6, 5
    factor = np.diag(1 - h[i] ** 2) @ W
    product, reversed_product = product @ factor, factor @ reversed_product
print("the product from t on the left:", same(J[t, k], product))
print("the factors in the other order:", same(J[t, k], reversed_product))

# %% [markdown]
# ## How its norm depends on the lag
#
# First without the slopes. Take $x = 0$, $b = 0$: the state stays 0, each slope is $1 - 0^2 = 1$,
# and the product is $W^{t-k}$. With $W = \rho\, Q$, $Q$ orthogonal, every singular value of it is
# exactly $\rho^{t-k}$:


# %%
def run(rho, xs, kind=nn.RNNCell, **options):
    """The Jacobians of a network whose recurrent matrix is ρ times an orthogonal one."""
    cell = kind(2, units, rng=1, recurrent=nn.init.orthogonal, **options)
    cell.W.data = rho * cell.W.data
    return explain.jacobians(nn.unroll(cell, xs, cell.initial_state(1)))


silence = np.zeros((tau, 1, 2))
for rho in (0.7, 1.0, 1.3):
    quiet = run(rho, silence)
    values = [quiet.singular_values(1 + lag, 1) for lag in (1, 5, 19)]
    print(f"ρ = {rho}: lag 1, 5, 19:", *(f"{v.min():.4g} … {v.max():.4g}" for v in values),
          "| ρ^lag:", *(f"{rho**lag:.4g}" for lag in (1, 5, 19)))  # fmt: skip

# %% [markdown]
# Below 1 the gradient **vanishes**, above 1 it **explodes**, both exponentially. Now with inputs:
# states move away from zero, slopes fall below 1, and each factor shrinks. (Each curve is the mean
# over all pairs of that lag; the scale is logarithmic, so a straight line is an exponential.)

# %%
plots.norms_by_lag({f"ρ = {rho}": run(rho, xs) for rho in (0.7, 1.0, 1.3, 2.5)})

# %% [markdown]
# Two things to read from the picture, and the numbers for them:
#
# - $\|W\| < 1$ is **enough** to vanish: a slope is at most 1, so
#   $\|\partial h(t)/\partial h(k)\| \le \|W\|^{t-k}$ (Pascanu et al. 2013, section 2.1).
# - $\|W\| > 1$ is **necessary** to explode, not sufficient: with inputs, the slopes of tanh may
#   well win.

# %%
for rho in (0.7, 1.3):
    spectral = run(rho, xs).norms(2)
    bounds = rho ** np.subtract.outer(np.arange(tau), np.arange(tau)).astype(float)
    within = spectral <= bounds * (1 + 1e-12)
    print(f"ρ = {rho}: bound ρ^lag holds for every pair: {within[np.tril_indices(tau)].all()}; "
          f"at lag 19 the norm is {spectral[-1, 0]:.2g}, the bound {bounds[-1, 0]:.2g}")  # fmt: skip

# %% [markdown]
# ## What that does to a gradient
#
# A loss at every step; ‖∂L(t)/∂W via step k‖ for each pair. On the whole the past fades, from the
# diagonal to the left; below are the means by lag.

# %%
readout = nn.Linear(units, 1, rng=2)
goals = rng.normal(size=(tau, 1, 1))


def losses_of(cell, cut_every=None, steps=12):
    """The loss of each step; with the history cut off (`detach`) after every so many steps."""
    state, losses = cell.initial_state(1), []
    for t in range(1, steps + 1):
        with tb.scope("step", t):
            state = nn.named(cell(xs[t - 1], state), f"h({t})")
            losses.append(nn.squared_error(readout(state), goals[t - 1]))
        if cut_every and t % cut_every == 0:
            state = state.detach()
    return losses


table = explain.through_time(losses_of(cell), cell.W)
plots.heat_map(table)

# %%
norms = {lag: np.mean(table.norms[table.mask & (table.lags == lag)]) for lag in (0, 3, 6, 9)}
print({lag: f"{norm:.1e}" for lag, norm in norms.items()})

# %% [markdown]
# ## E28 · Truncation: three different sums
#
# Three things go by the name of truncated back-propagation through time. Each keeps other cells of
# that table.
#
# | | keeps the pairs $(t, s)$ with | done by |
# |---|---|---|
# | sliding window | $t - s < k$ | each loss looks back $k$ steps |
# | blocks | $t$ and $s$ in the same block of $k$ | `detach` after every $k$ steps |
# | $k_1, k_2$ | $t \in (T - k_1, T]$, $s \in (T - k_2, t]$, at each update $T$ | `training.truncated_bptt` |

# %%
kept = {
    "sliding 4": table.sliding(4),
    "blocks 4": table.blocks(4),
    "k1 = 4, k2 = 8": table.k1k2(4, 8),
}
for name, truncation in kept.items():
    print(f"{name:16} keeps {truncation.mask.sum():3} of {table.mask.sum()} terms, "
          f"‖dropped‖ / ‖whole‖ = {np.linalg.norm(truncation.dropped) / np.linalg.norm(table.total):.4f}, "
          f"cosine {truncation.cosine:.5f}")  # fmt: skip

# %% [markdown]
# Hatched cells are dropped:


# %%
def shown(name):
    plot = plots.heat_map(kept[name])
    plot.figure.axes[0].set_title(name)
    return plot


shown("sliding 4")

# %%
shown("blocks 4")

# %%
shown("k1 = 4, k2 = 8")

# %% [markdown]
# Are these sums what programs compute? The blocks: run the network with `detach` after every 4
# steps, and sweep. $k_1, k_2$: add up what `training.truncated_bptt` leaves in `grad` at each
# update, with no update made.

# %%
cell.zero_grad()
sum(losses_of(cell, cut_every=4)).backward()
print("blocks:", same(cell.W.grad, kept["blocks 4"].kept))

cell.zero_grad()
for _ in training.truncated_bptt(
    cell, xs[:12], 4, 8, targets=goals[:12], loss=lambda h, y: nn.squared_error(readout(h), y),
    state=cell.initial_state(1),
):  # fmt: skip
    pass
print("k1, k2:", same(cell.W.grad, kept["k1 = 4, k2 = 8"].kept))

# %% [markdown]
# ## The other disease has a simple cure
#
# An exploding gradient points the right way, but is too long. Clipping its norm (Pascanu et al.
# 2013, section 3.2) keeps the direction:

# %%
wild = nn.RNNCell(2, units, rng=1, recurrent=nn.init.orthogonal)
wild.W.data = 2.0 * wild.W.data
states = nn.unroll(wild, silence, wild.initial_state(1))  # 20 steps: each doubles the gradient
nn.squared_error(readout(states[-1]), [[1.0]]).backward()
before = wild.b.grad
optim.clip_grad_norm([wild.b], 1.0)
size, clipped = np.linalg.norm(before), np.linalg.norm(wild.b.grad)
cosine = before @ wild.b.grad / size / clipped
print(f"‖∂L/∂b‖ = {size:,.0f}; clipped {clipped:.4f}, cosine {cosine:.4f}")

# %% [markdown]
# A vanished gradient cannot be made longer: what is lost is in the sum, beneath the near terms.
# That needs another network.
#
# ## E29 · LSTM: a state that is added to
#
# $$i, f, o = \sigma(z_i), \sigma(z_f), \sigma(z_o), \qquad g = \tanh(z_g), \qquad z = U x(t) + W h(t-1) + b$$
# $$c(t) = f(t) \odot c(t-1) + i(t) \odot g(t), \qquad h(t) = o(t) \odot \tanh c(t)$$
#
# (Hochreiter & Schmidhuber 1997; the forget gate $f$ is that of Gers et al. 2000.) By the same
# chain rule as ever, with $\delta_q = \partial L/\partial q$:
#
# $$\delta_c(t) = \delta_h(t) \odot o(t) \odot (1 - \tanh^2 c(t)) + \delta_c(t+1) \odot f(t+1)$$
# $$\delta_o = \delta_h \odot \tanh c, \quad \delta_f(t) = \delta_c(t) \odot c(t-1), \quad \delta_i = \delta_c \odot g, \quad \delta_g = \delta_c \odot i$$
#
# No matrix and no slope stand between $\delta_c(t+1)$ and $\delta_c(t)$ on the direct way, only the
# gate $f(t+1)$. Each formula, against the sweep:

# %%
lstm = nn.LSTMCell(2, units, rng=1)
pairs = nn.unroll(lstm, xs, lstm.initial_state(1))
loss = sum(nn.squared_error(readout(h_t), y) for (h_t, _), y in zip(pairs, goals, strict=True))
d = explain.deltas(loss)


def delta(name, t):
    return d[name, t].delta


def value(name, t):
    return d[name, t].value


t = 12
c, f, o, g, i = (value(name, t) for name in "cfogi")
by_hand = {
    "c": delta("h", t) * o * (1 - np.tanh(c) ** 2) + delta("c", t + 1) * value("f", t + 1),
    "o": delta("h", t) * np.tanh(c),
    "f": delta("c", t) * value("c", t - 1),
    "i": delta("c", t) * g,
    "g": delta("c", t) * i,
}
for name, array in by_hand.items():
    print(f"δ_{name}({t}):", same(delta(name, t), array))
print("δ_z_f = δ_f f (1 − f):", same(delta("z_f", t), delta("f", t) * f * (1 - f)))

# %% [markdown]
# ## Gates keep gradients alive
#
# ∂c(t)/∂c(k) of the LSTM contains $\prod f$ beside all that goes round through $h$. Over 60 steps:
# the plain network with $\rho = 0.7$; the LSTM as it starts, with a forget bias of 3,
# $f \approx 0.95$ (Jozefowicz et al. 2015); the GRU as it starts, with the bias of its gate $z$ at
# 3.

# %%
long = rng.normal(size=(60, 1, 2))
lstm = nn.LSTMCell(2, units, rng=1, forget_bias=3.0)
gru = nn.GRUCell(2, units, rng=1)
b = gru.b.data.copy()
b[units : 2 * units] = 3.0  # the columns of z
gru.b.data = b
J_lstm, J_gru = (
    explain.jacobians(nn.unroll(cell, long, cell.initial_state(1))) for cell in (lstm, gru)
)
J_rnn = run(0.7, long)
plots.norms_by_lag({"RNN": J_rnn, "GRU": J_gru, "LSTM (h, c)": J_lstm})

# %%
for name, norm in [
    ("RNN   h by h", np.linalg.norm(J_rnn[60, 20], 2)),
    ("GRU   h by h", np.linalg.norm(J_gru[60, 20], 2)),
    ("LSTM  h by h", np.linalg.norm(J_lstm.block(60, 20, "h", "h"), 2)),
    ("LSTM  c by c", np.linalg.norm(J_lstm.block(60, 20, "c", "c"), 2)),
]:
    print(f"{name}, lag 40: {norm:.1e}")
print(f"for comparison, σ(3)^40 = {(1 / (1 + np.exp(-3.0))) ** 40:.1e}")

# %% [markdown]
# The exponential is still there; its base is near 1, and the network can *learn* it, gate by gate
# and step by step.
#
# ## The adding problem
#
# In a sequence of 40 numbers two are marked; give their sum at the end (Hochreiter & Schmidhuber
# 1997, section 5.4). Whoever ignores the marks and always answers 1 has the mean squared error 1/6.
# Same size, same data, same optimizer for each of the three:


# %% tags=["measured"]
class Adder(nn.Module):
    """A recurrent layer, and a number read from its last state."""

    def __init__(self, layer, rng):
        rng = np.random.default_rng(rng)
        self.layer = layer(2, 16, rng=rng, outputs="last")
        self.out = nn.Linear(16, 1, rng=rng)

    def forward(self, xs):
        return self.out(self.layer(xs)[0])


def train(layer, updates=600):
    model, random, errors = Adder(layer, rng=0), np.random.default_rng(0), []
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    step = tb.compile(lambda model, x, y: 2.0 * nn.squared_error(model(x), y))
    for _ in range(updates):
        x, y = datasets.adding(32, 40, rng=random)
        optimizer.zero_grad()
        errors.append(float(step.backward(model, np.ascontiguousarray(x.transpose(1, 0, 2)), y)))
        optim.clip_grad_norm(model.parameters(), 1.0)
        optimizer.step()
    return errors


errors = {layer.__name__: train(layer) for layer in (nn.RNN, nn.GRU, nn.LSTM)}
for name, history in errors.items():
    end = np.mean(history[-50:])
    print(f"{name:4} {end:.3f}", "has learnt to add" if end < 0.03 else "has not")

# %% tags=["measured"]
smooth = {name: np.convolve(e, np.ones(20) / 20, "valid")[::10] for name, e in errors.items()}
smooth["always 1"] = [1 / 6] * len(smooth["RNN"])
plot = plots.curves(smooth, log=True)
plot.figure.axes[0].set(xlabel="update / 10", title="mean squared error")
plot

# %% [markdown]
# ## Exercises
#
# **1.** A GRU computes $h(t) = (1 - z) \odot n + z \odot h(t-1)$. Derive $\partial L/\partial z(t)$
# and $\partial L/\partial n(t)$ from $\delta_h(t)$, and repair the two marked lines. (The deltas of
# a GRU are named `z`, `n`, `r`; the state before is `h(t-1)`.)

# %%
small = nn.GRUCell(2, 3, rng=4)
hs = nn.unroll(small, xs[:4], small.initial_state(1))
E = nn.squared_error(hs[-1], np.array([[0.3, -0.2, 0.5]]))
q = explain.deltas(E)
dh, z, n = q["h", 4].delta, q["z", 4].value, q["n", 4].value
explain.compare(E, {}, {
    "n(4)": dh * z,  # <- yours
    "z(4)": dh * (n - q["h", 3].value),  # <- yours
})  # fmt: skip

# %% [markdown]
# <details><summary>Solution</summary>
#
# $\delta_n = \delta_h \odot (1 - z)$ and $\delta_z = \delta_h \odot (h(t-1) - n)$: `dh * (1 - z)`
# and `dh * (q["h", 3].value - n)`.
# </details>
#
# **2.** Which truncation keeps more terms, `table.sliding(4)` or `table.k1k2(1, 4)`? Think first.

# %%
print(np.array_equal(table.sliding(4).mask, table.k1k2(1, 4).mask))

# %% [markdown]
# <details><summary>Solution</summary>
#
# Neither: an update after every step ($k_1 = 1$) that reaches back $k_2$ steps keeps for each $t$
# the steps $s \in (t - k_2, t]$, and that is the sliding window. Blocks are $k_1 = k_2$.
# </details>
#
# **3.** A single unit with $x = 0$, $b = 0$, $h(0) = 0.1$ and a weight $w$. For which $w$ does
# $\partial h(t)/\partial h(0)$ vanish as $t$ grows? Try $w = 1.3$: is it larger than 1?

# %%
unit = nn.RNNCell(1, 1, rng=0)
unit.W.data = np.array([[1.3]])
path = nn.unroll(unit, np.zeros((40, 1, 1)), np.array([[0.1]]))
chain = explain.jacobians(path)
print([f"{chain[t, 1][0, 0]:.2g}" for t in (2, 4, 6, 8, 12, 20, 40)])
print(f"h(40) = {path[-1].item():.3f}, the last factor {chain[40, 39][0, 0]:.3f}")

# %% [markdown]
# <details><summary>Solution</summary>
#
# For $|w| \le 1$ the state goes to 0 and the derivative with it. For $w = 1.3$ it first grows as
# $1.3^t$; then the state settles where $h = \tanh(1.3\, h)$, at 0.75, where the factor is
# $1.3\,(1 - 0.75^2) = 0.57 < 1$, and it vanishes in the end. Exploding is a matter of *where* the
# state is, not of $w$ alone.
# </details>
#
# ## Sources
#
# Y. Bengio, P. Simard, P. Frasconi, *Learning long-term dependencies with gradient descent is
# difficult*, IEEE Trans. Neural Networks 5 (1994). · R. Pascanu, T. Mikolov, Y. Bengio, *On the
# difficulty of training recurrent neural networks*, ICML (2013). · S. Hochreiter, J. Schmidhuber,
# *Long short-term memory*, Neural Computation 9 (1997). · F. Gers, J. Schmidhuber, F. Cummins,
# *Learning to forget*, Neural Computation 12 (2000). · K. Cho et al., *Learning phrase
# representations using RNN encoder-decoder*, EMNLP (2014). · R. Jozefowicz, W. Zaremba, I.
# Sutskever, *An empirical exploration of recurrent network architectures*, ICML (2015). · R. J.
# Williams, J. Peng, Neural Computation 2 (1990).
