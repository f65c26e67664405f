"""The optimisers against PyTorch's step for step, clipping, and what is refused."""

import math

import numpy as np
import pytest

import tinygrad_bp as tb
from tinygrad_bp import optim

SHAPES = [(3, 2), (2,), (1, 1), ()]


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="PyTorch is the oracle")


def tensors(arrays):
    return [tb.Tensor(array) for array in arrays]


def arrays_of_values(arrays):
    return [tb.values(array) for array in arrays]


def single_values(arrays):
    return [tb.Value(number) for array in arrays for number in array.flat]


KINDS = [tensors, arrays_of_values, single_values]

# Ours, and PyTorch's of the same name with the same arguments.
OPTIMISERS = {
    "sgd": ("SGD", {}),
    "momentum": ("SGD", {"momentum": 0.9}),
    "adam": ("Adam", {}),
    "adam-settings": ("Adam", {"betas": (0.5, 0.75), "eps": 1e-3}),
    "adam-forgetful": ("Adam", {"betas": (0.0, 0.0)}),
    "adam-decay": ("Adam", {"weight_decay": 0.1}),
    "adamw": ("AdamW", {}),
    "adamw-settings": ("AdamW", {"betas": (0.8, 0.9), "eps": 1e-4, "weight_decay": 0.3}),
    "sgd-decay": ("SGD", {"weight_decay": 0.1}),
    "dampening": ("SGD", {"momentum": 0.8, "dampening": 0.3, "weight_decay": 0.01}),
    "nesterov": ("SGD", {"momentum": 0.9, "nesterov": True}),
    "nesterov-decay": ("SGD", {"momentum": 0.5, "nesterov": True, "weight_decay": 0.1}),
    "rmsprop": ("RMSprop", {}),
    "rmsprop-settings": ("RMSprop", {"alpha": 0.7, "eps": 1e-4, "weight_decay": 0.1}),
    "rmsprop-momentum": ("RMSprop", {"momentum": 0.9}),
    "rmsprop-centered": ("RMSprop", {"centered": True}),
    "rmsprop-all": (
        "RMSprop",
        {"alpha": 0.5, "momentum": 0.3, "centered": True, "weight_decay": 0.2, "eps": 1e-3},
    ),
}


def start(seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape) for shape in SHAPES]


def flat(parameters):
    return np.concatenate([np.ravel(p.data) for p in parameters])


def give(parameters, kind, gradients):
    """Set the gradients; None for a parameter that has none."""
    if kind is single_values:
        shaped = zip(gradients, SHAPES, strict=True)
        gradients = [
            None if g is None else float(number)
            for g, shape in shaped
            for number in np.ravel(np.zeros(shape) if g is None else g)
        ]
    for p, g in zip(parameters, gradients, strict=True):
        p.grad = g.item() if isinstance(p, tb.Value) and isinstance(g, np.ndarray) else g


