# %% [markdown]
# # 1. A number that remembers
#
# Back-propagation needs one thing of a program: that each number remembers how it was computed.
# Here you see such a number, the graph that it leaves behind, and the sweep backwards through that
# graph. At the end you know why the sweep must take the nodes in the right order, and what goes
# wrong if it does not.
#
# *About 25 minutes. You need the derivative of a function of one variable; no networks yet.*
#
# Source of the idea: Rumelhart, Hinton & Williams (1986), *Learning representations by
# back-propagating errors*, Nature 323. A very readable second one: Nielsen (2015), *Neural Networks
# and Deep Learning*, chapter 2.
#
# ## One neuron
#
# A neuron takes an input $x$, weighs it, adds a bias, and bends the result:
#
# $$z = w x + b, \qquad y = \tanh(z).$$
#
# A `Value` is a number with an (optional) name. What is computed from Values is a Value.

# %%
import tinygrad_bp as tb
from tinygrad_bp import explain
from tinygrad_bp.visualize import draw

w, x, b = tb.Value(0.5, "w"), tb.Value(2.0, "x"), tb.Value(-0.3, "b")
z = w * x + b
z.label = "z"
y = tb.tanh(z)
y.label = "y"
print(f"{y.data:.4f}")

# %% [markdown]
# So far any calculator could do this. But `y` remembers: each result knows the operation that made
# it (`rule`), the numbers that went in (`operands`), and how fast it would change with each of them
# (`locals`, the **local derivatives**).
#
# The local derivatives are school mathematics: $\partial(w x)/\partial w = x = 2$ and
# $\partial(w x)/\partial x = w = 0.5$ for the product, $1$ and $1$ for the sum, and
# $\tanh'(z) = 1 - \tanh^2(z) = 1 - y^2$ for the neuron's bend:

# %%
for node in tb.topological_order(y):
    if node.rule:
        slopes = ", ".join(f"{local:.4f}" for local in node.locals)
        print(f"{node.rule.name:8} = {node.data:.4f}   local derivatives {slopes}")

print(f"{1.0 - y.data**2:.4f}")

# %% [markdown]
# What is remembered is a **graph**. Green boxes are the numbers you made (leaves); an arrow leads
# from an operand to its result and carries the local derivative.

# %%
draw(y)

# %% [markdown]
# ## The sweep backwards
#
# How fast does $y$ change with each number in the picture? For $y$ itself the answer is
# $\partial y/\partial y = 1$. For every other node $v$ the **chain rule** says: add up, over the nodes
# $u$ that were computed from $v$,
#
# $$\frac{\partial y}{\partial v} = \sum_{u \text{ computed from } v} \frac{\partial y}{\partial u}\,\frac{\partial u}{\partial v}.$$
#
# So if we start at $y$ and go against the arrows, everything we need is already there.
# That is what `backward()` does. Before it nobody has asked for a gradient, and `grad` is `None`.
#
# The picture now shows the gradient in each box. Follow one path: the gradient at the end of an
# arrow, times the number on the arrow, is what arrives at its beginning.

# %%
print("before:", w.grad)
y.backward()
print("after: ", round(w.grad, 4))

draw(y)

# %% [markdown]
# By hand: $\partial y/\partial w = (1-y^2)\,x$, $\partial y/\partial x = (1-y^2)\,w$ and
# $\partial y/\partial b = 1-y^2$.
#
# Nobody should believe a derivative because a program printed it. The oldest check moves each number
# a little to either side and looks at $y$ (central differences):

# %%
slope = 1.0 - y.data**2
by_hand = {"w": slope * x.data, "x": slope * w.data, "b": slope}
for leaf in (w, x, b):
    hand = by_hand[leaf.label]
    print(f"∂y/∂{leaf.label}   by hand {hand:.6f}   by the sweep {leaf.grad:.6f}")

report = tb.check_gradients(lambda w, x, b: tb.tanh(w * x + b), [w, x, b])
print("agree with central differences:", report.ok)

# %% [markdown]
# ## A number that is used several times
#
# $c = a \cdot a + a$ uses $a$ three times. Each use sends something back, and the gradient is the
# **sum** of what the uses send: $a + a + 1 = 2a + 1$.

# %%
a = tb.Value(3.0, "a")
c = a * a + a
c.label = "c"
explain.contributions(c, a)

