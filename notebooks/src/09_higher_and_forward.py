# %% [markdown]
# # 9. Forward mode, second derivatives, and the matrix calculus behind
#
# Back-propagation multiplies the factors of the chain rule from the output's side. This notebook
# multiplies them from the other side (forward mode), does it twice (Hessians), puts that to use
# (Newton's method), and ends with the rules for vectors and matrices that all the derivations lean
# on (E31): each first element by element, then as a matrix.
#
# *About 40 minutes. You need the chain rule (2), and what a Jacobian is.*
#
# The functions here take a *function* and return derivatives: `grad`, `jvp`, `vjp`, `jacobian`,
# `hessian`, `hvp`, `taylor`. Nothing is stored on any node.

# %%
import numpy as np

import tinygrad_bp as tb
from tinygrad_bp import explain, nn
from tinygrad_bp.visualize import draw, plots

np.set_printoptions(precision=4, suppress=True, linewidth=100)


def same(a, b, rtol=1e-12):
    """Whether two arrays are equal but for rounding."""
    return bool(np.allclose(a, b, rtol=rtol, atol=1e-13))


# %% [markdown]
# ## Two directions through one product
#
# Take $f: \mathbb R^n \to \mathbb R^m$ with $f = f_3 \circ f_2 \circ f_1$. Its Jacobian is a
# product, $J = J_3 J_2 J_1$, and a product can be read from either end:
#
# $$J v = J_3 (J_2 (J_1 v)) \quad\text{forward: one column, if } v = e_k, \qquad
# u^\top J = ((u^\top J_3) J_2) J_1 \quad\text{reverse: one row, if } u = e_j$$
#
# Both only ever multiply a matrix by a vector. Forward mode carries along with each value its
# derivative in a direction. Here is a function from three numbers to two, with its Jacobian by
# hand:


# %%
def f(x):
    return tb.stack([x[0] * x[1] + tb.sin(x[2]), tb.exp(x[0]) * x[2]])


x = np.array([0.5, -1.0, 2.0])
by_hand = np.array([
    [x[1], x[0], np.cos(x[2])],
    [np.exp(x[0]) * x[2], 0.0, np.exp(x[0])],
])  # fmt: skip
print(by_hand)
print("by columns (forward):", same(tb.jacobian(f, mode="forward")(x), by_hand))
print("by rows (reverse):   ", same(tb.jacobian(f, mode="reverse")(x), by_hand))

# %%
v, u = np.array([1.0, 2.0, -1.0]), np.array([3.0, -1.0])
value, tangent = tb.jvp(f, x, v)
value, pull = tb.vjp(f, x)
print("J v  =", tangent, same(tangent, by_hand @ v))
print("uᵀ J =", pull(u)[0], same(pull(u)[0], u @ by_hand))
print("and (uᵀ J) v = uᵀ (J v):", same(pull(u)[0] @ v, u @ tangent))

# %% [markdown]
# The picture of such a function, at numbers: reverse mode walks it from right to left, forward mode
# from left to right.

# %%
a, b = tb.Value(0.5, "a"), tb.Value(2.0, "b")
y = tb.exp(a) * b + tb.sin(a)
y.label = "y"
y.backward()
draw(y)

# %% [markdown]
# ## Forward mode by hand: dual numbers
#
# A *dual number* is a pair of value and tangent, with
# $(a, \dot a)(b, \dot b) = (ab,\; \dot a b + a \dot b)$. Enough for a polynomial:


# %%
class Dual:
    def __init__(self, value, tangent):
        self.value, self.tangent = value, tangent

    def __mul__(self, other):
        return Dual(
            self.value * other.value, self.tangent * other.value + self.value * other.tangent
        )

    def __add__(self, other):
        return Dual(self.value + other.value, self.tangent + other.tangent)


def cubic(x):
    return x * x * x + x


dual = cubic(Dual(2.0, 1.0))
print(
    (dual.value, dual.tangent),
    "and by the library",
    tb.jvp(cubic, 2.0, 1.0),
    "and 3x² + 1 =",
    3 * 2.0**2 + 1,
)

# %% [markdown]
# ## Which one is cheaper?
#
# For a gradient ($m = 1$) reverse mode needs one sweep, forward mode one evaluation per parameter
# (E16; Griewank & Walther, section 4.6; Baydin et al. 2018, section 3). The counts are exact:


# %%
def network_loss(width):
    model, inputs = nn.MLP([width, width, 1], ["tanh", "identity"], rng=0), np.ones((1, width))
    return lambda model: nn.squared_error(model(inputs), np.ones((1, 1))), model


