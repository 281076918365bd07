"""Pictures from any folders become predictions in the same ones, under the ids that a data set gives them."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from thingstuff.data.coco import CocoPanoptic
from thingstuff.data.scenes import SceneConfig, make_scenes
from thingstuff.errors import InputError
from thingstuff.evaluation.evaluator import evaluate
from thingstuff.io import read_picture
from thingstuff.models import create
from thingstuff.predicting import PictureFile, find_pictures, image_ids, predict_pictures

IDS = {"sea/2.jpg": 7, "sea/night/1.jpg": "dark", "1.jpg": 9}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set whose three pictures of val lie in folders of their own, as `convert` leaves them."""
    data = make_scenes(tmp_path_factory.mktemp("nested") / "data", train=1, val=3, config=SceneConfig(size=(48, 60)))
    json_file = data / "panoptic_val.json"
    truth = json.loads(json_file.read_text())
    for (name, image_id), image, annotation in zip(IDS.items(), truth["images"], truth["annotations"], strict=True):
        for folder, entry, file_name in (("val", image, name), ("panoptic_val", annotation, f"{name[:-4]}.png")):
            (data / folder / file_name).parent.mkdir(parents=True, exist_ok=True)
            (data / folder / entry["file_name"]).rename(data / folder / file_name)
            entry["file_name"] = file_name
        image["id"] = annotation["image_id"] = image_id
    json_file.write_text(json.dumps(truth))
    return data


@pytest.fixture
def data(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "data"))


def predict(data: Path, out: Path, given: Sequence[Path], **options: Any) -> dict[str, Any]:
    """Predict pictures or folders of a data set as the ground truth of val has them; return what the JSON says."""
    truth = CocoPanoptic.open(data, "val")
    found = {record.picture.resolve(): truth.panoptic(i) for i, record in enumerate(truth.records)}
    model = create("panoptic-fcn-tiny", truth.categories)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "predict", lambda paths: [found.get(p.resolve(), truth.panoptic(0)) for p in paths])
        written = predict_pictures(model, find_pictures(given), out, **options)
    content: dict[str, Any] = json.loads(written.read_text())
    return content


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_subfolders_are_looked_into_and_kept(data: Path, tmp_path: Path) -> None:
    written = predict(data, tmp_path / "out", [data / "val"], images=data / "panoptic_val.json")
    names = ["1.jpg", "sea/2.jpg", "sea/night/1.jpg"]
    assert [(image["file_name"], image["id"]) for image in written["images"]] == [(n, IDS[n]) for n in names]
    assert [(entry["file_name"], entry["image_id"]) for entry in written["annotations"]] == [
        (f"{n[:-4]}.png", IDS[n]) for n in names
    ]
    maps = [f"panoptic/{n[:-4]}.png" for n in names]
    assert files(tmp_path / "out") == [*(f"overlays/{n}" for n in names), "panoptic.json", *maps]


def test_overlays_are_drawn_as_asked(data: Path, tmp_path: Path) -> None:
    picture = data / "val" / "1.jpg"
    for name, options in (("usual", {}), ("told", {"legend": True}), ("bare", {"alpha": 0.0})):
        predict(data, tmp_path / name, [picture], **options)
    drawn = {name: read_picture(tmp_path / name / "overlays" / "1.jpg") for name in ("usual", "told", "bare")}
    assert drawn["usual"].size == drawn["bare"].size == (60, 48)
    assert drawn["told"].height > 48
    original = np.array(read_picture(picture)).astype(int)
    usual, bare = (np.median(np.abs(np.array(drawn[name]) - original)) for name in ("usual", "bare"))
    assert bare < usual / 3
    with pytest.raises(InputError, match=r"alpha 2\.0"):
        predict(data, tmp_path / "none", [picture], alpha=2.0)
    assert not (tmp_path / "none").exists()


def test_predictions_in_subfolders_are_scored(data: Path, tmp_path: Path) -> None:
    predict(data, tmp_path / "out", [data / "val"], images=data / "panoptic_val.json")
    result = evaluate(data / "panoptic_val.json", tmp_path / "out" / "panoptic.json")
    assert (result.pictures, result.all.pq) == (3, 1.0)


