# %% [markdown]
# # 10. Record once, replay
#
# So far every step built its graph anew, swept it, and threw it away. That is what makes a graph
# easy to read, and it costs Python's time for each operation. But the next step does the same
# operations on other numbers. So: record them once, as a flat list of instructions, and run the
# list. This notebook shows the list, what it is worth (100 times and more), where it holds, and how
# it takes batches and many devices.
#
# *About 30 minutes. You need graphs and sweeps (1), and a network that trains (4).*

# %%
import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"  # for the last section:
os.environ["JAX_ENABLE_X64"] = "1"  # must be set before jax is loaded

import timeit
from functools import partial
from itertools import pairwise

import numpy as np

import tinygrad_bp as tb
from tinygrad_bp import datasets, nn, optim
from tinygrad_bp.visualize import draw

np.set_printoptions(precision=4, suppress=True, linewidth=100)

# %% [markdown]
# ## The tape
#
# A neuron and its error, $E = (\tanh(wx + b) - y)^2$. As a graph:


# %%
def error(w, b, x, y):
    return tb.square(tb.tanh(w * x + b) - y)


w, b = tb.Value(0.5, "w"), tb.Value(-0.3, "b")
E = error(w, b, 2.0, 1.0)
E.backward()
draw(E, direction="TB")

# %% [markdown]
# As a **tape**: each instruction is an operation and the numbers of the earlier instructions that
# it works on. The order of the list is a topological order, so forward is downwards and backward
# upwards.

# %%
compiled = tb.compile(error, argnums=(0, 1))
program = compiled.program(0.5, -0.3, 2.0, 1.0)


def listing(program):
    for i in range(len(program)):
        rule = program.rule(i)
        operands = ", ".join(f"v{j}" for j in program.operands_of(i))
        print(f"v{i} =", f"{rule.name}({operands})" if operands else program.constants.get(i, rule))


listing(program)

# %% [markdown]
# Forward and backward on this tape, by hand. An *adjoint* $\bar v_i = \partial E/\partial v_i$
# stands for each instruction; upwards, each hands its own times the local derivative to its
# operands: $\bar v_j \mathrel{+}= \bar v_i \, \partial v_i/\partial v_j$ (Griewank & Walther,
# chapter 3). Twenty lines, all there is to it:

# %%
FORWARD = {
    "multiply": lambda a, b: a * b,
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "tanh": np.tanh,
    "square": lambda a: a * a,
}
LOCAL = {
    "multiply": lambda y, a, b: (b, a),
    "add": lambda y, a, b: (1.0, 1.0),
    "subtract": lambda y, a, b: (1.0, -1.0),
    "tanh": lambda y, a: (1 - y * y,),
    "square": lambda y, a: (2 * a,),
}


def replay(program, *inputs):
    """The value, and the gradient by every input."""
    v, adjoint = [0.0] * len(program), [0.0] * len(program)
    for i, x in {**program.constants, **dict(zip(program.inputs, inputs, strict=True))}.items():
        v[i] = float(x)
    inner = [i for i in range(len(program)) if program.operands_of(i)]
    for i in inner:  # down
        v[i] = FORWARD[program.rule(i).name](*(v[j] for j in program.operands_of(i)))
    adjoint[program.outputs[0]] = 1.0
    for i in reversed(inner):  # and up
        operands = program.operands_of(i)
        slopes = LOCAL[program.rule(i).name](v[i], *(v[j] for j in operands))
        for j, slope in zip(operands, slopes, strict=True):
            adjoint[j] += slope * adjoint[i]
    return v[program.outputs[0]], [adjoint[i] for i in program.inputs]


value, gradient = replay(program, 0.5, -0.3, 2.0, 1.0)
print(f"by hand:        E = {value:.6f}, ∂E/∂w = {gradient[0]:.6f}, ∂E/∂b = {gradient[1]:.6f}")
print(f"by the graph:   E = {E.data:.6f}, ∂E/∂w = {w.grad:.6f}, ∂E/∂b = {b.grad:.6f}")
value, gradient = compiled.value_and_grad(0.5, -0.3, 2.0, 1.0)
print(f"by tb.compile:  E = {value:.6f}, ∂E/∂w = {gradient[0]:.6f}, ∂E/∂b = {gradient[1]:.6f}")

