"""`weights import` on the authors' recorded weights: the config of the published files, and the recorded maps."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from panoptic_fcn_case import (
    CASES,
    FOLDER,
    Case,
    base_settings,
    in_recorded_format,
    output_as_recorded,
    picture,
    segment_fields,
    translated,
)

from thingstuff import checkpoint
from thingstuff.coco_categories import COCO_PANOPTIC
from thingstuff.config import changed
from thingstuff.importing import import_weights
from thingstuff.models.panoptic_fcn import PanopticFCN
from thingstuff.panoptic_fcn_weights import panoptic_fcn_config, panoptic_fcn_from_authors, panoptic_fcn_outputs

UNTOLD = ("positives", "thing_threshold", "stuff_threshold", "stuff_area", "candidates")
"""Settings that differ between the authors' configs and that weights do not tell."""


@pytest.mark.parametrize(
    ("file", "base"),
    [("keys_r50.json", "PanopticFCN-R50-3x.yaml"), ("keys_r50_star.json", "PanopticFCN-Star-R50-3x.yaml")],
)
def test_published_shapes_tell_the_config(file: str, base: str) -> None:
    if not (FOLDER / file).is_file():
        pytest.skip(f"this folder holds no {file}")
    shapes = json.loads((FOLDER / file).read_text(encoding="utf-8"))
    state = panoptic_fcn_from_authors({key: torch.empty(shape, device="meta") for key, shape in shapes.items()})
    assert panoptic_fcn_outputs(state).categories() == COCO_PANOPTIC
    config = panoptic_fcn_config(state, COCO_PANOPTIC)
    usual = {"backbone.weights": "none", "backbone.res2_channels": 256}  # the same as what is told by the depth alone
    assert changed(config, usual) == translated(base_settings(base))[0]


@pytest.mark.parametrize("case", [c for c in CASES if "inference" in c.blocks], ids=lambda case: case.name)
@torch.no_grad()
def test_an_imported_model_gives_the_recorded_map(case: Case, tmp_path: Path) -> None:
    config, categories = translated(case.settings())
    (tmp_path / "categories.json").write_text(json.dumps(categories.to_coco()), encoding="utf-8")
    settings = {key: getattr(config, key) for key in UNTOLD}
    file = case.folder / f"{case.name}_state.safetensors"
    import_weights(file, tmp_path / "w", tmp_path / "categories.json", settings)
    model = checkpoint.load(tmp_path / "w", "cpu")
    assert isinstance(model, PanopticFCN)
    assert changed(model.config, {"backbone.weights": "none"}) == config
    recorded = case.json["inference"]
    images = in_recorded_format(
        model.pad([picture(case, "inference", "image")], [(recorded["height"], recorded["width"])])
    )
    panoptic = model.merge(model.segments(output_as_recorded(model, images), images)[0])
    theirs = case.file(case.blocks["inference"])["panoptic_seg"].numpy()
    assert np.count_nonzero(panoptic.ids != theirs) <= 2
    ours = [segment_fields(segment, categories) for segment in panoptic.segments]
    for kept in ("category_id", "instance_id"):
        assert [s.get(kept) for s in ours] == [s.get(kept) for s in recorded["segments_info"]]
