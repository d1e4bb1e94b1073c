import copy
import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  the usual name
from torch import nn

from cosim.data import Split, load_digits
from cosim.errors import TrainingError
from cosim.networks import build_network
from cosim.training import Recipe, evaluate, fit, predict, recalibrate_batchnorm


@pytest.fixture(autouse=True)
def _one_thread():
    """Threads only wait for each other on networks this small, and far longer where other tests run beside."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def digits():
    return load_digits(seed=0)


@pytest.fixture(scope="module")
def small(digits):
    return Split(digits.train.images[:130], digits.train.labels[:130])


def _network(seed=0):
    return build_network("digits_resnet", seed)


def _flat(model):
    return torch.cat([value.double().flatten() for value in model.state_dict().values()])


def _trained(split, seed, recipe=None, **options):
    network = _network()
    fit(network, split, recipe or Recipe(epochs=2), seed=seed, **options)
    return _flat(network)


def test_same_seed_same_weights_and_other_seed_other_weights(small):
    assert torch.equal(_trained(small, 0), _trained(small, 0))
    assert not torch.equal(_trained(small, 0), _trained(small, 1))


def test_training_leaves_the_global_random_state_and_does_not_read_it(small):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = _trained(small, 0)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert torch.equal(first, _trained(small, 0))


def test_draws_inside_the_model_hang_on_the_seed(small):
    def weights(seed):
        network = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10))
        with torch.no_grad():
            network[2].weight.zero_()
            network[2].bias.zero_()
        fit(network, Split(small.images[:8], small.labels[:8]), Recipe(epochs=1, batch_size=8), seed=seed)
        return network[2].weight.detach()  # one batch: only dropout differs

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


def test_training_reaches_the_accuracy_of_a_dense_network(digits):
    network = _network()
    recipe = Recipe(epochs=6, lr=3e-3, optimizer="adam", weight_decay=1e-2, schedule="warmup_cosine")
    losses = fit(network, digits.train, recipe, seed=0)
    assert len(losses) == 6
    assert losses[-1] < 0.1 < losses[0]
    assert evaluate(network, digits.validation) > 0.93


def test_sgd_equals_a_plain_loop(small):
    """One epoch in one batch: Nesterov momentum on the mean cross entropy, decay on matrices only."""
    ours, plain = (nn.Sequential(nn.Flatten(), nn.Linear(64, 10)) for _ in range(2))
    plain.load_state_dict(ours.state_dict())
    recipe = Recipe(epochs=3, batch_size=len(small), lr=0.1, momentum=0.9, weight_decay=0.01, schedule="constant")
    fit(ours, small, recipe, seed=0)
    velocity = [torch.zeros_like(p) for p in plain.parameters()]
    for _ in range(3):
        gradients = torch.autograd.grad(F.cross_entropy(plain(small.images), small.labels), list(plain.parameters()))
        with torch.no_grad():
            for parameter, gradient, v in zip(plain.parameters(), gradients, velocity, strict=True):
                gradient = gradient + (0.01 * parameter if parameter.dim() > 1 else 0.0)
                v.mul_(0.9).add_(gradient)
                parameter -= 0.1 * (gradient + 0.9 * v)
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [1.0, 1.0, 1.0, 1.0]),
        ("linear", [1.0, 0.75, 0.5, 0.25]),
        ("cosine", [1.0, 0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125)]),
    ],
)
def test_schedules_set_the_size_of_each_step(small, schedule, expected):
    """A loss whose gradient is 1 everywhere moves the weight by the learning rate."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    path = []
    recipe = Recipe(
        epochs=2, batch_size=65, lr=0.5, momentum=0.0, weight_decay=0.0, schedule=schedule, distill_weight=0.0
    )
    bias = network[1].bias

    def penalty(model):
        return 1e6 * bias.sum()

    fit(network, small, recipe, seed=0, penalty=penalty, on_step=lambda done: path.append(bias[0].item()))
    moved = [(a - b) / (0.5 * 1e6) for a, b in zip(path, [*path[1:], bias[0].item()], strict=True)]
    assert moved == pytest.approx(expected, rel=1e-4)


def test_on_step_hears_the_share_of_the_training(small):
    heard = []
    fit(_network(), small, Recipe(epochs=2, batch_size=65), seed=0, on_step=heard.append)
    assert heard == [0.0, 0.25, 0.5, 0.75]


def test_scaled_parameters_learn_faster_and_do_not_decay(small):
    def moved(lr_scale, weight_decay):
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        nn.init.ones_(network[1].weight)
        nn.init.zeros_(network[1].bias)
        recipe = Recipe(1, len(small), 1e-3, momentum=0.0, weight_decay=weight_decay, lr_scale=lr_scale)
        fit(network, small, recipe, seed=0)
        return network[1].weight.detach() - 1

    base = moved((), 0.0)
    scaled = moved((("1.weight", 10.0),), 5.0)
    torch.testing.assert_close(scaled, 10 * base, rtol=1e-2, atol=1e-5)
    assert (moved((), 5.0) - base).mean() == pytest.approx(-5e-3, rel=1e-2)


