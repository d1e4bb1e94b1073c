"""Dynamic probabilistic pruning: exact k, gradients against the loop, layouts, training, freezing."""

import copy
import math
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrize

from cosim.errors import PruningError
from cosim.pruning import dpp, dpp_sampler, mask_metrics
from cosim.pruning.dpp import KofNMask, attach_masks, check_mask, freeze_masks, magnitude_mask
from cosim.pruning.dpp_sampler import perturb, sample_mask, soft_mask, top_k, top_k_mask
from cosim.pruning.plan import MaskPlan
from tests.reference.dpp import naive_gradient, naive_soft_mask, pick_order


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tensors of a few hundred values only wait for a second thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


TEMPERATURES = [5.0, 0.5, 0.05]
SIZES = [(1, 1), (2, 1), (9, 4), (100, 1), (64, 64), (128, 64), (100, 63)]


def weights(k: int, n: int) -> MaskPlan:
    return MaskPlan(granularity="weight", k=k, n=n)


def kernels(k: int, n: int) -> MaskPlan:
    return MaskPlan(granularity="kernel", k=k, n=n)


def drawn(rows: int, n: int, k: int, order: str = "score_order") -> tuple[Tensor, Tensor, Tensor]:
    """(perturbed, picks, gradient), float64."""
    generator = torch.Generator().manual_seed(1000 * n + k)
    logits = 2.0 * torch.randn(rows, n, generator=generator, dtype=torch.float64)
    perturbed = perturb(logits, 1.0, n)
    grad = torch.randn(rows, n, generator=generator, dtype=torch.float64)
    return perturbed, torch.tensor(pick_order(perturbed, k, order)), grad


# ---------------------------------------------------------------- sampler


@given(st.integers(1, 12), st.integers(1, 40), st.integers(0, 10_000), st.data())
@settings(max_examples=80, deadline=None)
def test_top_k_equals_a_python_sort_with_ties_to_the_lower_index(
    rows: int, n: int, seed: int, data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, n))
    scores = torch.randn(rows, n, generator=torch.Generator().manual_seed(seed)).mul(2).round().div(2)  # many ties
    scores[scores == 0.5] = -0.0
    for dtype in (torch.float32, torch.float64):
        typed = scores.to(dtype)
        assert top_k(typed, k).tolist() == pick_order(typed, k)
    mask = top_k_mask(scores, k)
    assert mask.sum(1).tolist() == [k] * rows
    assert all(bool(mask[row, picks].all()) for row, picks in enumerate(pick_order(scores, k)))


@pytest.mark.parametrize("order", ["score_order", "index_order"])
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize(("n", "k"), SIZES)
def test_relaxed_mask_equals_the_loop_and_its_rows_sum_to_k(n: int, k: int, temperature: float, order: str) -> None:
    perturbed, picks, _ = drawn(5, n, k, order)
    soft = soft_mask(perturbed, picks, temperature)
    torch.testing.assert_close(soft, naive_soft_mask(perturbed, picks, temperature), rtol=0.0, atol=1e-10)
    torch.testing.assert_close(soft.sum(1), torch.full((5,), float(k), dtype=torch.float64), rtol=1e-9, atol=0.0)


@pytest.mark.parametrize("order", ["score_order", "index_order"])
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize(("n", "k"), SIZES)
def test_gradient_equals_the_loop(n: int, k: int, temperature: float, order: str) -> None:
    perturbed, picks, grad = drawn(5, n, k, order)
    logits = perturbed.clone().requires_grad_(True)
    mask = sample_mask(logits, k, temperature=temperature, noise=0.0, relaxation=order)  # type: ignore[arg-type]
    assert torch.equal(mask, torch.zeros_like(mask).scatter_(1, picks, 1.0))
    mask.backward(grad)
    expected = naive_gradient(perturbed, picks, temperature, grad)
    torch.testing.assert_close(logits.grad, expected, rtol=0.0, atol=1e-8)


