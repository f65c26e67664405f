"""Weights to PyTorch and back, under PyTorch's names.

PyTorch has samples in rows too, but stores the transpose of a weight matrix, and gives a recurrent
cell two biases. Only their sum matters: on the way in they are added, and on the way out the second
is zero (but for what stands behind a GRU's reset gate). What goes over is arrays; PyTorch itself is
not imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygrad_bp.arguments import instance, mapping
from tinygrad_bp.inputs import as_array
from tinygrad_bp.nn.attention import MultiHeadAttention
from tinygrad_bp.nn.embedding import Embedding
from tinygrad_bp.nn.feedforward import MLP, Linear, Sequential
from tinygrad_bp.nn.module import Module, children
from tinygrad_bp.nn.normalization import LayerNorm
from tinygrad_bp.nn.recurrent import GRUCell, LSTMCell, RNNCell
from tinygrad_bp.nn.sequences import RecurrentLayer
from tinygrad_bp.nn.transformer import TransformerBlock

State = dict[str, NDArray[Any]]
Out = Callable[[Any], State]
In = Callable[[Any, Mapping[str, Any]], list[tuple[Any, Any]]]


def torch_state_dict(module: Module) -> State:
    """The numbers of every parameter under PyTorch's names and in its shapes, as copies.

    `{name: torch.tensor(x) for name, x in torch_state_dict(module).items()}` is what PyTorch's
    `load_state_dict` takes, for the module of the same name there (`nn.TransformerEncoderLayer` for
    a `TransformerBlock`; for an `MLP`, an `nn.Sequential` of layers and activations in turn).

    Raises:
        TypeError: a module has parameters of its own for which PyTorch has no name.
    """
    instance(module, "module", Module, "a Module")
    state: State = {}
    converted = set()
    for prefix, part in _parts(module, ""):
        out, in_ = _CONVERSIONS[_kind(part)]
        theirs = out(part)
        converted |= {id(parameter) for parameter, _ in in_(part, theirs)}
        for name, array in theirs.items():
            state[prefix + name] = np.array(array)
    lost = [name for name, p in module.named_parameters() if id(p) not in converted]
    if lost:
        raise TypeError(f"{type(module).__name__}: PyTorch has no names for {lost}")
    return state


def load_torch_state_dict(module: Module, state: Mapping[str, Any]) -> None:
    """Set every parameter to PyTorch's numbers.

    Args:
        module: the module.
        state: arrays, or PyTorch's own tensors, by PyTorch's names.

    Raises:
        TypeError: a module has parameters of its own for which PyTorch has no name.
        ValueError: a name is missing or unknown, or a shape differs; then nothing is set.
    """
    mapping(state, "state", "arrays by name")
    expected = torch_state_dict(module)
    missing = sorted(expected.keys() - state.keys())
    unknown = sorted(state.keys() - expected.keys())
    if missing or unknown:
        raise ValueError(f"state: missing {missing or 'nothing'}, unknown {unknown or 'nothing'}")
    arrays = {name: as_array(_plain(state[name]), f"state[{name!r}]") for name in expected}
    for name, array in arrays.items():
        if array.shape != expected[name].shape:
            raise ValueError(
                f"state[{name!r}]: expected shape {expected[name].shape}, got {array.shape}"
            )
    pairs: list[tuple[Any, Any]] = []
    for prefix, part in _parts(module, ""):
        mine = {name[len(prefix) :]: x for name, x in arrays.items() if name.startswith(prefix)}
        pairs += _CONVERSIONS[_kind(part)][1](part, mine)
    for parameter, array in pairs:
        parameter.data = array


def _plain(x: Any) -> Any:
    """A tensor of PyTorch's as an array."""
    return x.numpy() if hasattr(x, "numpy") else x


def _kind(module: Any) -> type | None:
    """The class in the table of conversions that a module is of."""
    return next((kind for kind in type(module).__mro__ if kind in _CONVERSIONS), None)


def _parts(module: Any, prefix: str) -> Iterator[tuple[str, Module]]:
    """The modules that have a conversion, with what PyTorch would write before their names."""
    if _kind(module) is not None:
        yield prefix, module
        return
    for name, part in _children(module):
        if isinstance(part, (Module, list, tuple, dict)):
            yield from _parts(part, f"{prefix}{name}.")


