"""Values in any order of events, against a second implementation that keeps its own books."""

import copy
import gc
import pickle
import weakref
from contextlib import suppress
from fractions import Fraction

import naive
import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import tinygrad_bp as tb
from tinygrad_bp import Value, rules

MOST = 40  # nodes
LARGEST = 1e6

places = st.integers(0, 10**4)  # of a node, counted from the latest backwards and around
labels = st.sampled_from(["", "w", "delta", "<b>"])
# Most of these are sums of few powers of two, so that whole sweeps are free of rounding.
numbers = st.one_of(
    st.sampled_from([-3.0, -2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.25, 2.0, 3.0]),
    st.integers(-4000, 4000).map(lambda x: x / 1000),
)
unary = st.sampled_from(sorted(n for n in naive.OPERATIONS if tb.RULES[n].arity == 1))
binary = st.sampled_from(sorted(n for n in naive.OPERATIONS if tb.RULES[n].arity == 2))
OPERATORS = {
    "add": lambda x, y: x + y,
    "subtract": lambda x, y: x - y,
    "multiply": lambda x, y: x * y,
    "divide": lambda x, y: x / y,
}


class Node:
    """What the test knows of a Value."""

    def __init__(self, value, cell, *, tracked, operands=(), name=None, scope="", label=""):
        self.value = value  # None: nobody in the test holds it
        self.ref = weakref.ref(value) if value is not None else lambda: None
        self.cell = cell
        self.cell.owner = self
        self.tracked = tracked
        self.name = name
        self.operands = operands
        self.scope = scope
        self.label = label
        self.grad = None
        self.hooks = {}  # handle: (factor or None, what it was shown)
        self.segment = None  # what a checkpoint read of leaves: (node, number)
        self.inside = False  # of a checkpointed part

    @property
    def leaf(self):
        return self.name is None or not self.tracked

    def parents(self):
        return [x for x in self.operands if isinstance(x, Node)]


def reached(nodes):
    """The nodes and all that they were computed from."""
    found = {id(node): node for node in nodes}
    unvisited = list(found.values())
    for node in unvisited:
        for parent in node.parents():
            if id(parent) not in found:
                found[id(parent)] = parent
                unvisited.append(parent)
    return list(found.values())


def apply(name, operands, with_operators=False):
    if with_operators and name in OPERATORS:
        return OPERATORS[name](*operands)
    return tb.RULES[name](*operands)


def function_of(lines, count):
    """A program as a function of `count` numbers."""

    def f(*inputs):
        results = list(inputs[:count])
        for name, operands in lines:
            found = [results[x[1]] if isinstance(x, tuple) else x for x in operands]
            results.append(apply(name, found))
        return results[-1]

    return f


EVENTS = {}  # by name: what they are drawn with


def event(**strategies):
    """A method that is one of the small things that happen between two sweeps."""

    def mark(method):
        EVENTS[method.__name__] = st.tuples(
            st.just(method.__name__), st.fixed_dictionaries(strategies)
        )
        return method

    return mark