def random_gradients(rng):
    """Of very different sizes, and now and then none at all."""
    return [
        None if rng.random() < 0.2 else rng.normal(size=shape) * 10.0 ** rng.integers(-6, 4)
        for shape in SHAPES
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", OPTIMISERS)
def test_fifty_steps_equal_torchs(torch, kind, name):
    which, settings = OPTIMISERS[name]
    ours, theirs = kind(start()), [torch.tensor(array) for array in start()]
    optimiser = getattr(optim, which)(ours, lr=0.05, **settings)
    oracle = getattr(torch.optim, which)(theirs, lr=0.05, **settings)
    rng = np.random.default_rng(1)
    for step in range(50):
        if step % 10 == 9:
            optimiser.lr = oracle.param_groups[0]["lr"] = 0.05 / step
        gradients = random_gradients(rng)
        give(ours, kind, gradients)
        for p, g in zip(theirs, gradients, strict=True):
            p.grad = None if g is None else torch.tensor(g)
        optimiser.step()
        oracle.step()
        # Relative to the largest number met, since a step can cancel a parameter.
        expected = flat([p.numpy() for p in theirs])
        atol = 1e-12 * max(1.0, np.abs(expected).max())
        np.testing.assert_allclose(flat(ours), expected, rtol=1e-12, atol=atol)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_groups_with_settings_of_their_own_equal_torchs(torch, name):
    which, settings = OPTIMISERS[name]
    ours, theirs = tensors(start()), [torch.tensor(array) for array in start()]

    def groups(p):
        return [{"params": p[:2], "lr": 0.2}, {"params": p[2:], "weight_decay": 0.4}]

    optimiser = getattr(optim, which)(groups(ours), lr=0.05, **settings)
    oracle = getattr(torch.optim, which)(groups(theirs), lr=0.05, **settings)
    rng = np.random.default_rng(4)
    for _ in range(20):
        gradients = [rng.normal(size=shape) for shape in SHAPES]
        give(ours, tensors, gradients)
        for p, g in zip(theirs, gradients, strict=True):
            p.grad = torch.tensor(g)
        optimiser.step()
        oracle.step()
    expected = flat([p.numpy() for p in theirs])
    np.testing.assert_allclose(flat(ours), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", OPTIMISERS)
def test_saved_and_restored_it_goes_on_bit_for_bit(kind, name):
    which, settings = OPTIMISERS[name]

    def run(p, optimiser, steps):
        rng = np.random.default_rng(steps.start)
        for _ in steps:
            give(p, kind, random_gradients(rng))
            optimiser.step()

    p = kind(start())
    optimiser = getattr(optim, which)(p, lr=0.05, **settings)
    run(p, optimiser, range(5))
    optimiser.lr = 0.03
    saved, numbers = optimiser.state_dict(), [np.array(q.data) for q in p]
    run(p, optimiser, range(5, 10))
    twins = [
        type(q)(n) if kind is not arrays_of_values else tb.values(n)
        for q, n in zip(p, (float(n) if kind is single_values else n for n in numbers), strict=True)
    ]
    other = getattr(optim, which)(twins, lr=1.0)
    other.load_state_dict(saved)
    assert other.lr == 0.03
    run(twins, other, range(5, 10))
    np.testing.assert_array_equal(flat(twins), flat(p))


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_steps_by_hand(kind):
    p = kind([np.array(1.0)])
    sgd = optim.SGD(p, lr=0.5, momentum=0.5)
    p[0].grad = 1.0
    sgd.step()
    assert flat(p)[0] == 0.5
    p[0].grad = 1.0
    sgd.step()
    assert flat(p)[0] == -0.25  # v = 0.5 · 1 + 1
    adam = optim.Adam(p, lr=0.25, eps=1e-300)
    p[0].grad = 1e-9
    adam.step()
    assert flat(p)[0] == pytest.approx(-0.5, rel=1e-15)  # the first step has the size lr


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", OPTIMISERS)
def test_without_a_gradient_nothing_moves(kind, name):
    which, settings = OPTIMISERS[name]
    p = kind(start())
    getattr(optim, which)(p, lr=0.1, **settings).step()
    np.testing.assert_array_equal(flat(p), flat(kind(start())))


@pytest.mark.parametrize("kind", KINDS)
def test_zero_grad(kind):
    p = kind(start())
    give(p, kind, [np.ones(shape) for shape in SHAPES])
    optim.SGD(p, lr=0.1).zero_grad()
    assert [q.grad for q in p] == [None] * len(p)


def test_a_step_leaves_the_gradient_alone():
    p = tb.Tensor([1.0, 2.0])
    p.grad = [3.0, 4.0]
    for optimiser in (optim.SGD([p], 0.1), optim.SGD([p], 0.1, 0.9), optim.Adam([p])):
        optimiser.step()
        optimiser.step()
    np.testing.assert_array_equal(p.grad, [3.0, 4.0])


def test_momentum_does_not_follow_a_gradient_that_is_written_to():
    p = tb.Tensor([0.0])
    p.grad = [1.0]
    sgd = optim.SGD([p], lr=1.0, momentum=0.5)
    sgd.step()
    p.grad[:] = 100.0
    p.grad = [0.0]
    sgd.step()
    assert p.data[0] == -1.5


@pytest.mark.parametrize("name", OPTIMISERS)
def test_float32_stays_float32(torch, name):
    which, settings = OPTIMISERS[name]
    ours, theirs = tb.Tensor(start()[0], dtype=np.float32), torch.tensor(start()[0]).float()
    optimiser = getattr(optim, which)([ours], lr=0.05, **settings)
    oracle = getattr(torch.optim, which)([theirs], lr=0.05, **settings)
    rng = np.random.default_rng(2)
    for _ in range(20):
        g = rng.normal(size=(3, 2)).astype(np.float32)
        ours.grad, theirs.grad = g, torch.tensor(g)
        optimiser.step()
        oracle.step()
        assert ours.data.dtype == np.float32
        # Twenty steps of float32 roundings (6e-8 each), in another order.
        np.testing.assert_allclose(ours.data, theirs.numpy(), rtol=1e-5, atol=1e-6)
    assert ours.grad.dtype == np.float32


@pytest.mark.parametrize("make", [tb.Tensor, tb.values])
@pytest.mark.parametrize("name", OPTIMISERS)
def test_a_graph_recorded_before_the_step_stays_valid(make, name):
    which, settings = OPTIMISERS[name]
    old = np.array([1.0, -2.0, 3.0])
    p = make(old)
    loss = tb.sum(p * p * p)
    optimiser = getattr(optim, which)([p], lr=0.1, **settings)
    p.grad = np.ones(3)
    optimiser.step()
    p.zero_grad()
    assert not np.any(p.data == old)
    loss.backward()
    np.testing.assert_allclose(p.grad, 3.0 * old**2, rtol=1e-15)
    p.zero_grad()
    new = p.data.copy()
    tb.sum(p * p * p).backward()
    np.testing.assert_allclose(p.grad, 3.0 * new**2, rtol=1e-15)


def test_a_graph_of_a_value_recorded_before_the_step_stays_valid():
    p = tb.Value(2.0)
    loss = p * p
    p.grad = 1.0
    optim.SGD([p], lr=1.0).step()
    assert p.data == 1.0
    p.zero_grad()
    loss.backward()
    assert p.grad == 4.0


def test_an_array_handed_out_before_the_step_is_not_written_to():
    p = tb.Tensor([1.0])
    before = p.data
    p.grad = [1.0]
    optim.SGD([p], lr=0.5).step()
    assert before[0] == 1.0
    assert p.data[0] == 0.5


def test_a_shared_parameter_given_twice_is_refused_or_moves_once():
    p = tb.Tensor([1.0])
    p.grad = [1.0]
    try:
        optim.SGD([p, p], lr=0.25).step()
    except ValueError:
        return
    assert p.data[0] == 0.75


# --- what is refused -----------------------------------------------------------------------------

MAKERS = [optim.SGD, optim.RMSprop, optim.Adam, optim.AdamW]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    "p",
    [
        tb.Tensor([1.0]) * 2.0,
        tb.Value(1.0) * 2.0,
        tb.values([1.0]) * 2.0,
        tb.Tensor([1.0], requires_grad=False),
        tb.Value(1.0, requires_grad=False),
        tb.values([1.0], requires_grad=False),
        np.ones(1),
        1.0,
        "W",
    ],
    ids=lambda p: type(p).__name__,
)
def test_only_tracked_leaves_are_parameters(make, p):
    with pytest.raises(TypeError, match=r"parameters\[1\]: expected a tracked leaf, got"):
        make([tb.Value(1.0), p], lr=0.1)


@pytest.mark.parametrize("make", MAKERS)
def test_there_must_be_parameters(make):
    with pytest.raises(ValueError, match="parameters: expected at least one, got none"):
        make([], lr=0.1)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("lr", [0.0, -0.1, math.nan])
def test_the_learning_rate_is_positive(make, lr):
    with pytest.raises(ValueError, match="lr: expected a positive"):
        make([tb.Value(1.0)], lr=lr)


@pytest.mark.parametrize("momentum", [-0.1, 1.0, 2.0, math.nan])
def test_momentum_is_a_fraction(momentum):
    with pytest.raises(ValueError, match=r"momentum: expected a number in \[0, 1\)"):
        optim.SGD([tb.Value(1.0)], lr=0.1, momentum=momentum)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"betas": (1.0, 0.9)}, r"betas\[0\]"),
        ({"betas": (0.9, -0.1)}, r"betas\[1\]"),
        ({"eps": 0.0}, "eps: expected a positive number"),
    ],
)
def test_adams_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        optim.Adam([tb.Value(1.0)], **settings)


