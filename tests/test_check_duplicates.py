"""Pictures that are twice in a data set: found however they were saved, and no others."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from thingstuff.checking.duplicates import FAR, Prints, Twins, alike_across, equal_within, hamming
from thingstuff.checking.pictures import Fingerprint, fingerprint
from thingstuff.checking.pieces import areas_of, boxes_of, pieces_of
from thingstuff.panoptic import segment_boxes


def noise(seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 9, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize((180, 120), Image.Resampling.BICUBIC)


def prints_of(folder: Path, pictures: list[Image.Image]) -> Prints:
    folder.mkdir()
    prints = Prints()
    for number, picture in enumerate(pictures):
        path = folder / f"{number}.png"
        picture.save(path)
        prints.add(number, path, fingerprint(path))
    return prints


def as_jpeg(picture: Image.Image, quality: int) -> Image.Image:
    data = BytesIO()
    picture.save(data, format="JPEG", quality=quality)
    return Image.open(data).convert("RGB")


def test_pictures_saved_anew_are_found_and_others_are_not(tmp_path: Path) -> None:
    train = prints_of(tmp_path / "train", [noise(i) for i in range(20)])
    changed = [
        noise(3),
        as_jpeg(noise(4), 30),
        noise(5).resize((90, 60)),
        noise(6).crop((3, 2, 178, 118)),
        noise(7).convert("L").convert("RGB"),
        noise(100),
    ]
    val = prints_of(tmp_path / "val", changed)
    found = list(alike_across(train, val))
    assert found == [Twins(3, 0, True), Twins(4, 1, False), Twins(5, 2, False), Twins(6, 3, False)]


def test_plain_pictures_of_different_colours_are_different(tmp_path: Path) -> None:
    train = prints_of(tmp_path / "train", [Image.new("RGB", (64, 64), (200, 30, 30))])
    val = prints_of(tmp_path / "val", [Image.new("RGB", (64, 64), (30, 30, 200))])
    assert train.hashes[0] == val.hashes[0], "the hash knows no colours"
    assert not list(alike_across(train, val))


def test_equal_files_of_a_split_are_found_and_one_file_of_two_entries_is_not(tmp_path: Path) -> None:
    prints = prints_of(tmp_path / "train", [noise(1), noise(2), noise(1)])
    prints.add("again", tmp_path / "train" / "1.png", fingerprint(tmp_path / "train" / "1.png"))
    assert list(equal_within(prints)) == [Twins(0, 2, True)]


def test_splits_without_pictures_share_none(tmp_path: Path) -> None:
    some = prints_of(tmp_path / "train", [noise(1)])
    assert list(alike_across(some, Prints())) == list(alike_across(Prints(), some)) == []


def test_differing_bits_are_counted() -> None:
    rng = np.random.default_rng(0)
    first, second = (rng.integers(0, 2**64, n, dtype=np.uint64) for n in (5, 7))
    wanted = [[(int(a) ^ int(b)).bit_count() for b in second] for a in first]
    assert hamming(first, second).tolist() == wanted


def test_differing_bits_are_counted_by_an_older_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    test_differing_bits_are_counted()


def test_many_pictures_are_compared_in_seconds_and_little_memory() -> None:
    rng = np.random.default_rng(1)
    train, val = Prints(), Prints()
    hashes = rng.integers(0, 2**64, 30_000, dtype=np.uint64).tolist()
    thumbnail = bytes(192)
    for number, value in enumerate(hashes):
        train.add(number, Path(f"{number}.jpg"), Fingerprint(number.to_bytes(16, "big"), value, thumbnail))
    for number in range(0, 600, 2):
        flipped = hashes[number] ^ (2**FAR - 1)
        val.add(
            number,
            Path(f"v{number}.jpg"),
            Fingerprint(bytes([255] * 8) + number.to_bytes(8, "big"), flipped, thumbnail),
        )
    found = list(alike_across(train, val))
    assert [twins.first for twins in found] == [*range(0, 600, 2)]


def test_pieces_are_those_of_each_id() -> None:
    from scipy import ndimage

    rng = np.random.default_rng(2)
    for _ in range(60):
        ids = rng.integers(0, 3, rng.integers(1, 12, 2)).astype(np.int32)
        pieces = pieces_of(ids)
        for value in np.unique(ids).tolist():
            labels, count = ndimage.label(ids == value, np.ones((3, 3)))
            areas = sorted(np.bincount(labels.reshape(-1))[1:].tolist(), reverse=True)
            assert pieces.areas[pieces.ids == value].tolist() == areas
            assert len(areas) == count
            assert boxes_of(pieces)[value] == segment_boxes(ids, [value])[0]
            assert areas_of(pieces)[value] == (ids == value).sum()


def test_a_map_without_pixels_has_no_pieces() -> None:
    pieces = pieces_of(np.zeros((0, 4), np.int32))
    assert (boxes_of(pieces), areas_of(pieces)) == ({}, {})