# %% [markdown]
# ## What it is worth
#
# A network 2-16-16-1 on 100 samples, in which every multiplication and every addition is a node:
# 65,000 of them. One step (value and gradient) by the eager graph, and replayed. The first call is
# the recording; it is not in the times.

# %%
rng = np.random.default_rng(0)
sizes = [2, 16, 16, 1]
weights = [(rng.normal(size=(n, m)) / np.sqrt(m)).tolist() for m, n in pairwise(sizes)]
samples = rng.normal(size=(100, 2)).tolist()
goals = [float(np.sin(a) * b) for a, b in samples]


def network(weights, x):
    for W in weights:
        x = [tb.tanh(sum(w * a for w, a in zip(row, x, strict=True))) for row in W]
    return x[0]


def total(weights, samples, goals):
    return sum((network(weights, x) - y) ** 2 for x, y in zip(samples, goals, strict=True))


eager = tb.value_and_grad(total)
value, gradient = eager(weights, samples, goals)
steps = {}
for engine in ("numpy", "numba"):
    step = tb.compile(total, engine=engine)
    try:
        found, of_tape = step.value_and_grad(weights, samples, goals)
    except ImportError as error_:
        print(f"{engine:5} is not installed here: {error_}")
        continue
    steps[engine] = step
    length = len(step.program(weights, samples, goals, gradient=True))
    same = np.allclose(of_tape[0], gradient[0], rtol=1e-10)
    print(f"{engine:5} gives the same: {same}, in {length:,} instructions")


# %% tags=["measured"]
def best(call, times):
    return min(timeit.repeat(call, number=1, repeat=times))


slow = best(lambda: eager(weights, samples, goals), 2)
for engine, step in steps.items():
    fast = best(partial(step.value_and_grad, weights, samples, goals), 7)
    print(
        f"{engine:5} against the eager graph: about {float(f'{slow / fast:.1g}'):.0f} times faster"
    )

# %% [markdown]
# ## Arrays, and a training loop
#
# With arrays there is less to gain, since most of the time is spent in numpy already, and what is
# left of it can be gathered. `step.backward(model, X, y)` gives the loss and adds to the
# parameters' `grad`, so that an optimizer is used as ever.

# %%
learnt, held_out = datasets.train_test_split(datasets.digits(), 0.2, rng=0)
model = nn.MLP([64, 32, 10], "tanh", rng=0)
optimizer = optim.Adam(model.parameters(), lr=0.005)
step = tb.compile(lambda model, X, y: nn.cross_entropy(model(X), y))

random, size = np.random.default_rng(0), 32
for _ in range(20):
    order = random.permutation(len(learnt.x))
    for start in range(0, len(order) - size + 1, size):
        batch = order[start : start + size]
        optimizer.zero_grad()
        step.backward(model, learnt.x[batch], learnt.y[batch])
        optimizer.step()
right = (model(held_out.x).data.argmax(1) == held_out.y).mean()
print(
    "recorded",
    step.recordings,
    "time; more than 95 % of the held-out digits are read:",
    right > 0.95,
)

# %% tags=["measured"]
X, y = learnt.x[:size], learnt.y[:size]


def eager_step():
    nn.cross_entropy(model(X), y).backward(leaves_only=True)


slow, fast = best(eager_step, 200), best(lambda: step.backward(model, X, y), 200)
print(f"a step of the 64-32-10 network, replayed: about {slow / fast:.1f} times faster")

# %% [markdown]
# Is it the same, then? Up to the order of sums. Two trainings of the same seed, eager and replayed:


