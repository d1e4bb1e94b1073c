"""Counts of packed bits in vector registers: what LLVM does not find by itself in loops over words.

`count_words` counts a run of words; `fold_fields` and `add_columns` take a block of 8, 4 or 1 neighbouring words (a
literal) of several rows and keep all results in registers until the last row, so that they cost little more than
reading the words. They are written in LLVM's own instructions on vectors, which it lowers for every
processor (with AVX-512 BITALG a popcount of 64 bytes is one). Without the compiler plain twins take their place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

Row = NDArray[np.uint64]
Sums = tuple[int, int, int]
ir = cgutils.ir
"""llvmlite's, as numba takes it."""
Builder = Any
"""What writes instructions; llvmlite has no types for it, nor for the next two."""
Kind = Any
"""The type of a vector."""
Value = Any
I32, I64 = ir.IntType(32), ir.IntType(64)
BLOCK = 8
"""Words of the widest vector: 512 bit."""
CHUNK_ROWS = 16
"""Rows whose counts are added inside their fields: at most 8 bits x 16 rows in a byte."""
PLANES = 7
MOST_ROWS = 2**PLANES - 1
"""Rows whose sums per column `add_columns` can hold."""


def _vector(words: int, bits: int = 64) -> Kind:
    return ir.VectorType(ir.IntType(bits), 64 * words // bits)


def _all(kind: Kind, value: int) -> Value:
    return ir.Constant(kind, [value] * kind.count)


def _splat(builder: Builder, scalar: Value, kind: Kind) -> Value:
    """An int64 in every field."""
    value = builder.trunc(scalar, kind.element) if kind.element.width < 64 else scalar
    first = builder.insert_element(_all(kind, 0), value, I32(0))
    return builder.shuffle_vector(first, _all(kind, 0), _all(ir.VectorType(I32, kind.count), 0))


def _load(builder: Builder, data: Value, at: Value, kind: Kind) -> Value:
    """Words from `at` on, as a vector of this kind."""
    raw = _vector(kind.count * kind.element.width // 64)
    place = builder.bitcast(builder.gep(data, [at]), raw.as_pointer())
    return builder.bitcast(builder.load(place, align=8), kind)


def _popcount(builder: Builder, value: Value) -> Value:
    kind = value.type
    name = f"llvm.ctpop.v{kind.count}i{kind.element.width}"
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind]), name)
    return builder.call(function, [value])


def _larger(builder: Builder, one: Value, other: Value) -> Value:
    return builder.select(builder.icmp_unsigned(">", one, other), one, other)


def _half(builder: Builder, value: Value) -> Value:
    """ceil(value / 2): the mean of value and 0, which processors have for bytes."""
    kind = value.type
    wide = ir.VectorType(ir.IntType(2 * kind.element.width), kind.count)
    return builder.trunc(builder.lshr(builder.add(builder.zext(value, wide), _all(wide, 1)), _all(wide, 1)), kind)


