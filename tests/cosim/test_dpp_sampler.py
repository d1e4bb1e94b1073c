"""The k-of-n sampler: exact k, gradients against the loop, the distribution of draws, memory."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cosim.errors import PruningError
from cosim.pruning import dpp_sampler
from cosim.pruning.dpp_sampler import perturb, sample_mask, soft_mask
from cosim.pruning.dpp_select import top_k, top_k_mask
from tests.cosim.dpp_cases import one_thread  # noqa: F401  a fixture
from tests.reference.dpp import naive_gradient, naive_soft_mask, pick_order

TEMPERATURES = [5.0, 0.5, 0.05]
SIZES = [(1, 1), (2, 1), (9, 4), (100, 1), (64, 64), (128, 64), (100, 63)]


def drawn(rows: int, n: int, k: int, order: str = "score_order") -> tuple[Tensor, Tensor, Tensor]:
    """(perturbed, picks, gradient), float64."""
    generator = torch.Generator().manual_seed(1000 * n + k)
    logits = 2.0 * torch.randn(rows, n, generator=generator, dtype=torch.float64)
    perturbed = perturb(logits, 1.0, n)
    grad = torch.randn(rows, n, generator=generator, dtype=torch.float64)
    return perturbed, torch.tensor(pick_order(perturbed, k, order)), grad


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
    by_kernel = dpp_sampler._vjp_kernel(perturbed, picks, temperature, grad)
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
            return dpp_sampler._vjp_kernel(*given) if order == "score_order" else dpp_sampler._vjp_log(*given)

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
