"""The loop over a brush's packed runs, which numba compiles where there is much of it."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import numpy.typing as npt

_MUCH = 1 << 16  # bytes: loading numba takes a second, in which the plain loop gets through ten times as many
_PADDING = bytes(8)


def unpack_runs(data: bytes, place: int, lengths: tuple[int, int, int, int], out: npt.NDArray[np.uint8]) -> int:
    """Fill bytes from the runs that begin at bit `place`, and return how many bytes were filled.

    A run is a flag (1 bit), the number of one of `lengths` (2), how many bytes it stands for less 1 (that many bits),
    and the byte that repeats if the flag is set, else all of them. `out` must be 0; it is filled up to what is cut off.
    """
    padded, end = data + _PADDING, 8 * len(data)
    if len(data) < _MUCH:
        return int(_unpack(padded, place, end, lengths, out))
    return int(_compiled()(np.frombuffer(padded, dtype=np.uint8), place, end, lengths, out))


def _unpack(data: Any, place: int, end: int, lengths: tuple[int, int, int, int], out: npt.NDArray[np.uint8]) -> int:
    at = 0
    while at < len(out):
        if place + 3 > end:  # the padding holds no more than one run's beginning
            return at
        first, window = place >> 3, 0
        for number in range(5):
            window = window << 8 | data[first + number]
        left = 40 - (place & 7)  # bits of the window from here on: enough for 3, 16 and 8
        bits = lengths[window >> (left - 3) & 3]
        repeated = window >> (left - 1) & 1
        length = (window >> (left - 3 - bits) & ((1 << bits) - 1)) + 1
        place += 3 + bits
        words = 1 if repeated else length
        if place + 8 * words > end or at + length > len(out):
            return at
        if repeated:
            value = window >> (left - 11 - bits) & 255
            if value:
                out[at : at + length] = value
        else:
            shift = 8 - (place & 7)
            for number in range(length):
                byte = (place >> 3) + number
                out[at + number] = (data[byte] << 8 | data[byte + 1]) >> shift & 255
        at += length
        place += 8 * words
    return at


@functools.cache
def _compiled() -> Callable[..., int]:
    from numba import njit

    # tests wrap whatever has annotations, and numba compiles plain functions alone
    plain = inspect.unwrap(_unpack)
    try:
        return cast(Callable[..., int], njit(nogil=True, cache=True)(plain))
    except RuntimeError:  # no folder for its cache
        return cast(Callable[..., int], njit(nogil=True)(plain))