def test_unknown_settings_and_mixed_groups_are_refused():
    p, q = tb.Tensor([1.0]), tb.Tensor([2.0])
    with pytest.raises(ValueError, match="SGD has no setting 'learning_rate'"):
        optim.SGD([{"params": [p], "learning_rate": 1.0}], lr=0.1)
    with pytest.raises(TypeError, match="expected a dict with 'params', got"):
        optim.SGD([{"params": [p]}, q], lr=0.1)
    with pytest.raises(ValueError, match="given twice"):
        optim.SGD([{"params": [p]}, {"params": [q, p]}], lr=0.1)
    with pytest.raises(ValueError, match="nesterov: expected momentum"):
        optim.SGD([p], lr=0.1, nesterov=True)
    with pytest.raises(ValueError, match="nesterov: expected momentum"):
        optim.SGD([{"params": p, "momentum": 0.9, "dampening": 0.5, "nesterov": True}], lr=0.1)
    with pytest.raises(ValueError, match="weight_decay: expected"):
        optim.AdamW([p], weight_decay=-1.0)


def test_the_rate_of_all_groups():
    p, q = tb.Tensor([1.0]), tb.Tensor([2.0])
    sgd = optim.SGD([{"params": p, "lr": 0.5}, {"params": q}], lr=0.1)
    with pytest.raises(ValueError, match=r"lr: the groups have different ones, \[0.1, 0.5\]"):
        print(sgd.lr)
    sgd.lr = 0.25
    assert [group["lr"] for group in sgd.param_groups] == [0.25, 0.25]
    with pytest.raises(ValueError, match="lr: expected a number that is not negative, got nan"):
        sgd.lr = math.nan


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("state"), "expected a dict of 'state' and 'param_groups'"),
        (lambda s: s["param_groups"].pop(), "other numbers of parameters"),
        (lambda s: s["param_groups"][0].pop("eps"), "group 0 has no 'eps'"),
        (lambda s: s["param_groups"][0].update(lr=-1.0), "lr: expected"),
        (lambda s: s["param_groups"][0].update(x=1.0), "Adam has no setting 'x'"),
        (lambda s: s["state"].update({7: {}}), r"expected parameters 0 ... 3, got 7"),
        (lambda s: s["state"][1].update(step=1.5), r"state\[1\]\['step'\]: expected a number"),
        (lambda s: s["state"][1].update(square_avg=[0.0, 0.0]), "remembers no such thing"),
        (lambda s: s["state"][1].update(exp_avg=[1.0]), r"expected shape \(2,\), got \(1,\)"),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(change, message):
    p = tensors(start())
    adam = optim.Adam(p, lr=0.1)
    give(p, tensors, start(1))
    adam.step()
    before, saved = adam.state_dict(), adam.state_dict()
    saved["param_groups"][0]["lr"] = 0.7
    change(saved)
    with pytest.raises(ValueError, match=message):
        adam.load_state_dict(saved)
    after = adam.state_dict()
    assert after["param_groups"] == before["param_groups"]
    for i, memory in before["state"].items():
        for name, x in memory.items():
            np.testing.assert_array_equal(after["state"][i][name], x)


