"""The hardware of a row-stationary accelerator: PE array, register files, global buffer, networks; and its prices."""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import inf, isfinite

from accel_models.errors import InvalidInputError


@dataclass(frozen=True, kw_only=True)
class RowStationaryArray:
    """A PE array with register files (RF), global buffer (GLB) and three networks.

    Parameters
    ----------
    name : str
    rows, cols : int, >= 1
        PEs.
    rf_bytes : int or (int, int, int), >= 1
        Register file of a PE: one that operands share, or those of input, weight and output (partial sums).
    glb_bytes : int, >= 1
        Buffer of inputs and partial sums, and of a pass's weights unless these have their own.
    filter_glb_bytes : int, optional
        Buffer for the weights of a pass.
    glb_bank_bytes : int, optional
        The GLB is given to operands in banks of this size; None: word by word.
    word_bits : int, >= 1
        Of every operand.
    noc_words_per_cycle : (float, float, float), > 0
        Inputs and weights into the array, and partial sums out of it (as many may enter at the same time).
    dram_words_per_cycle : float, > 0
        Reads and writes together, beside the array's work.
    """

    name: str
    rows: int
    cols: int
    rf_bytes: int | tuple[int, int, int]
    glb_bytes: int
    filter_glb_bytes: int | None = None
    glb_bank_bytes: int | None = None
    word_bits: int = 16
    noc_words_per_cycle: tuple[float, float, float] = (inf, inf, inf)
    dram_words_per_cycle: float = inf

    def __post_init__(self) -> None:
        sizes = self.rf_bytes if isinstance(self.rf_bytes, tuple) else (self.rf_bytes,)
        if len(sizes) not in (1, 3):
            raise InvalidInputError(f"{self.name!r}: rf_bytes = {sizes}; give one size, or input, weight and output")
        for size in sizes:
            _check_size(self, "rf_bytes", size, self.word_bits)
        _check_size(self, "glb_bytes", self.glb_bytes, self.word_bits)
        for field in ("filter_glb_bytes", "glb_bank_bytes"):
            if getattr(self, field) is not None:
                _check_size(self, field, getattr(self, field), self.word_bits)
        for field in ("rows", "cols", "word_bits"):
            _check_size(self, field, getattr(self, field), 1)
        if len(self.noc_words_per_cycle) != 3:
            raise InvalidInputError(f"{self.name!r}: noc_words_per_cycle needs a rate for input, weight and output")
        for rate in (*self.noc_words_per_cycle, self.dram_words_per_cycle):
            if not rate > 0:
                raise InvalidInputError(f"{self.name!r}: a rate of {rate} words per cycle; it must be above 0")

    def words(self, size: int | None, unlimited: int = -1) -> int:
        """Whole words that a buffer of `size` bytes holds."""
        return unlimited if size is None else size * 8 // self.word_bits


@dataclass(frozen=True, kw_only=True)
class RowStationaryPrices:
    """Energy of one MAC, of one word moved at each level, and of one cycle, in one unit (pJ, or that of a MAC).

    Parameters
    ----------
    mac, rf, noc, glb, dram, idle : float, >= 0
    fills : bool
        Pay a move also at the buffer that it fills (and DRAM writes at the GLB that they drain). False: only where it
        is read, as the equations of Chen et al., ISCA 2016, section VI.C do.
    """

    mac: float
    rf: float
    noc: float
    glb: float
    dram: float
    idle: float = 0.0
    fills: bool = True

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not (isfinite(value) and value >= 0):
                raise InvalidInputError(f"price {field.name} = {value}; it must be finite and at least 0")


def _check_size(array: RowStationaryArray, field: str, size: object, bits: int) -> None:
    if not isinstance(size, int) or isinstance(size, bool) or size < 1 or size * 8 < bits:
        raise InvalidInputError(
            f"{array.name!r}: {field} = {size!r} must be an integer of at least 1"
            + (f" that holds a word of {bits} bits" if bits > 1 else "")
        )
