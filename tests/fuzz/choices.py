"""Operands and arguments for every structural operation, at random.

`CHOICES[name](m)` looks among the nodes of a program under construction, a `making.Maker`, for
operands, makes leaves where there are none, and draws arguments that fit: `(operands, arguments)`,
or None if nothing fits.
"""

import itertools
import math

import numpy as np

LARGEST = 200  # elements of an array


def _axis(random, rank, several=True):
    """An axis, several, or None."""
    if rank == 0 or random.random() < 0.2:
        return None
    axes = random.sample(range(rank), random.randint(1, rank) if several else 1)
    axes = [a if random.random() < 0.7 else a - rank for a in axes]
    return axes[0] if len(axes) == 1 and random.random() < 0.8 else tuple(axes)


def _one_axis(random, rank):
    return random.randrange(-rank, rank)


def _reduction(m):
    x = m.pick()
    return [x], (_axis(m.random, len(m.shape(x))), m.random.random() < 0.4)


def _variance(m):
    x = m.pick()
    return [x], (_axis(m.random, len(m.shape(x))), m.random.choice([0, 0, 1]),
                 m.random.random() < 0.4)  # fmt: skip


def _along(m):
    x = m.pick()
    axis = _axis(m.random, len(m.shape(x)), several=False)
    return [x], (axis if axis is None or isinstance(axis, int) else axis[0],)


def _softmax(m):
    x = m.pick(len)
    if x is None:
        return None
    return [x], m.random.choice([(), (_axis(m.random, len(m.shape(x))),)])


def _factors(random, n):
    """A shape of n elements."""
    if n == 0:
        return random.choice([(0,), (0, 2), (3, 0), (1, 0, 2)])
    shape = [1] * random.randint(0, 1)
    while n > 1:
        d = random.choice([d for d in range(2, n + 1) if n % d == 0])
        shape.append(d)
        n //= d
    random.shuffle(shape)
    return tuple(shape)


def _reshape(m):
    x = m.pick()
    n = math.prod(m.shape(x))
    shape = _factors(m.random, n)
    if shape and n and m.random.random() < 0.3:
        k = m.random.randrange(len(shape))
        shape = (*shape[:k], -1, *shape[k + 1 :])
    return [x], (shape if m.random.random() < 0.9 or len(shape) != 1 else shape[0],)


def _transpose(m):
    x = m.pick()
    rank = len(m.shape(x))
    axes = m.random.sample(range(rank), rank)
    axes = tuple(a if m.random.random() < 0.8 else a - rank for a in axes)
    return [x], m.random.choice([(), (None,), (axes,), (axes,)])


def _astype(m):
    return [m.pick()], (m.random.choice(["float32", "float64", "float64"]),)


def _expand(m):
    x = m.pick()
    rank = len(m.shape(x))
    if m.random.random() < 0.7:
        return [x], (m.random.randint(-rank - 1, rank),)
    return [x], (tuple(sorted(m.random.sample(range(rank + 2), 2))),)


def _squeeze(m):
    x = m.pick(lambda s: 1 in s) if m.random.random() < 0.9 else m.pick()
    if x is None:
        return None
    ones = [i for i, n in enumerate(m.shape(x)) if n == 1]
    some = tuple(m.random.sample(ones, m.random.randint(0, len(ones))))
    return [x], m.random.choice([(), (some,), (some[0],) if some else ()])


def _widen(m):
    x = m.pick()
    shape = [m.length() if n == 1 and m.random.random() < 0.7 else n for n in m.shape(x)]
    front = [m.length() for _ in range(m.random.choice([0, 0, 1, 2]))]
    return [x], ((*front, *shape),)


def _flip(m):
    x = m.pick()
    return [x], (_axis(m.random, len(m.shape(x))),)


def _pad(m):
    x = m.pick()
    rank, r = len(m.shape(x)), m.random
    pairs = tuple((r.randint(0, 2), r.randint(0, 2)) for _ in range(rank))
    width = r.choice([r.randint(0, 2), (1, 2), pairs, pairs])
    return [x], (width, r.choice([0.0, 1.5, -1.0]))


