# %% [markdown]
# # 5. Back-propagation through time, in two steps
#
# A recurrent network uses the same weights at every step. Unroll it, and it is a deep network whose layers
# share their weights; pretend that each step has a copy of its own, differentiate, and add up. That is all
# of back-propagation through time. Here you do it by hand for two steps of single numbers, and then read
# the whole table of "which loss learns from which step".
#
# *About 40 minutes. You need [notebook 2](02_chain_rule_and_paths.ipynb) (paths, copies); for the last third
# also the columns and rows of [notebook 3](03_logistic_network.ipynb).*
#
# Sources: Werbos (1990), *Backpropagation through time: what it does and how to do it*; Goodfellow, Bengio
# & Courville (2016), *Deep Learning*, section 10.2.2.

# %%
import numpy as np

import tinygrad_bp as tb
from tinygrad_bp import explain, nn
from tinygrad_bp.visualize import draw, plots

# %% [markdown]
# ## The chain
#
# One hidden unit, two steps $t = 0, 1$, and a loss after the second:
#
# $$z_t = u\,x_t + w\,s_{t-1} + k, \qquad s_t = \varphi(z_t), \qquad q = v\,s_1, \qquad o = g(q),$$
#
# $$E = -y\log o - (1-y)\log(1-o), \qquad g(q) = \frac{1}{1+e^{-q}}, \quad \varphi = \tanh.$$
#
# (The article lets $\varphi$ be sigmoid or tanh. Why $g$ is a sigmoid here, and not the article's softmax,
# is the next section.) The function takes a copy of $u$ and $w$ for each step; names such as `z(0)` tell
# the library the time step.

# %%
x0, x1, before, y = 0.7, -1.3, 0.4, 0.8  # inputs, s(−1), target
numbers = {"u": 0.5, "w": -1.1, "k": 0.3, "v": 1.7}


def chain(u0, u1, w0, w1, k, v):
    z0 = nn.named(u0 * x0 + (w0 * before + k), "z(0)")
    s0 = nn.named(tb.tanh(z0), "s(0)")
    z1 = nn.named(u1 * x1 + (w1 * s0 + k), "z(1)")
    s1 = nn.named(tb.tanh(z1), "s(1)")
    return nn.named(v * s1, "q")


u, w, k, v = (tb.Value(number, name) for name, number in numbers.items())
q = chain(u, u, w, w, k, v)
E = nn.named(nn.binary_cross_entropy_with_logits(q, y), "E")
print(f"q = {q.data:.6f}   o = {tb.sigmoid(q.data):.6f}   E = {E.data:.6f}")

# %% [markdown]
# ## What the article prints wrong: the softmax of one logit
#
# The article puts a softmax on the single number $q$. But $o = e^q / e^q = 1$ whatever $q$ is: then
# $E = -\log 1 = 0$, nothing depends on anything, and every gradient is zero.
#
# A softmax needs at least two logits. With one number, the sigmoid is the right output: it *is* the softmax
# of the two logits $(q, 0)$. (That is why the derivative of the loss is the familiar $o - y$ below.)

# %%
o = tb.softmax(tb.values([chain(u, u, w, w, k, v)]))
E_one = -tb.log(o[0])
E_one.backward()
gradients = [abs(p.grad) for p in (u, w, k, v)]
print("o =", o[0].data, "  E =", abs(E_one.data), "  gradients", gradients)
for p in (u, w, k, v):
    p.zero_grad()
print(explain.why(E_one, w).verdict)

print(f"{tb.sigmoid(q.data):.12f}  {tb.softmax(tb.Tensor([q.data, 0.0])).data[0]:.12f}")

# %% [markdown]
# ## By hand, with a copy for each step (E18)
#
# With $u_0, u_1, w_0, w_1$ as if they were different numbers, the chain rule goes straight back through the
# chain $E \to q \to s_1 \to z_1 \to s_0 \to z_0$. `explain.deltas` shows each of these derivatives.