# %%
def trained(compiled):
    twin = nn.MLP([64, 32, 10], "tanh", rng=0)
    sgd = optim.SGD(twin.parameters(), lr=0.1)
    replayed = tb.compile(lambda model, X, y: nn.cross_entropy(model(X), y))
    for i in range(50):
        X, y = learnt.x[32 * (i % 40) :][:32], learnt.y[32 * (i % 40) :][:32]
        sgd.zero_grad()
        if compiled:
            replayed.backward(twin, X, y)
        else:
            nn.cross_entropy(twin(X), y).backward()
        sgd.step()
    return np.concatenate([p.data.ravel() for p in twin.parameters()])


print(np.allclose(trained(True), trained(False), rtol=1e-9, atol=1e-12))

# %% [markdown]
# ## Guards: where a record holds
#
# A record knows one way through your code. Where Python decides by a number, it keeps the decision
# as a **guard**, and looks at each run whether it still comes out so. If not, it records the other
# way too.


# %%
def leaky(x):
    if x > 0.0:  # Python decides
        return x * x
    return 0.1 * x


step = tb.compile(leaky)
print([step.value_and_grad(x) for x in (3.0, 2.0)], "recordings:", step.recordings)
program = step.program(3.0, gradient=True)
for guard in program.guards:
    operands = ", ".join(f"v{j}" for j in program.operands_of(guard.condition))
    print(f"guard: {program.rule(guard.condition).name}({operands}) must be {guard.outcome}")
print([step.value_and_grad(x) for x in (-1.0, 5.0, -2.0)], "recordings:", step.recordings)

# %% [markdown]
# Whoever wants none asks for an error, or writes the choice as an operation, `tb.where`, which is
# decided anew at every run, and within an array element by element:

# %%
strict = tb.compile(leaky, on_branch="raise")
strict(3.0)
try:
    strict(-1.0)
except RuntimeError as error_:
    print(str(error_).partition(", in ")[0])

smooth = tb.compile(lambda x: tb.where(x > 0.0, x * x, 0.1 * x))
print([smooth.value_and_grad(x) for x in (3.0, -1.0)], "recordings:", smooth.recordings)

# %% [markdown]
# A number that is read out of the record would be frozen into it, silently wrong at the next run.
# So reading one raises:

# %%
try:
    tb.compile(lambda x: x * float(x))(2.0)
except TypeError as error_:
    print(error_)

# %% [markdown]
# What is not computed but only there, such as `rate` below, is a constant of the record; if it
# changes, the function is recorded anew.

# %%
rate = 2.0


def scaled(x):
    return rate * x


step = tb.compile(scaled)
first = step(10.0)
rate = 3.0
print(first, step(10.0), "recordings:", step.recordings)

# %% [markdown]
# ## Batches: many rows on the record of one
#
# Write the loss of *one* sample in single numbers, as a derivation has it, and run the record on
# all samples at once: each instruction then works on a column.


# %%
def one(weights, x1, x2, y):
    return (network(weights, [x1, x2]) - y) ** 2


step = tb.compile(one)
x1, x2 = np.array(samples).T
losses, shares = step.batch(weights, x1, x2, np.array(goals), rows=(1, 2, 3), gradient="rows")
value, gradient = eager(weights, samples, goals)
print(losses.shape, "losses; their sum is that of the whole:", np.isclose(losses.sum(), value))

# %% [markdown]
# With `gradient="rows"` there is a gradient for *each* sample; a mini-batch's sweep adds them up
# (E12). For the weight from the first input to the first hidden unit:

# %%
share = shares[0][0][0]
print(share.shape, "the first three:", share[:3])
print("their sum is its gradient:", np.isclose(share.sum(), gradient[0][0][0]))

# %% [markdown]
# ## Many devices, by JAX
#
# A program is a pure function of its inputs. As such it is given to JAX, which compiles it for GPUs
# and TPUs, and divides arrays among them. Here eight devices are simulated on the processor. The
# parameters are on each, the samples divided; nothing in the step says so. (Without JAX, the extra
# `jax`, this cell says so and goes on.)


