# %% [markdown]
# # 11. An operation of your own
#
# An operation is its value and its derivative. Write these two, once, and the rest follows: numbers
# and arrays, second derivatives, forward mode, a check, a formula in the derivation, a node in the
# picture, a kernel in the replay. This notebook makes three operations and follows each all the
# way.
#
# *About 30 minutes. You need the chain rule (2) and a little of networks (4).*

# %%
import math
import os

import numpy as np

import tinygrad_bp as tb
from tinygrad_bp import datasets, explain, nn, optim, training
from tinygrad_bp.visualize import draw, plots

os.environ.setdefault("JAX_ENABLE_X64", "1")  # JAX computes in float32 unless told otherwise
np.set_printoptions(precision=4, suppress=True, linewidth=100)

# %% [markdown]
# ## Do you need one?
#
# Mostly not. A Python function of operations that are there already is differentiated as it stands:


# %%
def plain_bump(x):
    return tb.exp(-x * x)


print(f"{tb.grad(plain_bump)(0.5):.6f} = {-2 * 0.5 * math.exp(-0.25):.6f}")

# %% [markdown]
# A rule of its own is worth while where the derivative has a simpler form than the chain rule
# finds, where the plain way overflows, or where one name should stand in the picture and in the
# derivation.
#
# ## One: an activation
#
# $$\operatorname{bump}(x) = e^{-x^2}, \qquad \operatorname{bump}'(x) = -2x\, e^{-x^2} = -2x\, y$$
#
# The partial derivative is a function of the operands and of the result $y$, which is there
# already. `m` holds the elementary functions under numpy's names; it is what makes the same lines
# run on floats, arrays, nodes, series and formulas.


# %%
@tb.elementwise(lambda m, x, y: -2.0 * x * y, analytic=True)
def bump(m, x):
    """exp(-x²)"""
    return m.exp(-x * x)


x = 0.5
print("a number        ", round(bump(x), 6))
print("a Value         ", bump(tb.Value(x)))
print("a Tensor        ", bump(tb.Tensor([x, 0.0, 2.0])))
print("derivatives 0-4 ", np.array([tb.derivative(bump, n)(x) for n in range(5)]))
print("forward mode    ", np.array(tb.jvp(bump, x, 1.0)))

# %% [markdown]
# Fourth derivatives from one line? The line is run again on series. By hand the second one is
# $(4x^2 - 2)\, e^{-x^2}$, and the fourth $(16x^4 - 48x^2 + 12)\, e^{-x^2}$ (Hermite's polynomials):

# %%
e = math.exp(-(x**2))
print(f"{(4 * x**2 - 2) * e:.4f}, {(16 * x**4 - 48 * x**2 + 12) * e:.4f}")

# %% [markdown]
# ## It was checked when it was made
#
# A derivative that is wrong is the worst kind of mistake: the training still goes down, a little.
# So the decorator compares value, first and second derivatives with differences at 20 points, and
# refuses what does not hold. Here a sign is wrong:

# %%
try:

    @tb.elementwise(lambda m, x, y: 2.0 * x * y)
    def wrong_bump(m, x):
        return m.exp(-x * x)

except ValueError as error:
    print(error)

# %% [markdown]
# `tb.check_rule` does it again, at points of your choice; `tb.check_gradients` checks any function,
# here by the complex step as well, which has no rounding error (`analytic=True` allows it).

# %%
tb.check_rule(bump, (0.0,), (3.0,), (-6.0,))
z = tb.Tensor([[0.3, -1.2], [2.0, 0.1]], "z")
for method in ("central differences", "complex step"):
    report = tb.check_gradients(lambda z: tb.sum(bump(z) ** 2), z, method=method)
    print(method, "agree:", bool(report))

# %% [markdown]
# ## In the picture and in the derivation
#
# A node with its own name, and the local derivative at its edge:
# $-2 x y = -2 \cdot 0.8 \cdot 0.527$.

# %%
w, u = tb.Value(0.4, "w"), tb.Value(2.0, "x")
a = bump(w * u)
a.label = "a"
a.backward()
draw(a)

# %%
W, v = tb.Tensor([[0.5], [0.2]], "W"), tb.Tensor([[0.3, -1.0]], "x", requires_grad=False)
hidden = nn.named(bump(nn.named(v @ W, "z")), "a")
explain.derive(nn.squared_error(hidden, [[0.2]]))

