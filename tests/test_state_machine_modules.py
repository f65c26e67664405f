"""Networks and optimisers in any order of events, against books kept number by number."""

import copy
import pickle

import naive
import numpy as np
import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from naive_arrays import Cells, computed

import tinygrad_bp as tb
from tinygrad_bp import Tensor, nn

X = np.array([[0.5, -1.0], [1.5, 0.25], [-0.75, 2.0]])
T = np.array([[1.0, 0.0], [-0.5, 0.5], [0.25, -1.0]])
NAMES = ["first.W", "first.b", "second.W", "second.b"]
SHAPES = [(2, 2), (2,), (2, 2), (2,)]

places = st.integers(0, 1000)
seeds = st.integers(0, 10**6)
rates = st.sampled_from([0.01, 0.1, 0.5])


class Net(nn.Module):
    """Two layers of one shape, so that they can share."""

    def __init__(self, rng):
        self.first = nn.Linear(2, 2, rng=rng)
        self.second = nn.Linear(2, 2, rng=rng)

    def forward(self, x):
        return self.second(tb.tanh(self.first(x)))


def loss_of(net, x, t):
    y = net(x)
    return tb.mean(tb.square(y - t))


class Slot:
    """What the test knows of a parameter."""

    def __init__(self, leaf):
        self.leaf = leaf
        self.data = np.array(leaf)
        self.grad = None


class Book:
    """What the test knows of an optimiser: its formulas, a number at a time."""

    def __init__(self, optimiser, kind, slots, settings):
        self.optimiser = optimiser
        self.kind = kind
        self.slots = slots
        self.settings = [dict(settings) for _ in slots]
        self.memory = [{} for _ in slots]

    def step(self):
        for slot, chosen, memory in zip(self.slots, self.settings, self.memory, strict=True):
            if slot.grad is None:
                continue
            moved = slot.data.copy()
            for index in np.ndindex(slot.data.shape):
                x, g = float(slot.data[index]), float(slot.grad[index])
                own = memory.setdefault(index, {"t": 0})
                moved[index] = getattr(self, self.kind)(x, g, own, **chosen)
            slot.data = moved

    @staticmethod
    def sgd(x, g, own, lr, momentum, weight_decay):
        g = g + weight_decay * x
        if momentum:
            first = own["t"] == 0
            own["t"] += 1
            own["v"] = g if first else momentum * own["v"] + g
            g = own["v"]
        return x - lr * g

    @staticmethod
    def nesterov(x, g, own, lr, momentum):
        own["v"] = momentum * own.get("v", 0.0) + g
        return x - lr * (g + momentum * own["v"])

    @staticmethod
    def rmsprop(x, g, own, lr, alpha):
        own["s"] = alpha * own.get("s", 0.0) + (1 - alpha) * g * g
        return x - lr * g / (own["s"] ** 0.5 + 1e-8)

    @staticmethod
    def adam(x, g, own, lr, decay):
        own["t"] += 1
        own["m"] = 0.9 * own.get("m", 0.0) + 0.1 * g
        own["s"] = 0.999 * own.get("s", 0.0) + 0.001 * g * g
        mean, square = own["m"] / (1 - 0.9 ** own["t"]), own["s"] / (1 - 0.999 ** own["t"])
        return x * (1 - lr * decay) - lr * mean / (square**0.5 + 1e-8)


