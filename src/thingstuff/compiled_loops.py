"""Loops over every pixel of id maps, compiled by numba at first use and kept in its cache; they hold no GIL.

Importing this takes more than a second (and some more, once per machine): `thingstuff.loops` decides when.
"""

import inspect
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
from numba import njit, types
from numba.core.caching import FunctionCache

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint64]
Ids = npt.NDArray[np.int32]
Places = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.uint32]
Scalar = Any  # what numpy's integers become when compiled code adds, shifts and compares them
F = TypeVar("F", bound=Callable[..., object])

# Megabytes come and go with every map. Once something large was freed, glibc keeps such memory: by itself it hands it
# back each time, and getting it anew takes longer than decoding a map.
np.empty(31 << 20, np.uint8)

_EACH_BYTE = np.uint64(0x0101010101010101)


def _part(function: F) -> F:
    # tests wrap whatever has annotations, and numba compiles plain functions alone
    return cast(F, njit(nogil=True)(inspect.unwrap(function)))


def _compiled(*signature: types.Type) -> Callable[[F], F]:
    def compile_now(function: F) -> F:
        plain = inspect.unwrap(function)
        try:
            return cast(F, njit([signature], nogil=True, cache=True)(plain))
        except Exception:  # noqa: BLE001 - a damaged cache raises whatever unpickling does; a faulty loop fails again
            loop = cast(F, njit([signature], nogil=True)(plain))
        # empties the cache, so that the next process fills it anew; there may be no folder for one, or a locked one
        with suppress(RuntimeError, OSError):
            cast(Any, FunctionCache)(plain).flush()
        return loop

    return compile_now


@_part
def _first_set_byte(word: Scalar) -> Scalar:
    """Return the number of zero bytes below a word's lowest byte that is not zero."""
    lowest = word & (~word + np.uint64(1))
    whole = (lowest - np.uint64(1)) >> np.uint64(7) & _EACH_BYTE  # a one for each byte below it
    return np.int64(whole * _EACH_BYTE >> np.uint64(56))


# Unfiltering (PNG specification, section 9). An id's three bytes are taken at once, as the filters keep them apart, and
# what differs from its prediction is rare in a map: whole stretches are copied up to the next byte that is not zero.


@_part
def _next_set(raw: Bytes, words: Words, at: int, end: int) -> Scalar:
    """Return the place of the first byte from `at` that is not zero, or `end`."""
    i = at >> 3
    last = min(words.size, (end + 7) >> 3)
    if i < last:
        word = words[i] >> np.uint64(8 * (at & 7))
        if word:
            return min(at + _first_set_byte(word), end)
        i += 1
        while i + 4 <= last and not words[i] | words[i + 1] | words[i + 2] | words[i + 3]:
            i += 4
        while i < last and not words[i]:
            i += 1
        at = i << 3
        if i < last:
            return min(at + _first_set_byte(words[i]), end)
    while at < end and not raw[at]:  # the last bytes make no whole word
        at += 1
    return min(at, end)


@_part
def _pixel(place: int, step: int) -> int:
    return place // 3 if step == 3 else place // 4  # dividing by a constant is much faster


@_part
def _residual(raw: Bytes, at: int) -> Scalar:
    return np.int32(raw[at]) | np.int32(raw[at + 1]) << 8 | np.int32(raw[at + 2]) << 16


@_part
def _add(prediction: Scalar, residual: Scalar) -> Scalar:
    """Add byte by byte, without carrying from one into the next."""
    low = (prediction & 0x7F7F7F) + (residual & 0x7F7F7F)
    return np.int32(low ^ ((prediction ^ residual) & 0x808080))


@_part
def _mean(left: Scalar, up: Scalar) -> Scalar:
    """Average byte by byte, rounded down."""
    return np.int32((left & up) + (((left ^ up) & 0xFEFEFE) >> 1))