def test_what_is_hidden_is_left_aside(data: Path) -> None:
    shutil.copytree(data / "val" / "sea", data / "val" / ".hidden")
    (data / "val" / "sea" / "._2.jpg").write_bytes(b"what macOS leaves beside a file")
    assert [picture.name for picture in find_pictures([data / "val"])] == [*sorted(IDS)]


def test_a_picture_given_by_itself_stays_without_folder(data: Path) -> None:
    path = data / "val" / "sea" / "night" / "1.jpg"
    assert find_pictures([path]) == [PictureFile(path, "1.jpg")]


def test_maps_and_earlier_predictions_are_no_pictures(data: Path) -> None:
    train = next((data / "train").iterdir()).name
    expected = [f"train/{train}", *(f"val/{name}" for name in sorted(IDS))]
    for overwrite in (False, True):
        assert [picture.name for picture in find_pictures([data])] == expected
        predict(data, data / "own", [data], overwrite=overwrite)


@pytest.mark.parametrize("left", ["panoptic", "overlays"])
def test_what_an_interrupted_run_wrote_is_no_picture(data: Path, left: str) -> None:
    out = data / "val" / "own"
    predict(data, out, [data / "val"])
    (out / "panoptic.json").unlink()
    shutil.rmtree(out / ({"panoptic", "overlays"} - {left}).pop())
    with pytest.raises(InputError, match=f"own/{left}/.* lies where predictions are written"):
        predict(data, out, [data / "val"], overwrite=True)


def test_folders_of_one_layout_are_refused_together(data: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(data / "val", tmp_path / "other"))
    with pytest.raises(InputError, match=r"val/1\.jpg and .*other/1\.jpg would write the same files"):
        predict(data, tmp_path / "out", [data / "val", other])
    assert not (tmp_path / "out").exists()


def test_folders_without_pictures_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a" / "b.jpg").mkdir(parents=True)
    with pytest.raises(InputError, match="holds no pictures"):
        find_pictures([tmp_path])
    with pytest.raises(InputError, match="no such picture or folder"):
        find_pictures([tmp_path / "c"])


def listed(folder: Path, ids: dict[str, int | str]) -> Path:
    path = folder / "images.json"
    path.write_text(json.dumps({"images": [{"id": i, "file_name": name} for name, i in ids.items()]}))
    return path


def named(names: Sequence[str]) -> list[PictureFile]:
    return [PictureFile(Path("pictures", name), name) for name in names]


@pytest.mark.parametrize(
    ("known", "names", "ids"),
    [
        ({"a/x.jpg": 1, "b/x.jpg": 2}, ["b/x.jpg", "a/x.jpg"], [2, 1]),
        ({"./a/x.jpg": 1, "x.jpg": 2}, ["x.jpg", "a/x.jpg"], [2, 1]),
        ({"val/a/x.jpg": 1, "y.jpg": "why"}, ["a/x.jpg", "b/y.jpg"], [1, "why"]),
    ],
)
def test_ids_go_by_the_path_and_then_by_the_name_alone(
    known: dict[str, int | str], names: list[str], ids: list[int | str], tmp_path: Path
) -> None:
    pictures = named(names)
    assert image_ids(pictures, listed(tmp_path, known)) == dict(zip(pictures, ids, strict=True))


@pytest.mark.parametrize(
    ("known", "names", "words"),
    [
        ({"a/x.jpg": 1}, ["a/x.jpg", "b/y.jpg", "z.jpg"], r"no image with the file name b/y\.jpg \(2 such\)"),
        ({"a/x.jpg": 1, "b/x.jpg": 2}, ["x.jpg"], r"x\.jpg alone does not tell which"),
        ({"a/x.jpg": 1}, ["a/x.jpg", "b/x.jpg"], r"b/x\.jpg .* x\.jpg alone does not tell which"),
        ({"val/x.jpg": 1}, ["a/x.jpg", "b/x.jpg"], r"a/x\.jpg \(2 such\), and x\.jpg alone does not tell which"),
    ],
)
def test_names_that_tell_no_id_are_refused(
    known: dict[str, int | str], names: list[str], words: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=words):
        image_ids(named(names), listed(tmp_path, known))


def test_names_that_are_numbers_are_the_ids_where_each_is_another() -> None:
    assert [*image_ids(named(["a/7.jpg", "b/009.jpg"])).values()] == [7, 9]
    assert [*image_ids(named(["a/7.jpg", "b/007.jpg"])).values()] == [1, 2]
