"""Plain encoders and decoders of every storage format: strings of '0' and '1', element by element.

A tensor is written to (metadata, values) and read back from these two strings, the shape and the format's parameters;
nothing is shared with the code under test. Values are non-negative integers; the encoders write what they are given,
so a stored zero takes its bits in `values`.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np


class Reader:
    """Takes bits off the front of a string."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0

    def take(self, width: int) -> int:
        if self.at + width > len(self.text):
            raise EOFError
        part = self.text[self.at : self.at + width]
        self.at += width
        return int(part, 2) if width else 0

    @property
    def empty(self) -> bool:
        return self.at == len(self.text)


def write(number: int, width: int) -> str:
    if not 0 <= number < 2**width:
        raise OverflowError(f"{number} in {width} bits")
    return format(number, f"0{width}b") if width else ""


def width_for(choices: int) -> int:
    """ceil(log2 choices)."""
    return math.ceil(math.log2(choices)) if choices > 1 else 0


# flat formats: encode_x gives (metadata, values), decode_x gives the matrix back


def encode_dense(matrix, value_bits):
    return "", "".join(write(int(v), value_bits) for v in matrix.ravel())


def decode_dense(metadata, values, shape, value_bits):
    data = Reader(values)
    out = np.array([data.take(value_bits) for _ in range(math.prod(shape))]).reshape(shape)
    return _all_read(out, data)


def encode_bitmask(matrix, value_bits):
    flags = "".join("1" if v else "0" for v in matrix.ravel())
    return flags, "".join(write(int(v), value_bits) for v in matrix.ravel() if v)


def decode_bitmask(metadata, values, shape, value_bits):
    data = Reader(values)
    out = np.array([data.take(value_bits) if flag == "1" else 0 for flag in metadata])
    return _all_read(out.reshape(shape), data)


def encode_run_length(matrix, value_bits, run_bits, stream):
    fibres = [matrix.ravel()] if stream else list(matrix)
    runs, stored, longest = [], [], 2**run_bits - 1
    for fibre in fibres:
        run = 0
        for i, v in enumerate(fibre):
            if v or run == longest or i == len(fibre) - 1:
                runs.append(write(run, run_bits))
                stored.append(write(int(v), value_bits))
                run = 0
            else:
                run += 1
    return "".join(runs), "".join(stored)


def decode_run_length(metadata, values, shape, value_bits, run_bits, stream):
    runs, data = Reader(metadata), Reader(values)
    fibres, length = (1, shape[0] * shape[1]) if stream else shape
    out = np.zeros((fibres, length), np.int64)
    for fibre in out:
        at = 0
        while at < length:
            at += runs.take(run_bits)
            fibre[at] = data.take(value_bits)
            at += 1
    return _all_read(out.reshape(shape), runs, data)


def encode_coordinate_list(matrix, value_bits):
    rows, cols = matrix.shape
    places = np.argwhere(matrix)
    metadata = write(len(places), width_for(rows * cols + 1))
    metadata += "".join(write(int(r), width_for(rows)) + write(int(c), width_for(cols)) for r, c in places)
    return metadata, "".join(write(int(matrix[r, c]), value_bits) for r, c in places)


def decode_coordinate_list(metadata, values, shape, value_bits):
    places, data, out = Reader(metadata), Reader(values), np.zeros(shape, np.int64)
    for _ in range(places.take(width_for(shape[0] * shape[1] + 1))):
        row, col = places.take(width_for(shape[0])), places.take(width_for(shape[1]))
        out[row, col] = data.take(value_bits)
    return _all_read(out, places, data)


def encode_csr(matrix, value_bits, pointer_bits=None):
    rows, cols = matrix.shape
    pointer = width_for(rows * cols + 1) if pointer_bits is None else pointer_bits
    pointers, columns, stored, seen = [write(0, pointer)], [], [], 0
    for row in matrix:
        for col in np.flatnonzero(row):
            columns.append(write(int(col), width_for(cols)))
            stored.append(write(int(row[col]), value_bits))
            seen += 1
        pointers.append(write(seen, pointer))
    return "".join(pointers + columns), "".join(stored)


def decode_csr(metadata, values, shape, value_bits, pointer_bits=None):
    rows, cols = shape
    pointer = width_for(rows * cols + 1) if pointer_bits is None else pointer_bits
    head, data, out = Reader(metadata), Reader(values), np.zeros(shape, np.int64)
    pointers = [head.take(pointer) for _ in range(rows + 1)]
    for row in range(rows):
        for _ in range(pointers[row], pointers[row + 1]):
            out[row, head.take(width_for(cols))] = data.take(value_bits)
    return _all_read(out, head, data)


def encode_csc(matrix, value_bits, pointer_bits=None):
    return encode_csr(matrix.T, value_bits, pointer_bits)


def decode_csc(metadata, values, shape, value_bits, pointer_bits=None):
    return decode_csr(metadata, values, shape[::-1], value_bits, pointer_bits).T


def encode_blocked(matrix, value_bits, kept, block):
    places, stored = [], []
    for row in matrix:
        for start in range(0, len(row), block):
            part = row[start : start + block]
            full = [i for i, v in enumerate(part) if v]
            spare = [i for i, v in enumerate(part) if not v]
            slots = sorted(full + spare[: min(kept, len(part)) - len(full)])
            assert len(slots) == min(kept, len(part))
            places += [write(i, width_for(block)) for i in slots]
            stored += [write(int(part[i]), value_bits) for i in slots]
    return "".join(places), "".join(stored)