# %%
def loss(W1, b1, W2, b2, X, y):
    return nn.cross_entropy(tb.tanh(X @ W1 + b1) @ W2 + b2, y)


parameters = [p.data for p in model.parameters()]
X, y = learnt.x[:800], np.eye(10)[learnt.y[:800]]
record = tb.compile(loss).program(*(tb.Tensor(p) for p in parameters), X, y)
try:
    import jax
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    from tinygrad_bp.replay.jax_engine import function
except ImportError:
    print("jax is not installed: pip install 'tinygrad_bp[jax]'")
else:
    pure = function(record)
    step = jax.jit(jax.value_and_grad(lambda *inputs: pure(*inputs)[0], argnums=(0, 1, 2, 3)))
    mesh = Mesh(np.array(jax.devices()), ("data",))
    everywhere, divided = (
        NamedSharding(mesh, PartitionSpec()),
        NamedSharding(mesh, PartitionSpec("data")),
    )
    placed = [jax.device_put(p, everywhere) for p in parameters]
    parts = [jax.device_put(part, divided) for part in (X, y)]
    value, gradients = step(*placed, *parts)
    right, exact = tb.value_and_grad(loss, (0, 1, 2, 3))(*parameters, X, y)
    print(
        len(jax.devices()),
        "devices, rows on each:",
        [len(s.data) for s in parts[0].addressable_shards],
    )
    print(
        "same loss:",
        np.isclose(value, right),
        "same gradients:",
        all(map(np.allclose, gradients, exact)),
    )

# %% [markdown]
# ## Exercises
#
# **1.** Add the sigmoid to `FORWARD` and `LOCAL` above, so that the tape below runs. One line is
# given, and wrong: use the result `y`.

# %%
FORWARD["sigmoid"] = lambda a: 1 / (1 + np.exp(-a))
LOCAL["sigmoid"] = lambda y, a: (1 - y * y,)  # <- repair

tape = tb.compile(lambda a: tb.sigmoid(a) * a).program(0.5)
a = tb.Value(0.5, "a")
tb.explain.compare(tb.sigmoid(a) * a, {"a": replay(tape, 0.5)[1][0]})

# %% [markdown]
# <details><summary>Solution</summary>
#
# $\sigma' = \sigma(1 - \sigma)$: `LOCAL["sigmoid"] = lambda y, a: (y * (1 - y),)`.
# </details>
#
# **2.** Each run below takes three times one of two ways. How many recordings does it make for
# these eight numbers? Write down the ways first (say D for doubled, S for subtracted), put the
# number in `guess`, and run.


# %%
def ways(x):
    for _ in range(3):
        x = x - 1.0 if x > 1.0 else x * 2.0
    return x


guess = 8  # <- yours
counted = tb.compile(ways)
for x in (0.1, 0.2, 0.3, 0.6, 1.5, 2.5, 3.5, 4.5):
    counted(x)
print("right:", counted.recordings == guess)

# %% [markdown]
# <details><summary>Solution</summary>
#
# Six: DDD (0.1, 0.2), DDS (0.3), DSD (0.6), SDD (1.5, as 1.0 is not above 1), SSD (2.5), SSS (3.5,
# 4.5). A seventh, SDS, would be taken by 1.9; the eighth, DSS, by none: what was doubled is at most
# 2, and less 1 at most 1. With `tb.where` in the place of `if` there is one recording, which
# computes both sides each time.
# </details>
#
# ## Sources
#
# A. Griewank, A. Walther, *Evaluating Derivatives*, 2nd ed., SIAM (2008), chapters 3 and 6. · A. G.
# Baydin, B. A. Pearlmutter, A. A. Radul, J. M. Siskind, *Automatic differentiation in machine
# learning: a survey*, JMLR 18 (2018), section 5. · R. E. Wengert, *A simple automatic derivative
# evaluation program*, Comm. ACM 7 (1964): the tape's first description.
