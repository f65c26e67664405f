"""Every public callable: how it is found, one good call of each, and what each parameter takes."""

from __future__ import annotations

import importlib
import inspect
import operator
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

import tinygrad_bp as tb
from tinygrad_bp import datasets, explain, nn, optim, replay, training, visualize
from tinygrad_bp.array_rules import ArrayRule
from tinygrad_bp.explain import mistakes
from tinygrad_bp.rules import Rule

MODULES = {
    "tb": "tinygrad_bp",
    "nn": "tinygrad_bp.nn",
    "init": "tinygrad_bp.nn.init",
    "optim": "tinygrad_bp.optim",
    "lr_scheduler": "tinygrad_bp.optim.lr_scheduler",
    "training": "tinygrad_bp.training",
    "explain": "tinygrad_bp.explain",
    "mistakes": "tinygrad_bp.explain.mistakes",
    "visualize": "tinygrad_bp.visualize",
    "datasets": "tinygrad_bp.datasets",
    "replay": "tinygrad_bp.replay",
}

# What the library alone makes: results of its functions, which users read.
RESULTS = {
    *("tb.GradientReport", "tb.Counts", "tb.Edge", "tb.Step", "tb.Scope", "tb.Node", "tb.Values"),
    *("tb.Compiled", "tb.Program", "training.Run", "training.Update", "training.History"),
    *("visualize.Picture", "visualize.Player"),
    *("datasets.MNIST", "datasets.XY", "datasets.Sequences", "datasets.Table", "datasets.Text"),
    *(f"explain.{name}" for name in (
        "Comparison", "Finding", "Verdict", "Contributions", "Cost", "Growth", "Delta", "Deltas",
        "Derivation", "Equation", "Jacobians", "Mistake", "Museum", "Path", "Paths",
        "StatesThroughTime", "ThroughTime", "Truncation", "Contribution", "Why", "Whys",
    )),
}  # fmt: skip
# What the engine calls, and users of the names only write.
CALLED_BY_THE_ENGINE = {
    *(f"{kind}.{method}" for kind in ("count_operations", "detect_anomaly", "Observer")
      for method in ("operation", "read", "recorded", "swept")),
    *("Callback.on_batch_end", "Callback.on_epoch_end"),
    *("Module.forward", "LRScheduler.at"),
}  # fmt: skip
# Helpers of `explain.mistakes` that its rules are made of, not in its page.
HELPERS = {
    *("optim.LRScheduler", "lr_scheduler.at_least_zero", "mistakes.DoesNotApplyError"),
    *(f"mistakes.{name}" for name in ("made", "Graph", "Sizes", "Target", "Prose")),
    *(f"{kind}.{method}" for kind in ("Graph", "Target")
      for method in ("is_activation", "uses", "swept", "is_same", "of", "numbers")),
}  # fmt: skip


class Call(NamedTuple):
    """A callable with good arguments, by the names of its parameters; `*args` as a tuple."""

    function: Callable[..., Any]
    arguments: dict[str, Any]

    def is_variadic(self, name: str) -> bool:
        """Whether a parameter takes any number of arguments: `*args`."""
        kind = inspect.signature(self.function).parameters[name].kind
        return kind is inspect.Parameter.VAR_POSITIONAL

    def run(self, **changed: Any) -> Any:
        """Call it; iterators and context managers are gone through."""
        arguments = {**self.arguments, **changed}
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        in_order = True
        for p in inspect.signature(self.function).parameters.values():
            if p.name not in arguments:
                in_order = False
            elif p.kind is p.VAR_POSITIONAL:
                args += arguments[p.name]
            elif p.kind is p.VAR_KEYWORD:
                kwargs |= arguments[p.name]
            elif p.kind is p.KEYWORD_ONLY or not in_order:
                kwargs[p.name] = arguments[p.name]
            else:
                args.append(arguments[p.name])
        result = self.function(*args, **kwargs)
        if inspect.isgenerator(result) or isinstance(result, zip | map | filter):
            for _, _ in zip(range(50), result, strict=False):
                pass
        return result


def public() -> Iterator[tuple[str, Any, type | None]]:
    """The name of every public callable, itself, and the class that a method belongs to."""
    seen: set[int] = set()
    for short, path in MODULES.items():
        module = importlib.import_module(path)
        for name in getattr(module, "__all__", None) or vars(module):
            x = getattr(module, name)
            if name.startswith("_") or not callable(x) or id(x) in seen:
                continue
            home = str(getattr(x, "__module__", ""))
            if home != path if not hasattr(module, "__path__") else home[:11] != "tinygrad_bp":
                continue
            seen.add(id(x))
            if inspect.isclass(x):
                yield from _of_class(f"{short}.{name}", x, seen)
            elif has_parameters(x):
                yield f"{short}.{name}", x, None


