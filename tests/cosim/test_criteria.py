"""Criteria: the nuclear norm against singular values, the choice of maps, the contract of every criterion."""

import pytest
import torch
from torch import Tensor, nn

from cosim.errors import PruningError, UntraceableError
from cosim.pruning.activations import activation_nodes
from cosim.pruning.coupling import trace_channel_groups
from cosim.pruning.criteria import (
    CRITERIA,
    ScoreOptions,
    channel_energies,
    combine_scores,
    measure_scores,
    nuclear_norms,
    score_layers,
    weigh_by_readers,
)
from cosim.pruning.criteria.energy import root_terms


class Residual(nn.Module):
    """stem -> relu -> (conv bn relu conv bn + 1x1 shortcut) -> relu -> mean -> linear, one ReLU module reused."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.one, self.bn_one = nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.two, self.bn_two = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.shortcut = nn.Conv2d(4, 6, 1)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(6, 3)

    def maps(self, x: Tensor) -> dict[str, Tensor]:
        stem = self.stem(x).relu()
        one = self.bn_one(self.one(stem)).relu()
        out = (self.bn_two(self.two(one)) + self.shortcut(stem)).relu()
        return {"stem": stem, "one": one, "two": out, "shortcut": out, "head": self.head(out.mean((2, 3)))}

    def forward(self, x: Tensor) -> Tensor:
        stem = self.relu(self.stem(x))
        out = self.bn_two(self.two(self.relu(self.bn_one(self.one(stem)))))
        out = self.relu(out + self.shortcut(stem))
        return self.head(out.mean((2, 3)))


LAYERS = ("stem", "one", "two", "shortcut", "head")


@pytest.fixture
def network() -> Residual:
    torch.manual_seed(3)
    model = Residual()
    model.train()(torch.rand(32, 1, 8, 8))  # running statistics that are not the initial ones
    return model.train()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(10, 1, 8, 8, generator=torch.Generator().manual_seed(4))


def norms(matrices: Tensor) -> Tensor:
    return torch.linalg.svdvals(matrices.double()).sum(-1)


def expected(network: Residual, images: Tensor, variant: str) -> dict[str, Tensor]:
    """Per channel, one matrix at a time, by singular values."""
    network.eval()
    with torch.no_grad():
        maps = network.maps(images)
    network.train()
    result = {}
    for name, value in maps.items():
        value = value if value.dim() == 4 else value[:, :, None, None]
        B, K, H, W = value.shape
        if variant == "centred":
            value = value - value.mean(dim=0)
        if variant != "per_batch":
            rows = [sum(float(norms(value[b, c])) for b in range(B)) / B for c in range(K)]
        else:
            rows = [float(norms(value[:, c].reshape(B, H * W))) for c in range(K)]
        result[name] = torch.tensor(rows, dtype=torch.float64)
    return result


def rank_one(count: int, H: int, W: int) -> Tensor:
    return torch.rand(count, H, 1) * torch.rand(count, 1, W)


@pytest.mark.parametrize("size", [(8, 8), (5, 9), (9, 5), (2, 2), (1, 7), (1, 1), (14, 14), (128, 16)])
@pytest.mark.parametrize(
    "kind", ["random", "relu", "rank_1", "near_rank_1", "zero", "constant", "tiny", "huge", "float64"]
)
def test_nuclear_norm_equals_the_sum_of_singular_values(size: tuple[int, int], kind: str) -> None:
    torch.manual_seed(0)
    matrices = {
        "random": torch.randn(20, *size),
        "relu": torch.randn(20, *size).relu(),
        "rank_1": rank_one(20, *size),
        "near_rank_1": rank_one(20, *size) + 1e-6 * torch.randn(20, *size),
        "zero": torch.zeros(20, *size),
        "constant": torch.full((20, *size), 0.7),
        "tiny": 1e-25 * torch.randn(20, *size),
        "huge": 1e25 * torch.randn(20, *size),
        "float64": torch.randn(20, *size, dtype=torch.float64),
    }[kind]
    torch.testing.assert_close(nuclear_norms(matrices), norms(matrices), rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("size", [(64, 64), (32, 32), (17, 3)])
@pytest.mark.parametrize("count", [1, 63, 64, 65, 200])
def test_lanes_that_are_not_full_change_nothing(size: tuple[int, int], count: int) -> None:
    matrices = rank_one(count, *size) + torch.randn(count, *size).relu()
    torch.testing.assert_close(nuclear_norms(matrices), norms(matrices), rtol=1e-6, atol=0.0)


def test_threads_share_the_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    matrices = torch.randn(300, 6, 5)
    whole = nuclear_norms(matrices)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert torch.equal(nuclear_norms(matrices), whole)


def test_the_square_root_is_approximated_to_1e_8() -> None:
    poles, weights, slope = root_terms()
    values = torch.logspace(-30, 0, 20001, dtype=torch.float64).numpy()
    found = slope * values + (weights * values[:, None] / (values[:, None] + poles)).sum(1)
    assert abs(found - values**0.5).max() <= 1e-8
    assert poles.min() > 0


def test_a_column_that_rounding_leaves_does_not_overflow() -> None:
    matrices = rank_one(64, 16, 16)
    matrices[:, 3:] *= 1e-21  # products of two such entries are below float32
    torch.testing.assert_close(nuclear_norms(matrices), norms(matrices), rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_matrix_that_is_not_finite_has_no_finite_norm_and_spares_the_others(dtype: torch.dtype) -> None:
    matrices = torch.randn(5, 4, 6, dtype=dtype)
    true = norms(matrices)
    matrices[1, 3, 5], matrices[2, 0, 0] = torch.nan, torch.inf
    found = nuclear_norms(matrices)
    assert found.isfinite().tolist() == [True, False, False, True, True]
    torch.testing.assert_close(found[[0, 3, 4]], true[[0, 3, 4]], rtol=1e-5, atol=0.0)


def test_eigenvalues_that_do_not_converge_or_do_not_add_up_fall_back_to_singular_values(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    matrices = torch.randn(6, 4, 5, dtype=torch.float64)
    true = norms(matrices)

    def fails(gram: Tensor) -> Tensor:
        raise torch.linalg.LinAlgError("did not converge")

    eigvalsh = torch.linalg.eigvalsh

    def wrong_once(gram: Tensor) -> Tensor:
        values = eigvalsh(gram)
        values[2] *= 1.001
        return values

    for broken in (fails, wrong_once):
        monkeypatch.setattr(torch.linalg, "eigvalsh", broken)
        torch.testing.assert_close(nuclear_norms(matrices), true, rtol=1e-9, atol=0.0)


def test_many_matrices_are_taken_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    matrices = torch.randn(7, 4, 4, dtype=torch.float64)
    whole = nuclear_norms(matrices)
    monkeypatch.setattr("cosim.pruning.criteria.energy._CHUNK_ELEMENTS", 33)
    torch.testing.assert_close(nuclear_norms(matrices), whole, rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("variant", ["per_image", "per_batch", "centred"])
def test_every_layer_gets_the_energy_of_its_map_after_the_activation(
    network: Residual, images: Tensor, variant: str
) -> None:
    scores = score_layers(network, images, LAYERS, options=ScoreOptions(variant=variant))  # type: ignore[arg-type]
    assert list(scores) == list(LAYERS)
    for name, value in expected(network, images, variant).items():
        torch.testing.assert_close(scores[name], value, rtol=1e-5, atol=1e-9, msg=name)


def test_per_image_scores_do_not_depend_on_the_batches(network: Residual, images: Tensor) -> None:
    whole = score_layers(network, images, LAYERS)
    parts = score_layers(network, images, LAYERS, options=ScoreOptions(batch_size=3))
    loader = score_layers(network, [(images[:4], torch.zeros(4)), (images[4:], torch.zeros(6))], LAYERS)
    for name in LAYERS:
        torch.testing.assert_close(parts[name], whole[name], rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(loader[name], whole[name], rtol=1e-6, atol=1e-9)


def test_per_batch_scores_are_averaged_over_batches(network: Residual, images: Tensor) -> None:
    halves = [expected(network, half, "per_batch")["one"] for half in images.split(5)]
    scores = score_layers(network, images, ["one"], options=ScoreOptions("per_batch", batch_size=5))["one"]
    torch.testing.assert_close(scores, (halves[0] + halves[1]) / 2, rtol=1e-5, atol=1e-9)


def test_a_one_by_one_map_scores_its_mean_absolute_activation() -> None:
    activations = torch.randn(9, 4)
    torch.testing.assert_close(channel_energies(activations, "per_image"), activations.double().abs())
    tokens = torch.randn(9, 5, 4)
    torch.testing.assert_close(channel_energies(tokens, "per_image"), tokens.double().norm(dim=1))


@pytest.mark.parametrize("criterion", sorted(CRITERIA))
def test_every_criterion_keeps_the_contract(network: Residual, images: Tensor, criterion: str) -> None:
    before = {key: value.clone() for key, value in network.state_dict().items()}
    network.bn_one.eval()
    network.two.weight.requires_grad_(False)
    layers = ("one", "two") if criterion == "bn_scale" else LAYERS
    batches = [(images[:6], torch.arange(6) % 3), (images[6:], torch.arange(4) % 3)]
    measured = measure_scores(network, batches, layers, criterion, ScoreOptions(seed=5))
    again = score_layers(network, iter(batches), layers, criterion, seed=5)
    assert list(measured) == list(layers)
    for name, layer in measured.items():
        assert layer.score.shape == layer.half_width.shape == (network.get_submodule(name).weight.shape[0],)  # type: ignore[union-attr]
        assert layer.score.dtype == torch.float64
        assert not layer.score.requires_grad
        assert bool((layer.score >= 0).all())
        assert bool((layer.half_width >= 0).all())
        assert -1.0 <= layer.reliability <= 1.0
        assert torch.equal(layer.score, again[name])
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert network.training
    assert network.bn_two.training
    assert not network.bn_one.training
    assert [name for name, p in network.named_parameters() if not p.requires_grad] == ["two.weight"]
    assert all(p.grad is None for p in network.parameters())


@pytest.mark.parametrize("criterion", ["nuclear_norm", "hrank", "chip", "taylor", "hessian"])
@pytest.mark.parametrize("images", [torch.zeros(0, 1, 8, 8), [], [torch.zeros(0, 1, 8, 8)]])
def test_no_images_are_refused(network: Residual, images: object, criterion: str) -> None:
    with pytest.raises(PruningError, match="no images"):
        score_layers(network, images, LAYERS, criterion)  # type: ignore[arg-type]


@pytest.mark.parametrize("criterion", ["taylor", "hessian"])
def test_a_criterion_of_the_loss_asks_for_labels(network: Residual, images: Tensor, criterion: str) -> None:
    for unlabelled in (images, [images], [(images,)]):
        with pytest.raises(PruningError, match=rf"^{criterion} needs labels; give batches of \(images, labels\)"):
            score_layers(network, unlabelled, LAYERS, criterion)


@pytest.mark.parametrize("criterion", sorted({*CRITERIA} - {"random", "bn_scale", "hessian"}))
def test_what_is_not_finite_names_its_layer(network: Residual, images: Tensor, criterion: str) -> None:
    with torch.no_grad():
        network.one.weight[0] = float("nan")
    with pytest.raises(PruningError, match=r"^one: .*not finite"):
        score_layers(network, [(images, torch.zeros(10, dtype=torch.int64))], LAYERS, criterion)
    assert network.training


def test_bytes_are_not_taken_for_images(network: Residual) -> None:
    with pytest.raises(PruningError, match="are bytes; scale them"):
        score_layers(network, torch.zeros(4, 1, 8, 8, dtype=torch.uint8), LAYERS)


def test_weight_criteria_are_the_norms_of_the_filters(network: Residual) -> None:
    weight = network.one.weight.detach().double()
    scores = {name: score_layers(network, (), ["one"], name)["one"] for name in ("l1", "l2")}
    torch.testing.assert_close(scores["l1"], weight.abs().sum((1, 2, 3)))
    torch.testing.assert_close(scores["l2"], weight.square().sum((1, 2, 3)).sqrt())


def test_random_scores_of_a_layer_depend_on_seed_and_name_only(network: Residual) -> None:
    alone = score_layers(network, (), ["two"], "random", seed=1)["two"]
    together = score_layers(network, (), LAYERS, "random", seed=1)
    assert torch.equal(alone, together["two"])
    assert not torch.equal(together["two"], together["shortcut"])
    assert not torch.equal(alone, score_layers(network, (), ["two"], "random", seed=2)["two"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["stem"], "nuclear_nrom"), 'did you mean "nuclear_norm"'),
        ((["setm"], "l1"), 'setm: .*did you mean "stem"'),
        ((["bn_one"], "l1"), "bn_one: no Conv2d or Linear"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(network: Residual, arguments: tuple, message: str) -> None:
    with pytest.raises(PruningError, match=message):
        score_layers(network, torch.rand(1, 1, 8, 8), *arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "per_pixel"}, 'variant = "per_pixel"'),
        ({"where": "before"}, 'where = "before"'),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"probes": 0}, "probes = 0"),
        ({"stable": 1.1}, "stable = 1.1"),
    ],
)
def test_an_option_outside_its_range_is_refused(options: dict, message: str) -> None:
    with pytest.raises(PruningError, match=message):
        ScoreOptions(**options)


def test_a_network_that_cannot_be_traced_says_so() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) if x.sum() > 0 else x

    with pytest.raises(UntraceableError, match="Branching cannot be traced"):
        score_layers(Branching(), torch.rand(1, 1, 2, 2), ["conv"])


def test_a_layer_called_twice_has_no_single_map() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(self.conv(x).relu())

    with pytest.raises(PruningError, match="conv: called 2 times"):
        score_layers(Twice(), torch.rand(1, 1, 2, 2), ["conv"])


@pytest.mark.parametrize(
    ("layers", "node"),
    [
        ([nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU6(), nn.ReLU()], "_2"),
        ([nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.ReLU()], "_2"),
        ([nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(72, 2), nn.ReLU()], "_1"),
        ([nn.Conv2d(1, 2, 3)], "_0"),
    ],
)
def test_the_map_is_the_first_activation_or_the_layers_own_output(layers: list[nn.Module], node: str) -> None:
    assert activation_nodes(nn.Sequential(*layers), ["0"])[1]["0"].name == node


def test_before_the_add_a_branch_has_its_own_map(network: Residual, images: Tensor) -> None:
    nodes = activation_nodes(network, LAYERS, "before_add")[1]
    assert [nodes[name].name for name in ("two", "shortcut", "one")] == ["bn_two", "shortcut", "relu_1"]
    scores = score_layers(network, images, ("two", "shortcut"), options=ScoreOptions(where="before_add"))
    assert not torch.equal(scores["two"], scores["shortcut"])


def test_combined_scores_give_every_layer_the_same_vote() -> None:
    combined = combine_scores([torch.tensor([1.0, 3.0]), torch.tensor([600.0, 200.0]), torch.zeros(2)])
    torch.testing.assert_close(combined, torch.tensor([(0.5 + 1.5) / 3, (1.5 + 0.5) / 3], dtype=torch.float64))
    for wrong in ([], [torch.ones(2), torch.ones(3)]):
        with pytest.raises(PruningError, match="cannot be combined"):
            combine_scores(wrong)


def test_scores_are_weighed_by_all_weights_that_read_the_channel(network: Residual) -> None:
    groups = trace_channel_groups(network.eval(), torch.zeros(1, 1, 8, 8))
    scores = {name: torch.arange(1.0, 1 + network.get_submodule(name).weight.shape[0]) for name in LAYERS}
    found = weigh_by_readers(network, groups, scores)
    one = torch.sqrt(network.one.weight.square().sum((0, 2, 3)) + network.shortcut.weight.square().sum((0, 2, 3)))
    torch.testing.assert_close(found["stem"], (scores["stem"] * one).double(), rtol=1e-6, atol=0)
    stream = network.head.weight.norm(dim=0)
    for name in ("two", "shortcut"):
        torch.testing.assert_close(found[name], (scores[name] * stream).double(), rtol=1e-6, atol=0)
    assert torch.equal(found["head"], scores["head"].double())  # nothing reads the logits
