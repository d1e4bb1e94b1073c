"""Comparisons with reference results: `SETS` maps each set's name to its `validate(path, cases=…)`."""

from accel_models.validation import eyeriss_isca16, eyeriss_jssc17, gemmini_rtl, scalesim, timeloop_gemmini

SETS = {
    module.NAME: module.validate for module in (scalesim, timeloop_gemmini, gemmini_rtl, eyeriss_isca16, eyeriss_jssc17)
}

__all__ = ["SETS"]
