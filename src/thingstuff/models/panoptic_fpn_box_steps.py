"""The steps from Panoptic FPN's pyramid to boxes: anchors and objectness, proposals, pooled boxes, detections.

Letters: A anchors of a cell, P proposals, T classes (0: none), h w a level's map.
"""

import torch
from torch import Tensor
from torchvision.ops import box_area

from thingstuff.feature_views import energy
from thingstuff.models.panoptic_fpn import PanopticFPN
from thingstuff.models.panoptic_fpn_choices import BEYOND, KEPT, OVERLAPPED, SMALL, pooled_levels
from thingstuff.models.panoptic_fpn_heads import BOX_CELLS, LEVELS
from thingstuff.models.panoptic_fpn_pass import (
    LEVEL_COLORS,
    LEVEL_KEY,
    Pass,
    cells_in_box,
    truth_views,
    xyxy,
)
from thingstuff.models.panoptic_fpn_targets import without_ignored
from thingstuff.models.pyramid_steps import level_steps
from thingstuff.models.shared_steps import COLUMNS, ROWS, best_and_final, counted
from thingstuff.walk import Labelled, MapView, Mark, MarksView, Row, Step, TableView, View, picture_array

DRAWN = 40
"""Most boxes of a view, besides those that final segments came from."""
LISTED = 60
"""Most rows of a table, likewise."""
CHAPTER = "Boxes"


def objectness_step(found: Pass) -> Step:
    """Return the step in which every anchor is asked whether it is on a thing."""
    model, output, c = found.model, found.seen.output, found.model.config
    of_level = {level: maps[0].cpu() for level, maps in zip(LEVELS, output.objectness, strict=True)}
    anchors = sum(maps.numel() for maps in of_level.values())
    views: list[View] = [
        MapView(
            title=f"P{level}: the best anchor of each cell",
            caption=f"Anchors of about {side} × {side} pixels.",
            values=picture_array(maps.sigmoid().amax(0)),
            unit="probability that an anchor of the cell is on a thing",
            low=0.0,
            high=1.0,
        )
        for (level, maps), side in zip(of_level.items(), c.anchor_sizes, strict=True)
    ]
    rows = [
        Row((f"P{level}", f"{2**level}", f"{side}", f"{maps.numel():,}", float(maps.max().sigmoid())))
        for (level, maps), side in zip(of_level.items(), c.anchor_sizes, strict=True)
    ]
    columns = ("level", "stride", "side of the square anchor", "anchors", "highest objectness")
    if truth := _anchor_truth(found):
        views = [view for pair in zip(views, truth, strict=True) for view in pair]
    views.append(TableView(title="Anchors of each level", columns=columns, rows=tuple(rows)))
    ratios = ", ".join(f"{ratio:g}" for ratio in c.anchor_ratios)
    return Step(
        name="objectness",
        chapter=CHAPTER,
        title="Anchors, and how likely each is on a thing",
        question="Where could a thing be, and of which size?",
        text=(
            f"Every cell of P2 to P6 has {counted(len(c.anchor_ratios), 'anchor', 'anchors')}: boxes set beforehand "
            f"around its top left corner, of height / width {ratios}. The same small head, a 3 × 3 and a 1 × 1 "
            f"convolution, gives each of the {anchors:,} anchors of all levels a number: its objectness, how likely it "
            "lies on some thing."
        ),
        paper="Ren et al. 2015 (Faster R-CNN), section 3.1; Lin et al. 2017a, section 4.1",
        source="thingstuff.models.panoptic_fpn.PanopticFPN.anchors",
        tensors=tuple(
            Labelled(f"P{level}", maps, ("anchors of a cell, logits", ROWS.format(2**level), COLUMNS.format(2**level)))
            for level, maps in of_level.items()
        ),
        views=tuple(views),
        after=level_steps(LEVELS),
        layers=("rpn.head.conv.", "rpn.head.cls_logits."),
        notes={name: f"It was found from {_origin(found, row, model)}." for row, name in found.final_of_pair.items()},
    )


def _origin(found: Pass, pair: int, model: PanopticFPN) -> str:
    source = found.proposals.kept[found.detections.proposals[pair]]
    level, objectness = int(found.proposals.levels[source]), float(found.proposals.objectness[source])
    side = model.config.anchor_sizes[level - LEVELS[0]]
    return f"an anchor of P{level} (of about {side} × {side} pixels) with objectness {objectness:.2f}"


