"""Id maps by the compiled loops are those that Pillow gives, and what is not plain is left to Pillow."""

import pickle
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numba import config, njit, types
from numba.core import caching
from PIL import Image

from thingstuff import compiled_loops, loops
from thingstuff.errors import InputError
from thingstuff.io import read_id_map
from thingstuff.png_maps import decode_plain, encode

Colours = np.ndarray
COMPILED = loops.compiled_loops(10_000)  # enough to load them
assert COMPILED is compiled_loops


def decoded(data: bytes) -> np.ndarray | None:
    return decode_plain(data, COMPILED)


def by_pillow(data: bytes) -> np.ndarray:
    with Image.open(BytesIO(data)) as image:
        colours = np.asarray(image).astype(np.int32)
    return colours[..., 0] + 256 * colours[..., 1] + 65536 * colours[..., 2]


# PNGs written byte by byte, so that every filter occurs


def filtered(colours: Colours, kinds: list[int]) -> bytes:
    """Filter the rows of uint8 [H, W, bytes per pixel], each with its kind (PNG specification, section 9)."""
    padded = np.pad(colours.astype(int), ((1, 0), (1, 0), (0, 0)))
    own, left, up, corner = padded[1:, 1:], padded[1:, :-1], padded[:-1, 1:], padded[:-1, :-1]
    from_left, from_up, from_corner = abs(up - corner), abs(left - corner), abs(left + up - 2 * corner)
    nearest = np.where(from_up <= from_corner, up, corner)
    paeth = np.where((from_left <= from_up) & (from_left <= from_corner), left, nearest)
    predictions = [0 * own, left, up, (left + up) // 2, paeth]
    residuals = ((own[y] - predictions[kind][y]) % 256 for y, kind in enumerate(kinds))
    return b"".join(bytes([kind]) + r.astype(np.uint8).tobytes() for kind, r in zip(kinds, residuals, strict=True))


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def header(colours: Colours, interlace: int = 0) -> bytes:
    height, width, step = colours.shape
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, {3: 2, 4: 6}[step], 0, 0, interlace))


def png(colours: Colours, kinds: list[int], parts: int = 1, aside: bytes = b"") -> bytes:
    packed = zlib.compress(filtered(colours, kinds), 1)
    cuts = np.linspace(0, len(packed), parts + 1).astype(int).tolist()
    pixels = (chunk(b"IDAT", packed[a:b]) for a, b in pairwise(cuts))
    return b"\x89PNG\r\n\x1a\n" + header(colours) + aside + b"".join(pixels) + chunk(b"IEND", b"")


def noise(rng: np.random.Generator, size: tuple[int, int, int]) -> Colours:
    return rng.integers(0, 256, size).astype(np.uint8)


