# %% [markdown]
# # 2. The chain rule, and all the paths
#
# A gradient is a sum over paths: through a network there are many ways from a weight to the loss, and
# each contributes the product of the local derivatives along it. Here you list the paths of a small
# network one by one, count those of large ones, and see why a sweep backwards needs none of them.
#
# *About 35 minutes. You need [notebook 1](01_value_and_graph.ipynb).*
#
# Sources: Bauer (1974), *Computational graphs and rounding error*, for the sum over paths; Griewank &
# Walther (2008), *Evaluating Derivatives*, chapters 3 and 4, for the costs.
#
# ## The chain rule is about remainders
#
# That $g$ is differentiable at $x$ means: a small step $\Delta x$ changes it by
#
# $$\Delta g = g'(x)\,\Delta x + o(\Delta x),$$
#
# where the remainder $o(\Delta x)$ shrinks **faster** than $\Delta x$: divided by $\Delta x$ it still
# goes to 0. Take $y = f(g(x))$ with $g = \sin$ and $f = \tanh$, at $x = 0.6$, and halve the step again
# and again.

# %%
import math

import numpy as np

import tinygrad_bp as tb
from tinygrad_bp import explain, nn
from tinygrad_bp.visualize import draw, plots


def y(x):
    return tb.tanh(tb.sin(x))


x = 0.6
slope = tb.grad(y)(x)
steps = [2.0**-k for k in range(1, 13)]
remainders = [float(y(x + h)) - float(y(x)) - slope * h for h in steps]
print("     Δx        remainder   remainder/Δx")
for h, r in list(zip(steps, remainders, strict=True))[::3]:
    print(f"{h:.7f}  {r:13.3e}  {r / h:13.3e}")

# %% [markdown]
# From row to row the step is halved three times, and the remainder falls 64-fold: a factor of four with
# each halving. Divided by $\Delta x$ it still halves, and goes to 0. A wrong slope, however close, leaves something behind: here one that is off by one percent.

# %%
off = [r - 0.01 * slope * h for r, h in zip(remainders, steps, strict=True)]
ratios = {
    "the right slope": [abs(r) / h for r, h in zip(remainders, steps, strict=True)],
    "off by 1 %": [abs(r) / h for r, h in zip(off, steps, strict=True)],
}
picture = plots.curves(ratios, log=True)
picture.figure.axes[0].set(xlabel="k, for Δx = 2⁻ᵏ", title="|remainder| / Δx")
picture

# %% [markdown]
# Put the two statements $\Delta g = g'\Delta x + o(\Delta x)$ and $\Delta f = f'\Delta g + o(\Delta g)$
# into each other, and what stands in front of $\Delta x$ is the product of the slopes (E13):
#
# $$\frac{dy}{dx} = f'(g(x))\; g'(x) = \bigl(1 - \tanh^2(\sin x)\bigr)\cos x.$$

# %%
by_hand = (1.0 - math.tanh(math.sin(x)) ** 2) * math.cos(x)
print(f"by hand {by_hand:.12f}   by the sweep {slope:.12f}")

# %% [markdown]
# ## All paths of a 5–3–1 network
#
# Five inputs $x_k$, three hidden neurons $h_j = \tanh\bigl(\sum_k w_{jk}\,x_k\bigr)$, one output
# $y = \sum_j u_j h_j$. The article on which this section is based asks for the derivative by "the
# weight $w_{k,1}$", which can be read in three ways. All three are instructive, so we do all three:
#
# 1. **an edge weight**: $w$ sits on the one edge from $x_1$ to $h_1$;
# 2. **a weight into neuron 1**: $w$ scales the input $x_1$, and the result goes to all three $h_j$;
# 3. **an outgoing weight shared by three edges**: $w$ sits on each of the edges $x_1 \to h_j$.

# %%
X = [0.5, -0.8, 0.3, 0.9, -0.4]
W = [
    [0.3, 0.6, -0.2, 0.4, 0.7],
    [0.9, -0.3, 0.5, 0.1, -0.6],
    [-0.7, 0.2, 0.8, -0.5, 0.3],
]
U = [1.2, -0.9, 0.6]
readings = ("an edge weight", "into the neuron", "shared by three edges")


def five_three_one(reading):
    """The output, the weight w, and the hidden neurons."""
    w, x1 = tb.Value(0.7, "w"), tb.Value(X[0], "x1", requires_grad=False)
    a = nn.named(w * x1, "a")
    h = []
    for j in range(3):
        first = {
            readings[0]: W[j][0] * x1 if j else w * x1,
            readings[1]: W[j][0] * a,
            readings[2]: w * x1,
        }
        rest = sum(W[j][k] * X[k] for k in range(1, 5))
        h.append(nn.named(tb.tanh(first[reading] + rest), f"h{j + 1}"))
    return nn.named(U[0] * h[0] + (U[1] * h[1] + U[2] * h[2]), "y"), w, h


# %% [markdown]
# The sum over paths (E14):
#
# $$\frac{\partial y}{\partial w} = \sum_{\text{paths } w \to y}\;\prod_{\text{edges of the path}} \text{local derivative}.$$
#
# `explain.paths` lists them, with each product and its share of the gradient. First the edge weight:
# one path, $\partial y/\partial w = u_1\,(1 - h_1^2)\,x_1$.