def test_frozen_parameters_stay(small):
    network = _network()
    network.conv1.weight.requires_grad_(False)
    before = network.conv1.weight.clone()
    fit(network, small, Recipe(epochs=1), seed=0)
    assert torch.equal(before, network.conv1.weight)


def test_distillation_follows_the_teacher_instead_of_the_labels(small):
    wrong = F.one_hot((small.labels + 1) % 10, 10).float() * 20
    network = _network()
    fit(network, small, Recipe(epochs=16, batch_size=32, lr=0.05, distill_weight=1.0), seed=0, teacher_logits=wrong)
    taught = Split(small.images, wrong.argmax(1))
    assert evaluate(network, taught) > 0.8
    assert evaluate(network, small) < 0.2


def test_teacher_logits_of_another_split_are_refused(small):
    with pytest.raises(TrainingError, match="5 teacher logits for 130 images"):
        fit(_network(), small, Recipe(epochs=1), seed=0, teacher_logits=torch.zeros(5, 10))


def test_a_last_batch_of_one_image_joins_its_neighbour(digits):
    split = Split(digits.train.images[:65], digits.train.labels[:65])
    heard = []
    fit(_network(), split, Recipe(epochs=1, batch_size=64), seed=0, on_step=heard.append)
    assert heard == [0.0]


def test_diverged_training_names_epoch_and_remedy(small):
    with pytest.raises(TrainingError, match=r"in epoch 1 of 3 \(lr 0\.1.*use a smaller lr"):
        fit(_network(), small, Recipe(epochs=3), seed=0, penalty=lambda model: model.linear.bias.sum() * math.nan)


@pytest.mark.parametrize("judge", [predict, evaluate])
def test_empty_splits_are_refused(judge, small):
    empty = Split(small.images[:0], small.labels[:0])
    with pytest.raises(TrainingError, match="holds no image"):
        judge(_network(), empty)
    with pytest.raises(TrainingError, match="holds no image"):
        fit(_network(), empty, Recipe(epochs=1), seed=0)


@pytest.mark.parametrize(
    ("field", "value"),
    [("epochs", -1), ("batch_size", 0), ("lr", 0.0), ("optimizer", "lbfgs"), ("momentum", 1.0), ("schedule", "steps"),
     ("weight_decay", -1.0), ("distill_weight", 2.0), ("distill_temperature", 0.0)],
)  # fmt: skip
def test_recipe_refuses_values_out_of_range(field, value):
    with pytest.raises(TrainingError, match=f"recipe: {field} is"):
        Recipe(**{"epochs": 1, field: value})


def test_evaluate_equals_a_plain_loop_and_keeps_the_mode(small):
    network = _network().train()
    network.bn1.eval()
    accuracy = evaluate(network, small, batch_size=37)
    assert network.training
    assert not network.bn1.training
    network.eval()
    hits = sum(int(network(small.images[i : i + 1]).argmax()) == int(small.labels[i]) for i in range(len(small)))
    assert accuracy == hits / len(small)


def test_predict_does_not_change_the_model_and_its_logits_can_be_trained_on(small):
    network = _network()
    before = _flat(network)
    logits = predict(network, small, batch_size=50)
    assert torch.equal(before, _flat(network))
    assert logits.shape == (130, 10)
    fit(_network(1), small, Recipe(epochs=1), seed=0, teacher_logits=logits)


def test_recalibration_gives_the_exact_statistics_of_the_data(small):
    network = _network().eval()
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
    network = _network().train()
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
        network = _network()
        recalibrate_batchnorm(network, small, images=20, seed=seed)
        means.append(network.bn1.running_mean.clone())
    assert torch.equal(means[0], means[1])
    assert not torch.equal(means[0], means[2])


def test_recalibration_of_one_image_is_refused(small):
    with pytest.raises(TrainingError, match="at least 2 images"):
        recalibrate_batchnorm(_network(), small, images=1)


def test_recalibration_rescues_a_network_with_stale_statistics(digits):
    network = _network()
    recipe = Recipe(epochs=4, lr=3e-3, optimizer="adam")
    fit(network, digits.train, recipe, seed=0)
    stale = copy.deepcopy(network)
    for module in stale.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.add_(3.0)
    broken = evaluate(stale, digits.validation)
    recalibrate_batchnorm(stale, digits.train)
    assert evaluate(stale, digits.validation) > max(broken + 0.2, evaluate(network, digits.validation) - 0.03)
