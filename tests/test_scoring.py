"""`thingstuff evaluate` with a model: every measure from one look, its outputs, and processes that share the work."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import thingstuff as ts
from html_pages import Page
from test_cli import call, refused
from thingstuff import checkpoint, scoring
from thingstuff.config import changed
from thingstuff.data.scenes import SceneConfig, make_scenes
from thingstuff.evaluation.average_precision import InstanceAccumulator
from thingstuff.instances import Instances
from thingstuff.model_evaluation import evaluate_run
from thingstuff.models import create, find
from thingstuff.models.base import PanopticModel

PICTURES = 5
SETTINGS = {
    "preprocess.short_side": 64,
    "backbone.norm": "group",
    "backbone.stem_channels": 8,
    "backbone.res2_channels": 8,
    "encoder_channels": 8,
    "thing_threshold": 0.0,  # what never learned is sure of nothing
    "stuff_threshold": 0.0,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    size = SceneConfig(size=(64, 80))
    return make_scenes(tmp_path_factory.mktemp("scoring") / "data [x]", train=1, val=PICTURES, config=size)


@pytest.fixture(scope="module")
def data(folder: Path) -> ts.CocoPanoptic:
    return ts.CocoPanoptic.open(folder, "val")


@pytest.fixture(scope="module")
def weights(data: ts.CocoPanoptic, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a tiny model that never learned."""
    torch.manual_seed(0)
    preset, _ = find("panoptic-fcn-tiny")
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    checkpoint.save(path, create("panoptic-fcn-tiny", data.categories, changed(preset, SETTINGS)))
    return path


@pytest.fixture(scope="module")
def model(weights: Path) -> PanopticModel:
    return ts.load(weights)