growth = explain.growth(network_loss, [2, 4, 8], times=False)
growth

# %% [markdown]
# ## Second derivatives: differentiate the derivative
#
# A gradient is a function as well. Rosenbrock's valley, with gradient and Hessian by hand:
#
# $$f = (1 - x)^2 + 100 (y - x^2)^2, \quad
# \nabla f = \begin{pmatrix} -2(1-x) - 400 x (y - x^2) \\ 200 (y - x^2) \end{pmatrix}, \quad
# H = \begin{pmatrix} 2 - 400 y + 1200 x^2 & -400 x \\ -400 x & 200 \end{pmatrix}$$


# %%
def valley(p):
    return (1.0 - p[0]) ** 2 + 100.0 * (p[1] - p[0] ** 2) ** 2


def hand_gradient(x, y):
    return np.array([-2 * (1 - x) - 400 * x * (y - x**2), 200 * (y - x**2)])


def hand_hessian(x, y):
    return np.array([[2 - 400 * y + 1200 * x**2, -400 * x], [-400 * x, 200.0]])


start = np.array([-1.2, 1.0])
print(tb.grad(valley)(start), same(tb.grad(valley)(start), hand_gradient(*start)))
print(tb.hessian(valley)(start), same(tb.hessian(valley)(start), hand_hessian(*start)))

# %% [markdown]
# Is a Hessian symmetric? Of a function with continuous second derivatives, yes; and four ways of
# nesting the two modes give the same one. A product of Hessian and vector needs no Hessian:
# differentiate the gradient in one direction (Pearlmutter 1994).

# %%
H = tb.hessian(valley)(start)
ways = {
    "reverse over reverse": tb.jacobian(tb.grad(valley), mode="reverse")(start),
    "forward over reverse": tb.jacobian(tb.grad(valley), mode="forward")(start),
    "forward over forward": tb.jacobian(tb.jacobian(valley, mode="forward"), mode="forward")(start),
    "reverse over forward": tb.jacobian(tb.jacobian(valley, mode="forward"), mode="reverse")(start),
}
for name, way in ways.items():
    print(name, same(way, H))
print("symmetric:", same(H, H.T))
v = np.array([1.0, -2.0])
print("H v:", tb.hvp(valley, start, v), same(tb.hvp(valley, start, v), H @ v))

# %% [markdown]
# ## Newton's method against gradient descent
#
# Near a point $p$ the loss is $f(p) + g^\top s + \tfrac12 s^\top H s + \dots$; the parabola's
# lowest point is where $H s = -g$. So Newton steps by $s = -H^{-1} g$. Gradient descent follows
# $-g$ with a fixed rate: the valley is 2500 times steeper across than along, and a rate that is
# safe across is far too small along.

# %%
bottom = np.array([1.0, 1.0])
curvatures = np.linalg.eigvalsh(tb.hessian(valley)(bottom))
print(f"curvatures at the bottom: {curvatures}, ratio {curvatures[1] / curvatures[0]:.0f}")


def descend(step, count, p=start):
    values = []
    for _ in range(count):
        value, gradient = tb.value_and_grad(valley)(p)
        values.append(value)
        p = p + step(p, gradient)
    return values, p


newton, p = descend(lambda p, g: -np.linalg.solve(tb.hessian(valley)(p), g), 7)
slow, q = descend(lambda p, g: -0.001 * g, 100)
print("Newton:", *(f"{v:.1e}" for v in newton), "→", p)
print(f"gradient descent after 100 steps: {slow[-1]:.2f} →", q)

# %%
plot = plots.curves({"Newton": newton[:-1], "gradient descent": slow[:20]}, log=True)
plot.figure.axes[0].set(xlabel="step", title="Rosenbrock's valley")
plot

# %% [markdown]
# (In its second step Newton goes *up*: the method looks for a point where the gradient is zero, and
# takes the parabola at its word. Real implementations test the step.)
#
# ## Newton on data: logistic regression
#
# For $J(\theta) = \sum_i \log(1 + e^{z_i}) - y_i z_i + \tfrac\lambda2 \|\theta\|^2$ with
# $z = X\theta$: $\nabla J = X^\top(p - y) + \lambda\theta$ and
# $H = X^\top \operatorname{diag}(p(1-p)) X + \lambda I$, $p = \sigma(z)$. The loss is convex, so
# Newton needs no guard here.

