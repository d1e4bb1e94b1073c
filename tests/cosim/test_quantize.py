"""Weight quantization: levels, scale, gradient, and its place after the mask."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cosim.errors import PruningError
from cosim.pruning.activation_bits import (
    ActivationQuantizer,
    attach_activation_quantizers,
    detach_activation_quantizers,
)
from cosim.pruning.dpp import attach_masks, freeze_masks
from cosim.pruning.plan import MaskPlan
from cosim.pruning.quantize import (
    Quantizer,
    attach_quantizers,
    fake_quantize,
    freeze_quantizers,
    level_count,
    quantize_tensor,
)

PLAN = MaskPlan(granularity="weight", k=3, n=9)


def test_eight_bits_use_the_scale_of_the_paper() -> None:
    weight = torch.tensor([-2.0, -1.0, 0.0, 0.5, 2.0])
    levels, scale = quantize_tensor(weight, 8)
    assert scale == 127.5 / 2.0
    assert levels.tolist() == [-127, -64, 0, 32, 127]


@pytest.mark.parametrize("bits", range(3, 13))
def test_a_fine_ramp_hits_every_level_equally_often(bits: int) -> None:
    bins = 2**bits - 1
    ramp = torch.linspace(-1.0, 1.0, 16 * bins + 1, dtype=torch.float64)[1::2]  # 8 points inside each bin
    levels, counts = quantize_tensor(torch.cat([ramp, torch.tensor([-1.0, 1.0])]), bits)[0].unique(return_counts=True)
    assert levels.tolist() == list(range(-(bins // 2), bins // 2 + 1))
    assert len(levels) == level_count(bits)
    assert set(counts[1:-1].tolist()) == {8}
    assert counts[[0, -1]].tolist() == [9, 9]


@given(st.integers(1, 16), st.integers(0, 10_000), st.floats(1e-6, 1e6))
@settings(max_examples=60, deadline=None)
def test_levels_stay_in_range_and_follow_the_weight(bits: int, seed: int, size: float) -> None:
    weight = size * torch.randn(200, generator=torch.Generator().manual_seed(seed))
    weight[::7] = 0.0
    levels, scale = quantize_tensor(weight, bits)
    top = max(1, 2 ** (bits - 1) - 1)
    assert len(levels.unique()) <= level_count(bits)
    assert int(levels.abs().max()) == top
    assert bool((levels[weight == 0] == 0).all())
    assert bool((levels * weight >= 0).all())
    if bits > 2:
        assert float((levels.double() / scale - weight.double()).abs().max()) <= 0.5 / scale * (1 + 1e-9)
    torch.testing.assert_close(fake_quantize(weight.double(), bits), levels.double() / scale, rtol=1e-12, atol=0.0)


@given(st.integers(1, 16), st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_quantizing_a_quantized_weight_gives_the_same_levels(bits: int, seed: int) -> None:
    weight = torch.randn(100, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert torch.equal(quantize_tensor(fake_quantize(weight, bits), bits)[0], quantize_tensor(weight, bits)[0])


def test_one_bit_is_the_sign_times_the_mean_magnitude_of_what_is_kept() -> None:
    weight = torch.tensor([[0.0, -1.0], [3.0, 0.0]])
    levels, scale = quantize_tensor(weight, 1)
    assert levels.tolist() == [[0, -1], [1, 0]]
    assert scale == 0.5
    assert fake_quantize(weight, 1).tolist() == [[0.0, -2.0], [2.0, 0.0]]


@pytest.mark.parametrize("bits", [1, 2, 8, 16, 32])
def test_a_tensor_of_zeros_stays_zero(bits: int) -> None:
    levels, scale = quantize_tensor(torch.zeros(4), bits)
    assert levels.tolist() == [0, 0, 0, 0]
    assert scale == 1.0
    assert fake_quantize(torch.zeros(4), bits).tolist() == [0.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_the_gradient_passes_straight_through(bits: int) -> None:
    weight, grad = torch.randn(5, 5, requires_grad=True), torch.randn(5, 5)
    fake_quantize(weight, bits).backward(grad)
    assert weight.grad is not None
    assert torch.equal(weight.grad, grad)


def test_thirty_two_bits_are_the_weight_itself() -> None:
    layer = nn.Linear(4, 4)
    assert fake_quantize(layer.weight, 32) is layer.weight
    assert attach_quantizers(nn.Sequential(layer), {"0": 32}) == {}


def masked_and_quantized(bits: int) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 2))
    attach_masks(model, {"0": PLAN})
    attach_quantizers(model, {"0": bits, "3": bits})
    return model


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_quantization_follows_the_mask(bits: int) -> None:
    model = masked_and_quantized(bits).eval()
    original = model[0].parametrizations.weight.original
    mask = model[0].parametrizations.weight[0].mask()
    assert torch.equal(model[0].weight, fake_quantize(original * mask, bits))
    # A dropped weight larger than all that are kept must not stretch the scale.
    before = model[0].weight.clone()
    with torch.no_grad():
        original[~mask] = 100.0
    assert torch.equal(model[0].weight, before)


def test_a_masked_quantized_layer_trains_weights_and_logits() -> None:
    model = masked_and_quantized(4)
    model(torch.randn(8, 3, 5, 5)).square().sum().backward()
    parametrized = model[0].parametrizations.weight
    assert float(parametrized.original.grad.abs().sum()) > 0
    assert float(parametrized[0].logits.grad.abs().sum()) > 0


@pytest.mark.parametrize("bits", [1, 3, 8])
def test_freezing_bakes_mask_and_levels_into_plain_weights(bits: int) -> None:
    model = masked_and_quantized(bits)
    images = torch.randn(4, 3, 5, 5)
    expected = copy.deepcopy(model).eval()(images)
    masks = freeze_masks(model)
    assert freeze_quantizers(model) == {"3": bits}
    assert sorted(dict(model.named_parameters())) == ["0.bias", "0.weight", "3.bias", "3.weight"]
    assert torch.equal(model.eval()(images), expected)
    assert not bool(model[0].weight[~masks["0"]].any())
    assert len(model[0].weight.unique()) <= level_count(bits)


def test_quantizers_under_a_mask_are_not_frozen_alone() -> None:
    with pytest.raises(PruningError, match=r"0: .*call freeze_masks first"):
        freeze_quantizers(masked_and_quantized(8))


@pytest.mark.parametrize(
    ("bits", "message"),
    [
        ({"0": 0}, "0: weight_bits = 0"),
        ({"0": 33}, "0: weight_bits = 33"),
        ({"1": 8}, "1: weight_bits: no Conv2d or Linear"),
        ({"missing": 8}, "missing: weight_bits: no Conv2d or Linear"),
    ],
)
def test_bits_that_a_layer_cannot_have_are_refused_before_anything_is_attached(bits: dict, message: str) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Linear(2, 2))
    with pytest.raises(PruningError, match=message):
        attach_quantizers(model, {"2": 8, **bits})
    assert not any(isinstance(module, Quantizer) for module in model.modules())


def test_a_second_quantizer_and_a_weight_that_is_not_finite_are_refused() -> None:
    with pytest.raises(PruningError, match="already quantized"):
        attach_quantizers(masked_and_quantized(8), {"3": 4})
    for weight in (torch.tensor([1.0, float("nan")]), torch.zeros(0)):
        with pytest.raises(PruningError, match="empty or not finite"):
            quantize_tensor(weight, 8)


def test_two_bits_are_the_ternary_levels_of_the_paper() -> None:
    weight = torch.tensor([0.0, 0.1, -1.0, 2.0, -0.9])  # mean of what is not masked: 1.0, threshold 0.7
    levels, scale = quantize_tensor(weight, 2)
    assert levels.tolist() == [0, 0, -1, 1, -1]
    assert scale == pytest.approx(1.0 / 1.3)
    assert fake_quantize(weight, 2).tolist() == pytest.approx([0.0, 0.0, -1.3, 1.3, -1.3])
    assert quantize_tensor(torch.zeros(3), 2)[0].tolist() == [0, 0, 0]


def test_a_masked_ternary_layer_trains_and_freezes_to_three_values() -> None:
    model = nn.Sequential(nn.Linear(9, 4))
    attach_masks(model, {"0": PLAN})
    attach_quantizers(model, {"0": 2})
    model(torch.randn(5, 9)).sum().backward()
    assert float(model[0].parametrizations.weight.original.grad.abs().sum()) > 0
    freeze_masks(model)
    assert len(model[0].weight.unique()) <= 3


# ---------------------------------------------------------------- activations


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("signed", [True, False])
def test_inputs_are_rounded_to_the_levels_of_their_range(bits: int, signed: bool) -> None:
    quantizer = ActivationQuantizer(bits)
    x = torch.linspace(-2.0 if signed else 0.0, 2.0, 4001)
    quantizer.train()(x)
    out = quantizer.eval()(x)
    steps = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
    assert len(out.unique()) == (2 * steps + 1 if signed else steps + 1)
    assert float((out - x).abs().max()) <= 1.0 / steps * (1 + 1e-5)


def test_the_gradient_of_an_input_passes_inside_the_range_only() -> None:
    quantizer = ActivationQuantizer(8).train()
    quantizer(torch.tensor([-1.0, 1.0]))
    x = torch.tensor([-3.0, -0.5, 0.5, 3.0], requires_grad=True)
    quantizer.eval()(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 0.0]


def test_activation_quantizers_are_saved_with_the_network_and_leave_no_trace() -> None:
    torch.manual_seed(0)
    model, images = (
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(18, 2)),
        torch.randn(4, 1, 5, 5),
    )
    plain = model(images)
    attach_activation_quantizers(model, {"0": 8, "3": 8})
    quantized = model(images)
    assert not torch.equal(quantized, plain)
    torch.testing.assert_close(quantized, plain, rtol=0.0, atol=0.05)
    twin = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(18, 2))
    attach_activation_quantizers(twin, {"0": 8, "3": 8})
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin.eval()(images), model.eval()(images))
    detach_activation_quantizers(model)
    assert torch.equal(model(images), plain)
    assert sorted(model.state_dict()) == ["0.bias", "0.weight", "3.bias", "3.weight"]


def test_activation_quantizers_that_do_not_fit_are_refused() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    for bits, message in (({"0": 8, "1": 8}, "1: activation_bits: no Conv2d"), ({"0": 1}, "0: activation_bits = 1")):
        with pytest.raises(PruningError, match=message):
            attach_activation_quantizers(model, bits)
        assert not any(isinstance(module, ActivationQuantizer) for module in model.modules())
    attach_activation_quantizers(model, {"0": 8})
    with pytest.raises(PruningError, match="0: its inputs are quantized already"):
        attach_activation_quantizers(model, {"0": 8})


def test_a_quantizer_that_has_seen_no_batch_changes_nothing() -> None:
    x = torch.randn(5)
    quantizer = ActivationQuantizer(4).eval()
    assert torch.equal(quantizer(x), x)
    quantizer.fix()
    assert torch.equal(quantizer(x), x)


@pytest.mark.parametrize("x", [torch.randn(50), torch.rand(50), torch.zeros(50)])
def test_a_fixed_range_rounds_as_before_and_watches_no_longer(x: torch.Tensor) -> None:
    quantizer = ActivationQuantizer(4).train()
    quantizer(x)
    expected = quantizer.eval()(x)
    quantizer.fix()
    assert torch.equal(quantizer.train()(x), expected)
    assert float(quantizer(100.0 * x).abs().max()) == pytest.approx(float(x.abs().max())), "the range stayed"
