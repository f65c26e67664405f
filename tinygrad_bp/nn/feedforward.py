"""Feed-forward networks: `Linear`, `Sequential` and `MLP`.

The code has samples in rows, `(batch, features)`, and so `z = a W + b` with `W` of shape
`(inputs, outputs)`; textbooks have columns, `z = W a + b`, with the transpose.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinygrad_bp import rules
from tinygrad_bp.arguments import count, flag, function, out_of_range, several, shown, wrong_kind
from tinygrad_bp.array_rules import linear, log_softmax, softmax
from tinygrad_bp.inputs import as_array
from tinygrad_bp.nn import init
from tinygrad_bp.nn.module import Module, named
from tinygrad_bp.recording import call_in_scope
from tinygrad_bp.scalars import Values
from tinygrad_bp.tensor import Tensor

Activation = Callable[[Any], Any]


def identity(x: Any) -> Any:
    """x itself: the activation of an output that has none."""
    return x


ACTIVATIONS: dict[str, Activation] = {
    "identity": identity,
    "sigmoid": rules.sigmoid,
    "tanh": rules.tanh,
    "relu": rules.relu,
    "leaky_relu": rules.leaky_relu,
    "elu": rules.elu,
    "gelu": rules.gelu,
    "silu": rules.silu,
    "softplus": rules.softplus,
    "softmax": softmax,
    "log_softmax": log_softmax,
}


def activation_of(activation: str | Activation) -> Activation:
    """An activation by its name, or the function itself.

    Raises:
        ValueError: there is no activation of this name.
    """
    if callable(activation):
        return activation
    if not isinstance(activation, str):
        raise wrong_kind("activation", "a name or a function", activation)
    if activation not in ACTIVATIONS:
        names = ", ".join(ACTIVATIONS)
        raise ValueError(f"activation: expected one of {names}; got {shown(activation)}")
    return ACTIVATIONS[activation]


class Linear(Module):
    """The weighted input `z = x W + b`.

    Args:
        inputs, outputs: the numbers of features.
        rng: a numpy Generator, or a seed.
        initializer: how W starts, see `nn.init`.
        bias: whether there is a b; it starts at zero.
        dtype: float64 or float32.

    Attributes:
        W: shape (inputs, outputs).
        b: shape (outputs,), or None.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        rng: np.random.Generator | int,
        initializer: init.Initializer = init.xavier,
        bias: bool = True,
        dtype: Any = np.float64,
    ) -> None:
        check_sizes(inputs=inputs, outputs=outputs)
        weights = drawn(initializer, init.generator(rng), (inputs, outputs), "initializer")
        flag(bias, "bias")
        self.W = Tensor(weights, "W", dtype=dtype)
        self.b = Tensor(np.zeros(outputs), "b", dtype=dtype) if bias else None

    def forward(self, x: Any) -> Any:
        """x of shape (..., inputs) to (..., outputs)."""
        check_features(x, self.W.shape[0], "Linear")
        return x @ self.W if self.b is None else linear(x, self.W, self.b)


class Sequential(Module):
    """Modules one after the other, each given the output of the one before.

    Args:
        layers: Modules, functions, or names of activations: `Sequential(Linear(2, 3, rng=0),
            "tanh")`.

    Raises:
        ValueError: there is no layer, or no activation of a name.
        TypeError: a layer cannot be called.

    Attributes:
        layers: the list of them; also by index, as `network[0]`.
    """

    def __init__(self, *layers: str | Callable[[Any], Any]) -> None:
        if not layers:
            raise ValueError("Sequential: expected at least one layer")
        for layer in layers:
            if not isinstance(layer, str) and not callable(layer):
                raise wrong_kind("Sequential: layers", "Modules or functions", layer)
        self.layers: list[Activation] = [activation_of(layer) for layer in layers]

    def forward(self, x: Any) -> Any:
        """What the last layer makes of it; layer i runs in the scope `layer(i)`."""
        for i, layer in enumerate(self.layers, 1):
            x = call_in_scope("layer", i, layer, (x,), {})
        return x

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, index: int) -> Activation:
        return self.layers[index]


