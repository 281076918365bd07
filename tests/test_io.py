"""JSON, id maps, pictures and COCO panoptic folders: what comes back, what is refused, what survives a failure."""

import errno
import json
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from thingstuff.checking.pictures import picture_header
from thingstuff.coco_writing import write_coco_panoptic
from thingstuff.convert.picture_files import picture_size
from thingstuff.errors import InputError, raise_problems
from thingstuff.io import (
    LARGEST_ID,
    atomic_write,
    check_picture_size,
    exif_orientation,
    id_map_size,
    read_id_map,
    read_json,
    read_picture,
    write_id_map,
)
from thingstuff.panoptic import Categories, Panoptic, Segment

CATEGORIES = Categories(("cat", "sky"), (True, False), (17, 187))
ORIENTATION = 0x0112


def panoptic(value: int = 7, categories: Categories = CATEGORIES) -> Panoptic:
    ids = np.zeros((4, 6), np.int32)
    ids[1:3, 2:5] = value
    return Panoptic(ids, (Segment(value, 0, 6, score=0.5, iscrowd=True),), categories)


def picture_with_corner(size: tuple[int, int] = (4, 6)) -> np.ndarray:
    pixels = np.zeros((*size, 3), np.uint8)
    pixels[0, 0] = (255, 100, 50)
    return pixels


def save_turned(path: Path, pixels: np.ndarray, orientation: int) -> Path:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(pixels).save(path, exif=exif)
    return path


# JSON


def test_json_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": [1, 2.5]}')
    assert read_json(path) == {"a": [1, 2.5]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1,\n  "b": }', "line 2, column 8"),
        (b"", "line 1, column 1"),
        (b'{"a": "\xff"}', "no UTF-8 text"),
        (b'{"a": ' + b"9" * 5000 + b"}", r"cannot be read \(Exceeds the limit .*5000 digits\); mend it"),
        (b"[" * 200_000 + b"]" * 200_000, "nested too deeply"),
    ],
)
def test_broken_json_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        read_json(path)
    assert str(path) in str(error.value)


def test_missing_json_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.json is not there"):
        read_json(tmp_path / "none.json")
    with pytest.raises(InputError, match="cannot be read"):
        read_json(tmp_path)


# Atomic writes


