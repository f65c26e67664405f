"""Forward mode: numbers that carry their derivatives with them, as a truncated power series.

A series `c₀ + c₁ε + ... + cₙεⁿ` is what a quantity becomes when an input is moved by ε. Of order 1
it is a dual number, whose c₁ is the directional derivative (the tangent); of order n it gives
n-th derivatives. An operation z = φ(x, y) has, by the chain rule, dz/dε = φ_x dx/dε + φ_y dy/dε.
Read as power series this is an equation for the coefficients of z,

    k z_k = Σ_i Σ_{j=1..k} j x_i,j d_i,k-j      with d_i = φ_i(x, y, z)

in which the right-hand side needs z only up to k-1. So the partial derivatives of the rules are all
that is needed, run on series themselves. (Griewank & Walther 2008, "Evaluating Derivatives",
chapter 13.)

Every perturbation ε has a number of its own, its tag. Coefficients may be series of another tag:
that nests derivatives, and two perturbations are never taken for one another, in whatever threads
they were made.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinygrad_bp import array_rules, rules
from tinygrad_bp.array_rules import ArrayRule
from tinygrad_bp.derivatives import read_only, widened
from tinygrad_bp.differentiable import fitted, gradients_of, operations
from tinygrad_bp.graph import UNTRACKED, Node, born
from tinygrad_bp.inputs import as_array
from tinygrad_bp.operators import ArrayByRules, ByRules
from tinygrad_bp.recording import ROOT, current_state, enable_grad, is_grad_enabled, resolve
from tinygrad_bp.rules import Rule
from tinygrad_bp.tensor import _EXPOSED, Tensor
from tinygrad_bp.value import Value

_tags = itertools.count(1)


def new_tag() -> int:
    """A number for a new perturbation, larger than all before it."""
    return next(_tags)


class _Series(ByRules):
    """What series of Values and of Tensors have in common.

    Attributes:
        coefficients: c₀, c₁, ... as far as they are known; c₀ is a node, the others are nodes,
            numbers, or None for zero.
        order: the n of the last coefficient.
        tag: the perturbation.
        is_leaf: whether it stands for a leaf, and was not computed.
    """

    __slots__ = ()

    coefficients: list[Any]
    order: int
    tag: int
    is_leaf: bool
    _more: Any  # a function, see `series`

    def coefficient(self, k: int) -> Any:
        """c_k, computed if it is not known yet."""
        while len(self.coefficients) <= k:
            self.coefficients.append(self._more(self, len(self.coefficients)))
            if len(self.coefficients) > self.order:
                self._more = None  # it may hold series that hold this one
        return self.coefficients[k]

    @property
    def requires_grad(self) -> bool:
        """A derivative flows through it, though not by a backward sweep."""
        return True

    @property
    def data(self) -> Any:
        """The numbers, read-only."""
        return self._data if isinstance(self, Value) else read_only(self._array)  # type: ignore[attr-defined]

    @data.setter
    def data(self, data: Any) -> None:
        raise ValueError("data: inside of a derivative, an argument's data cannot be set")

    def register_hook(self, hook: Any) -> Any:
        """Refused: no sweep visits this node."""
        raise ValueError("register_hook: a quantity of forward mode has no backward sweep")

    def detach(self) -> Any:
        """A constant of the same values: no derivative flows through it."""
        return self.coefficients[0].detach()

    def _seed(self, gradient: Any) -> Any:
        raise ValueError(
            "backward() cannot start from a quantity of forward mode; inside of jvp() and its "
            "kin use tb.grad(), which returns the gradient"
        )

    def _read(self) -> Any:
        raise RuntimeError("an operation took a series for a plain array")

    @staticmethod
    def _interpret(
        rule: Rule | ArrayRule,
        operands: Sequence[Any],
        parameters: tuple[Any, ...] = (),
        options: dict[str, Any] | None = None,
    ) -> Any:
        """Apply a rule to operands of which at least one is a series."""
        if any(isinstance(x, np.ndarray) and x.dtype == object for x in operands):
            return NotImplemented  # an array of Values takes the rule to its elements
        if isinstance(rule, Rule):
            return _elementwise(rule, operands)
        return _structural(rule, operands, parameters, options or {})


class SeriesValue(_Series, Value):
    """A Value that carries derivatives with it."""

    __slots__ = ("_more", "coefficients", "is_leaf", "order", "tag")
    __init__ = object.__init__


class SeriesTensor(ArrayByRules, _Series, Tensor):
    """A Tensor that carries derivatives with it."""

    __slots__ = ("_more", "coefficients", "is_leaf", "order", "tag")
    __init__ = object.__init__


def series(
    coefficients: Sequence[Any],
    order: int,
    tag: int,
    more: Callable[[Any, int], Any] | None = None,
    is_leaf: bool = False,
) -> Any:
    """A series, of which the first coefficients are given.

    Args:
        coefficients: c₀, a Value or a Tensor, and those that follow; None stands for zero.
        order: the number of the last coefficient; of order 0 there is only c₀, which is returned.
        tag: the perturbation.
        more: given the series, computes the coefficient of a number from those before it.
        is_leaf: whether it stands for a leaf.
    """
    first = coefficients[0]
    if order == 0 or not (is_leaf or is_grad_enabled()):
        return first  # under no_grad() a result is a constant, as it is in reverse mode
    x: Any
    if isinstance(first, Value):
        x = object.__new__(SeriesValue)
        x._data = first._data
    else:
        x = object.__new__(SeriesTensor)
        x._array, x._holders, x._own_grad = first._array, _EXPOSED, None
    x._birth = born()
    x._grad, x._place, x.rule = None, resolve(current_state()) or ROOT, UNTRACKED
    x.x = x.dx = x.y = x.dy = None
    x.coefficients, x.order, x.tag, x._more = list(coefficients), order, tag, more
    x.is_leaf = is_leaf
    return x


def coefficient_of(x: Any, k: int, tag: int) -> Any:
    """c_k of what may be a series of this perturbation or, with regard to it, a constant."""
    if isinstance(x, _Series) and x.tag == tag:
        return x.coefficient(k) if k <= x.order else None
    return x if k == 0 else None


# --- the interpreter ----------------------------------------------------------------------------


def _tag_and_order(operands: Sequence[Any]) -> tuple[int, int]:
    """The newest perturbation among the operands, and to what order it is followed."""
    return max((x.tag, x.order) for x in operands if isinstance(x, _Series))


def _cut(x: Any, tag: int, order: int) -> Any:
    """x to a lower order, sharing what is known and what will be."""
    if not (isinstance(x, _Series) and x.tag == tag):
        return x
    return series(x.coefficients[: order + 1], order, tag, lambda _, k: x.coefficient(k))


def _completed(z: Any, operands: Sequence[Any], tag: int) -> Any:
    """z, with all its coefficients where those of the operands are known.

    They are not inside of a partial derivative, whose operand z itself is not complete.
    """
    mine = [x for x in operands if isinstance(x, _Series) and x.tag == tag]
    if isinstance(z, _Series) and all(len(x.coefficients) > x.order for x in mine):
        z.coefficient(z.order)
    return z


def _elementwise(rule: Rule, operands: Sequence[Any]) -> Any:
    tag, order = _tag_and_order(operands)
    base = rule(*(coefficient_of(x, 0, tag) for x in operands))
    more: Any = (
        _quotient(operands, base, tag)
        if rule is rules.divide
        else _integral(rule, operands, base, tag, order)
    )
    z = series([base], order, tag, more)
    return _completed(z, operands, tag)


class _integral:
    """The coefficients of a result, by the equation at the top of this file."""

    def __init__(self, rule: Rule, operands: Sequence[Any], base: Any, tag: int, order: int):
        self.rule, self.operands, self.tag, self.order = rule, operands, tag, order
        self.partials: list[Any] | None = None

    def __call__(self, z: Any, k: int) -> Any:
        if self.partials is None:
            self.partials = self._run_partials(z)
        total = None
        for x, partial in zip(self.operands, self.partials, strict=True):
            for j in range(1, k + 1):
                term = _product(
                    coefficient_of(x, j, self.tag), coefficient_of(partial, k - j, self.tag)
                )
                if term is not None and j != k:
                    term = term * (j / k)
                total = _sum(total, term)
        return _fitted(total, z)

    def _run_partials(self, z: Any) -> list[Any]:
        *cut, z = [_cut(x, self.tag, self.order - 1) for x in (*self.operands, z)]
        cut = [*widened(operations, cut, z), z]
        moved = [isinstance(x, _Series) and x.tag == self.tag for x in self.operands]
        return [
            None
            if not is_moved or partial is None
            else partial(operations, *cut)
            if callable(partial)
            else partial
            for partial, is_moved in zip(self.rule.partials, moved, strict=True)
        ]


class _quotient:
    """The coefficients of z = x / y, from those of x = y z.

    Each term is divided by y before it is multiplied, as the rule's own derivative -z / y is: the
    products of `x - y z` may be too small for a float where the quotient is not.
    """

    def __init__(self, operands: Sequence[Any], base: Any, tag: int):
        self.x, self.y = operands
        self.tag = tag
        self.shares: list[Any] = []  # -z_j / y

    def __call__(self, z: Any, k: int) -> Any:
        (y,) = widened(operations, [coefficient_of(self.y, 0, self.tag)], z)
        moved = coefficient_of(self.x, k, self.tag)
        total = None if moved is None else _product(moved, operations.divide(1.0, y))
        while self._is_moved and len(self.shares) < k:
            part = coefficient_of(z, len(self.shares), self.tag)
            self.shares.append(None if part is None else operations.divide(-part, y))
        for j in range(1, k + 1):
            tangent = coefficient_of(self.y, j, self.tag)
            if tangent is not None:
                total = _sum(total, _product(tangent, self.shares[k - j]))
        return _fitted(total, z)

    @property
    def _is_moved(self) -> bool:
        return isinstance(self.y, _Series) and self.y.tag == self.tag


def _structural(
    rule: ArrayRule, operands: Sequence[Any], parameters: tuple[Any, ...], options: dict[str, Any]
) -> Any:
    operands = [x if isinstance(x, Node) else as_array(x, rule.name) for x in operands]
    if rule.forward == "formula":
        return rule.apply(operations, operands, parameters, options)
    if not any(isinstance(x, _Series) for x in operands):  # but one of its further arguments is
        raise TypeError(f"{rule.name}: expected plain numbers, got a quantity of forward mode")
    tag, order = _tag_and_order(operands)

    def apply(*arguments: Any) -> Any:
        if rule.takes_sequence:
            return rule(arguments, *parameters, **options)
        return rule(*arguments, *parameters, **options)

    def pull(which: int, g: Any, result: Any, operands: Sequence[Any]) -> Any:
        pulled = rule.pull(operations, which, g, result, operands, parameters, options)
        return fitted(pulled, operands[which])

    base = apply(*(coefficient_of(x, 0, tag) for x in operands))
    more: Any
    if rule.forward == "linear":
        more = _linear(apply, operands, tag)
    elif rule.forward == "multilinear":
        more = _multilinear(apply, operands, tag)
    else:
        more = _transposed(pull, operands, base, tag, order)
    z = series([base], order, tag, more)
    return _completed(z, operands, tag)


class _linear:
    """The coefficients of a linear operation: the operation of the coefficients."""

    def __init__(self, apply: Callable[..., Any], operands: Sequence[Any], tag: int):
        self.apply, self.operands, self.tag = apply, operands, tag

    def __call__(self, z: Any, k: int) -> Any:
        parts = [coefficient_of(x, k, self.tag) for x in self.operands]
        if all(part is None for part in parts):
            return None
        pairs = zip(parts, self.operands, strict=True)
        return self.apply(*(_zeros(x) if part is None else part for part, x in pairs))


class _multilinear:
    """The coefficients of a product: sums of products of coefficients."""

    def __init__(self, apply: Callable[..., Any], operands: Sequence[Any], tag: int):
        self.apply, self.operands, self.tag = apply, operands, tag

    def __call__(self, z: Any, k: int) -> Any:
        total = None
        for orders in itertools.product(range(k + 1), repeat=len(self.operands)):
            if sum(orders) == k:
                pairs = zip(self.operands, orders, strict=True)
                parts = [coefficient_of(x, j, self.tag) for x, j in pairs]
                if all(part is not None for part in parts):
                    total = _sum(total, self.apply(*parts))
        return total


class _transposed:
    """The coefficients of any operation on arrays, by its pullback.

    A pullback computes Jᵀu, which is linear in u. So the derivative by u of its product with some v
    is Jv: what forward mode wants to know.
    """

    def __init__(
        self, pull: Callable[..., Any], operands: Sequence[Any], base: Any, tag: int, order: int
    ):
        self.pull, self.operands, self.tag, self.order = pull, operands, tag, order
        self.products: Any = None

    def __call__(self, z: Any, k: int) -> Any:
        with enable_grad():
            if self.products is None:
                self.u = Tensor(np.zeros(z.shape, z.dtype))
                self.products = self._products(z)
            root = coefficient_of(self.products, k - 1, self.tag)
            if root is None:
                return None
            (velocity,) = gradients_through(root, [self.u], create_graph=True)
        return velocity if velocity is None or k == 1 else velocity * (1.0 / k)

    def _products(self, z: Any) -> Any:
        """The sum over the operands of (Jᵀu) · dx/dε, as a series one order lower."""
        order = self.order - 1
        *cut, result = (_cut(x, self.tag, order) for x in (*self.operands, z))
        total = None
        for which, x in enumerate(self.operands):
            velocity = _velocity(x, self.tag)
            if velocity is not None:
                pulled = self.pull(which, self.u, result, cut)
                total = _sum(total, array_rules.sum(pulled * velocity))
        return total


def _velocity(x: Any, tag: int) -> Any:
    """dx/dε as a series; None if x does not move."""
    if not (isinstance(x, _Series) and x.tag == tag):
        return None
    parts = [x.coefficient(k) for k in range(1, x.order + 1)]
    if all(part is None for part in parts):
        return None
    parts = [
        None if part is None else part if k == 1 else part * float(k)
        for k, part in enumerate(parts, 1)
    ]
    parts[0] = _zeros(x) if parts[0] is None else parts[0]
    return series(parts, x.order - 1, tag)


# --- arithmetic of coefficients, where None is zero ---------------------------------------------


def _sum(x: Any, y: Any) -> Any:
    if x is None or y is None:
        return y if x is None else x
    return x + y


def _product(tangent: Any, partial: Any) -> Any:
    """Their product, where a zero of either gives zero.

    A masked branch (`where(x > 0, log(x), 0)` at 0) has an infinite tangent, and is multiplied by a
    partial of zero.
    """
    if tangent is None or partial is None:
        return None
    if type(partial) is float and partial == 1.0:
        return tangent
    product = operations.azmul(tangent, partial)
    numbers, slope = _numbers(product), _numbers(partial)
    if np.isnan(numbers).any():
        nonzero = np.not_equal(slope, 0.0)
        product = operations.where(nonzero if np.ndim(nonzero) else bool(nonzero), product, 0.0)
    return product


def _numbers(x: Any) -> Any:
    return x.data if isinstance(x, (Value, Tensor)) else x


def _fitted(coefficient: Any, base: Any) -> Any:
    """A coefficient in the shape and dtype of the series."""
    if coefficient is None or not isinstance(base, Tensor):
        return coefficient
    if coefficient.shape != base.shape:
        coefficient = array_rules.broadcast_to(coefficient, base.shape)
    if coefficient.dtype != base.dtype:
        coefficient = array_rules.astype(coefficient, base.dtype)
    return coefficient


def _zeros(x: Any) -> Any:
    """A constant zero, of the kind of x."""
    if isinstance(x, Value):
        return Value(0.0, requires_grad=False)
    return Tensor(np.zeros(x.shape, x.dtype), requires_grad=False)


# --- reverse mode, through forward mode ---------------------------------------------------------


def gradients_through(
    root: Any, variables: Sequence[Node], create_graph: bool, seed: Any = None
) -> list[Any]:
    """The gradients of `root` by some leaves, where `root` may be a series.

    What is differentiated by a leaf and moved by ε may be done in either order, so the gradient of
    a series has the gradients of its coefficients.

    Args:
        root: a node.
        variables: tracked leaves.
        create_graph: whether the gradients are to be nodes.
        seed: the root's own gradient; 1, if root is a single number.

    Returns:
        Per variable the gradient: a number or an array, or with `create_graph`, or where `root` is
        a series, a node; None where the root does not depend on it.
    """
    if seed is not None and isinstance(root, _Series):
        root = root * seed if isinstance(root, Value) else array_rules.sum(root * seed)
    if not isinstance(root, _Series):
        if not isinstance(root, Node) or root.rule is UNTRACKED:
            return [None] * len(variables)
        seed = root._seed(None) if seed is None else seed
        if create_graph and not isinstance(seed, Node):
            seed = constant(seed)
        return gradients_of(root, variables, seed, create_graph)
    parts = [
        gradients_through(root.coefficient(k), variables, create_graph)
        for k in range(root.order + 1)
    ]
    return [
        _joined(variable, gradients, root)
        for variable, gradients in zip(variables, zip(*parts, strict=True), strict=True)
    ]


def _joined(variable: Node, gradients: Sequence[Any], root: _Series) -> Any:
    if all(g is None for g in gradients):
        return None
    nodes = [g if g is None or isinstance(g, Node) else constant(g) for g in gradients]
    nodes[0] = _zeros(variable) if nodes[0] is None else nodes[0]
    return series(nodes, root.order, root.tag)


def constant(x: Any) -> Any:
    """A number or an array as a node to which no gradient flows."""
    if type(x) is float:  # and not numpy's, which is an array of no dimensions
        return Value(x, requires_grad=False)
    return Tensor(x, requires_grad=False)
