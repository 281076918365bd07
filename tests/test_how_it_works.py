"""docs/how-it-works tells the truth about today's code: its shapes, its figures, the names it cites, its links."""

import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from steps_contract import importable
from thingstuff.coco_categories import COCO_PANOPTIC
from thingstuff.data.scenes import SCENE_CATEGORIES, make_scene
from thingstuff.explain_figures import named_views
from thingstuff.explaining import explain
from thingstuff.models import create
from thingstuff.models.base import PanopticModel
from thingstuff.models.detr import DETRPanoptic
from thingstuff.models.panoptic_fcn import PanopticFCN
from thingstuff.models.panoptic_fpn import PanopticFPN
from thingstuff.panoptic import Categories
from thingstuff.walk import Walk

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "how-it-works"
PAGES = sorted(FOLDER.glob("*.md"))
EVERYTHING_IS_FOUND = {
    "detr": {"threshold": 0.0},
    "panoptic-fcn": {
        "thing_score": 0.0,
        "rescored_threshold": 0.0,
        "thing_threshold": 0.0,
        "stuff_threshold": 0.0,
        "similarity": 0.0,
        "overlap": 1.0,
    },
    "panoptic-fpn": {"thing_score": 0.0, "detection_score": 0.0},
}
"""Settings with which a model that has learned nothing gives segments, some of them of fused kernels."""
TINY = {"detr": "detr-panoptic-tiny", "panoptic-fcn": "panoptic-fcn-tiny", "panoptic-fpn": "panoptic-fpn-tiny"}
LARGE = {"detr": "detr-panoptic-r50", "panoptic-fcn": "panoptic-fcn-r50", "panoptic-fpn": "panoptic-fpn-r50"}

ROW = re.compile(
    r"^\| `(?P<step>[^:`]+): (?P<tensor>[^`]+)` \| (?P<letters>[^|]+) \| (?P<tiny>[^|]+) \| (?P<large>[^|]+) \|"
)
TERM = re.compile(r"(?P<factor>\d*)(?P<letter>[A-Za-z]\d?)?(?:/(?P<divisor>\d+))?")
LINK = re.compile(r"\]\((?!https?:)(?P<file>[^)#]+)")


@cache
def text_of(page: str) -> str:
    return (FOLDER / f"{page}.md").read_text(encoding="utf-8")


@cache
def walk_of(page: str) -> Walk:
    """A walk through the page's model, which has learned nothing, over a made picture of the demo's size."""
    torch.manual_seed(0)
    model = create(TINY[page], SCENE_CATEGORIES, **EVERYTHING_IS_FOUND[page])
    picture, truth = make_scene(np.random.default_rng(0))
    assert picture.shape == (128, 160, 3)
    return explain(model, picture, truth)


def letters_of(model: PanopticModel, categories: Categories, height: int, width: int) -> dict[str, int]:
    """What the letters of the pages stand for, in one model on one size of pictures."""
    H, W = model.batch([np.zeros((height, width, 3), np.uint8)]).canvas
    T, S = len(categories.thing_labels), len(categories.stuff_labels)
    letters = {"H": H, "W": W, "C": T + S, "T": T, "S": S}
    backbone = model.get_submodule("backbone")
    letters |= {f"R{stage}": channels for stage, channels in backbone.channels.items()}
    c = model.config
    if isinstance(model, DETRPanoptic):
        of_model = {"d": c.hidden, "M": c.heads, "L": c.decoder_layers, "Q": c.queries}
        letters["C"] = len(model.labels_of_outputs())
    elif isinstance(model, PanopticFCN):
        of_model = {"c": c.fpn_channels, "s": c.semantic_channels, "K": c.kernel_channels, "E": c.encoder_channels}
        letters["R"] = S + c.region_has_thing
    else:
        assert isinstance(model, PanopticFPN)
        of_model = {"c": c.fpn_channels, "s": c.semantic_channels, "A": len(c.anchor_ratios), "P": c.proposals}
    return letters | of_model