def _of_class(name: str, kind: Any, seen: set[int]) -> Iterator[tuple[str, Any, type | None]]:
    if has_parameters(kind) and not issubclass(kind, BaseException):
        yield name, kind, None
    for base in kind.__mro__:
        if not base.__module__.startswith("tinygrad_bp"):
            continue
        for method, x in vars(base).items():
            if method.startswith("_") or id(x) in seen:
                continue
            seen.add(id(x))
            if isinstance(x, property):
                if x.fset is not None:
                    yield f"{base.__name__}.{method}", x.fset, base if base in INSTANCES else kind
            elif callable(x) and has_parameters(x, 1):
                yield f"{base.__name__}.{method}", x, base if base in INSTANCES else kind


def has_parameters(x: Any, least: int = 0) -> bool:
    try:
        return len(inspect.signature(x).parameters) > least
    except ValueError:
        return False


# --- good arguments -----------------------------------------------------------------------------


def matrix() -> tb.Tensor:
    return tb.Tensor(np.linspace(0.1, 0.9, 12).reshape(4, 3), "x")


def values() -> Any:
    return tb.values(np.linspace(0.1, 0.9, 12).reshape(4, 3), "x")


def loss() -> Any:
    """A small network's loss, with names."""
    model = nn.MLP([3, 2, 2], rng=0)
    return nn.cross_entropy(model(data()), np.array([0, 1, 1, 0]))


def mistaken(name: str) -> Any:
    """A loss on whose graph the mistake can be made."""
    if name in ("softmax_elementwise", "penalty_forgotten"):
        x, W = tb.Tensor(data(), requires_grad=False), tb.Tensor(np.ones((3, 2)), "W")
        error = nn.squared_error(tb.softmax(x @ W), labels())
        return error + nn.weight_decay([W], 0.1)
    return total() if name in IN_TIME else loss()


IN_TIME = (
    "later_state",
    "only_last_step",
    "truncation_off_by_one",
    "last_loss_only",
    "no_recursion",
)


def data() -> np.ndarray:
    return np.linspace(-1.0, 1.0, 12).reshape(4, 3)


def labels() -> np.ndarray:
    return np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])


def recurrent() -> tuple[list[Any], list[Any], Any]:
    """States, losses and the parameter W of an unrolled network."""
    cell = nn.RNNCell(3, 2, rng=0)
    states = nn.unroll(cell, data()[:, None], cell.initial_state(1))
    losses = []
    for t, h in enumerate(states, 1):
        with tb.scope("step", t):
            losses.append(tb.sum(h * h))
    return states, losses, cell.W


def total() -> Any:
    losses = recurrent()[1]
    return sum(losses[1:], start=losses[0])


def square(x: Any) -> Any:
    return tb.sum(x * x)


def linear() -> nn.Linear:
    return nn.Linear(3, 2, rng=0)


def sgd(p: Any = None) -> optim.SGD:
    p = matrix() if p is None else p
    tb.sum(p * p).backward()
    return optim.SGD([p], lr=0.1)


def graded() -> tb.Tensor:
    p = matrix()
    tb.sum(p * p).backward()
    return p


def softsign() -> Rule:
    return tb.elementwise(lambda m, x, y: 2.0 * x, check=False)(lambda m, x: x * x)


def swap_dx(m: Any, g: Any, y: Any, x: Any) -> Any:
    return m.getitem(g, (slice(None), [1, 0]))


def program() -> Any:
    return tb.compile(square)(data()) and tb.compile(square).program(data())


def saved_model(name: str = "model.safetensors") -> str:
    training.save_model(linear(), name)
    return name


def saved_program(name: str = "program.zip") -> str:
    replay.save(program(), name)
    return name


def csv_file() -> str:
    with open("table.csv", "w", encoding="utf-8") as file:
        file.write("a,b\n1,2\n3,4\n")
    return "table.csv"


def npz_file() -> str:
    np.savez("data.npz", x=data(), y=np.arange(4))
    return "data.npz"


def text_file() -> str:
    with open("text.txt", "w", encoding="utf-8") as file:
        file.write("hello hello hello")
    return "text.txt"


def mnist_folder() -> str:
    return "."  # holds no such files: nothing but errors can come


def squares(name: str) -> dict[str, Any]:
    return {"f": square, **({"argnums": 0} if name in ARGNUMS else {})}


ARGNUMS = {"grad", "hessian", "jacobian", "value_and_grad"}


def differentiated(make: Any, **options: Any) -> Any:
    """The function that a transformation makes, applied at once: `tb.grad(f, ...)(x)`."""

    def apply(*args: Any, **kwargs: Any) -> Any:
        return make(*args, **kwargs)(matrix())

    apply.__signature__ = inspect.signature(make)  # type: ignore[attr-defined]
    return apply


def of_class(kind: Any) -> Any:
    return INSTANCES[kind]()


