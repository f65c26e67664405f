"""Tensors in any order of events, against cells that keep their own books, element by element."""

import copy
import gc
import pickle
import weakref
from fractions import Fraction

import naive
import numpy as np
import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from naive_arrays import ELEMENTWISE, Cells, computed

import tinygrad_bp as tb
from tinygrad_bp import Tensor

MOST = 25  # nodes
LARGEST = 1e5

places = st.integers(0, 10**4)  # of a node, counted from the latest backwards and around
shapes = st.sampled_from([(), (1,), (2,), (3,), (2, 3), (3, 2), (1, 3), (2, 1), (2, 2), (0,)])
seeds = st.integers(0, 10**6)  # of the numbers of an array
UNARY = ["absolute", "exp", "negative", "positive", "relu", "sigmoid", "sin", "square", "tanh"]
BINARY = ["add", "maximum", "minimum", "multiply", "subtract"]
RANKS = {"sum": 0, "mean": 1, "max": 1, "transpose": 0, "getitem": 1}
INDICES = [0, -1, slice(None, None, 2), slice(1, None), None, ..., [0, 0, -1], np.array([0, 0])]


def array_of(shape, seed):
    """Multiples of a quarter, so that small sums are free of rounding, with many ties."""
    return np.array(np.random.default_rng(seed).integers(-8, 9, shape) / 4.0)


class Node:
    """What the test knows of a Tensor."""

    def __init__(self, value, cells, *, tracked, label="", scope=""):
        self.value = value  # None: nobody in the test holds it
        self.ref = weakref.ref(value)
        self.cells = cells
        for cell in cells.cells:
            cell.owner = self
        self.shape = cells.shape
        self.data = cells.data()  # as it is now, whatever has been recorded of it
        self.tracked = tracked
        self.name = None
        self.parameters = ()
        self.operands = ()
        self.label = label
        self.scope = scope
        self.grad = None
        self.hooks = {}
        self.exposed = None  # the array that the user holds and may write to
        self.segment = None

    @property
    def leaf(self):
        return self.name is None

    def written(self, array):
        """New numbers: from now on other cells."""
        self.data = np.array(array, dtype=float).reshape(self.shape)
        for cell, x in zip(self.cells.cells, self.data.ravel(), strict=True):
            cell.data = float(x)


def reached(nodes):
    found = {id(node): node for node in nodes}
    unvisited = list(found.values())
    for node in unvisited:
        for parent in node.operands:
            if isinstance(parent, Node) and id(parent) not in found:
                found[id(parent)] = parent
                unvisited.append(parent)
    return list(found.values())


def apply(name, parameters, operands):
    if name == "concatenate":
        return tb.concatenate(operands, *parameters)
    if name == "getitem":
        return operands[0][parameters[0]]
    return getattr(tb, name)(*operands, *parameters)


def near_a_kink(name, parameters, operands):
    """Whether rounding may decide which way a choice goes."""
    xs = [x.data() if isinstance(x, Cells) else x for x in operands]
    if name in ("absolute", "relu"):
        gaps = xs[0]
    elif name in ("maximum", "minimum"):
        gaps = np.subtract(*xs)
    elif name == "max" and xs[0].size > 1:
        axis, _ = parameters
        ordered = np.sort(xs[0], axis=axis)
        gaps = np.diff(ordered, axis=-1 if axis is None else axis)
    else:
        return False
    return bool((np.abs(gaps) < 1e-9).any())


EVENTS = {}  # by name: what they are drawn with


def event(**strategies):
    """A method that is one of the small things that happen between two sweeps."""

    def mark(method):
        EVENTS[method.__name__] = st.tuples(
            st.just(method.__name__), st.fixed_dictionaries(strategies)
        )
        return method

    return mark


