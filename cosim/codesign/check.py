"""What can be refused before anything is trained: names, shapes, the space, limits that no design keeps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice, product
from typing import Any

import torch
from torch import nn

from accel_models.accelerator import load_accelerator
from accel_models.energy import area_by_part
from cosim.codesign.design import network_facts, search_space, set_hardware
from cosim.codesign.study import HardwareSpec, StudySpec
from cosim.data import Dataset, load_dataset
from cosim.errors import ConfigError, CosimError
from cosim.networks import build_network
from cosim.pruning.coupling import trace_channel_groups
from search import SearchError

MAX_ARRAYS = 20_000
"""Hardware combinations, buffers apart, up to which the least area is looked for."""


def check_study(spec: StudySpec, where: str = "study") -> None:
    """Refuse a study that would fail or find nothing.

    Parameters
    ----------
    where
        Origin of the study in messages.

    Raises
    ------
    ConfigError
        The message names origin, field and remedy.
    """
    network = _named(f"{where}: network", lambda: build_network(spec.network, spec.seed))
    data = _named(f"{where}: dataset", lambda: load_dataset(spec.dataset, spec.seed))
    example = _named(f"{where}: network", lambda: check_images(network, spec.network, data))
    groups = _named(f"{where}: network", lambda: trace_channel_groups(network, example))
    _named(where, lambda: search_space(spec, network_facts(spec.network, network, groups)))
    area = least_area_mm2(spec.hardware, spec.limits.area_mm2)
    if area is not None and area > spec.limits.area_mm2:
        raise ConfigError(
            f"{where}: limits.area_mm2: {spec.limits.area_mm2:g} mm2 is less than the {area:.4g} mm2 of the smallest "
            "design in hardware.vary; raise the limit or offer smaller arrays and buffers"
        )


def _named(where: str, make: Any) -> Any:
    """What `make` returns; errors get the field in front."""
    try:
        return make()
    except (CosimError, SearchError) as error:
        raise ConfigError(f"{where}: {error}") from error


def check_images(model: nn.Module, name: str, data: Dataset) -> torch.Tensor:
    """An image of the data set in zeros [1, C, H, W], after the network took it.

    Raises
    ------
    ConfigError
        The network does not take such images, or has another number of outputs than the data set has classes.
    """
    example = torch.zeros(1, *data.input_shape)
    training = model.training
    try:
        with torch.no_grad():
            shape = tuple(model.eval()(example).shape)
    except RuntimeError as error:
        raise ConfigError(
            f"network {name!r} takes no images {list(data.input_shape)} of data set {data.name!r}: "
            f"{str(error).splitlines()[0]}; choose another network or data set"
        ) from error
    finally:
        model.train(training)
    if shape != (1, data.classes):
        raise ConfigError(
            f"network {name!r} has outputs {list(shape[1:])}, data set {data.name!r} {data.classes} classes; "
            "choose another network or data set"
        )
    return example


def least_area_mm2(hardware: HardwareSpec, enough: float) -> float | None:
    """Area of the smallest design, or of the first one found that is no larger than `enough`.

    A buffer's own keys change nothing but its area, so each buffer is made smallest for itself.

    Returns
    -------
    float or None
        None where there are more than `MAX_ARRAYS` combinations to try.
    """
    memories = load_accelerator(hardware.base).memories
    own = {m.name: [key for key in hardware.vary if key.startswith(f"memories.{m.name}.")] for m in memories}
    shared = [key for key in hardware.vary if not any(key in keys for keys in own.values())]
    buffers = {memory.name: own[memory.name] for memory in memories if memory.kind == "sram" and own[memory.name]}
    least = float("inf")
    arrays = list(islice(_choices(hardware, shared), MAX_ARRAYS + 1))
    for values in arrays[:MAX_ARRAYS]:
        parts = area_by_part(set_hardware(hardware.base, values))
        for memory, keys in buffers.items():
            parts[memory] = min(
                area_by_part(set_hardware(hardware.base, {**values, **mine}))[memory]
                for mine in _choices(hardware, keys)
            )
        least = min(least, sum(parts.values()))
        if least <= enough:
            return least
    return least if len(arrays) <= MAX_ARRAYS else None


def _choices(hardware: HardwareSpec, keys: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Every combination of the values of some keys."""
    keys = list(keys)
    return (dict(zip(keys, values, strict=True)) for values in product(*(hardware.vary[key] for key in keys)))