def _total(builder: Builder, value: Value) -> Value:
    """Sum of all fields as int64; fields below 32 bit first meet their neighbours in fields of twice the width."""
    while value.type.element.width < 32:
        width = value.type.element.width
        kind = ir.VectorType(ir.IntType(2 * width), value.type.count // 2)
        value = builder.bitcast(value, kind)
        low, high = builder.and_(value, _all(kind, 2**width - 1)), builder.lshr(value, _all(kind, width))
        value = builder.add(low, high)
    count = value.type.count
    while count > 1:
        count //= 2
        halves = [ir.Constant(ir.VectorType(I32, count), list(range(at, at + count))) for at in (0, count)]
        low, high = (builder.shuffle_vector(value, value, half) for half in halves)
        value = builder.add(low, high)
    one = builder.extract_element(value, I32(0))
    return builder.zext(one, I64) if one.type.width < 64 else one


def _places(builder: Builder, *values: Value) -> list[Value]:
    """Variables with these first values; LLVM turns them into registers."""
    return [cgutils.alloca_once_value(builder, value) for value in values]


def _update(builder: Builder, place: Value, operation: Callable[..., Value], *values: Value) -> None:
    builder.store(operation(builder.load(place), *values), place)


def _data(context: Any, builder: Builder, kind: Any, array: Value) -> Value:
    return context.make_array(kind)(context, builder, array).data


@intrinsic
def _count_words(typing_context, flat, at, words):  # type: ignore[no-untyped-def]
    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        _, at, words = arguments
        data = _data(context, builder, signature.args[0], arguments[0])
        place, total, left = _places(builder, at, I64(0), words)
        for width in (BLOCK, BLOCK // 2, 1):
            kind = _vector(width)
            (sums,) = _places(builder, _all(kind, 0))
            builder.store(_all(kind, 0), sums)
            with cgutils.for_range(builder, builder.udiv(builder.load(left), I64(width))):
                _update(builder, sums, builder.add, _popcount(builder, _load(builder, data, builder.load(place), kind)))
                _update(builder, place, builder.add, I64(width))
            _update(builder, left, builder.urem, I64(width))
            _update(builder, total, builder.add, _total(builder, builder.load(sums)))
        return builder.load(total)

    return types.int64(flat, types.int64, types.int64), generate


@intrinsic(prefer_literal=True)
def _fold_fields(typing_context, flat, at, stride, rows, least, fields, words):  # type: ignore[no-untyped-def]
    if not isinstance(words, types.IntegerLiteral):
        return None
    kind, halvings = _vector(words.literal_value, fields[0].bitwidth), len(fields) - 1
    masks = (0x0F, 0xF0) if fields[0].signed else (2 ** fields[0].bitwidth - 1,)

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        _, at, stride, rows, least = arguments[:5]
        data, floor = _data(context, builder, signature.args[0], arguments[0]), _splat(builder, least, kind)

        def larger(one: Value, other: Value) -> Value:
            return _larger(builder, one, other)

        def work(count: Value) -> Value:
            for _ in range(halvings):
                count = _half(builder, count)
            return larger(count, floor)

        place, left, busy, kept = _places(builder, at, rows, I64(0), I64(0))
        works, kepts, *most = _places(builder, *[_all(kind, 0)] * (2 + len(masks)))
        with cgutils.for_range(builder, builder.udiv(builder.add(rows, I64(CHUNK_ROWS - 1)), I64(CHUNK_ROWS))):
            now = builder.load(left)
            few = builder.select(builder.icmp_signed("<", now, I64(CHUNK_ROWS)), now, I64(CHUNK_ROWS))
            for sums in (works, kepts):
                builder.store(_all(kind, 0), sums)
            with cgutils.for_range(builder, few):
                value = _load(builder, data, builder.load(place), kind)
                _update(builder, kepts, builder.add, _popcount(builder, value))
                for mask, largest in zip(masks, most, strict=True):
                    count = _popcount(builder, builder.and_(value, _all(kind, mask)))
                    _update(builder, largest, larger, count)
                    _update(builder, works, builder.add, work(count))
                _update(builder, place, builder.add, stride)
            _update(builder, left, builder.sub, few)
            _update(builder, busy, builder.add, _total(builder, builder.load(works)))
            _update(builder, kept, builder.add, _total(builder, builder.load(kepts)))
        waited = I64(0)
        for largest in most:
            waited = builder.add(waited, _total(builder, work(builder.load(largest))))
        return context.make_tuple(builder, signature.return_type, [waited, builder.load(busy), builder.load(kept)])

    size = types.int64
    return types.UniTuple(size, 3)(flat, size, size, size, size, fields, words), generate


def _carry_save(builder: Builder, a: Value, b: Value, c: Value) -> tuple[Value, Value]:
    """(sum, carry) of three bits in every place."""
    either = builder.xor(a, b)
    return builder.xor(either, c), builder.or_(builder.and_(a, b), builder.and_(either, c))


def _add_eight(builder: Builder, lowest: list[Value], x: list[Value]) -> list[Value]:
    """[ones, twos, fours, carry of eight] with eight more rows (Harley and Seal; Warren, section 5-1)."""
    ones, twos, fours = lowest
    fours_of = []
    for half in (x[:4], x[4:]):
        ones, first = _carry_save(builder, ones, *half[:2])
        ones, second = _carry_save(builder, ones, *half[2:])
        twos, carry = _carry_save(builder, twos, first, second)
        fours_of.append(carry)
    fours, eights = _carry_save(builder, fours, *fours_of)
    return [ones, twos, fours, eights]


def _ripple(builder: Builder, planes: list[Value], carry: Value) -> None:
    """Add one bit in every place to the planes."""
    for plane in planes:
        old = builder.load(plane)
        builder.store(builder.xor(old, carry), plane)
        carry = builder.and_(old, carry)


@intrinsic(prefer_literal=True)
def _add_columns(typing_context, flat, at, stride, rows, shift, words):  # type: ignore[no-untyped-def]
    if not isinstance(words, types.IntegerLiteral):
        return None
    kind = _vector(words.literal_value)

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        _, at, stride, rows, shift = arguments[:5]
        data = _data(context, builder, signature.args[0], arguments[0])
        (place,) = _places(builder, at)
        planes = _places(builder, *[_all(kind, 0)] * PLANES)

        def next_row() -> Value:
            value = _load(builder, data, builder.load(place), kind)
            _update(builder, place, builder.add, stride)
            return value

        with cgutils.for_range(builder, builder.udiv(rows, I64(8))):
            lowest = [builder.load(plane) for plane in planes[:3]]
            *lowest, eights = _add_eight(builder, lowest, [next_row() for _ in range(8)])
            for plane, value in zip(planes, lowest, strict=False):
                builder.store(value, plane)
            _ripple(builder, planes[3:], eights)
        with cgutils.for_range(builder, builder.urem(rows, I64(8))):
            _ripple(builder, planes, next_row())
        found = _plane_sums(builder, [builder.load(plane) for plane in planes], shift)
        return context.make_tuple(builder, signature.return_type, [_total(builder, value) for value in found])

    size = types.int64
    return types.UniTuple(size, 3)(flat, size, size, size, size, words), generate


def _plane_sums(builder: Builder, planes: list[Value], shift: Value) -> list[Value]:
    """Sums of the columns' counts, of ceil(count / 2^shift), and of the columns with any, in every word."""
    kind = planes[0].type
    kept = vectors = low = present = _all(kind, 0)
    for p, plane in enumerate(planes):
        bits, above = _popcount(builder, plane), builder.icmp_signed(">=", I64(p), shift)
        kept = builder.add(kept, builder.shl(bits, _all(kind, p)))
        lift = _splat(builder, builder.select(above, builder.sub(I64(p), shift), I64(0)), kind)
        chosen = _splat(builder, builder.select(above, I64(-1), I64(0)), kind)
        vectors = builder.add(vectors, builder.shl(builder.and_(bits, chosen), lift))
        low = builder.or_(low, builder.and_(plane, builder.not_(chosen)))
        present = builder.or_(present, plane)
    return [kept, builder.add(vectors, _popcount(builder, low)), _popcount(builder, present)]


def _bits(flat: Row, at: int, stride: int, rows: int, words: int) -> NDArray[np.bool_]:
    """[rows, 64 x words]."""
    block = np.array([flat[at + row * stride :][:words] for row in range(rows)], "<u8")
    return np.unpackbits(block.view(np.uint8), axis=1, bitorder="little").astype(np.bool_)


if config.DISABLE_JIT:  # type: ignore[attr-defined]

    def count_words(flat: Row, at: int, words: int) -> int:
        """Set bits of neighbouring words."""
        return int(_bits(flat, at, 0, 1, words).sum())

    def fold_fields(
        flat: Row, at: int, stride: int, rows: int, least: int, fields: tuple[np.integer[Any], ...], words: int
    ) -> Sums:
        """Fields of a block of words, row by row, as the work of a lane each: `waited`, `busy`, `kept`.

        A field works max(least, ceil(set bits / 2^halvings)); `waited` sums the most of all rows over the fields of
        the block, `busy` all work, `kept` all set bits. fields: (size,) * (1 + halvings); size: an integer as wide as
        a field, int8 for fields of 4 bits. words: 8, 4 or 1, a literal. least: at most the bits of a field.
        """
        size = 4 if fields[0].dtype == np.int8 else 8 * fields[0].itemsize
        counts = _bits(flat, at, stride, rows, words).reshape(rows, -1, size).sum(2)
        work = np.maximum(least, -(-counts // 2 ** (len(fields) - 1)))
        return int(work.max(0).sum()), int(work.sum()), int(counts.sum())

    def add_columns(flat: Row, at: int, stride: int, rows: int, shift: int, words: int) -> Sums:
        """Columns of a block of words over all rows, at most `MOST_ROWS`: `kept`, `vectors`, `present`.

        Sums over the columns: their set bits, ceil(set bits / 2^shift), and 1 where there are any. words: 8, 4 or 1,
        a literal.
        """
        counts = _bits(flat, at, stride, rows, words).sum(0)
        return int(counts.sum()), int((-(-counts // 2**shift)).sum()), int(np.count_nonzero(counts))

else:
    count_words, fold_fields, add_columns = _count_words, _fold_fields, _add_columns  # type: ignore[assignment]