KINDS = {
    "sgd": (lambda p, lr, momentum, weight_decay: tb.optim.SGD(
        p, lr, momentum=momentum, weight_decay=weight_decay)),
    "nesterov": lambda p, lr, momentum: tb.optim.SGD(p, lr, momentum=momentum, nesterov=True),
    "rmsprop": lambda p, lr, alpha: tb.optim.RMSprop(p, lr, alpha=alpha),
    "adam": lambda p, lr, decay: tb.optim.AdamW(p, lr, weight_decay=decay),
}  # fmt: skip
SETTINGS = {
    "sgd": st.fixed_dictionaries({
        "lr": rates,
        "momentum": st.sampled_from([0.0, 0.5]),
        "weight_decay": st.sampled_from([0.0, 0.25]),
    }),
    "nesterov": st.fixed_dictionaries({"lr": rates, "momentum": st.just(0.5)}),
    "rmsprop": st.fixed_dictionaries({"lr": rates, "alpha": st.sampled_from([0.5, 0.9])}),
    "adam": st.fixed_dictionaries({"lr": rates, "decay": st.sampled_from([0.0, 0.25])}),
}  # fmt: skip
kinds = st.sampled_from(sorted(KINDS)).flatmap(lambda k: st.tuples(st.just(k), SETTINGS[k]))