INSTANCES: dict[Any, Callable[[], Any]] = {
    tb.Tensor: matrix,
    tb.Value: lambda: tb.Value(0.5, "x"),
    tb.Values: values,
    tb.Compiled: lambda: tb.compile(lambda x: x * x),
    tb.Program: program,
    tb.Node: matrix,
    nn.Module: linear,
    nn.Linear: linear,
    nn.MLP: lambda: nn.MLP([3, 2, 2], rng=0),
    nn.Sequential: lambda: nn.Sequential(linear(), "tanh"),
    nn.RNNCell: lambda: nn.RNNCell(3, 2, rng=0),
    nn.GRUCell: lambda: nn.GRUCell(3, 2, rng=0),
    nn.LSTMCell: lambda: nn.LSTMCell(3, 2, rng=0),
    nn.RNN: lambda: nn.RNN(3, 2, rng=0),
    nn.GRU: lambda: nn.GRU(3, 2, rng=0),
    nn.LSTM: lambda: nn.LSTM(3, 2, rng=0),
    nn.CharRNN: lambda: nn.CharRNN(3, 2, rng=0),
    nn.Dropout: lambda: nn.Dropout(0.5, rng=0),
    nn.Embedding: lambda: nn.Embedding(5, 2, rng=0),
    nn.PositionalEncoding: lambda: nn.PositionalEncoding(6, 3),
    nn.LayerNorm: lambda: nn.LayerNorm(3),
    nn.MultiHeadAttention: lambda: nn.MultiHeadAttention(4, 2, rng=0),
    nn.TransformerBlock: lambda: nn.TransformerBlock(4, 2, 4, rng=0),
    optim.Optimizer: sgd,
    optim.LRScheduler: lambda: optim.StepLR(sgd(), 2),
    optim.StepLR: lambda: optim.StepLR(sgd(), 2),
    optim.LinearLR: lambda: optim.LinearLR(sgd()),
    optim.CosineAnnealingLR: lambda: optim.CosineAnnealingLR(sgd(), 3),
    optim.ChainedScheduler: lambda: optim.ChainedScheduler([optim.StepLR(sgd(), 2)]),
    optim.SequentialLR: lambda: _sequential(),
    training.EarlyStopping: lambda: training.EarlyStopping(2),
    explain.Comparison: lambda: explain.compare(loss(), {"W1": np.zeros((3, 2))}),
    explain.Deltas: lambda: explain.deltas(total()),
    explain.Derivation: lambda: explain.derive(loss()),
    explain.Jacobians: lambda: explain.jacobians(recurrent()[0]),
    explain.ThroughTime: lambda: explain.through_time(*recurrent()[1:]),
    explain.Cost: lambda: explain.cost(square, data(), times=False),
    explain.Growth: lambda: explain.growth(lambda n: (square, np.ones(n)), [2, 4]),
    explain.Paths: lambda: explain.paths(*_scalar()),
    explain.Why: lambda: explain.why(*_scalar()),
    explain.Whys: lambda: explain.why(loss()),
    datasets.Text: lambda: datasets.encode("hello hello"),
    visualize.Picture: lambda: visualize.draw(_scalar()[0]),
    visualize.Player: lambda: visualize.play(_scalar()[0]),
}


def _scalar() -> tuple[Any, Any]:
    x = tb.Value(0.5, "x")
    return x * x + x, x


def _sequential() -> Any:
    o = sgd()
    return optim.SequentialLR(o, [optim.StepLR(o, 2), optim.StepLR(o, 3)], [2])


def _xs() -> np.ndarray:
    return data().reshape(2, 2, 3)


SIZES = {"inputs": 3, "hidden": 2, "rng": 0}
LAYER = {**SIZES, "recurrent": nn.init.xavier, "dtype": np.float64}
OUTPUTS = {"a": tb.Tensor(data()), "y": data(), "reduction": "mean", "weight": None}
STEP = {"x": data()}


def good() -> dict[str, Callable[[], dict[str, Any]]]:
    """Good arguments of every public callable, without `self`."""
    return {**_core(), **_nn(), **_rest()}


def _reduced() -> dict[str, Any]:
    return {"x": matrix(), "axis": 0, "keepdims": False}