def test_a_step_that_fails_changes_neither_parameters_nor_memory():
    p, q = tb.Tensor([1.0]), tb.Tensor([1.0, 2.0])
    sgd = optim.SGD([p, q], lr=1.0, momentum=0.5)
    p.grad, q.grad = [1.0], [1.0, 1.0]
    sgd.state[1] = {"momentum_buffer": np.zeros(3)}
    with pytest.raises(ValueError, match="broadcast"):
        sgd.step()
    assert p.data[0] == 1.0
    assert 0 not in sgd.state


# --- schedules -----------------------------------------------------------------------------------


def step_lr(m, o):
    return m.StepLR(o, step_size=3, gamma=0.5)


def cosine(m, o):
    return m.CosineAnnealingLR(o, T_max=7, eta_min=0.01)


def warm_up(m, o):
    return m.LinearLR(o, start_factor=0.1, total_iters=4)


def to_zero(m, o):
    return m.LinearLR(o, start_factor=1.0, end_factor=0.0, total_iters=15)


def warm_up_then_cosine(m, o):
    parts = [warm_up(m, o), m.CosineAnnealingLR(o, T_max=11), step_lr(m, o)]
    return m.SequentialLR(o, parts, milestones=[4, 15])


def several_at_once(m, o):
    return m.ChainedScheduler([warm_up(m, o), step_lr(m, o)])


