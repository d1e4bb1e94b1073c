"""StudySpec: what `cosim search` reads, a strict YAML file.

Docstrings stand right below their field; `examples/digits.yaml` is a complete one.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from accel_models.accelerator import Accelerator, load_accelerator, parse_accelerator
from accel_models.config_files import explain, read_yaml, set_by_path
from accel_models.energy import energy_table
from accel_models.errors import AccelError
from cosim.errors import ConfigError
from cosim.pruning.criteria import criterion_names
from search import SAMPLERS

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Ratio = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SearchSpec(_Strict):
    """How the space is searched."""

    sampler: str = "nsga2"
    trials: Count = 240
    population: Annotated[int, Field(ge=2)] = 24
    batch: Count = 8
    """Trials asked together; they may run in parallel, and the next ones are asked when all are done."""
    random_baseline: bool = False
    """Run as many random trials too, so that the report can show what the sampler is worth."""

    @field_validator("sampler")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in SAMPLERS:
            near = difflib.get_close_matches(value, SAMPLERS, n=1, cutoff=0.0)[0]
            raise ValueError(f"sampler {value!r} is unknown; did you mean {near!r}? Known: {', '.join(SAMPLERS)}")
        return value


class WorstSpec(_Strict):
    """Reference point of the hypervolume: a design no better than this in an objective adds nothing."""

    accuracy: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
    energy_pj: Positive
    latency_ms: Positive


class LimitSpec(_Strict):
    """Hard limits; a design above one is infeasible."""

    area_mm2: Positive


class TrainingSpec(_Strict):
    """How networks are trained, and how a pruned one is recovered."""

    dense_epochs: Count = 15
    """Epochs of the dense network (Adam, weight decay 0.01, warm-up and cosine)."""
    dense_lr: Positive = 0.003
    finetune_epochs: Annotated[int, Field(ge=0)] = 2
    """Epochs of a pruned network (SGD, Nesterov momentum 0.9, weight decay 5e-4, cosine)."""
    finetune_lr: Positive = 0.05
    batch_size: Annotated[int, Field(ge=2)] = 64
    entropy_weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    """Scales the entropy penalty of the paper's values."""


def _check_choices(name: str, choices: Sequence[Any]) -> None:
    if not choices:
        raise ValueError(f"{name}: give at least one value")
    for i, choice in enumerate(choices):
        if choice in choices[:i]:
            raise ValueError(f"{name}: {choice!r} is there twice; drop one of them")


class HardwareSpec(_Strict):
    """A base accelerator and what may change in it."""

    base: str
    """Library name or YAML file."""
    vary: dict[str, list[Any]] = Field(default_factory=dict)
    """Key path of the accelerator, as `pe_array.rows` or `memories.dram.bandwidth_bytes_per_cycle` -> values."""

    @field_validator("vary")
    @classmethod
    def _some(cls, value: dict[str, list[Any]]) -> dict[str, list[Any]]:
        for key, choices in value.items():
            _check_choices(key, choices)
            inside = next((other for other in value if other.startswith(f"{key}.")), None)
            if inside is not None:
                raise ValueError(f"{key} and {inside} both set {inside}; keep one of them")
        return value


class PlanSpec(_Strict):
    """What may be pruned."""

    criterion: str = "nuclear_norm"
    """Ranks the filters of a channel group; the lowest leave."""
    keep: list[Ratio] = Field(default_factory=lambda: [1.0])
    """Shares of filters that may stay, for every channel group that is not locked."""
    blocks: dict[str, list[str]] = Field(default_factory=dict)
    """Name -> layers (patterns as `stages.0.*`) that share one mask choice and one weight width."""
    masks: list[str] = Field(default_factory=lambda: ["dense"])
    """Mask choices of a block: `dense`, `weight K:N` (k of n weights) or `kernel R` (a share R of the kernels)."""
    weight_bits: list[Annotated[int, Field(ge=1, le=32)]] = Field(default_factory=lambda: [8])
    """Weight widths of a block; layers outside of blocks have the last one."""

    @field_validator("criterion")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in criterion_names():
            near = difflib.get_close_matches(value, criterion_names(), n=1, cutoff=0.0)[0]
            raise ValueError(f"criterion {value!r} is unknown; did you mean {near!r}?")
        return value

    @field_validator("masks")
    @classmethod
    def _readable(cls, value: list[str]) -> list[str]:
        for choice in value:
            parse_mask(choice)
        return value

    @model_validator(mode="after")
    def _some(self) -> Self:
        for name in ("keep", "masks", "weight_bits"):
            _check_choices(name, getattr(self, name))
        return self


class StudySpec(_Strict):
    """One study: network, data, space, objectives, constraint, training."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    network: str
    dataset: str
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    repeats: Count = 5
    """Seeds with which every point of the front is trained again."""
    search: SearchSpec = SearchSpec()
    worst: WorstSpec
    limits: LimitSpec
    training: TrainingSpec = TrainingSpec()
    hardware: HardwareSpec
    plan: PlanSpec = PlanSpec()


MaskGranularity = Literal["weight", "kernel"]


def parse_mask(choice: str) -> tuple[MaskGranularity, int, int] | tuple[Literal["kernel"], float] | None:
    """`dense` -> None, `weight 2:8` -> ("weight", 2, 8), `kernel 0.5` -> ("kernel", 0.5)."""
    parts = choice.split()
    try:
        if parts == ["dense"]:
            return None
        if len(parts) == 2 and parts[0] == "weight":
            k, n = (int(part) for part in parts[1].split(":"))
            if not 1 <= k <= n:
                raise ValueError(f"mask {choice!r}: k = {k} of n = {n}; use 1 <= k <= n")
            return "weight", k, n
        if len(parts) == 2 and parts[0] == "kernel" and 0 < float(parts[1]) <= 1:
            return "kernel", float(parts[1])
    except ValueError as error:
        if "use 1 <= k" in str(error):
            raise
    raise ValueError(f"mask {choice!r} must read `dense`, `weight K:N` or `kernel R` with 0 < R <= 1")


def load_study(path: Path | str) -> StudySpec:
    """Read a study file and try every accelerator value once.

    Raises
    ------
    ConfigError
        The message names file, field and remedy.
    """
    path = Path(path)
    try:
        spec = StudySpec.model_validate(read_yaml(path))
        _try_hardware(spec, str(path))
    except ValidationError as error:
        raise ConfigError(explain(error, StudySpec, str(path))) from error
    except AccelError as error:
        raise ConfigError(str(error)) from error
    return spec


def _try_hardware(spec: StudySpec, where: str) -> None:
    """Set every value of `vary` alone on the base, so that a wrong one is refused before the search."""
    try:
        base = load_accelerator(spec.hardware.base)
    except AccelError as error:
        raise ConfigError(f"{where}: hardware.base: {error}") from error
    _try_prices(base, max(spec.plan.weight_bits), f"{where}: hardware.base")
    for key, choices in spec.hardware.vary.items():
        for choice in choices:
            data = base.model_dump(mode="json")
            place = f"{where}: hardware.vary.{key}"
            set_by_path(data, key, choice, place)
            _try_prices(parse_accelerator(data, f"{place} = {choice!r}"), max(spec.plan.weight_bits), place)


def _try_prices(accelerator: Accelerator, weight_bits: int, where: str) -> None:
    """What no field shows alone: prices that do not exist, weights wider than every multiplier."""
    try:
        energy_table(accelerator)
        accelerator.multiplier_bits(weight_bits)
    except AccelError as error:
        raise ConfigError(f"{where}: {error}") from error