def _triangle(m):
    x = m.pick(len)
    return None if x is None else ([x], (m.random.randint(-2, 2),))


def _positions(random, shape, n):
    """Nested lists of positions on an axis of length n, repeated and negative ones among them."""
    return np.array(
        [random.randrange(-n, n) for _ in range(math.prod(shape))], int
    ).reshape(shape).tolist()  # fmt: skip


def _index(random, shape):
    """An index of an array: basic, of integers, of booleans, and mixed."""
    if random.random() < 0.08:  # a mask of the whole array
        mask = np.array([random.random() < 0.5 for _ in range(math.prod(shape))], bool)
        return mask.reshape(shape).tolist()
    parts, together = [], (random.randint(1, 3),)
    if random.random() < 0.2:
        together = (2, random.randint(1, 2))
    for n in shape[: random.randint(0, len(shape))] if random.random() < 0.4 else shape:
        kind = random.random()
        if kind < 0.15:
            parts.append(slice(None))
        elif kind < 0.45 or n == 0:
            some = [None, None, *range(-n, n + 1)]
            step = random.choice([None, None, 1, 2, -1, -2])
            parts.append(slice(random.choice(some), random.choice(some), step))
        elif kind < 0.65:
            parts.append(random.randrange(-n, n))
        elif kind < 0.92:
            narrow = tuple(1 if random.random() < 0.1 else k for k in together)
            parts.append(_positions(random, narrow[random.choice([0, 0, -1]) :], n))
        else:
            parts.append([random.random() < 0.6 for _ in range(n)])
        if random.random() < 0.08:
            parts.append(None)
    if random.random() < 0.12:
        parts.insert(random.randrange(len(parts) + 1), ...)
    return parts[0] if len(parts) == 1 and random.random() < 0.7 else tuple(parts)


def _getitem(m):
    x = m.pick()
    return [x], (_index(m.random, m.shape(x)),)


def _scatter(m):
    shape = m.some_shape()
    index = _index(m.random, shape)
    try:
        taken = np.zeros(shape)[index]
    except IndexError:
        return None
    return ([m.of(taken.shape)], (index, shape)) if taken.size <= LARGEST else None


def _take(m):
    x = m.pick()
    shape, r = m.shape(x), m.random
    axis = None if not shape or r.random() < 0.25 else _one_axis(r, len(shape))
    n = math.prod(shape) if axis is None else shape[axis]
    if not n:
        return None
    places = r.choice([(), (2,), (4,), (2, 2), (0,)])
    return [x], (_positions(r, places, n), axis)


def _gather(m):
    x = m.pick(lambda s: s and 0 not in s)
    if x is None:
        return None
    shape = list(m.shape(x))
    axis = _one_axis(m.random, len(shape))
    n, shape[axis] = shape[axis], m.random.randint(1, 4)
    return [x], (_positions(m.random, tuple(shape), n), axis)


def _concatenate(m):
    x = m.pick(len)
    if x is None:
        return None
    shape = m.shape(x)
    axis = _one_axis(m.random, len(shape))
    operands = [x]
    for _ in range(m.random.randint(0, 2)):
        other = list(shape)
        other[axis] = m.length()
        same = m.pick(lambda s: s == tuple(other))  # noqa: B023 (used at once)
        operands.append(m.of(shape) if same is None else same)
    m.random.shuffle(operands)
    return operands, m.random.choice([(axis,), (axis,), (axis,), ()])


def _stack(m):
    x = m.pick()
    shape = m.shape(x)
    operands = [x] + [m.of(shape) for _ in range(m.random.randint(0, 2))]
    return operands, m.random.choice([(), (m.random.randint(-len(shape) - 1, len(shape)),)])


def _split(m):
    x = m.pick(len)
    if x is None:
        return None
    shape, r = m.shape(x), m.random
    axis = _one_axis(r, len(shape))
    n = shape[axis]
    if n and r.random() < 0.6:
        sections = r.choice([d for d in range(1, n + 1) if n % d == 0])
        return [x], (sections, axis, r.randrange(sections))
    cuts = sorted(r.randint(0, n) for _ in range(2))
    return [x], (cuts, axis, r.randrange(3))