def _core() -> dict[str, Callable[[], dict[str, Any]]]:
    table: dict[str, Callable[[], dict[str, Any]]] = {}
    for name in ("sum", "mean", "max", "min", "prod", "norm", "logsumexp", "var"):
        extra = {"ddof": 0} if name == "var" else {}
        table[f"tb.{name}"] = lambda extra=extra: {**_reduced(), **extra}
        for kind in ("Tensor", "Values") if name not in ("norm", "logsumexp") else ():
            table[f"{kind}.{name}"] = lambda extra=extra: {"axis": 0, "keepdims": False, **extra}
    for name in ("softmax", "log_softmax", "cumsum", "flip"):
        table[f"tb.{name}"] = lambda: {"x": matrix(), "axis": 0}
    for name in ("hvp", "jvp"):
        table[f"tb.{name}"] = lambda: {
            "f": square,
            "primals": data(),
            "tangents": data(),
            "create_graph": None,
        }
    for name in ("grad", "hessian"):
        table[f"tb.{name}"] = lambda: {"f": square, "argnums": 0, "create_graph": None}
    for kind in ("Tensor", "Value", "Values"):
        one = {"Value": 0.5}.get(kind, data())
        table[f"{kind}.backward"] = lambda one=one: {"gradient": one, "leaves_only": False}
        table[f"{kind}.data"] = lambda one=one: {"data": one}
        table[f"{kind}.grad"] = lambda one=one: {"grad": one}
    return table | {
        "tb.Tensor": lambda: {
            "data": data(), "label": "x", "requires_grad": True, "dtype": np.float64
        },
        "tb.Value": lambda: {"data": 0.5, "label": "x", "requires_grad": True},
        "tb.values": lambda: {"data": data(), "label": "x", "requires_grad": True},
        "Values.cumsum": lambda: {"axis": 0},
        "Values.item": lambda: {"index": (0, 0)},
        "Tensor.astype": lambda: {"dtype": np.float32},
        "Tensor.reshape": lambda: {"shape": (3, 4)},
        "Tensor.transpose": lambda: {"axes": (1, 0)},
        "Node.label": lambda: {"text": "z"},
        "Node.register_hook": lambda: {"hook": lambda g: None},
        "tb.astype": lambda: {"x": matrix(), "dtype": np.float32},
        "tb.broadcast_to": lambda: {"x": matrix(), "shape": (2, 4, 3)},
        "tb.concatenate": lambda: {"operands": [matrix(), matrix()], "axis": 0},
        "tb.stack": lambda: {"operands": [matrix(), matrix()], "axis": 0},
        "tb.einsum": lambda: {"subscripts": "ij,kj->ik", "operands": (matrix(), matrix())},
        "tb.expand_dims": lambda: {"x": matrix(), "axis": 0},
        "tb.getitem": lambda: {"x": matrix(), "index": 0},
        "tb.linear": lambda: {"x": matrix(), "W": tb.Tensor(np.ones((3, 2))),
                              "b": tb.Tensor(np.ones(2))},
        "tb.matmul": lambda: {"x": matrix(), "y": tb.Tensor(np.ones((3, 2)))},
        "tb.one_hot": lambda: {"indices": [0, 1], "classes": 3, "dtype": None},
        "tb.pad": lambda: {"x": matrix(), "pad_width": 1, "constant_values": 0.0},
        "tb.reshape": lambda: {"x": matrix(), "shape": (3, 4)},
        "tb.split": lambda: {"x": matrix(), "sections": 2, "axis": 0},
        "tb.squeeze": lambda: {"x": tb.Tensor(np.ones((1, 3))), "axis": 0},
        "tb.take": lambda: {"x": matrix(), "indices": [0, 1], "axis": 0},
        "tb.gather": lambda: {"x": matrix(), "indices": np.zeros((4, 1), int), "axis": 1},
        "tb.transpose": lambda: {"x": matrix(), "axes": (1, 0)},
        "tb.tril": lambda: {"x": matrix(), "k": 0},
        "tb.triu": lambda: {"x": matrix(), "k": 0},
        "tb.derivative": lambda: {"f": lambda x: x * x, "n": 1, "create_graph": None},
        "tb.jacobian": lambda: {"f": square, "argnums": 0, "mode": "auto", "create_graph": None},
        "tb.taylor": lambda: {"f": lambda x: x * x, "x": 0.5, "order": 2, "create_graph": None},
        "tb.value_and_grad": lambda: {"f": square, "argnums": 0, "has_aux": False,
                                      "create_graph": None},
        "tb.vjp": lambda: {"f": square, "primals": (data(),), "create_graph": None},
        "tb.check_gradients": lambda: {"f": square, "inputs": [matrix()],
            "method": "central differences", "rtol": None, "atol": None,
            "raise_on_failure": False},
        "tb.checkpoint": lambda: {"function": square, "args": (matrix(),), "kwargs": {}},
        "tb.check_rule": lambda: {"rule": tb.tanh, "examples": (), "seed": 0},
        "tb.elementwise": lambda: {"dx": lambda m, x, y: 2.0 * x, "more": (),
            "domain": (-3.0, 3.0), "kinks": "", "analytic": False, "textbook": (), "check": True},
        "tb.structural": lambda: {"pullbacks": (swap_dx,), "takes_sequence": False,
            "analytic": False, "forward": "pullback", "check": ()},
        "tb.detect_anomaly": lambda: {"infinite": True},
        "tb.sweep": lambda: {"root": square(matrix()), "gradient": 1.0},
        "tb.topological_order": lambda: {"root": square(matrix())},
        "tb.scope": lambda: {"name": "layer", "index": 1},
        "tb.compile": lambda: {"function": square, "argnums": 0, "on_branch": "record",
                               "optimize": True, "engine": "numpy"},
        "Compiled.backward": lambda: {"args": (tb.Tensor(0.5),)},
        "Compiled.value_and_grad": lambda: {"args": (0.5,)},
        "Compiled.program": lambda: {"args": (tb.Tensor(0.5),), "gradient": False},
        "Compiled.batch": lambda: {"args": (np.array([0.5, 1.5]),), "rows": [0],
                                      "gradient": None, "threads": 1},
        "Program.drawn": lambda: {"generators": ()},
        "Program.operands_of": lambda: {"i": 1},
        "Program.rule": lambda: {"i": 1},
        "replay.runner": lambda: {"program": program(), "engine": "numpy"},
        "replay.save": lambda: {"program": program(), "path": "saved.zip"},
        "replay.load": lambda: {"path": saved_program(), "operations": ()},
    }  # fmt: skip