def test_atomic_write_replaces_and_leaves_nothing_aside(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    atomic_write(path, "first")
    atomic_write(path, "größer\n")
    assert path.read_bytes() == "größer\n".encode()
    atomic_write(path, b"\x00\x01")
    assert path.read_bytes() == b"\x00\x01"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    path = tmp_path / "a.txt"
    atomic_write(path, "old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, failing, full)
        with pytest.raises(OSError, match="No space left") as error:
            atomic_write(path, "new")
    assert error.value.filename == str(path)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_an_interrupted_write_leaves_nothing_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            atomic_write(tmp_path / "a.txt", "new")
    assert list(tmp_path.iterdir()) == []


def test_writing_into_a_missing_folder_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as error:
        atomic_write(tmp_path / "none" / "a.txt", "new")
    assert error.value.filename == str(tmp_path / "none" / "a.txt")


@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
def test_written_files_have_ordinary_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    atomic_write(tmp_path / "atomic", "")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


# Id maps


def test_id_map_round_trip_and_its_bytes(tmp_path: Path) -> None:
    ids = np.array([[0, 1, 255, 256], [65535, 65536, LARGEST_ID, 3 + 256 * 2 + 65536]], np.int32)
    write_id_map(tmp_path / "a.png", ids)
    assert np.array_equal(read_id_map(tmp_path / "a.png"), ids)
    assert read_id_map(tmp_path / "a.png").dtype == np.int32
    assert id_map_size(tmp_path / "a.png") == (2, 4)
    assert np.asarray(Image.open(tmp_path / "a.png"))[1, 3].tolist() == [3, 2, 1]


def test_alpha_of_an_id_map_is_left_aside(tmp_path: Path) -> None:
    pixels = np.zeros((2, 3, 4), np.uint8)
    pixels[0, 1] = (4, 5, 6, 0)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert read_id_map(tmp_path / "a.png").tolist() == [[0, 4 + 256 * 5 + 65536 * 6, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    ("mode", "kind"), [("L", "8-bit grey"), ("P", "palette"), ("I;16", "16-bit grey"), ("LA", "grey with alpha")]
)
def test_id_maps_without_three_bytes_are_refused(tmp_path: Path, mode: str, kind: str) -> None:
    path = tmp_path / "a.png"
    Image.new(mode, (3, 2)).save(path)
    for read in (read_id_map, id_map_size):
        with pytest.raises(InputError, match=f"{kind}.*8-bit RGB PNG") as error:
            read(path)
        assert str(path) in str(error.value)


def test_a_16_bit_rgb_id_map_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    write_id_map(path, np.ones((2, 2), np.int32))
    data = bytearray(path.read_bytes())
    data[24] = 16  # the header's bit depth, which Pillow would silently halve
    path.write_bytes(data)
    with pytest.raises(InputError, match="16-bit RGB"):
        read_id_map(path)


def test_damaged_id_maps_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    write_id_map(path, np.random.default_rng(0).integers(0, LARGEST_ID, (30, 30)))
    data = path.read_bytes()
    for length in (0, 10, 30, 60, len(data) // 2, len(data) - 40):
        path.write_bytes(data[:length])
        with pytest.raises(InputError, match=r"a\.png.*(anew|8-bit RGB PNG)"):
            read_id_map(path)
    Image.fromarray(picture_with_corner()).save(path, format="JPEG")
    with pytest.raises(InputError, match="no PNG"):
        read_id_map(path)
    with pytest.raises(InputError, match="not there"):
        read_id_map(tmp_path / "none.png")


@pytest.mark.parametrize("kind", ["JPEG", "GIF", "BMP", "WebP", "TIFF"])
def test_pictures_of_other_kinds_are_told_by_their_first_bytes(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(picture_with_corner()).save(path, format=kind)
    for read in (read_id_map, id_map_size):
        with pytest.raises(InputError, match=rf"a\.png is a {kind}, no PNG; save it as 8-bit RGB PNG"):
            read(path)


@pytest.mark.skipif(os.name == "nt", reason="no named pipes")
def test_a_pipe_and_a_device_are_no_id_maps(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    source = (
        "import sys; from pathlib import Path; from thingstuff import io\n"
        "for path in (Path('pipe.png'), Path('device.png')):\n"
        "    for read in (io.read_id_map, io.id_map_size):\n"
        "        try: read(path)\n"
        "        except io.InputError as error: print(error)\n"
    )
    # on its own: where it fails, it waits for ever
    done = subprocess.run([sys.executable, "-c", source], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    pipe, device = (f"{n}.png cannot be read (it is no regular file); put the id map there" for n in ("pipe", "device"))
    assert (done.stdout.splitlines(), done.stderr) == ([pipe, pipe, device, device], "")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(InputError, match=r"folder\.png cannot be read"):
        read_id_map(tmp_path / "folder.png")


@pytest.mark.parametrize("value", [-1, LARGEST_ID + 1])
def test_ids_beyond_three_bytes_are_not_written(tmp_path: Path, value: int) -> None:
    with pytest.raises(InputError, match=f"{value}.*do not fit"):
        write_id_map(tmp_path / "a.png", np.full((2, 2), value))
    assert list(tmp_path.iterdir()) == []


# Pictures


@pytest.mark.parametrize(
    ("mode", "color", "suffix", "expected"),
    [
        ("L", 90, "png", (90, 90, 90)),
        ("1", 1, "png", (255, 255, 255)),
        ("LA", (90, 10), "png", (90, 90, 90)),
        ("RGBA", (1, 2, 3, 0), "png", (1, 2, 3)),
        ("I;16", 90 * 256 + 77, "png", (90, 90, 90)),
        ("I;16", 90 * 256 + 77, "tif", (90, 90, 90)),
        ("I", 90 * 256 + 77, "tif", (90, 90, 90)),
        ("CMYK", (0, 0, 0, 0), "jpg", (255, 255, 255)),
        ("RGB", (1, 2, 3), "bmp", (1, 2, 3)),
    ],
)
def test_pictures_of_every_kind_become_rgb(
    tmp_path: Path, mode: str, color: object, suffix: str, expected: tuple[int, int, int]
) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.new(mode, (6, 4), color).save(path)
    picture = read_picture(path)
    assert (picture.mode, picture.size) == ("RGB", (6, 4))
    assert picture.getpixel((2, 2)) == expected


def test_a_palette_with_transparency_becomes_rgb(tmp_path: Path) -> None:
    image = Image.fromarray(picture_with_corner()).quantize(4)
    image.save(tmp_path / "a.png", transparency=bytes([0, 128, 255, 255]))
    assert np.array_equal(np.asarray(read_picture(tmp_path / "a.png")), picture_with_corner())


def test_float_pictures_are_refused(tmp_path: Path) -> None:
    Image.new("F", (3, 2), 0.5).save(tmp_path / "a.tif")
    with pytest.raises(InputError, match="8-bit RGB"):
        read_picture(tmp_path / "a.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    path = save_turned(tmp_path / "a.png", picture_with_corner(), orientation)
    size = (6, 4) if orientation >= 5 else (4, 6)
    corner = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0), 5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)}[
        orientation
    ]
    expected = np.zeros((*size, 3), np.uint8)
    expected[corner] = (255, 100, 50)
    assert np.array_equal(np.asarray(read_picture(path)), expected)
    assert np.array_equal(np.asarray(read_picture(path, size)), expected)


def test_the_stated_size_decides_over_the_orientation(tmp_path: Path) -> None:
    path = save_turned(tmp_path / "a.png", picture_with_corner(), 6)
    assert np.array_equal(np.asarray(read_picture(path, (4, 6))), picture_with_corner())
    for check in (read_picture, check_picture_size):
        with pytest.raises(InputError, match=r"a\.png is 6 wide and 4 high, but 5 wide and 4 high"):
            check(path, (4, 5))
    check_picture_size(path, (4, 6))
    check_picture_size(path, (6, 4))


def test_a_square_picture_is_turned(tmp_path: Path) -> None:
    path = save_turned(tmp_path / "a.png", picture_with_corner((4, 4)), 6)
    assert np.asarray(read_picture(path, (4, 4)))[0, -1].tolist() == [255, 100, 50]


def test_a_turned_tiff_is_turned_once(tmp_path: Path) -> None:
    path = save_turned(tmp_path / "a.tif", picture_with_corner(), 6)
    check_picture_size(path, (6, 4))
    picture = np.asarray(read_picture(path, (6, 4)))
    assert picture.shape == (6, 4, 3)
    assert picture[0, -1].tolist() == [255, 100, 50]


def test_damaged_pictures_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)).save(path)
    data = path.read_bytes()
    for content in (data[: len(data) // 2], data[:5], b"", b"no picture"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"a\.jpg cannot be read.*whole picture"):
            read_picture(path)
    with pytest.raises(InputError, match="not there"):
        read_picture(tmp_path / "none.jpg")


def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(InputError, match="decompression bomb"):
        read_picture(tmp_path / "a.png")


# COCO panoptic folders


def test_coco_panoptic_is_written(tmp_path: Path) -> None:
    path = write_coco_panoptic(tmp_path / "out", {"b": panoptic(9), "a": panoptic()}, file_names={"a": "photo.webp"})
    data = json.loads(path.read_text())
    assert path == tmp_path / "out" / "panoptic.json"
    assert data["images"] == [
        {"id": 1, "file_name": "b.jpg", "width": 6, "height": 4},
        {"id": 2, "file_name": "photo.webp", "width": 6, "height": 4},
    ]
    info = {"id": 9, "category_id": 17, "area": 6, "bbox": [2, 1, 3, 2], "iscrowd": 1, "isthing": True, "score": 0.5}
    assert data["annotations"][0] == {"image_id": 1, "file_name": "b.png", "segments_info": [info]}
    assert Categories.from_coco(data["categories"]) == CATEGORIES
    assert np.array_equal(read_id_map(tmp_path / "out" / "panoptic" / "a.png"), panoptic().ids)


def test_given_image_ids_are_kept_and_the_rest_avoid_them(tmp_path: Path) -> None:
    maps = {"a": panoptic(), "b": panoptic(), "c": panoptic(), "d": panoptic()}
    path = write_coco_panoptic(tmp_path, maps, image_ids={"b": 1, "d": "night"})
    assert [image["id"] for image in json.loads(path.read_text())["images"]] == [2, 1, 3, "night"]


def test_nothing_there_is_overwritten_unless_asked(tmp_path: Path) -> None:
    path = write_coco_panoptic(tmp_path, {"a": panoptic(7)})
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"panoptic\.json is there already.*overwrite"):
        write_coco_panoptic(tmp_path, {"a": panoptic(9)})
    path.unlink()
    with pytest.raises(InputError, match=r"a\.png is there already.*overwrite"):
        write_coco_panoptic(tmp_path, {"a": panoptic(9)})
    assert read_id_map(tmp_path / "panoptic" / "a.png").max() == 7
    path.write_bytes(before)
    write_coco_panoptic(tmp_path, {"a": panoptic(9)}, overwrite=True)
    assert read_id_map(tmp_path / "panoptic" / "a.png").max() == 9
    assert json.loads(path.read_text())["annotations"][0]["segments_info"][0]["id"] == 9


OTHER = Categories(("dog",), (True,), (3,))


@pytest.mark.parametrize(
    ("maps", "options", "message"),
    [
        ({}, {}, "no panoptic map to write"),
        ({"a": panoptic(), "b": panoptic(categories=OTHER)}, {}, "'a' and 'b' have different categories"),
        ({"a/b": panoptic()}, {}, "'a/b' is no file name"),
        ({"a\\b": panoptic()}, {}, "is no file name"),
        ({"": panoptic()}, {}, "'' is no file name"),
        ({"A": panoptic(), "a": panoptic()}, {}, "differ in case alone"),
        ({"a": panoptic()}, {"image_ids": {"b": 4}}, "'b' has an image id"),
        ({"a": panoptic()}, {"file_names": {"b": "b.jpg"}}, "'b' has an image id or file name"),
        ({"a": panoptic(), "b": panoptic()}, {"image_ids": {"a": 4, "b": 4}}, "image id 4 is given to 'a' and 'b'"),
    ],
)
def test_what_cannot_be_written_is_refused(
    tmp_path: Path, maps: dict[str, Panoptic], options: dict[str, dict[str, object]], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        write_coco_panoptic(tmp_path, maps, **options)
    assert list(tmp_path.iterdir()) == []


def test_problems_are_listed_up_to_a_limit() -> None:
    raise_problems([], "nothing")
    with pytest.raises(InputError) as error:
        raise_problems([f"problem {i}" for i in range(13)], "bad:", limit=10)
    lines = str(error.value).splitlines()
    assert lines[0] == "bad:"
    assert lines[1:] == [*(f"  - problem {i}" for i in range(10)), "  and 3 more"]


def png_bytes(*chunks: tuple[bytes, bytes]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


def interlaced_rows(ids: np.ndarray) -> list[np.ndarray]:
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    return [ids[y::dy, x::dx] for y, x, dy, dx in passes]


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("lacking", [0, 1, 500])
def test_an_id_map_whose_last_rows_lack_is_refused(tmp_path: Path, interlaced: bool, alpha: bool, lacking: int) -> None:
    height, width, step = 13, 11, 4 if alpha else 3
    ids = np.arange(height * width, dtype=np.uint8).reshape(height, width)
    rows = interlaced_rows(ids) if interlaced else [ids]
    raw = b"".join(
        b"\0" + b"".join(bytes([value, 0, 0, 9][:step]) for value in row.tolist()) for part in rows for row in part
    )
    header = struct.pack(">IIBBBBB", width, height, 8, 6 if alpha else 2, 0, 0, int(interlaced))
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(raw[: len(raw) - lacking])), (b"IEND", b"")]
    path = tmp_path / "map.png"
    path.write_bytes(png_bytes(*chunks))
    if not lacking:
        assert (read_id_map(path) == ids).all()
        return
    with pytest.raises(InputError, match=r"map\.png cannot be read .*write the id map anew") as error:
        read_id_map(path)
    assert "BytesIO" not in str(error.value)


@pytest.mark.parametrize("method", [2, 3, 255])
def test_an_id_map_of_an_unknown_interlace_method_is_refused(tmp_path: Path, method: int) -> None:
    parts = interlaced_rows(np.full((9, 9), 7, np.uint8))
    raw = b"".join(b"\0" + bytes(3 * row.size) for part in parts for row in part)
    path = tmp_path / "map.png"
    for kind in (1, method):  # Pillow takes any other than 0 for 1
        header = struct.pack(">IIBBBBB", 9, 9, 8, 2, 0, 0, kind)
        path.write_bytes(png_bytes((b"IHDR", header), (b"IDAT", zlib.compress(raw)), (b"IEND", b"")))
        if kind == 1:
            assert not read_id_map(path).any()
    with pytest.raises(InputError, match=rf"map\.png cannot be read \(its interlace method is {method}, .*anew$"):
        read_id_map(path)


@pytest.mark.parametrize(("size", "colour"), [((1, 1), 2), ((1, 4), 2), ((4, 4), 2), ((4, 4), 6)])
def test_an_id_map_with_a_second_header_is_refused(tmp_path: Path, size: tuple[int, int], colour: int) -> None:
    headers = [struct.pack(">IIBBBBB", *s, 8, c, 0, 0, 0) for s, c in (((4, 4), 2), (size, colour))]
    pixels = zlib.compress(bytes(100))  # enough for the larger
    path = tmp_path / "map.png"
    path.write_bytes(png_bytes(*((b"IHDR", header) for header in headers), (b"IDAT", pixels), (b"IEND", b"")))
    with pytest.raises(InputError, match=r"map\.png cannot be read \(it has more than one header\); write"):
        read_id_map(path)


def test_damage_is_told_without_naming_what_pillow_reads_from(tmp_path: Path) -> None:
    path = tmp_path / "map.png"
    write_id_map(path, np.ones((4, 5), np.int32))
    data = bytearray(path.read_bytes())
    data[26:29] = b"\xff\xff\xff"  # no known method
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"map\.png cannot be read") as error:
        read_id_map(path)
    assert "BytesIO" not in str(error.value)


@pytest.mark.parametrize("behind", [False, True])
def test_the_orientation_of_a_png_is_found_without_its_pixels(tmp_path: Path, behind: bool) -> None:
    """EXIF may stand before or behind the pixels; where there is none they are not decoded to look for it."""
    path = tmp_path / "a.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(path, exif=exif)
    data = path.read_bytes()
    start = data.index(b"eXIf") - 4
    length = 12 + int.from_bytes(data[start : start + 4], "big")
    chunk, rest = data[start : start + length], data[:start] + data[start + length :]
    if behind:
        path.write_bytes(rest[:-12] + chunk + rest[-12:])
    with Image.open(path) as image:
        assert exif_orientation(image) == 6
    assert read_picture(path).size == (20, 30)
    path.write_bytes(rest)
    with Image.open(path) as image:
        assert exif_orientation(image) == 1
        assert image.fp is not None, "decoding would have closed the file"
        image.load()
        assert image.size == (30, 20)


@pytest.mark.parametrize("error", [struct.error("unpack requires 4 bytes"), zlib.error("incorrect data check")])
@pytest.mark.parametrize("read", [picture_size, picture_header, read_picture])
def test_whatever_a_decoder_raises_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Path], object], error: Exception
) -> None:
    """Some of Pillow's decoders let errors of unpacking through, which are neither an OSError nor a ValueError."""
    path = tmp_path / "a.png"
    Image.new("RGB", (4, 4)).save(path)

    def broken(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Image, "open", broken)
    with pytest.raises(InputError, match="cannot be read"):
        read(path)