# %% [markdown]
# The derivation states the rule and its derivative as you wrote them, and uses $y$, that is $a$.
#
# ## In a network, trained, replayed
#
# A bump is high where its input is near zero: a unit that answers to a band of the plane. Two
# moons, eight such units; `compiled=True` records a step and replays it.

# %%
points = datasets.moons(400, rng=0)
model = nn.MLP([2, 8, 1], [bump, "identity"], rng=1)
history = training.fit(
    model,
    (points.x, points.y[:, None].astype(float)),
    nn.binary_cross_entropy_with_logits,
    optim.Adam(model.parameters(), lr=0.05),
    epochs=60,
    rng=0,
    compiled=True,
)
right = ((model(points.x).data[:, 0] > 0) == (points.y == 1)).mean()
print("more than 95 of 100 are told apart:", right > 0.95)

# %%
plots.curves({"loss": history["loss"]})

# %% [markdown]
# And the engines. The replay with numpy knows the operation, and so do machine code and JAX, where
# they are installed (the extras `jit` and `jax`; without them this cell says so and goes on).


# %%
def loss(weights, inputs):
    return sum(bump(w * x) for w, x in zip(weights, inputs, strict=True))


weights, inputs = [0.4, -0.3, 1.1], [2.0, 0.5, -1.0]
expected = [
    -2 * x * w * x * math.exp(-((w * x) ** 2)) for w, x in zip(weights, inputs, strict=True)
]
for engine in ("numpy", "numba", "jax"):
    try:
        value, gradient = tb.compile(loss, engine=engine).value_and_grad(weights, inputs)
        print(f"{engine:5} the gradient is right:", np.allclose(gradient, expected, rtol=1e-12))
    except ImportError as error:
        print(f"{engine:5} is not installed here: {error}")

# %% [markdown]
# ## Two: an operation that has to be careful
#
# $\log \cosh x$ is a loss like $\tfrac12 x^2$ near zero and $|x|$ far away. The formula as it
# stands overflows; with $\cosh x = \tfrac12 e^{|x|}(1 + e^{-2|x|})$ it does not. Its derivative is
# $\tanh x$. Where the accurate form is not the one that a reader knows, `textbook` gives the
# latter, for derivations only; it is held against the other one.


# %%
@tb.elementwise(lambda m, x, y: m.tanh(x), textbook=lambda m, x, y: m.divide(m.sinh(x), m.cosh(x)))
def logcosh(m, x):
    """log cosh x"""
    size = m.absolute(x)
    return size + m.log1p(m.exp(-2.0 * size)) - math.log(2.0)


with np.errstate(over="ignore"):
    print("plainly: ", np.log(np.cosh(1000.0)), " by the rule:", round(logcosh(1000.0), 6))
print(f"gradient: {tb.grad(logcosh)(1000.0):.6g} at 1000, {tb.grad(logcosh)(1e-8):.6g} at 1e-8")

# %%
explain.derive(tb.sum(logcosh(tb.Tensor([0.5, -2.0], "x"))))

# %% [markdown]
# ## Three: an operation on whole arrays
#
# Differences of neighbours, $y_i = x_{i+1} - x_i$: a linear map $y = D x$. For such an operation
# there is no partial derivative per element, but a **pullback**, which takes the gradient $g$ by
# the result to that by the operand. For a linear map it is the transpose, $D^\top g$. Element by
# element: $x_i$ is in $y_{i-1}$ with $+1$ and in $y_i$ with $-1$, so
#
# $$\frac{\partial C}{\partial x_i} = g_{i-1} - g_i, \qquad g_{-1} = g_{n-1} = 0.$$
#
# As array code: $g$ moved one to the right, less $g$, both filled up with a zero.


# %%
def difference_dx(m, g, y, x):
    return m.pad(g, (1, 0)) - m.pad(g, (0, 1))


@tb.structural(difference_dx, check=[(np.array([1.0, 3.0, -2.0, 0.5]),)])
def difference(m, x):
    return m.getitem(x, slice(1, None)) - m.getitem(x, slice(None, -1))


D = np.eye(5)[1:] - np.eye(5)[:-1]
print(D)
print("the Jacobian is D:", np.array_equal(tb.jacobian(difference)(np.arange(5.0) ** 2), D))
g = np.array([1.0, -2.0, 3.0, 0.5])
_, pull = tb.vjp(difference, np.arange(5.0))
print("the pullback:", pull(g)[0], "Dᵀ g:", D.T @ g)

