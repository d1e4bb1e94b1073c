"""Comparisons with reference results: `SETS` maps each set's name to its `validate(path, cases=…)`."""

from accel_models.validation import (
    dstc,
    eyeriss_isca16,
    eyeriss_jssc17,
    eyeriss_v2_pe,
    gemmini_rtl,
    scalesim,
    scnn,
    sparseloop_eyeriss,
    sparseloop_formats,
    stc,
    timeloop_gemmini,
)

_MODULES = (
    scalesim,
    timeloop_gemmini,
    gemmini_rtl,
    eyeriss_isca16,
    eyeriss_jssc17,
    eyeriss_v2_pe,
    dstc,
    stc,
    sparseloop_formats,
    sparseloop_eyeriss,
    scnn,
)
SETS = {module.NAME: module.validate for module in _MODULES}

__all__ = ["SETS"]
