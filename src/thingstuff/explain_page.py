"""The page of a walk: one HTML file that needs nothing beside itself, below `LIMIT` whatever the picture."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from thingstuff import view_pictures as draw
from thingstuff.colour_scales import AMOUNTS, SIGNED
from thingstuff.errors import InputError
from thingstuff.papers import cited
from thingstuff.report_page import render, write_page
from thingstuff.structures import Size
from thingstuff.walk import (
    AttentionView,
    Labelled,
    MapView,
    MarksView,
    MatrixView,
    PixelsView,
    ResultView,
    Step,
    TableView,
    View,
    Walk,
)

LIMIT = 10_000_000
"""Bytes of a page."""

_PICTURE = 1200  # longest side of a photograph
_LARGE = 2  # maps of a run that are shown large; more stand in small
_UNFOLDED = 12  # of those in small, how many are seen at once
_WIDE = ("TableView", "MatrixView", "AttentionView", "ResultView")
_TALL = 14  # rows beyond which a table scrolls


@dataclass(frozen=True)
class Bound:
    """How many cells a map may have, and how many values all maps of an attention."""

    cells: int
    attention: int


# one after the other, until the page is small enough
_BOUNDS = (
    Bound(300_000, 4_000_000),
    # attention halves slower: it is one picture a step, which says little once its cells are few
    *(Bound(2 ** (17 - n), 2 ** (21 - n // 2)) for n in range(12)),
)


def write_walk(path: Path, walk: Walk, *, overwrite: bool) -> Path:
    """Write a walk as one HTML page and return its path.

    Raises `InputError` where the file is there already, unless `overwrite`, or cannot be written.
    """
    check_page(path, overwrite)
    return write_page(path, page_of(walk))


def check_page(path: Path, overwrite: bool) -> None:
    """Raise `InputError` for a folder, and for a file that is there already, unless `overwrite`."""
    if path.is_dir():
        raise InputError(f"{path} is a folder; give a file for the page, such as {path / 'page.html'}")
    if path.exists() and not overwrite:
        raise InputError(f"{path} is there already; give another file for the page, or --overwrite")


def page_of(walk: Walk, limit: int = LIMIT) -> str:
    """Return the page as HTML of less than `limit` bytes: the largest maps lose cells where it needs that."""
    values = _frame_values(walk)
    drawn: dict[tuple[int, Size, int], dict[str, Any]] = {}
    beside = least = 0  # bytes of the page without the pictures of views: known once it is made
    for bound in _BOUNDS:
        views = {id(view): _shown(walk, view, bound, drawn) for step in walk.steps for view in step.views}
        pictures = sum(_weight(shown) for shown in views.values())
        least = beside + pictures
        if least >= limit:
            continue
        page = render("explain.html.jinja", steps=_steps(walk, views), **values)
        least = len(page.encode(errors="backslashreplace"))
        if least < limit:
            return page
        beside = least - pictures
    raise InputError(f"the page of {walk.name} has {least:,} bytes even with the coarsest maps; show fewer steps")


def _frame_values(walk: Walk) -> dict[str, Any]:
    """Return what the page has beside its steps: pictures that are shared, segments, colours."""
    frame, middles, colours = walk.frame, draw.middles(walk.result, walk.frame), draw.segment_colours(walk.result)
    segments = [
        {
            "id": s.id,
            "name": walk.result.name(s),
            "color": colours[s.id],
            "score": None if s.score is None else f"{s.score:.2f}",
            "middle": middles.get(s.id),
        }
        for s in walk.result.segments
    ]
    cut = (frame.size[1] / frame.canvas[1], frame.size[0] / frame.canvas[0])
    return {
        "walk": walk,
        "canvas": draw.data_url(draw.jpeg(Image.fromarray(walk.canvas), _PICTURE)),
        "result": draw.data_url(draw.jpeg(draw.drawn_map(walk.result, walk.picture), _PICTURE)),
        "places": draw.data_url(draw.places_png(draw.places_on_canvas(walk.result, frame))),
        "segments": segments,
        "cut": cut,
        "ratio": frame.canvas[1] / frame.canvas[0],
        "cut_ratio": frame.size[1] / frame.size[0],
        "data": {
            "segments": [{key: s[key] for key in ("id", "name", "middle")} for s in segments],
            "cut": cut,
            "scales": {"amounts": _packed(AMOUNTS), "signed": _packed(SIGNED)},
        },
        "gradients": {"amounts": _gradient(AMOUNTS), "signed": _gradient(SIGNED)},
        "tall": _TALL,
        "papers": cited(step.paper for step in walk.steps),
    }


def _packed(scale: Any) -> list[int]:
    return [int(red) << 16 | int(green) << 8 | int(blue) for red, green, blue in scale]


def _gradient(scale: Any) -> str:
    stops = scale[np.linspace(0, len(scale) - 1, 12).round().astype(int)]
    return ", ".join("#{:02x}{:02x}{:02x}".format(*stop) for stop in stops)


def _steps(walk: Walk, views: Mapping[int, dict[str, Any]]) -> list[dict[str, Any]]:
    titles = {step.name: step.title for step in walk.steps}
    rows = []
    for position, step in enumerate(walk.steps, start=1):
        rows.append(
            {
                "step": step,
                "number": position,
                "tensors": [_tensor(labelled) for labelled in step.tensors],
                "groups": _groups([views[id(view)] for view in step.views]),
                "made_from": [(name, titles[name]) for name in step.after],
                "used_in": [(other.name, other.title) for other in walk.steps if step.name in other.after],
                "is_new_chapter": position == 1 or step.chapter != walk.steps[position - 2].chapter,
                "notes": _notes(walk, step),
            }
        )
    return rows


def _notes(walk: Walk, step: Step) -> list[tuple[int, str, str]]:
    return [(s.id, walk.result.name(s), step.notes[s.id]) for s in walk.result.segments if s.id in step.notes]


def _tensor(labelled: Labelled) -> dict[str, Any]:
    tensor = labelled.tensor
    return {
        "name": labelled.name,
        "shape": " × ".join(str(side) for side in tensor.shape) or "one number",
        "axes": list(zip(tensor.shape, labelled.axes, strict=True)),
        "span": _span(tensor),
    }


def _span(tensor: Tensor) -> str:
    """Return the least and the largest number, and how many are none."""
    if not tensor.numel() or tensor.dtype.is_complex:
        return ""
    finite = tensor
    if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
        finite = tensor[tensor.isfinite()]
    lost = tensor.numel() - finite.numel()
    told = f"{draw.number(float(finite.min()))} to {draw.number(float(finite.max()))}" if finite.numel() else ""
    return f"{told}{', ' if told else ''}{lost:,} not finite" if lost else told


def _groups(shown: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return runs of views: many maps stand in small beside each other, of which some are folded away."""
    groups: list[dict[str, Any]] = []
    for entry in shown:
        kind = "wide" if entry["kind"] in _WIDE else "marks" if entry["kind"] == "MarksView" else "large"
        if not groups or groups[-1]["kind"] != kind:
            groups.append({"kind": kind, "shown": [], "folded": []})
        groups[-1]["shown"].append(entry)
    for group in groups:
        views = group["shown"]
        if group["kind"] == "large" and len(views) > _LARGE:
            unfolded = len(views) if len(views) <= _UNFOLDED + 2 else _UNFOLDED
            group.update(kind="small", shown=views[:unfolded], folded=views[unfolded:])
    return groups