# %% [markdown]
# A use for it: the curve nearest to noisy data that is smooth, minimising
# $\tfrac12\|x - \text{data}\|^2 + \tfrac\lambda2 \|D x\|^2$. The loss is a parabola, so Newton's
# step from anywhere ends at the lowest point, and linear algebra gives the same:
# $(I + \lambda D^\top D)\, x = \text{data}$.

# %%
t = np.linspace(0, 2 * np.pi, 40)
data = np.sin(t) + 0.3 * np.random.default_rng(0).normal(size=40)


def rough(x):
    return nn.squared_error(x, data) + 4.0 * tb.sum(difference(x) ** 2)


smooth = -np.linalg.solve(tb.hessian(rough)(np.zeros(40)), tb.grad(rough)(np.zeros(40)))
D40 = np.eye(40)[1:] - np.eye(40)[:-1]
print(np.allclose(smooth, np.linalg.solve(np.eye(40) + 8.0 * D40.T @ D40, data), rtol=1e-10))
plot = plots.curves({"data": data, "smooth": smooth, "sin": np.sin(t)})
plot.figure.axes[0].set_xlabel("i")
plot

# %% [markdown]
# ## Where there is no derivative
#
# An operation with a kink must choose, and say what it chose. `kinks` is that sentence, and
# `domain` keeps the check away from the kink, where differences tell nothing.


# %%
@tb.elementwise(
    lambda m, x, y: m.where(x > 0.5, 1.0, m.where(x < -0.5, 1.0, 0.0)),
    domain=(0.6, 3.0),
    kinks="x = ±½: the derivative is 0 there",
)
def soft_threshold(m, x):
    """x moved towards zero by ½; zero between"""
    return m.where(x > 0.5, x - 0.5, m.where(x < -0.5, x + 0.5, 0.0))


print([soft_threshold(x) for x in (-2.0, -0.5, 0.1, 0.5, 2.0)])
print([tb.grad(soft_threshold)(x) for x in (-2.0, -0.5, 0.1, 0.5, 2.0)])
tb.check_rule(soft_threshold, (-2.0,), (0.1,), (0.3,))  # the other two pieces

# %% [markdown]
# ## Exercises
#
# **1.** Write the derivative of $\operatorname{swish}(x) = x\, \sigma(x)$ and put it in the place
# of `guess`. Run the cell: the check tells whether it is right, and if not, where.


# %%
def sigma(m, x):
    return m.divide(1.0, 1.0 + m.exp(-x))


def guess(m, x, y):
    return sigma(m, x) * (1.0 - sigma(m, x))  # <- yours


try:

    @tb.elementwise(guess, domain=(-3.0, 3.0))
    def swish(m, x):
        return x * sigma(m, x)

    print("right:", round(tb.grad(swish)(1.0), 6))
except ValueError as error:
    print(error)

# %% [markdown]
# <details><summary>Solution</summary>
#
# By the product rule $\sigma(x) + x\,\sigma(x)(1 - \sigma(x))$, and with the result
# $y = x\,\sigma(x)$ shorter: $y + \sigma(x)\,(1 - y)$, so `return y + sigma(m, x) * (1.0 - y)`.
# </details>
#
# **2.** The running sum $y_i = \sum_{j \le i} x_j$ is linear, $y = S x$ with ones on and below the
# diagonal. What is its pullback? Complete `mine` for $g$, and let `compare` judge.

# %%
p = tb.Tensor([1.0, -2.0, 0.5, 3.0], "p")
g = np.array([0.5, 1.0, -1.0, 2.0])
C = tb.sum(tb.cumsum(p) * g)
mine = np.cumsum(g)  # <- yours
explain.compare(C, {"p": mine})

# %% [markdown]
# <details><summary>Solution</summary>
#
# $S^\top$ has ones on and *above* the diagonal: $\partial C/\partial x_j = \sum_{i \ge j} g_i$, the
# running sum from the other end, `np.cumsum(g[::-1])[::-1]`. (What is summed up in the future of
# $j$: it is back-propagation through time in miniature.)
# </details>
#
# ## Sources
#
# A. Griewank, A. Walther, *Evaluating Derivatives*, 2nd ed., SIAM (2008), chapters 2 and 3. · A. G.
# Baydin, B. A. Pearlmutter, A. A. Radul, J. M. Siskind, *Automatic differentiation in machine
# learning: a survey*, JMLR 18 (2018). · P. Werbos, *Backpropagation through time*, Proc. IEEE 78
# (1990).