class Tensors(RuleBasedStateMachine):
    """Builds, differentiates, zeroes, extends, frees, copies, writes, records and replays."""

    def __init__(self):
        super().__init__()
        self.nodes = []
        self.blocks = []
        self.compiled = []
        self.kept = []  # gradients that were handed out, and what they were
        gc.disable()

    @initialize(shape=shapes, seed=seeds)
    def begin(self, shape, seed):
        self.leaf(shape, seed, True, "")
        self.leaf((2, 3), seed + 1, True, "W")

    # --- helpers --------------------------------------------------------------------------------

    @property
    def recording(self):
        return self.blocks[-1][1] if self.blocks else True

    @property
    def scope(self):
        return self.blocks[-1][2] if self.recording and self.blocks else ""

    def held(self):
        return [node for node in self.nodes if node.value is not None]

    def at(self, place):
        held = self.held()
        return held[-1 - place % len(held)]

    def some(self, place, wanted):
        """Mostly a node that something can be done to, now and then any."""
        found = [node for node in self.held() if wanted(node)]
        return found[-1 - place % len(found)] if found and place % 8 else self.at(place)

    def root(self, place):
        return self.some(place, lambda node: node.tracked)

    def happen(self, events):
        for name, arguments in events:
            if len(self.nodes) < MOST or name not in BUILDING:
                getattr(self, name)(**arguments)

    def do(self, name, parameters, operands):
        """An operation of nodes and constants, on both sides."""
        mine = [x.cells if isinstance(x, Node) else np.array(x) for x in operands]
        try:
            cells = computed(name, parameters, mine)
        except OverflowError:
            return
        if any(abs(cell.data) > LARGEST for cell in cells.cells):
            return
        theirs = [x.value if isinstance(x, Node) else x for x in operands]
        value = apply(name, parameters, theirs)
        for x in operands:
            if isinstance(x, Node):
                self.used(x)
        self.take(value, cells, name, parameters, operands)

    def take(self, value, cells, name, parameters, operands):
        assert value.shape == cells.shape
        got = np.array(value)
        for cell, x, loose in zip(cells.cells, got.ravel(), cells.loose, strict=True):
            assert abs(cell.data - x) <= loose
            cell.data = float(x)  # rounded as the package does it
        tracked = self.recording and any(
            isinstance(x, Node) and x.tracked
            for x in (operands[1:] if name == "where" else operands)
        )
        for cell in cells.cells:
            cell.terms = tuple(t for t in cell.terms if tracked and t.cell.owner.tracked)
        node = Node(value, cells, tracked=tracked, scope=self.scope)
        if tracked:
            node.name, node.parameters, node.operands = name, parameters, tuple(operands)
        self.nodes.append(node)
        return node

    @staticmethod
    def used(node):
        """What the user holds of a leaf's numbers turns read-only when the leaf is used."""
        if node.exposed is not None:
            assert not node.exposed.flags.writeable
            node.exposed = None

    # --- building -------------------------------------------------------------------------------

    @event(shape=shapes, seed=seeds, tracked=st.booleans(), label=st.sampled_from(["", "W", "b"]))
    def leaf(self, shape, seed, tracked, label):
        array = array_of(shape, seed)
        value = Tensor(array, label, requires_grad=tracked)
        array[...] = 7.0  # nobody may still be looking at it
        cells = Cells.of(array_of(shape, seed))
        self.nodes.append(Node(value, cells, tracked=tracked, label=label, scope=self.scope))

    @event(name=st.sampled_from(UNARY), i=places)
    def one_operand(self, name, i):
        self.do(name, (), [self.at(i)])

    @event(name=st.sampled_from(BINARY), i=places, j=places, seed=seeds)
    def two_operands(self, name, i, j, seed):
        x, y = self.at(i), self.at(j)
        try:
            np.broadcast_shapes(x.shape, y.shape)
        except ValueError:
            with pytest.raises(ValueError, match="broadcast"):
                apply(name, (), [x.value, y.value])
            self.used(x)
            self.used(y)
            y = array_of(x.shape, seed)
        self.do(name, (), [x, y])

    @event(name=st.sampled_from(BINARY), i=places, seed=seeds, whole=st.booleans())
    def with_a_constant(self, name, i, seed, whole):
        """A plain array, which is changed afterwards, or a number."""
        x = self.at(i)
        y = array_of(x.shape[-1:] if whole else (), seed)
        given = y.copy() if whole else float(y)
        before = len(self.nodes)
        self.do(name, (), [x, given] if seed % 2 else [given, x])
        if whole:
            given[...] = 7.0
            for node in self.nodes[before:]:
                node.operands = tuple(z if isinstance(z, Node) else y for z in node.operands)

    @event(i=places, j=places, seed=seeds)
    def product(self, i, j, seed):
        x, y = self.at(i), self.at(j)
        if not x.shape or len(x.shape) > 2:
            return
        if not y.shape or len(y.shape) > 2 or x.shape[-1] != y.shape[0]:
            y = array_of((x.shape[-1], 2), seed)
        self.do("matmul", (), [x, y])

    @event(
        name=st.sampled_from(["sum", "mean", "max"]),
        i=places,
        axis=st.integers(-2, 1),
        keepdims=st.booleans(),
    )
    def reduce(self, name, i, axis, keepdims):
        x = self.at(i)
        if 0 in x.shape:
            return
        fits = -len(x.shape) <= axis < len(x.shape)
        self.do(name, (axis if fits else None, keepdims), [x])

    @event(i=places, to=st.sampled_from([(-1,), (1, -1), (-1, 1), (2, -1), "T"]))
    def reshape(self, i, to):
        x = self.at(i)
        if to == "T":
            self.do("transpose", (), [x])
        elif x.cells.cells and (2 not in to or len(x.cells.cells) % 2 == 0):
            self.do("reshape", (to,), [x])

    @event(i=places, index=st.sampled_from(INDICES))
    def index(self, i, index):
        x = self.at(i)
        try:
            np.zeros(x.shape)[index]
        except IndexError:
            with pytest.raises(IndexError):
                x.value[index]
            self.used(x)
        else:
            self.do("getitem", (index,), [x])

    @event(i=places, j=places, axis=st.integers(-1, 0))
    def join(self, i, j, axis):
        x, y = self.at(i), self.at(j)
        if x.shape and x.shape == y.shape:
            self.do("concatenate", (axis,), [x, y])

    @event(i=places, j=places, seed=seeds)
    def where(self, i, j, seed):
        x, y = self.at(i), self.at(j)
        condition = array_of(x.shape, seed) > 0
        self.do("where", (), [condition, x, y if x.shape == y.shape else 1.5])

    @event(i=places)
    def detach(self, i):
        node = self.at(i)
        value = node.value.detach()
        self.used(node)
        cells = Cells.of(node.data)
        self.nodes.append(Node(value, cells, tracked=False, label=node.label, scope=node.scope))

    @event(i=places, how=st.sampled_from([copy.copy, copy.deepcopy, "pickle"]))
    def copied(self, i, how):
        node = self.at(i)
        how = (lambda x: pickle.loads(pickle.dumps(x))) if how == "pickle" else how
        if not node.leaf:
            with pytest.raises(TypeError, match="with a history cannot be copied"):
                how(node.value)
            return
        cells = Cells.of(node.data)
        twin = how(node.value)
        self.nodes.append(
            Node(twin, cells, tracked=node.tracked, label=node.label, scope=self.scope)
        )

    # --- small events ---------------------------------------------------------------------------

    @event(kind=st.sampled_from(["no_grad", "enable_grad", "scope", *["leave"] * 4]))
    def block(self, kind):
        """Enter a block, or leave the innermost; at most three."""
        if kind == "leave" or len(self.blocks) == 3:
            if self.blocks:
                self.blocks.pop()[0].__exit__(None, None, None)
            return
        recording, scope = self.recording, self.scope
        if kind == "no_grad":
            block, recording, scope = tb.no_grad(), False, ""
        elif kind == "enable_grad":
            block, recording = tb.enable_grad(), True
        else:
            block = tb.scope("layer")
            scope = (f"{scope}/layer" if scope else "layer") if recording else ""
        block.__enter__()
        self.blocks.append((block, recording, scope))

    @event(i=places, label=st.sampled_from(["", "W", "delta"]))
    def name_it(self, i, label):
        node = self.at(i)
        node.value.label = node.label = label

    @event(i=places, seed=seeds, how=st.sampled_from(["set", "all", "some", "less", "wrong"]))
    def write(self, i, seed, how):
        node = self.some(i, lambda node: node.leaf)
        array = array_of(node.shape, seed)
        if not node.leaf:
            with pytest.raises(ValueError, match="only a leaf's can be set"):
                node.value.data = array
            with pytest.raises(ValueError, match="read-only"):
                node.value.data[...] = array
            return
        if how == "wrong":
            with pytest.raises(ValueError, match="data: expected shape"):
                node.value.data = np.zeros((4, 4))
            return
        if how == "set":
            node.value.data = array
            node.written(array)
            array[...] = 7.0
            node.exposed = None
            return
        if how == "less":
            node.value.data -= 0.25
            node.written(node.data - 0.25)
            node.exposed = node.value.data
            return
        node.exposed = node.value.data
        if how == "all":
            node.exposed[...] = array
            node.written(array)
        elif node.data.size:
            node.exposed.reshape(-1)[-1] = 1.75
            changed = node.data.copy()
            changed.reshape(-1)[-1] = 1.75
            node.written(changed)

    @event(i=places)
    def write_late(self, i):
        """Through the array that was handed out before, as long as the leaf was not used since."""
        exposed = [node for node in self.held() if node.exposed is not None]
        if exposed:
            node = exposed[i % len(exposed)]
            node.exposed[...] = 0.75
            node.written(np.full(node.shape, 0.75))

    @event(i=places, how=st.sampled_from(["none", "zero", "set", "wrong"]), seed=seeds)
    def set_grad(self, i, how, seed):
        node = self.some(i, lambda node: node.grad is not None)
        array = array_of(node.shape, seed)
        if how == "wrong":
            with pytest.raises(ValueError, match="grad: expected shape"):
                node.value.grad = np.zeros((4, 4))
        elif how == "set":
            node.value.grad = array
            node.grad = array.copy()
            array[...] = 7.0
        else:
            node.grad = None
            node.value.zero_grad() if how == "zero" else setattr(node.value, "grad", None)

    @event(i=places)
    def scribble(self, i):
        """A gradient belongs to whoever reads it."""
        node = self.some(i, lambda node: node.grad is not None)
        if node.grad is not None:
            grad = node.value.grad
            self.kept = [(array, was) for array, was in self.kept if array is not grad]
            grad[...] = 1000.0
            node.grad = np.full(node.shape, 1000.0)

    @event(i=places)
    def keep_grad(self, i):
        node = self.some(i, lambda node: node.grad is not None)
        if node.grad is not None:
            self.kept.append((node.value.grad, node.grad.copy()))

    @event(i=places, factor=st.sampled_from([None, 2.0, -1.0, 0.0]))
    def hook(self, i, factor):
        node, shown = self.at(i), []

        def look(g):
            shown.append(np.array(g))
            if g.size:
                assert not g.flags.writeable
            return None if factor is None else g * factor

        if not node.tracked:
            with pytest.raises(ValueError, match="register_hook: this node requires no gradient"):
                node.value.register_hook(look)
        elif len(node.hooks) < 2:
            node.hooks[node.value.register_hook(look)] = (factor, shown)

    @event(i=places)
    def unhook(self, i):
        hooked = [node for node in self.held() if node.hooks]
        if hooked:
            hooks = hooked[i % len(hooked)].hooks
            handle = next(iter(hooks))
            del hooks[handle]
            handle.remove()

    @event(i=places)
    def drop(self, i):
        if len(self.held()) > 2:
            self.at(i).value = None

    @event()
    def drop_compiled(self):
        self.compiled.clear()

    # --- differentiating ------------------------------------------------------------------------

    def expected(self, root, seed):
        def factor(cell):
            product = Fraction(1)
            for each, _ in cell.owner.hooks.values():
                product *= 1 if each is None else Fraction(each)
            return product

        pairs = zip(root.cells.cells, np.ravel(seed), strict=True)
        return naive.derivatives({cell: Fraction(float(x)) for cell, x in pairs}, factor)

    def sweeping(self, root):
        """The nodes that a sweep visits."""
        found = {id(root): root}
        unvisited = [root]
        for node in unvisited:
            for x in node.operands[1:] if node.name == "where" else node.operands:
                if isinstance(x, Node) and x.tracked and id(x) not in found:
                    found[id(x)] = x
                    unvisited.append(x)
        return list(found.values())

    @staticmethod
    def is_stale(nodes):
        pairs = [pair for node in nodes for pair in node.segment or ()]
        return any(not np.array_equal(leaf.data, then) for leaf, then in pairs)

    @rule(i=places, seed=seeds, leaves_only=st.booleans(), j=places)
    def backward(self, i, seed, leaves_only, j):
        root = self.root(i)
        if not root.tracked:
            with pytest.raises(ValueError, match="requires no gradient"):
                root.value.backward(array_of(root.shape, seed))
            return
        gradient = array_of(root.shape, seed)
        if len(root.cells.cells) == 1 and seed % 2:
            given, gradient = None, np.ones(root.shape)
        else:
            given = gradient.copy()
        if len(root.cells.cells) != 1:
            with pytest.raises(ValueError, match="needs the gradient to start"):
                root.value.backward()
            with pytest.raises(ValueError, match="gradient: expected shape"):
                root.value.backward(np.zeros((4, 4)))
        nodes = self.sweeping(root)
        for node in self.nodes:
            for _, shown in node.hooks.values():
                shown.clear()
        if self.is_stale(nodes):
            with pytest.raises(RuntimeError, match=r"written to since|gave other numbers"):
                root.value.backward(given)
            return
        root.value.backward(given, leaves_only=leaves_only)
        if given is not None:
            given[...] = 7.0  # nobody may still be looking at it
        found = self.expected(root, gradient)
        self.take_in([n for n in nodes if not leaves_only or n.leaf], found, j)
        for node in self.nodes:
            visited = any(node is n for n in nodes)
            assert all(len(shown) == visited for _, shown in node.hooks.values())

    def take_in(self, nodes, found, j):
        """Gradients of a sweep: checked, one of them written to before the others are looked at."""
        alive = [node for node in nodes if node.ref() is not None]
        if not alive:
            return
        alive.insert(0, alive.pop(j % len(alive)))
        for k, node in enumerate(alive):
            grad = node.ref().grad
            assert grad.shape == node.shape
            nothing = naive.Derivative(Fraction(0), Fraction(0), 0, True)
            derived = [found.get(cell, nothing) for cell in node.cells.cells]
            before = node.grad if node.leaf else None
            for i, (x, d) in enumerate(zip(grad.ravel(), derived, strict=True)):
                old = 0.0 if before is None else before.ravel()[i]
                if d.exact:
                    assert x == old + float(d.value)
                else:
                    size = d.size + abs(Fraction(old))
                    total = d.value + Fraction(old)
                    assert naive.Derivative(total, size, d.depth + 8, False).agrees(x)
            if k == 0:
                grad[...] = 1000.0
            node.grad = grad.copy()

    @rule(i=places, part=st.floats(0.0, 1.0))
    def sweep(self, i, part):
        """Step by step, as far as one likes; nothing is stored."""
        root = self.root(i)
        nodes = self.sweeping(root)
        if not root.tracked or self.is_stale(nodes):
            return
        seed = array_of(root.shape, i)
        found = self.expected(root, seed)
        by_value = {id(node.ref()): node for node in nodes if node.ref() is not None}
        for count, step in enumerate(tb.sweep(root.value, seed)):
            if count >= part * len(nodes):
                return
            node = by_value.get(id(step.node))
            if node is not None:
                for cell, x in zip(node.cells.cells, np.ravel(step.gradient), strict=True):
                    if cell in found:
                        d = found[cell]
                        assert d._replace(depth=d.depth + 8).agrees(x)

    # --- the same as a function -----------------------------------------------------------------

    def program(self, root):
        nodes = sorted(reached([root]), key=self.nodes.index)
        leaves = [node for node in nodes if node.leaf]
        lines = [node for node in nodes if not node.leaf]
        return lines, leaves

    @staticmethod
    def evaluated(lines, leaves, arrays):
        """The lines on other numbers, in cells; None where rounding may decide a choice."""
        found = {id(leaf): Cells.of(array) for leaf, array in zip(leaves, arrays, strict=True)}
        inputs = list(found.values())
        exact = True
        for node in lines:
            operands = [found.get(id(x), x) if isinstance(x, Node) else np.array(x)
                        for x in node.operands]  # fmt: skip
            exact = exact and (node.name not in ELEMENTWISE or naive.OPERATIONS[node.name].exact)
            try:
                cells = computed(node.name, node.parameters, operands)
            except OverflowError:
                return None
            if any(abs(cell.data) > LARGEST for cell in cells.cells):
                return None
            found[id(node)] = cells
            if not exact and near_a_kink(node.name, node.parameters, operands):
                return None
        return inputs, found[id(lines[-1])]

    @staticmethod
    def function_of(lines, leaves):
        """The lines as a function of the leaves' numbers; it holds no node."""
        place = {id(node): k for k, node in enumerate([*leaves, *lines])}
        steps = []
        for node in lines:
            operands = [("at", place[id(x)]) if isinstance(x, Node) else x for x in node.operands]
            steps.append((node.name, node.parameters, operands))

        def f(*inputs):
            results = list(inputs)
            for name, parameters, operands in steps:
                xs = [results[x[1]] if isinstance(x, tuple) else x for x in operands]
                results.append(apply(name, parameters, xs))
            last = results[-1]
            return tb.sum(last * last) if last.shape else last

        return f

    def total(self, cells):
        """What `function_of` returns, in cells."""
        if cells.shape == ():
            return cells
        return computed("sum", (None, False), [computed("square", (), [cells])])

    def check_function(self, got, gradients, inputs, last):
        total = self.total(last)
        found = naive.derivatives({total.cells[0]: Fraction(1)})
        size = 1.0 + sum(abs(cell.data) for cell in last.cells) ** 2
        assert abs(got - total.cells[0].data) <= 1e-9 * size
        for gradient, cells in zip(gradients, inputs, strict=True):
            for x, cell in zip(np.ravel(gradient), cells.cells, strict=True):
                d = found.get(cell)
                # At other numbers the partials themselves are rounded otherwise.
                bound = 0.0 if d is None else 1e-9 * float(d.size)
                assert abs(x - (0.0 if d is None else float(d.value))) <= bound + 1e-300

    @rule(i=places, seed=seeds)
    def functional(self, i, seed):
        lines, leaves = self.program(self.root(i))
        if not lines:
            return
        arrays = [array_of(leaf.shape, seed + k) for k, leaf in enumerate(leaves)]
        outcome = self.evaluated(lines, leaves, arrays)
        if outcome is None:
            return
        f = self.function_of(lines, leaves)
        with tb.enable_grad():
            value, gradients = tb.value_and_grad(f, range(len(leaves)))(*arrays)
        self.check_function(value, gradients, *outcome)

    @precondition(lambda self: len(self.compiled) < 2)
    @rule(i=places)
    def record(self, i):
        lines, leaves = self.program(self.root(i))
        if lines:
            f = tb.compile(self.function_of(lines, leaves), argnums=range(len(leaves)))
            self.compiled.append((f, lines, leaves))

    @precondition(lambda self: self.compiled)
    @rule(k=places, seed=seeds)
    def replay(self, k, seed):
        f, lines, leaves = self.compiled[k % len(self.compiled)]
        arrays = [array_of(leaf.shape, seed + k) for k, leaf in enumerate(leaves)]
        outcome = self.evaluated(lines, leaves, arrays)
        if outcome is None:
            return
        value, gradients = f.value_and_grad(*arrays)
        self.check_function(value, gradients, *outcome)
        assert f(*arrays) == value

    @precondition(lambda self: self.compiled)
    @rule(k=places)
    def replay_backward(self, k):
        """A replayed sweep adds to the leaves that take part, and touches nothing else."""
        f, lines, leaves = self.compiled[k % len(self.compiled)]
        if any(leaf.value is None or leaf.hooks for leaf in leaves):
            return
        if not any(leaf.tracked for leaf in leaves):
            return
        outcome = self.evaluated(lines, leaves, [leaf.data for leaf in leaves])
        if outcome is None:
            return
        value = f.backward(*(leaf.value for leaf in leaves))
        after = [leaf.value.grad for leaf in leaves]
        parts = []
        for leaf, grad in zip(leaves, after, strict=True):
            leaf.exposed = None
            if not leaf.tracked:
                assert leaf.grad is None or np.array_equal(grad, leaf.grad)
            before = 0.0 if leaf.grad is None else leaf.grad
            parts.append(np.zeros(leaf.shape) if grad is None else grad - before)
        tracked = [(leaf, p) for leaf, p in zip(leaves, parts, strict=True) if leaf.tracked]
        if all(leaf.grad is None for leaf in leaves):  # no rounding of what was there before
            inputs = [cells for leaf, cells in zip(leaves, outcome[0], strict=True) if leaf.tracked]
            self.check_function(value, [p for _, p in tracked], inputs, outcome[1])
        for leaf, grad in zip(leaves, after, strict=True):
            leaf.grad = None if grad is None else grad.copy()

    # --- parts that are not kept ----------------------------------------------------------------

    @precondition(lambda self: len(self.nodes) < MOST)
    @rule(
        i=places,
        j=places,
        name=st.sampled_from(BINARY),
        then=st.sampled_from(["", "write", "backward", "both"]),
    )
    def checkpoint(self, i, j, name, then):
        x = self.some(i, lambda node: node.leaf and node.tracked)
        y = self.some(j, lambda node: node.shape == x.shape)
        if x.shape != y.shape:
            return
        cells = computed(name, (), [x.cells, y.cells])
        if any(abs(cell.data) > LARGEST for cell in cells.cells):
            return
        value = tb.checkpoint(tb.RULES[name], x.value, y.value)
        self.used(x)
        self.used(y)
        node = self.take(value, cells, name, (), [x, y])
        if node.tracked:
            leaves = [n for n in (x, y) if n.leaf]
            node.segment = [(leaf, leaf.data.copy()) for leaf in leaves]
        if x.leaf and then in ("write", "both"):  # what is run again would see it
            x.value.data += 1.0
            x.written(x.data + 1.0)
            x.exposed = x.value.data
        if then in ("backward", "both"):
            self.backward(0, 0, False, 0)

    # --- after every step -----------------------------------------------------------------------

    @invariant()
    def the_books_agree(self):
        for node in self.nodes:
            value = node.ref()
            if value is None:
                continue
            assert np.array_equal(np.array(value), node.data)
            assert value.shape == node.shape
            grad = value.grad
            assert (grad is None) == (node.grad is None)
            assert grad is None or np.array_equal(grad, node.grad)
            assert value.requires_grad == node.tracked
            assert value.is_leaf == node.leaf
            assert value.label == node.label
            assert value.scope.path == node.scope

    @invariant()
    def the_recorded_numbers_are_as_they_were(self):
        for node in self.nodes:
            value = node.ref()
            if value is None or node.leaf or node.segment is not None:
                continue
            for x, mine in zip(value.operands, node.operands, strict=True):
                assert x is mine.ref() if isinstance(mine, Node) else np.array_equal(x, mine)

    @invariant()
    def gradients_handed_out_do_not_change(self):
        for array, was in self.kept:
            assert np.array_equal(array, was)

    @invariant()
    def what_nobody_holds_is_gone(self):
        known = {id(n) for _, lines, leaves in self.compiled for n in (*lines, *leaves)}
        alive = {id(node) for node in reached(self.held())}
        for node in self.nodes:
            assert id(node) in alive or node.ref() is None
        self.nodes = [node for node in self.nodes if id(node) in alive | known]

    @invariant()
    def recording_is_as_entered(self):
        assert tb.is_grad_enabled() == self.recording

    def teardown(self):
        while self.blocks:
            self.block("leave")
        gc.enable()


BUILDING = ("one_operand", "two_operands", "with_a_constant", "product", "reduce", "reshape",
            "index", "join", "where", "leaf", "detach", "copied")  # fmt: skip
building = st.one_of(*(EVENTS[name] for name in ("two_operands", *BUILDING)))
disturbing = st.one_of(*(drawn for name, drawn in EVENTS.items() if name not in BUILDING))


class AnyOrder(Tensors):
    @rule(events=st.lists(building, min_size=1, max_size=5))
    def build(self, events):
        self.happen(events)

    @rule(events=st.lists(disturbing, min_size=1, max_size=3))
    def disturb(self, events):
        self.happen(events)


TestTensors = AnyOrder.TestCase
TestTensors.settings = settings(max_examples=2 * settings().max_examples, stateful_step_count=25)
