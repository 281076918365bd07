"""Pickles of numpy arrays and plain containers, and of nothing else: what MSRA's ImageNet weights are kept in.

No global that a file names is ever looked up. The few that numpy's arrays need have stand-ins here, which take numbers
and bytes only; any other name is refused.
"""

import pickle
import pickletools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from thingstuff.errors import InputError

MOST_TUPLES = 10_000
"""Tuples of a file, of which an array takes about eight: nested without end, they would break the interpreter."""
MOST_AXES = 32
"""Axes of an array, which are the most that numpy 1 has."""
KINDS = "fiub"
"""Kinds of numbers that an array may hold: floats, integers with and without sign, truth values."""

Array = npt.NDArray[Any]


class RefusedError(ValueError):
    """What a file holds that weights have no need of."""


_LEFT: ContextVar[int] = ContextVar("_LEFT", default=0)


@contextmanager
def memory_for(size: int) -> Iterator[None]:
    """Let arrays be made from a file of `size` bytes, and no more than it can hold.

    A text that a file keeps and takes for a thousand arrays would grow it a thousandfold. Raises `RefusedError` there.
    """
    token = _LEFT.set(2 * size)  # Python 3's pickles of old protocols turn an array's text into bytes first
    try:
        yield
    finally:
        _LEFT.reset(token)


def _take(size: int) -> None:
    left = _LEFT.get() - size
    if left < 0:
        raise RefusedError("arrays of more bytes than it has")
    _LEFT.set(left)


class Stand:
    """What stands for a global: it can be called, but not given a state nor attributes, as pickles may ask for."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def __call__(self, *arguments: Any) -> Any:
        return self._make(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise RefusedError("a state for a function")


class Numbers:
    """numpy's dtype, of plain numbers alone."""

    __slots__ = ("dtype",)

    def __init__(self, code: Any, *_: Any) -> None:
        dtype = np.dtype(code) if isinstance(code, str) and len(code) < 8 else None
        if dtype is None or dtype.kind not in KINDS or dtype.itemsize > 8:  # torch has no longer ones
            told = "" if dtype is None else f" ({dtype})"
            raise RefusedError(f"an array of what is no kind of number{told}")
        self.dtype = dtype

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 5 or state[1] not in ("<", ">", "=", "|"):
            raise RefusedError("an array whose kind of number is described oddly")
        if any(part is not None for part in state[2:5]):
            raise RefusedError("an array of records")
        self.dtype = self.dtype.newbyteorder(state[1])


class Pending:
    """An array as numpy pickles it: made empty, its shape and values given afterwards."""

    __slots__ = ("array",)
    array: Array

    # A pickle can make an object without `__init__`, but not without this.
    def __new__(cls, kind: Any = None, shape: Any = None, code: Any = None) -> "Pending":
        if kind is not _NDARRAY or shape != (0,):
            raise RefusedError("an object that is made like an array and is none")
        pending = object.__new__(cls)
        pending.array = np.zeros(0)
        return pending

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) not in (4, 5):
            raise RefusedError("an array without shape and values")
        shape, numbers, by_columns, values = state[-4:]
        self.array = _array(values, numbers, shape, "F" if by_columns else "C")


def _array(values: Any, numbers: Any, shape: Any, order: Any) -> Array:
    """Return an array over as many bytes as its shape says; the file can claim no memory that it does not fill."""
    if not isinstance(numbers, Numbers) or not isinstance(shape, tuple):
        raise RefusedError("an array whose shape or kind of number is missing")
    if len(shape) > MOST_AXES or not all(type(n) is int and n >= 0 for n in shape):
        raise RefusedError("an array whose shape is no list of whole numbers")
    data = _bytes(values)
    size = numbers.dtype.itemsize
    for n in shape:
        size *= n
    if size != len(data):
        raise RefusedError(f"an array of {len(data)} bytes whose shape {list(shape)} needs {size}")
    _take(size)
    array = np.frombuffer(data, numbers.dtype).reshape(shape, order="F" if order == "F" else "C")
    return array.astype(numbers.dtype.newbyteorder("="))


def _from_buffer(values: Any, numbers: Any, shape: Any, order: Any) -> Pending:
    pending = Pending(_NDARRAY, (0,), b"b")
    pending.array = _array(values, numbers, shape, order)
    return pending


