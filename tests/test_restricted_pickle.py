"""Pickles of arrays: what is read, and what is refused before it can do anything."""

import contextlib
import os
import pickle
import pickletools
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torchvision.models as tv

from thingstuff.errors import InputError
from thingstuff.restricted_pickle import MOST_TUPLES, STANDS, read_arrays
from thingstuff.weights import read_state

ARRAYS = {
    "w": np.arange(6, dtype=np.float32).reshape(2, 3),
    "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big_endian": np.arange(3, dtype=">i2"),
    "half": np.ones(2, np.float16),
    "truth": np.array([True, False]),
    "nothing": np.zeros((0, 4)),
    "point": np.array(2.5),
}


def write(path: Path, content: Any, protocol: int = 2) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol))
    return path


def refused(tmp_path: Path, content: Any, protocol: int = 2) -> str:
    path = write(tmp_path / "w.pkl", content, protocol)
    with pytest.raises(InputError) as caught:
        read_arrays(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


# ---- what is read


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("wrapper", [None, "model", "blobs"])
def test_arrays_are_read(protocol: int, wrapper: str | None, tmp_path: Path) -> None:
    beside = {"__author__": "x", "matching_heuristics": True, "n": (1, 2.5, None, [b"bytes"], np.float64(3))}
    content = {**ARRAYS, **beside} if wrapper is None else {wrapper: OrderedDict(ARRAYS), **beside}
    read = read_arrays(write(tmp_path / "w.pkl", content, protocol))
    assert read.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(read[name], array)
        assert read[name].dtype == array.dtype.newbyteorder("=")
        torch.from_numpy(read[name])[...] = 1  # which an array over bytes of the file would warn of


def python_2(values: bytes) -> bytes:
    """One array under "w" as Python 2 pickled it: its values are text there."""
    return (
        b"\x80\x02}U\x01wcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U" + bytes([len(values)]) + values + b"tbs."
    )


def test_python_2_s_arrays_are_read(tmp_path: Path) -> None:
    values = struct.pack("<2f", -1.5, 3e33)
    assert max(values) > 127
    read = read_arrays(write(tmp_path / "w.pkl", python_2(values)))["w"]
    np.testing.assert_array_equal(read, np.array([-1.5, 3e33], np.float32))


# ---- what is refused


class _Call:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.reduced = (function, arguments)

    def __reduce__(self) -> Any:
        return self.reduced


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_functions_are_named_and_not_called(protocol: int, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    for function, arguments, name in (
        (os.system, (f"touch {trace}",), "system"),
        (eval, (f"open({str(trace)!r}, 'w')",), "eval"),
        (getattr, (np.ndarray, "tofile"), "getattr"),
        (np.load, (str(trace),), "load"),
        (OrderedDict.fromkeys, ([1],), "getattr"),
    ):
        message = refused(tmp_path, {"model": {**ARRAYS, "evil": _Call(function, *arguments)}}, protocol)
        assert name in message
        assert "which weights have no need of" in message
    assert not trace.exists()


def test_classes_are_refused(tmp_path: Path) -> None:
    assert "PosixPath" in refused(tmp_path, {"a": Path()}) or os.name == "nt"
    assert "torch" in refused(tmp_path, {"a": torch.ones(1)})
    assert "set" in refused(tmp_path, {"a": {1, 2}})


def test_arrays_of_other_than_numbers_are_refused(tmp_path: Path) -> None:
    for odd in (
        np.array([_Call(os.system, f"touch {tmp_path / 'trace'}")], dtype=object),
        np.array([None, "x"], dtype=object),
        np.array(["text"]),
        np.zeros(2, dtype=[("a", "f4"), ("b", "O")]),
        np.zeros(2, "V8"),
        np.array(["2020-01-01"], "M8[D]"),
        np.array([1j]),
        np.ones(2, np.longdouble),
    ):
        assert "no kind of number" in refused(tmp_path, {"a": odd})
    assert not (tmp_path / "trace").exists()
    assert "recarray" in refused(tmp_path, {"a": np.rec.array([(1, 2.0)])})


RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n"
EMPTY = RECONSTRUCT + b"cnumpy\nndarray\nK\x00\x85U\x01b\x87R"
FLOAT = b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        # an array that claims a terabyte, in its making and in its shape
        (RECONSTRUCT + b"cnumpy\nndarray\n\x8a\x05\x00\x00\x00\x00\x01\x85U\x01b\x87R", "made like an array"),
        (EMPTY + b"(K\x01\x8a\x05\x00\x00\x00\x00\x01\x85" + FLOAT + b"\x89U\x04abcdtb", "needs 17179869184"),
        (EMPTY + b"(K\x01J\xff\xff\xff\xff\x85" + FLOAT + b"\x89U\x04abcdtb", "no list of whole numbers"),
        (EMPTY + b"(K\x01(" + b"K\x01" * 40 + b"t" + FLOAT + b"\x89U\x04abcdtb", "no list of whole numbers"),
        # the values of an array as a list of objects
        (EMPTY + b"(K\x01K\x01\x85" + FLOAT + b"\x89]K\x01atb", "array of objects"),
        # a dtype that is turned into a record with an object in it
        (b"cnumpy\ndtype\nU\x02V8K\x00K\x01\x87R", "no kind of number"),
        (FLOAT + b"(K\x03U\x01<NU\x01a\x85}U\x01aNK\x00\x86sJ\x08\x00\x00\x00J\x01\x00\x00\x00K\x00tb", "records"),
        (FLOAT + b"U\x01xb", "described oddly"),
        # states and attributes for the stand-ins themselves
        (RECONSTRUCT + b"}U\x08__call__K\x01sb", "state for a function"),
        (RECONSTRUCT + b"N}U\x05_makeK\x01s\x86b", "state for a function"),
        (b"cnumpy\nndarray\n)R", "another way"),
        (b"cnumpy\nndarray\n)\x81", "must be a type"),
        (b"c_codecs\nencode\nU\x01aU\x03rot\x86R", "another encoding"),
        (b"c_codecs\nencode\nU\x01aU\x05rot13\x86R", "another encoding"),
        # numpy's own functions under other names, and attributes of what is allowed
        (b"cnumpy.core.multiarray\nfromfile\n", "fromfile"),
        (b"cnumpy\nndarray.tofile\n", "ndarray.tofile"),
        (b"\x8c\x05numpy\x8c\x0fcore.multiarray\x93", "core.multiarray"),
        (b"cthingstuff.restricted_pickle\nSTANDS\n", "STANDS"),
        (b"c__builtin__\neval\n", "eval"),
        (b"(U\x01aibuiltins\nexec\n", "exec"),
        # persistent ids and the extension registry
        (b"U\x01aQ", "persistent"),
        (b"\x82\x01", "extension"),
    ],
)  # fmt: skip
def test_attacks_are_one_message(body: bytes, reason: str, tmp_path: Path) -> None:
    before = dict(STANDS)
    assert reason in refused(tmp_path, b"\x80\x04}U\x01w" + body + b"s.")
    assert dict(STANDS) == before


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b".",
        b"a text, no pickle\n",
        b"PK\x03\x04 a cut off archive",
        b"\x80\x04}r\xff\xff\xff\xff.",  # a place in the memo that would take 32 GB
        b"\x80\x04}p4294967295\n.",
        b"\x80\x04h\x05.",  # a place that was never filled
        b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x00.",  # bytes without end
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"\x80\x04X\xff\xff\xff\x7f.",
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f}.",
        b"\x80\x04\x8b\xff\xff\xff\x7f\x01.",
        b"\x80\x63}.",
        b"\x80\x04}]K\x01s.",  # a list as a key
        b"\x80\x04}U\x01a" + b"N" + b"\x85" * 200_000 + b"s.",
        b"\x80\x04}N" + b"\x85" * 200_000 + b"K\x01s.",
        b"\x80\x04}U\x01a" + b"]" * 100_000 + b"a" * 99_999 + b"s.",  # lists in lists: plain, but no array
        b"\x80\x04}q\x00U\x01wh\x00s.",  # a dict that holds itself
        b"I" + b"9" * 10_000 + b"\n.",
    ],
)
def test_what_is_no_pickle_of_arrays_is_one_message(content: bytes, tmp_path: Path) -> None:
    refused(tmp_path, content)