def _nn() -> dict[str, Callable[[], dict[str, Any]]]:
    def qkv() -> dict[str, Any]:
        return {"q": matrix(), "k": matrix(), "mask": None, "causal": False}

    def loss_of(first: str, second: str, **more: Any) -> Callable[[], dict[str, Any]]:
        a = tb.Tensor(np.abs(data()) / 2 + 0.1)
        return lambda: {first: a, second: np.abs(data()) / 2, "reduction": "mean",
                        **more, "weight": None}  # fmt: skip

    def kl() -> dict[str, Any]:
        return {"log_q": tb.Tensor(np.log(np.full((4, 2), 0.5))), "p": labels(),
                "reduction": "mean", "weight": None}  # fmt: skip

    def ce() -> dict[str, Any]:
        return {"o": tb.Tensor(labels()), "y": labels(), "reduction": "mean", "weight": None,
                "label_smoothing": 0.0, "ignore_index": None}  # fmt: skip

    def start(cell: Any) -> Callable[[], dict[str, Any]]:
        return lambda: {"x": data(), "state" if cell is nn.LSTMCell else "h":
                        of_class(cell).initial_state(4)}  # fmt: skip

    layers = {"RNN", "GRU", "LSTM"}
    table: dict[str, Callable[[], dict[str, Any]]] = {}
    for name in (*layers, "RNNCell", "GRUCell", "LSTMCell"):
        extra: dict[str, Any] = {"forget_bias": 1.0} if "LSTM" in name else {}
        extra |= {"activation": "tanh"} if "RNN" in name else {}
        extra |= {"options": {}} if name in layers else {}
        table[f"nn.{name}"] = lambda extra=extra: {**LAYER, **extra}
        if name not in layers:
            table[f"{name}.forward"] = start(getattr(nn, name))
            table[f"{name}.initial_state"] = lambda: {"batch": (4,)}
    for name in ("Linear", "MLP", "Sequential", "Dropout", "PositionalEncoding", "LayerNorm"):
        table[f"{name}.forward"] = lambda: {"x": data()}
    table["Dropout.forward"] = lambda: {"x": matrix()}
    for name in ("zeros", "xavier", "he", "orthogonal"):
        table[f"init.{name}"] = lambda: {"rng": np.random.default_rng(0), "shape": (3, 2)}
    return table | {
        "RecurrentLayer.forward": lambda: {"xs": _xs(), "state": None, "lengths": [2, 1]},
        "init.generator": lambda: {"rng": 0},
        "nn.Linear": lambda: {"inputs": 3, "outputs": 2, "rng": 0, "initializer": nn.init.xavier,
                              "bias": True, "dtype": np.float64},
        "nn.MLP": lambda: {"sizes": [3, 2, 2], "activations": "tanh", "rng": 0,
                           "initializer": None, "dtype": np.float64},
        "nn.Sequential": lambda: {"layers": (linear(), "tanh")},
        "nn.CharRNN": lambda: {"symbols": 3, "hidden": 2, "rng": 0, "cell": nn.RNNCell,
                               "recurrent": nn.init.orthogonal, "dtype": np.float64},
        "CharRNN.forward": lambda: {"xs": np.eye(3)[[0, 1]][:, None],
                                       "state": np.zeros((1, 2))},
        "nn.Dropout": lambda: {"p": 0.5, "rng": 0},
        "nn.Embedding": lambda: {"symbols": 5, "features": 2, "rng": 0, "dtype": np.float64},
        "Embedding.forward": lambda: {"x": np.array([0, 1])},
        "nn.LayerNorm": lambda: {"features": 3, "eps": 1e-5, "dtype": np.float64},
        "LayerNorm.forward": lambda: {"x": matrix()},
        "nn.PositionalEncoding": lambda: {"steps": 6, "features": 3, "learned": True, "rng": 0,
                                          "dtype": np.float64},
        "PositionalEncoding.forward": lambda: {"x": matrix()},
        "nn.MultiHeadAttention": lambda: {"features": 4, "heads": 2, "rng": 0, "dropout": 0.0,
                                          "dtype": np.float64},
        "MultiHeadAttention.forward": lambda: {
            **{name: np.ones((2, 1, 4)) for name in ("query", "key", "value")},
            "mask": None, "causal": False, "lengths": None, "need_weights": False},
        "nn.TransformerBlock": lambda: {"features": 4, "heads": 2, "hidden": 4, "rng": 0,
            "norm_first": False, "activation": "relu", "dropout": 0.0, "eps": 1e-5,
            "dtype": np.float64},
        "TransformerBlock.forward": lambda: {"x": np.ones((2, 1, 4)), "mask": None,
                                                "causal": False, "lengths": None},
        "Module.train": lambda: {"mode": True},
        "Module.load_state_dict": lambda: {"state": linear().state_dict()},
        "nn.absolute_error": loss_of("a", "y"),
        "nn.squared_error": loss_of("a", "y"),
        "nn.huber": loss_of("a", "y", delta=1.0),
        "nn.binary_cross_entropy": loss_of("h", "y"),
        "nn.binary_cross_entropy_with_logits": loss_of("z", "y"),
        "nn.kl_divergence": kl,
        "nn.cross_entropy": ce,
        "nn.attention_weights": qkv,
        "nn.scaled_dot_product_attention": lambda: {**qkv(), "v": matrix()},
        "nn.causal_mask": lambda: {"steps": 3},
        "nn.padding_mask": lambda: {"lengths": [1, 2], "steps": 2, "batch": (2,)},
        "nn.pad_sequences": lambda: {"sequences": [data(), data()[:2]], "value": 0.0},
        "nn.zero_padding": lambda: {"x": tb.Tensor(_xs()), "lengths": [1, 2]},
        "nn.positional_encoding": lambda: {"steps": 3, "features": 4},
        "nn.load_torch_state_dict": lambda: {"module": linear(),
                                             "state": nn.torch_state_dict(linear())},
        "nn.torch_state_dict": lambda: {"module": linear()},
        "nn.named": lambda: {"x": matrix(), "name": "z"},
        "nn.unroll": lambda: {"cell": nn.RNNCell(3, 2, rng=0), "xs": _xs(),
            "state": np.zeros((2, 2)), "start": 1, "name": "h", "reverse": False},
        "nn.weight_decay": lambda: {"parameters": [matrix()], "strength": 0.1},
    }  # fmt: skip