class Networks(RuleBasedStateMachine):
    """Trains, zeroes, saves, loads, copies, shares, writes, replays."""

    def __init__(self):
        super().__init__()
        self.nets = []  # (the network, a Slot by name)
        self.books = []
        self.saved = []  # states, and what is in them
        self.step = tb.compile(loss_of)

    @initialize(seed=seeds, kind=kinds)
    def begin(self, seed, kind):
        self.take(Net(rng=seed))
        self.optimiser(0, kind, False)

    def take(self, net):
        slots = {}
        for name, shape in zip(NAMES, SHAPES, strict=True):
            layer, attribute = name.split(".")
            leaf = getattr(getattr(net, layer), attribute)
            assert leaf.shape == shape
            slots[name] = next((s for s in slots.values() if s.leaf is leaf), None) or Slot(leaf)
        self.nets.append((net, slots))

    def net(self, i):
        return self.nets[i % len(self.nets)]

    def slots(self):
        everything = [s for _, slots in self.nets for s in slots.values()]
        everything += [slot for book in self.books for slot in book.slots]
        return list({id(slot): slot for slot in everything}.values())

    @staticmethod
    def named(slots):
        """What `named_parameters` should give: a shared one once, under its first name."""
        first = {}
        for name, slot in slots.items():
            first.setdefault(id(slot), (name, slot))
        return list(first.values())

    def gradients(self, slots):
        """Loss and gradients by the cells, one per slot."""
        cells = {id(slot): Cells.of(slot.data) for slot in slots.values()}
        at = {name: cells[id(slot)] for name, slot in slots.items()}

        def layer(x, name):
            product = computed("matmul", (), [x, at[f"{name}.W"]])
            return computed("add", (), [product, at[f"{name}.b"]])

        h = computed("tanh", (), [layer(X, "first")])
        error = computed("subtract", (), [layer(h, "second"), T])
        loss = computed("mean", (None, False), [computed("square", (), [error])])
        found = naive.derivatives({loss.cells[0]: naive.Fraction(1)})
        return loss.cells[0].data, {
            key: [found[cell] for cell in each.cells] for key, each in cells.items()
        }

    @staticmethod
    def agree(got, expected, before=None):
        """Whether gradients are near; partials are computed from sums, which round otherwise."""
        for i, (x, d) in enumerate(zip(np.ravel(got), expected, strict=True)):
            old = 0.0 if before is None else float(np.ravel(before)[i])
            bound = 1e-13 * (float(d.size) + abs(old))
            assert abs(x - old - float(d.value)) <= bound

    # --- events ---------------------------------------------------------------------------------

    @precondition(lambda self: len(self.books) < 3)
    @rule(i=places, kind=kinds, later=st.booleans())
    def optimiser(self, i, kind, later):
        """Of all parameters of a network, of which one may be added later."""
        _, slots = self.net(i)
        mine = [slot for _, slot in self.named(slots)]
        name, chosen = kind
        some = mine[:-1] if later else mine
        optimiser = KINDS[name]([slot.leaf for slot in some], **chosen)
        book = Book(optimiser, name, mine, chosen)
        if later:
            optimiser.add_param_group({"params": mine[-1].leaf, "lr": 0.25})
            book.settings[-1]["lr"] = 0.25
        self.books.append(book)

    @rule(i=places, how=st.sampled_from(["eager", "replayed", "checkpoint"]))
    def backward(self, i, how):
        net, slots = self.net(i)
        loss, found = self.gradients(slots)
        if how == "replayed":
            got = self.step.backward(net, X, T)
        else:
            root = tb.checkpoint(loss_of, net, X, T) if how == "checkpoint" else loss_of(net, X, T)
            root.backward()
            got = root.item()
        assert abs(got - loss) <= 1e-13 * (1.0 + abs(loss))
        for _, slot in self.named(slots):
            grad = slot.leaf.grad
            self.agree(grad, found[id(slot)], slot.grad)
            slot.grad = grad.copy()

    @rule(i=places, how=st.sampled_from(["grad", "replayed", "scalar"]))
    def functional(self, i, how):
        """Gradients that are returned; nothing is stored."""
        net, slots = self.net(i)
        loss, found = self.gradients(slots)
        if how == "scalar":
            view = net.scalar_view()
            root = loss_of(view, X, T)
            root.backward()
            got = root.item()
            gradient = {name: p.grad for name, p in view.named_parameters()}
        else:
            both = self.step.value_and_grad if how == "replayed" else tb.value_and_grad(loss_of)
            got, gradient = both(net, X, T)
        assert abs(got - loss) <= 1e-13 * (1.0 + abs(loss))
        named = self.named(slots)
        assert list(gradient) == [name for name, _ in named]
        for name, slot in named:
            self.agree(gradient[name], found[id(slot)])

    @precondition(lambda self: self.books)
    @rule(k=places)
    def move(self, k):
        book = self.books[k % len(self.books)]
        before = [slot.data for slot in book.slots]
        book.step()
        book.optimiser.step()
        for slot, x in zip(book.slots, before, strict=True):
            got = np.array(slot.leaf)
            # a dozen roundings, of which the step's may be as large as its square root allows
            assert np.all(abs(got - slot.data) <= 1e-12 * (1.0 + abs(x) + abs(slot.data)))
            slot.data = got

    @rule(i=places, k=places, optimiser=st.booleans())
    def zero(self, i, k, optimiser):
        if optimiser and self.books:
            book = self.books[k % len(self.books)]
            book.optimiser.zero_grad()
            slots = book.slots
        else:
            net, slots = self.net(i)
            net.zero_grad()
            slots = slots.values()
        for slot in slots:
            slot.grad = None

    @precondition(lambda self: self.books)
    @rule(k=places, lr=rates)
    def rate(self, k, lr):
        book = self.books[k % len(self.books)]
        book.optimiser.lr = lr
        for chosen in book.settings:
            chosen["lr"] = lr

    @rule(i=places, j=places, seed=seeds, how=st.sampled_from(["less", "set", "some"]))
    def write(self, i, j, seed, how):
        slot = list(self.net(i)[1].values())[j % 4]
        numbers = np.random.default_rng(seed).uniform(-1.0, 1.0, slot.data.shape)
        if how == "set":
            slot.leaf.data = numbers
            slot.data = numbers.copy()
            numbers[...] = 7.0
        elif how == "less":
            slot.leaf.data -= 0.125 * numbers
            slot.data = slot.data - 0.125 * numbers
        else:
            slot.leaf.data[0] = numbers[0]
            slot.data = slot.data.copy()
            slot.data[0] = numbers[0]

    # --- saving, loading, copying ---------------------------------------------------------------

    @rule(i=places)
    def save(self, i):
        net, slots = self.net(i)
        state = net.state_dict()
        assert list(state) == [name for name, _ in self.named(slots)]
        self.saved.append((state, {name: slot.data.copy() for name, slot in self.named(slots)}))
        other = net.state_dict()
        for array in other.values():
            array[...] = 7.0  # these are copies

    @precondition(lambda self: self.saved)
    @rule(
        i=places, j=places, spoil=st.sampled_from(["", "", "missing", "unknown", "shape", "type"])
    )
    def load(self, i, j, spoil):
        """All of a state or nothing of it."""
        net, slots = self.net(i)
        state, numbers = self.saved[j % len(self.saved)]
        state = {name: array.copy() for name, array in state.items()}
        last = NAMES[-1]
        if spoil == "missing":
            del state[last]
        elif spoil == "unknown":
            state["third.W"] = state[last]
        elif spoil == "shape":
            state[last] = np.zeros(3)
        elif spoil == "type":
            state[last] = np.array(["a", "b"])
        named = self.named(slots)
        if spoil or set(state) != {name for name, _ in named}:
            with pytest.raises((TypeError, ValueError), match="state"):
                net.load_state_dict(state)
            return
        net.load_state_dict(state)
        for name, slot in named:
            slot.data = numbers[name].copy()
            state[name][...] = 7.0  # nobody may still be looking at it

    @precondition(lambda self: self.books)
    @rule(k=places)
    def optimiser_again(self, k):
        """Another optimiser of the same parameters goes on where the first one is."""
        book = self.books[k % len(self.books)]
        state = copy.deepcopy(book.optimiser.state_dict())
        first = book.settings[0]
        twin = KINDS[book.kind]([slot.leaf for slot in book.slots[:-1]], **first)
        twin.add_param_group({"params": [book.slots[-1].leaf]})
        groups = [group["params"] for group in state["param_groups"]]
        if groups != [group["params"] for group in twin.state_dict()["param_groups"]]:
            with pytest.raises(ValueError, match="other numbers of parameters"):
                twin.load_state_dict(state)
            return
        twin.load_state_dict(state)
        book.optimiser = twin

    @precondition(lambda self: len(self.nets) < 3)
    @rule(i=places, how=st.sampled_from([copy.deepcopy, "pickle"]))
    def copied(self, i, how):
        net, slots = self.net(i)
        twin = pickle.loads(pickle.dumps(net)) if how == "pickle" else how(net)
        self.take(twin)
        mine = self.nets[-1][1]
        for name in NAMES:
            assert mine[name].leaf is not slots[name].leaf
            assert np.array_equal(mine[name].data, slots[name].data)
            for other in NAMES:  # what was shared is shared
                assert (mine[name] is mine[other]) == (slots[name] is slots[other])

    @rule(i=places)
    def share(self, i):
        net, slots = self.net(i)
        net.second.W = net.first.W
        slots["second.W"] = slots["first.W"]

    @rule(i=places, seed=seeds)
    def replace(self, i, seed):
        """A parameter of its own, where there may have been a shared one."""
        net, slots = self.net(i)
        numbers = np.random.default_rng(seed).uniform(-1.0, 1.0, (2, 2))
        net.second.W = Tensor(numbers)
        slots["second.W"] = Slot(net.second.W)

    # --- after every step -----------------------------------------------------------------------

    @invariant()
    def the_books_agree(self):
        for slot in self.slots():
            assert np.array_equal(np.array(slot.leaf), slot.data)
            grad = slot.leaf.grad
            assert (grad is None) == (slot.grad is None)
            assert grad is None or np.array_equal(grad, slot.grad)

    @invariant()
    def the_names_are_as_assigned(self):
        for net, slots in self.nets:
            expected = [(name, id(slot.leaf)) for name, slot in self.named(slots)]
            assert [(name, id(p)) for name, p in net.named_parameters()] == expected
            assert [id(p) for p in net.parameters()] == [key for _, key in expected]

    @invariant()
    def saved_states_do_not_change(self):
        for state, numbers in self.saved:
            assert all(np.array_equal(state[name], numbers[name]) for name in numbers)


TestNetworks = Networks.TestCase
TestNetworks.settings = settings(max_examples=settings().max_examples, stateful_step_count=25)