@pytest.mark.parametrize("temperature", [*TEMPERATURES, 0.002])
def test_the_kernel_and_the_log_domain_agree(temperature: float) -> None:
    perturbed, picks, grad = drawn(6, 40, 13)
    by_kernel = dpp_sampler._vjp_kernel(perturbed, picks, temperature, grad)[0]
    torch.testing.assert_close(
        by_kernel, dpp_sampler._vjp_log(perturbed, picks, temperature, grad), rtol=1e-7, atol=1e-8
    )


@pytest.mark.parametrize("order", ["score_order", "index_order"])
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_gradcheck_of_the_relaxed_mask_the_gradient_belongs_to(temperature: float, order: str) -> None:
    perturbed, picks, _ = drawn(2, 7, 3, order)

    class Relaxed(torch.autograd.Function):
        """S forward, the sampler's own backward."""

        @staticmethod
        def forward(ctx, x: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
            ctx.save_for_backward(x)
            return soft_mask(x, picks, temperature)

        @staticmethod
        def backward(ctx, *grads: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
            given = ctx.saved_tensors[0], picks, temperature, grads[0]
            return dpp_sampler._vjp_kernel(*given)[0] if order == "score_order" else dpp_sampler._vjp_log(*given)

    assert torch.autograd.gradcheck(Relaxed.apply, (perturbed.requires_grad_(True),), eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("temperature", [5.0, 0.05, 0.001])
@pytest.mark.parametrize("spread", [1.0, 100.0])
@pytest.mark.parametrize("order", ["score_order", "index_order"])
def test_float32_gradients_are_finite_and_near_float64(temperature: float, spread: float, order: str) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = (spread * torch.randn(20, 96, generator=generator)).requires_grad_(True)
    grad = torch.randn(20, 96, generator=generator)
    sample_mask(logits, 24, temperature=temperature, noise=0.0, relaxation=order).backward(grad)  # type: ignore[arg-type]
    assert logits.grad is not None
    assert bool(logits.grad.isfinite().all())
    picks = torch.tensor(pick_order(logits.detach(), 24, order))
    exact = naive_gradient(logits.detach().double(), picks, temperature, grad.double())
    scale = float(grad.abs().max()) / temperature
    torch.testing.assert_close(logits.grad.double(), exact, rtol=1e-3, atol=2e-5 * scale)


def test_equal_gradients_move_nothing_because_rows_sum_to_k() -> None:
    for order in ("score_order", "index_order"):
        logits = torch.randn(4, 12, dtype=torch.float64, requires_grad=True)
        sample_mask(logits, 5, temperature=0.5, relaxation=order).sum().backward()  # type: ignore[arg-type]
        assert logits.grad is not None
        assert float(logits.grad.abs().max()) < 1e-12


def test_picks_follow_the_gumbel_top_k_distribution() -> None:
    p = torch.tensor([0.5, 0.3, 0.15, 0.05])
    logits = p.log().expand(40_000, 4)
    mask = sample_mask(logits, 2, temperature=1.0, key=0)
    included = [
        sum(p[a] * p[b] / (1 - p[a]) for a in range(4) for b in range(4) if a != b and i in (a, b)) for i in range(4)
    ]
    torch.testing.assert_close(mask.mean(0), torch.tensor(included), rtol=0.0, atol=0.01)  # 4 standard errors: 0.01


def test_noise_is_gumbel_scaled_and_seeded() -> None:
    zeros = torch.zeros(400, 500)
    noise = perturb(zeros, 1.0, 1)
    assert float(noise.mean()) == pytest.approx(0.577216, abs=0.01)
    assert float(noise.var()) == pytest.approx(math.pi**2 / 6, abs=0.03)
    torch.testing.assert_close(perturb(zeros, 0.1, 1), 0.1 * noise)
    assert torch.equal(perturb(zeros, 0.0, 1), zeros)


def held_bytes(build: Callable[[], Tensor]) -> int:
    """Bytes of the tensors that live on after `build` because the graph of its result holds them."""
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = build()
    draw = getattr(result.grad_fn, "draw", None)
    for tensor in () if draw is None else (draw.scores, draw.picks):
        saved[tensor.untyped_storage().data_ptr()] = tensor.numel() * tensor.element_size()
    return sum(saved.values())


def test_memory_held_for_the_backward_does_not_grow_with_k_times_n() -> None:
    logits = torch.randn(8, 256, requires_grad=True)
    picks = top_k(logits, 64).long()
    ones = 8 * 256 * 4
    assert held_bytes(lambda: sample_mask(logits, 64, temperature=0.5)) == 8 * 256 * 4 + 8 * 64 * 4 + ones
    assert held_bytes(lambda: naive_soft_mask(logits, picks, 0.5)) > 64 * 8 * 256 * 4


@pytest.mark.parametrize(
    ("k", "options", "message"),
    [
        (5, {}, "k = 5 of n = 4"),
        (0, {}, "k = 0 of n = 4"),
        (2, {"temperature": 0.0}, "temperature = 0"),
        (2, {"temperature": float("nan")}, "temperature = nan"),
        (2, {"noise": -1.0}, "noise = -1"),
        (2, {"relaxation": "random"}, 'relaxation = "random"'),
    ],
)
def test_sampler_refuses_what_it_cannot_do(k: int, options: dict, message: str) -> None:
    with pytest.raises(PruningError, match=message):
        sample_mask(torch.zeros(3, 4), k, **{"temperature": 1.0, **options})


# ---------------------------------------------------------------- layouts


LAYOUTS = [
    ((4, 3, 3, 3), weights(5, 27)),
    ((4, 3, 3, 3), weights(2, 4)),  # last tile of 3
    ((4, 3, 3, 3), weights(4, 5)),  # last tile of 2 < k
    ((4, 6, 1, 1), weights(2, 3)),
    ((4, 3, 2, 3), weights(3, 18)),
    ((5, 10), weights(3, 10)),
    ((5, 10), weights(1, 4)),
    ((4, 6, 3, 3), kernels(2, 6)),
    ((4, 1, 3, 3), kernels(1, 1)),
    ((5, 10), kernels(3, 10)),
]


def units_by_hand(shape: tuple[int, ...], plan: MaskPlan, channel: int) -> list[list[tuple]]:
    """The tiles of one output channel as lists of units; a unit is the weight indices that stay or go together."""
    C, R, S = (*shape[1:], 1, 1)[:3]
    index = (lambda r, s, c: (channel, c, r, s)) if len(shape) == 4 else (lambda r, s, c: (channel, c))
    if plan.granularity == "kernel":
        return [[tuple(index(r, s, c) for r in range(R) for s in range(S)) for c in range(C)]]
    units = [(index(r, s, c),) for r in range(R) for s in range(S) for c in range(C)]
    return [units[start : start + plan.n] for start in range(0, len(units), plan.n)]


def magnitude_by_hand(weight: Tensor, plan: MaskPlan) -> Tensor:
    mask = torch.zeros(weight.shape, dtype=torch.bool)
    for channel in range(weight.shape[0]):
        for tile in units_by_hand(tuple(weight.shape), plan, channel):
            ranked = sorted(tile, key=lambda unit: -sum(abs(float(weight[index])) for index in unit))
            for unit in ranked[: plan.k]:
                for index in unit:
                    mask[index] = True
    return mask


@pytest.mark.parametrize(("shape", "plan"), LAYOUTS)
def test_magnitude_mask_keeps_the_largest_units_of_every_tile(shape: tuple[int, ...], plan: MaskPlan) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    mask = magnitude_mask(weight, plan)
    assert torch.equal(mask, magnitude_by_hand(weight, plan))
    check_mask(mask, plan)


@pytest.mark.parametrize("init", ["magnitude", "random"])
@pytest.mark.parametrize(("shape", "plan"), LAYOUTS)
def test_sampled_and_final_masks_keep_exactly_k(shape: tuple[int, ...], plan: MaskPlan, init: str) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    mask = KofNMask(weight, plan, seed=3, init=init)  # type: ignore[arg-type]
    sampled = [mask.sample().expand(shape) == 1 for _ in range(5)]
    for one in (*sampled, mask.mask()):
        check_mask(one, plan)
    if init == "magnitude":
        assert torch.equal(mask.mask(), magnitude_mask(weight, plan))


@pytest.mark.parametrize(("shape", "plan"), LAYOUTS)
def test_logit_gradient_is_the_loops_through_the_layout(shape: tuple[int, ...], plan: MaskPlan) -> None:
    """Tile by tile, the gradient of a logit is the loop's for the sum of upstream · weight over its unit."""
    generator = torch.Generator().manual_seed(5)
    weight, upstream = (
        torch.randn(shape, generator=generator).double(),
        torch.randn(shape, generator=generator).double(),
    )
    mask = KofNMask(weight, plan, seed=1, init="random")
    mask.noise, mask.temperature = 0.0, 0.5
    mask(weight).backward(upstream)
    assert mask.logits.grad is not None
    for channel in range(shape[0]):
        start = 0
        for tile in units_by_hand(shape, plan, channel):
            logits = mask.logits.detach()[channel : channel + 1, start : start + len(tile)]
            value = torch.tensor([[sum(float(upstream[i] * weight[i]) for i in unit) for unit in tile]]).double()
            picks = torch.tensor(pick_order(logits, min(plan.k, len(tile))))
            expected = naive_gradient(logits, picks, 0.5, value)
            got = mask.logits.grad[channel : channel + 1, start : start + len(tile)]
            torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
            start += len(tile)


def test_check_mask_finds_a_row_that_breaks_k_and_a_half_kept_kernel() -> None:
    mask = magnitude_mask(torch.randn(4, 3, 3, 3), weights(2, 4))
    wrong = mask.clone()
    wrong[2, 1, 1, 1] = ~wrong[2, 1, 1, 1]
    with pytest.raises(PruningError, match=r"c1: row \d+ of 4 units keeps [13]; exactly 2"):
        check_mask(wrong, weights(2, 4), "c1")
    half = magnitude_mask(torch.randn(4, 6, 3, 3), kernels(2, 6))
    half[0, 0, 0, 0] = ~half[0, 0, 0, 0]
    with pytest.raises(PruningError, match="half kept"):
        check_mask(half, kernels(2, 6))
    with pytest.raises(PruningError, match="float32"):
        check_mask(torch.ones(2, 2), weights(1, 2))
    with pytest.raises(PruningError, match=r"mask\.n = 9 does not fit 2"):
        check_mask(torch.ones(2, 2, dtype=torch.bool), weights(1, 9))


# ---------------------------------------------------------------- networks


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 4)
    )


PLANS = {"0": weights(4, 9), "2": kernels(2, 4), "5": weights(3, 8)}


def test_starting_logits_are_twice_the_magnitude_over_the_tile_mean_or_the_papers_normals() -> None:
    weight = torch.tensor([[1.0, -3.0, 0.0, 0.0, 5.0]])
    assert KofNMask(weight, weights(1, 2)).logits.detach().tolist() == [[1.0, 3.0, 0.0, 0.0, 2.0]]
    big = torch.ones(200, 100, 1, 1)
    for plan, std in ((weights(1, 100), 0.5), (kernels(1, 100), 1.0)):
        assert float(KofNMask(big, plan, init="random").logits.detach().std()) == pytest.approx(std, rel=0.03)


def test_evaluation_is_deterministic_and_training_draws_once_per_access() -> None:
    model = network()
    masks = attach_masks(model, PLANS, seed=1)
    images = torch.randn(2, 3, 5, 5)
    model.train()
    assert not torch.equal(model(images), model(images))
    with parametrize.cached():
        assert torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))
    for name, mask in masks.items():
        layer = model.get_submodule(name)
        assert torch.equal(layer.weight != 0, mask.mask())