@_part
def _paeth(left: Scalar, up: Scalar, corner: Scalar) -> Scalar:
    if left == corner:
        return up
    if up in (corner, left):
        return left
    prediction = np.int32(0)
    for shift in (0, 8, 16):
        a, b, c = (left >> shift) & 255, (up >> shift) & 255, (corner >> shift) & 255
        from_a, from_b, from_c = abs(b - c), abs(a - c), abs(a + b - 2 * c)
        nearest = a if from_a <= from_b and from_a <= from_c else b if from_b <= from_c else c
        prediction |= nearest << shift
    return np.int32(prediction)


@_part
def _plain_row(raw: Bytes, begin: int, step: int, row: Ids) -> None:
    for x in range(row.size):
        row[x] = _residual(raw, begin + step * x)


@_part
def _sub_row(raw: Bytes, words: Words, begin: int, step: int, row: Ids) -> None:
    end = begin + step * row.size
    left = np.int32(0)
    x = 0
    while x < row.size:
        stop = _pixel(_next_set(raw, words, begin + step * x, end) - begin, step)
        row[x:stop] = left
        x = stop
        if x < row.size:
            left = _add(left, _residual(raw, begin + step * x))
            row[x] = left
            x += 1


@_part
def _up_row(raw: Bytes, words: Words, begin: int, step: int, row: Ids) -> None:
    """Unfilter a row that holds the row above."""
    end = begin + step * row.size
    at = _next_set(raw, words, begin, end)
    while at < end:
        x = _pixel(at - begin, step)
        row[x] = _add(row[x], _residual(raw, begin + step * x))
        at = _next_set(raw, words, begin + step * (x + 1), end)


@_part
def _mean_row(raw: Bytes, begin: int, step: int, row: Ids) -> None:
    """Unfilter a row that holds the row above."""
    left = np.int32(0)
    for x in range(row.size):
        left = _add(_mean(left, row[x]), _residual(raw, begin + step * x))
        row[x] = left


@_part
def _paeth_row(raw: Bytes, words: Words, begin: int, step: int, row: Ids) -> None:
    """Unfilter a row that holds the row above."""
    end = begin + step * row.size
    left = corner = np.int32(0)
    x = 0
    while x < row.size:
        stop = _pixel(_next_set(raw, words, begin + step * x, end) - begin, step)
        # once the pixel on the left equals its upper neighbour, so do all until the next residual
        while x < stop and left != corner:
            up = row[x]
            left = _paeth(left, up, corner)
            corner = up
            row[x] = left
            x += 1
        if stop < row.size:
            if x < stop:
                left = corner = row[stop - 1]
            x = stop
            up = row[x]
            left = _add(_paeth(left, up, corner), _residual(raw, begin + step * x))
            corner = up
            row[x] = left
            x += 1
        else:
            x = stop