def test_every_cut_is_one_message(tmp_path: Path) -> None:
    whole = pickle.dumps({"model": {"w": np.arange(3.0)}, "__author__": "x"}, 2)
    for length in range(len(whole)):
        refused(tmp_path, whole[:length])


def test_every_changed_byte_is_read_or_one_message(tmp_path: Path) -> None:
    whole = pickle.dumps({"w": np.arange(2, dtype=np.float32)}, 2)
    for place in range(len(whole)):
        for value in (0, 0x2E, 0x52, 0x62, 0x63, 0x80, 0xFF):
            path = write(tmp_path / "w.pkl", whole[:place] + bytes([value]) + whole[place + 1 :])
            with contextlib.suppress(InputError):  # any other error fails the test
                assert all(isinstance(array, np.ndarray) for array in read_arrays(path).values())


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.pkl", tmp_path):
        with pytest.raises(InputError, match="no such weights file"):
            read_arrays(path)


def test_a_dict_without_arrays_is_refused(tmp_path: Path) -> None:
    for content in ({}, {"model": {"a": 1}}, {1: np.ones(1)}, [np.ones(1)], np.ones(1), "text", None):
        assert "holds no arrays by name" in refused(tmp_path, content)


# ---- torch's files with numpy's arrays


def test_arrays_in_torch_s_files_become_tensors(tmp_path: Path) -> None:
    content = {
        "model": {"a": torch.ones(2), "b": np.arange(3.0), "c": np.ones((2, 2), np.float32)},
        "optimizer": {"param_groups": [{"lr": np.float64(0.1), "params": [0]}], "state": {}},
        "scheduler": {"base_lrs": [np.float32(1)], "last_epoch": 5},
        "iteration": 5,
    }
    torch.save(content, tmp_path / "w.pth")
    state = read_state(tmp_path / "w.pth")
    assert {k: (v.dtype, v.tolist()) for k, v in state.items()} == {
        "a": (torch.float32, [1, 1]),
        "b": (torch.float64, [0, 1, 2]),
        "c": (torch.float32, [[1, 1], [1, 1]]),
    }
    torch.save({"model": {"b": np.array([None])}}, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"w\.pth cannot be read as weights \(.*no kind of number"):
        read_state(tmp_path / "w.pth")