def side(text: str, letters: dict[str, int]) -> str:
    """Return one side of a shape in numbers, divisions rounded up; what hangs on the picture stays a letter."""
    total = 0
    for term in text.strip("()").split(" + "):
        match = TERM.fullmatch(term)
        assert match, term
        if match["letter"] and match["letter"] not in letters:
            return text
        value = int(match["factor"] or 1) * letters.get(match["letter"] or "", 1)
        total += -(-value // int(match["divisor"] or 1))
    return str(total)


def in_numbers(shape: str, letters: dict[str, int]) -> list[str]:
    return [side(text, letters) for text in shape.strip().split(" × ")]


@cache
def rows_of(page: str) -> list[dict[str, str]]:
    return [match.groupdict() for line in text_of(page).splitlines() if (match := ROW.match(line))]


@pytest.mark.parametrize("page", TINY)
def test_shapes_of_the_tiny_model_are_those_of_its_walk(page: str) -> None:
    rows, walk = rows_of(page), walk_of(page)
    assert len(rows) >= 10
    letters = letters_of(create(TINY[page], SCENE_CATEGORIES), SCENE_CATEGORIES, 128, 160)
    counts: dict[str, set[int]] = {}
    for row in rows:
        (tensor,) = [t.tensor for t in walk[row["step"]].tensors if t.name == row["tensor"]]
        told = row["tiny"].strip().split(" × ")
        assert told == in_numbers(row["letters"], letters), row
        assert len(told) == tensor.ndim, row
        for text, actual in zip(told, tensor.shape, strict=True):
            if text.isdigit():
                assert int(text) == actual, (row, tensor.shape)
            else:
                counts.setdefault(text, set()).add(actual)
    assert all(len(sizes) == 1 for sizes in counts.values()), counts
    assert "N" in counts
    assert counts["N"] != {0}


@pytest.mark.parametrize("page", TINY)
def test_shapes_of_the_large_model_are_those_of_its_config(page: str) -> None:
    with torch.device("meta"):  # shapes alone
        model = create(LARGE[page], COCO_PANOPTIC)
        letters = letters_of(model, COCO_PANOPTIC, 480, 640)
    for row in rows_of(page):
        assert row["large"].strip().split(" × ") == in_numbers(row["letters"], letters), row


def kind_of(figure: str, categories: Categories) -> str:
    """Return a figure's name without what hangs on the picture: its classes and, but for the step's, its numbers."""
    number, _, rest = figure.partition("-")
    for name in categories.names:
        rest = re.sub(rf"\b{name}\b", "class", rest)
    return f"{number}-{re.sub(r'[0-9]+', '0', rest)}"


@pytest.mark.parametrize("page", TINY)
def test_figures_are_named_as_explain_names_them(page: str) -> None:
    files = sorted(path.name for path in (FOLDER / "figures" / page).iterdir())
    assert len(files) >= 8
    today = {kind_of(name, SCENE_CATEGORIES) for name, _ in named_views(walk_of(page))}
    for file in files:
        assert kind_of(file, SCENE_CATEGORIES) in today, (file, sorted(today))


def test_every_figure_is_shown() -> None:
    shown = {match["file"] for page in PAGES for match in LINK.finditer(page.read_text(encoding="utf-8"))}
    there = {path.relative_to(FOLDER).as_posix() for path in (FOLDER / "figures").rglob("*.png")}
    assert there == {file for file in shown if file.endswith(".png")}


def test_figures_are_small() -> None:
    sizes = [path.stat().st_size for path in (FOLDER / "figures").rglob("*.png")]
    assert max(sizes) <= 80_000
    assert sum(sizes) <= 1_500_000


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = [match["file"] for match in LINK.finditer(page.read_text(encoding="utf-8"))]
    assert links
    assert not [link for link in links if not (page.parent / link).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_names_in_the_source_exist(page: Path) -> None:
    names = set(re.findall(r"`(thingstuff\.[\w.]+)`", page.read_text(encoding="utf-8")))
    assert names
    assert not [name for name in names if not importable(name)]


@pytest.mark.parametrize("page", TINY)
def test_settings_that_are_named_exist(page: str) -> None:
    fields = set(type(create(TINY[page], SCENE_CATEGORIES).config).model_fields)
    named = set(re.findall(r"`([a-z]+(?:_[a-z]+)+)(?:=\w+)?`", text_of(page)))
    assert named
    assert named <= fields, named - fields


def test_sides_are_read_as_they_are_meant() -> None:
    letters = {"H": 101, "d": 8, "M": 2, "R5": 7, "A": 3}
    assert in_numbers("(d + M) × H/4 × 4A × N", letters) == ["10", "26", "12", "N"]
    assert in_numbers("R5 × (d/2 + 1) × 28", letters) == ["7", "5", "28"]
