"""The main road on the small real data sets beside the checkout (skipped where they are not there)."""

import json
from pathlib import Path

import pytest

from test_cli import call
from thingstuff.data.coco import CocoPanoptic

NARROW = ["backbone.stem_channels=8", "backbone.res2_channels=8", "encoder_channels=8", "preprocess.short_side=64"]


def test_cocos_own_annotations_score_100_against_themselves(shared_data: Path, tmp_path: Path) -> None:
    file = shared_data / "coco_panoptic_samples" / "panoptic_val.json"
    for more in ((), ("--like-panopticapi",)):
        out = tmp_path / f"{len(more)}.json"
        assert call("evaluate", "--gt", file, "--pred", file, "--json", out, *more) == 0
        scores = json.loads(out.read_text())
        assert [scores[part]["pq"] for part in ("all", "things", "stuff")] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("name", ["coco_things_openlicence_mini", "fruits_nuts", "camvid_panoptic_mini"])
def test_real_pictures_train_and_evaluate(shared_data: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "run"
    steps = ("steps=2", "batch_size=2", "evaluate_every=2", *NARROW)
    assert call("train", shared_data / name, "--model", "panoptic-fcn-tiny", "--out", out, *steps) == 0
    assert call("evaluate", shared_data / name, "--weights", out, "--json", tmp_path / "scores.json") == 0
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores == json.loads((out / "result.json").read_text())
    assert scores["pictures"] == len(CocoPanoptic.open(shared_data / name, "val"))