# %%
names = ("u0", "u1", "w0", "w1", "k", "v")
copies = {name: tb.Value(numbers[name[0]], name) for name in names}
E_copies = nn.named(nn.binary_cross_entropy_with_logits(chain(*copies.values()), y), "E")
E_copies.backward()

s0 = np.tanh(0.5 * x0 - 1.1 * before + 0.3)
s1 = np.tanh(0.5 * x1 - 1.1 * s0 + 0.3)
o = 1.0 / (1.0 + np.exp(-1.7 * s1))
delta_q = o - y
delta_z1 = delta_q * 1.7 * (1.0 - s1**2)
delta_z0 = delta_z1 * -1.1 * (1.0 - s0**2)
print(f"by hand: q {delta_q:.5f}, z(1) {delta_z1:.5f}, z(0) {delta_z0:.5f}")
explain.deltas(E_copies)

# %% [markdown]
# Each copy gets its delta times what it multiplied, and the sum over the copies is the derivative by the
# shared weight:
#
# $$\frac{\partial E}{\partial u} = \frac{\partial E}{\partial u_1} + \frac{\partial E}{\partial u_0}
# = \delta_{z_1} x_1 + \delta_{z_0} x_0.$$
#
# That a copy's derivative means what it says can be tested: move *one* copy a little, and leave the other.

# %%
E.backward()
u1, u0 = copies["u1"].grad, copies["u0"].grad
print(f"∂E/∂u₁ = {u1:.6f} (by hand {delta_z1 * x1:.6f})")
print(f"∂E/∂u₀ = {u0:.6f} (by hand {delta_z0 * x0:.6f})")
print(f"sum      {u1 + u0:.6f}   shared u: {u.grad:.6f}")
print("equal to the last bit:", u1 + u0 == u.grad)


def error(u0, u1):
    return float(nn.binary_cross_entropy_with_logits(chain(u0, u1, w, w, k, v), y))


h = 1e-6
for name, h0, h1 in [("u₁ alone", 0.0, h), ("u₀ alone", h, 0.0), ("both", h, h)]:
    difference = error(0.5 + h0, 0.5 + h1) - error(0.5 - h0, 0.5 - h1)
    print(f"move {name:8} {difference / (2 * h):.6f}")

# %% [markdown]
# ## In one formula (E19, E20), and what the article leaves out
#
# With everything that is common put in front of the bracket:
#
# $$\frac{\partial E}{\partial u} = \underbrace{\frac{\partial E}{\partial o}\frac{\partial o}{\partial q}}_{o - y}\; v\,\frac{\partial s_1}{\partial z_1}\Bigl(x_1 + w\,\frac{\partial s_0}{\partial z_0}\,x_0\Bigr),
# \qquad
# \frac{\partial E}{\partial w} = (o - y)\; v\,\frac{\partial s_1}{\partial z_1}\Bigl(s_0 + w\,\frac{\partial s_0}{\partial z_0}\,s_{-1}\Bigr).$$
#
# The article stops here. The other two are no harder:
#
# $$\frac{\partial E}{\partial k} = (o - y)\; v\,\frac{\partial s_1}{\partial z_1}\Bigl(1 + w\,\frac{\partial s_0}{\partial z_0}\Bigr),
# \qquad \frac{\partial E}{\partial v} = (o - y)\,s_1.$$

# %%
common = (o - y) * 1.7 * (1.0 - s1**2)
back = -1.1 * (1.0 - s0**2)  # w ∂s₀/∂z₀: one step back in time
explain.compare(
    E,
    {
        "u": common * (x1 + back * x0),
        "w": common * (s0 + back * before),
        "k": common * (1.0 + back),
        "v": (o - y) * s1,
    },
)

# %% [markdown]
# In the picture the shared $w$ stands once, and two arrows leave it: one for each step. What comes back along
# them are the two copies' derivatives.

# %%
draw(E, direction="TB")

# %%
explain.contributions(E, w)

# %% [markdown]
# And as paths: one path from $w$ to $q$ for each step at which it is used. The one that starts earlier is
# longer, and each further step multiplies it by $w\,\varphi'$: here is where gradients vanish or explode
# ([notebook 7](07_vanishing_and_truncation.ipynb)).