# ---- a view as its template needs it


def _shown(walk: Walk, view: View, bound: Bound, drawn: dict[tuple[int, Size, int], dict[str, Any]]) -> dict[str, Any]:
    """Return a view for its template; what was drawn at that size before is taken again."""
    shape = draw.bounded(_cells(view), bound.cells)
    key = (id(view), shape, bound.attention if isinstance(view, AttentionView) else 0)
    if key not in drawn:
        kind = type(view).__name__
        common = {"view": view, "kind": kind, "id": f"view-{len(drawn)}", "scale": "", "unit": "", "remarks": ()}
        drawn[key] = {**common, **_VIEWS[kind](walk, view, shape, bound)}
    return drawn[key]


def _weight(shown: Mapping[str, Any]) -> int:
    return len(shown.get("image", "")) + sum(len(url) for url in shown.get("atlases", {}).values())


def _cells(view: View) -> Size:
    values = view.values if isinstance(view, (MapView, MarksView)) else None
    values = view.pixels if isinstance(view, PixelsView) else values
    return (1, 1) if values is None else (values.shape[0], values.shape[1])


def _map(_: Walk, view: MapView, shape: Size, __: Bound) -> dict[str, Any]:
    remarks = (draw.not_finite(view.values), _made_small(view, shape))
    return {**_level_values(draw.view_levels(view, shape)), "unit": view.unit, "remarks": remarks}


def _level_values(levels: draw.Levels) -> dict[str, Any]:
    scale = "signed" if levels.signed else "amounts"
    return {
        "image": draw.data_url(draw.indexed_png(levels.indices, levels.palette)),
        "shape": levels.indices.shape,
        "low": levels.low,
        "high": levels.high,
        "bounds": (draw.number(levels.low), draw.number(levels.high)),
        "scale": scale,
    }


def _made_small(view: View, shape: Size) -> str:
    whole = _cells(view)
    if whole == shape:
        return ""
    return f"Drawn at {shape[0]} × {shape[1]} of {whole[0]} × {whole[1]} cells, to keep the page small."


