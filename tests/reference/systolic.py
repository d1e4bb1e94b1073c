"""Plain oracles of a systolic array: one that steps it cycle by cycle, one that walks a schedule fold by fold.

Both know the dataflows only from their description, not from the closed forms under test.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass
class Stepped:
    """What a stepped run of the array counted."""

    cycles: int
    input_reads: int
    weight_reads: int
    output_writes: int
    product: np.ndarray


def step_array(a: np.ndarray, b: np.ndarray, rows: int, cols: int, dataflow: str) -> Stepped:
    """Multiply a [M, K] by b [K, N] on a rows x cols array, every register moved every cycle."""
    if dataflow == "input_stationary":
        stepped = _step_stationary(b.T, a.T, rows, cols)
        return Stepped(
            stepped.cycles, stepped.weight_reads, stepped.input_reads, stepped.output_writes, stepped.product.T
        )
    if dataflow == "weight_stationary":
        return _step_stationary(a, b, rows, cols)
    return _step_output_stationary(a, b, rows, cols)


def _step_output_stationary(a: np.ndarray, b: np.ndarray, rows: int, cols: int) -> Stepped:
    """PE (i, j) owns one output; a row's inputs enter at the left skewed by i, a column's weights at the top by j."""
    m, k = a.shape
    n = b.shape[1]
    total = Stepped(0, 0, 0, 0, np.zeros((m, n), a.dtype))
    for row in range(0, m, rows):
        for column in range(0, n, cols):
            left, top = a[row : row + rows], b[:, column : column + cols]
            moving_a = np.zeros((rows, cols), a.dtype)
            moving_b = np.zeros((rows, cols), a.dtype)
            sums = np.zeros((rows, cols), a.dtype)
            done = np.zeros((rows, cols), int)
            valid = np.zeros((rows, cols), bool)
            cycle = 0
            while done.min() < k:
                moving_a, moving_b, valid = np.roll(moving_a, 1, 1), np.roll(moving_b, 1, 0), np.roll(valid, 1, 1)
                for i in range(rows):
                    step = cycle - i
                    valid[i, 0] = 0 <= step < k
                    moving_a[i, 0] = left[i, step] if valid[i, 0] and i < left.shape[0] else 0
                    total.input_reads += int(valid[i, 0] and i < left.shape[0])
                for j in range(cols):
                    step = cycle - j
                    inside = 0 <= step < k and j < top.shape[1]
                    moving_b[0, j] = top[step, j] if inside else 0
                    total.weight_reads += int(inside)
                sums += moving_a * moving_b * valid
                done += valid
                cycle += 1
            total.cycles += cycle
            total.output_writes += left.shape[0] * top.shape[1]
            total.product[row : row + rows, column : column + cols] = sums[: left.shape[0], : top.shape[1]]
    return total


def _step_stationary(moving: np.ndarray, pinned: np.ndarray, rows: int, cols: int) -> Stepped:
    """pinned [K, N] lies in the array (loaded a row a cycle), moving [M, K] streams, sums fall down the columns."""
    m, k = moving.shape
    n = pinned.shape[1]
    total = Stepped(0, 0, 0, 0, np.zeros((m, n), moving.dtype))
    for row in range(0, k, rows):
        for column in range(0, n, cols):
            block = np.zeros((rows, cols), moving.dtype)
            tile = pinned[row : row + rows, column : column + cols]
            block[: tile.shape[0], : tile.shape[1]] = tile
            total.weight_reads += tile.size
            total.cycles += rows
            values = np.zeros((rows, cols), moving.dtype)
            sums = np.zeros((rows, cols), moving.dtype)
            left, cycle = m * cols, 0
            while left:
                values, sums = np.roll(values, 1, 1), np.roll(sums, 1, 0)
                sums[0] = 0
                for i in range(rows):
                    step = cycle - i
                    inside = 0 <= step < m and row + i < k
                    values[i, 0] = moving[step, row + i] if inside else 0
                    total.input_reads += int(inside)
                sums = sums + values * block
                for j in range(cols):
                    step = cycle - (rows - 1) - j
                    if 0 <= step < m:
                        left -= 1
                        if column + j < n:
                            total.product[step, column + j] += sums[rows - 1, j]
                            total.output_writes += 1
                cycle += 1
            total.cycles += cycle
    return total


@dataclass(frozen=True)
class Shape:
    """A convolution as the walker sees it: one group, input [images, height, width, channels]."""

    images: int
    channels: int
    filters: int
    out: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    size: tuple[int, int]

    def elements(self, pixel: int) -> set[tuple[int, int, int]]:
        """(image, input row, input column) of every position that one output pixel reads."""
        image, rest = divmod(pixel, self.out[0] * self.out[1])
        p, q = divmod(rest, self.out[1])
        positions = set()
        for r in range(self.kernel[0]):
            for s in range(self.kernel[1]):
                row = p * self.stride[0] + r * self.dilation[0] - self.padding[0]
                column = q * self.stride[1] + s * self.dilation[1] - self.padding[1]
                if 0 <= row < self.size[0] and 0 <= column < self.size[1]:
                    positions.add((image, row, column))
        return positions

    @property
    def pixels(self) -> int:
        return self.images * self.out[0] * self.out[1]

    def touched_columns(self) -> int:
        return len({column for pixel in range(self.pixels) for _, _, column in self.elements(pixel)})


def walk_held_input(shape: Shape, step: int, folds_per_group: int) -> tuple[int, int]:
    """One pass over the outputs in groups, the next group's rows loaded beside the present one's.

    Returns (elements fetched, most elements resident): as in a line buffer, a row is dropped once no row at or above
    it is needed by the present group, and rows and columns that no output reads are never fetched.
    """
    size = step * folds_per_group
    groups = [
        {
            (image, row)
            for pixel in range(start, min(start + size, shape.pixels))
            for image, row, _ in shape.elements(pixel)
        }
        for start in range(0, shape.pixels, size)
    ]
    row_elements = shape.touched_columns() * shape.channels
    resident: set[tuple[int, int]] = set()
    fetched, most = 0, 0
    for i, group in enumerate(groups):
        wanted = group | (groups[i + 1] if i + 1 < len(groups) else set())
        fetched += len(wanted - resident) * row_elements
        resident = wanted | {row for row in resident if row >= min(group, default=row)}
        most = max(most, len(resident) * row_elements)
    return fetched, most


@dataclass
class Fetched:
    """Elements of the input and of the weights that a walked schedule brought from DRAM."""

    input: int = 0
    weight: int = 0


def walk_schedule(
    shape: Shape,
    array: tuple[int, int],
    dataflow: str,
    order: str,
    held: int,
    t_block: int,
    stays: dict[str, bool],
) -> Fetched:
    """Walk every fold of a schedule and fetch what is not on chip.

    `order` names the outermost loop, `held` the folds of a held group (output stationary) or whether the streamed
    operand of a block is held (0 or 1); `stays` says what the capacities allow: "input" (all of it), "input_rows"
    (a strip's rows), "input_slice" (a block's slice of the reduction), "weight" (all), "weight_strip" (a strip),
    "weight_slice" (a block's slice).
    """
    walk = {
        "output_stationary": _walk_output_stationary,
        "weight_stationary": _walk_weight_stationary,
        "input_stationary": _walk_input_stationary,
    }[dataflow]
    return walk(_Chip(shape, stays), array, order, held, t_block)


class _Chip:
    """Fetches what a walk asks for: input rows through a line buffer, unrolled input, weight columns."""

    def __init__(self, shape: Shape, stays: dict[str, bool]) -> None:
        self.shape, self.stays, self.fetched = shape, stays, Fetched()
        self.reduction = shape.channels * shape.kernel[0] * shape.kernel[1]
        self.row_elements = shape.touched_columns() * shape.channels
        self.rows: set[tuple[int, int]] = set()
        self.columns: set[int] = set()

    def start_pass(self) -> None:
        if not self.stays["input"]:
            self.rows = set()

    def load_rows(self, pixels: range) -> None:
        wanted = {(image, row) for pixel in pixels for image, row, _ in self.shape.elements(pixel)}
        self.fetched.input += len(wanted - self.rows) * self.row_elements
        self.rows |= wanted

    def load_unrolled(self, pixels: range, reduction: int) -> None:
        self.fetched.input += len(pixels) * reduction

    def load_columns(self, columns: range) -> None:
        new = set(columns) - self.columns if self.stays["weight"] else set(columns)
        self.fetched.weight += len(new) * self.reduction
        self.columns |= new

    def load_tile(self, columns: range, reduction: range) -> None:
        """Weights of some columns, some reduction steps; if all weights stay, only at the first visit."""
        if self.stays["weight"]:
            key = {(c, k) for c in columns for k in reduction}
            new = key - getattr(self, "tiles", set())
            self.tiles = getattr(self, "tiles", set()) | key
            self.fetched.weight += len(new)
        else:
            self.fetched.weight += len(columns) * len(reduction)


def _strips(total: int, size: int) -> list[range]:
    return [range(start, min(start + size, total)) for start in range(0, total, size)]


def _walk_output_stationary(chip: _Chip, array: tuple[int, int], order: str, held: int, t_block: int) -> Fetched:
    shape, stays = chip.shape, chip.stays
    pixel_strips, column_strips = _strips(shape.pixels, array[0]), _strips(shape.filters, array[1])
    if order == "input":
        for group in _strips(len(pixel_strips), held):
            for strip in group:
                chip.load_rows(pixel_strips[strip])
            for columns in column_strips:
                for _ in group if not stays["weight_strip"] else range(1):
                    chip.load_columns(columns)
        return chip.fetched
    if order == "weight":
        for group in _strips(len(column_strips), held):
            for strip in group:
                chip.load_columns(column_strips[strip])
            chip.start_pass()
            for pixels in pixel_strips:
                if stays["input_rows"]:
                    chip.load_rows(pixels)
                else:
                    for _ in group:
                        chip.load_unrolled(pixels, chip.reduction)
        return chip.fetched
    for pixels in pixel_strips:
        for columns in column_strips:
            chip.load_unrolled(pixels, chip.reduction)
            chip.load_columns(columns)
    return chip.fetched


def _walk_weight_stationary(chip: _Chip, array: tuple[int, int], order: str, held: int, t_block: int) -> Fetched:
    reductions, column_strips = _strips(chip.reduction, array[0]), _strips(chip.shape.filters, array[1])
    for pixels in _strips(chip.shape.pixels, t_block):
        if held:
            chip.load_rows(pixels)
        for outer in column_strips if order == "columns" else reductions:
            if order == "reduction" and not held and chip.stays["input_slice"]:
                chip.load_unrolled(pixels, len(outer))
            for inner in reductions if order == "columns" else column_strips:
                columns, reduction = (outer, inner) if order == "columns" else (inner, outer)
                chip.load_tile(columns, reduction)
                if not held and not (order == "reduction" and chip.stays["input_slice"]):
                    chip.load_unrolled(pixels, len(reduction))
    return chip.fetched


def _walk_input_stationary(chip: _Chip, array: tuple[int, int], order: str, held: int, t_block: int) -> Fetched:
    reductions, pixel_strips = _strips(chip.reduction, array[0]), _strips(chip.shape.pixels, array[1])
    for columns in _strips(chip.shape.filters, t_block):
        chip.start_pass()
        if held:
            chip.load_columns(columns)
        for outer in pixel_strips if order == "columns" else reductions:
            if order == "reduction" and not held and chip.stays["weight_slice"]:
                chip.fetched.weight += len(columns) * len(outer)
            by_rows = chip.stays["input"] or (order == "columns" and chip.stays["input_rows"])
            if order == "columns" and by_rows:
                chip.load_rows(outer)
            for inner in reductions if order == "columns" else pixel_strips:
                pixels, reduction = (outer, inner) if order == "columns" else (inner, outer)
                if not by_rows:
                    chip.load_unrolled(pixels, len(reduction))
                elif order == "reduction":
                    chip.load_rows(pixels)
                if not held and not (order == "reduction" and chip.stays["weight_slice"]):
                    chip.fetched.weight += len(columns) * len(reduction)
    return chip.fetched
