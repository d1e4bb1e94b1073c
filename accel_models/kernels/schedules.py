"""Which schedule of a systolic array is the cheapest: the family that `systolic` describes, tried in full."""

from __future__ import annotations

from numba import njit

from accel_models.kernels.systolic import (
    COLUMNS_OUTER,
    EDP,
    ENERGY,
    FITS,
    HOLD_INPUT,
    HOLD_NONE,
    HOLD_WEIGHT,
    OUTPUT_STATIONARY,
    OUTPUT_TOO_SMALL,
    REDUCTION_OUTER,
    WEIGHT_STATIONARY,
    Machine,
    Prices,
    Product,
    Traffic,
    ceil_div,
    fold_counts,
    largest_held_input,
    price,
    smallest_buffers,
    weight_hold_bits,
)


@njit(cache=True)
def better(best: Traffic, other: Traffic, objective: int) -> bool:
    """Whether `other` beats `best` in the objective, then in the other figure (ties: the earlier one stays)."""
    if objective == EDP:
        return other.energy_pj * other.latency_cycles < best.energy_pj * best.latency_cycles
    if objective == ENERGY:
        if other.energy_pj != best.energy_pj:
            return other.energy_pj < best.energy_pj
        return other.latency_cycles < best.latency_cycles
    if other.latency_cycles != best.latency_cycles:
        return other.latency_cycles < best.latency_cycles
    return other.energy_pj < best.energy_pj


@njit(cache=True)
def cheapest_schedule(product: Product, machine: Machine, prices: Prices) -> Traffic:
    """The schedule that is best in `prices.objective`; `status` says which buffer is too small when there is none."""
    status = smallest_buffers(product, machine)
    if status != FITS:
        return Traffic(status, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0.0)
    if machine.dataflow == OUTPUT_STATIONARY:
        return _cheapest_output_stationary(product, machine, prices)
    if machine.dataflow == WEIGHT_STATIONARY:
        return _cheapest_weight_stationary(product, machine, prices)
    return _cheapest_input_stationary(product, machine, prices)


