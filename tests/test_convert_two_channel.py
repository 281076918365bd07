"""PNGs of category and instance, laid out as panopticapi's converter takes them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from thingstuff.convert import semantic, two_channel
from thingstuff.convert.source import Source, SourceOptions
from thingstuff.errors import InputError

# In the form of cocodataset/panopticapi: sample_data/images_info_examples.json and panoptic_coco_categories.json.
IMAGES: dict[str, Any] = {
    "info": {"description": "COCO 2018 Panoptic Dataset", "year": 2018},
    "licenses": [{"url": "http://creativecommons.org/licenses/by-nc/2.0/", "id": 2, "name": "BY-NC"}],
    "images": [
        {"license": 2, "file_name": "000000142238.jpg", "height": 2, "width": 4, "id": 142238},
    ],
}
CATEGORIES = [
    {"supercategory": "person", "color": [220, 20, 60], "isthing": 1, "id": 1, "name": "person"},
    {"supercategory": "vehicle", "color": [0, 0, 142], "isthing": 1, "id": 3, "name": "car"},
    {"supercategory": "sky", "isthing": 0, "id": 187, "name": "sky-other-merged"},
]
RED = [[1, 1, 3, 187], [1, 0, 0, 187]]
GREEN = [[0, 1, 1, 0], [0, 0, 0, 0]]


def laid_out(folder: Path, red: list[list[int]] = RED, images: Any = IMAGES, blue: int = 0) -> Path:
    """Write the files that the converter asks for, and the picture."""
    maps, pictures = folder / "panoptic_examples_2ch_format", folder / "input_images"
    maps.mkdir()
    pictures.mkdir()
    channels = [np.array(red), np.array(GREEN), np.full((2, 4), blue)]
    Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8)).save(maps / "000000142238.png")
    Image.new("RGB", (4, 2)).save(pictures / "000000142238.jpg")
    (folder / "image_info_val2017.json").write_text(json.dumps(images))
    (folder / "panoptic_coco_categories.json").write_text(json.dumps(CATEGORIES))
    return folder


def opened(folder: Path) -> Source:
    return two_channel.open_source(folder, "for the test", SourceOptions())


def read_first(folder: Path) -> None:
    source = opened(folder)
    source.read(source.pictures[0])


def test_every_pair_of_category_and_instance_is_an_object(tmp_path: Path) -> None:
    folder = laid_out(tmp_path)
    told = two_channel.recognise(folder)
    assert (
        told
        == "panoptic_coco_categories.json lists categories, and the PNGs in panoptic_examples_2ch_format have no blue"
    )
    source = opened(folder)
    assert [(c.name, c.id, c.isthing, c.color) for c in source.classes] == [
        ("person", 1, True, (220, 20, 60)),
        ("car", 3, True, (0, 0, 142)),
        ("sky-other-merged", 187, False, None),
    ]
    assert source.header == {"info": IMAGES["info"], "licenses": IMAGES["licenses"]}
    (picture,) = source.pictures
    assert (picture.key, picture.split, picture.image_id) == ("000000142238", "val", 142238)
    assert picture.extra == {"license": 2}
    labels = source.read(picture)
    assert labels.size == (2, 4)
    assert [(o.name, o.region.left, o.region.area) for o in labels.objects] == [
        ("person", 0, 2),
        ("sky-other-merged", 3, 2),
        ("person", 1, 1),
        ("car", 2, 1),
    ]
    assert not labels.ignored


def test_categories_may_stand_beside_the_images(tmp_path: Path) -> None:
    folder = laid_out(tmp_path, images={**IMAGES, "categories": CATEGORIES})
    (folder / "panoptic_coco_categories.json").unlink()
    assert "image_info_val2017.json lists categories" in str(two_channel.recognise(folder))
    assert [c.id for c in opened(folder).classes] == [1, 3, 187]


def test_other_folders_are_not_taken(tmp_path: Path) -> None:
    assert two_channel.recognise(tmp_path) is None
    assert two_channel.recognise(tmp_path / "nothing") is None
    folder = laid_out(tmp_path, blue=1)  # as in COCO panoptic's maps
    assert two_channel.recognise(folder) is None
    with pytest.raises(InputError, match="folder of RGB PNGs without blue"):
        opened(folder)
    (folder / "panoptic_coco_categories.json").write_text("[{")
    assert two_channel.recognise(folder) is None
    with pytest.raises(InputError, match=r"categories\.json: broken JSON"):
        opened(folder)


def test_it_is_not_taken_for_semantic_maps(tmp_path: Path) -> None:
    folder = laid_out(tmp_path)
    (folder / "panoptic_examples_2ch_format").rename(folder / "labels")
    (folder / "input_images").rename(folder / "images")
    assert two_channel.recognise(folder)
    assert semantic.recognise(folder) is None


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"red": [[1, 1, 9, 7], [1, 0, 0, 7]]}, r"red \[7, 9\] is no category_id"),
        ({"images": {"images": [{**IMAGES["images"][0], "width": 5}]}}, "4 wide and 2 high, but its JSON says 5 and 2"),
        ({"images": {"images": [{"id": 1}]}}, r"images\[0\]: 'file_name' is missing"),
        ({"images": {"images": [], "annotations": []}}, "lists images without annotations"),
        ({"images": {"images": IMAGES["images"] * 2}}, "'000000142238.jpg' stands twice"),
        ({"images": {"images": [{**IMAGES["images"][0], "file_name": "y.jpg"}]}}, "y.jpg: no picture"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    folder = laid_out(tmp_path, **change)
    with pytest.raises(InputError, match=told):
        read_first(folder)


def test_a_blue_pixel_of_one_map_is_refused(tmp_path: Path) -> None:
    source = opened(laid_out(tmp_path))
    path = source.pictures[0].labels[0]
    pixels = np.array(Image.open(path))
    pixels[1, 1, 2] = 4
    Image.fromarray(pixels).save(path)
    with pytest.raises(InputError, match=r"000000142238\.png has blue pixels"):
        source.read(source.pictures[0])


def test_a_missing_map_is_named(tmp_path: Path) -> None:
    folder = laid_out(tmp_path)
    maps = folder / "panoptic_examples_2ch_format"
    (maps / "000000142238.png").rename(maps / "other.png")
    with pytest.raises(InputError, match=r"000000142238\.jpg: no PNG of labels"):
        opened(folder)
