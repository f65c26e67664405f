"""Derivations of random programs of array operations, which no textbook foresaw."""

import numpy as np
import pytest
from derivations import check

import tinygrad_bp as tb
from tinygrad_bp import nn
from tinygrad_bp.explain import derive
from tinygrad_bp.nn.module import named


class Programs:
    """Operations on an array of one to four axes, with parameters of their own."""

    def __init__(self, rng):
        self.rng = rng

    def parameter(self, *shape):
        return tb.Tensor(self.rng.normal(size=shape), "P")

    def width(self):
        return int(self.rng.integers(2, 5))

    def product(self, a):
        return a @ self.parameter(a.shape[-1], self.width())

    def affine(self, a):
        n = self.width()
        return tb.linear(a, self.parameter(a.shape[-1], n), self.parameter(n))

    def operations(self):
        yield from (self.product, self.affine, tb.tanh, tb.relu, tb.softmax, tb.log_softmax)
        yield lambda a: tb.softmax(a, 0)
        yield lambda a: a - a.mean(axis=-1, keepdims=True)
        yield lambda a: a - a.mean(axis=0)
        yield lambda a: a / tb.sqrt(a.var(axis=0) + 0.1)
        yield lambda a: a / (tb.norm(a, axis=-1, keepdims=True) + 1.0)
        yield lambda a: tb.transpose(a)
        yield lambda a: tb.transpose(a, (0, 2, 1))
        yield lambda a: a.reshape(-1)
        yield lambda a: a.reshape((a.shape[0], -1))
        yield lambda a: a[:, 0]
        yield lambda a: a[..., 1:]
        yield lambda a: tb.concatenate([a, a * 2.0], -1)
        yield lambda a: tb.concatenate([a, a * 2.0], 0)
        yield lambda a: tb.stack([a, tb.sin(a)])
        yield lambda a: a.sum(axis=-1)
        yield lambda a: a.sum(axis=0)
        yield lambda a: a.max(axis=-1)
        yield lambda a: a.prod(axis=-1)
        yield lambda a: tb.logsumexp(a, axis=-1)
        yield lambda a: tb.cumsum(a, -1)
        yield lambda a: tb.flip(a)
        yield lambda a: tb.tril(a)
        yield lambda a: tb.take(a, [0, 0], axis=0)
        yield lambda a: tb.expand_dims(a, 0)
        yield lambda a: tb.broadcast_to(a, (2, *a.shape))
        yield lambda a: tb.where(np.ones(a.shape) > 0, a, 0.0)
        yield lambda a: tb.maximum(a, 0.2)
        yield lambda a: a * self.parameter(a.shape[-1])
        yield lambda a: a + self.parameter()
        yield lambda a: a @ tb.transpose(a)
        yield lambda a: a @ self.parameter(a.shape[-1])
        yield lambda a: self.parameter(3, a.shape[-2]) @ a
        yield lambda a: tb.einsum("ij,ij->i", a, a)

    def loss(self):
        shape = (int(self.rng.integers(1, 4)), *([3] if self.rng.random() < 0.3 else []), 4)
        a, operations = self.product(self.rng.normal(size=shape)), list(self.operations())
        for i in range(self.rng.integers(1, 6)):
            try:
                a = operations[self.rng.integers(len(operations))](a) if a.ndim else a
            except (ValueError, IndexError, TypeError):
                continue  # it does not take an array of so many axes
            if self.rng.random() < 0.6:
                named(a, f"q{i}")
        ends = [
            lambda: (a * a).sum(),
            lambda: nn.squared_error(a, np.ones(a.shape)),
            lambda: a.mean(),
            lambda: (tb.sigmoid(a) * self.rng.normal(size=a.shape)).sum(),
        ]
        return ends[self.rng.integers(len(ends))]()


@pytest.mark.parametrize("seed", range(60))
def test_random_programs(seed):
    loss = Programs(np.random.default_rng(seed)).loss()
    check(derive(loss, convention="rows"))
    derivation = check(derive(loss, indices="ng" if seed % 2 else None))
    assert derivation.text()
    assert derivation.latex()
    assert derivation.html()
    for step in tb.sweep(loss):  # the numbers themselves are those of the sweep
        if step.node.is_leaf:
            wanted = np.sort(step.gradient, axis=None)
            found = [
                e for e in derivation if e.kind == "parameter" and e.numbers.size == wanted.size
            ]
            same = [np.allclose(np.sort(e.numbers, axis=None), wanted) for e in found]
            assert any(same)
