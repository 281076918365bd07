"""Regions of outlines and run lengths, against COCO's own tool decoding the whole picture and numpy repeating runs."""

from collections.abc import Callable
from time import process_time

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from thingstuff.convert.shapes import ellipse_region, polygon_region, rectangle_region, rle_region
from thingstuff.convert.source import Region
from thingstuff.errors import InputError


def whole(region: Region, size: tuple[int, int]) -> np.ndarray:
    """Return the mask of the picture, having seen that the region is no larger than its pixels."""
    if region.mask.size:
        assert all(region.mask.any(axis=axis)[[0, -1]].all() for axis in (0, 1)), "the box is tight"
        assert region.mask.flags.c_contiguous
    mask = np.zeros(size, dtype=np.bool_)
    region.paint(mask)
    return mask


def decoded(polygons: list[list[float]], size: tuple[int, int]) -> np.ndarray:
    """Return what COCO's tool makes of polygons, in the whole picture."""
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, *size))).astype(bool)


def test_random_polygons_equal_coco_s_tool_to_the_bit() -> None:
    random = np.random.default_rng(0)
    empty = full = 0
    for _ in range(1500):
        H, W = (int(n) for n in random.integers(1, 40, 2))
        # from far smaller than a pixel to beyond all borders, some on whole numbers, some wholly outside
        reach, digits = random.choice([0.5, 5, 40, 120]), int(random.integers(0, 3))
        polygons = [
            (random.uniform(-10, 40, 2) + random.uniform(-reach, reach, (int(random.integers(3, 9)), 2)))
            .clip(-10 * max(H, W), 10 * max(H, W))
            .round(digits)
            .ravel()
            .tolist()
            for _ in range(int(random.integers(1, 4)))
        ]
        mask = whole(polygon_region(polygons, (H, W)), (H, W))
        np.testing.assert_array_equal(mask, decoded(polygons, (H, W)))
        empty, full = empty + (not mask.any()), full + mask.all()
    assert min(empty, full) > 50, "the extremes were among them"


@pytest.mark.parametrize(
    ("polygon", "area"),
    [
        ([0, 0, 7, 0, 7, 5, 0, 5], 35),
        ([-9, -9, 30, -9, 30, 30, -9, 30], 35),
        ([3, 2, 4, 2, 4, 3, 3, 3], 1),
        ([6, 4, 7, 4, 7, 5, 6, 5], 1),
        ([3, 0, 5, 0, 5, 5, 3, 5], 10),
        ([9, 9, 12, 9, 12, 12], 0),
    ],
)
def test_polygons_with_known_areas(polygon: list[float | int], area: int) -> None:
    region = polygon_region([polygon], (5, 7))
    assert region.area == area
    np.testing.assert_array_equal(whole(region, (5, 7)), decoded([[float(v) for v in polygon]], (5, 7)))


def test_large_polygons_equal_coco_s_tool_to_the_bit() -> None:
    random = np.random.default_rng(1)
    for _ in range(10):
        H, W = (int(n) for n in random.integers(300, 900, 2))
        polygons = [random.uniform(-200, 1000, 60).tolist() for _ in range(3)]
        np.testing.assert_array_equal(whole(polygon_region(polygons, (H, W)), (H, W)), decoded(polygons, (H, W)))


def test_random_runs_equal_repeating_them() -> None:
    random = np.random.default_rng(2)
    for _ in range(1500):
        H, W = (int(n) for n in random.integers(1, 14, 2))
        cuts = np.sort(random.integers(0, H * W + 1, int(random.integers(0, 9))))
        counts = np.diff(cuts, prepend=0, append=H * W).tolist()  # some runs are empty
        expected = np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(W, H).T
        text = coco_mask.frPyObjects({"size": [H, W], "counts": counts}, H, W)["counts"]
        for form in (counts, text, text.decode()):
            np.testing.assert_array_equal(whole(rle_region(form, (H, W)), (H, W)), expected)


def test_runs_of_large_numbers() -> None:
    H, W = 3000, 4000
    mask = np.zeros((H, W), dtype=np.uint8, order="F")
    mask[7, 3] = mask[2000:2900, 100:3999] = 1
    for form in (coco_mask.encode(mask)["counts"], [7 + 3 * H, 1, H * W - 7 - 3 * H - 1]):
        region = rle_region(form, (H, W))
        assert (region.top, region.left) == (7, 3)
        assert region.area == (1 if isinstance(form, list) else int(mask.sum()))
    np.testing.assert_array_equal(whole(rle_region(coco_mask.encode(mask)["counts"], (H, W)), (H, W)), mask)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "8",
        "9" * 6,
        "l",
        "@",
        "0`",
        "o" * 6 + "1",
        "o" * 40 + "1",
        "o" * 12 + "7" * 9,
        "é",
        "\udc00",
        "\x00",
        "0S2N",
    ],
)
def test_texts_that_are_no_run_lengths_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="compressed run lengths that do not fill 3 x 3 pixels"):
        rle_region(text, (3, 3))


def test_random_texts_are_refused_or_fill_the_picture() -> None:
    random = np.random.default_rng(3)
    filling = 0
    for _ in range(5000):
        text = bytes(random.integers(46, 70, int(random.integers(1, 5))).astype(np.uint8).tolist())
        try:
            mask = whole(rle_region(text, (2, 3)), (2, 3))
        except InputError:
            continue
        filling += 1
        np.testing.assert_array_equal(mask, coco_mask.decode({"size": [2, 3], "counts": text}))
    assert filling > 50


@pytest.mark.parametrize("size", [(2**16, 2**15), (3, 2**31), (0, 5), (5, 0)])
@pytest.mark.parametrize(
    "shape",
    [
        lambda size: polygon_region([[0, 0, 5, 0, 5, 5]], size),
        lambda size: rectangle_region(0.0, 0.0, 5.0, 5.0, size),
        lambda size: ellipse_region(2.0, 2.0, 2.0, 1.0, size),
        lambda size: rle_region([size[0] * size[1]], size),
        lambda size: rle_region("0", size),
    ],
)
def test_pictures_too_large_or_empty_are_refused(
    shape: Callable[[tuple[int, int]], Region], size: tuple[int, int]
) -> None:
    with pytest.raises(InputError, match=f"a picture of {size[1]} x {size[0]} pixels"):
        shape(size)


def test_outlines_that_would_take_all_memory_are_refused() -> None:
    there_and_back = [-29_000.0, 0.0, 29_000.0, 5.0] * 300
    with pytest.raises(InputError, match=r"outline is 34,\d{3},\d{3} pixels long"):
        polygon_region([there_and_back], (3000, 3000))
    with pytest.raises(InputError, match="reaches 4e"):
        polygon_region([[0, 0, 4e9, 0, 4e9, 1]], (1, 2**30))


def test_a_small_polygon_costs_no_more_in_a_large_picture() -> None:
    corners, began = [1010, 1010, 1100, 1010, 1100, 1100], process_time()
    for _ in range(100):
        assert polygon_region([corners], (3000, 4000)).mask.shape == (89, 89)
    assert process_time() - began < 0.4, "decoding the picture for each takes longer"