# %%
rng = np.random.default_rng(3)
X = np.c_[rng.normal(size=(200, 3)), np.ones(200)]
labels = (X @ [2.0, -1.0, 0.5, 0.3] + rng.logistic(size=200) > 0).astype(float)


def J(theta):
    return nn.binary_cross_entropy_with_logits(X @ theta, labels, "sum") + 0.05 * tb.sum(theta**2)


theta = np.zeros(4)
p = 1 / (1 + np.exp(-X @ theta))
print(
    "H is Xᵀ diag(p(1−p)) X + λI:",
    same(tb.hessian(J)(theta), X.T @ np.diag(p * (1 - p)) @ X + 0.1 * np.eye(4)),
)
for step in range(7):
    gradient = tb.grad(J)(theta)
    print(
        f"step {step}: J = {J(tb.Tensor(theta)).item():.6f}, ‖∇J‖ = {np.linalg.norm(gradient):.0e}"
    )
    theta = theta - np.linalg.solve(tb.hessian(J)(theta), gradient)
print("θ =", theta)

# %% [markdown]
# The number of right digits doubles with each step, until rounding ends it: that is what second
# derivatives buy. Their price: $n^2$ numbers and the solution of a linear system, which is why
# networks of a million parameters are trained without.
#
# ## Higher still
#
# `taylor` carries whole series instead of tangents: order 6 costs one pass, not 2⁶. With
# $\sin x = x - x^3/3! + x^5/5! - \dots$:

# %%
print(same(tb.taylor(tb.sin, 0.0, 6), [0, 1, 0, -1 / 6, 0, 1 / 120, 0]))
print("4th derivative of tanh at 0.5:", round(tb.derivative(tb.tanh, 4)(0.5), 6))

# %% [markdown]
# ## E31 · Matrix calculus, element by element
#
# The derivative of a scalar by a vector or matrix is the array of the derivatives by its elements:
# $(\partial C/\partial W)_{jk} = \partial C/\partial W_{jk}$. That is the definition, and with it
# every rule can be checked without knowing any: move one element at a time. The rules used all over
# these notebooks:
#
# | scalar | by | gradient | in components |
# |---|---|---|---|
# | $b^\top x$ | $x$ | $b$ | $\partial(\sum_i b_i x_i)/\partial x_k = b_k$ |
# | $x^\top A x$ | $x$ | $(A + A^\top)x$ | $\sum_j A_{kj} x_j + \sum_i A_{ik} x_i$ |
# | $\tfrac12\|Ax - b\|^2$ | $x$ | $A^\top(Ax - b)$ | $\sum_i (Ax-b)_i A_{ik}$ |
# | $u^\top W v$ | $W$ | $u v^\top$ | $u_j v_k$ |
# | $\operatorname{tr}(W^\top B)$ | $W$ | $B$ | $B_{jk}$ |
# | $\log\det W$ | $W$ | $W^{-\top}$ | (cofactor $jk$) $/ \det W$ |

# %%
n = 3
A, B = rng.normal(size=(n, n)), rng.normal(size=(n, n))
b, u, v, x = rng.normal(size=(4, n))
W = np.eye(n) + 0.3 * rng.normal(size=(n, n))


def logdet(W):
    """By Gauss's elimination, without exchange of rows."""
    total = 0.0
    for _ in range(len(W.data)):
        total = total + tb.log(W[0, 0])
        W = W[1:, 1:] - W[1:, :1] @ W[:1, 1:] / W[0, 0] if len(W.data) > 1 else W
    return total


rules = {
    "bᵀx": (lambda x: b @ x, x, b),
    "xᵀAx": (lambda x: x @ (A @ x), x, (A + A.T) @ x),
    "½‖Ax − b‖²": (lambda x: 0.5 * tb.sum((A @ x - b) ** 2), x, A.T @ (A @ x - b)),
    "uᵀWv": (lambda W: u @ (W @ v), W, np.outer(u, v)),
    "tr WᵀB": (lambda W: tb.sum(W * B), W, B),
    "log det W": (logdet, W, np.linalg.inv(W).T),
}


def one_by_one(function, at, h=1e-6):
    """Each element of the gradient by itself: move it, and see what the function does."""
    gradient = np.zeros(at.shape)
    for place in np.ndindex(at.shape):
        forth, back = at.copy(), at.copy()
        forth[place] += h
        back[place] -= h
        gradient[place] = (function(tb.Tensor(forth)).item() - function(tb.Tensor(back)).item()) / (
            2 * h
        )
    return gradient


