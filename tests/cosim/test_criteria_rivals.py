"""Criteria beside the nuclear norm against their definitions, and what a stream of batches says about its scores."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  the usual name
from torch import Tensor, nn

from cosim.errors import PruningError
from cosim.pruning.coupling import trace_channel_groups
from cosim.pruning.criteria import ScoreOptions, group_score, measure_scores, normalise, rank_correlation, score_layers
from cosim.pruning.criteria.maps import independence
from cosim.pruning.dpp import attach_masks
from cosim.pruning.plan import MaskPlan


class Plain(nn.Module):
    """conv bn relu - conv bn relu - mean - linear."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.bn_one = nn.Conv2d(2, 5, 3, padding=1), nn.BatchNorm2d(5)
        self.two, self.bn_two = nn.Conv2d(5, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4, affine=False)
        self.head = nn.Linear(4, 3)

    def maps(self, x: Tensor) -> list[Tensor]:
        one = self.bn_one(self.one(x)).relu()
        return [one, self.bn_two(self.two(one)).relu()]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.maps(x)[1].mean((2, 3)))


@pytest.fixture
def network() -> Plain:
    torch.manual_seed(5)
    model = Plain()
    model.train()(torch.randn(64, 2, 6, 6))
    return model.eval()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(12, 2, 6, 6, generator=torch.Generator().manual_seed(6))


LABELS = torch.arange(12) % 3


def test_fpgm_is_the_distance_to_all_other_filters(network: Plain) -> None:
    filters = network.one.weight.detach().flatten(1).double()
    expected = [sum(float((a - b).norm()) for b in filters) for a in filters]
    scores = score_layers(network, (), ["one"], "fpgm")["one"]
    torch.testing.assert_close(scores, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0.0)


def test_bn_scale_is_the_size_of_the_scale_that_follows(network: Plain) -> None:
    with torch.no_grad():
        network.bn_one.weight.copy_(torch.tensor([-3.0, 1.0, 0.0, 2.0, -0.5]))
    assert score_layers(network, (), ["one"], "bn_scale")["one"].tolist() == [3.0, 1.0, 0.0, 2.0, 0.5]
    for layer in ("two", "head"):
        with pytest.raises(PruningError, match=rf"^{layer}: no batch normalisation with a scale"):
            score_layers(network, (), [layer], "bn_scale")


def test_hrank_is_the_mean_rank_of_the_maps(network: Plain, images: Tensor) -> None:
    with torch.no_grad():
        maps = network.maps(images)[0]
    expected = [sum(int(torch.linalg.matrix_rank(maps[b, k])) for b in range(12)) / 12 for k in range(5)]
    assert score_layers(network, images, ["one"], "hrank")["one"].tolist() == pytest.approx(expected)
    whole = score_layers(network, images, ["one"], "hrank", options=ScoreOptions("per_batch"))["one"]
    assert whole.tolist() == [float(torch.linalg.matrix_rank(maps[:, k].flatten(1))) for k in range(5)]


@pytest.mark.parametrize("shape", [(3, 6, 4, 4), (3, 5, 1, 3), (2, 6), (2, 7, 5)])
def test_chip_is_what_the_nuclear_norm_loses_with_a_channel(shape: tuple[int, ...]) -> None:
    output = torch.randn(shape, generator=torch.Generator().manual_seed(7)).relu()
    rows = (
        output.flatten(2)
        if output.dim() == 4
        else output.movedim(-1, 1).flatten(2)
        if output.dim() > 2
        else output[..., None]
    )
    expected = torch.zeros(rows.shape[:2], dtype=torch.float64)
    for b, k in torch.cartesian_prod(*map(torch.arange, rows.shape[:2])).tolist():
        without = rows[b].double().clone()
        without[k] = 0
        expected[b, k] = torch.linalg.svdvals(rows[b].double()).sum() - torch.linalg.svdvals(without).sum()
    torch.testing.assert_close(independence(output), expected, rtol=1e-4, atol=1e-6)


def test_taylor_is_the_first_order_change_of_each_images_loss(network: Plain, images: Tensor) -> None:
    expected = torch.zeros(5, dtype=torch.float64)
    for image, label in zip(images, LABELS, strict=True):
        one = network.bn_one(network.one(image[None])).relu().detach().requires_grad_()
        out = network.head(network.bn_two(network.two(one)).relu().mean((2, 3)))
        (gradient,) = torch.autograd.grad(F.cross_entropy(out, label[None]), one)
        expected += (one * gradient).mean((0, 2, 3)).abs().detach().double() / len(images)
    scores = score_layers(network, [(images[:5], LABELS[:5]), (images[5:], LABELS[5:])], ["one", "two"], "taylor")
    torch.testing.assert_close(scores["one"], expected, rtol=1e-4, atol=1e-9)


