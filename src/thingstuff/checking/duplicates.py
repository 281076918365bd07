"""Pictures that are in a data set twice: byte for byte, or so alike that only the file was written anew.

Letters: N pictures of one split, M of another.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from jaxtyping import UInt8, UInt64

from thingstuff.checking.pictures import THUMBNAIL, Fingerprint
from thingstuff.evaluation.segments import ImageId

FAR = 8
"""Bits of the 64 of a perceptual hash in which two pictures that are nearly the same differ at most."""
LEVELS = 10.0
"""Levels (of 255) by which their thumbnails' colours differ at most, on average."""
_BLOCK = 1 << 22  # pairs compared at once: memory does not grow with their number
_BITS = np.array([bin(i).count("1") for i in range(1 << 16)], dtype=np.uint8)


class Twins(NamedTuple):
    """Two pictures that are the same: their places among those given, and whether the files are equal."""

    first: int
    second: int
    equal: bool


class Prints:
    """The fingerprints of a split's pictures, packed."""

    def __init__(self) -> None:
        self.ids: list[ImageId] = []
        self.files: list[Path] = []
        self._digests: list[bytes] = []
        self._hashes: list[int] = []
        self._thumbnails = bytearray()

    def add(self, image_id: ImageId, file: Path, print_: Fingerprint) -> None:
        """Take in a picture."""
        self.ids.append(image_id)
        self.files.append(file)
        self._digests.append(print_.digest)
        self._hashes.append(print_.hash)
        self._thumbnails += print_.thumbnail

    @property
    def digests(self) -> Sequence[bytes]:
        """The digests of the files."""
        return self._digests

    @property
    def hashes(self) -> UInt64[np.ndarray, " N"]:
        """The perceptual hashes."""
        return np.array(self._hashes, dtype=np.uint64)

    @property
    def thumbnails(self) -> UInt8[np.ndarray, "N 8 8 3"]:
        """The thumbnails."""
        return np.frombuffer(bytes(self._thumbnails), dtype=np.uint8).reshape(-1, *THUMBNAIL)


def equal_within(prints: Prints) -> Iterator[Twins]:
    """Yield pictures whose files equal an earlier one's, with the first of them; a file named twice is no twin."""
    seen: dict[bytes, int] = {}
    for position, digest in enumerate(prints.digests):
        first = seen.setdefault(digest, position)
        if prints.files[first] != prints.files[position]:
            yield Twins(first, position, equal=True)


def alike_across(first: Prints, second: Prints) -> Iterator[Twins]:
    """Yield, for each picture of the second split that is in the first too, the one there that is most like it."""
    known = {digest: position for position, digest in reversed([*enumerate(first.digests)])}
    hashes, thumbnails = first.hashes, first.thumbnails
    others, other_thumbnails = second.hashes, second.thumbnails
    step = max(1, _BLOCK // max(1, len(hashes)))
    for start in range(0, len(others), step):
        away = hamming(others[start : start + step], hashes)
        for offset, row in enumerate(away):
            position = start + offset
            equal = known.get(second.digests[position])
            if equal is not None:
                yield Twins(equal, position, equal=True)
                continue
            near = np.flatnonzero(row <= FAR)
            nearest = _nearest(thumbnails, other_thumbnails[position], near) if len(near) else None
            if nearest is not None:
                yield Twins(nearest, position, equal=False)


def hamming(first: UInt64[np.ndarray, " N"], second: UInt64[np.ndarray, " M"]) -> UInt8[np.ndarray, "N M"]:
    """Count the bits in which each pair of numbers differs."""
    differing = first[:, None] ^ second[None]
    if hasattr(np, "bitwise_count"):  # numpy 2's, several times faster
        counted: npt.NDArray[np.uint8] = np.bitwise_count(differing)
    else:
        words = differing.view(np.uint16).reshape(len(first), len(second), 4)
        counted = _BITS[words].sum(axis=2, dtype=np.uint8)
    return counted


def _nearest(
    thumbnails: UInt8[np.ndarray, "N 8 8 3"], other: UInt8[np.ndarray, "8 8 3"], near: npt.NDArray[np.int64]
) -> int | None:
    """Return which of the near pictures has the most similar colours, None where none is similar enough."""
    away = np.abs(thumbnails[near].astype(np.int16) - other.astype(np.int16)).mean(axis=(1, 2, 3))
    best = int(np.argmin(away))
    return int(near[best]) if away[best] <= LEVELS else None