def _one_hot(m):
    x = m.pick(len)
    if x is None or not m.shape(x)[-1]:
        return None
    shape, r = m.shape(x), m.random
    rows = r.choice([(), shape[:-1], shape[-2:-1]])
    classes = shape[-1]
    numbers = [r.randrange(classes) for _ in range(math.prod(rows))]
    return [x], (np.array(numbers, int).reshape(rows).tolist(), classes)


def _row(m):
    x = m.pick(lambda s: s and s[0])
    return None if x is None else ([x], (m.random.randrange(m.shape(x)[0]),))


def _matmul(m):
    x = m.pick(len)
    if x is None:
        return None
    r, shape = m.random, m.shape(x)
    batch = tuple(1 if r.random() < 0.3 else n for n in shape[:-2])[r.randint(0, 1) :]
    k = m.length()
    left = r.random() < 0.5 and len(shape) > 1
    n = shape[-2] if left else shape[-1]
    pair = (k, n) if left else (n, k)
    y = m.of(r.choice([(n,), pair, pair, (*batch, *pair), (2, *pair)]))
    return ([y, x] if left else [x, y]), ()


def _linear(m):
    x = m.pick(len)
    if x is None:
        return None
    n, k = m.shape(x)[-1], m.length()
    return [x, m.of((n, k)), m.of((k,))], ()


def _contract(m):
    """Random letters: repeated ones, summed ones, an ellipsis, and no arrow at times."""
    r = m.random
    x = m.pick()
    shape = m.shape(x)
    letters = [chr(ord("i") + k) for k in range(len(shape))]
    for a, b in itertools.combinations(range(len(shape)), 2):
        if shape[a] == shape[b] and r.random() < 0.15:
            letters[b] = letters[a]
    sizes = dict(zip(letters, shape, strict=True))
    operands, inputs = [x], ["".join(letters)]
    for _ in range(r.choice([0, 1, 1, 1, 2])):
        mine = [c for c in sizes if r.random() < 0.6]
        if r.random() < 0.5:
            mine.append("xyz"[len(operands) - 1])
            sizes.setdefault(mine[-1], m.length())
        r.shuffle(mine)
        of = tuple(1 if r.random() < 0.05 else sizes[c] for c in mine)
        operands.append(m.of(of))
        inputs.append("".join(mine))
    output = [c for c in sizes if r.random() < 0.5]
    r.shuffle(output)
    formula = ",".join(inputs) + "->" + "".join(output)
    if r.random() < 0.15:
        formula = formula.partition("->")[0]
    elif r.random() < 0.2 and output and all(s[:1] == "i" for s in (*inputs, *output[:1])):
        dots = formula.count("i") == len(inputs) + 1
        formula = formula.replace("i", "...") if dots else formula
    return operands, (formula,)


def _scaled(m):
    return [m.pick()], (m.random.choice([0.5, -2.0, 0.0, 0.1]),)


CHOICES = {
    "astype": _astype,
    "broadcast_to": _widen,
    "concatenate": _concatenate,
    "contract": _contract,
    "cumsum": _along,
    "expand_dims": _expand,
    "flip": _flip,
    "getitem": _getitem,
    "linear": _linear,
    "log_softmax": _softmax,
    "logsumexp": _reduction,
    "matmul": _matmul,
    "max": _reduction,
    "mean": _reduction,
    "min": _reduction,
    "norm": _reduction,
    "one_hot": _one_hot,
    "pad": _pad,
    "prod": _reduction,
    "reshape": _reshape,
    "row": _row,
    "scaled_sum": _scaled,
    "scatter": _scatter,
    "softmax": _softmax,
    "split": _split,
    "squeeze": _squeeze,
    "stack": _stack,
    "sum": _reduction,
    "take": _take,
    "take_along_axis": _gather,
    "transpose": _transpose,
    "tril": _triangle,
    "triu": _triangle,
    "var": _variance,
}