# %%
explain.paths(q, w)

# %% [markdown]
# ## Losses at every step (E21)
#
# From here on vectors: $s_t = \tanh(U x_t + W s_{t-1} + b)$, logits $o_t = V s_t + c$, and a loss $E_t$ at each
# of five steps. Every loss reaches back to every earlier step:
#
# $$\frac{\partial E}{\partial W} = \sum_t \frac{\partial E_t}{\partial W}, \qquad
# \frac{\partial E_t}{\partial W} = \sum_{k \le t} \frac{\partial E_t}{\partial s_t}\,\frac{\partial s_t}{\partial s_k}\,\frac{\partial^+ s_k}{\partial W},$$
#
# where $\partial^+$ means: by the $W$ of step $k$ alone, with $s_{k-1}$ held fixed. So there is a table over
# $(t, k)$, and the gradient is the sum of its cells. Steps are counted from 1 now. (The column of step 1 is
# zero: there $W$ multiplies $s_0 = 0$.)

# %%
rng = np.random.default_rng(2)
model = nn.CharRNN(3, 4, rng=rng)
model.cell.b.data = rng.normal(size=4)
symbols = np.array([0, 2, 1, 1, 0, 2])  # each is to be predicted from those before it
xs = np.eye(3)[symbols[:-1]][:, None]  # (time, batch, symbols)
logits, _ = model(xs, model.cell.initial_state(1))
losses = [nn.cross_entropy(o, symbols[[t]], "sum") for t, o in enumerate(logits, 1)]
table = explain.through_time(losses, model.cell.W)
table

# %%
plots.heat_map(table)

# %% [markdown]
# One cell by hand. With $D_i = \operatorname{diag}(1 - s_i^2)$ the middle factor is a product of Jacobians,
# $\partial s_t/\partial s_k = D_t W\, D_{t-1} W \cdots D_{k+1} W$, latest on the left. Rows again in the code.

# %%
W, V = model.cell.W.data.T, model.V.data.T
s = [np.zeros(4)]
for x in xs[:, 0]:
    s.append(np.tanh(model.cell.U.data.T @ x + W @ s[-1] + model.cell.b.data))


def cell(t, k):
    p = np.exp(V @ s[t] + model.c.data)
    error = p / p.sum() - np.eye(3)[symbols[t]]
    by_state = V.T @ error  # ∂E_t/∂s_t
    product = np.eye(4)  # ∂s_t/∂s_k
    for i in range(t, k, -1):
        product = product @ np.diag(1.0 - s[i] ** 2) @ W
    delta_z = (1.0 - s[k] ** 2) * (product.T @ by_state)
    return np.outer(delta_z, s[k - 1])


print("∂E₄/∂W by way of step 2, first row:")
print("by hand", cell(4, 2)[0].round(6))
print("library", table[4, 2].T[0].round(6))
steps = range(1, 6)
pairs = [(t, k) for t in steps for k in steps if k <= t]
same = [np.allclose(cell(t, k), table[t, k].T, rtol=1e-10) for t, k in pairs]
print(f"{sum(same)} of {len(same)} cells are equal")

# %% [markdown]
# The sums of the table are all there is to know. Along a row: the gradient of one loss. Down a column: what
# the use of $W$ at one step contributes. All of it: what `backward()` gives.

# %%
E = losses[0] + losses[1] + losses[2] + losses[3] + losses[4]
E.backward()
for name, sums in [("rows", table.by_loss()), ("columns", table.by_use())]:
    equal = np.allclose(sum(sums.values()), model.cell.W.grad, rtol=1e-12)
    print(f"the {name} add up to the gradient: {equal}")
uses = explain.contributions(E, model.cell.W).by_step()
print("a column is a copy's share:", np.allclose(uses[2], table.by_use()[2], rtol=1e-12))

# %% [markdown]
# ## What the article prints wrong: only the last loss
#
# The article writes $E = \sum_t E_t$ and then differentiates the last $E_t$ alone. In the table that is the last
# row, in the place of all rows:

# %%
explain.compare(E, {"W": table.by_loss()[5]})

# %% [markdown]
# Two more mistakes that are made every day, run on this network. *No recursion* takes $s_{t-1}$ for a constant:
# it keeps the diagonal of the table. *Only the last step* keeps the last column.

# %%
diagonal = sum(table[t, t] for t in steps)
last_column = sum(table[t, 5] for t in steps)
for mistake, kept in [
    (explain.mistakes.no_recursion(E, [model.cell.W]), diagonal),
    (explain.mistakes.only_last_step(E, [model.cell.W]), last_column),
]:
    (wrong,) = mistake.wrong.values()
    angle = np.sum(wrong * model.cell.W.grad) / np.linalg.norm(wrong)
    angle /= np.linalg.norm(model.cell.W.grad)
    same = np.allclose(wrong, kept, rtol=1e-10)
    print(f"{mistake.name:15} the cells named: {same};  cosine to the gradient: {angle:.2f}")

# %% [markdown]
# ## Exercises
#
# **1.** Three steps of the scalar chain, $t = 0, 1, 2$, with $v$ and the loss after the third. Derive
# $\partial E/\partial w$ and $\partial E/\partial u$: how does the bracket of E19 and E20 go on? The attempt stops
# after one step back.

# %%
x2 = 0.9
u, w, k, v = (tb.Value(number, name) for name, number in numbers.items())
state, states = before, []
for t, x in enumerate((x0, x1, x2)):
    z = nn.named(u * x + (w * state + k), f"z({t})")
    state = nn.named(tb.tanh(z), f"s({t})")
    states.append(state.data)
E = nn.binary_cross_entropy_with_logits(v * state, y)

s0, s1, s2 = states
common = (1.0 / (1.0 + np.exp(-v.data * s2)) - y) * v.data * (1.0 - s2**2)
back1, back0 = w.data * (1.0 - s1**2), w.data * (1.0 - s0**2)
explain.compare(E, {"u": common * (x2 + back1 * x1), "w": common * (s1 + back1 * s0)})

# %% [markdown]
# <details><summary>Solution</summary>
#
# Each bracket holds another bracket:
#
# $$\frac{\partial E}{\partial u} = (o-y)\,v\,\frac{\partial s_2}{\partial z_2}\Bigl(x_2 + w\frac{\partial s_1}{\partial z_1}\Bigl(x_1 + w\frac{\partial s_0}{\partial z_0}x_0\Bigr)\Bigr).$$
#
# ```python
# explain.compare(
#     E,
#     {
#         "u": common * (x2 + back1 * (x1 + back0 * x0)),
#         "w": common * (s1 + back1 * (s0 + back0 * before)),
#     },
# )
# ```
#
# </details>
#
# **2.** How does the same loss depend on the state *before* the first step, $s_{-1}$? Derive
# $\partial E/\partial s_{-1}$. The attempt has a factor too few.

# %%
first = tb.Value(before, "first")
state = first
for t, x in enumerate((x0, x1, x2)):
    z = nn.named(u * x + (w * state + k), f"z({t})")
    state = nn.named(tb.tanh(z), f"s({t})")
E = nn.binary_cross_entropy_with_logits(v * state, y)

print(f"one step back in time multiplies by {back1:.2f}, the next by {back0:.2f}")
verdict = explain.compare(E, {"first": common * back1 * back0})["first"]
print(verdict.status, f"given / right = {verdict.given / verdict.right:.4f}")

# %% [markdown]
# <details><summary>Solution</summary>
#
# `common * back1 * back0 * w.data`: the quotient in the cell is $1/w = -0.9091$, the factor that is missing.
# Each further step multiplies by another $w\,\varphi'(z)$. Here these are near 1 in size; where they stay
# below, the product vanishes exponentially with the number of steps, where they stay above, it explodes.
#
# </details>
#
# Next: [back-propagation through time in full](06_bptt_in_full.ipynb).
