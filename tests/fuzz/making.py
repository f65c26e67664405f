"""Random programs of arrays, from a seed.

Every operation of the tables of rules is drawn: an elementwise one with operands in its domain, a
structural one with arguments that `CHOICES` finds for it.
"""

import math
import random as _random

import numpy as np

import tinygrad_bp as tb
from tinygrad_bp import arrays
from tinygrad_bp.array_rules import ARRAY_RULES
from tinygrad_bp.rules import RULES, SMOOTH

from .choices import CHOICES, LARGEST
from .programs import FUNCTIONS, Leaf, Program, Step, applied, arguments_of, tidied


class Maker:
    """A program under construction, with the numbers that it computes."""

    def __init__(self, random, dtype="float64", wild=False, few=None):
        self.random, self.dtype, self.wild = random, dtype, wild
        self.few = few  # whether single numbers alone, by these rules
        self.leaves, self.steps, self.data, self.results = [], [], [], []

    def shape(self, x):
        return np.shape(self.number(x))

    def number(self, x):
        if type(x) is float:
            return x
        return self.results[x] if x >= 0 else self.data[~x]

    def length(self):
        return self.random.choices([0, 1, 2, 3, 4, 5], [2, 18, 30, 30, 15, 5])[0]

    def some_shape(self):
        if self.few:
            return ()
        rank = self.random.choices([0, 1, 2, 3, 4], [8, 27, 35, 20, 10])[0]
        while True:
            shape = tuple(self.length() for _ in range(rank))
            if math.prod(shape) <= 60:
                return shape

    def numbers(self, count, domain):
        random = self.random
        low, high = domain
        if domain != SMOOTH:
            return [round(random.uniform(low, high), 3) for _ in range(count)]
        kind = random.random()
        if kind < 0.15:  # ties, and zeros
            return [float(random.randint(-2, 2)) for _ in range(count)]
        x = [round(random.gauss(0.0, 1.0), 3) for _ in range(count)]
        if kind < 0.25 and self.wild:
            odd = [0.0, -0.0, 1e30, -1e30, 1e-30, -1e-30, 1.0, 30.0, -30.0]
            x = [random.choice(odd) if random.random() < 0.4 else e for e in x]
        return x

    def leaf(self, shape=None, domain=SMOOTH, is_tracked=None):
        """A new leaf."""
        shape = self.some_shape() if shape is None else shape
        if is_tracked is None:
            is_tracked = not self.leaves or self.random.random() < 0.8
        numbers = tuple(self.numbers(math.prod(shape), domain))
        self.leaves.append(Leaf(shape, numbers, self.dtype, is_tracked))
        self.data.append(self.leaves[-1].array())
        return ~(len(self.leaves) - 1)

    def pool(self, fits=lambda shape: True):
        """The nodes of fitting shapes, the latest last."""
        nodes = [~k for k in range(len(self.leaves))] + list(range(len(self.steps)))
        return [x for x in nodes if fits(self.shape(x))]

    def pick(self, fits=lambda shape: True):
        """A node of a fitting shape, rather a late one; None if there is none."""
        pool = self.pool(fits)
        if not pool:
            return None
        return pool[max(self.random.randrange(len(pool)) for _ in range(2))]

    def of(self, shape, domain=SMOOTH):
        """A node of exactly this shape, there or new."""
        x = self.pick(lambda s: s == shape) if self.random.random() < 0.6 else None
        return self.leaf(shape, domain) if x is None else x

    def add(self, name, operands, arguments=()):
        """Append an operation, unless it is refused or its result is too large."""
        step = Step(name, tuple(operands), tuple(arguments))
        numbers = [self.number(x) for x in step.operands]
        with np.errstate(all="ignore"):
            try:
                result = self.computed(step, numbers)
            except (ValueError, IndexError, TypeError, np.exceptions.AxisError):
                return None
        if np.size(result) > LARGEST:
            return None
        self.steps.append(step)
        self.results.append(np.asarray(result))
        return len(self.steps) - 1

    def computed(self, step, numbers):
        if step.name in RULES:
            numbers = [np.asarray(x, self.dtype) if type(x) is float else x for x in numbers]
            return RULES[step.name].value(arrays, *numbers)
        if step.name in FUNCTIONS:
            nodes = [tb.Tensor(x, requires_grad=False) for x in numbers]
            return applied(step, nodes)._array
        return ARRAY_RULES[step.name].apply(arrays, numbers, arguments_of(step), {})

    # --- elementwise

    def within(self, x, domain):
        """x, brought into a domain by operations of its own."""
        low, high = domain
        z = self.add("sigmoid", [x])
        z = self.add("multiply", [z, round(high - low, 3)])
        return self.add("add", [z, round(low, 3)])

    def fitting(self, x, domain):
        """x, or something in its place, that the rule has a derivative at; mostly."""
        if self.random.random() < 0.1:
            return x
        now = self.number(x)
        reach = domain if domain != SMOOTH else (-20.0, 20.0)
        if not 0 < now.size <= LARGEST or (now.min() >= reach[0] and now.max() <= reach[1]):
            return x  # or what is refused: operations on it have too large results
        if self.random.random() < 0.5 or self.few:
            return self.within(x, domain)
        return self.leaf(np.shape(now), domain)

    def elementwise(self):
        random = self.random
        name = random.choice(self.few or list(RULES))
        rule = RULES[name]
        x = self.pick()
        operands = [None] * rule.arity
        place = random.randrange(rule.arity)
        operands[place] = self.fitting(x, rule.domain[place])
        shape = self.shape(x)
        for i in range(rule.arity):
            if operands[i] is None:
                operands[i] = self.partner(shape, rule.domain[i])
        return self.add(name, operands)

    def partner(self, shape, domain):
        """What broadcasts with a shape: a node, a new leaf, or a number."""
        random = self.random
        kind = random.random()
        if kind < 0.15:
            return round(random.uniform(*domain), 2)
        if kind < 0.7 or self.few:
            x = self.pick(lambda s: _broadcast(s, shape))
            if x is not None:
                return self.fitting(x, domain)
        narrow = tuple(1 if random.random() < 0.25 else n for n in shape)
        return self.leaf(narrow[random.choice([0, 0, 0, 1, 2]) :], domain)


def _broadcast(*shapes):
    try:
        np.broadcast_shapes(*shapes)
    except ValueError:
        return False
    return True


def make(random: _random.Random, few=None, wild=None, dtype=None) -> Program:
    """A random program; with `few`, one of single numbers, by the rules of these names."""
    mark = random.randrange(1 << 30)
    if dtype is None:
        dtype = "float64" if few or random.random() < 0.9 else "float32"
    if wild is None:
        wild = dtype == "float64" and random.random() < 0.2
    m = Maker(random, dtype, wild, few)
    for _ in range(1 if random.random() < 0.6 else 2):
        m.leaf()
    length = random.randint(1, 12)
    while len(m.steps) < length:
        if few or random.random() < 0.45:
            m.elementwise()
        else:
            name = random.choice(list(CHOICES))
            chosen = CHOICES[name](m)
            if chosen is not None:
                m.add(name, *chosen)
    return tidied(Program(mark, tuple(m.leaves), tuple(m.steps)))
