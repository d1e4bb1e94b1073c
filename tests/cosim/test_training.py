import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  the usual name
from torch import nn

from cosim.data import Augmentation, Loader, Normalization, Split
from cosim.errors import ConfigError, TrainingError
from cosim.training import FitOptions, Recipe, evaluate, fit, predict
from tests.cosim.conftest import flat_state, small_network

pytestmark = pytest.mark.usefixtures("one_thread")


def _trained(split, seed, recipe=None, **options):
    network = small_network()
    fit(network, split, recipe or Recipe(epochs=2), seed=seed, **options)
    return flat_state(network)


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
    network = small_network()
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
    fit(small_network(), small, Recipe(epochs=2, batch_size=65), seed=0, on_step=heard.append)
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
    network = small_network()
    network.conv1.weight.requires_grad_(False)
    before = network.conv1.weight.clone()
    fit(network, small, Recipe(epochs=1), seed=0)
    assert torch.equal(before, network.conv1.weight)


def test_distillation_follows_the_teacher_instead_of_the_labels(small):
    wrong = F.one_hot((small.labels + 1) % 10, 10).float() * 20
    network = small_network()
    fit(
        network,
        small,
        Recipe(epochs=16, batch_size=32, lr=0.05, distill_weight=1.0),
        seed=0,
        options=FitOptions(teacher=wrong),
    )
    taught = Split(small.images, wrong.argmax(1))
    assert evaluate(network, taught) > 0.8
    assert evaluate(network, small) < 0.2


def test_teacher_logits_of_another_split_are_refused(small):
    with pytest.raises(TrainingError, match="5 teacher logits for 130 images"):
        fit(small_network(), small, Recipe(epochs=1), seed=0, options=FitOptions(teacher=torch.zeros(5, 10)))


def test_a_last_batch_of_one_image_joins_its_neighbour(digits):
    split = Split(digits.train.images[:65], digits.train.labels[:65])
    heard = []
    fit(small_network(), split, Recipe(epochs=1, batch_size=64), seed=0, on_step=heard.append)
    assert heard == [0.0]


def test_diverged_training_names_epoch_and_remedy(small):
    with pytest.raises(TrainingError, match=r"in epoch 1 of 3 \(lr 0\.1.*use a smaller lr"):
        fit(small_network(), small, Recipe(epochs=3), seed=0, penalty=lambda model: model.linear.bias.sum() * math.nan)


@pytest.mark.parametrize("judge", [predict, evaluate])
def test_empty_splits_are_refused(judge, small):
    empty = Split(small.images[:0], small.labels[:0])
    with pytest.raises(TrainingError, match="holds no image"):
        judge(small_network(), empty)
    with pytest.raises(TrainingError, match="holds no image"):
        fit(small_network(), empty, Recipe(epochs=1), seed=0)


@pytest.mark.parametrize(
    ("field", "value"),
    [("epochs", -1), ("batch_size", 0), ("lr", 0.0), ("optimizer", "lbfgs"), ("momentum", 1.0), ("schedule", "steps"),
     ("weight_decay", -1.0), ("distill_weight", 2.0), ("distill_temperature", 0.0), ("crop_padding", -1)],
)  # fmt: skip
def test_recipe_refuses_values_out_of_range(field, value):
    with pytest.raises(TrainingError, match=f"recipe: {field} is"):
        Recipe(**{"epochs": 1, field: value})


def test_a_teacher_network_teaches_what_its_logits_teach(small):
    teacher = small_network(1)
    fit(teacher, small, Recipe(epochs=2), seed=1)
    by_network = _trained(small, 0, options=FitOptions(teacher=teacher))
    by_logits = _trained(small, 0, options=FitOptions(teacher=predict(teacher, small)))
    assert torch.equal(by_network, by_logits)
    assert not torch.equal(by_network, _trained(small, 0))


def test_a_teacher_sees_the_augmented_images_and_stays_as_it_is(small):
    teacher = small_network(1).train()
    before = flat_state(teacher)
    seen = []
    teacher.register_forward_hook(lambda module, args, output: seen.append((args[0].clone(), module.training)))
    recipe = Recipe(epochs=1, batch_size=65, crop_padding=1)
    fit(small_network(), small, recipe, seed=0, options=FitOptions(teacher=teacher))
    order = torch.randperm(130, generator=torch.Generator().manual_seed(0))
    expected = [
        batch.images for batch in Loader(small, 65, seed=0, augmentation=Augmentation(1, False)).epoch(0, order)
    ]
    assert [training for _, training in seen] == [False, False]
    assert all(torch.equal(images, other) for (images, _), other in zip(seen, expected, strict=True))
    assert torch.equal(before, flat_state(teacher))
    assert teacher.training


