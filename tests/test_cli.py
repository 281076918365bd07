"""The command as a person uses it: the main road, and every wrong turn with its message."""

import json
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import thingstuff as ts
from html_pages import Page
from thingstuff.cli import main
from thingstuff.config import parse_overrides
from thingstuff.data.scenes import SceneConfig, make_scenes
from thingstuff.runs import command_of, read_config

SMALL = ["steps=2", "batch_size=2", "workers=0", "evaluate_every=2", "augment.short_sides=[64]"]
SMALL += ["preprocess.short_side=64", "backbone.stem_channels=8", "backbone.res2_channels=8", "encoder_channels=8"]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_scenes(tmp_path_factory.mktemp("cli") / "data", train=4, val=2, config=SceneConfig(size=(64, 80)))


@pytest.fixture
def data(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "data"))


@pytest.fixture(scope="module")
def run(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cli-run") / "a"
    assert call("train", original, "--model", "panoptic-fcn-tiny", "--out", out, *SMALL) == 0
    return out


def call(*arguments: object) -> int:
    """Run the command in this process and return its exit code."""
    before = sys.argv
    sys.argv = ["thingstuff", *map(str, arguments)]
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        sys.argv = before
    return 0


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that must be refused with exit code 2 and return its message."""
    capsys.readouterr()
    assert call(*arguments) == 2
    message = capsys.readouterr().err
    assert message
    assert "Traceback" not in message
    return message


def test_a_run_folder_holds_all_of_a_run(run: Path) -> None:
    names = {p.name for p in run.iterdir()}
    assert names == {
        "config.yaml",
        "metrics.jsonl",
        "best.safetensors",
        "last.safetensors",
        "result.json",
        "report.html",
        "overlays",
        "progress",
        "progress.gif",
    }
    assert len(list((run / "overlays").glob("*.jpg"))) == 2


def test_evaluate_a_model(run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("evaluate", data, "--weights", run, "--json", tmp_path / "out.json", "--per-class") == 0
    shown = capsys.readouterr().out
    assert "Things" in shown
    assert "star" in shown
    written = json.loads((tmp_path / "out.json").read_text())
    assert written == json.loads((run / "result.json").read_text())
    result = ts.Evaluation.from_json(written)
    assert (result.pictures, result.ap, result.boundary, result.left_out) == (2, None, None, ())
    assert [c.name for c in result.per_class] == [row.name for row in result.errors.per_class]


def test_predict_writes_coco_panoptic_that_evaluate_scores(run: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert call("predict", data / "val", "--weights", run, "--out", out) == 0
    assert sorted(p.name for p in out.iterdir()) == ["overlays", "panoptic", "panoptic.json"]
    assert len(list((out / "panoptic").glob("*.png"))) == len(list((out / "overlays").glob("*.jpg"))) == 2
    files = ("--gt", data / "panoptic_val.json", "--pred", out / "panoptic.json")
    assert call("evaluate", *files, "--json", tmp_path / "files.json") == 0
    scored = json.loads((tmp_path / "files.json").read_text())
    assert scored["all"] == json.loads((run / "result.json").read_text())["all"]


def test_predictions_of_subfolders_are_scored(run: Path, data: Path, tmp_path: Path) -> None:
    truth = json.loads((data / "panoptic_val.json").read_text())
    for place, image in zip(("sea", "city"), truth["images"], strict=True):
        (data / "val" / place).mkdir()
        (data / "val" / image["file_name"]).rename(data / "val" / place / "x.jpg")
        image["file_name"] = f"{place}/x.jpg"
    (data / "panoptic_val.json").write_text(json.dumps(truth))
    files = ("--gt", data / "panoptic_val.json", "--pred", tmp_path / "out" / "panoptic.json")
    assert call("predict", data / "val", "--weights", run, "--images", files[1], "--out", tmp_path / "out") == 0
    assert call("evaluate", *files, "--json", tmp_path / "files.json") == 0
    scored = json.loads((tmp_path / "files.json").read_text())
    assert scored["all"] == json.loads((run / "result.json").read_text())["all"]


def test_the_python_api(run: Path, data: Path, tmp_path: Path) -> None:
    model = ts.load(run)
    photos = sorted((data / "val").iterdir())
    result = model.predict(photos[0])
    several = model.predict(photos)
    assert several[0].ids.tolist() == result.ids.tolist()
    assert result.draw(photos[0]).size == (80, 64)
    written = result.save(tmp_path / "out")
    assert json.loads(written.read_text())["annotations"][0]["segments_info"] == result.to_coco("x", 1)["segments_info"]


def test_evaluating_a_data_set_against_itself_gives_100(data: Path, tmp_path: Path) -> None:
    file = data / "panoptic_val.json"
    assert call("evaluate", "--gt", file, "--pred", file, "--json", tmp_path / "out.json") == 0
    assert json.loads((tmp_path / "out.json").read_text())["all"]["pq"] == 1.0


def test_demo_in_small(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo"
    size = ("--pictures", 6, "--val-pictures", 2, "--steps", 2)
    assert call("demo", "--out", out, *size) == 0
    shown = capsys.readouterr().out
    assert "most frequent" in shown.lower()
    assert f"report: {out / 'run' / 'report.html'}" in shown
    command = next(line for line in shown.splitlines() if line.startswith("next:")).split()[2:]
    assert call(*command) == 0
    assert (out / "predictions" / "panoptic.json").is_file()
    assert call("demo", "--out", out, *size) == 2
    assert call("demo", "--out", out, *size, "--overwrite") == 0


def edit(path: Path, change: object) -> None:
    content = json.loads(path.read_text())
    change(content)  # type: ignore[operator]
    path.write_text(json.dumps(content))


def train_refused(capsys: pytest.CaptureFixture[str], data: Path, *more: object) -> str:
    out = data.parent / "never"
    message = refused(capsys, "train", data, "--model", "panoptic-fcn-tiny", "--out", out, *SMALL, *more)
    assert not out.exists()
    return message


def test_data_that_is_not_there(capsys: pytest.CaptureFixture[str], data: Path, tmp_path: Path) -> None:
    assert "nowhere" in train_refused(capsys, tmp_path / "nowhere")
    (data / "panoptic_val.json").unlink()
    assert "val" in train_refused(capsys, data)
    (tmp_path / "empty").mkdir()
    assert "empty" in train_refused(capsys, tmp_path / "empty")


def test_broken_json(capsys: pytest.CaptureFixture[str], data: Path) -> None:
    path = data / "panoptic_train.json"
    path.write_text(path.read_text()[:-20])
    message = train_refused(capsys, data)
    assert str(path) in message
    assert "line 1" in message


def test_unknown_category(capsys: pytest.CaptureFixture[str], data: Path) -> None:
    edit(data / "panoptic_train.json", lambda c: c["annotations"][1]["segments_info"][0].update(category_id=4321))
    message = train_refused(capsys, data)
    assert "4321" in message
    assert "panoptic_train.json" in message


def test_a_map_of_another_size_or_with_other_ids(capsys: pytest.CaptureFixture[str], data: Path) -> None:
    path = sorted((data / "panoptic_train").iterdir())[0]
    good = Image.open(path)
    good.crop((0, 0, 40, 40)).save(path)
    assert path.name in train_refused(capsys, data)
    pixels = np.asarray(good).copy()
    pixels[:20] = (1, 2, 3)
    Image.fromarray(pixels).save(path)
    out = data.parent / "started"
    assert path.name in refused(
        capsys, "train", data, "--model", "panoptic-fcn-tiny", "--out", out, *SMALL, "batch_size=4"
    )


def test_a_truncated_picture(capsys: pytest.CaptureFixture[str], data: Path, run: Path, tmp_path: Path) -> None:
    path = sorted((data / "val").iterdir())[0]
    path.write_bytes(path.read_bytes()[:400])
    out = tmp_path / "out"
    assert path.name in refused(capsys, "predict", data / "val", "--weights", run, "--out", out)
    assert not out.exists()
    assert path.name in refused(capsys, "evaluate", data, "--weights", run)


def test_weights_that_are_none(capsys: pytest.CaptureFixture[str], data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for weights in (tmp_path / "nothing", data / "panoptic_val.json", data):
        message = refused(capsys, "predict", data / "val", "--weights", weights, "--out", out)
        assert str(weights) in message
    assert not out.exists()


def test_a_folder_in_use_is_kept(capsys: pytest.CaptureFixture[str], data: Path, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / "thesis.txt").write_text("all my work")
    for arguments in (
        ("train", data, "--model", "panoptic-fcn-tiny", "--out", out, *SMALL),
        ("predict", data / "val", "--weights", run, "--out", out),
        ("demo", "--out", out),
    ):
        assert "--overwrite" in refused(capsys, *arguments)
    assert call("train", data, "--model", "panoptic-fcn-tiny", "--out", out, "--overwrite", *SMALL) == 0
    assert call("predict", data / "val", "--weights", run, "--out", out, "--overwrite") == 0
    assert (out / "thesis.txt").read_text() == "all my work"


def test_a_folder_in_use_is_told_before_weights_are_opened(
    capsys: pytest.CaptureFixture[str], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("thingstuff.pretrained.load_changed", lambda *_, **__: pytest.fail("weights were opened"))
    assert "--overwrite" in refused(capsys, "predict", data / "val", "--out", data)


def test_wrong_settings_name_the_nearest_key(capsys: pytest.CaptureFixture[str], data: Path) -> None:
    assert "'optim.lr'" in train_refused(capsys, data, "optim.lrr=1")
    assert "'encoder_channels'" in train_refused(capsys, data, "encoder_chanels=1")
    assert "steps" in train_refused(capsys, data, "steps=many")
    assert "key=value" in train_refused(capsys, data, "steps")
    assert "panoptic-fcn-tiny" in refused(capsys, "train", data, "--model", "panoptic-fcn", "--out", data / "x")


def test_no_imagenet_weights_offline(
    capsys: pytest.CaptureFixture[str], data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    message = refused(capsys, "train", data, "--model", "panoptic-fcn-r18", "--out", tmp_path / "x")
    assert "ResNet-18" in message
    assert "backbone.weights=none" in message
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_picture_found_while_training_keeps_the_run_before(
    capsys: pytest.CaptureFixture[str], run: Path, original: Path, data: Path, tmp_path: Path, workers: int
) -> None:
    out = Path(shutil.copytree(run, tmp_path / "run"))
    before = {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()}
    for path in (data / "train").iterdir():
        path.write_bytes(path.read_bytes()[: -path.stat().st_size // 3])  # the header stays whole
    again = ("train", data, "--model", "panoptic-fcn-tiny", "--out", out, *SMALL, f"workers={workers}", "--overwrite")
    message = refused(capsys, *again)
    assert ".jpg" in message
    assert "Original" not in message
    assert "fp16" in refused(capsys, "train", original, *again[2:], "precision=fp16")
    assert {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()} == before


def test_what_a_resumed_run_refuses_changes_nothing(
    capsys: pytest.CaptureFixture[str], run: Path, data: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(run, tmp_path / "run"))
    before = (out / "config.yaml").read_text()
    resume = ("train", "--resume", "--out", out)
    for more, said in (
        (("batch_size=3",), "pictures a step"),
        (("optim.kind=sgd",), "optim.kind=adamw"),
        (("encoder_channels=16",), "cannot change"),
        (("--model", "panoptic-fcn-r18"), "cannot change"),
        (("--overwrite",), "--resume"),
    ):
        assert said in refused(capsys, *resume, *more)
    assert (out / "config.yaml").read_text() == before
    same = ("train", data, "--model", "panoptic-fcn-tiny", "--out", out, *SMALL[1:], "steps=3", "--resume")
    assert call(*same, "optim.norm_decay=0.01") == 0


def test_image_ids_come_from_names_or_from_a_json(
    capsys: pytest.CaptureFixture[str], run: Path, data: Path, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for source, name in zip(sorted((data / "val").iterdir()), ("10.jpg", "000139.jpg"), strict=True):
        shutil.copy(source, photos / name)

    def ids(out: str, *more: object) -> list[int]:
        assert call("predict", photos, "--weights", run, "--out", tmp_path / out, *more) == 0
        return [
            entry["image_id"] for entry in json.loads((tmp_path / out / "panoptic.json").read_text())["annotations"]
        ]

    assert ids("a") == [139, 10]
    listing = tmp_path / "images.json"
    listing.write_text(json.dumps({"images": [{"id": 7, "file_name": "10.jpg"}, {"id": 8, "file_name": "000139.jpg"}]}))
    assert ids("b", "--images", listing) == [8, 7]
    shutil.move(photos / "10.jpg", photos / "ten.jpg")
    assert ids("c") == [1, 2]
    wrong = ("predict", photos, "--weights", run, "--out", tmp_path / "d", "--images", listing)
    assert "ten.jpg" in refused(capsys, *wrong)


def test_the_report_of_a_run_shows_each_picture_once_and_of_which_step_the_weights_are(run: Path) -> None:
    page = Page(run / "report.html")
    pictures = [image["alt"] for image in page.all("img") if (image["alt"] or "").startswith("Picture of")]
    assert sorted(pictures) == ["Picture of 0001.jpg", "Picture of 0002.jpg"]
    steps = [row["step"] for row in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()) if "pq" in row]
    assert steps
    assert f"scored on 2 pictures with the weights of step {steps[0]}" in " ".join(page.text["result"].split())


def test_the_command_of_a_run_s_report_is_not_refused(run: Path) -> None:
    """The folder it names is beside the run's own, which holds the run."""
    (line,) = [line for line in Page(run / "report.html").text["again"].splitlines() if "thingstuff train" in line]
    words = shlex.split(line)
    assert words[words.index("--out") + 1] == f"{run}-again"
    assert call(*words[1:]) == 0
    assert read_config(run.with_name(f"{run.name}-again")) == read_config(run)


def test_the_report_names_the_command_that_makes_the_run_again(run: Path, tmp_path: Path) -> None:
    config = read_config(run)
    words = shlex.split(command_of(config, tmp_path / "again"))
    assert words[:2] == ["thingstuff", "train"]
    assert call(*words[1:]) == 0
    assert read_config(tmp_path / "again") == config


def test_settings_that_yaml_reads_otherwise(data: Path) -> None:
    changes = parse_overrides(["precision=no", "optim.lr=1e-4", "kernel_coordinates=false", "crop=null"])
    assert changes == {"precision": "no", "optim.lr": 1e-4, "kernel_coordinates": False, "crop": None}


@pytest.mark.parametrize(
    "setting",
    [
        "position_channels=100",
        "preprocess.divisor=1",
        "optim.lr=.inf",
        "level_ranges=[[9,1],[1,2],[1,3]]",
        "crop=[0,0]",
    ],
)
def test_values_that_cannot_work_are_refused(capsys: pytest.CaptureFixture[str], data: Path, setting: str) -> None:
    setting = setting.replace("crop", "augment.crop")
    assert setting.split("=")[0].rsplit(".", 1)[-1] in train_refused(capsys, data, setting)


def test_mixed_ways_to_evaluate(capsys: pytest.CaptureFixture[str], run: Path, data: Path, tmp_path: Path) -> None:
    file = data / "panoptic_val.json"
    assert "either" in refused(capsys, "evaluate", data, "--weights", run, "--gt", file)
    assert "either" in refused(capsys, "evaluate", data, "--gt", file, "--pred", file)
    assert "is there already" in refused(capsys, "evaluate", data, "--weights", run, "--json", file)
    assert "no folder" in refused(capsys, "evaluate", data, "--weights", run, "--json", tmp_path / "no" / "x.json")


def test_resuming_what_is_no_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "config.yaml" in refused(capsys, "train", "--resume", "--out", tmp_path)


def test_pictures_of_one_name(capsys: pytest.CaptureFixture[str], data: Path, run: Path, tmp_path: Path) -> None:
    first = sorted((data / "val").iterdir())[0]
    twin = tmp_path / first.name
    shutil.copy(first, twin)
    assert first.name in refused(capsys, "predict", first, twin, "--weights", run, "--out", tmp_path / "out")