SCHEDULES = [step_lr, cosine, warm_up, to_zero, warm_up_then_cosine, several_at_once]


def two_groups(make, leaf):
    return make([{"params": [leaf([1.0])]}, {"params": [leaf([1.0])], "lr": 0.3}], lr=0.1)


@pytest.mark.filterwarnings("ignore::UserWarning")  # PyTorch's, of steps without optimizer.step()
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_rates_equal_torchs(torch, schedule):
    ours, theirs = two_groups(optim.SGD, tb.Tensor), two_groups(torch.optim.SGD, torch.tensor)
    mine = schedule(optim.lr_scheduler, ours)
    oracle = schedule(torch.optim.lr_scheduler, theirs)
    for _ in range(20):
        expected = [group["lr"] for group in theirs.param_groups]
        np.testing.assert_allclose(mine.get_last_lr(), expected, rtol=1e-12, atol=1e-15)
        mine.step()
        oracle.step()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_schedule_goes_on_from_its_state(schedule):
    ours, other = (two_groups(optim.SGD, tb.Tensor) for _ in range(2))
    mine = schedule(optim.lr_scheduler, ours)
    for _ in range(6):
        mine.step()
    twin = schedule(optim.lr_scheduler, other)
    other.load_state_dict(ours.state_dict())
    twin.load_state_dict(mine.state_dict())
    assert twin.get_last_lr() == mine.get_last_lr()
    mine.step()
    twin.step()
    assert twin.get_last_lr() == mine.get_last_lr()


def test_what_schedules_refuse():
    sgd, other = (two_groups(optim.SGD, tb.Tensor) for _ in range(2))
    with pytest.raises(TypeError, match="optimizer: expected an Optimizer, got float"):
        optim.StepLR(0.1, 3)
    with pytest.raises(ValueError, match="step_size: expected an integer of at least 1, got 0"):
        optim.StepLR(sgd, 0)
    with pytest.raises(ValueError, match="T_max"):
        optim.CosineAnnealingLR(sgd, 2.5)
    parts = [optim.StepLR(sgd, 1), optim.StepLR(sgd, 2)]
    with pytest.raises(ValueError, match="milestones: expected 1, got 2"):
        optim.SequentialLR(sgd, parts, [1, 2])
    with pytest.raises(ValueError, match="increasing"):
        optim.SequentialLR(sgd, [*parts, parts[0]], [2, 2])
    with pytest.raises(ValueError, match=r"schedulers\[0\]: expected a schedule made for the same"):
        optim.SequentialLR(other, parts, [1])
    with pytest.raises(ValueError, match="at least one"):
        optim.ChainedScheduler([])
    with pytest.raises(ValueError, match="base_lrs: expected 2 rates, got 1"):
        parts[0].load_state_dict({"last_epoch": 1, "base_lrs": [0.1]})


# --- clipping ------------------------------------------------------------------------------------


def gradients_of(parameters):
    return np.concatenate([np.ravel(p.grad) for p in parameters if p.grad is not None])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("max_norm", [1e-3, 1.0, 1e3])
def test_clip_grad_norm_equals_torchs(torch, kind, max_norm):
    rng = np.random.default_rng(3)
    gradients = [rng.normal(size=shape) for shape in SHAPES]
    gradients[1] = None
    ours, theirs = kind(start()), [torch.tensor(array) for array in start()]
    give(ours, kind, gradients)
    for p, g in zip(theirs, gradients, strict=True):
        p.grad = None if g is None else torch.tensor(g)
    norm = optim.clip_grad_norm(ours, max_norm)
    expected = torch.nn.utils.clip_grad_norm_(theirs, max_norm).item()
    assert norm == pytest.approx(expected, rel=1e-14)
    theirs = gradients_of(theirs)
    if norm > max_norm:
        theirs = theirs * ((norm + 1e-6) / norm)  # PyTorch divides by norm + 1e-6
        assert np.linalg.norm(gradients_of(ours)) == pytest.approx(max_norm, rel=1e-14)
    np.testing.assert_allclose(gradients_of(ours), theirs, rtol=1e-13)