# %%
out, w, h = five_three_one(readings[0])
paths = explain.paths(out, w)
print(f"by hand {U[0] * (1 - float(h[0]) ** 2) * X[0]:.6f}")
paths

# %%
out.backward()
draw(out)

# %% [markdown]
# The weight into neuron 1 reaches $y$ through every hidden neuron: three paths, and each carries the
# weights downstream, $\sum_j u_j (1 - h_j^2)\, w_{j1}\, x_1$.

# %%
out, w, h = five_three_one(readings[1])
by_hand = [U[j] * (1 - float(h[j]) ** 2) * W[j][0] * X[0] for j in range(3)]
print("by hand", np.round(by_hand, 6), "sum", round(sum(by_hand), 6))
explain.paths(out, w)

# %%
out.backward()
draw(out, direction="TB")

# %% [markdown]
# The shared weight is *used* three times; again three paths, without the $w_{j1}$. Each use of a shared
# weight can be read by itself: it is what a copy of its own would have got.

# %%
out, w, h = five_three_one(readings[2])
by_hand = [U[j] * (1 - float(h[j]) ** 2) * X[0] for j in range(3)]
print("by hand", np.round(by_hand, 6), "sum", round(sum(by_hand), 6))
explain.paths(out, w)

# %% [markdown]
# ## Too many paths
#
# Between layers of width $n$ each path can go on in $n$ ways: through $d$ layers there are $n^d$ paths.
# The sweep visits each **edge** once (E15). Both are counted here, exactly.


# %%
def deep(width, depth):
    """A network from one number through layers where each is connected with each."""
    x = tb.Value(0.1, "x")
    layer = [x] * width
    for _ in range(depth - 1):
        layer = [tb.tanh(0.5 * sum(layer[1:], layer[0])) for _ in range(width)]
    return sum(layer[1:], layer[0]), x


print("width depth                        paths   edges of the sweep")
for width, depth in [(2, 3), (3, 4), (4, 10), (4, 40)]:
    out, x = deep(width, depth)
    edges = sum(len(step.edges) for step in tb.sweep(out))
    print(f"{width:5} {depth:5} {explain.paths(out, x, top=1).count:28,} {edges:14,}")

# %% [markdown]
# The last one has more paths than $2^{64}$, and still one sweep of 1,254 edges adds them all up. It
# can, because it puts common factors outside the brackets: all that flows back into a node is added
# *first*, and multiplied by the local derivatives *once*. That is the whole trick of back-propagation:
# the distributive law, used at every node.
#
# $$a\,c + b\,c = (a + b)\,c$$
#
# ## What a gradient costs
#
# There are three ways to get the derivatives of a loss by $n$ parameters. **Reverse mode** is the sweep.
# **Forward mode** pushes the derivative by one parameter through the program alongside the values.
# **Differences** evaluate the program at moved parameters. Only the first does not have to start again
# for every parameter (E16).


# %%
def network(width):
    model = nn.MLP([width, width, 1], ["tanh", "sigmoid"], rng=0)
    inputs, targets = np.ones((4, width)), np.ones((4, 1))
    return (lambda model: nn.squared_error(model(inputs), targets)), model


growth = explain.growth(network, [2, 4, 8, 16, 32])
growth

# %% [markdown]
# Operations are counted, not timed, so these numbers are the same everywhere. The whole gradient costs
# about two evaluations, whether there are 9 parameters or 1,089. (Griewank & Walther prove the bound:
# a gradient costs at most a small constant times the function, the *cheap gradient principle*.)

# %%
names = ("reverse mode", "forward mode", "central differences")
picture = plots.curves(dict(zip(names, growth.ratios.T, strict=True)), log=True)
picture.figure.axes[0].set(
    xlabel="k, for layers of width 2ᵏ", title="cost, in evaluations of the loss"
)
picture

# %% [markdown]
# And in time? This cell is measured, so your numbers will differ; the order will not.

# %% tags=["measured"]
function, model = network(16)
cost = explain.cost(function, model)
once = cost.times[0]
for name, time in zip(names[1:], cost.times[1:], strict=True):
    ratio = round(time / once, -2)
    print(f"{name:20} takes about {ratio:.0f} times as long as reverse mode")

# %% [markdown]
# ## Copies
#
# A parameter that stands in several places may be treated as so many independent copies, whose
# derivatives are then added (E17). The product rule is the simplest case: $x^3 = x_1 x_2 x_3$ with
# three copies, each with derivative $x^2$.
#
# The same with a matrix that a recurrent network uses at three steps. `contributions` reads each copy's
# derivative from the shared graph, and their sum is the gradient, bit for bit. Notebook 5 is about this.

# %%
x = tb.Value(1.7, "x")
copies = [tb.Value(1.7, f"x{i}") for i in (1, 2, 3)]
(x * x * x).backward()
(copies[0] * copies[1] * copies[2]).backward()
print("copies:", [round(copy.grad, 6) for copy in copies])
print("their sum is the shared gradient:", x.grad == sum(copy.grad for copy in copies))

