"""Pictures filled in by models: real ones of tiny size, and one that sees what a test wants."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from thingstuff import checkpoint
from thingstuff.convert.classes import ClassRules, plan_classes
from thingstuff.convert.converting import ConvertRules, convert
from thingstuff.convert.fill_classes import match_classes
from thingstuff.convert.filled import FillRules, fill
from thingstuff.convert.formats import open_source
from thingstuff.convert.painting import Filler, Painted, PaintedSegment
from thingstuff.convert.source import Region, Source, SourceClass, SourceLabels, SourceObject, SourcePicture
from thingstuff.errors import InputError
from thingstuff.filling import ModelFiller
from thingstuff.io import read_id_map, read_json
from thingstuff.models import create, find
from thingstuff.models.panoptic_fpn import PanopticFPN
from thingstuff.panoptic import Categories, Panoptic, Segment

SIZE = (48, 64)
OWN_CLASSES = (SourceClass("worker", 1, True),)
OWN = plan_classes(OWN_CLASSES, ClassRules())
CLASSES = Categories(("car", "sky", "road", "grass"), (True, False, False, False), (1, 2, 3, 4))
RULES = FillRules(rim=2, min_score=0.0)


def picture_at(path: Path, size: tuple[int, int] = SIZE, **saving: Any) -> Path:
    pixels = np.random.default_rng(1).integers(0, 255, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **saving)
    return path


def one_worker(size: tuple[int, int] = SIZE) -> Painted:
    ids = np.zeros(size, dtype=np.int32)
    ids[10:20, 8:30] = 5
    return Painted(ids, (PaintedSegment(5, "worker"),))


class Seer(PanopticFPN):
    """Sees the sky in a picture's upper half and the road in its lower one, or raises what it is given."""

    def __init__(self, error: Exception | None = None) -> None:
        torch.manual_seed(0)
        super().__init__(find("panoptic-fpn-tiny")[0], CLASSES)
        self.asked: list[tuple[int, ...]] = []
        self.error = error

    def predict(self, pictures: Any, batch_size: int = 8, progress: Any = None) -> Any:
        if self.error:
            raise self.error
        self.asked.append(pictures.shape)
        ids = np.ones(pictures.shape[:2], dtype=np.int32)
        ids[len(ids) // 2 :] = 2
        areas = np.bincount(ids.ravel())
        segments = (Segment(1, 1, int(areas[1]), 0.75), Segment(2, 2, int(areas[2]), 0.6))
        return Panoptic(ids, segments, CLASSES)


@pytest.fixture
def fill_with(monkeypatch: pytest.MonkeyPatch) -> Callable[..., ModelFiller]:
    """Return what loads a filler whose weights are such a model."""

    def load(seer: Seer, **asked: Any) -> ModelFiller:
        monkeypatch.setattr("thingstuff.pretrained.load", lambda weights, device: seer)
        return ModelFiller.load("seer", OWN, **asked)

    return load


# ---- one picture


@pytest.mark.parametrize("name", ["panoptic-fpn-tiny", "detr-panoptic-tiny"])
def test_a_model_s_map_is_laid_under_what_is_drawn(name: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = create(name, CLASSES, **({"threshold": 0.0} if name.startswith("detr") else {}))
    weights = tmp_path / "model.safetensors"
    checkpoint.save(weights, model)
    picture, painted = picture_at(tmp_path / "a.png"), one_worker()
    filler: Filler = ModelFiller.load(weights, OWN, things=True, rules=RULES, device="cpu")
    result = filler(picture, painted)
    predicted = model.eval().predict(picture)
    expected = fill(painted, predicted, match_classes(CLASSES, OWN, things=True), RULES, str(weights))
    assert (result.ids == expected.ids).all()
    assert result.segments == expected.segments
    assert len(result.segments) > 1, "the models of this seed see something"
    assert (result.ids == 5).sum() == 220
    assert {c.name: c.isthing for c in filler.classes} == {"car": True, "sky": False, "road": False, "grass": False}


def test_a_picture_is_turned_as_its_map_is(fill_with: Callable[..., ModelFiller], tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = picture_at(tmp_path / "a.jpg", exif=exif.tobytes())
    seer = Seer()
    filler = fill_with(seer)
    for size in (SIZE, SIZE[::-1]):
        assert filler(picture, one_worker(size)).ids.shape == size
    assert seer.asked == [(48, 64, 3), (64, 48, 3)]
    with pytest.raises(InputError, match=re.escape(f"{picture} is 64 wide and 48 high, but 10 wide")):
        filler(picture, Painted(np.zeros((10, 10), dtype=np.int32), ()))


def test_a_map_without_void_is_not_looked_at(fill_with: Callable[..., ModelFiller], tmp_path: Path) -> None:
    seer = Seer()
    painted = Painted(np.full((4, 4), 5, dtype=np.int32), (PaintedSegment(5, "worker"),))
    assert fill_with(seer)(tmp_path / "no picture.png", painted) is painted
    assert seer.asked == []


@pytest.mark.parametrize(
    "error",
    [torch.cuda.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError("DefaultCPUAllocator: 8 bytes")],
)
def test_too_little_memory_is_told(error: Exception, fill_with: Callable[..., ModelFiller], tmp_path: Path) -> None:
    picture = picture_at(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"out of memory while seer looked at .*a\.png \(64 x 48\): close what"):
        fill_with(Seer(error))(picture, one_worker())


def test_faults_of_ours_keep_their_traceback(fill_with: Callable[..., ModelFiller], tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="shapes differ"):
        fill_with(Seer(RuntimeError("shapes differ")))(picture_at(tmp_path / "a.png"), one_worker())


# ---- what is loaded


def test_the_fingerprint_tells_weights_and_rules_apart(fill_with: Callable[..., ModelFiller]) -> None:
    def changed(name: str) -> Seer:
        seer = Seer()
        tensor = seer.state_dict()[name]
        tensor.reshape(-1)[-1] += 1
        return seer

    names = list(Seer().state_dict())
    fingerprints = [
        fill_with(Seer()).fingerprint,
        fill_with(changed(names[0])).fingerprint,
        fill_with(changed(names[-1])).fingerprint,
        fill_with(Seer(), things=True).fingerprint,
        fill_with(Seer(), renamed={"sky": "air"}).fingerprint,
        fill_with(Seer(), rules=FillRules(rim=3)).fingerprint,
        fill_with(Seer(), rules=FillRules(min_score=0.4)).fingerprint,
    ]
    assert len({*fingerprints}) == len(fingerprints)
    assert fill_with(Seer()).fingerprint == fingerprints[0]
    assert fingerprints[0].startswith("seer ")


def test_a_model_that_cannot_fill_in_is_told(fill_with: Callable[..., ModelFiller]) -> None:
    with pytest.raises(
        InputError, match="seer cannot fill in: --fill-map: the model has no class 'cart'; did you mean"
    ):
        fill_with(Seer(), renamed={"cart": ""})


def test_weights_that_are_not_there_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such weights"):
        ModelFiller.load(tmp_path / "missing.safetensors", OWN)


# ---- a data set


def read_worker(picture: SourcePicture) -> SourceLabels:
    """Labels as a reader gives them."""
    region = Region(10, 8, np.ones((10, 22), dtype=np.bool_))
    return SourceLabels(SIZE, (SourceObject("worker", region),))


def drawn_by_hand(folder: Path, count: int) -> Source:
    folder.mkdir()
    pictures = tuple(SourcePicture(f"p{n}", picture_at(folder / f"p{n}.png"), split="train") for n in range(count))
    return Source("made", "by a test", OWN_CLASSES, pictures, read_worker)


def maps_of(out: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Return each picture's segments: category, area, marks."""
    data = read_json(out / "panoptic_train.json")
    names = {c["id"]: c["name"] for c in data["categories"]}
    found = {}
    for entry in data["annotations"]:
        ids = read_id_map(out / "panoptic_train" / entry["file_name"])
        rows = [(names[s["category_id"]], int((ids == s["id"]).sum()), s.get("filled")) for s in entry["segments_info"]]
        found[entry["file_name"]] = sorted(rows)
    return found


def test_a_data_set_is_filled_in_resumed_and_filled_again(
    fill_with: Callable[..., ModelFiller], tmp_path: Path
) -> None:
    source, out = drawn_by_hand(tmp_path / "drawn", 2), tmp_path / "out"
    seer = Seer()
    convert(source, out, filler=fill_with(seer, rules=RULES), workers=1)
    # the worker's rim is cut from the sky (rows 0 to 23), and ends before the road
    rim = 2 * 2 * (10 + 22) + 4  # of each corner one pixel is within 2 pixels
    rows = [
        ("road", 24 * 64, {"by": "seer", "score": 0.6}),
        ("sky", 24 * 64 - 220 - rim, {"by": "seer", "score": 0.75}),
        ("worker", 220, None),
    ]
    assert maps_of(out) == {"p0.png": rows, "p1.png": rows}
    data = read_json(out / "panoptic_train.json")
    assert [c["name"] for c in data["categories"]] == ["worker", "road", "sky"], "grass is nowhere"
    assert len(seer.asked) == 2
    convert(source, out, filler=fill_with(seer, rules=RULES), workers=1)
    assert len(seer.asked) == 2, "all are there"

    again = open_source(out, "coco-panoptic")
    own = plan_classes(again.classes, ClassRules())
    filler = ModelFiller(seer, match_classes(CLASSES, own), FillRules(rim=0, min_score=0.7), "other")
    convert(again, tmp_path / "again", ConvertRules(drop_filled=True), filler=filler, workers=1)
    rows = [("sky", 24 * 64 - 220, {"by": "other", "score": 0.75}), ("worker", 220, None)]
    assert maps_of(tmp_path / "again") == {"p0.png": rows, "p1.png": rows}