for name, (function, at, formula) in rules.items():
    print(f"{name:11} formula = sweep: {same(tb.grad(function)(at), formula)}, "
          f"formula = element by element: {np.allclose(one_by_one(function, at), formula, atol=1e-7)}")  # fmt: skip

# %% [markdown]
# ## From elements to matrices, once in full
#
# The one step that carries E3 and E4: $z = W a + b$, so $z_j = \sum_k W_{jk} a_k + b_j$, and
# $\partial z_j / \partial W_{lk} = a_k$ if $l = j$, else 0. Hence
#
# $$\frac{\partial C}{\partial W_{jk}} = \sum_l \frac{\partial C}{\partial z_l} \frac{\partial z_l}{\partial W_{jk}} = \delta_j a_k
# \;\Rightarrow\; \frac{\partial C}{\partial W} = \delta a^\top, \qquad
# \frac{\partial C}{\partial a_k} = \sum_j \delta_j W_{jk} \;\Rightarrow\; \frac{\partial C}{\partial a} = W^\top \delta.$$
#
# The full derivative of the vector $z$ by the matrix $W$ has three indices; most of it is zero.
# Nobody stores it: contracting with δ leaves an outer product.

# %%
a_ = rng.normal(size=n)
full = tb.jacobian(lambda W: W @ a_)(W)
print(
    "∂z/∂W has shape",
    full.shape,
    "and",
    int(np.count_nonzero(full)),
    "of",
    full.size,
    "elements are not zero",
)
delta = rng.normal(size=n)
print("Σ_l δ_l ∂z_l/∂W is δ aᵀ:", same(np.einsum("l,ljk->jk", delta, full), np.outer(delta, a_)))

# %% [markdown]
# ## Exercises
#
# **1.** Derive the gradient of $C = \tfrac12 \|W x - y\|^2$ by $W$ and by $x$. One of the lines
# below is wrong; `compare` says which, and how.

# %%
Wt, xt, yt = tb.Tensor(W, "W"), tb.Tensor(x, "x"), rng.normal(size=n)
C = 0.5 * tb.sum((Wt @ xt - yt) ** 2)
error = W @ x - yt
explain.compare(C, {"W": np.outer(x, error), "x": W.T @ error})

# %% [markdown]
# <details><summary>Solution</summary>
#
# $\partial C/\partial W = (Wx - y)\, x^\top$, so `np.outer(error, x)`; the other is right. The
# order of an outer product is a transposition, and shapes do not tell where the matrix is square.
# </details>
#
# **2.** What is the Hessian of $\tfrac12\|Ax - b\|^2$ by $x$? Write it in the place of `guess`.

# %%
guess = A @ A.T  # <- yours
print(same(tb.hessian(lambda x: 0.5 * tb.sum((A @ x - b) ** 2))(x), guess))

# %% [markdown]
# <details><summary>Solution</summary>
#
# $\nabla = A^\top A x - A^\top b$, so $H = A^\top A$: `A.T @ A`. It does not depend on $x$, so
# Newton needs one step: least squares.
# </details>
#
# **3.** Article 4 says that the chain rule holds where $g$ is differentiable. It also takes that
# $f$ is differentiable at $g(x)$. Look at $\sqrt{x^4} = x^2$ at $x = 0$: differentiable, with
# derivative 0. What does the chain rule give, and what does the library?

# %%
with np.errstate(all="ignore"):
    print(tb.grad(lambda x: tb.sqrt(x**4))(0.0), "but x² gives", tb.grad(lambda x: x * x)(0.0))

# %% [markdown]
# <details><summary>Solution</summary>
#
# The chain rule has $\infty \cdot 0$: no number. The root is not differentiable at 0, so the rule's
# condition fails, although the composition is smooth. Every system that applies the chain rule
# fails here; this one says `nan`, which is seen, rather than a number that is wrong. The cure is to
# write the function otherwise.
# </details>
#
# ## Sources
#
# A. Griewank, A. Walther, *Evaluating Derivatives*, 2nd ed., SIAM (2008). · A. G. Baydin, B. A.
# Pearlmutter, A. A. Radul, J. M. Siskind, *Automatic differentiation in machine learning: a
# survey*, JMLR 18 (2018). · B. A. Pearlmutter, *Fast exact multiplication by the Hessian*, Neural
# Computation 6 (1994). · J. R. Magnus, H. Neudecker, *Matrix Differential Calculus*, Wiley (1999).
