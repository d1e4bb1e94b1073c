"""Comparisons with reference results: `SETS` maps each set's name to its `validate(path, cases=…)`."""

from accel_models.validation import scalesim, timeloop_gemmini

SETS = {module.NAME: module.validate for module in (scalesim, timeloop_gemmini)}

__all__ = ["SETS"]
