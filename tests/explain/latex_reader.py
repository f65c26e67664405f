"""A small reader of LaTeX: evaluates a formula on arrays, to compare formulas by what they mean.

It knows the notation of textbooks on back-propagation: products by juxtaposition, `odot`, `frac`,
transposes, layers above and indices below a letter, time steps in parentheses, sums over time. It
shares nothing with the package.
"""

import re

import numpy as np

TOKEN = re.compile(r"\\[A-Za-z]+|\\.|[A-Za-z]|\d+(?:\.\d+)?|[-+^_{}()=']")
FUNCTIONS = {
    r"\tanh": np.tanh,
    r"\log": np.log,
    r"\exp": np.exp,
    "sigma": lambda z: 1.0 / (1.0 + np.exp(-z)),
}
DERIVATIVES = {
    r"\tanh": lambda z: 1.0 - np.tanh(z) ** 2,
    "sigma": lambda z: np.exp(-z) / (1.0 + np.exp(-z)) ** 2,
}
SPACES = {r"\,", r"\ ", r"\left", r"\right", r"\quad"}
GREEK = {r"\delta": "delta", r"\tau": "tau", r"\sigma": "sigma", r"\partial": "d"}


def evaluate(formula, symbols, t=None):
    """The value of a formula.

    Args:
        formula: LaTeX.
        symbols: the arrays, by name: `W2` is W^{2}, `delta_h` is \\delta_{h}; a quantity with time
            steps is a dict from step to array. Partial derivatives are `dC/dW2`.
        t: the time step.
    """
    tokens = [x for x in TOKEN.findall(formula) if x not in SPACES]
    reader = _Reader(tokens, symbols, {"t": t, "tau": symbols.get("tau")})
    value = reader.sum()
    assert reader.at == len(tokens), f"not understood from {tokens[reader.at :]}"
    return value


class _Reader:
    def __init__(self, tokens, symbols, steps):
        self.tokens, self.symbols, self.steps, self.at = tokens, symbols, steps, 0

    def next(self):
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self, expected=None):
        token = self.next()
        assert expected in (None, token), f"expected {expected}, got {self.tokens[self.at :]}"
        self.at += 1
        return token

    def sum(self):
        sign = -1.0 if self.next() == "-" and self.take() else 1.0
        value = sign * self.hadamard()
        while self.next() in ("+", "-"):
            sign = 1.0 if self.take() == "+" else -1.0
            value = value + sign * self.hadamard()
        return value

    def hadamard(self):
        value = self.product()
        while self.next() == r"\odot":
            self.take()
            value = value * self.product()
        return value

    def product(self):
        value = self.power()
        while self.next() and self.next() not in ("+", "-", ")", "}", "=", r"\odot"):
            factor = self.power()
            single = np.ndim(value) == 0 or np.ndim(factor) == 0
            value = value * factor if single else value @ factor
        return value

    def power(self):
        value = self.atom()
        while self.next() == "^":
            self.take()
            exponent = self.braced()
            if exponent == [r"\top"]:
                value = value.T
            else:
                (n,) = exponent
                value = value ** float(n)
        return value

    def braced(self):
        """The tokens of a group."""
        if self.next() != "{":
            return [self.take()]
        self.take("{")
        tokens, depth = [], 1
        while depth:
            token = self.take()
            depth += {"{": 1, "}": -1}.get(token, 0)
            tokens.append(token)
        return tokens[:-1]

    def atom(self):
        token = self.next()
        if token == "(":
            self.take()
            value = self.sum()
            self.take(")")
            return value
        if token == "{":
            return self.inner(self.braced())
        if token[0].isdigit():
            return float(self.take())
        if token == r"\frac":
            return self.fraction()
        if token == r"\sum":
            return self.over_time()
        return self.symbol()

    def inner(self, tokens, steps=None):
        reader = _Reader(tokens, self.symbols, steps or self.steps)
        value = reader.sum()
        assert reader.at == len(tokens)
        return value

    def fraction(self):
        self.take()
        above, below = self.braced(), self.braced()
        if above[0] == r"\partial":
            name = _Reader(above[1:], {}, {}).name()
            reader = _Reader(below[1:], self.symbols, self.steps)
            return reader.stepped(f"d{name}/d{reader.name()}")
        return self.inner(above) / self.inner(below)

    def over_time(self):
        self.take()
        self.take("_")
        index, _, *low = self.braced()
        assert index == "t"
        self.take("^")
        high = self.step(self.braced())
        start = self.at
        total = None
        for t in range(self.step(low), high + 1):
            reader = _Reader(self.tokens, self.symbols, {**self.steps, "t": t})
            reader.at = start
            value = reader.product()
            while reader.next() == r"\odot":
                reader.take()
                value = value * reader.product()
            total = value if total is None else total + value
            self.at = reader.at
        return total

    def step(self, tokens):
        first, *rest = [GREEK.get(x, x) for x in tokens]
        step = int(first) if first.isdigit() else self.steps[first]
        if rest:
            step += int("".join(rest))
        return step

    def name(self):
        """A letter with what stands below and above it."""
        token = self.take()
        if token == r"\hat":
            (letter,) = self.braced()
            name = letter + "hat"
        else:
            name = GREEK.get(token, token)
        while self.next() == "_" or (self.next() == "^" and self.above()[0].isdigit()):
            mark = self.take()
            name += ("_" if mark == "_" else "") + "".join(self.braced())
        return name

    def above(self):
        reader = _Reader(self.tokens, {}, {})
        reader.at = self.at + 1
        return reader.braced()

    def stepped(self, name):
        value = self.symbols[name]
        if isinstance(value, dict):
            self.take("(")
            tokens = []
            while self.next() != ")":
                tokens.append(self.take())
            self.take(")")
            value = value[self.step(tokens)]
        return value

    def symbol(self):
        token = GREEK.get(self.next(), self.next())
        if token in FUNCTIONS:
            self.take()
            prime = self.next() == "'" and self.take()
            function = (DERIVATIVES if prime else FUNCTIONS)[token]
            power = self.power_of_function()
            self.take("(")
            value = function(self.sum())
            self.take(")")
            return value**power
        start = self.at
        name = self.name()
        if name not in self.symbols:  # what stands above is an exponent
            self.at = start
            name = GREEK.get(self.take(), self.tokens[start])
        return self.stepped(name)

    def power_of_function(self):
        return 1.0
