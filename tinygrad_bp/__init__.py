"""Back-propagation that can be read: scalars and arrays that remember how they were computed.

A `Value` is a float and a `Tensor` an array that records the computation it took part in.
`backward()` then walks the graph in reverse topological order and applies the chain rule at every
node. See `tinygrad_bp.rules` for every operation there is and its derivative.
"""

from tinygrad_bp import array_rules, nn, optim, rules
from tinygrad_bp.array_rules import (
    ARRAY_RULES,
    broadcast_to,
    concatenate,
    cumsum,
    einsum,
    expand_dims,
    flip,
    log_softmax,
    logsumexp,
    matmul,
    max,
    mean,
    min,
    norm,
    one_hot,
    pad,
    prod,
    reshape,
    softmax,
    split,
    squeeze,
    stack,
    sum,
    take,
    take_along_axis,
    transpose,
    tril,
    triu,
    var,
)
from tinygrad_bp.check import GradientReport, check_gradients
from tinygrad_bp.graph import (
    Edge,
    Node,
    Scope,
    Step,
    is_grad_enabled,
    no_grad,
    scope,
    sweep,
    topological_order,
)
from tinygrad_bp.rules import (
    RULES,
    absolute,
    add,
    arccos,
    arcsin,
    arctan,
    arctan2,
    clip,
    cos,
    cosh,
    divide,
    elu,
    erf,
    erfc,
    exp,
    expm1,
    gelu,
    hypot,
    leaky_relu,
    log,
    log1p,
    log_sigmoid,
    logaddexp,
    maximum,
    minimum,
    multiply,
    negative,
    power,
    relu,
    sigmoid,
    silu,
    sin,
    sinh,
    softplus,
    sqrt,
    square,
    subtract,
    tan,
    tanh,
    where,
)
from tinygrad_bp.scalars import Values, values
from tinygrad_bp.tensor import Tensor
from tinygrad_bp.value import Value

gather = take_along_axis  # PyTorch's name

__version__ = "0.1.0"