rng = np.random.default_rng(0)
cell = nn.RNNCell(2, 3, rng=rng)
states = nn.unroll(cell, rng.normal(size=(3, 1, 2)), cell.initial_state(1))
loss = tb.sum(states[-1] ** 2)
loss.backward()
uses = explain.contributions(loss, cell.W)
print("equal to the last bit:", np.array_equal(uses.total, cell.W.grad))
uses

# %% [markdown]
# ## What the articles print wrong
#
# **The weights downstream.** The article multiplies, along each path of the second reading, the local
# derivative at the first edge and those of the activations, and leaves out the weights $u_j$ that follow.
# With numbers:
#
# Nothing fits: a forgotten *weight* is no systematic mistake, so one has to look at the paths. The list
# above shows where $u_j$ belongs: $\partial y/\partial h_j = u_j$ is the last factor of each product.

# %%
out, w, h = five_three_one(readings[1])
without = sum((1 - float(h[j]) ** 2) * W[j][0] * X[0] for j in range(3))
print(explain.compare(out, {w: without}))

listed = sorted(explain.paths(out, w).listed, key=lambda path: path.names)
for j, path in enumerate(listed):
    short = (1 - float(h[j]) ** 2) * W[j][0] * X[0]
    print(f"through h{j + 1}: {short:9.6f} × u{j + 1} = {short * U[j]:9.6f}", end="   ")
    print(f"listed {path.product:9.6f}")

# %% [markdown]
# **When the chain rule holds.** It needs $g$ differentiable at $x$ and $f$ differentiable *at $g(x)$*.
# The composition may be differentiable without: $\sqrt{x^4} = x^2$ has the derivative 0 at 0, but the
# root has none there. The chain rule says $\infty \cdot 0$, and so does every program that applies it.
#
# An answer of *nan* is honest: it says "not by this way". The library says where it comes from:


# %%
def root_of_fourth_power(x):
    return tb.sqrt(x * x * x * x)


print("by the chain rule at 0:", tb.grad(root_of_fourth_power)(0.0))
for h in (1e-1, 1e-2, 1e-3):
    quotient = float(root_of_fourth_power(h)) / h
    print(f"difference quotient with step {h}: {quotient:.4f}")

x = tb.Value(0.0, "x")
print(explain.why(root_of_fourth_power(x), x).verdict)

# %% [markdown]
# ## Exercises
#
# **1.** $y = u\,\tanh(w x) + v\,\tanh(w x^2)$ at $w = 0.5$, $x = 2$, $u = 1$, $v = -3$. Write down the two
# paths from $w$, and the three from $x$ ($x^2$ uses it twice). What is wrong with the attempt below?

# %%
w, x = tb.Value(0.5, "w"), tb.Value(2.0, "x")
u, v = tb.Value(1.0, "u"), tb.Value(-3.0, "v")
p, q = nn.named(tb.tanh(w * x), "p"), nn.named(tb.tanh(w * (x * x)), "q")
y = u * p + v * q

dp, dq = 1.0 - (w.data * x.data) ** 2, 1.0 - (w.data * x.data**2) ** 2
explain.compare(
    y,
    {
        "w": u.data * dp * x.data + v.data * dq * x.data**2,
        "x": u.data * dp * w.data + v.data * dq * w.data * 2.0 * x.data,
    },
)

# %% [markdown]
# <details><summary>Solution</summary>
#
# The paths are right, but the slope of $\tanh$ is $1 - \tanh^2(z)$, not $1 - z^2$:
# `dp, dq = 1.0 - p.data**2, 1.0 - q.data**2`. Then
#
# $$\frac{\partial y}{\partial w} = u\,(1-p^2)\,x + v\,(1-q^2)\,x^2, \qquad
# \frac{\partial y}{\partial x} = u\,(1-p^2)\,w + v\,(1-q^2)\,w\,(x + x).$$
#
# `explain.paths(y, x)` lists the three paths from $x$.
#
# </details>
#
# **2.** A network has an input layer of 4 neurons, two hidden layers of 5 and 6, and one output; every
# neuron is connected with every one of the next layer. How many paths lead from one input to the output,
# and how many from one *weight* of the first layer? Check yourself with the cell.

# %%
model = nn.MLP([4, 5, 6, 1], "tanh", rng=0).scalar_view()
out = model(tb.values(np.ones((1, 4)), "x"))[0, 0]
first = next(leaf for leaf in tb.topological_order(out) if leaf.label == "x[0, 0]")
answer = {"from an input": 0, "from a weight": 0}
counted = {
    "from an input": explain.paths(out, first, top=1).count,
    "from a weight": explain.paths(out, model.layers[0].W[0, 0], top=1).count,
}
for name, count in counted.items():
    print(name, "right" if answer[name] == count else "not yet")

# %% [markdown]
# <details><summary>Solution</summary>
#
# $5 \cdot 6 \cdot 1 = 30$ from an input: it can choose a neuron in each hidden layer. A weight of the
# first layer has chosen its first neuron already: $6$.
#
# </details>
#
# Next: [a logistic network on real data](03_logistic_network.ipynb).
