"""What a network says and how often it is right: plain and folded, and statistics made anew."""

import copy

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  the usual name
from torch import nn

from cosim.data import Augmentation, Split, load_synthetic
from cosim.errors import TrainingError
from cosim.training import FitOptions, Recipe, evaluate, fit, predict, recalibrate_batchnorm
from cosim.training.running import folded, judging_batch
from tests.cosim.conftest import flat_state, small_network

pytestmark = pytest.mark.usefixtures("one_thread")


def test_evaluate_equals_a_plain_loop_and_keeps_the_mode(small):
    network = small_network().train()
    network.bn1.eval()
    accuracy = evaluate(network, small, batch_size=37)
    assert network.training
    assert not network.bn1.training
    network.eval()
    hits = sum(int(network(small.images[i : i + 1]).argmax()) == int(small.labels[i]) for i in range(len(small)))
    assert accuracy == hits / len(small)


def test_predict_does_not_change_the_model_and_its_logits_can_be_trained_on(small):
    network = small_network()
    before = flat_state(network)
    logits = predict(network, small, batch_size=50)
    assert torch.equal(before, flat_state(network))
    assert logits.shape == (130, 10)
    fit(small_network(1), small, Recipe(epochs=1), seed=0, options=FitOptions(teacher=logits))


def test_recalibration_gives_the_exact_statistics_of_the_data(small):
    network = small_network().eval()
    fit(network, small, Recipe(epochs=1), seed=0)
    weights = [p.clone() for p in network.parameters()]
    recalibrate_batchnorm(network, small)
    stem = network.conv1(small.images).detach().double()
    assert torch.allclose(network.bn1.running_mean.double(), stem.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(network.bn1.running_var.double(), stem.var((0, 2, 3)), rtol=1e-4)
    inner = network.stages[0].conv1(F.relu(network.bn1(network.conv1(small.images)))).detach().double()
    assert torch.allclose(network.stages[0].bn1.running_mean.double(), inner.mean((0, 2, 3)), atol=1e-4)
    assert all(torch.equal(a, b) for a, b in zip(weights, network.parameters(), strict=True))


def test_recalibration_averages_batches_and_restores_mode_and_momentum(small):
    network = small_network().train()
    recalibrate_batchnorm(network, small, batch_size=65)
    order = torch.randperm(130, generator=torch.Generator().manual_seed(0))
    stem = network.conv1(small.images[order]).detach()
    variance = (stem[:65].var((0, 2, 3)) + stem[65:].var((0, 2, 3))) / 2
    assert torch.allclose(network.bn1.running_var, variance, rtol=1e-4)
    assert network.bn1.momentum == 0.1
    assert network.bn1.training


def test_recalibration_draws_its_images_by_the_seed(small):
    means = []
    for seed in (0, 0, 1):
        network = small_network()
        recalibrate_batchnorm(network, small, images=20, seed=seed)
        means.append(network.bn1.running_mean.clone())
    assert torch.equal(means[0], means[1])
    assert not torch.equal(means[0], means[2])


def test_recalibration_sees_the_images_as_training_does():
    """A white image of 8 x 8 padded by 2 keeps (8 - |shift|) / 8 of its rows, shifts of -2 to 2: 6.8 of 8."""
    white = Split(torch.ones(4000, 1, 8, 8), torch.zeros(4000, dtype=torch.long))
    norm = nn.Sequential(nn.BatchNorm2d(1))
    recalibrate_batchnorm(norm, white)
    assert norm[0].running_mean.item() == 1.0
    recalibrate_batchnorm(norm, white, augmentation=Augmentation(2, flip=True))
    assert norm[0].running_mean.item() == pytest.approx((6.8 / 8) ** 2, abs=0.005)


def test_recalibration_of_one_image_is_refused(small):
    with pytest.raises(TrainingError, match="at least 2 images"):
        recalibrate_batchnorm(small_network(), small, images=1)


def test_recalibration_rescues_a_network_with_stale_statistics(digits):
    network = small_network()
    recipe = Recipe(epochs=4, lr=3e-3, optimizer="adam")
    fit(network, digits.train, recipe, seed=0)
    stale = copy.deepcopy(network)
    for module in stale.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.add_(3.0)
    broken = evaluate(stale, digits.validation)
    recalibrate_batchnorm(stale, digits.train)
    assert evaluate(stale, digits.validation) > max(broken + 0.2, evaluate(network, digits.validation) - 0.03)


@pytest.fixture(scope="module")
def many():
    """More images than are judged as they stand."""
    return load_synthetic(shape=(1, 8, 8), images=8400).test


def _settled(split):
    network = small_network()
    recalibrate_batchnorm(network, split)
    return network


@pytest.mark.parametrize("threads", [1, 2])
def test_many_images_are_judged_as_by_a_plain_loop(many, threads):
    assert len(many) > 2000
    network = _settled(many).train()
    before = flat_state(network)
    torch.set_num_threads(threads)
    accuracy = evaluate(network, many)
    assert torch.get_num_threads() == threads
    assert network.training
    assert torch.equal(before, flat_state(network))
    with torch.no_grad():
        hits = network.eval()(many.batch(slice(None))).argmax(1) == many.labels
    assert accuracy == int(hits.sum()) / len(many)


def test_a_folded_network_has_no_normalisation_left_and_the_same_logits(many):
    network = _settled(many).eval()
    images = many.batch(slice(0, 50))
    with torch.inference_mode():
        faster = folded(network, images)
        torch.testing.assert_close(faster(images), network(images), rtol=1e-4, atol=1e-5)
    assert not any(
        node.target.rpartition(".")[2].startswith("bn") for node in faster.graph.nodes if node.op == "call_module"
    )
    assert any(isinstance(module, nn.BatchNorm2d) for module in network.modules())


class _Twice(nn.Module):
    """One convolution before two normalisations: it cannot take in both."""

    def __init__(self):
        super().__init__()
        self.conv, self.first, self.second = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.second.running_mean += 3

    def forward(self, x):
        return (self.first(self.conv(x)) + self.second(self.conv(x * 2))).mean((2, 3))


class _Branching(_Twice):
    def forward(self, x):
        return super().forward(x if x.sum() > 0 else x * 2)


def test_networks_that_cannot_be_folded_are_judged_as_they_are(many):
    images = many.batch(slice(0, 20))
    with torch.inference_mode():
        twice = _Twice().eval()
        torch.testing.assert_close(folded(twice, images)(images), twice(images))
        branching, watched = _Branching().eval(), small_network().eval()
        assert folded(branching, images) is branching
        watched.conv1.register_forward_hook(lambda module, args, output: None)
        assert folded(watched, images) is watched


def test_judging_takes_smaller_batches_where_the_tensors_are_larger():
    with torch.inference_mode():
        sizes = [judging_batch(nn.Conv2d(1, 8, 1), torch.zeros(1, 1, side, side)) for side in (8, 64, 1024)]
    assert sizes == [512, 32, 16]