def test_kinds_that_torch_lacks_are_one_message(tmp_path: Path) -> None:
    torch.save({"model": {"b": np.ones(2, np.longdouble)}}, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"w\.pth cannot be read as weights \(.*no kind of number"):
        read_state(tmp_path / "w.pth")


def with_pickle(path: Path, body: bytes) -> Path:
    """A file of torch's whose pickle is replaced."""
    torch.save({"a": torch.ones(1)}, path)
    with zipfile.ZipFile(path) as file:
        entries = {entry.filename: file.read(entry) for entry in file.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
        for name, content in entries.items():
            file.writestr(name, body if name.endswith("data.pkl") else content)
    return path


def test_a_stand_in_under_its_own_name_is_no_array(tmp_path: Path) -> None:
    body = b"\x80\x02}X\x01\x00\x00\x00acthingstuff.restricted_pickle\nPending\n)\x81s."
    with pytest.raises(InputError, match=r"w\.pth cannot be read as weights \(an object that is made like"):
        read_state(with_pickle(tmp_path / "w.pth", body))
    body = b"\x80\x02}X\x05\x00\x00\x00model" + body[2:-1] + b"s."
    with pytest.raises(InputError, match=r"w\.pth cannot be read as weights \(an object that is made like"):
        read_state(with_pickle(tmp_path / "w.pth", body))


# ---- files that would grow


def text(content: bytes) -> bytes:
    return b"X" + struct.pack("<I", len(content)) + content


TEXT = text(b"a" * 10_000)
ENCODED = b"c_codecs\nencode\n" + TEXT + text(b"latin1") + b"\x86R"


def grown(kept: bytes, state: bytes, times: int = 100) -> bytes:
    """A pickle of `times` arrays of 10,000 bytes, all with the `kept` value in place 9 and the `state` in place 3."""
    made = b"cnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87"
    shape = b"(K\x01M\x10'\x85cnumpy\ndtype\n" + text(b"i1") + b"K\x00K\x01\x87R\x89"
    places = ((1, RECONSTRUCT), (2, made), (9, kept), (3, shape + state + b"t"))
    result = b"\x80\x02}" + b"".join(text(b"_%d" % n) + value + b"q" + bytes([n]) + b"s" for n, value in places)
    return result + b"".join(text(b"%d" % i) + b"h\x01h\x02Rh\x03bs" for i in range(times)) + b"."


@pytest.mark.parametrize(
    ("kept", "state"),
    [(TEXT, b"h\x09"), (ENCODED, b"h\x09"), (b"N", TEXT)],
    ids=["a text", "bytes of a text", "a state"],
)
def test_a_text_taken_again_and_again_is_refused(kept: bytes, state: bytes, tmp_path: Path) -> None:
    reason = "arrays of more bytes than it has"
    once = read_arrays(write(tmp_path / "once.pkl", grown(kept, state, 1)))["0"]
    np.testing.assert_array_equal(once, np.full(10_000, ord("a"), np.int8))
    assert reason in refused(tmp_path, grown(kept, state))
    with pytest.raises(InputError, match=reason):
        read_state(with_pickle(tmp_path / "w.pth", grown(kept, state)))


def test_bytes_made_again_and_again_are_refused(tmp_path: Path) -> None:
    named = b"c_codecs\nencode\nq\x010" + TEXT + text(b"latin1") + b"\x86q\x020"
    content = b"\x80\x02" + named + b"]" + b"h\x01h\x02Ra" * 100 + b"."
    assert "arrays of more bytes than it has" in refused(tmp_path, content)


def test_values_are_not_doubled(tmp_path: Path) -> None:
    assert "a value doubled" in refused(tmp_path, b"\x80\x02]" + TEXT + b"2a0.")


class _AsPython2:
    """Pickles as an array does in Python 2, with its values as text."""

    def __init__(self, array: npt.NDArray[Any]) -> None:
        self.array = array

    def __reduce__(self) -> Any:
        function, arguments, state = self.array.__reduce__()
        return function, arguments, (*state[:-1], state[-1].decode("latin-1"))


@pytest.mark.parametrize("python", [2, 3])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_as_many_arrays_as_a_resnet_101_has_are_read(python: int, protocol: int, tmp_path: Path) -> None:
    names = [key for key in tv.resnet101(weights=None).state_dict() if not key.endswith("num_batches_tracked")]
    numbers = np.random.default_rng(0)
    arrays = {name: numbers.standard_normal(4).astype(np.float32) for name in names}
    arrays |= {f"{name}_momentum": numbers.standard_normal((2, 2)).astype(np.float32) for name in names}
    arrays["large"] = numbers.standard_normal(50_000).astype(np.float32)
    arrays["once"] = arrays["twice"] = np.arange(3, dtype=np.float32)
    assert len(arrays) == 2 * 522 + 3
    kept = {id(array): _AsPython2(array) if python == 2 else array for array in arrays.values()}
    content = pickle.dumps({"blobs": {name: kept[id(array)] for name, array in arrays.items()}}, protocol)
    tuples = sum("TUPLE" in opcode.name for opcode, _, _ in pickletools.genops(content))
    assert 1.9 * tuples < MOST_TUPLES
    read = read_arrays(write(tmp_path / "R-101.pkl", content))
    assert read.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(read[name], array)
    if protocol == 2:
        torch.save({"model": arrays}, tmp_path / "R-101.pth")
        state = read_state(tmp_path / "R-101.pth")
        assert all(np.array_equal(state[name].numpy(), array) for name, array in arrays.items())


def test_the_attacks_are_pickles(tmp_path: Path) -> None:
    """Those above fail for what they ask for, not for a slip in their bytes."""
    for body in (EMPTY, FLOAT, RECONSTRUCT):
        assert list(pickletools.genops(b"\x80\x04}U\x01w" + body + b"s."))
    good = EMPTY + b"(K\x01K\x01\x85" + FLOAT + b"\x89U\x04\x00\x00\x80?tb"
    assert read_arrays(write(tmp_path / "w.pkl", b"\x80\x04}U\x01w" + good + b"s."))["w"].tolist() == [1.0]
