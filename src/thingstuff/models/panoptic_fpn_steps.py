"""The steps of Panoptic FPN's walk, from the picture to the final map."""

from thingstuff.feature_views import feature_views
from thingstuff.models.panoptic_fpn import PanopticFPN
from thingstuff.models.panoptic_fpn_box_steps import boxes_step, detections_step, objectness_step, proposals_step
from thingstuff.models.panoptic_fpn_map_steps import merge_step, semantic_step
from thingstuff.models.panoptic_fpn_mask_steps import masks_step
from thingstuff.models.panoptic_fpn_pass import WATCHED, pass_of
from thingstuff.models.pyramid_steps import SEMANTIC_WATCHED, fpn_steps, semantic_fpn_step
from thingstuff.models.pyramid_steps import WATCHED as FPN_WATCHED
from thingstuff.models.shared_steps import backbone_steps, map_axes, picture_step, result_step
from thingstuff.walk import Labelled, Seen, Step
from thingstuff.watching import Watched

PAPER = "Kirillov et al. 2019b (Panoptic FPN), section 3.1"


def watched_modules(model: PanopticFPN) -> tuple[Watched, ...]:
    """Return the modules whose calls the steps read."""
    return (Watched("backbone"), *FPN_WATCHED, *SEMANTIC_WATCHED, *WATCHED)


def panoptic_fpn_steps(model: PanopticFPN, seen: Seen) -> list[Step]:
    """Return the steps of one picture's pass."""
    found = pass_of(model, seen)
    stages = seen.calls["backbone"][0].output
    used = {s: f"It is used again where P{s} of the feature pyramid is made." for s in (2, 3, 4)}
    used[5] = "It is used again where the feature pyramid begins, with P5."
    use = "Boxes are looked for and pooled on it, and the semantic branch reads it."
    return [
        picture_step(model, seen, "Kirillov et al. 2019b (Panoptic FPN), section 4"),
        *backbone_steps(model, stages, seen, used, PAPER),
        *fpn_steps(seen, use, PAPER),
        _coarsest_step(seen),
        objectness_step(found),
        proposals_step(found),
        boxes_step(found),
        detections_step(found),
        masks_step(found),
        semantic_fpn_step(seen, "semantic_fpn", "Stuff", "The stuff of the picture is read from it."),
        semantic_step(found, PAPER),
        merge_step(found),
        result_step(seen, ("merge",), "Things have the first ids by falling score, stuff has the next ones."),
    ]


def _coarsest_step(seen: Seen) -> Step:
    """Return the step of P6, which no layer makes."""
    features = seen.output.pyramid[-1][0].cpu()
    return Step(
        name="p6",
        chapter="The feature pyramid",
        title="P6: every other cell of P5",
        question="Where do the largest things find cells that suit them?",
        text=(
            f"P6 takes every other row and column of P5, so it has {features.shape[1]} × {features.shape[2]} cells at "
            "stride 64, without a layer of its own. Only the largest anchors lie on it; no box is pooled from it."
        ),
        paper="Lin et al. 2017a, section 4.1",
        source="thingstuff.models.panoptic_fpn.PanopticFPN.forward",
        tensors=(Labelled("P6", features, map_axes("channels", 64)),),
        views=feature_views("P6", features, seen.images.frame(0)),
        after=("p5",),
    )