@pytest.fixture(scope="module")
def written(folder: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a command with all outputs writes."""
    out = tmp_path_factory.mktemp("written")
    outputs = ("--json", out / "o.json", "--report", out / "r.html", "--per-picture", out / "p.jsonl")
    assert call("evaluate", folder, "--weights", weights, "--ap", "--boundary", *outputs) == 0
    return out


def test_all_measures_come_from_one_look(written: Path, model: PanopticModel, data: ts.CocoPanoptic) -> None:
    result = json.loads((written / "o.json").read_text())
    by_hand = InstanceAccumulator(data.categories)
    found: dict[int, Instances] = {}
    pictures = [data.picture(i) for i in range(PICTURES)]
    predictions = model.predict_with_instances(pictures, found.__setitem__)
    truths = [data.panoptic(i) for i in range(PICTURES)]
    for i, truth in enumerate(truths):
        by_hand.add_truth(data.records[i].image_id, truth)
        by_hand.add(data.records[i].image_id, found[i])
    ap = by_hand.result()
    assert sum(c.instances for c in ap.per_class) > 0
    assert result["ap"] == json.loads(json.dumps(ap.to_json()))
    assert (result["pictures"], result["total_pictures"]) == (PICTURES, PICTURES)
    plain = ts.evaluate(truths, predictions, boundary=True)
    assert ts.Evaluation.from_json(result).pq == plain.pq
    assert ts.Evaluation.from_json(result).boundary == plain.boundary
    assert result["semantic"] == json.loads(json.dumps(plain.semantic.to_json()))
    assert sum(map(len, (p.segments for p in predictions))) > 0


def test_each_picture_has_its_line_under_its_own_id(written: Path, data: ts.CocoPanoptic) -> None:
    lines = [json.loads(line) for line in (written / "p.jsonl").read_text().splitlines()]
    assert [line["image_id"] for line in lines] == [record.image_id for record in data.records]
    result = json.loads((written / "o.json").read_text())
    missed = sum(c["fn"] for line in lines for c in line["classes"])
    assert missed == sum(c["fn"] for c in result["per_class"])


def test_the_report_shows_the_worst_pictures(written: Path, data: ts.CocoPanoptic) -> None:
    page = Page(written / "r.html")
    worst = json.loads((written / "o.json").read_text())["errors"]["worst"]
    names = {record.image_id: record.file_name for record in data.records}
    captions = [image["alt"] for image in page.all("img") if (image["alt"] or "").startswith("Picture of")]
    assert captions == [f"Picture of {names[row['image_id']]}" for row in worst]
    assert len(captions) > 1
    assert "--ap --boundary" in " ".join(page.text["again"].split())
    assert "AP50" in page.text["result"]


def test_settings_change_the_model_and_a_split_is_named(
    folder: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        call("evaluate", folder, "--weights", weights, "--set", "thing_threshold=1", "--split", "train", "--why") == 0
    )
    text = capsys.readouterr().out
    assert text.splitlines()[0] == "1 picture"
    assert "The worst pictures" in text
    sure = evaluate_run(weights, str(folder), "train", changes={"thing_threshold": 1.0}, ap=True)
    assert sure.pictures == 1
    assert sure.ap is not None
    assert sure.ap.ap == 0
    assert sum(c.instances for c in sure.ap.per_class) == 0
    assert "thing_threshold" in refused(capsys, "evaluate", folder, "--weights", weights, "--set", "thing_treshold=1")
    assert "test" in refused(capsys, "evaluate", folder, "--weights", weights, "--split", "test")


def test_weights_of_other_classes_are_refused_before_anything_is_predicted(
    folder: Path,
    data: ts.CocoPanoptic,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = ("other [/x]", *data.categories.names[1:])
    other = ts.Categories(names, data.categories.things, data.categories.ids)
    checkpoint.save(tmp_path / "w.safetensors", create("panoptic-fcn-tiny", other))
    monkeypatch.setattr(PanopticModel, "predict", lambda *_, **__: pytest.fail("a picture was predicted"))
    command = ("evaluate", folder, "--weights", tmp_path / "w.safetensors", "--per-picture", tmp_path / "p.jsonl")
    message = refused(capsys, *command)
    assert f"the data lack other [/x]; the weights lack {data.categories.names[0]}" in message
    assert not (tmp_path / "p.jsonl").exists()


def guess(picture: Any) -> np.ndarray:
    """Make ids of a picture's colours: something that differs from picture to picture and not by its company."""
    return (np.asarray(picture, np.int32).sum(axis=2) // 120).astype(np.int32)


def test_processes_that_share_a_split_give_what_one_gives(
    model: PanopticModel, data: ts.CocoPanoptic, monkeypatch: pytest.MonkeyPatch
) -> None:
    def predict(pictures: list[Any], batch_size: int = 8) -> list[ts.Panoptic]:
        found = []
        for ids in map(guess, pictures):
            segments = [
                ts.Segment(int(i), int(i) % len(data.categories), int((ids == i).sum())) for i in np.unique(ids)
            ]
            found.append(ts.Panoptic(ids, tuple(s for s in segments if s.id), data.categories))
        return found

    monkeypatch.setattr(model, "predict", predict)
    one = scoring.evaluate_model(model, data, batch_size=1, boundary=True)
    assert one.pictures == PICTURES
    shares: list[list[Any]] = []

    def keep(share: list[Any]) -> list[Any]:
        shares.append(share)
        return share

    monkeypatch.setattr(scoring, "gather_object", keep)
    for rank in (0, 1, 2):
        scoring.evaluate_model(model, data, accelerator=accelerator(rank, 3), batch_size=1, boundary=True)
    assert [len(share) for share in shares] == [2, 2, 1]
    monkeypatch.setattr(scoring, "gather_object", lambda _: [entry for share in shares for entry in share])
    for rank in (0, 1, 2):
        shared = scoring.evaluate_model(model, data, accelerator=accelerator(rank, 3), batch_size=1, boundary=True)
        assert shared.to_json() == one.to_json()
        assert shared.sums is not None
        assert one.sums is not None
        assert np.array_equal(shared.sums.keys(), one.sums.keys())


def accelerator(rank: int, processes: int) -> Any:
    """What `evaluate_model` asks of accelerate's."""
    from accelerate import Accelerator

    found = Accelerator.__new__(Accelerator)
    found.state = SimpleNamespace(process_index=rank, num_processes=processes)
    return found


def test_more_processes_than_pictures(
    model: PanopticModel, data: ts.CocoPanoptic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "gather_object", lambda share: share)
    idle = scoring.evaluate_model(model, data, accelerator=accelerator(PICTURES, PICTURES + 1))
    assert idle.pictures == 0


def test_progress_counts_pictures(model: PanopticModel, data: ts.CocoPanoptic) -> None:
    told: list[tuple[int, int]] = []
    scoring.evaluate_model(model, data, progress=lambda done, total: told.append((done, total)), batch_size=1)
    assert told == [(4, PICTURES), (PICTURES, PICTURES)]


def test_positions_are_spread_over_a_split() -> None:
    assert scoring.spread(10, 4) == [0, 3, 6, 9]
    assert scoring.spread(2, 4) == [0, 1]
    assert scoring.spread(0, 4) == []