def _anchor_truth(found: Pass) -> list[MapView]:
    """Return for each level the cells with an anchor that ground truth holds to be on a thing."""
    if found.truth is None:
        return []
    output, anchors = found.seen.output, found.model.anchors(found.seen.output)
    whole = [torch.cat(anchors)]
    labels, _ = found.model.rpn.assign_targets_to_anchors(whole, [{"boxes": found.truth.boxes_xyxy}])
    (known,) = without_ignored(labels, whole, [found.truth])
    views, start = [], 0
    for level, maps, own in zip(LEVELS, output.objectness, anchors, strict=True):
        of_level = known[start : start + len(own)].view(*maps.shape[-2:], -1)
        start += len(own)
        views.append(
            MapView(
                title=f"P{level}: ground truth",
                caption="1 where an anchor of the cell overlaps a thing enough to be learned as one.",
                values=picture_array(of_level.amax(-1).clamp(min=0)),
                unit="cells with an anchor on a thing",
                low=0.0,
                high=1.0,
            )
        )
    return views


def proposals_step(found: Pass) -> Step:
    """Return the step in which the best anchors are moved onto things and thinned out."""
    p, c = found.proposals, found.model.config
    boxes, objectness, levels = p.boxes_xyxy.cpu(), p.objectness[p.kept].cpu(), p.levels[p.kept].tolist()
    drawn = best_and_final(len(boxes), DRAWN, found.final_of_proposal)
    marks = tuple(
        Mark(
            xyxy(boxes[row]),
            f"P{levels[row]} {objectness[row]:.2f}",
            LEVEL_COLORS[levels[row]],
            segments=found.final_of_proposal.get(row, ()),
        )
        for row in drawn
    )
    removed = int((p.fates == OVERLAPPED).sum())
    view = MarksView(
        title="Proposals",
        key=LEVEL_KEY,
        caption=f"The best {min(DRAWN, len(boxes))} of {len(boxes):,}, and those that final segments came from; "
        "the colour is the level of the anchor.",
        marks=marks,
    )
    return Step(
        name="proposals",
        chapter=CHAPTER,
        title="Proposals: the best anchors, moved and thinned out",
        question="How do so many anchors become a few boxes worth a look?",
        text=(
            f"Four more numbers an anchor move its centre and stretch its sides. The best of each level, at most "
            f"{c.proposals_predicted:,}, are {len(p.likely):,} boxes here. From the best down, each that overlaps a "
            f"better one of its level by an IoU above {c.proposal_overlap:g} is removed: {removed:,} boxes. Of the "
            f"rest at most {c.proposals:,} stay: {counted(len(boxes), 'proposal', 'proposals')}, without a class yet."
        ),
        paper="Ren et al. 2015 (Faster R-CNN), sections 3.1 and 3.3",
        source="thingstuff.models.panoptic_fpn.PanopticFPN.likely_boxes",
        tensors=(
            Labelled("proposals", boxes, ("proposals", "x0, y0, x1, y1 in pixels of the canvas")),
            Labelled("boxes of the best anchors", p.likely.cpu(), ("boxes", "x0, y0, x1, y1")),
            Labelled("their objectness", p.objectness.cpu(), ("boxes",)),
        ),
        views=(view, _proposal_table(found), *truth_views(found)),
        after=("objectness",),
        layers=("rpn.head.bbox_pred.",),
        notes={
            name: f"Its proposal, {_size(boxes[row])} from P{levels[row]}, is number {row + 1} of {len(boxes):,}."
            for row, names in found.final_of_proposal.items()
            for name in names
        },
    )


def _proposal_table(found: Pass) -> TableView:
    p, rows = found.proposals, []
    for level, maps in zip(LEVELS, found.seen.output.objectness, strict=True):
        own = p.fates[p.levels == level]
        counts = [int((own == fate).sum()) for fate in (SMALL, OVERLAPPED, BEYOND, KEPT)]
        rows.append(Row((f"P{level}", *(f"{n:,}" for n in (maps[0].numel(), len(own), *counts)))))
    columns = ("level", "anchors", "best taken", "outside", "near a better one", "beyond the limit", "proposals")
    return TableView(title="What became of the anchors", columns=columns, rows=tuple(rows))