# %% [markdown]
# Forgetting to add is nearly everybody's first bug: write `grad = local * upstream` where
# `grad += local * upstream` is right, and each use overwrites the one before. The library can run a
# mistake on your own graph and show what it does. It is never in the engine itself.

# %%
explain.mistakes.overwriting(c)

# %% [markdown]
# ## Why the order matters
#
# The smallest graph on which the order matters is a chain of two doublings:
#
# $$b = a + a, \qquad c = b + b \qquad\Rightarrow\qquad \frac{\partial c}{\partial a} = 2 \cdot 2 = 4.$$

# %%
a = tb.Value(1.0, "a")
b = a + a
b.label = "b"
c = b + b
c.label = "c"
c.backward()
draw(c)

# %% [markdown]
# Here are two recursions that differ in one word. The first hands on **what has just arrived**, the
# second hands on **all it has so far**. The second looks more natural in code, since that is what
# stands in `grad`, and it is wrong: the first arrival at $b$ is handed on twice.


# %%
def hand_on_what_arrived(node, arrived, grads):
    grads[node] = grads.get(node, 0.0) + arrived
    visits = 1
    for operand, local in zip(node.operands, node.locals, strict=True):
        visits += hand_on_what_arrived(operand, local * arrived, grads)
    return visits


def hand_on_all_so_far(node, arrived, grads):
    grads[node] = grads.get(node, 0.0) + arrived
    for operand, local in zip(node.operands, node.locals, strict=True):
        hand_on_all_so_far(operand, local * grads[node], grads)


for recursion in (hand_on_what_arrived, hand_on_all_so_far):
    grads = {}
    recursion(c, 1.0, grads)
    print(f"{recursion.__name__:21} ∂c/∂a = {grads[a]}")

# %% [markdown]
# The first recursion is right, then; but it walks every *path* from $c$ to $a$, and each doubling
# doubles their number. The sweep waits at each node until all that arrives has arrived, and goes on
# **once**. For that it must visit a node only after all nodes computed from it: in reverse
# **topological order**.

# %%
print("doublings  visits by recursion  visits by the sweep   ∂c/∂a")
for depth in (2, 8, 16):
    first = last = tb.Value(1.0)
    for _ in range(depth):
        last = last + last
    visits = hand_on_what_arrived(last, 1.0, {})
    order = tb.topological_order(last)
    last.backward()
    print(f"{depth:9} {visits:20,} {len(order):20} {first.grad:7.0f}")

# %% [markdown]
# The other classical mistake walks the graph with a queue: each node hands on once, when it is
# *first met*. Chains come out right. Two ways of different length that meet again do not. Here
# $e = b + 3b$ with $b = a^2$ at $a = 1$, so that $\partial e/\partial a = 8a = 8$:

# %%
a = tb.Value(1.0, "a")
b = a * a
b.label = "b"
d = b * 3.0
d.label = "d"
e = b + d
e.label = "e"
explain.mistakes.no_topological_order(e)

# %% [markdown]
# The queue meets $b$ before $d$, and the three that $d$ sends later never reaches $a$. The order of
# the sweep does not let that happen: $d$ comes before $b$.

# %%
for node, gradient, edges in tb.sweep(e):
    for parent, local, contribution in edges:
        handed = f"{local:.0f} × {gradient:.0f} = {contribution:.0f}"
        print(f"{node.label} hands {parent.label}: {handed}")

# %% [markdown]
# ## The whole engine on one screen
#
# There is no magic left, so we can write it down: a number, what it was made from, the sum of what
# comes back, and the order.

# %%
import math


class Number:
    def __init__(self, data, operands=(), locals_=()):
        self.data, self.operands, self.locals, self.grad = data, operands, locals_, 0.0

    def __add__(self, other):
        return Number(self.data + other.data, (self, other), (1.0, 1.0))

    def __mul__(self, other):
        return Number(self.data * other.data, (self, other), (other.data, self.data))

    def tanh(self):
        y = math.tanh(self.data)
        return Number(y, (self,), (1.0 - y * y,))

    def backward(self):
        order, seen = [], set()

        def visit(node):
            if id(node) not in seen:
                seen.add(id(node))
                for operand in node.operands:
                    visit(operand)
                order.append(node)  # after everything it was computed from

        visit(self)
        self.grad = 1.0
        for node in reversed(order):
            for operand, local in zip(node.operands, node.locals, strict=True):
                operand.grad += local * node.grad