def decode_blocked(metadata, values, shape, value_bits, kept, block):
    places, data, out = Reader(metadata), Reader(values), np.zeros(shape, np.int64)
    for row in out:
        for start in range(0, shape[1], block):
            for _ in range(min(kept, shape[1] - start)):
                row[start + places.take(width_for(block))] = data.take(value_bits)
    return _all_read(out, places, data)


def encode_k_of_n(matrix, value_bits, k, n, unit):
    units = matrix.reshape(matrix.shape[0], -1, unit)
    places, stored = [], []
    for row in units:
        for start in range(0, len(row), n):
            part = row[start : start + n]
            slots = [i for i, u in enumerate(part) if u.any()]
            assert len(slots) == min(k, len(part))
            places += [write(i, width_for(n)) for i in slots]
            stored += [write(int(v), value_bits) for i in slots for v in part[i]]
    return "".join(places), "".join(stored)


def decode_k_of_n(metadata, values, shape, value_bits, k, n, unit):
    places, data = Reader(metadata), Reader(values)
    out = np.zeros((shape[0], shape[1] // unit, unit), np.int64)
    for row in out:
        for start in range(0, len(row), n):
            for _ in range(min(k, len(row) - start)):
                at = start + places.take(width_for(n))
                row[at] = [data.take(value_bits) for _ in range(unit)]
    return _all_read(out.reshape(shape), places, data)


# a format per rank: one metadata string for each rank, and one of values


def encode_ranks(tensor, value_bits, ranks):
    """`ranks`: (kind, bits) from the outermost. Returns (metadata of each rank, values)."""
    metadata = [""] * len(ranks)
    stored = []
    fibres = [tensor]
    for depth, (kind, bits) in enumerate(ranks):
        children = []
        for fibre in fibres:
            full = [i for i in range(len(fibre)) if np.any(fibre[i])]
            counted = depth > 0 and ranks[depth - 1][0] == "UOP"
            if kind != "UOP":
                metadata[depth] += _encode_fibre(kind, bits, len(fibre), full, counted)
            children += [fibre[i] for i in (range(len(fibre)) if kind == "U" else full)]
        if kind == "UOP":
            metadata[depth] = _offsets(fibres, bits, tensor.shape, depth)
        fibres = children
    stored = [write(int(v), value_bits) for v in fibres]
    return metadata, "".join(stored)


def _encode_fibre(kind, bits, size, full, counted):
    if kind == "U":
        return ""
    if kind == "B":
        return "".join("1" if i in full else "0" for i in range(size))
    if kind == "CP":
        count = "" if counted else write(len(full), width_for(size + 1))
        return count + "".join(write(i, width_for(size)) for i in full)
    escape, out, at = 2**bits - 1, "", 0
    for i in [*full, size]:
        run = i - at
        while run >= escape:
            out, run = out + write(escape, bits), run - escape
        if i < size or run:
            out += write(run, bits)
        at = i + 1
    return out


def _offsets(fibres, bits, shape, depth):
    width = width_for(math.prod(shape[: depth + 2]) + 1) if bits is None else bits
    out, seen = "", 0
    for fibre in fibres:
        out += write(seen, width)
        for child in fibre:
            seen += sum(bool(np.any(grandchild)) for grandchild in child)
            out += write(seen, width)
    return out


def decode_ranks(metadata, values, shape, value_bits, ranks):
    """The tensor, from the strings alone."""
    readers, data, out = [Reader(text) for text in metadata], Reader(values), np.zeros(shape, np.int64)
    paths = [()]
    counts: list[int] | None = None
    for depth, (kind, bits) in enumerate(ranks):
        reader, size = readers[depth], shape[depth]
        children, below = [], []
        for f, path in enumerate(paths):
            if kind == "UOP":
                width = width_for(math.prod(shape[: depth + 2]) + 1) if bits is None else bits
                offsets = [reader.take(width) for _ in range(size + 1)]
                sizes = [b - a for a, b in pairwise(offsets)]
                full = [i for i, s in enumerate(sizes) if s]
                below += [sizes[i] for i in full]
            else:
                full = _decode_fibre(reader, kind, bits, size, None if counts is None else counts[f])
            children += [(*path, i) for i in full]
        paths, counts = children, below if kind == "UOP" else None
    for path in paths:
        out[path] = data.take(value_bits)
    return _all_read(out, data, *readers)


def _decode_fibre(reader, kind, bits, size, count):
    if kind == "U":
        return list(range(size))
    if kind == "B":
        return [i for i in range(size) if reader.take(1)]
    if kind == "CP":
        number = reader.take(width_for(size + 1)) if count is None else count
        return [reader.take(width_for(size)) for _ in range(number)]
    full, at, escape = [], 0, 2**bits - 1
    while at < size:
        run = reader.take(bits)
        at += run
        if run != escape and at < size:
            full.append(at)
            at += 1
    return full


def _all_read(out, *readers):
    assert all(reader.empty for reader in readers)
    return out
