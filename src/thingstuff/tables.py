"""The tables of Panoptic FCN's paper: each row's settings and the figures that the paper has for it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from thingstuff.published import FIGURES, NONE, Figures

BASE = "panoptic-fcn-r50-1x"
"""The recipe of the ablations."""
CHECKED = "from the sources that `thingstuff recipes` names, read there"
OF_ABLATIONS = ("pq", "pq_things", "pq_stuff", "ap", "miou")
OF_RESULTS = ("pq", "sq", "rq", "pq_things", "sq_things", "rq_things", "pq_stuff", "sq_stuff", "rq_stuff", "ap", "miou")


@dataclass(frozen=True)
class Row:
    """A row: its name, the model settings by dotted key that it has beside its recipe's, and the paper's figures."""

    name: str
    paper: Figures
    settings: Mapping[str, Any] = field(default_factory=dict)
    recipe: str = BASE


@dataclass(frozen=True)
class Table:
    """A table of the paper."""

    name: str
    title: str
    rows: tuple[Row, ...]
    columns: tuple[str, ...] = OF_ABLATIONS
    checked: bool = False
    """Whether the figures were read where they are from."""

    @property
    def recipes_differ(self) -> bool:
        """Tell whether the rows are recipes, not settings of one."""
        return len({row.recipe for row in self.rows}) > 1

    @property
    def varied(self) -> frozenset[str]:
        """The settings in which the rows differ."""
        return frozenset(key for row in self.rows for key in row.settings)


def _of(pq: float, things: float, stuff: float, ap: float, miou: float) -> Figures:
    return Figures(pq, pq_things=things, pq_stuff=stuff, ap=ap, miou=miou)


_DEFAULT = _of(41.3, 46.9, 32.9, 32.1, 41.7)
_NEITHER_COORDINATE = {"kernel_coordinates": False, "encoder_coordinates": False}


def _generator(convs: int, *, deformable: bool = False) -> dict[str, Any]:
    """Return the settings of a kernel generator: so many convs in both heads, without coordinates."""
    heads = {"position_convs": convs, "kernel_convs": convs, "position_deformable": deformable}
    return {**heads, **_NEITHER_COORDINATE}


def _coordinates(kernels: bool, feature: bool) -> dict[str, Any]:
    return {"kernel_coordinates": kernels, "encoder_coordinates": feature}


def _fusion(similarity: float, class_aware: bool = True) -> dict[str, Any]:
    return {"similarity": similarity, "class_aware": class_aware}


def _duplicates(kernel_fusion: bool, nms: bool) -> dict[str, Any]:
    return {"kernel_fusion": kernel_fusion, "nms": nms}


def _released(*names: str) -> tuple[Row, ...]:
    """Return rows that are recipes; Panoptic FCN's leave out the model's name."""
    return tuple(
        Row(name.removeprefix("panoptic-fcn-"), FIGURES.get(name, NONE), recipe=name)
        for name in (*names, "panoptic-fpn-r50-1x", "panoptic-fpn-r50-3x")
    )


_ALL = (
    Table(
        "kernel-generator",
        "Kernel generator: convs of both heads, deformable or not, without coordinates",
        (
            Row("1-conv", _of(38.4, 43.4, 31.0, 28.3, 39.9), _generator(1)),
            Row("2-convs", _of(38.9, 44.1, 31.1, 28.9, 40.1), _generator(2)),
            Row("3-convs", _of(39.2, 44.7, 31.0, 29.6, 40.2), _generator(3)),
            Row("4-convs", _of(39.2, 44.9, 30.8, 29.4, 39.9), _generator(4)),
            Row("3-convs-deformable", _of(39.9, 45.0, 32.4, 29.9, 41.2), _generator(3, deformable=True)),
        ),
    ),
    Table(
        "coordinates",
        "Coordinates in the kernel head (coord_w) and in the feature encoder (coord_f)",
        (
            Row("none", _of(39.9, 45.0, 32.4, 29.9, 41.2), _coordinates(kernels=False, feature=False)),
            Row("kernels", _of(39.9, 45.0, 32.2, 30.0, 41.1), _coordinates(kernels=True, feature=False)),
            Row("feature", _of(40.2, 45.3, 32.5, 30.4, 41.6), _coordinates(kernels=False, feature=True)),
            Row("both", _DEFAULT, _coordinates(kernels=True, feature=True)),
        ),
    ),
    Table(
        "fusion-threshold",
        "Cosine from which kernels are fused, within a class or over all classes",
        (
            Row("0.80", _of(39.7, 44.3, 32.9, 29.9, 41.7), _fusion(0.8)),
            Row("0.85", _of(40.8, 46.1, 32.9, 31.5, 41.7), _fusion(0.85)),
            Row("0.90", _DEFAULT, _fusion(0.9)),
            Row("0.95", _of(41.3, 47.0, 32.9, 31.1, 41.7), _fusion(0.95)),
            Row("1.00", _of(38.7, 42.6, 32.9, 25.4, 41.7), _fusion(1.0)),
            Row("0.90-all-classes", _of(41.2, 46.7, 32.9, 30.9, 41.7), _fusion(0.9, class_aware=False)),
        ),
    ),
    Table(
        "fusion-nms",
        "Kernel fusion and NMS of masks",
        (
            Row("neither", _of(38.7, 42.6, 32.9, 25.4, 41.7), _duplicates(kernel_fusion=False, nms=False)),
            Row("nms", _of(38.7, 42.6, 32.9, 27.8, 41.7), _duplicates(kernel_fusion=False, nms=True)),
            Row("fusion", _DEFAULT, _duplicates(kernel_fusion=True, nms=False)),
            Row("both", _of(41.3, 46.9, 32.8, 32.3, 41.7), _duplicates(kernel_fusion=True, nms=True)),
        ),
    ),
    Table(
        "encoder-channels",
        "Channels of the feature encoder",
        (
            Row("16", _of(39.9, 45.0, 32.1, 30.8, 41.3), {"encoder_channels": 16}),
            Row("32", _of(40.8, 46.3, 32.5, 31.7, 41.6), {"encoder_channels": 32}),
            Row("64", _DEFAULT, {"encoder_channels": 64}),
            Row("128", _of(41.3, 47.0, 32.6, 32.6, 41.7), {"encoder_channels": 128}),
        ),
    ),
    Table(
        "feature-type",
        "What the feature encoder sees",
        (
            Row("p2", _of(40.6, 46.0, 32.4, 31.6, 41.3), {"feature_type": "p2"}),
            Row("summed", _of(40.5, 46.0, 32.1, 31.7, 41.1), {"feature_type": "summed"}),
            Row("semantic", _DEFAULT, {"feature_type": "semantic"}),
        ),
    ),
    Table(
        "weighted-dice",
        "Weighted DICE: positions of an object that learn its mask",
        (
            Row("off", _of(40.2, 45.5, 32.4, 31.0, 41.3), {"weighted": False}),
            Row("k1", _of(40.0, 45.1, 32.4, 30.9, 41.3), {"positives": 1}),
            Row("k3", _of(41.0, 46.4, 32.7, 31.6, 41.4), {"positives": 3}),
            Row("k5", _of(41.0, 46.5, 32.9, 32.1, 41.7), {"positives": 5}),
            Row("k7", _DEFAULT, {"positives": 7}),
            Row("k9", _of(41.3, 46.8, 32.9, 32.1, 41.8), {"positives": 9}),
        ),
    ),
    Table(
        "schedule",
        "Length of the training",
        (
            Row("1x", _DEFAULT, recipe="panoptic-fcn-r50-1x"),
            Row("2x", FIGURES["panoptic-fcn-r50-2x"], recipe="panoptic-fcn-r50-2x"),
            Row("3x", _of(43.6, 49.3, 35.0, 34.5, 43.8), recipe="panoptic-fcn-r50-3x"),
        ),
    ),
    Table(
        "star",
        "The enhanced model: a deformable feature encoder of 256 channels",
        (
            Row("plain", _of(43.6, 49.3, 35.0, 34.5, 43.8), recipe="panoptic-fcn-r50-3x"),
            Row("star", _of(44.3, 50.0, 35.6, 35.5, 44.0), recipe="panoptic-fcn-star-r50-3x"),
        ),
    ),
    Table(
        "results",
        "Results of the released models, and Panoptic FPN's",
        _released(*(name for name in FIGURES if name.startswith("panoptic-fcn-") and not FIGURES[name].mark)),
        columns=OF_RESULTS,
        checked=True,
    ),
)

TABLES: dict[str, Table] = {table.name: table for table in _ALL}
"""By name, as `thingstuff reproduce` takes it."""
