"""Back-propagation that can be read: scalars and arrays that remember how they were computed.

A `Value` is a float and a `Tensor` an array that records the computation it took part in.
`backward()` then walks the graph in reverse topological order and applies the chain rule at every
node. See `tinygrad_bp.rules` for every operation there is and its derivative.
"""

from tinygrad_bp import (
    datasets as datasets,
    explain as explain,
    nn as nn,
    optim as optim,
    training as training,
)
from tinygrad_bp.array_rules import (
    ARRAY_RULES as ARRAY_RULES,
    astype as astype,
    broadcast_to as broadcast_to,
    concatenate as concatenate,
    cumsum as cumsum,
    einsum as einsum,
    expand_dims as expand_dims,
    flip as flip,
    getitem as getitem,
    linear as linear,
    log_softmax as log_softmax,
    logsumexp as logsumexp,
    matmul as matmul,
    max as max,
    mean as mean,
    min as min,
    norm as norm,
    one_hot as one_hot,
    pad as pad,
    prod as prod,
    reshape as reshape,
    softmax as softmax,
    split as split,
    squeeze as squeeze,
    stack as stack,
    sum as sum,
    take as take,
    take_along_axis as gather,  # noqa: F401  PyTorch's name
    take_along_axis as take_along_axis,
    transpose as transpose,
    tril as tril,
    triu as triu,
    var as var,
)
from tinygrad_bp.calculus import (
    derivative as derivative,
    grad as grad,
    hessian as hessian,
    hvp as hvp,
    jacobian as jacobian,
    jvp as jvp,
    taylor as taylor,
    value_and_grad as value_and_grad,
    vjp as vjp,
)
from tinygrad_bp.check import (
    GradientReport as GradientReport,
    check_gradients as check_gradients,
)
from tinygrad_bp.checkpointing import checkpoint as checkpoint
from tinygrad_bp.counting import (
    Counts as Counts,
    count_operations as count_operations,
)
from tinygrad_bp.custom import (
    check_rule as check_rule,
    elementwise as elementwise,
    structural as structural,
)
from tinygrad_bp.debugging import detect_anomaly as detect_anomaly
from tinygrad_bp.graph import (
    Edge as Edge,
    Node as Node,
    Step as Step,
    sweep as sweep,
    topological_order as topological_order,
)
from tinygrad_bp.recording import (
    Scope as Scope,
    enable_grad as enable_grad,
    is_grad_enabled as is_grad_enabled,
    no_grad as no_grad,
    scope as scope,
)
from tinygrad_bp.replay import (
    Compiled as Compiled,
    Program as Program,
    compile as compile,
)
from tinygrad_bp.rules import (
    RULES as RULES,
    absolute as absolute,
    add as add,
    arccos as arccos,
    arcsin as arcsin,
    arctan as arctan,
    arctan2 as arctan2,
    clip as clip,
    cos as cos,
    cosh as cosh,
    divide as divide,
    elu as elu,
    erf as erf,
    erfc as erfc,
    exp as exp,
    expm1 as expm1,
    gelu as gelu,
    hypot as hypot,
    leaky_relu as leaky_relu,
    log as log,
    log1p as log1p,
    log_sigmoid as log_sigmoid,
    logaddexp as logaddexp,
    maximum as maximum,
    minimum as minimum,
    multiply as multiply,
    negative as negative,
    positive as positive,
    power as power,
    relu as relu,
    sigmoid as sigmoid,
    silu as silu,
    sin as sin,
    sinh as sinh,
    softplus as softplus,
    sqrt as sqrt,
    square as square,
    subtract as subtract,
    tan as tan,
    tanh as tanh,
    where as where,
)
from tinygrad_bp.scalars import (
    Values as Values,
    values as values,
)
from tinygrad_bp.tensor import Tensor as Tensor
from tinygrad_bp.training import (
    load_model as load_model,
    save_model as save_model,
)
from tinygrad_bp.value import Value as Value

__version__ = "0.1.0"