def test_a_seed_gives_the_same_masks_whatever_else_is_masked() -> None:
    def draws(plans: dict[str, MaskPlan], seed: int) -> Tensor:
        model = network()
        mask = attach_masks(model, plans, seed=seed, init="random")["5"]
        return torch.stack([mask.sample() for _ in range(3)])

    both = draws(PLANS, 7)
    assert torch.equal(both, draws({"5": PLANS["5"]}, 7))
    assert not torch.equal(both, draws(PLANS, 8))


def test_a_copied_network_continues_with_the_same_draws() -> None:
    model = network()
    attach_masks(model, PLANS)
    images = torch.randn(2, 3, 5, 5)
    model(images)
    twin = copy.deepcopy(model)
    assert torch.equal(model(images), twin(images))
    dpp.set_temperature(twin, 0.7)
    assert next(iter(dpp.find_masks(model).values())).temperature == 5.0


def test_training_finds_the_inputs_that_matter() -> None:
    """Only 4 of 16 inputs carry the target; from a cold start most rows settle on them (1 of 1,820 by chance)."""
    found = sum(rows_found(seed) for seed in range(4))
    assert found >= 8  # of 12


def rows_found(seed: int) -> int:
    torch.manual_seed(1)
    layer = nn.Linear(16, 3, bias=False)
    model = nn.Sequential(layer)
    mask = attach_masks(model, {"0": weights(4, 16)}, seed=seed, init="random")["0"]
    useful = [1, 6, 8, 13]
    truth = torch.zeros(3, 16)
    truth[:, useful] = torch.randn(3, 4).sign()
    optimizer = torch.optim.Adam(
        [
            {"params": [layer.parametrizations.weight.original], "lr": 0.02},
            {"params": dpp.logit_parameters(model), "lr": 0.1},
        ]
    )
    for step in range(300):
        dpp.set_temperature(model, dpp.anneal_temperature(step, 300), dpp.anneal_noise(step, 300))
        x = torch.randn(64, 16)
        loss = (model(x) - x @ truth.T).square().mean() + dpp.entropy_penalty(model)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return sum(row.nonzero().flatten().tolist() == useful for row in mask.mask())


