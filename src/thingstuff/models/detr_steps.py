"""The order of DETRPanoptic's walk, and which modules its steps read."""

from thingstuff.models.detr import DETRPanoptic
from thingstuff.models.detr_answer_steps import boxes_step, class_scores_step
from thingstuff.models.detr_attention_steps import (
    attention_maps_step,
    decoder_step,
    encoded_image_step,
    encoder_attention_step,
)
from thingstuff.models.detr_input_steps import positions_step, projection_step, queries_step
from thingstuff.models.detr_kept_queries import DETRPass, pass_of
from thingstuff.models.detr_mask_head import STAGES
from thingstuff.models.detr_mask_steps import entry_step, join_step, logits_step
from thingstuff.models.detr_merging_steps import argmax_step, merging_step
from thingstuff.models.shared_steps import backbone_steps, picture_step, result_step
from thingstuff.walk import Seen, Step
from thingstuff.watching import Watched


def watched_modules(model: DETRPanoptic) -> tuple[Watched, ...]:
    """Return the modules whose calls the steps read."""
    last = len(model.encoder.layers) - 1
    attention = dict.fromkeys(f"encoder.layers.{layer}.self_attention" for layer in (0, last))
    decoder = f"decoder.layers.{len(model.decoder.layers) - 1}.cross_attention"
    norms = (f"mask_head.norms.{i}" for i in range(len(model.mask_head.norms)))
    given = (Watched(name, inputs=True, output=False) for name in ("encoder", *attention, decoder))
    return (Watched("backbone"), *given, *map(Watched, ("attention_maps", *norms)))


def detr_steps(model: DETRPanoptic, seen: Seen) -> list[Step]:
    """Return the steps of one picture's pass."""
    p = pass_of(model, seen)
    stages = seen.calls["backbone"][0].output
    return [
        picture_step(model, seen, "Carion et al. 2020, section 4 and appendix A.4"),
        *backbone_steps(model, stages, seen, _used(p), "Carion et al. 2020, section 3.2"),
        projection_step(p),
        positions_step(p),
        encoder_attention_step(p),
        encoded_image_step(p),
        queries_step(p),
        decoder_step(p),
        class_scores_step(p),
        boxes_step(p),
        attention_maps_step(p),
        entry_step(p),
        *(join_step(p, stage) for stage in STAGES),
        logits_step(p),
        argmax_step(p),
        merging_step(p),
        result_step(
            seen,
            ("merging", "class_scores"),
            "Ids count the segments that are left in the order of their queries; a score is the query's class "
            "probability, areas are counted at the size of the picture.",
        ),
    ]


def _used(p: DETRPass) -> dict[int, str]:
    """Return where each ResNet stage is used again."""
    d = p.model.config.hidden
    used = {
        stage: (
            f"It is used again late: a 1 × 1 convolution (an adapter) brings it to {width} channels, and the mask head "
            f"adds it to every kept query's features (step join_res{stage})."
        )
        for stage, width in ((4, d // 2), (3, d // 4), (2, d // 8))
    }
    used[5] = f"A 1 × 1 convolution brings it to {d} channels next; from there the encoder and the mask head take it."
    return used