def _bytes(values: Any) -> bytes:
    """Return an array's values; in Python 2's pickles they are text, a character each."""
    if isinstance(values, str):
        return values.encode("latin-1")
    if isinstance(values, (bytes, bytearray)):
        return bytes(values)
    raise RefusedError("an array of objects")


def _scalar(numbers: Any, value: Any) -> Any:
    return _array(value, numbers, (), "C").item()


def _encode(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise RefusedError("a text in another encoding than Latin-1")
    _take(len(text))
    return text.encode("latin-1")


def _empty() -> bytes:
    return b""


class _Ordered(dict[Any, Any]):
    """What stands for an ordered dict; attributes that a state dict of torch's has beside its entries are dropped."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        pass


def _no_call(*_: Any) -> Any:
    raise RefusedError("an array made in another way than numpy's")


_NDARRAY = Stand(_no_call)
_NUMPY: dict[str, Any] = {
    "multiarray._reconstruct": Stand(Pending),
    "multiarray.scalar": Stand(_scalar),
    "numeric._frombuffer": Stand(_from_buffer),
}
STANDS: Mapping[str, Any] = {
    **{f"{core}.{name}": stand for core in ("numpy.core", "numpy._core") for name, stand in _NUMPY.items()},
    "numpy.ndarray": _NDARRAY,
    "numpy.dtype": Stand(Numbers),
    "_codecs.encode": Stand(_encode),
    **dict.fromkeys(("__builtin__.bytes", "builtins.bytes"), Stand(_empty)),
    "collections.OrderedDict": Stand(_Ordered),
}
"""The globals that a file may name, and what it gets for them."""


ARRAYS_FOR_TORCH: Sequence[Any] = (
    Numbers,
    Pending,
    *((stand, name) for name, stand in STANDS.items() if name.startswith("numpy")),
)
"""The same for torch's own unpickler of tensors, as `torch.serialization.safe_globals` takes them."""


class RestrictedUnpickler(pickle.Unpickler):
    """An unpickler that knows `STANDS` and no other global."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a global; raises `RefusedError` naming one that has none."""
        wanted = f"{module}.{name}"
        if wanted not in STANDS:
            raise RefusedError(f"{wanted!r:.80}, which weights have no need of")
        return STANDS[wanted]


def read_arrays(path: Path) -> dict[str, Array]:
    """Read a pickled dict of arrays by name, or one under "model" or "blobs"; entries that are no arrays are left out.

    Python 2's pickles are read too. Raises `InputError` naming the file, and the global where it asks for one that is
    not admitted.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such weights file")
    try:
        content = path.read_bytes()
        _check_claims(content)
        with memory_for(len(content)):
            value = RestrictedUnpickler(BytesIO(content), encoding="latin1").load()
    except RefusedError as error:
        raise InputError(f"{path} is refused: it holds {error}; only arrays and plain values are read") from None
    except Exception as error:  # noqa: BLE001 -- a broken pickle raises one of many kinds, all mean the same
        reason = str(error).strip().splitlines()
        raise InputError(
            f"{path} cannot be read as pickled arrays ({reason[0][:120] if reason else type(error).__name__}); give a "
            ".pkl of detectron2's model zoo, whole"
        ) from None
    for wrapper in ("model", "blobs"):
        if isinstance(value, dict) and isinstance(value.get(wrapper), dict):
            value = value[wrapper]
            break
    entries = arrays_in(value) if isinstance(value, dict) else {}
    arrays = {key: item for key, item in entries.items() if isinstance(key, str) and isinstance(item, np.ndarray)}
    if not arrays:
        raise InputError(f"{path} holds no arrays by name; give a .pkl of detectron2's model zoo")
    return arrays


def _check_claims(content: bytes) -> None:
    """Raise `RefusedError` for numbers in a pickle that would have Python set aside memory without end."""
    tuples = 0
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name == "DUP":
            raise RefusedError("a value doubled, which no pickler writes")
        if "PUT" in opcode.name and isinstance(argument, int) and argument > len(content):
            raise RefusedError(f"a place {argument} in its memory, which is larger than the file")
        tuples += "TUPLE" in opcode.name
    if tuples > MOST_TUPLES:
        raise RefusedError(f"more than {MOST_TUPLES} tuples")


def arrays_in(values: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return entries with the arrays that stand-ins hold, everything else as it is."""
    return {key: value.array if isinstance(value, Pending) else value for key, value in values.items()}
