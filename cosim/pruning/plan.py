"""PruningPlan: what a search proposes, pruning executes, hardware scores and the user takes home.

A plan is a versioned JSON file. For each named layer it says how many filters stay (physical removal), which
k-of-n mask lies on what remains, and how many bits a weight and an input have. Removal comes first: `mask.n` refers
to the layer after removal. Channels that no list of layers tells apart (a stream that spans the stages of a ResNet with
padded shortcuts, the heads of an attention module) are named by their channel group under `groups`.
"""

from __future__ import annotations

import difflib
import json
import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cosim.errors import PruningError

PLAN_VERSION: Literal[1] = 1
Positive = Annotated[int, Field(ge=1)]
_NUMBERS = re.compile(r"\[\n\s*(\d+(?:,\n\s*\d+)*)\n\s*\]")  # JSON texts hold no line breaks: this is a list
MaskGranularity = Literal["weight", "kernel"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class FilterPlan(_Frozen):
    """k of n filters (output channels) stay; the others are physically removed."""

    k: Positive
    """Filters that stay."""
    n: Positive
    """Filters of the layer before removal."""
    keep: tuple[int, ...] | None = None
    """The original indices that stay, ascending; None until a criterion has chosen them."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.k > self.n:
            raise ValueError(f"k = {self.k} is more than n = {self.n}; k of n units stay, so use k <= n")
        if self.keep is not None:
            if len(self.keep) != self.k or sorted(set(self.keep)) != list(self.keep):
                raise ValueError(f"keep must list k = {self.k} different indices in ascending order")
            if self.keep[0] < 0 or self.keep[-1] >= self.n:
                raise ValueError(f"keep holds an index outside 0..{self.n - 1}")
        return self


class MaskPlan(_Frozen):
    """Exactly k of every n units of a row stay.

    `weight`: a row is one output channel, its weights in the reduction order (r, s, c) with c fastest, split in
    tiles of n (n = fan-in: one tile); a last shorter tile of length t keeps min(k, t).
    `kernel`: a row is one output channel, its units the R x S kernels; n is the number of input channels per group.
    """

    granularity: MaskGranularity
    k: Positive
    n: Positive

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.k > self.n:
            raise ValueError(f"k = {self.k} is more than n = {self.n}; k of n units stay, so use k <= n")
        return self


class LayerPlan(_Frozen):
    """What happens to one layer; the default leaves it dense, its weights at 8 bits."""

    filters: FilterPlan | None = None
    mask: MaskPlan | None = None
    weight_bits: Annotated[int, Field(ge=1, le=32)] = 8
    """1: binary, 2: ternary, more: symmetric levels."""
    activation_bits: Annotated[int, Field(ge=2, le=16)] | None = None
    """Of the layer's inputs; None: the network computes with them as they are, hardware is priced with 8."""


class PruningPlan(_Frozen):
    """Layer name -> LayerPlan, for one network."""

    version: Literal[1] = PLAN_VERSION
    network: str
    """Name of the network in the zoo, or `module:function`."""
    layers: dict[str, LayerPlan] = Field(default_factory=dict)
    groups: dict[str, FilterPlan] = Field(default_factory=dict)
    """Name of a channel group -> how many of its channels stay; for groups that `layers` cannot name."""

    def __getitem__(self, layer: str) -> LayerPlan:
        return self.layers.get(layer, LayerPlan())

    def to_json(self) -> str:
        """The plan file: one field a line, the indices of `keep` in one line."""
        data = self.model_dump(exclude_none=True)
        if not self.groups:
            del data["groups"]
        text = json.dumps(data, indent=1)
        return _NUMBERS.sub(lambda found: f"[{', '.join(found[1].split())}]".replace(",,", ","), text) + "\n"


def load_plan(path: Path | str) -> PruningPlan:
    """Read a plan file.

    Raises
    ------
    PruningError
        The file is missing, is no JSON, or a field cannot be used; the message names file, field and remedy.
    """
    path = Path(path)
    try:
        return PruningPlan.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PruningError(f"{path}: cannot be read ({error.strerror}); give the path of a plan file") from error
    except UnicodeDecodeError as error:
        raise PruningError(f"{path}: is no text; give the path of a plan file (JSON)") from error
    except ValidationError as error:
        raise PruningError(f"{path}: {_first_fault(error)}") from error


def _first_fault(error: ValidationError) -> str:
    """Field, what is wrong with it, and the nearest key or the value given."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "json_invalid":
        return f"is no JSON ({first['msg']}); give the path of a plan file"
    if first["type"] == "extra_forbidden":
        keys = [key for model in (PruningPlan, LayerPlan, FilterPlan, MaskPlan) for key in model.model_fields]
        near = difflib.get_close_matches(str(first["loc"][-1]), keys, n=1, cutoff=0.0)[0]
        return f"{where}: unknown key; did you mean {near!r}?"
    given = "" if first["type"] == "missing" or isinstance(first["input"], dict) else f" (given: {first['input']!r})"
    return f"{where or '(top)'}: {first['msg'].removeprefix('Value error, ')}{given}"