def test_freezing_bakes_the_masks_and_changes_no_output() -> None:
    model = network()
    attach_masks(model, PLANS)
    images = torch.randn(2, 3, 5, 5)
    expected = model.eval()(images)
    model.train()
    masks = freeze_masks(model)
    assert list(masks) == list(PLANS)
    assert model.training
    assert dpp.find_masks(model) == {}
    assert type(model[0]) is nn.Conv2d
    assert isinstance(model[0].weight, nn.Parameter)
    torch.testing.assert_close(model(images), expected, rtol=0.0, atol=0.0)
    for name, plan in PLANS.items():
        check_mask(masks[name], plan)
        assert torch.equal(model.get_submodule(name).weight != 0, masks[name])


def test_a_state_dict_restores_masks() -> None:
    model, other = network(0), network(1)
    attach_masks(model, PLANS, seed=0, init="random")
    attach_masks(other, PLANS, seed=1, init="random")
    other.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, 5, 5)
    assert torch.equal(other.eval()(images), model.eval()(images))


@pytest.mark.parametrize(
    ("plans", "message"),
    [
        ({"2": weights(1, 37)}, r"2: mask\.n = 37 is more than the fan-in 36; use n <= 36"),
        ({"2": kernels(2, 8)}, r"2: mask\.n = 8 is not the 4 input channels per group; use n = 4"),
        ({"5": MaskPlan.model_construct(granularity="weight", k=9, n=8)}, r"5: mask\.k = 9 is more than mask\.n = 8"),
        ({"1": weights(1, 2)}, "1: mask: ReLU has no k-of-n mask"),
        ({"7": weights(1, 2)}, "7: mask: the network has no such layer"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused_before_anything_is_attached(plans: dict, message: str) -> None:
    model = network()
    with pytest.raises(PruningError, match=message):
        attach_masks(model, {"0": PLANS["0"], **plans})
    assert dpp.find_masks(model) == {}


def test_a_second_mask_and_wrong_options_are_refused() -> None:
    model = network()
    attach_masks(model, PLANS)
    with pytest.raises(PruningError, match="0: the weight is already masked"):
        attach_masks(model, {"0": PLANS["0"]})
    with pytest.raises(PruningError, match="temperature = 0"):
        dpp.set_temperature(model, 0.0)
    with pytest.raises(PruningError, match="noise = -1"):
        dpp.set_temperature(model, 1.0, -1.0)
    with pytest.raises(PruningError, match='init = "warm"'):
        attach_masks(network(), PLANS, init="warm")  # type: ignore[arg-type]


# ---------------------------------------------------------------- penalty, schedules, metrics


def entropy_by_hand(logits: Tensor) -> Tensor:
    p = logits.softmax(1)
    return -(p * p.log()).sum(1)


def test_entropy_penalty_sums_rows_with_the_weight_of_their_granularity() -> None:
    model = network()
    masks = attach_masks(model, PLANS, init="random")
    expected = 5e-5 * entropy_by_hand(masks["0"].logits.reshape(-1, 9)).sum()
    expected = (
        expected + 1e-5 * entropy_by_hand(masks["2"].logits).sum() + 5e-5 * entropy_by_hand(masks["5"].logits).sum()
    )
    torch.testing.assert_close(dpp.entropy_penalty(model), expected)
    torch.testing.assert_close(dpp.entropy_penalty(masks.values()), expected)
    gradients = torch.autograd.grad(expected, dpp.logit_parameters(model))
    for got, want in zip(
        torch.autograd.grad(dpp.entropy_penalty(model), dpp.logit_parameters(model)), gradients, strict=True
    ):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-10)
    mean = dpp.entropy_penalty([masks["0"]], mu={"weight": 1.0}, reduction="mean")
    torch.testing.assert_close(mean, entropy_by_hand(masks["0"].logits.reshape(-1, 9)).mean())
    assert float(dpp.entropy_penalty(nn.Linear(2, 2))) == 0.0


def test_schedules_are_linear_and_never_pass_their_ends() -> None:
    assert [dpp.anneal_temperature(epoch, 4) for epoch in range(4)] == [5.0, 3.5, 2.0, 0.5]
    assert dpp.anneal_temperature(9, 4) == 0.5
    assert dpp.anneal_temperature(0, 1) == 5.0
    assert [dpp.anneal_noise(epoch, 3) for epoch in range(4)] == [1.0, 0.5, 0.0, 0.0]


def mask_of(logits: Tensor, plan: MaskPlan) -> KofNMask:
    mask = KofNMask(torch.ones(logits.shape), plan)
    with torch.no_grad():
        mask.logits.copy_(logits)
    return mask


def test_confidence_and_diversity_at_their_ends() -> None:
    uniform = mask_of(torch.zeros(4, 4), weights(1, 4))
    same = mask_of(50.0 * torch.eye(4)[[0, 0, 0, 0]], weights(1, 4))
    different = mask_of(50.0 * torch.eye(4), weights(1, 4))
    single = mask_of(torch.zeros(4, 1), weights(1, 1))
    for mask, expected in ((uniform, (0.0, 0.0)), (same, (1.0, 0.0)), (different, (1.0, 1.0)), (single, (1.0, 0.0))):
        assert (mask_metrics.confidence(mask), mask_metrics.diversity(mask)) == pytest.approx(expected, abs=1e-6)


def test_metrics_weight_the_shorter_tiles_by_their_rows() -> None:
    logits = torch.cat([50.0 * torch.eye(3, 4), torch.zeros(3, 2)], dim=1)  # sure tiles of 4, unsure tiles of 2
    assert mask_metrics.confidence(mask_of(logits, weights(1, 4))) == pytest.approx(0.5, abs=1e-6)