def _pixels(walk: Walk, view: PixelsView, shape: Size, _: Bound) -> dict[str, Any]:
    if view.pixels is walk.canvas:
        return {"image": "", "shape": view.pixels.shape[:2]}
    if view.smooth:
        content, made_small = draw.jpeg(Image.fromarray(view.pixels), _PICTURE), ""
    else:
        content, made_small = draw.png(draw.averaged_pixels(view.pixels, shape)), _made_small(view, shape)
    return {"image": draw.data_url(content), "shape": view.pixels.shape[:2], "remarks": (made_small,)}


def _marks(walk: Walk, view: MarksView, shape: Size, _: Bound) -> dict[str, Any]:
    below: dict[str, Any] = {"image": "", "remarks": (draw.lost_marks(view),)}
    if view.values is not None:
        below = _level_values(draw.levels_of(draw.averaged(view.values, shape), 0.0, view.high, signed=False))
        below["remarks"] = (draw.lost_marks(view), draw.not_finite(view.values), _made_small(view, shape))
    marks = [
        {"mark": mark, "is_point": mark.box[0] == mark.box[2] and mark.box[1] == mark.box[3]}
        for mark in draw.drawn_marks(view)
    ]
    used = {mark.color for mark in view.marks}
    classes = tuple(zip(walk.categories.names, walk.categories.colors, strict=True))
    key = [entry for entry in view.key or classes if entry[1] in used]
    return {**below, "marks": marks, "canvas": walk.canvas.shape[:2], "key": key}


def _table(_: Walk, view: TableView, __: Size, ___: Bound) -> dict[str, Any]:
    rows = []
    for row in view.rows:
        cells = [_cell(cell) for cell in row.cells]
        rows.append({"row": row, "cells": cells})
    return {"rows": rows}


def _cell(cell: str | float) -> tuple[str | float, str]:
    """Return a cell, and its text; what is not finite has no bar."""
    text = draw.number(cell) if isinstance(cell, float) else cell
    return (text if isinstance(cell, float) and not np.isfinite(cell) else cell), text


def _matrix(_: Walk, view: MatrixView, __: Size, ___: Bound) -> dict[str, Any]:
    if not view.names:
        return {"rows": []}
    order = draw.group_order(view.groups)
    levels = draw.levels_of(draw.square(view.values, order), view.low, 1.0, signed=view.low < 0)
    groups = [view.groups[row] for row in order]
    blocks = [(groups.index(group), groups.count(group)) for group in dict.fromkeys(groups) if groups.count(group) > 1]
    return {
        **_level_values(levels),
        "unit": view.unit,
        "remarks": (draw.not_finite(view.values),),
        "rows": [(view.names[row], view.row_segments[row]) for row in order],
        "blocks": blocks,
        "names": [view.names[row] for row in order],
    }


def _attention(_: Walk, view: AttentionView, __: Size, bound: Bound) -> dict[str, Any]:
    each = bound.attention // max(1, len(view.maps))
    atlases = {name: draw.attention_atlas(maps, view.grid, each) for name, maps in view.maps.items()}
    first = next(iter(atlases.values()))
    row, column = first.grid[0] // 2, first.grid[1] // 2
    h, w = first.shape
    tile = first.tiles[row * h : (row + 1) * h, column * w : (column + 1) * w]
    largest = first.largest[row * first.grid[1] + column]
    levels = draw.levels_of(tile.astype(np.float32) / 255 * largest, 0.0, largest, signed=False)
    maps = next(iter(view.maps.values()))
    whole = (*view.grid, *maps.shape[1:])
    small = (*first.grid, *first.shape)
    text = "The maps of {} × {} cells with {} × {} each are drawn as {} × {} with {} × {}, to keep the page small."
    return {
        **_level_values(levels),
        "unit": "share of the cell's attention",
        "atlases": {name: draw.data_url(draw.indexed_png(atlas.tiles)) for name, atlas in atlases.items()},
        "data": {
            "grid": first.grid,
            "shape": first.shape,
            "cell": (row, column),
            "largest": {name: [float(f"{v:.4g}") for v in atlas.largest] for name, atlas in atlases.items()},
        },
        "remarks": (_lost_shares(view), "" if whole == small else text.format(*whole, *small)),
    }


def _lost_shares(view: AttentionView) -> str:
    size = sum(maps.size for maps in view.maps.values())
    lost = size - sum(int(np.isfinite(maps).sum()) for maps in view.maps.values())
    return f"Not finite: {lost:,} of {size:,} shares, drawn as 0." if lost else ""


def _result(_: Walk, __: ResultView, ___: Size, ____: Bound) -> dict[str, Any]:
    return {}


_VIEWS: Mapping[str, Callable[[Walk, Any, Size, Bound], dict[str, Any]]] = {
    "MapView": _map,
    "PixelsView": _pixels,
    "MarksView": _marks,
    "TableView": _table,
    "MatrixView": _matrix,
    "AttentionView": _attention,
    "ResultView": _result,
}
"""How each kind of view is made ready; a view of a new kind needs its line here and its macro in the template."""