class MLP(Module):
    """A multi-layer perceptron: layers l = 1 ... L of `zˡ = aˡ⁻¹ Wˡ + bˡ`, `aˡ = σˡ(zˡ)`.

    The inner quantities are named `z1, a1, z2, ...`, and the parameters `W1, b1, W2, ...`.

    Args:
        sizes: the widths [N₀, N₁, ..., N_L], inputs first.
        activations: one name (or function) for all layers but the last, which is then the
            identity; or one per layer.
        rng: a numpy Generator, or a seed.
        initializer: how the weights start; He for relu and its kin, else Xavier, if not given.
        dtype: float64 or float32.

    Raises:
        ValueError: there are fewer than two sizes, one is not positive, or the number of
            activations is not that of the layers.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        activations: str | Activation | Sequence[str | Activation] = "tanh",
        *,
        rng: np.random.Generator | int,
        initializer: init.Initializer | None = None,
        dtype: Any = np.float64,
    ) -> None:
        sizes = [count(size, "sizes") for size in several(sizes, "sizes", "widths")]
        if len(sizes) < 2:
            raise ValueError(f"sizes: expected the widths, such as [2, 8, 1], got {sizes!r}")
        layers = len(sizes) - 1
        if isinstance(activations, str) or callable(activations):
            activations = [activations] * (layers - 1) + ["identity"]
        activations = several(activations, "activations", "names or functions")
        if len(activations) != layers:
            raise ValueError(
                f"activations: expected {layers}, one per layer, got {len(activations)}"
            )
        rng = init.generator(rng)
        self.activations = [activation_of(activation) for activation in activations]
        self.layers = []
        for i, activation in enumerate(activations):
            start = (
                initializer
                if initializer is not None
                else (init.he if activation_of(activation) in _RECTIFIERS else init.xavier)
            )
            layer = Linear(sizes[i], sizes[i + 1], rng=rng, initializer=start, dtype=dtype)
            layer.name = f"layer{i + 1}"
            for parameter in layer.parameters():
                parameter.label += str(i + 1)  # type: ignore[union-attr]
            self.layers.append(layer)

    def forward(self, x: Any) -> Any:
        """x of shape (..., N₀) to (..., N_L)."""
        a = x
        for i, (layer, activation) in enumerate(zip(self.layers, self.activations, strict=True), 1):
            z = named(layer(a), f"z{i}")
            a = activation(z)
            if a is not z:
                named(a, f"a{i}")
        return a


_RECTIFIERS = (rules.relu, rules.leaky_relu, rules.elu, rules.gelu, rules.silu)


def check_sizes(**sizes: int) -> None:
    """Raise ValueError for a number of features that is not a positive integer."""
    for name, size in sizes.items():
        count(size, name)


def drawn(
    initializer: init.Initializer, rng: np.random.Generator, shape: tuple[int, int], what: str
) -> Any:
    """The weights that an initializer gives, after a look at them."""
    weights = as_array(function(initializer, what)(rng, shape), what)
    if weights.shape != shape:
        raise out_of_range(what, f"a function that returns shape {shape}", weights)
    return weights


def check_arrays(**arrays: Any) -> None:
    """Raise TypeError for what is no Tensor, no Values and no array of real numbers."""
    for name, x in arrays.items():
        is_array = isinstance(x, np.ndarray) and x.dtype.kind in "biuf"
        if not is_array and not isinstance(x, (Tensor, Values)):
            raise wrong_kind(name, "a Tensor, Values or an array of real numbers", x)


def check_features(x: Any, expected: int, what: str) -> None:
    """Raise TypeError or ValueError where x cannot be multiplied by a matrix of `expected` rows."""
    shape = getattr(x, "shape", None)
    is_array = hasattr(type(x), "_interpret") or hasattr(type(x), "__array__")
    if shape is None or not is_array:
        raise TypeError(
            f"{what}: expected a Tensor, Values or a numpy array, got {shown(x)}; "
            "numbers in a list become one by np.array(...)"
        )
    if len(shape) == 0 or shape[-1] != expected:
        raise ValueError(f"{what}: expected (..., {expected}) features, got shape {tuple(shape)}")
    if isinstance(x, (Tensor, Values)):
        return
    kind = getattr(getattr(x, "dtype", None), "kind", "f")  # another library's: a float so far
    if isinstance(x, np.ma.MaskedArray) or kind not in "biuf":
        raise wrong_kind(what, "real numbers", x)