def boxes_step(found: Pass) -> Step:
    """Return the step in which each proposal is pooled, classified and refined."""
    c, boxes = found.model.config, found.proposals.boxes_xyxy
    levels = pooled_levels(found.model.roi_heads, boxes).tolist()
    drawn = best_and_final(len(boxes), DRAWN, found.final_of_proposal)
    marks = tuple(
        Mark(
            xyxy(boxes[row]),
            f"from P{levels[row]}",
            LEVEL_COLORS[levels[row]],
            segments=found.final_of_proposal.get(row, ()),
        )
        for row in drawn
    )
    views: list[View] = [MarksView(title="Which level each box is pooled from", marks=marks, key=LEVEL_KEY)]
    views += [_pool_table(found, levels), _class_table(found, levels), *_pooled_views(found)]
    return Step(
        name="boxes",
        chapter=CHAPTER,
        title="Each proposal is pooled, classified and refined",
        question="From where are the features of a box taken, and what is made of them?",
        text=(
            f"A box is cut out of the level that suits its size: of {c.canonical_size} pixels a side and more from P4, "
            f"of half that from P3, of twice that from P5. Whatever its size, it is sampled at {BOX_CELLS} × "
            f"{BOX_CELLS} cells. Two fully connected layers of {c.box_channels:,} numbers make of them a score for "
            f"each of {counted(found.classes, 'class', 'classes')} and for none, and for each class a "
            f"correction of the box. That is done {len(boxes):,} times here."
        ),
        paper="Lin et al. 2017a, section 4.2 and equation 1; He et al. 2017 (Mask R-CNN), section 3",
        source="thingstuff.models.panoptic_fpn.PanopticFPN.pooled",
        tensors=(
            Labelled("class logits", found.logits, ("proposals", "classes of things, none first")),
            Labelled("corrections", found.deltas, ("proposals", "classes × (x, y, width, height)")),
        ),
        views=tuple(views),
        after=("proposals", *level_steps(LEVELS[:-1])),
        layers=("roi_heads.box_head.", "roi_heads.box_predictor."),
        notes={
            name: f"Its proposal of {_size(boxes[row])} is pooled from P{levels[row]}."
            for row, names in found.final_of_proposal.items()
            for name in names
        },
    )


def _pool_table(found: Pass, levels: list[int]) -> TableView:
    rows, side = [], found.model.config.canonical_size
    for level in LEVELS[:-1]:
        low, high = side * 2.0 ** (level - 4), side * 2.0 ** (level - 3)
        sizes = f"from {low:g}" if level == 5 else f"{low:g} to {high:g}" if level > 2 else f"below {high:g}"
        rows.append(Row((f"P{level}", sizes, f"{levels.count(level):,}")))
    columns = ("level", "√(width × height) in pixels", "boxes pooled")
    return TableView(title="Boxes pooled from each level", columns=columns, rows=tuple(rows))