def _children(x: Any) -> list[tuple[str, Any]]:
    """What a module or a container consists of, under PyTorch's names."""
    if isinstance(x, MLP):
        return [(str(2 * i), layer) for i, layer in enumerate(x.layers)]
    if isinstance(x, Sequential):
        return children(x.layers)
    if isinstance(x, TransformerBlock):
        parts = {"self_attn": x.attention, "linear1": x.linear1, "linear2": x.linear2}
        return children({**parts, "norm1": x.norm1, "norm2": x.norm2})
    return children(x)


# --- one conversion per kind of module ----------------------------------------------------------


def _linear_out(linear: Any) -> State:
    state = {"weight": linear.W.data.T}
    if linear.b is not None:
        state["bias"] = linear.b.data
    return state


def _linear_in(linear: Any, state: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    pairs = [(linear.W, state["weight"].T)]
    return pairs if linear.b is None else [*pairs, (linear.b, state["bias"])]


def _cell_out(cell: Any) -> State:
    second = np.zeros_like(cell.b.data)
    if isinstance(cell, GRUCell):
        second[-len(cell.d.data) :] = cell.d.data
    return {
        "weight_ih": cell.U.data.T,
        "weight_hh": cell.W.data.T,
        "bias_ih": cell.b.data,
        "bias_hh": second,
    }


def _cell_in(cell: Any, state: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    pairs = [(cell.U, state["weight_ih"].T), (cell.W, state["weight_hh"].T)]
    first, second = state["bias_ih"], state["bias_hh"]
    if not isinstance(cell, GRUCell):
        return [*pairs, (cell.b, first + second)]
    gates = 2 * len(cell.d.data)  # those whose two biases meet in a sum
    b = np.concatenate([first[:gates] + second[:gates], first[gates:]])
    return [*pairs, (cell.b, b), (cell.d, second[gates:])]


def _layer_cells(layer: Any) -> Iterator[tuple[str, Any]]:
    for cells, suffix in ((layer.cells, ""), (layer.reverse_cells, "_reverse")):
        for i, cell in enumerate(cells):
            yield f"_l{i}{suffix}", cell


def _layer_out(layer: Any) -> State:
    cells = _layer_cells(layer)
    return {name + suffix: x for suffix, cell in cells for name, x in _cell_out(cell).items()}


def _layer_in(layer: Any, state: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    pairs = []
    for suffix, cell in _layer_cells(layer):
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        pairs += _cell_in(cell, {name: state[name + suffix] for name in names})
    return pairs


def _norm_out(norm: Any) -> State:
    return {"weight": norm.g.data, "bias": norm.b.data}


def _norm_in(norm: Any, state: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    return [(norm.g, state["weight"]), (norm.b, state["bias"])]


def _embedding_out(embedding: Any) -> State:
    return {"weight": embedding.E.data}


def _embedding_in(embedding: Any, state: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    return [(embedding.E, state["weight"])]


def _attention_out(attention: Any) -> State:
    qkv = (attention.q, attention.k, attention.v)
    return {
        "in_proj_weight": np.concatenate([linear.W.data.T for linear in qkv]),
        "in_proj_bias": np.concatenate([linear.b.data for linear in qkv]),
        "out_proj.weight": attention.o.W.data.T,
        "out_proj.bias": attention.o.b.data,
    }


def _attention_in(attention: Any, state: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    pairs = [(attention.o.W, state["out_proj.weight"].T), (attention.o.b, state["out_proj.bias"])]
    weights, biases = (np.split(state[f"in_proj_{name}"], 3) for name in ("weight", "bias"))
    for name, W, b in zip("qkv", weights, biases, strict=True):
        pairs += [(getattr(attention, name).W, W.T), (getattr(attention, name).b, b)]
    return pairs


_CONVERSIONS: dict[type | None, tuple[Out, In]] = {
    Linear: (_linear_out, _linear_in),
    RNNCell: (_cell_out, _cell_in),
    LSTMCell: (_cell_out, _cell_in),
    GRUCell: (_cell_out, _cell_in),
    RecurrentLayer: (_layer_out, _layer_in),
    LayerNorm: (_norm_out, _norm_in),
    Embedding: (_embedding_out, _embedding_in),
    MultiHeadAttention: (_attention_out, _attention_in),
}
