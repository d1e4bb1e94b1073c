"""predict, evaluate, recalibrate_batchnorm: what a network says, how often it is right, what its statistics are."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cosim.data.batches import Augmentation, Loader
from cosim.data.dataset import Split
from cosim.errors import TrainingError
from cosim.training.running import device_of, folded, judging_batch, mode, refuse_empty

_FEW = 2000
"""Images below which folding and measuring the network cost more than they gain."""
_BATCH = 512
"""Batch for few images."""
_SAMPLE = 32
"""Images on which a folded network is compared with the one given."""


def predict(model: nn.Module, split: Split, batch_size: int | None = None) -> Tensor:
    """Logits of every image, in eval mode.

    Parameters
    ----------
    batch_size : int, >= 1, optional
        By default 512 for up to 2,000 images, and for more the batch whose tensors stay in the cache.

    Returns
    -------
    Tensor [N, classes]

    Raises
    ------
    TrainingError
        The split is empty.
    """
    refuse_empty(split)
    data = split.to(device_of(model))
    with mode(model, training=False), torch.inference_mode():
        logits = _logits(model, data, batch_size or _batch_for(model, data))
    return logits.clone()  # an inference tensor could not be used in a later training


def evaluate(model: nn.Module, split: Split, batch_size: int | None = None) -> float:
    """Top-1 accuracy in [0, 1].

    For more than 2,000 images on a CPU, a copy of the network runs whose batch normalisations are folded into the
    convolutions (and that was seen to give the same logits for 32 of the images), one batch on each of torch's threads:
    they never wait for each other, as they do at every layer where they share one batch.

    Parameters
    ----------
    batch_size : int, >= 1, optional
        As for `predict`.

    Raises
    ------
    TrainingError
        The split is empty.
    """
    refuse_empty(split)
    data = split.to(device_of(model))
    with mode(model, training=False), torch.inference_mode():
        size = batch_size or _batch_for(model, data)
        many = len(split) > _FEW and data.images.device.type == "cpu"
        fast = folded(model, data.batch(slice(0, _SAMPLE))) if many else model
        logits = _logits(model, data, size) if fast is model else _parallel_logits(fast, data, size)
        hits = logits.argmax(1) == data.labels
    return int(hits.sum()) / len(split)


def recalibrate_batchnorm(
    model: nn.Module,
    split: Split,
    *,
    augmentation: Augmentation | None = None,
    images: int | None = None,
    batch_size: int = 1024,
    seed: int = 0,
) -> None:
    """Replace the running statistics of every batch normalisation by those of the data; weights stay as they are.

    The statistics are the plain average over batches of nearly equal size, so with one batch (the default up to
    1,024 images) they are the mean and the unbiased variance of the data, exactly.

    Weights fit the statistics that they were trained with: give the augmentation of that training. On plain images a
    ResNet-20 trained on padded crops of CIFAR-10 falls from 91.7 to 88.9 %, with nothing removed: black borders are a
    quarter of the variance of its first layer.

    Parameters
    ----------
    model : nn.Module
        Changed in place; modes and momenta are as before afterwards.
    split : Split
        Its labels are not used.
    augmentation : Augmentation, optional
        Crops and flips drawn by the seed; none by default.
    images : int, >= 2, optional
        Use that many images, drawn by the seed; all by default.
    batch_size : int, >= 2
        Largest batch.

    Raises
    ------
    TrainingError
        Fewer than two images.
    """
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))[:images]
    if len(order) < 2:
        raise TrainingError(f"batch normalisation needs at least 2 images to recalibrate, got {len(order)}; give more")
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    if images is not None:  # the loader pads and mirrors all that it is given
        split, order = split.part(order), torch.arange(len(order))
    size = math.ceil(len(order) / math.ceil(len(order) / batch_size))
    loader = Loader(split.to(device_of(model)), size, seed=seed, augmentation=augmentation)
    with mode(model, training=False), torch.no_grad():
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
            norm.training = True
        for batch in loader.epoch(0, order):
            model(batch.images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def _batch_for(model: nn.Module, data: Split) -> int:
    return _BATCH if len(data) <= _FEW else judging_batch(model, data.batch(slice(0, 1)))


def _logits(model: nn.Module, data: Split, batch_size: int) -> Tensor:
    starts = range(0, len(data), batch_size)
    return torch.cat([model(data.batch(slice(start, start + batch_size))) for start in starts])


def _parallel_logits(model: nn.Module, data: Split, batch_size: int) -> Tensor:
    """As `_logits`, one batch a thread; only for a model that keeps no state from its forward pass."""
    threads = torch.get_num_threads()
    if threads == 1:
        return _logits(model, data, batch_size)

    def judge(start: int) -> Tensor:
        with torch.inference_mode():  # a mode of the thread
            return model(data.batch(slice(start, start + batch_size)))

    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return torch.cat(list(pool.map(judge, range(0, len(data), batch_size))))
    finally:
        torch.set_num_threads(threads)  # the workers' number is also that of threads to come
