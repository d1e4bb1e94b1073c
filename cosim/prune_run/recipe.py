"""PruneRecipe: the options of `cosim prune`, which are the keys of a recipe file.

Docstrings stand right below their field; they are the help texts of the command line.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from accel_models.config_files import explain, read_yaml
from accel_models.errors import AccelError
from cosim.errors import ConfigError, PruningError

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Cut = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
Optimizer = Literal["sgd", "adam"]

BUDGETS = ("macs_cut", "parameters_cut", "latency_ms", "energy_mj")
MASKS = ("k", "n", "density")
MEASURED = "measured"
"""In place of a normalisation."""
WHAT_STAYS = (
    "say what stays: --plan FILE or --keep SHARE, or budgets (--macs-cut, --parameters-cut, --latency-ms, "
    "--energy-mj); or masks: --density, or --k and --n"
)


class PruneRecipe(BaseModel):
    """One run of `cosim prune`."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, populate_by_name=True)

    network: str
    """Network name or module:function."""
    dataset: str
    """Data set name."""
    seed: Whole = 0
    """Data split, training and pruning; with --weights: theirs."""
    all_images: bool = False
    """Train on the validation images too (nothing is chosen by them); validation accuracy is then left out."""

    from_: Path | None = Field(None, alias="from")
    """Trained weights to start from, .pt or .safetensors; without them the dense network is trained first."""
    dense_epochs: Count = 15
    """Epochs of the dense network."""
    dense_lr: Positive = 0.003
    """Peak learning rate of the dense network."""
    dense_optimizer: Optimizer = "adam"
    """Of the dense network: adam (weight decay 0.01, warm-up and cosine) or sgd (5e-4)."""

    plan: Path | None = None
    """Plan to execute."""
    keep: Share | dict[str, Share] | None = None
    """Share of the channels that stay, in (0, 1], in every group; in a file also {pattern of groups: share}."""
    macs_cut: Cut | None = None
    """Budget: share of the multiplications that goes."""
    parameters_cut: Cut | None = None
    """Budget: share of the parameters that goes."""
    latency_ms: Positive | None = None
    """Budget: latency of one inference on the accelerator, before masks."""
    energy_mj: Positive | None = None
    """Budget: energy of one inference on the accelerator, before masks."""
    accelerator: str | None = None
    """Library name or YAML file: prices the result, and what budgets of latency and energy are of."""
    selection: Literal["worth", "global", "uniform", "local"] = "worth"
    """How budgets are met. worth: least score lost per cost saved; global: one threshold on the scores; uniform: one
    width for all groups of a size; local: one share for all groups."""
    criterion: str = "nuclear_norm"
    """Ranks the channels."""
    variant: str = "per_image"
    """Of the nuclear norm: per_image, per_batch, centred."""
    by_readers: bool = False
    """Scores times the norm of the weights that read the channel."""
    normalisation: str = "mean"
    """What makes scores of different layers comparable: mean, max, l2, sum, rank, none; or measured: in units of how
    far the outputs move where a group alone loses channels (four removals a group)."""
    min_share: Annotated[float, Field(ge=0, le=1)] = 0.1
    """With budgets: share of a group's channels that stays at least."""
    multiple: Count = 1
    """Widths are multiples of this, such as the edge of an array, or whole."""
    exclude: tuple[str, ...] = ()
    """Groups or layers that stay whole and unmasked: names or patterns (stages.0.*); `streams`: no channel leaves the
    groups that several layers share, as residual streams. Repeatable."""

    schedule: Literal["one_shot", "iterative", "layerwise"] = "one_shot"
    """one_shot; iterative: in --steps, scored anew and fine-tuned between; layerwise: group after group, likewise."""
    steps: Annotated[int, Field(ge=2)] | None = None
    """Steps of the iterative schedule (which this implies); default 3."""
    step_epochs: Count = 1
    """Epochs of fine-tuning between steps."""
    sensitivity: bool = False
    """Also measure, and draw, the accuracy when one group alone loses channels."""

    method: str | None = None
    """Finds the masks: dpp (default), magnitude, gradual, sr_ste, rigl, unstructured."""
    straight_through: bool = True
    """dpp: weights out of a mask go on learning, and masks follow the weights' magnitudes; better where a network still
    learns, worse where it is trained out."""
    granularity: Literal["weight", "kernel", "filter"] = "weight"
    """Units of a mask: weights of an output, kernels of an output, or whole filters (dpp only; then removed)."""
    k: Count | None = None
    """Units that stay of every n."""
    n: Count | None = None
    """Units of a tile, with --k; for kernels and filters all that there are."""
    density: Share | None = None
    """Share of each row's units that stay, in place of --k and --n."""
    refit: bool = False
    """Start from the masks that cost each layer's output least, with its other weights refitted (from 256 training
    images); for trained networks, whatever the method."""
    weight_bits: Annotated[int, Field(ge=1, le=32)] | None = None
    """Bits of all weights, 32: as they are; default: those of the plan, where it says nothing 8."""

    activation_bits: Annotated[int, Field(ge=2, le=16)] | None = None
    """Bits of all layers' inputs; default: those of the plan, where it says nothing they stay as they are."""

    epochs: Whole = 2
    """Fine-tuning epochs."""
    lr: Positive = 0.05
    """Fine-tuning learning rate, which falls with a cosine."""
    optimizer: Optimizer = "sgd"
    """Of fine-tuning: sgd (Nesterov momentum 0.9) or adam."""
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 5e-4
    """Of fine-tuning."""
    distill: bool = False
    """Fine-tune towards the dense network's probabilities too."""
    batch_size: Annotated[int, Field(ge=2)] = 64
    """Images per step, dense and fine-tuned."""
    crop_padding: Whole = 0
    """Cut each training image anew out of itself, padded by so many pixels, in every epoch."""
    flip: bool = False
    """Mirror training images by chance."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of convolutions and products in training; auto: bfloat16 on a GPU that has it."""
    device: Literal["cpu", "cuda"] | None = None
    """Where networks run; default: cuda if there is one."""
    threads: Count = 1
    """Of the CPU; the last digits of a result hang on it."""

    @property
    def masked(self) -> bool:
        """Masks from options, not from a plan."""
        return any(getattr(self, name) is not None for name in MASKS)

    @property
    def budgeted(self) -> bool:
        return any(getattr(self, name) is not None for name in BUDGETS)

    @property
    def measured(self) -> bool:
        """Scores in units of measured damage."""
        return self.normalisation == MEASURED

    @property
    def scaling(self) -> str:
        """Normalisation of the scores of `Run.score`."""
        return "none" if self.measured else self.normalisation

    @property
    def rounds(self) -> int:
        """Steps of the iterative schedule; 1 for a single removal."""
        return (self.steps or 3) if self.schedule == "iterative" else 1

    @model_validator(mode="before")
    @classmethod
    def _steps_mean_iterative(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and data.get("steps") is not None:
            return {"schedule": "iterative", **data}
        return data

    @model_validator(mode="after")
    def _check(self) -> Self:
        ways = (self.plan is not None) + (self.keep is not None) + self.budgeted
        if ways > 1 or (ways == 0 and not self.masked):
            raise ValueError(WHAT_STAYS + (" (one of the first three)" if ways > 1 else ""))
        self._check_masks()
        if (self.latency_ms or self.energy_mj) and self.accelerator is None:
            raise ValueError("budgets of latency and energy need the accelerator that they are of: give --accelerator")
        if self.measured and not (self.budgeted and self.selection in ("worth", "global")):
            raise ValueError(
                "--normalisation measured compares groups, for budgets with --selection worth or global; leave it out"
            )
        if self.steps is not None and self.schedule != "iterative":
            raise ValueError(f"--steps belongs to --schedule iterative, not {self.schedule}; give one of them")
        _check_names(self)
        return self

    def _check_masks(self) -> None:
        if self.masked and self.plan is not None:
            raise ValueError("--density, --k and --n make masks, and --plan holds its own; give one of them")
        if self.masked and (self.k is None) != (self.n is None):
            raise ValueError("--k and --n belong together: k of every n units stay")
        if self.k is not None and self.density is not None:
            raise ValueError("--density and --k both say how many units stay; give one of them")
        if self.k is not None and self.n is not None and self.k > self.n:
            raise ValueError(f"--k {self.k} is more than --n {self.n}; k of n units stay, so use k <= n")
        if self.granularity != "weight" and not self.masked:
            raise ValueError(f"--granularity {self.granularity} needs --density, or --k and --n")
        if self.method is not None and not self.masked and self.plan is None:
            raise ValueError(
                f"--method {self.method} learns masks: give --density, --k and --n, or a --plan with masks"
            )
        if not self.straight_through and (self.method or "dpp") != "dpp":
            raise ValueError(f"--no-straight-through is of --method dpp, not {self.method}; give one of them")
        if self.refit and ((not self.masked and self.plan is None) or self.granularity == "filter"):
            raise ValueError(
                "--refit is for masks of weights and kernels: --density, --k and --n, or a --plan with them"
            )
        if self.granularity == "filter" and (self.keep is not None or self.budgeted):
            raise ValueError("--granularity filter says which filters leave, and so do --keep and budgets; give one")


def _check_names(recipe: PruneRecipe) -> None:
    """Names that only the packages know, which are slow to import."""
    from cosim.pruning.criteria import ScoreOptions, criterion_names, normalise
    from cosim.pruning.mask_methods import build_method, method_names

    if recipe.criterion not in criterion_names():
        raise ValueError(f"--criterion {recipe.criterion!r} is none of {', '.join(criterion_names())}")
    method = recipe.method or "dpp"
    if method not in method_names():
        near = difflib.get_close_matches(method, method_names(), n=1, cutoff=0.0)[0]
        raise ValueError(f"--method {method!r}: did you mean {near!r}? Known: {', '.join(method_names())}")
    if recipe.granularity == "filter" and method != "dpp":
        raise ValueError(f"--granularity filter is for --method dpp; for {method} rank filters: --criterion, --keep")
    if recipe.granularity == "kernel" and not build_method(method).exact_rows:
        raise ValueError(f"--method {method} keeps single weights; use --granularity weight")
    try:
        import torch

        ScoreOptions(variant=recipe.variant)  # type: ignore[arg-type]
        normalise(torch.ones(1), recipe.scaling)  # type: ignore[arg-type]
    except PruningError as error:
        raise ValueError(str(error)) from error


def make_recipe(given: Mapping[str, Any], file: Path | None = None) -> PruneRecipe:
    """A recipe from a file, from options, or from both; options win.

    Parameters
    ----------
    given : field name -> value, of the options that were given
    file : YAML, with the same names

    Raises
    ------
    ConfigError
        The message names the option, or file and key, and what it should be.
    """
    try:
        data = read_yaml(file) if file is not None else {}
    except AccelError as error:
        raise ConfigError(str(error)) from error
    names = {field.alias or name: name for name, field in PruneRecipe.model_fields.items()}
    if file is not None:
        _check_keys(data, names, file)
    merged = {names[key]: value for key, value in data.items()} | dict(given)
    missing = [name for name in ("network", "dataset") if name not in merged]
    if missing:
        raise ConfigError(f"give --{missing[0]} NAME, or a --recipe that names it")
    try:
        return PruneRecipe.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(_one_line(error, given, file)) from error


def _check_keys(data: Iterable[str], names: Iterable[str], file: Path) -> None:
    for key in data:
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1, cutoff=0.0)[0]
            raise ConfigError(f"{file}: {key}: unknown key; did you mean {near!r}?")


def option(name: str) -> str:
    """macs_cut -> --macs-cut."""
    return f"--{name.rstrip('_').replace('_', '-')}"


def _one_line(error: ValidationError, given: Mapping[str, Any], file: Path | None) -> str:
    """The first fault: an option's, a key's of the file, or of several together."""
    first = error.errors()[0]
    message = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:
        return message
    name = str(first["loc"][0])
    field = "from_" if name == "from" else name
    if field not in given and file is not None:
        return explain(error, PruneRecipe, str(file))
    wanted = (PruneRecipe.model_fields[field].description or "").split("\n")[0]
    return f"{option(field)} {given.get(field)!r}: {message[0].lower()}{message[1:]}. {wanted}"