def _rest() -> dict[str, Callable[[], dict[str, Any]]]:
    def scheduled(**more: Any) -> Callable[[], dict[str, Any]]:
        return lambda: {"optimizer": sgd(), **more}

    def sequential() -> dict[str, Any]:
        o = sgd()
        return {"optimizer": o, "schedulers": [optim.StepLR(o, 2), optim.StepLR(o, 3)],
                "milestones": [2]}  # fmt: skip

    def fitted() -> dict[str, Any]:
        model = linear()
        o = optim.SGD(model.parameters(), 0.1)
        return {"model": model, "data": (data(), labels()), "loss": nn.squared_error,
                "optimizer": o, "epochs": 1, "batch_size": 2, "rng": 0,
                "validation": (data(), labels()), "metrics": (), "early_stopping": None,
                "scheduler": optim.StepLR(o, 2), "scheduler_per": "epoch", "clip_norm": 1.0,
                "callbacks": (), "checkpoint": None, "checkpoint_every": None,
                "resume": False, "compiled": False, "progress": False}  # fmt: skip

    def truncated() -> dict[str, Any]:
        w = tb.Value(0.5)
        return {"cell": lambda x, h: tb.tanh(w * h + x), "sequence": [1.0, 0.0, 1.0, 0.0],
                "k1": 2, "k2": 2, "targets": [0.5] * 4, "loss": nn.squared_error,
                "state": 0.0}  # fmt: skip

    def named_loss() -> dict[str, Any]:
        return {"loss": loss()}

    def contributed() -> dict[str, Any]:
        _, losses, W = recurrent()
        return {"loss": losses[-1], "parameter": W, "batch": None}

    def through() -> dict[str, Any]:
        _, losses, W = recurrent()
        return {"losses": losses, "parameter": W, "times": [1, 2, 3, 4]}

    def scalar(**more: Any) -> Callable[[], dict[str, Any]]:
        def arguments() -> dict[str, Any]:
            root, x = _scalar()
            return {"loss": root, "node": x, **more}

        return arguments

    settings = {"weight_decay": 0.0}
    table: dict[str, Callable[[], dict[str, Any]]] = {}
    for name, x in vars(mistakes).items():
        if f"mistakes.{name}" in HELPERS or not _is_mistake(x):
            continue
        more = {p.name: p.default for p in inspect.signature(x).parameters.values()
                if p.kind is p.KEYWORD_ONLY}  # fmt: skip
        table[f"mistakes.{name}"] = lambda more=more, name=name: {
            "loss": mistaken(name),
            "parameters": None,
            **more,
        }
    for name in ("StepLR", "LinearLR", "CosineAnnealingLR", "ChainedScheduler", "SequentialLR"):
        table[f"{name}.at"] = lambda: {"t": 1, "lr": 0.1}
    table["Table.column"] = lambda: {"name": "operations"}
    return table | {
        "optim.SGD": lambda: {"parameters": [matrix()], "lr": 0.1, "momentum": 0.9,
                              "dampening": 0.0, **settings, "nesterov": False},
        "optim.Adam": lambda: {"parameters": [matrix()], "lr": 0.1, "betas": (0.9, 0.99),
                               "eps": 1e-8, **settings},
        "optim.AdamW": lambda: {"parameters": [matrix()], "lr": 0.1, "betas": (0.9, 0.99),
                                "eps": 1e-8, **settings},
        "optim.RMSprop": lambda: {"parameters": [matrix()], "lr": 0.1, "alpha": 0.9, "eps": 1e-8,
                                  **settings, "momentum": 0.0, "centered": False},
        "optim.Optimizer": lambda: {"parameters": [matrix()], "settings": {}},
        "Optimizer.add_param_group": lambda: {"group": {"params": [tb.Tensor([1.0])]}},
        "Optimizer.load_state_dict": lambda: {"state": sgd().state_dict()},
        "Optimizer.lr": lambda: {"lr": 0.1},
        "LRScheduler.load_state_dict": lambda: {
            "state": optim.StepLR(sgd(), 2).state_dict()},
                "optim.StepLR": scheduled(step_size=2, gamma=0.5),
        "optim.LinearLR": scheduled(start_factor=0.5, end_factor=1.0, total_iters=5),
        "optim.CosineAnnealingLR": scheduled(T_max=5, eta_min=0.0),
        "optim.ChainedScheduler": lambda: {"schedulers": [optim.StepLR(sgd(), 2)],
                                           "optimizer": None},
        "optim.SequentialLR": sequential,
        "optim.clip_grad_norm": lambda: {"parameters": [graded()], "max_norm": 1.0},
        "optim.clip_grad_value": lambda: {"parameters": [graded()], "clip_value": 1.0},
        "training.fit": fitted,
        "training.EarlyStopping": lambda: {"patience": 2, "monitor": "val_loss",
                                           "min_delta": 0.0, "mode": "min", "restore_best": True},
        "EarlyStopping.improves": lambda: {"number": 0.5, "best": 1.0},
        "training.accuracy": lambda: {"outputs": data(), "labels": [0, 1, 2, 0]},
        "tb.load_model": lambda: {"model": linear(), "path": saved_model()},
        "tb.save_model": lambda: {"model": linear(), "path": "saved.safetensors"},
        "training.minibatches": lambda: {"samples": 4, "size": 2,
                                         "rng": np.random.default_rng(0)},
        "training.progress": lambda: {"items": [1, 2], "description": "x", "total": 2,
                                      "initial": 0},
        "training.streams": lambda: {"symbols": np.arange(20), "batch": 2, "steps": 3},
        "training.truncated_bptt": truncated,
        "explain.compare": lambda: {"loss": loss(), "gradients": {"W1": np.zeros((3, 2))},
                                    "deltas": None, "model": None, "learning_rate": None},
        "explain.contributions": contributed,
        "explain.cost": lambda: {"function": square, "inputs": (data(),), "argnums": 0,
                                 "times": False},
        "explain.growth": lambda: {"make": lambda n: (square, np.ones(n)), "sizes": [2, 4],
                                   "argnums": 0, "times": False},
        "explain.deltas": lambda: {"loss": loss(), "gradient": None, "unnamed": False},
        "Deltas.over_time": lambda: {"symbol": "h", "layer": ""},
        "Derivation.evaluate": lambda: {
            "formula": explain.derive(loss()).equations[0].lhs, "t": None, "indices": {}},
        "Derivation.write": lambda: {
            "formula": explain.derive(loss()).equations[0].lhs},
        "explain.derive": lambda: {"loss": loss(), "with_respect_to": None, "symbols": None,
            "convention": "columns", "indices": None, "numbers": False},
        "explain.jacobians": lambda: {"states": recurrent()[0], "batch": None},
        "Jacobians.block": lambda: {"t": 2, "k": 1, "of": "h", "by": "h"},
        "Jacobians.singular_values": lambda: {"t": 2, "k": 1},
        "Jacobians.norms": lambda: {"ord": "fro"},
        "Jacobians.table": lambda: {"t": 3},
        "explain.paths": scalar(top=10, full=None),
        "explain.through_time": through,
        "ThroughTime.sum": lambda: {"mask": np.ones((4, 4), bool)},
        "ThroughTime.sliding": lambda: {"k": 2},
        "ThroughTime.blocks": lambda: {"k": 2},
        "ThroughTime.k1k2": lambda: {"k1": 2, "k2": 2},
        "explain.why": scalar(tiny=1e-6, huge=1e6),
        "visualize.draw": lambda: {"node": _scalar()[0], "inputs": None, "layout": "auto",
            "collapse": None, "fold": None, "show": ("data",), "shared": "once",
            "heat_maps": False, "strip": False, "highlight": None, "direction": "LR",
            "max_nodes": 300, "theme": "light"},
        "visualize.play": lambda: {"node": _scalar()[0], "path": None, "title": "t",
                                   "max_nodes": 300, "theme": "light"},
        "Picture.save": lambda: {"path": "picture.svg"},
        "Player.save": lambda: {"path": "player.html"},
        "datasets.adding": lambda: {"samples": 2, "steps": 4, "rng": 0},
        "datasets.binary_addition": lambda: {"samples": 2, "bits": 3, "rng": 0},
        "datasets.csv": lambda: {"path": csv_file(), "target": -1, "classes": False,
                                 "delimiter": ",", "header": None},
        "datasets.encode": lambda: {"text": "hello hello", "most": 256},
        "datasets.mnist": lambda: {"folder": mnist_folder(), "dtype": np.float64},
        "datasets.moons": lambda: {"samples": 4, "noise": 0.1, "rng": 0},
        "datasets.npz": lambda: {"path": npz_file(), "x": "x", "y": "y"},
        "datasets.reber": lambda: {"samples": 2, "embedded": False, "rng": 0},
        "datasets.sequence_copy": lambda: {"samples": 2, "length": 3, "delay": 4, "symbols": 3,
                                           "rng": 0},
        "datasets.spirals": lambda: {"samples": 4, "arms": 2, "turns": 1.0, "noise": 0.1,
                                     "rng": 0},
        "datasets.text": lambda: {"path": text_file(), "least": 2},
        "Text.decode": lambda: {"codes": [0, 1]},
        "datasets.train_test_split": lambda: {"data": (data(), np.arange(4)), "test_size": 0.5,
                                              "rng": 0, "stratify": None},
    }  # fmt: skip