class Values(RuleBasedStateMachine):
    """Builds, differentiates, zeroes, extends, frees, copies, writes, records and replays."""

    def __init__(self):
        super().__init__()
        self.nodes = []
        self.blocks = []  # (the block, is recording, scope) as they were entered
        self.compiled = []
        gc.disable()  # what dies has to die by itself

    @initialize(xs=st.lists(numbers, min_size=2, max_size=3))
    def begin(self, xs):
        for x in xs:
            self.leaf(x, "", True)

    # --- helpers --------------------------------------------------------------------------------

    @property
    def recording(self):
        return self.blocks[-1][1] if self.blocks else True

    @property
    def scope(self):
        """The path of the present scope; nothing where nothing is recorded."""
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

    def leaves(self):
        return [node for node in self.held() if node.leaf and node.tracked]

    def operand(self, choice):
        return self.at(choice) if isinstance(choice, int) else choice

    def added(self, node):
        self.nodes.append(node)
        return node

    def result(self, value, name, operands):
        """Take in the result of an operation, or drop it where it is too large to go on with."""
        data = [x.cell.data if isinstance(x, Node) else x for x in operands]
        expected = naive.OPERATIONS[name].value(*data)
        assert abs(value.data - expected) <= 4 * naive.EPS * abs(expected)
        if abs(value.data) > LARGEST:
            return
        parents = [x for x in operands if isinstance(x, Node) and x.tracked]
        cells = [x.cell if isinstance(x, Node) and x.tracked else None for x in operands]
        terms = naive.terms_of(name, data, cells) if self.recording else []
        tracked = bool(self.recording and terms)
        cell = naive.Cell(value.data, terms if tracked else ())
        node = Node(value, cell, tracked=tracked, scope=self.scope)
        if tracked:
            assert parents
            node.name, node.operands = name, tuple(operands)
        self.added(node)

    def reset(self, root):
        """Forget what hooks have been shown."""
        for node in self.nodes:
            for _, shown in node.hooks.values():
                shown.clear()

    def happen(self, events):
        for name, arguments in events:
            if len(self.nodes) < MOST or name not in BUILDING:
                getattr(self, name)(**arguments)

    # --- building -------------------------------------------------------------------------------

    @event(x=numbers, label=labels, tracked=st.booleans())
    def leaf(self, x, label, tracked):
        value = Value(x, label, requires_grad=tracked)
        cell = naive.Cell(x)
        self.added(Node(value, cell, tracked=tracked, scope=self.scope, label=label))

    @event(name=unary, i=places)
    def one_operand(self, name, i):
        x = self.at(i)
        if naive.OPERATIONS[name].allowed(x.cell.data):
            self.result(apply(name, [x.value]), name, (x,))

    @event(
        name=binary, i=places, y=st.one_of(places, numbers), swap=st.booleans(), op=st.booleans()
    )
    def two_operands(self, name, i, y, swap, op):
        pair = (self.at(i), self.operand(y))
        pair = pair[::-1] if swap else pair
        data = [x.cell.data if isinstance(x, Node) else x for x in pair]
        if naive.OPERATIONS[name].allowed(*data):
            values = [x.value if isinstance(x, Node) else x for x in pair]
            self.result(apply(name, values, op), name, pair)

    @event(i=places, low=st.one_of(places, numbers), high=st.one_of(places, numbers))
    def clip(self, i, low, high):
        operands = (self.at(i), self.operand(low), self.operand(high))
        values = [x.value if isinstance(x, Node) else x for x in operands]
        self.result(rules.clip(*values), "clip", operands)

    @event(i=places, j=places, x=places, y=st.one_of(places, numbers))
    def where(self, i, j, x, y):
        condition = self.at(i).value > self.at(j).value
        assert condition is (self.at(i).cell.data > self.at(j).cell.data)
        operands = (condition, self.at(x), self.operand(y))
        values = [x.value if isinstance(x, Node) else x for x in operands]
        self.result(rules.where(*values), "where", operands)

    @event(i=places)
    def detach(self, i):
        node = self.at(i)
        value = node.value.detach()
        cell = naive.Cell(node.cell.data)
        self.added(Node(value, cell, tracked=False, scope=self.scope, label=node.label))

    @event(i=places, how=st.sampled_from([copy.copy, copy.deepcopy, "pickle"]))
    def copied(self, i, how):
        node = self.at(i)
        how = (lambda x: pickle.loads(pickle.dumps(x))) if how == "pickle" else how
        if not node.leaf:
            with pytest.raises(TypeError, match="with a history cannot be copied"):
                how(node.value)
            return
        twin = how(node.value)
        assert twin is not node.value
        cell = naive.Cell(node.cell.data)
        self.added(
            Node(twin, cell, tracked=node.tracked, scope=self.scope, label=node.label)
        )  # without gradient, as new

    # --- where one is ---------------------------------------------------------------------------

    @event(kind=st.sampled_from(["no_grad", "enable_grad", "scope", "step", *["leave"] * 4]))
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
            name = "step(2)" if kind == "step" else "layer"
            block = tb.scope(name.partition("(")[0], 2 if kind == "step" else None)
            scope = (f"{scope}/{name}" if scope else name) if recording else ""
        block.__enter__()
        self.blocks.append((block, recording, scope))

    # --- what can be set ------------------------------------------------------------------------

    @event(i=places, label=labels)
    def name_it(self, i, label):
        node = self.at(i)
        node.value.label = node.label = label

    @event(i=places, x=numbers, wrong=st.booleans())
    def write(self, i, x, wrong):
        node = self.some(i, lambda node: node.leaf)
        if not node.leaf:
            with pytest.raises(ValueError, match="only a leaf's can be set"):
                node.value.data = x
        elif wrong:
            with pytest.raises(TypeError, match="data: expected a real number"):
                node.value.data = "1"
        else:
            node.value.data = node.cell.data = x

    @event(i=places, x=st.one_of(st.none(), numbers))
    def set_grad(self, i, x):
        node = self.some(i, lambda node: node.grad is not None)
        node.value.grad = node.grad = x

    @event(i=places)
    def zero_grad(self, i):
        node = self.some(i, lambda node: node.grad is not None)
        node.value.zero_grad()
        node.grad = None

    @event(i=places, factor=st.sampled_from([None, 2.0, -1.0, 0.0, 0.5]))
    def hook(self, i, factor):
        node, shown = self.at(i), []

        def look(g):
            shown.append(g)
            return None if factor is None else g * factor

        if not node.tracked:
            with pytest.raises(ValueError, match="register_hook: this node requires no gradient"):
                node.value.register_hook(look)
        elif len(node.hooks) < 2:
            node.hooks[node.value.register_hook(look)] = (factor, shown)

    @event(i=places, twice=st.booleans())
    def unhook(self, i, twice):
        hooked = [node for node in self.held() if node.hooks]
        if not hooked:
            return
        node = hooked[i % len(hooked)]
        handle = next(iter(node.hooks))
        del node.hooks[handle]
        for _ in range(1 + twice):
            handle.remove()

    # --- differentiating ------------------------------------------------------------------------

    def is_stale(self, root, found):
        """Whether a part must be run again of which a leaf has been written to."""
        nodes = [cell.owner for cell in found]
        return any(leaf.cell.data != x for node in nodes for leaf, x in node.segment or ())

    def expected(self, root, seed):
        """Every gradient of a sweep, and those before hooks changed them."""

        def factor(cell):
            product = Fraction(1)
            for each, _ in cell.owner.hooks.values():
                product *= 1 if each is None else Fraction(each)
            return product

        return naive.derivatives({root.cell: Fraction(seed)}, factor)

    @rule(i=places, seed=st.one_of(st.none(), numbers), leaves_only=st.booleans())
    def backward(self, i, seed, leaves_only):
        root = self.root(i)
        if not root.tracked:
            with pytest.raises(ValueError, match="requires no gradient"):
                root.value.backward(seed)
            return
        found = self.expected(root, 1.0 if seed is None else seed)
        self.reset(root)
        if self.is_stale(root, found):
            with pytest.raises(RuntimeError, match=r"written to since|gave other numbers"):
                root.value.backward(seed)
            return
        root.value.backward(seed, leaves_only=leaves_only)
        self.take_in(found, leaves_only)
        self.check_hooks(found)

    def take_in(self, found, leaves_only):
        """Gradients of a sweep: checked, and from now on what the package says they are."""
        for cell, derivative in found.items():
            node = cell.owner
            value = node.ref()
            if node.inside or (leaves_only and not node.leaf) or value is None:
                continue
            added = value.grad
            if node.leaf and node.grad is not None:
                total = derivative.value + Fraction(node.grad)
                if derivative.exact:
                    assert added == node.grad + float(derivative.value)
                else:
                    size = derivative.size + abs(Fraction(node.grad))
                    assert naive.Derivative(total, size, derivative.depth, False).agrees(added)
            else:
                assert derivative.agrees(added), (added, derivative)
            node.grad = added

    def check_hooks(self, found):
        for node in self.nodes:
            at = found.get(node.cell)
            for i, (_, shown) in enumerate(node.hooks.values()):
                assert len(shown) == (at is not None)
                factors = [Fraction(f) for f, _ in list(node.hooks.values())[i:] if f is not None]
                if shown and 0 not in factors:
                    scale = Fraction(1)
                    for f in factors:
                        scale *= f
                    assert at._replace(value=at.value / scale, exact=False).agrees(shown[-1])

    @rule(i=places, part=st.floats(0.0, 1.0))
    def sweep(self, i, part):
        """Step by step, as far as one likes; nothing is stored."""
        root = self.root(i)
        if not root.tracked:
            return
        found = self.expected(root, 1.0)
        self.reset(root)
        if self.is_stale(root, found):
            with pytest.raises(RuntimeError, match=r"written to since|gave other numbers"):
                list(tb.sweep(root.value))
            return
        shown = {}
        by_value = {id(node.ref()): node for node in reached([root]) if node.ref() is not None}
        for count, step in enumerate(tb.sweep(root.value)):
            if count >= part * len(found):
                return
            node = by_value.get(id(step.node))
            if node is None:  # of a part that was run again
                continue
            shown[id(node)] = node
            assert found[node.cell].agrees(step.gradient)
            for edge in step.edges:
                assert edge.contribution == edge.local * step.gradient

    @rule(i=places)
    def order(self, i):
        root = self.root(i)
        if not root.tracked or any(n.segment is not None or n.inside for n in reached([root])):
            return
        order = tb.topological_order(root.value)
        expected = {id(n.ref()) for n in (c.owner for c in self.expected(root, 1.0))}
        assert {id(node) for node in order} == expected
        assert len(order) == len(expected)
        seen = set()
        for node in order:
            assert all(id(parent) in seen for parent in node.parents)
            seen.add(id(node))

    # --- the same as a function -----------------------------------------------------------------

    def program(self, root):
        """What leads to a node, as lines, and the leaves that they begin with."""
        nodes = sorted(reached([root]), key=self.nodes.index)
        leaves = [node for node in nodes if node.leaf]
        place = {id(node): k for k, node in enumerate(leaves)}
        lines = []
        for node in nodes:
            if not node.leaf:
                operands = [
                    ("at", place[id(x)]) if isinstance(x, Node) else x for x in node.operands
                ]
                lines.append((node.name, tuple(operands)))
                place[id(node)] = len(place)
        return lines, leaves

    def run(self, lines, inputs):
        """The naive run, or None where it cannot be compared."""
        try:
            run = naive.run(lines, inputs)
        except (naive.Unsure, OverflowError):
            return None
        return run if all(abs(x) <= LARGEST for x in run.numbers) else None

    def close(self, got, derivative):
        # At other inputs the numbers themselves are rounded, and partials move with them.
        assert abs(got - float(derivative.value)) <= 1e-9 * float(derivative.size) + 1e-300

    @rule(i=places, j=places, xs=st.lists(numbers, min_size=8, max_size=8), again=st.booleans())
    def functional(self, i, j, xs, again):
        """`grad` of what was built, as a function of its leaves; it leaves no trace."""
        lines, leaves = self.program(self.root(i))
        if not lines or len(leaves) > 8:
            return
        inputs = [x if again else leaf.cell.data for x, leaf in zip(xs, leaves, strict=False)]
        run = self.run(lines, inputs)
        if run is None:
            return
        f, count = function_of(lines, len(leaves)), len(leaves)
        value, gradient = tb.value_and_grad(f, range(count))(*inputs)
        assert abs(value - run.numbers[-1]) <= 1e-9 * max(map(abs, run.numbers))
        for got, derivative in zip(gradient, run.gradient, strict=True):
            self.close(got, derivative)
        k = j % count
        second = tb.grad(tb.grad(f, k), range(count))(*inputs)
        largest = max(1.0, *(abs(x) for row in run.hessian for x in row))
        largest = max(largest, *(float(d.size) for d in run.gradient)) ** 2
        for got, row in zip(second, run.hessian, strict=True):
            assert abs(got - row[k]) <= 1e-9 * largest

    @rule(i=places, k=places)
    def second_order(self, i, k):
        """A gradient that is a node, swept again: mixed derivatives come to every leaf."""
        lines, leaves = self.program(self.root(i))
        arguments = [leaf for leaf in leaves if leaf.tracked]
        if not lines or not arguments or any(leaf.value is None or leaf.hooks for leaf in leaves):
            return
        run = self.run(lines, [leaf.cell.data for leaf in leaves])
        if run is None or not self.recording:
            return
        by = arguments[k % len(arguments)]
        at, whole = leaves.index(by), function_of(lines, len(leaves))

        def f(x):
            return whole(*(x if leaf is by else leaf.value for leaf in leaves))

        gradient = tb.grad(f, create_graph=True)(by.value)
        self.close(gradient.data, run.gradient[at])
        largest = max(1.0, *(abs(x) for row in run.hessian for x in row))
        largest = max(largest, *(float(d.size) for d in run.gradient)) ** 2
        if gradient.requires_grad:
            gradient.backward()
        for leaf, second in zip(leaves, run.hessian[at], strict=True):
            got = (leaf.value.grad or 0.0) - (leaf.grad or 0.0)
            assert abs(got - second * leaf.tracked) <= 1e-9 * largest
            assert leaf.tracked or leaf.value.grad == leaf.grad
            leaf.grad = leaf.value.grad

    @precondition(lambda self: len(self.compiled) < 3)
    @rule(i=places, j=places)
    def record(self, i, j):
        """Compile what was built: of its leaves some are arguments, and some are reached."""
        lines, leaves = self.program(self.root(i))
        if not lines or not self.recording or any(leaf.value is None for leaf in leaves):
            return
        given = leaves[: 1 + j % len(leaves)]
        inside = leaves[len(given) :]
        whole, values = function_of(lines, len(leaves)), [leaf.value for leaf in inside]

        def f(*arguments):
            return whole(*arguments, *values)

        self.compiled.append((tb.compile(f), lines, given, inside))

    @precondition(lambda self: self.compiled)
    @rule(k=places, xs=st.lists(numbers, min_size=8, max_size=8), other=st.booleans())
    def replay(self, k, xs, other):
        compiled, lines, given, inside = self.compiled[k % len(self.compiled)]
        inputs = [x if other else leaf.cell.data for x, leaf in zip(xs, given, strict=False)]
        if len(inputs) < len(given):
            return
        run = self.run(lines, [*inputs, *(leaf.cell.data for leaf in inside)])
        if run is None:
            return
        scale = max(1.0, *map(abs, run.numbers))
        assert abs(compiled(*inputs) - run.numbers[-1]) <= 1e-9 * scale
        value, gradient = compiled.value_and_grad(*inputs)
        assert abs(value - run.numbers[-1]) <= 1e-9 * scale
        self.close(gradient, run.gradient[0])

    @precondition(lambda self: self.compiled)
    @rule(k=places)
    def replay_backward(self, k):
        """A replayed sweep adds to the leaves that take part, and touches nothing else."""
        compiled, lines, given, inside = self.compiled[k % len(self.compiled)]
        taking_part = [*given, *inside]
        if any(leaf.value is None or leaf.hooks for leaf in taking_part):
            return
        run = self.run(lines, [leaf.cell.data for leaf in taking_part])
        if run is None or not any(leaf.tracked for leaf in taking_part):
            return
        compiled.backward(*(leaf.value for leaf in given))
        for leaf, derivative in zip(taking_part, run.gradient, strict=True):
            if not leaf.tracked:
                continue
            before = leaf.grad or 0.0
            got = leaf.value.grad
            if got is None:
                assert derivative.size == 0
                assert leaf.grad is None
                continue
            bound = 1e-9 * float(derivative.size) + 4 * naive.EPS * abs(before)
            assert abs(Fraction(got) - derivative.value - Fraction(before)) <= bound + 1e-300
            leaf.grad = got

    # --- parts that are not kept ----------------------------------------------------------------

    @precondition(lambda self: len(self.nodes) < MOST - 4)
    @rule(
        i=places,
        j=places,
        names=st.lists(binary, min_size=1, max_size=3),
        then=st.sampled_from(["", "write", "backward", "both"]),
    )
    def checkpoint(self, i, j, names, then):
        x, y = self.some(i, lambda node: node.leaf and node.tracked), self.at(j)
        a, b = x.cell.data, y.cell.data
        for name in names:
            if not naive.OPERATIONS[name].allowed(a, b):
                return
            a, b = naive.OPERATIONS[name].value(a, b), a
            if abs(a) > LARGEST:
                return

        def part(u, v):
            for name in names:
                u, v = apply(name, [u, v]), u
            return u

        value = tb.checkpoint(part, x.value, y.value)
        u, v = x, y
        for name in names:
            data = [u.cell.data, v.cell.data]
            z = naive.OPERATIONS[name].value(*data)
            cells = [n.cell if n.tracked else None for n in (u, v)]
            terms = naive.terms_of(name, data, cells) if self.recording else []
            node = Node(None, naive.Cell(z, terms), tracked=bool(terms), scope=self.scope)
            if terms:
                node.name, node.operands, node.inside = name, (u, v), True
            u, v = node, u
            self.added(node)
        self.nodes.remove(u)
        self.check_part(value, u, [x, y])
        if x.leaf and then in ("write", "both"):  # what is run again would see it
            x.value.data = x.cell.data = a + 1.0
        if then in ("backward", "both"):
            self.backward(0, None, False)

    def check_part(self, value, model, outside):
        assert value.data == model.cell.data
        node = Node(
            value, model.cell, tracked=model.tracked, scope=self.scope, operands=model.operands
        )
        node.name = model.name
        if model.tracked:
            leaves = [leaf for leaf in dict.fromkeys(outside) if leaf.leaf]
            node.segment = [(leaf, leaf.cell.data) for leaf in leaves]
        self.added(node)

    # --- freeing --------------------------------------------------------------------------------

    @event(i=places)
    def drop(self, i):
        if len(self.held()) > 2:
            self.at(i).value = None

    @event()
    def drop_compiled(self):
        self.compiled.clear()

    # --- after every step -----------------------------------------------------------------------

    @invariant()
    def the_books_agree(self):
        for node in self.nodes:
            value = node.ref()
            if value is None:
                continue
            assert value.data == node.cell.data
            assert value.grad == node.grad
            assert value.requires_grad == node.tracked
            assert value.is_leaf == node.leaf
            assert value.label == node.label
            assert value.scope.path == node.scope

    @invariant()
    def the_operands_are_as_recorded(self):
        for node in self.nodes:
            value = node.ref()
            if value is None or node.segment is not None or node.inside:
                continue
            operands = () if node.leaf else node.operands
            assert len(value.operands) == len(value.locals) == len(operands)
            terms = {id(t.cell): [] for t in node.cell.terms}
            for term in node.cell.terms:
                terms[id(term.cell)].append(term)
            for x, mine, local in zip(value.operands, operands, value.locals, strict=True):
                if not isinstance(mine, Node):
                    assert x == mine
                    assert local is None
                    continue
                assert x is mine.ref()
                assert (local is not None) == mine.tracked
                if local is not None:
                    term = terms[id(mine.cell)].pop(0)
                    bound = 0 if term.exact else 16 * naive.EPS * abs(float(term.partial))
                    assert abs(local - term.partial) <= bound

    @invariant()
    def what_nobody_holds_is_gone(self):
        reaching = [leaf for entry in self.compiled for leaf in entry[3]]
        alive = {id(node) for node in reached([*self.held(), *reaching])}
        for node in self.nodes:
            if id(node) not in alive:
                assert node.ref() is None
        self.nodes = [node for node in self.nodes if id(node) in alive]

    @invariant()
    def recording_is_as_entered(self):
        assert tb.is_grad_enabled() == self.recording

    def teardown(self):
        while self.blocks:
            self.block("leave")
        with suppress(AttributeError):
            self.compiled.clear()
        gc.enable()


BUILDING = ("one_operand", "two_operands", "clip", "where", "leaf", "detach", "copied")
building = st.one_of(*(EVENTS[name] for name in ("two_operands", *BUILDING)))
disturbing = st.one_of(*(drawn for name, drawn in EVENTS.items() if name not in BUILDING))


class AnyOrder(Values):
    @rule(events=st.lists(building, min_size=1, max_size=6))
    def build(self, events):
        self.happen(events)

    @rule(events=st.lists(disturbing, min_size=1, max_size=3))
    def disturb(self, events):
        self.happen(events)


TestValues = AnyOrder.TestCase
TestValues.settings = settings(max_examples=2 * settings().max_examples, stateful_step_count=30)