def test_hessian_is_the_trace_of_each_filters_block(network: Plain, images: Tensor) -> None:
    weight = network.two.weight.detach()

    def loss(two: Tensor) -> Tensor:
        return F.cross_entropy(torch.func.functional_call(network, {"two.weight": two}, (images,)), LABELS)

    full = torch.autograd.functional.hessian(loss, weight)
    size = weight[0].numel()
    traces = torch.stack([full[k, :, :, :, k].reshape(size, size).trace() for k in range(4)]).double()
    expected = (traces * weight.flatten(1).double().square().sum(1) / (2 * size)).clamp_min(0)
    options = ScoreOptions(probes=400)
    measured = measure_scores(network, [(images, LABELS)], ["two"], "hessian", options)["two"]
    assert measured.samples == 400
    assert bool(((measured.score - expected).abs() <= 3 * measured.half_width).all())
    assert float(measured.half_width.max()) < float(expected.max())


def test_hessian_asks_to_freeze_masks(network: Plain, images: Tensor) -> None:
    attach_masks(network, {"two": MaskPlan(granularity="kernel", k=2, n=5)}, seed=0)
    with pytest.raises(PruningError, match=r"^two: a mask or a quantizer"):
        score_layers(network, [(images, LABELS)], ["two"], "hessian")


# ---------------------------------------------------------------- streams


def test_the_interval_is_that_of_the_mean_over_images(network: Plain, images: Tensor) -> None:
    each = torch.stack([score_layers(network, image[None], ["one"])["one"] for image in images])
    measured = measure_scores(network, images.split(5), ["one"])["one"]
    torch.testing.assert_close(measured.score, each.mean(0), rtol=1e-5, atol=0.0)
    torch.testing.assert_close(measured.half_width, 1.959964 * each.std(0) / 12**0.5, rtol=1e-4, atol=0.0)
    rho = rank_correlation(each[::2].mean(0), each[1::2].mean(0))
    assert measured.reliability == pytest.approx(2 * rho / (1 + rho))
    assert measured.samples == 12


def test_about_95_of_100_intervals_hold_the_mean() -> None:
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.ReLU())
    nn.init.ones_(layer[0].weight)
    pool = torch.rand(4000, 1, 1, 1)
    inside = 0
    for chunk in pool.split(40):
        measured = measure_scores(layer, chunk, ["0"])["0"]
        inside += bool((measured.score - pool.double().mean()).abs() <= measured.half_width)
    assert 88 <= inside <= 99


def test_scoring_stops_once_the_ranking_is_stable(network: Plain) -> None:
    read = 0

    def endless() -> Iterator[Tensor]:
        nonlocal read
        generator = torch.Generator().manual_seed(0)
        while True:
            read += 1
            yield torch.randn(16, 2, 6, 6, generator=generator)

    measured = measure_scores(network, endless(), ["one", "two"], options=ScoreOptions(stable=0.999))
    assert read == measured["one"].samples / 16
    assert sorted(layer.reliability >= 0.999 for layer in measured.values())[-1]


def test_a_single_sample_says_nothing_about_itself(network: Plain, images: Tensor) -> None:
    measured = measure_scores(network, images, ["one"], options=ScoreOptions("per_batch"))["one"]
    assert measured.samples == 1
    assert bool(measured.half_width.isinf().all())
    assert measured.reliability != measured.reliability


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ([1.0, 2.0, 3.0], [10.0, 20.0, 21.0], 1.0),
        ([1.0, 2.0, 3.0], [3.0, 2.0, 1.0], -1.0),
        ([1.0, 1.0, 2.0], [1.0, 2.0, 3.0], 0.75**0.5),
        ([1.0, 1.0], [2.0, 2.0], 1.0),
        ([1.0, 1.0], [1.0, 2.0], 0.0),
    ],
)
def test_rank_correlation_takes_mean_ranks_of_ties(one: list[float], other: list[float], expected: float) -> None:
    assert rank_correlation(torch.tensor(one), torch.tensor(other)) == pytest.approx(expected)


def test_scores_are_made_comparable_between_layers() -> None:
    score = torch.tensor([1.0, 0.0, 3.0])
    assert normalise(score).tolist() == [0.75, 0.0, 2.25]
    assert normalise(score, "max").tolist() == [1 / 3, 0.0, 1.0]
    assert normalise(score, "sum").tolist() == [0.25, 0.0, 0.75]
    assert normalise(score, "l2").square().sum().item() == pytest.approx(1.0)
    assert normalise(score, "rank").tolist() == [1 / 3, 0.0, 2 / 3]
    assert normalise(torch.zeros(3)).tolist() == [0.0, 0.0, 0.0]
    with pytest.raises(PruningError, match='normalisation "mena"'):
        normalise(score, "mena")  # type: ignore[arg-type]


def test_a_group_has_one_score_a_channel(network: Plain) -> None:
    group = trace_channel_groups(network, torch.zeros(1, 2, 6, 6))[1]
    assert group.name == "one"
    assert group_score(group, {"one": torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])}).tolist() == pytest.approx(
        [1 / 3, 2 / 3, 1.0, 4 / 3, 5 / 3]
    )
    with pytest.raises(PruningError, match="group one: none of its layers has scores"):
        group_score(group, {"two": torch.ones(4)})