BINARY = ("add", "sub", "mul", "truediv", "pow", "matmul", "lt", "le", "gt", "ge", "getitem")


def calls() -> dict[str, Callable[[], Call]]:
    """Every public callable by name, with good arguments; made anew at each call."""
    table = good()
    found: dict[str, Callable[[], Call]] = {}
    for name, x, kind in public():
        if name in RESULTS | CALLED_BY_THE_ENGINE | HELPERS:
            continue
        if isinstance(x, Rule):
            for suffix, make in (("", matrix), (" of Values", lambda: tb.Value(0.5))):
                found[name + suffix] = lambda x=x, make=make: _of_rule(x, make)
        else:
            arguments = table.pop(name)
            found[name] = lambda x=x, kind=kind, arguments=arguments: _bound(x, kind, arguments())
    assert not table, f"no such public callables: {sorted(table)}"
    for kind in (tb.Tensor, tb.Value, tb.Values):
        for op in BINARY:
            if kind is tb.Value and op in ("matmul", "getitem"):
                continue
            found[f"tb.{kind.__name__} {op}"] = lambda kind=kind, op=op: _operator(kind, op)
    return found


def _of_rule(rule: Rule, make: Callable[[], Any]) -> Call:
    names = list(inspect.signature(rule).parameters)
    return Call(rule, {name: make() for name in names})