@njit(cache=True)
def _cheapest_output_stationary(product: Product, machine: Machine, prices: Prices) -> Traffic:
    """Held input and held weights, each with weight strips loaded behind the present one or, where only one strip
    fits, in its place; or both operands streamed."""
    row_folds, column_folds, t = fold_counts(product, machine)
    touched, unrolled = product.input_rows * product.row_elements, product.m * product.k_dense
    all_weights = weight_hold_bits(product.n, product) <= machine.weight_capacity
    strip = min(machine.cols, product.n) * product.column_bits
    doubled = all_weights or 2 * strip <= machine.weight_capacity
    held_rows = largest_held_input(machine.rows, machine.input_capacity, product)

    passes = 1 if all_weights else row_folds
    best = price(product, machine, prices, HOLD_NONE, 0, t, column_folds * unrolled, passes, False)
    if held_rows > 0:
        other = price(product, machine, prices, HOLD_INPUT, held_rows, t, touched, passes, False)
        if better(best, other, prices.objective):
            best = other
    if strip > machine.weight_capacity:
        return best
    if held_rows > 0 and not all_weights:
        passes = ceil_div(row_folds, held_rows)
        other = price(product, machine, prices, HOLD_INPUT, held_rows, t, touched, passes, not doubled)
        if better(best, other, prices.objective):
            best = other
    held_columns = column_folds if all_weights else max(1, machine.weight_capacity // (2 * strip))
    if held_rows == row_folds:
        reads = touched
    elif held_rows > 0:
        reads = ceil_div(column_folds, held_columns) * touched
    else:
        reads = column_folds * unrolled
    other = price(product, machine, prices, HOLD_WEIGHT, held_columns, t, reads, 1, not doubled)
    return other if better(best, other, prices.objective) else best


@njit(cache=True)
def _cheapest_weight_stationary(product: Product, machine: Machine, prices: Prices) -> Traffic:
    """T = M is cut into blocks so that a block's partial sums, and if useful its input, stay on chip."""
    m, n = product.m, product.n
    strip = min(machine.cols, n)
    largest = largest_held_input(1, machine.input_capacity, product)
    best = Traffic(OUTPUT_TOO_SMALL, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0.0)
    for order in (COLUMNS_OUTER, REDUCTION_OUTER):
        width = strip if order == COLUMNS_OUTER else n
        partial = _largest_block(m, width * product.psum_bits, machine.output_capacity, order == REDUCTION_OUTER)
        for t_block in (partial, min(partial, largest)):
            if t_block < 1:
                continue
            other = _weight_stationary(product, machine, prices, order, t_block, t_block <= largest)
            if best.status != FITS or better(best, other, prices.objective):
                best = other
    return best


@njit(cache=True)
def _largest_block(t: int, step_bits: int, capacity: int, whole: bool) -> int:
    """Most of the T steps whose partial sums fit: all of them undoubled if `whole`, else doubled."""
    if whole and t * step_bits <= capacity:
        return t
    return min(t, capacity // (2 * step_bits))


@njit(cache=True)
def _weight_stationary(
    product: Product, machine: Machine, prices: Prices, order: int, t_block: int, input_held: bool
) -> Traffic:
    column_folds = ceil_div(product.n, machine.cols)
    t_blocks = ceil_div(product.m, t_block)
    unrolled = product.m * product.k_dense
    slice_bits = 2 * t_block * min(machine.rows, product.k_dense) * product.input_bits
    if input_held:
        reads = product.input_rows * product.row_elements
    elif order == REDUCTION_OUTER and slice_bits <= machine.input_capacity:
        reads = unrolled
    else:
        reads = column_folds * unrolled
    all_weights = weight_hold_bits(product.n, product) <= machine.weight_capacity
    passes = 1 if all_weights else t_blocks
    return price(product, machine, prices, order, int(input_held), t_block, reads, passes, False)


@njit(cache=True)
def _cheapest_input_stationary(product: Product, machine: Machine, prices: Prices) -> Traffic:
    """T = N is cut into blocks so that a block's partial sums, and if useful its weights, stay on chip."""
    m, n = product.m, product.n
    strip = min(machine.cols, m)
    best = Traffic(OUTPUT_TOO_SMALL, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0.0)
    largest = n
    if weight_hold_bits(n, product) > machine.weight_capacity:
        largest = machine.weight_capacity // (2 * product.column_bits)
    for order in (COLUMNS_OUTER, REDUCTION_OUTER):
        width = strip if order == COLUMNS_OUTER else m
        partial = _largest_block(n, width * product.psum_bits, machine.output_capacity, order == REDUCTION_OUTER)
        for t_block in (partial, min(partial, largest)):
            if t_block < 1:
                continue
            other = _input_stationary(product, machine, prices, order, t_block, t_block <= largest)
            if best.status != FITS or better(best, other, prices.objective):
                best = other
    return best


@njit(cache=True)
def _input_stationary(
    product: Product, machine: Machine, prices: Prices, order: int, t_block: int, weight_held: bool
) -> Traffic:
    column_folds = ceil_div(product.m, machine.cols)
    t_blocks = ceil_div(product.n, t_block)
    touched = product.input_rows * product.row_elements
    if touched * product.input_bits <= machine.input_capacity:
        reads = touched
    elif order == COLUMNS_OUTER and largest_held_input(machine.cols, machine.input_capacity, product) > 0:
        reads = t_blocks * touched
    else:
        reads = t_blocks * product.m * product.k_dense
    slice_bits = 2 * t_block * min(machine.rows, product.k) * ceil_div(product.column_bits, product.k)
    weight_slice = order == REDUCTION_OUTER and slice_bits <= machine.weight_capacity
    passes = 1 if weight_held or weight_slice else column_folds
    return price(product, machine, prices, order, int(weight_held), t_block, reads, passes, False)
