"""What others measured: figures of the recipes' models with their sources, none of them measured by this project."""

from dataclasses import dataclass

AUTHORS = "the authors' README, github.com/dvlab-research/PanopticFCN, COCO val"
UNCHECKED = "cited from memory of the paper, not checked against its text"
DETECTRON2 = "detectron2's MODEL_ZOO.md, COCO val"
TEST_DEV = (
    "COCO test-dev, as paperswithcode.com lists the paper's result, there with a mark beside the star (the paper's ‡) "
    "that our sources do not explain"
)


@dataclass(frozen=True)
class Figures:
    """A model's figures in percent as its source has them, None where it has none; AP is that of masks."""

    pq: float | None = None
    sq: float | None = None
    rq: float | None = None
    pq_things: float | None = None
    pq_stuff: float | None = None
    ap: float | None = None
    miou: float | None = None
    sq_things: float | None = None
    rq_things: float | None = None
    sq_stuff: float | None = None
    rq_stuff: float | None = None
    source: str = ""
    mark: str = ""
    """A sign that stands behind the figures where they are not comparable with the others."""


def _authors(pq: float, sq: float, rq: float, ap: float, miou: float) -> Figures:
    return Figures(pq, sq, rq, ap=ap, miou=miou, source=AUTHORS)


FIGURES: dict[str, Figures] = {
    "panoptic-fcn-r50-1x": _authors(41.1, 79.8, 49.9, 32.2, 41.5),
    "panoptic-fcn-r50-1x-fast": _authors(41.1, 79.8, 49.9, 30.2, 41.4),
    "panoptic-fcn-r50-2x": Figures(43.2, pq_things=48.8, pq_stuff=34.7, ap=34.3, miou=43.4, source=UNCHECKED, mark="†"),
    "panoptic-fcn-r50-3x": _authors(43.6, 81.4, 52.5, 34.4, 43.6),
    "panoptic-fcn-r50-3x-fast": _authors(43.6, 81.4, 52.5, 32.4, 43.6),
    "panoptic-fcn-r50-400-3x": _authors(41.0, 81.0, 49.6, 30.7, 43.6),
    "panoptic-fcn-r50-400-3x-fast": _authors(40.8, 81.1, 49.4, 28.9, 43.5),
    "panoptic-fcn-r50-512-3x": _authors(42.3, 81.1, 51.2, 32.4, 43.2),
    "panoptic-fcn-r50-512-3x-fast": _authors(42.3, 81.1, 51.2, 30.7, 43.2),
    "panoptic-fcn-r50-600-3x": _authors(42.7, 81.2, 51.5, 33.6, 43.9),
    "panoptic-fcn-r50-600-3x-fast": _authors(42.7, 80.8, 51.4, 31.6, 43.9),
    "panoptic-fcn-star-r50-3x": _authors(44.2, 81.7, 52.9, 35.6, 43.9),
    "panoptic-fcn-star-r50-3x-fast": _authors(44.2, 81.7, 52.9, 33.4, 43.9),
    "panoptic-fcn-star-r101-dcn-3x": Figures(47.5, pq_things=53.7, pq_stuff=38.2, source=TEST_DEV, mark="‡"),
    "panoptic-fpn-r50-1x": Figures(39.4, ap=34.7, source=DETECTRON2),
    "panoptic-fpn-r50-3x": Figures(41.5, ap=36.5, source=DETECTRON2),
}
"""By the name of the recipe that is to give them."""
NONE = Figures()