def _class_table(found: Pass, levels: list[int]) -> TableView:
    shares, rows = found.logits.softmax(-1), []
    labels = found.model.categories.thing_labels
    for row in best_and_final(len(shares), DRAWN // 2, found.final_of_proposal):
        best = int(shares[row, 1:].argmax()) if len(labels) else 0
        likely = (found.model.categories.names[labels[best]], float(shares[row, 1 + best])) if labels else ("", 0.0)
        segments = found.final_of_proposal.get(row, ())
        rows.append(Row((f"{row + 1}", f"P{levels[row]}", float(shares[row, 0]), *likely), bool(segments), segments))
    return TableView(
        title="What the head says of the best proposals",
        caption="And of those that final segments came from; the others are grey.",
        columns=("proposal", "pooled from", "none", "likeliest class", "its probability"),
        rows=tuple(rows),
    )


def _pooled_views(found: Pass) -> list[MapView]:
    """Return what the box head was given of each final thing, in its place."""
    rows, names = list(found.final_of_pair), list(found.final_of_pair.values())
    boxes = found.proposals.boxes_xyxy[found.detections.proposals[rows]]
    stride = found.model.config.mask_stride
    shape = (found.seen.images.canvas[0] // stride, found.seen.images.canvas[1] // stride)
    pooled = found.model.pooled(found.model.roi_heads.box_roi_pool, found.seen.output, [boxes])
    return [
        MapView(
            title=f"What the head is given of the box of {found.name(row)} {name}",
            caption=f"{len(features)} numbers for each of {BOX_CELLS} × {BOX_CELLS} cells; their strength.",
            segments=(name,),
            values=picture_array(cells_in_box(energy(features).cpu(), box, shape, stride)),
            unit="root mean square over channels",
            low=0.0,
        )
        for row, name, features, box in zip(rows, names, pooled, boxes, strict=True)
    ]


def detections_step(found: Pass) -> Step:
    """Return the step in which sure boxes are kept and doubles removed, class by class."""
    d, c = found.detections, found.model.config
    pairs, removed, kept = len(found.logits) * found.classes, int((d.fates == OVERLAPPED).sum()), len(d.kept)
    ious = _moved(found).tolist()
    return Step(
        name="detections",
        chapter=CHAPTER,
        title="Detections: sure boxes, without doubles",
        question="Which boxes are dropped, and why?",
        text=(
            f"Each proposal gives one refined box for each class, {pairs:,} in all. {len(d.scores):,} of them score "
            f"above {c.detection_score:g}. Of boxes of one class that overlap by an IoU above {c.detection_overlap:g} "
            f"the best stays, which removes {removed:,}; of the rest at most {c.detections}. "
            f"{counted(kept, 'detection is', 'detections are')} left."
        ),
        paper="Girshick 2015 (Fast R-CNN), section 3; He et al. 2017 (Mask R-CNN), section 3.1",
        source="thingstuff.models.panoptic_fpn.PanopticFPN.segments",
        tensors=(
            Labelled("boxes", d.boxes_xyxy[d.kept].cpu(), ("detections", "x0, y0, x1, y1 in pixels of the canvas")),
            Labelled("scores", d.scores[d.kept].cpu(), ("detections",)),
            Labelled("refined boxes", d.refined.cpu(), ("proposals", "classes of things", "x0, y0, x1, y1")),
            Labelled("their scores", found.logits.softmax(-1)[:, 1:], ("proposals", "classes of things")),
        ),
        views=(*_detection_marks(found), _thinning_table(found), _pair_table(found, ious), *truth_views(found)),
        after=("proposals", "boxes"),
        notes={
            name: f"It scores {d.scores[row]:.2f}. The refined box and its proposal have an IoU of {ious[row]:.2f}."
            for row, name in found.final_of_pair.items()
        },
    )


def _moved(found: Pass) -> Tensor:
    """Return the IoU of each pair's refined box with its proposal."""
    own, proposals = found.detections.boxes_xyxy, found.proposals.boxes_xyxy[found.detections.proposals]
    inner = (torch.minimum(own[:, 2:], proposals[:, 2:]) - torch.maximum(own[:, :2], proposals[:, :2])).clamp(min=0)
    shared = inner.prod(1)
    iou: Tensor = shared / (box_area(own) + box_area(proposals) - shared).clamp(min=1e-6)
    return iou


def _detection_marks(found: Pass) -> tuple[MarksView, MarksView]:
    d, colors = found.detections, found.model.categories.colors
    rows = best_and_final(len(d.scores), 2 * DRAWN, found.final_of_pair)
    marks = [
        Mark(
            xyxy(d.boxes_xyxy[row]),
            f"{found.name(row)} {d.scores[row]:.2f}",
            colors[found.label(row)],
            int(d.fates[row]) == KEPT,
            (found.final_of_pair[row],) if row in found.final_of_pair else (),
        )
        for row in rows
    ]
    before = f"The best {len(rows)} of {len(d.scores):,} boxes that score enough; those that go are not solid."
    return (
        MarksView(title="Before doubles are removed", caption=before, marks=tuple(marks)),
        MarksView(title="What is left", marks=tuple(mark for mark in marks if mark.kept)),
    )


def _thinning_table(found: Pass) -> TableView:
    d, categories = found.detections, found.model.categories
    rows = []
    for place, label in enumerate(categories.thing_labels, start=1):
        own = d.fates[d.labels == place]
        counts = [int((own == fate).sum()) for fate in (OVERLAPPED, SMALL, BEYOND, KEPT)]
        if len(own):
            rows.append(Row((categories.names[label], *(f"{n:,}" for n in (len(own), *counts)))))
    columns = ("class", "score enough", "doubles", "without area", "beyond the limit", "left")
    return TableView(title="Boxes of each class", columns=columns, rows=tuple(rows))


def _pair_table(found: Pass, ious: list[float]) -> TableView:
    d, rows = found.detections, []
    why = {KEPT: "kept", SMALL: "without area in the picture", BEYOND: "beyond the limit"}
    for row in best_and_final(len(d.scores), LISTED, found.final_of_pair):
        fate = int(d.fates[row])
        reason = why.get(fate, f"IoU {d.overlaps[row]:.2f} with a better {found.name(row)}")
        cells = (found.name(row), float(d.scores[row]), f"{int(d.proposals[row]) + 1}", f"{ious[row]:.2f}", reason)
        segments = (found.final_of_pair[row],) if row in found.final_of_pair else ()
        rows.append(Row(cells, fate == KEPT, segments))
    return TableView(
        title="Detections, and what was removed",
        columns=("class", "score", "of proposal", "IoU with it", "what became of it"),
        rows=tuple(rows),
    )


def _size(box: Tensor) -> str:
    return f"{float(box[2] - box[0]):.0f} × {float(box[3] - box[1]):.0f} pixels"