def map_like(rng: np.random.Generator, size: tuple[int, int, int]) -> Colours:
    """Paint blocks, bars and lone pixels over each other; alpha is noise."""
    height, width, step = size
    colours = np.zeros(size, np.uint8)
    for _ in range(12):
        y, x = rng.integers(0, height), rng.integers(0, width)
        h, w = rng.integers(1, 2 + height // 2), rng.integers(1, 2 + width // 2)
        colours[y : y + h, x : x + w] = rng.integers(0, 256, step)
    if step == 4:
        colours[..., 3] = rng.integers(0, 256, (height, width))
    return colours


def few_values(rng: np.random.Generator, size: tuple[int, int, int]) -> Colours:
    """Noise of two colours, in which neighbours often agree."""
    return rng.integers(0, 256, (2, size[2])).astype(np.uint8)[rng.integers(0, 2, size[:2])]


SIZES = [(1, 1), (1, 2), (1, 50), (50, 1), (2, 3), (3, 2), (7, 11), (31, 33), (40, 64)]


@pytest.mark.parametrize("step", [3, 4])
@pytest.mark.parametrize("kind", [0, 1, 2, 3, 4, "any"])
@pytest.mark.parametrize("paint", [noise, map_like, few_values])
def test_every_filter_gives_what_pillow_gives(paint: Callable[..., Colours], kind: int | str, step: int) -> None:
    rng = np.random.default_rng(step)
    for height, width in SIZES:
        colours = paint(rng, (height, width, step))
        kinds = rng.integers(0, 5, height).tolist() if kind == "any" else [int(kind)] * height
        data = png(colours, kinds)
        ids = decoded(data)
        assert ids is not None
        assert ids.dtype == np.int32
        assert np.array_equal(ids, colours[..., :3].astype(np.int32) @ [1, 256, 65536])
        assert np.array_equal(ids, by_pillow(data))


def test_large_maps_by_pillow_s_own_writer(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for step, paint in [(3, map_like), (4, map_like), (3, noise), (3, few_values)]:
        colours = paint(rng, (211, 317, step))
        Image.fromarray(colours).save(tmp_path / "a.png")
        ids = decoded((tmp_path / "a.png").read_bytes())
        assert ids is not None
        assert np.array_equal(ids, colours[..., :3].astype(np.int32) @ [1, 256, 65536])


def test_pixels_in_several_chunks_and_chunks_beside_them() -> None:
    colours = map_like(np.random.default_rng(1), (20, 30, 3))
    gamma = chunk(b"gAMA", struct.pack(">I", 45455))
    for parts, aside in [(2, b""), (9, b""), (3, gamma), (1, gamma + chunk(b"sRGB", b"\0"))]:
        data = png(colours, [4] * 20, parts, aside)
        assert np.array_equal(decoded(data), by_pillow(data))


# What is left to Pillow


def rare(colours: Colours) -> dict[str, bytes]:
    """Return sound PNGs that Pillow reads and the loops are not made for."""
    kinds = [1] * len(colours)
    plain = png(colours, kinds)
    text = png(colours, kinds, aside=chunk(b"tEXt", b"Software\0x"))
    longer = zlib.compress(filtered(colours, kinds) + b"more")
    long = b"\x89PNG\r\n\x1a\n" + header(colours) + chunk(b"IDAT", longer) + chunk(b"IEND", b"")
    return {"text": text, "no end": plain[:-12], "pixels to spare": long}


def test_rare_kinds_are_read_by_pillow(tmp_path: Path) -> None:
    colours = map_like(np.random.default_rng(2), (6, 9, 3))
    for name, data in rare(colours).items():
        assert decoded(data) is None, name
        (tmp_path / "a.png").write_bytes(data)
        assert np.array_equal(read_id_map(tmp_path / "a.png"), by_pillow(data)), name


def test_an_interlaced_map_is_read_by_pillow(tmp_path: Path) -> None:
    # of 1 x 1 pixels the first of Adam7's passes is all there is, and the same bytes
    colours = np.full((1, 1, 3), 7, np.uint8)
    rest = png(colours, [0])[8 + 25 :]
    data = b"\x89PNG\r\n\x1a\n" + header(colours, interlace=1) + rest
    assert decoded(data) is None
    (tmp_path / "a.png").write_bytes(data)
    assert read_id_map(tmp_path / "a.png").tolist() == [[7 + 256 * 7 + 65536 * 7]]


def test_any_damaged_byte_is_seen_or_harmless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flip and cut everywhere: what is read, and every error's words, are those without the loops."""
    whole = png(map_like(np.random.default_rng(3), (5, 6, 3)), [0, 1, 2, 3, 4], parts=2)
    damaged = [whole[:at] + bytes([whole[at] ^ 0x21]) + whole[at + 1 :] for at in range(len(whole))]
    damaged += [whole[:at] for at in range(len(whole))] + [whole + b"tail"]

    def outcome(data: bytes) -> str:
        (tmp_path / "a.png").write_bytes(data)
        try:
            return repr(read_id_map(tmp_path / "a.png").tolist())
        except InputError as error:
            return re.sub("0x[0-9a-f]+", "", str(error))  # Pillow names an object by its address

    seen = [outcome(data) for data in damaged]
    monkeypatch.setattr("thingstuff.io.compiled_loops", lambda: None)
    assert seen == [outcome(data) for data in damaged]
    assert len({*seen}) > 5


def test_unknown_filters_and_missing_rows_are_left_to_pillow(tmp_path: Path) -> None:
    colours = map_like(np.random.default_rng(4), (4, 5, 3))
    raw = filtered(colours, [0] * 4)
    for pixels in (b"\x05" + raw[1:], raw[:-3], raw[:-16], raw[:10], b""):
        data = b"\x89PNG\r\n\x1a\n" + header(colours) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
        assert decoded(data) is None
        if len(pixels) != 48:  # of a map that lacks whole rows Pillow says nothing
            (tmp_path / "a.png").write_bytes(data)
            with pytest.raises(InputError, match="cannot be read"):
                read_id_map(tmp_path / "a.png")


def test_pillow_s_limit_of_pixels_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    data = png(map_like(np.random.default_rng(5), (6, 6, 3)), [0] * 6)
    assert decoded(data) is not None
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 35)
    assert decoded(data) is None


# Loading


ALONE = """
import sys
from thingstuff import io
from thingstuff.evaluation import counting, pq
from thingstuff.loops import compiled_loops
assert "numba" not in sys.modules and "deflate" not in sys.modules
io.write_id_map("a.png", io.np.arange(12).reshape(3, 4))
first = io.read_id_map("a.png")
pairs = counting.overlaps(first, first)
assert "numba" not in sys.modules, "one map is not worth the loading"
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(4) as pool:
    maps = list(pool.map(io.read_id_map, ["a.png"] * 400))
assert "numba" in sys.modules
assert all((ids == first).all() for ids in maps)
assert counting.overlaps(first, maps[-1]) == pairs
print("fine")
"""


def test_the_loops_are_loaded_by_need_and_in_threads(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", ALONE], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("fine\n", "")


@pytest.mark.parametrize(
    "damage", [lambda data: b"", lambda data: data[: len(data) // 2], lambda data: bytes(len(data))]
)
@pytest.mark.parametrize("kind", ["nbi", "nbc"])
def test_a_damaged_cache_is_filled_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, damage: Callable[[bytes], bytes]
) -> None:
    def double(number: int) -> int:
        return 2 * number

    def hits() -> int:
        loop = compiled_loops._compiled(types.int64)(double)
        assert loop(4) == 8
        return sum(loop.stats.cache_hits.values())

    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    assert [hits(), hits()] == [0, 1]
    (file,) = tmp_path.rglob(f"*.{kind}")
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises((EOFError, pickle.UnpicklingError)):
        njit([(types.int64,)], cache=True)(double)
    assert [hits(), hits(), hits()] == [0, 0, 1]


def test_without_a_folder_for_its_cache_a_loop_is_compiled_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def double(number: int) -> int:
        return 2 * number

    kept = compiled_loops._compiled(types.int64)(double)
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    with pytest.raises(RuntimeError, match="cannot cache"):
        njit(cache=True)(double)
    not_kept = compiled_loops._compiled(types.int64)(double)
    assert (kept(4), not_kept(4)) == (8, 8)
    assert (kept.stats.cache_path is None, not_kept.stats.cache_path is None) == (False, True)


def test_what_is_written_is_what_pillow_reads() -> None:
    random = np.random.default_rng(5)
    for height, width in ((1, 1), (1, 7), (9, 1), (13, 17), (64, 48)):
        ids = random.integers(0, 256**3, (height, width)).astype(np.int32)
        ids[: height // 2] = ids[0]
        with Image.open(BytesIO(encode(ids))) as image:
            colors = np.asarray(image).astype(np.int64)
        assert image.mode == "RGB"
        assert np.array_equal(colors @ [1, 256, 65536], ids)
    with pytest.raises(ValueError, match="at least one pixel"):
        encode(np.zeros((0, 3), np.int32))