def test_logits_of_a_teacher_are_refused_for_augmented_images(small):
    options = FitOptions(teacher=torch.zeros(130, 10))
    with pytest.raises(TrainingError, match="do not fit augmented images; give the teacher itself"):
        fit(small_network(), small, Recipe(epochs=1, crop_padding=1), seed=0, options=options)


class _StopError(Exception):
    pass


def _stop_after(epoch):
    def on_epoch(number, loss):
        if number == epoch:
            raise _StopError

    return on_epoch


def _with_dropout():
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(288, 10)]
    return nn.Sequential(*layers)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_an_interrupted_training_ends_with_the_bits_of_an_uninterrupted_one(small, tmp_path, optimizer):
    recipe = Recipe(epochs=4, batch_size=32, lr=0.01, optimizer=optimizer, crop_padding=1, flip=True)
    whole = _with_dropout()
    losses = fit(whole, small, recipe, seed=7)
    path = tmp_path / "run" / "checkpoint.pt"
    with pytest.raises(_StopError):
        fit(_with_dropout(), small, recipe, seed=7, options=FitOptions(checkpoint=path, on_epoch=_stop_after(2)))
    resumed = _with_dropout()
    for parameter in resumed.parameters():
        nn.init.zeros_(parameter)  # everything comes from the file
    assert fit(resumed, small, recipe, seed=7, options=FitOptions(checkpoint=path)) == losses
    assert torch.equal(flat_state(resumed), flat_state(whole))
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_finished_training_is_read_and_not_repeated(small, tmp_path):
    options = FitOptions(checkpoint=tmp_path / "c.pt")
    first, again, heard = small_network(), small_network(1), []
    losses = fit(first, small, Recipe(epochs=2), seed=0, options=options)
    assert fit(again, small, Recipe(epochs=2), seed=0, on_step=heard.append, options=options) == losses
    assert torch.equal(flat_state(first), flat_state(again))
    assert heard == []


@pytest.mark.parametrize(
    ("changes", "seed", "message"),
    [({"lr": 0.05}, 0, r"lr 0\.1, not 0\.05"), ({}, 1, "seed 0, not 1"), ({"epochs": 3}, 0, "epochs 2, not 3")],
)
def test_a_checkpoint_of_another_training_is_refused(small, tmp_path, changes, seed, message):
    options = FitOptions(checkpoint=tmp_path / "c.pt")
    fit(small_network(), small, Recipe(epochs=2), seed=0, options=options)
    with pytest.raises(ConfigError, match=message):
        fit(small_network(), small, Recipe(**{"epochs": 2, **changes}), seed=seed, options=options)


def test_checkpoints_that_are_damaged_or_of_another_network_are_refused_by_name(small, tmp_path):
    path = tmp_path / "c.pt"
    fit(small_network(), small, Recipe(epochs=1), seed=0, options=FitOptions(checkpoint=path))
    with pytest.raises(ConfigError, match=r"c\.pt: is of another network"):
        fit(_with_dropout(), small, Recipe(epochs=1), seed=0, options=FitOptions(checkpoint=path))
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ConfigError, match=r"c\.pt: is damaged"):
        fit(small_network(), small, Recipe(epochs=1), seed=0, options=FitOptions(checkpoint=path))
    torch.save({"weights": torch.zeros(1)}, path)
    with pytest.raises(ConfigError, match=r"c\.pt: is no checkpoint"):
        fit(small_network(), small, Recipe(epochs=1), seed=0, options=FitOptions(checkpoint=path))


def test_on_epoch_hears_number_and_loss(small):
    heard = []
    losses = fit(
        small_network(), small, Recipe(epochs=3), seed=0, options=FitOptions(on_epoch=lambda *args: heard.append(args))
    )
    assert heard == list(enumerate(losses, start=1))


def test_pixels_train_as_the_same_images_scaled(small):
    pixels = torch.randint(0, 256, (64, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    constants = Normalization((0.25,), (0.5,))
    scaled = Split((pixels / 255 - 0.25) / 0.5, small.labels[:64])
    ours = _trained(Split(pixels, small.labels[:64], constants), 0, Recipe(epochs=1, batch_size=64))
    torch.testing.assert_close(ours, _trained(scaled, 0, Recipe(epochs=1, batch_size=64)), rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_training_on_a_gpu_reaches_the_accuracy_of_a_dense_network(digits, tmp_path):
    network = small_network().cuda()
    recipe = Recipe(epochs=6, lr=3e-3, optimizer="adam", schedule="warmup_cosine", crop_padding=1)
    fit(network, digits.train, recipe, seed=0, options=FitOptions(checkpoint=tmp_path / "c.pt"))
    assert evaluate(network, digits.validation) > 0.9
