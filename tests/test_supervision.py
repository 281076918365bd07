"""What is handed to the package supervision: checked alone, and in the package's own class where it is installed."""

import importlib.util
import sys
import types

import numpy as np
import pytest

from drawn_maps import two_cups
from thingstuff.errors import InputError
from thingstuff.panoptic import Categories, Panoptic, Segment


class Handed:
    """As `supervision.Detections` is built: its documented fields, by name."""

    def __init__(self, xyxy, mask=None, confidence=None, class_id=None, tracker_id=None, data=None, metadata=None):
        self.xyxy, self.mask, self.confidence, self.class_id, self.data = xyxy, mask, confidence, class_id, data
        assert tracker_id is metadata is None


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    package = types.ModuleType("supervision")
    package.Detections = Handed  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "supervision", package)


@pytest.mark.usefixtures("stand_in")
def test_every_segment_is_a_detection():
    panoptic = two_cups(score=0.75)
    handed = panoptic.to_supervision()
    assert handed.xyxy.tolist() == [[16, 20, 80, 60], [0, 0, 160, 108], [96, 20, 144, 60]]
    assert (handed.mask.shape, handed.mask.dtype) == ((3, 120, 160), np.bool_)
    for mask, segment, (left, top, right, bottom) in zip(
        handed.mask, panoptic.segments, handed.xyxy.astype(int), strict=True
    ):
        assert (mask == panoptic.mask(segment)).all()
        inside = mask[top:bottom, left:right]
        assert inside.sum() == mask.sum(), "no pixel lies outside of the box"
        assert all(side.any() for side in (inside[0], inside[-1], inside[:, 0], inside[:, -1])), "the box is tight"
    assert handed.class_id.tolist() == [0, 1, 0], "the label, which names the class in `categories.names`"
    assert {key: value.tolist() for key, value in handed.data.items()} == {
        "class_name": ["cup", "table", "cup"],
        "category_id": [7, 3, 7],
        "segment_id": [70_000, 500, 2],
        "is_thing": [True, False, True],
        "is_crowd": [False, False, False],
    }
    assert handed.confidence is None, "the table has no score"


@pytest.mark.usefixtures("stand_in")
def test_things_alone_have_their_scores():
    handed = two_cups(score=0.75).to_supervision(things_only=True)
    assert handed.data["segment_id"].tolist() == [70_000, 2]
    assert handed.mask.shape[0] == len(handed.xyxy) == len(handed.class_id) == 2
    assert handed.confidence.tolist() == [0.75, 0.75]
    assert two_cups().to_supervision(things_only=True).confidence is None, "ground truth"


@pytest.mark.usefixtures("stand_in")
def test_what_has_no_pixel_is_no_detection():
    categories = Categories(("cup",), (True,), (1,))
    panoptic = Panoptic(
        np.array([[1, 0]], dtype=np.int32), (Segment(1, 0, 1, iscrowd=True), Segment(2, 0, 0)), categories
    )
    handed = panoptic.to_supervision()
    assert handed.data["segment_id"].tolist() == [1]
    assert handed.data["is_crowd"].tolist() == [True]
    empty = Panoptic(np.zeros((4, 6), dtype=np.int32), (), categories).to_supervision()
    assert (empty.xyxy.shape, empty.mask.shape, empty.class_id.shape) == ((0, 4), (0, 4, 6), (0,))


def test_without_the_package_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(InputError, match="pip install supervision"):
        two_cups().to_supervision()


@pytest.mark.skipif(not importlib.util.find_spec("supervision"), reason="the package supervision is not installed")
def test_the_package_takes_it():
    import supervision as sv

    panoptic = two_cups(score=0.75)
    detections = panoptic.to_supervision(things_only=True)
    assert isinstance(detections, sv.Detections)
    assert detections.area.tolist() == [40 * 64, 40 * 48]
    assert detections[detections.class_id == 0]["class_name"].tolist() == ["cup", "cup"]
    assert len(detections[detections.confidence > 0.8]) == 0
    drawn = sv.MaskAnnotator().annotate(np.zeros((120, 160, 3), dtype=np.uint8), detections)
    assert ((drawn > 0).any(axis=2) == detections.mask.any(axis=0)).all()
    assert len(Panoptic(0 * panoptic.ids, (), panoptic.categories).to_supervision()) == 0
    assert len(panoptic.to_supervision()) == 3
