"""The step in which Panoptic FPN's detections get their masks."""

import torch
from torch import Tensor

from thingstuff.models.panoptic_fpn_heads import LEVELS
from thingstuff.models.panoptic_fpn_pass import Pass, cells_in_box
from thingstuff.models.pyramid_steps import level_steps
from thingstuff.models.shared_steps import COLUMNS, ROWS, counted
from thingstuff.walk import Labelled, MapView, Row, Step, TableView, View, picture_array


def masks_step(found: Pass) -> Step:
    """Return the step in which each detection gets its mask, and that its place on the canvas."""
    c, seen, count = found.model.config, found.seen, len(found.masks)
    pasted = seen.segments.masks[:count].cpu()
    highest = pasted.amax(0) if count else torch.zeros(seen.segments.masks.shape[1:])
    views: list[View] = [
        MapView(
            title="The highest of all masks",
            caption=f"{counted(count, 'mask', 'masks')}, each in its box.",
            values=picture_array(highest),
            unit="probability",
            low=0.0,
            high=1.0,
        )
    ]
    for row, name in found.final.items():
        views += _mask_views(found, row, name)
    cells = found.masks.shape[-1]
    return Step(
        name="masks",
        chapter="Boxes",
        title="A mask for each detection",
        question="How does a box become a mask with an outline?",
        text=(
            f"The refined box is pooled once more, from the level that suits it, to {cells // 2} × {cells // 2} cells. "
            f"{counted(c.mask_convs, 'convolution', 'convolutions')} and one that doubles both sides make a mask of "
            f"{cells} × {cells} cells for each class; that of the detection's own class is taken. Resized to the box "
            f"it lies on a map of {highest.shape[0]} × {highest.shape[1]} cells that covers the canvas, zero outside "
            f"the box. There are {counted(count, 'mask', 'masks')} here."
        ),
        paper="He et al. 2017 (Mask R-CNN), section 3 and figure 4",
        source="thingstuff.models.panoptic_fpn_pasting.paste",
        tensors=(
            Labelled("masks", found.masks, ("detections", "rows of the box", "columns of the box")),
            Labelled("pasted", pasted, ("detections", ROWS.format(c.mask_stride), COLUMNS.format(c.mask_stride))),
        ),
        views=(*views, _mask_table(found)),
        after=("detections", *level_steps(LEVELS[:-1])),
        layers=("roi_heads.mask_head.", "roi_heads.mask_predictor."),
        notes={name: _mask_note(found, row) for row, name in found.final.items()},
    )


def _mask_note(found: Pass, row: int) -> str:
    mask = found.masks[row]
    above = int((mask > found.model.config.mask_threshold).sum())
    return (
        f"{above} of the {mask.numel()} cells of its mask are above {found.model.config.mask_threshold:g}; "
        f"the surest has {float(mask.max()):.2f}."
    )


def _mask_views(found: Pass, row: int, name: int) -> tuple[MapView, MapView]:
    d, pasted = found.detections, found.seen.segments.masks[row].cpu()
    pair, cells = int(d.kept[row]), found.masks.shape[-1]
    shape = (int(pasted.shape[0]), int(pasted.shape[1]))
    own = cells_in_box(found.masks[row], d.boxes_xyxy[pair], shape, found.model.config.mask_stride)
    thing = f"{found.name(pair)} {name}"
    return (
        _probability_view(f"{thing}: {cells} × {cells} cells in its box", own, name),
        _probability_view(f"{thing}: resized", pasted, name),
    )


def _probability_view(title: str, values: Tensor, name: int) -> MapView:
    return MapView(title=title, segments=(name,), values=picture_array(values), unit="probability", low=0.0, high=1.0)


def _mask_table(found: Pass) -> TableView:
    d, rows = found.detections, []
    for row, pair in enumerate(d.kept.tolist()):
        mask = found.masks[row]
        inside = (mask > found.model.config.mask_threshold).float()
        segments = (found.final[row],) if row in found.final else ()
        cells = (found.name(pair), float(d.scores[pair]), float(inside.mean()), float(mask.max()))
        rows.append(Row(cells, bool(segments), segments))
    return TableView(
        title="The mask of each detection",
        caption="Those that are in the final map stand out.",
        columns=("class", "score", "share of its box above the threshold", "surest cell"),
        rows=tuple(rows),
    )