def test_clip_grad_norm_leaves_small_gradients_alone():
    p = tb.Tensor([1.0, 1.0])
    p.grad = [3.0, 4.0]
    assert optim.clip_grad_norm([p], 5.0) == 5.0
    np.testing.assert_array_equal(p.grad, [3.0, 4.0])


def test_clip_grad_norm_without_gradients():
    assert optim.clip_grad_norm([tb.Tensor([1.0]), tb.Value(1.0)], 1.0) == 0.0


def test_clip_grad_norm_takes_any_iterable():
    p = tb.Value(1.0)
    p.grad = 4.0
    assert optim.clip_grad_norm((q for q in [p]), 1.0) == 4.0
    assert p.grad == 1.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kind", KINDS)
def test_clip_grad_norm_of_no_number_raises_and_scales_nothing(kind, bad):
    p = kind([np.array([1.0]), np.array([1.0])])
    for q, g in zip(p, (100.0, bad), strict=True):
        q.grad = g if kind is single_values else [g]
    with pytest.raises(ValueError, match=r"clip_grad_norm: the gradient's norm is (nan|inf)"):
        optim.clip_grad_norm(p, 1.0)
    np.testing.assert_array_equal(gradients_of(p), [100.0, bad])


@pytest.mark.parametrize(("dtype", "size"), [(np.float32, 1e20), (np.float64, 1e200)])
def test_clip_grad_norm_of_exploding_gradients(dtype, size):
    """What clipping is for: the squares overflow, the norm does not."""
    p = tb.Tensor([0.0, 0.0], dtype=dtype)
    p.grad = np.array([3.0, 4.0]) * size
    assert optim.clip_grad_norm([p], 1.0) == pytest.approx(5.0 * size, rel=1e-6)
    np.testing.assert_allclose(p.grad, [0.6, 0.8], rtol=1e-6)  # float32's accuracy
    assert p.grad.dtype == dtype


@pytest.mark.parametrize("max_norm", [0.0, -1.0, math.nan])
def test_clip_grad_norm_needs_a_positive_bound(max_norm):
    p = tb.Value(1.0)
    p.grad = 3.0
    with pytest.raises(ValueError, match="max_norm: expected a positive number"):
        optim.clip_grad_norm([p], max_norm)
    assert p.grad == 3.0


def test_clipping_one_parameter_and_one_given_twice():
    p = tb.Tensor([3.0, 4.0])
    p.grad = [6.0, 8.0]
    assert optim.clip_grad_norm(p, 100.0) == 10.0
    assert optim.clip_grad_norm([p, p], 1.0) == 10.0
    np.testing.assert_allclose(p.grad, [0.6, 0.8], rtol=1e-15)


def test_a_step_moves_all_or_nothing():
    p, v = tb.Tensor([1.0]), tb.values([1.0, 2.0])
    optimizer = optim.SGD([p, v], lr=1.0)
    p.grad, v.grad = [1.0], [1.0, 1.0]
    v[0] = v[1] * 2.0
    with pytest.raises(TypeError, match="leaf no longer"):
        optimizer.step()
    assert p.data[0] == 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_clip_grad_value_equals_torchs(torch, kind):
    rng = np.random.default_rng(5)
    gradients = [rng.normal(size=shape) for shape in SHAPES]
    gradients[1] = None
    ours, theirs = kind(start()), [torch.tensor(array) for array in start()]
    give(ours, kind, gradients)
    for p, g in zip(theirs, gradients, strict=True):
        p.grad = None if g is None else torch.tensor(g)
    optim.clip_grad_value(ours, 0.5)
    torch.nn.utils.clip_grad_value_(theirs, 0.5)
    np.testing.assert_array_equal(gradients_of(ours), gradients_of(theirs))


def test_clip_grad_value_takes_infinities_and_refuses_nan():
    p, q = tb.Tensor([1.0, 1.0]), tb.Tensor([1.0])
    p.grad, q.grad = [math.inf, -0.25], [7.0]
    optim.clip_grad_value([p, q], 2.0)
    np.testing.assert_array_equal(gradients_of([p, q]), [2.0, -0.25, 2.0])
    p.grad, q.grad = [9.0, 9.0], [math.nan]
    with pytest.raises(ValueError, match="clip_grad_value: an entry of the gradient is nan"):
        optim.clip_grad_value([p, q], 2.0)
    np.testing.assert_array_equal(p.grad, [9.0, 9.0])