def _bound(x: Any, kind: Any, arguments: dict[str, Any]) -> Call:
    if x in TRANSFORMS:
        return Call(differentiated(x), arguments)
    if kind is None:
        return Call(x, arguments)
    of = INSTANCES[kind]()
    first = next(iter(inspect.signature(x).parameters))
    return Call(x, {first: of, **arguments})


TRANSFORMS = (tb.grad, tb.hessian, tb.jacobian, tb.value_and_grad)


def _operator(kind: Any, op: str) -> Call:
    def apply(self: Any, other: Any) -> Any:
        return getattr(operator, op)(self, other)

    other: Any = {"matmul": np.ones((3, 2)), "getitem": 0}.get(op, 0.5)
    return Call(apply, {"self": INSTANCES[kind](), "other": other})


def parameters_of(call: Call) -> list[str]:
    """What is to be tried with bad values: all but `self`."""
    kinds = inspect.signature(call.function).parameters
    names = [
        name for name in call.arguments if kinds[name].kind is not inspect.Parameter.VAR_KEYWORD
    ]
    first = next(iter(inspect.signature(call.function).parameters), "")
    is_method = names and names[0] == first and first in ("self", "x") and "self" in first
    return names[1:] if is_method else names


def _is_mistake(x: Any) -> bool:
    mine = inspect.isfunction(x) and x.__module__ == mistakes.__name__
    return mine and not x.__name__.startswith("_")


__all__ = ["ArrayRule", "calls", "parameters_of"]
