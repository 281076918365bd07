"""What each picture adds to each class's PQ, kept for resampling or streamed to a file; memory stays flat.

Letters: N pictures, C classes.
"""

import json
import os
import secrets
import struct
import weakref
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from hashlib import blake2b
from pathlib import Path
from tempfile import SpooledTemporaryFile

import numpy as np
from jaxtyping import Float64, Int64, UInt64

from thingstuff.errors import InputError
from thingstuff.evaluation.causes import CAUSES, segment_errors
from thingstuff.evaluation.segments import ImageId, ScoredPicture
from thingstuff.io import finite
from thingstuff.panoptic import Categories

SPOOL_BYTES = 64 * 2**20
_BUFFER_BYTES = 2**16

_RECORD = struct.Struct("<idiii")
_RECORD_TYPE = np.dtype([("label", "<i4"), ("iou", "<f8"), ("tp", "<i4"), ("fp", "<i4"), ("fn", "<i4")])
_PICTURE = struct.Struct("<Qq")
_PICTURE_TYPE = np.dtype([("key", "<u8"), ("start", "<i8")])  # start: the picture's first record


class PictureSums:
    """Every picture's IoU sum, TP, FP and FN per class that occurs in it, in the order in which pictures are added.

    Up to `spool_bytes` are held in memory, more in temporary files, which `close` (or the object's end) frees. Not
    for several threads at a time. A picture without any segment counts as a picture.
    """

    def __init__(self, categories: Categories, spool_bytes: int = SPOOL_BYTES) -> None:
        self.categories = categories
        self._records = _Spool(_RECORD, _RECORD_TYPE, spool_bytes)
        self._pictures = _Spool(_PICTURE, _PICTURE_TYPE, spool_bytes)

    def __len__(self) -> int:
        return self._pictures.length

    def add(self, picture: ScoredPicture) -> None:
        """Add one picture; what it has of categories that are not listed is left out, as averages leave it out."""
        self._pictures.append(_key(picture.image_id), self._records.length)
        for category_id, sums in picture.matches.sums().items():
            label = self.categories.label_of.get(category_id)
            if label is not None:
                self._records.append(label, sums.iou, sums.tp, sums.fp, sums.fn)

    def keys(self) -> UInt64[np.ndarray, "N"]:
        """Return a number for each picture that is the same wherever its image id is the same (a 64-bit digest)."""
        return np.array(self._pictures.read(0, len(self))["key"], np.uint64)

    def sums_at(self, positions: Int64[np.ndarray, "N"]) -> Float64[np.ndarray, "N C 4"]:
        """Return IoU sum, TP, FP and FN per class of the pictures at `positions` (0: the first added)."""
        sums = np.zeros((positions.size, len(self.categories), 4))
        # neighbours are read together: the pictures of one chunk mostly lie in one run
        for run in np.split(np.arange(positions.size), np.flatnonzero(np.diff(positions) != 1) + 1):
            if run.size:
                first, last = int(positions[run[0]]), int(positions[run[-1]])
                starts = self._pictures.read(first, last + 2)["start"]
                if starts.size == run.size:  # the last picture's records end with the store
                    starts = np.append(starts, self._records.length)
                records = self._records.read(int(starts[0]), int(starts[-1]))
                rows = np.repeat(run, np.diff(starts))
                for column, name in enumerate(("iou", "tp", "fp", "fn")):
                    sums[rows, records["label"], column] = records[name]
        return sums

    def close(self) -> None:
        """Free memory and temporary files; the sums are gone."""
        self._records.close()
        self._pictures.close()


class PictureLines:
    """Streams one JSON line per picture to `path`: image_id, pq, classes (category_id, iou, tp, fp, fn), causes.

    Classes are those that occur; causes count the unmatched segments of both sides by cause (`causes.CAUSES`).
    A context: lines are written aside in the same folder and get their name when it ends without an error, so that
    `path` is whole or not there. Raises `InputError` where `path` is there already or its folder is not.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if self.path.exists():
            raise InputError(f"{self.path} is there already; choose another name or remove it")
        if not self.path.parent.is_dir():
            raise InputError(f"{self.path}: there is no folder {self.path.parent}; create it")
        self._aside = self.path.with_name(f".{self.path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
        self._file = self._aside.open("x", encoding="utf-8", newline="\n")

    def __enter__(self) -> "PictureLines":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()

    def add(self, picture: ScoredPicture) -> None:
        """Write one picture's line."""
        classes = [{"category_id": i, **asdict(sums)} for i, sums in picture.matches.sums().items()]
        found = [error.cause for error in segment_errors(picture)]
        causes = {cause: found.count(cause) for cause in CAUSES if cause in found}
        line = {"image_id": picture.image_id, "pq": picture.matches.pq, "classes": classes, "causes": causes}
        self._file.write(json.dumps(finite(line), allow_nan=False) + "\n")

    def close(self) -> None:
        """Flush to disk and give the file its name; an `OSError` (disk full) comes through and leaves no file."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            os.replace(self._aside, self.path)
        except BaseException:
            self.abandon()
            raise

    def abandon(self) -> None:
        """Drop what was written."""
        try:
            self._file.close()
        finally:
            self._aside.unlink(missing_ok=True)


def picture_lines(path: str | Path | None) -> AbstractContextManager[PictureLines | None]:
    """Return the context of a file to stream pictures to, or one of None."""
    return nullcontext() if path is None else PictureLines(path)


class _Spool:
    """Records of one size, appended, and read by their numbers."""

    def __init__(self, record: struct.Struct, record_type: "np.dtype[np.void]", spool_bytes: int) -> None:
        self.length = 0
        self._record, self._type = record, record_type
        self._buffer = bytearray()
        self._file = SpooledTemporaryFile(max_size=spool_bytes)  # noqa: SIM115
        # an evaluation's result may be dropped without a close: what lies on disk goes with it, and nothing warns
        self.close = weakref.finalize(self, self._file.close)

    def append(self, *values: int | float) -> None:
        self._buffer += self._record.pack(*values)
        self.length += 1
        if len(self._buffer) >= _BUFFER_BYTES:
            self._flush()

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return the records from `start` up to `stop`, or fewer at the end."""
        self._flush()
        self._file.seek(start * self._type.itemsize)
        return np.frombuffer(self._file.read((stop - start) * self._type.itemsize), self._type)

    def _flush(self) -> None:
        self._file.seek(0, os.SEEK_END)
        self._file.write(self._buffer)
        self._buffer.clear()


def _key(image_id: ImageId) -> int:
    # the id 1 is not the id "1"; JSON may hold texts that are no valid Unicode
    text = f"{'text' if isinstance(image_id, str) else 'number'} {image_id}"
    return int.from_bytes(blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest(), "little")