w2, x2, b2 = Number(0.5), Number(2.0), Number(-0.3)
(w2 * x2 + b2).tanh().backward()
print([round(n.grad, 6) for n in (w2, x2, b2)])
print([round(number, 6) for number in by_hand.values()])

# %% [markdown]
# ## What the articles print wrong
#
# The course follows five articles (see the [table of contents](README.md)); one of them calls
# back-propagation a kind of *gradient descent*. The two are different things. Back-propagation
# **computes** gradients and changes no parameter; gradient descent **uses** them:
# $w \leftarrow w - \eta\,\partial L/\partial w$.
#
# One habit of all engines surprises everybody once. Gradients of leaves **accumulate** over
# `backward()` calls, because that is how several losses are added up. Say `zero_grad()` in between.

# %%
w = tb.Value(0.5, "w")
loss = (tb.tanh(w * 2.0 - 0.3) - 0.9) ** 2
loss.backward()
print(f"back-propagation: w is still {w.data}, and its gradient is {w.grad:.6f}")
w.data -= 0.5 * w.grad
again = (tb.tanh(w * 2.0 - 0.3) - 0.9) ** 2
print(f"gradient descent: w is now {w.data:.6f}")
print(f"and the loss has gone from {loss.data:.6f} to {again.data:.6f}")

v = tb.Value(2.0, "v")
(v * v).backward()
(v * v).backward()
print("twice:", v.grad)
v.zero_grad()
(v * v).backward()
print("after zero_grad():", v.grad)

# %% [markdown]
# ## Exercises
#
# **1.** For $L = (\tanh(w x) - y)^2$ at $w = 0.5$, $x = 2$, $y = 1$, derive $\partial L/\partial w$ and
# $\partial L/\partial x$ by hand, and complete the cell. `explain.compare` marks your answer, and if
# it is wrong, says what kind of wrong it is. What stands there now is a typical first attempt.

# %%
w, x = tb.Value(0.5, "w"), tb.Value(2.0, "x")
a = tb.tanh(w * x)
L = (a - 1.0) ** 2

error = 2.0 * (a.data - 1.0)
explain.compare(L, {"w": error * x.data, "x": error * w.data})

# %% [markdown]
# <details><summary>Solution</summary>
#
# The attempt goes straight from $\partial L/\partial a = 2(a - y)$ to the weights, and leaves out the
# bend. With $a = \tanh(z)$, $z = w x$:
#
# $$\frac{\partial L}{\partial w} = 2(a-y)\,(1-a^2)\,x, \qquad \frac{\partial L}{\partial x} = 2(a-y)\,(1-a^2)\,w.$$
#
# ```python
# delta = error * (1.0 - a.data**2)
# explain.compare(L, {"w": delta * x.data, "x": delta * w.data})
# ```
#
# </details>
#
# **2.** Draw the graph of $f = u v + u$, $g = f \cdot f$ with pencil and paper, write the local
# derivatives on its arrows, and sweep by hand for $u = 2$, $v = 3$. Which numbers go into the cell?

# %%
u, v = tb.Value(2.0, "u"), tb.Value(3.0, "v")
f = u * v + u
f.label = "f"
g = f * f

explain.compare(g, {"u": 32.0, "v": 16.0})

# %% [markdown]
# <details><summary>Solution</summary>
#
# $f = 8$, and $\partial g/\partial f = f + f = 16$, from two uses. Then
# $\partial g/\partial v = 16 u = 32$, and $\partial g/\partial u = 16 (v + 1) = 64$: the use in the
# product sends $16 \cdot 3 = 48$, the use in the sum another $16$. The
# numbers in the cell take $\partial(f \cdot f)/\partial f$ for $f$: one use of two.
#
# ```python
# explain.compare(g, {"u": 64.0, "v": 32.0})
# ```
#
# </details>
#
# **3.** In `Number.backward` above, replace `reversed(order)` by `order`: what is $\partial c/\partial a$ of the
# two doublings now? Put it back, and leave out the set `seen`: what is it then, and why?
#
# <details><summary>Solution</summary>
#
# With `order` the leaves come first: they hand on nothing, and every inner node hands on a gradient that is
# still 0. Only the operands of the last node receive anything: $\partial c/\partial a = 0$. Without `seen`
# $b$ stands in the order twice, once for each path to it, and hands its 2 to both uses of $a$ each time:
# $2 \cdot (2 + 2) = 8$.
#
# </details>
#
# Next: [the chain rule, and all the paths](02_chain_rule_and_paths.ipynb).
