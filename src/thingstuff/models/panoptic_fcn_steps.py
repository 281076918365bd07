"""The steps of PanopticFCN's walk, in the order of the pass."""

from dataclasses import replace

from thingstuff.models.panoptic_fcn import PanopticFCN
from thingstuff.models.panoptic_fcn_kernel_steps import fused_step, gathered_step, kernel_maps_step
from thingstuff.models.panoptic_fcn_mask_steps import encoded_step, high_resolution_step, masks_step
from thingstuff.models.panoptic_fcn_merge_steps import merged_step, rescored_step
from thingstuff.models.panoptic_fcn_position_steps import centres_step, peaks_step, regions_step
from thingstuff.models.panoptic_fcn_trace import trace
from thingstuff.models.pyramid_steps import SEMANTIC_WATCHED, WATCHED, fpn_steps
from thingstuff.models.shared_steps import backbone_steps, picture_step, result_step
from thingstuff.walk import Seen, Step
from thingstuff.watching import Watched


def watched_modules(model: PanopticFCN) -> tuple[Watched, ...]:
    """Return the modules whose calls the steps read."""
    semantic = SEMANTIC_WATCHED if model.config.feature_type == "semantic" else ()
    return (Watched("backbone"), *WATCHED, *semantic, Watched("feature_encoder", inputs=True, output=False))


def panoptic_fcn_steps(model: PanopticFCN, seen: Seen) -> list[Step]:
    """Return the steps of one picture's pass."""
    stages = seen.calls["backbone"][0].output
    used = {
        stage: f"The feature pyramid takes it up: P{stage} is made of it, and of what lies above."
        for stage in (2, 3, 4)
    }
    used[5] = "The feature pyramid begins here: P5 is made of it alone, and every other level of it too."
    last = model.levels[-1]
    feature = (
        "P2 is the feature that masks are made of" if model.config.feature_type == "p2" else "P2 to P5 are added up"
    )
    use = f"P{model.levels[0]} to P{last} are searched for things and stuff; {feature}."
    seen_by = "Li et al. 2021, section 4.1"
    steps = [
        _picture_step(model, seen),
        *backbone_steps(model, stages, seen, used, seen_by),
        *fpn_steps(seen, use, seen_by),
    ]
    of = trace(model, seen)
    steps += [centres_step(of), peaks_step(of), regions_step(of)]
    steps += [kernel_maps_step(of), gathered_step(of), fused_step(of)]
    steps += [high_resolution_step(of), encoded_step(of), masks_step(of), rescored_step(of), merged_step(of)]
    return [*steps, result_step(seen, ("merged",), "Things got the first ids by falling score, then stuff by class.")]


def _picture_step(model: PanopticFCN, seen: Seen) -> Step:
    """Return the first step; where the mirrored picture is looked at too, it says so."""
    step = picture_step(model, seen, "Li et al. 2021, section 4.1")
    if not model.config.flip:
        return step
    told = "The network looks at it mirrored too (flip); the steps show its own view, and masks are the mean of both."
    return replace(step, text=f"{step.text} {told}")