@_compiled(types.Array(types.uint8, 1, "C", readonly=True), types.int64, types.int32[:, ::1])
def unfilter(raw: Bytes, step: int, ids: Ids) -> bool:
    """Write the ids of a PNG's inflated rows, `step` bytes a pixel (3, or 4 with alpha); False on an unknown filter."""
    words = raw[: raw.size // 8 * 8].view(np.uint64)
    begin = np.int64(1)  # a plain 1 would have numba compile the rows' loops a second time, for that number
    for y in range(ids.shape[0]):
        row = ids[y]
        kind = raw[begin - 1]
        if kind >= 2:
            for x in range(row.size):
                row[x] = ids[y - 1, x] if y else 0
        if kind == 0:
            _plain_row(raw, begin, step, row)
        elif kind == 1:
            _sub_row(raw, words, begin, step, row)
        elif kind == 2:
            _up_row(raw, words, begin, step, row)
        elif kind == 3:
            _mean_row(raw, begin, step, row)
        elif kind == 4:
            _paeth_row(raw, words, begin, step, row)
        else:
            return False
        begin += step * row.size + 1
    return True


# Counting: ids come in long runs, and a pair of ids is looked up once a run.


@_part
def _mark_changes(marks: Bytes, truth: Numbers, prediction: Numbers) -> None:
    for i in range(marks.size - 1):
        change = (truth[i] ^ truth[i + 1]) | (prediction[i] ^ prediction[i + 1])
        marks[i + 1] = np.uint8(1) if change else np.uint8(0)


@_part
def _run_ends(truth: Numbers, prediction: Numbers) -> npt.NDArray[np.int64]:
    marks = np.zeros((truth.size + 8) // 8 * 8, np.uint8)
    _mark_changes(marks[: truth.size], truth, prediction)
    marks[truth.size] = 1
    words = marks.view(np.uint64)
    ends = np.empty(marks.sum(), np.int64)
    count = 0
    for i in range(words.size):
        word = words[i]
        while word:
            ends[count] = 8 * i + _first_set_byte(word)
            count += 1
            word &= word - np.uint64(1)
    return ends


_FLAT = types.Array(types.uint32, 1, "C", readonly=True)


@_compiled(_FLAT, _FLAT)
def count_pairs(truth: Numbers, prediction: Numbers) -> tuple[Words, npt.NDArray[np.int64]]:
    """Return each pair that occurs as truth x 2^32 + prediction, in no order, and its pixels; at least one pixel."""
    ends = _run_ends(truth, prediction)
    size = 64
    while size < 2 * ends.size:
        size *= 2
    keys, pixels = np.empty(size, np.uint64), np.zeros(size, np.int64)
    start = 0
    for end in ends:
        key = np.uint64(truth[start]) << np.uint64(32) | np.uint64(prediction[start])
        # Fibonacci hashing: neighbouring ids fall far apart
        slot = np.int64(key * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(32)) & (size - 1)
        while pixels[slot] and keys[slot] != key:
            slot = (slot + 1) & (size - 1)
        keys[slot] = key
        pixels[slot] += end - start
        start = end
    taken = np.flatnonzero(pixels)
    return keys[taken], pixels[taken]


# Boundaries: a pixel is in none where the square window around it holds one id.


@_compiled(types.Array(types.int32, 2, "C", readonly=True), types.int64, types.int64, types.int32[:, ::1])
def mark_interior(ids: Ids, width: int, interior: int, marked: Ids) -> None:
    """Write `interior` where a window of 2 `width` + 1 pixels lies in the picture and holds one id that is not 0."""
    # per column: rows, ending with this one, in which 2 width + 1 pixels hold the id that the column has here
    rows = np.zeros(ids.shape[1], np.int64)
    for y in range(ids.shape[0]):
        start = 0
        while start < rows.size:
            value = ids[y, start]
            end = start + 1
            while end < rows.size and ids[y, end] == value:
                end += 1
            first, last = start + width, end - width
            if value == 0 or first >= last:
                first = last = end
            rows[start:first] = 0
            for x in range(first, last):
                rows[x] = rows[x] + 1 if y > 0 and ids[y - 1, x] == value else 1
                if rows[x] > 2 * width:
                    marked[y - width, x] = interior
            rows[last:end] = 0
            start = end


# Enlarging: each pixel of a row, then of a column, is a mean of two, in whole numbers of 22 bits as Pillow has them.

_HALF = np.int32(1 << 21)


@_part
def _across(row: Bytes, lefts: Places, weights: Ids, out: Bytes) -> None:
    for x in range(lefts.size):
        at, beside = 3 * lefts[x], 3 * min(lefts[x] + 1, row.size // 3 - 1)
        first, second = weights[x, 0], weights[x, 1]
        for channel in range(3):
            mean = first * np.int32(row[at + channel]) + second * np.int32(row[beside + channel])
            out[3 * x + channel] = np.uint8((mean + _HALF) >> 22)


@_part
def _down(upper: Bytes, lower: Bytes, first: Scalar, second: Scalar, out: Bytes) -> None:
    for i in range(out.size):
        out[i] = np.uint8((first * np.int32(upper[i]) + second * np.int32(lower[i]) + _HALF) >> 22)


_PLACES, _WEIGHTS = types.Array(types.int64, 1, "C"), types.Array(types.int32, 2, "C")


@_compiled(
    types.Array(types.uint8, 3, "C", readonly=True), _PLACES, _WEIGHTS, _PLACES, _WEIGHTS, types.uint8[:, :, ::1]
)
def enlarge(picture: Bytes, tops: Places, rows: Ids, lefts: Places, columns: Ids, out: Bytes) -> None:
    """Write pixels that are means of those at (top, left), below and beside; `rows` and `columns` weigh the two."""
    height, width = picture.shape[0], picture.shape[1]
    source, target = picture.reshape(height, 3 * width), out.reshape(out.shape[0], 3 * out.shape[1])
    begin, end = tops.min(), min(height, tops.max() + 2)
    wide = np.empty((end - begin, target.shape[1]), np.uint8)
    for y in range(begin, end):
        _across(source[y], lefts, columns, wide[y - begin])
    for y in range(tops.size):
        top = tops[y] - begin
        _down(wide[top], wide[min(top + 1, end - begin - 1)], rows[y, 0], rows[y, 1], target[y])


# Colours: values are moved away from a level or towards it, cut to 0 to 255 and rounded down, in single precision as
# Pillow does. The loops over a row write to memory that they do not read, else they would take a value at a time.


@_part
def _blend(row: Bytes, level: Scalar, factor: Scalar, out: Bytes) -> None:
    for i in range(row.size):
        value = level + factor * (np.float32(row[i]) - level)
        out[i] = np.uint8(min(max(value, np.float32(0)), np.float32(255)))


@_part
def _blend_each(row: Bytes, levels: Bytes, factor: Scalar, out: Bytes) -> None:
    for i in range(row.size):
        level = np.float32(levels[i])
        value = level + factor * (np.float32(row[i]) - level)
        out[i] = np.uint8(min(max(value, np.float32(0)), np.float32(255)))


@_part
def _greys(row: Bytes, out: Bytes) -> Scalar:
    """Write each pixel's luminance (ITU-R 601-2, in 16 bits) and return their sum."""
    for x in range(out.size):
        red, green, blue = np.int32(row[3 * x]), np.int32(row[3 * x + 1]), np.int32(row[3 * x + 2])
        out[x] = (np.int32(19595) * red + np.int32(38470) * green + np.int32(7471) * blue + np.int32(1 << 15)) >> 16
    total = np.int64(0)
    for grey in out:
        total += grey
    return total


@_compiled(types.Array(types.uint8, 2, "C", readonly=True), *[types.float32] * 3, types.uint8[:, ::1])
def recolour(picture: Bytes, brightness: Scalar, contrast: Scalar, saturation: Scalar, out: Bytes) -> None:
    """Write a picture, [H, 3 W], whose brightness, contrast and saturation are scaled one after the other."""
    rows, values = picture.shape
    bright, both, levels = np.empty(values, np.uint8), np.empty(values, np.uint8), np.empty(values, np.uint8)
    greys = np.empty(values // 3, np.uint8)
    total = np.int64(0)
    for y in range(rows):
        _blend(picture[y], np.float32(0), brightness, bright)
        total += _greys(bright, greys)
    mean = np.float32(np.int64(total / (rows * greys.size) + 0.5))
    for y in range(rows):
        _blend(picture[y], np.float32(0), brightness, bright)
        _blend(bright, mean, contrast, both)
        _greys(both, greys)
        for x in range(greys.size):
            levels[3 * x] = levels[3 * x + 1] = levels[3 * x + 2] = greys[x]
        _blend_each(both, levels, saturation, out[y])
