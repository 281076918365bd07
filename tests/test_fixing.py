"""A repaired copy has what could be repaired and says so; the original is not touched."""

import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from rich.console import Console

from damaged_sets import (
    CAR,
    CAT,
    COUNTS,
    DAMAGES,
    SEA,
    SEGMENTS,
    SKY,
    MadeSet,
    as_exif,
    complaints_of_an_interrupt,
    contents,
    counts,
    made_map,
)
from thingstuff.checking import tally
from thingstuff.checking.checker import check
from thingstuff.checking.fixing import fix
from thingstuff.checking.pictures import turned
from thingstuff.checking_command import Request, run_check
from thingstuff.data.coco import CocoPanoptic
from thingstuff.errors import InputError
from thingstuff.io import read_id_map

MENDABLE = [name for name, damage in DAMAGES.items() if damage.remain != damage.found or name == "nothing"]


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MadeSet:
    """A faultless set of a few pictures, which is not told of."""
    monkeypatch.setattr(tally, "FEW_VAL", 2)
    return MadeSet(tmp_path / "data")


@pytest.mark.parametrize("name", MENDABLE)
def test_a_copy_has_what_can_be_repaired(name: str, made: MadeSet, tmp_path: Path) -> None:
    damage = DAMAGES[name]
    damage.do(made)
    made.save()
    before = contents(made.root)
    fixed = fix(made.root, tmp_path / "out", workers=1)
    assert contents(made.root) == before
    assert counts(fixed.checked.findings) == damage.remain
    told = {*counts(fixed.changed), *counts(fixed.left_out)}
    assert {k for k in damage.found if not damage.remain.get(k)} <= told
    images = json.loads((tmp_path / "out" / "panoptic_train.json").read_text())["images"]
    assert len(images) == damage.pictures == COUNTS["train"] - len(fixed.left_out)
    if not damage.remain:
        for split in COUNTS:
            CocoPanoptic.open(tmp_path / "out", split).check_files(fast=False)


def test_a_faultless_set_stays_as_it_is(made: MadeSet, tmp_path: Path) -> None:
    fixed = fix(made.root, tmp_path / "out", workers=1)
    assert fixed.sound
    assert not len(fixed.changed)
    assert not len(fixed.left_out)
    assert json.loads((tmp_path / "out" / "panoptic_train.json").read_text()) == made.json["train"]
    assert contents(tmp_path / "out").keys() == contents(made.root).keys()
    for path in (tmp_path / "out" / "panoptic_train").iterdir():
        assert path.read_bytes() == (made.root / "panoptic_train" / path.name).read_bytes()
    assert (tmp_path / "out" / "train" / made.picture().name).resolve() == made.picture()


def test_pictures_are_copied_where_that_is_asked_for(made: MadeSet, tmp_path: Path) -> None:
    fix(made.root, tmp_path / "out", ["train"], copy=True, workers=1)
    copied = tmp_path / "out" / "train" / made.picture().name
    assert not copied.is_symlink()
    assert copied.read_bytes() == made.picture().read_bytes()
    assert not (tmp_path / "out" / "panoptic_val.json").exists()


def mended_map(folder: Path) -> "np.ndarray":
    return read_id_map(folder / "panoptic_train" / "train_0.png")


def mended_infos(folder: Path) -> dict[int, dict[str, object]]:
    content = json.loads((folder / "panoptic_train.json").read_text())
    return {info["id"]: info for info in content["annotations"][0]["segments_info"]}


@pytest.mark.parametrize("name", ["BGR", "palette", "against its map", "wrong area", "no box", "id as text"])
def test_maps_and_entries_are_what_they_were_before_the_damage(name: str, made: MadeSet, tmp_path: Path) -> None:
    infos = {info["id"]: dict(info) for info in made.annotation()["segments_info"]}
    DAMAGES[name].do(made)
    made.save()
    fix(made.root, tmp_path / "out", ["train"], workers=1)
    wanted = np.rot90(made_map(), -1) if name == "against its map" else made_map()
    assert np.array_equal(mended_map(tmp_path / "out"), wanted)
    mended = mended_infos(tmp_path / "out")
    if name == "against its map":
        assert {i: info["area"] for i, info in mended.items()} == {i: info["area"] for i, info in infos.items()}
    else:
        assert mended == infos


def test_isthing_of_a_segment_is_that_of_its_class(made: MadeSet, tmp_path: Path) -> None:
    made.info(CAT)["isthing"], made.info(SKY)["isthing"], made.info(CAR)["isthing"] = False, 1, 1
    made.save()
    fixed = fix(made.root, tmp_path / "out", ["train"], workers=1)
    told = {(finding.segment_id, finding.message) for finding in fixed.changed}
    assert told == {(40, "isthing is True instead of False"), (70000, "isthing is 0 instead of 1")}
    mended = mended_infos(tmp_path / "out")
    # bool or number as it was
    assert [repr(mended[i].get("isthing")) for i in (40, 70000, 513, 7)] == ["True", "0", "1", "None"]


def test_unlisted_pixels_become_void_and_stuff_becomes_one(made: MadeSet, tmp_path: Path) -> None:
    made.annotation()["segments_info"].remove(made.info(CAT))
    made.save()

    def paint(ids: "np.ndarray") -> None:
        ids[:10, 20:][ids[:10, 20:] == 70000] = 90

    made.repaint(paint, {**{i: c for i, c in SEGMENTS.items() if c != CAT}, 90: SKY})
    for info in made.annotation()["segments_info"]:
        info["filled" if info["id"] == 90 else "drawn"] = 1
    made.save()
    fixed = fix(made.root, tmp_path / "out", ["train"], workers=1)
    assert counts(fixed.changed) == {"unlisted id": 1, "stuff in several segments": 1}
    assert np.array_equal(mended_map(tmp_path / "out"), np.where(made_map() == 40, 0, made_map()))
    sky = mended_infos(tmp_path / "out")[70000]
    assert sky == {"id": 70000, "category_id": SKY, "iscrowd": 0, "area": sky["area"], "bbox": [0, 0, 36, 10]}


def test_small_segments_become_void_where_that_is_asked_for(made: MadeSet, tmp_path: Path) -> None:
    DAMAGES["dot"].do(made)
    made.save()
    fixed = fix(made.root, tmp_path / "out", min_area=4, workers=1)
    assert counts(fixed.changed) == {"tiny segment": 1}
    assert fixed.sound
    assert {info["category_id"] for info in mended_infos(tmp_path / "out").values()} == {SKY, SEA, CAR}
    assert mended_map(tmp_path / "out")[5, 5] == 0


def test_pictures_of_two_splits_leave_train_where_that_is_asked_for(made: MadeSet, tmp_path: Path) -> None:
    DAMAGES["a copy in val"].do(made)
    fixed = fix(made.root, tmp_path / "out", drop_duplicates=True, workers=1)
    assert counts(fixed.changed) == {"duplicate across splits": 1}
    assert not len(fixed.checked.findings)
    content = {split: json.loads((tmp_path / "out" / f"panoptic_{split}.json").read_text()) for split in COUNTS}
    assert [image["id"] for image in content["train"]["images"]] == [1, 2]
    assert len(content["val"]["images"]) == COUNTS["val"]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_maps_turn_as_pictures_do(orientation: int) -> None:
    picture = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3))
    picture.getexif()[0x0112] = orientation
    wanted = np.asarray(ImageOps.exif_transpose(picture))
    assert np.array_equal(turned(np.arange(6, dtype=np.int32).reshape(2, 3), orientation), wanted)


def test_a_turned_map_fits_the_picture_that_is_seen(made: MadeSet, tmp_path: Path) -> None:
    as_exif(made, 8, (24, 36))
    made.save()
    fix(made.root, tmp_path / "out", workers=1)
    train = CocoPanoptic.open(tmp_path / "out", "train")
    assert train.picture(0).shape == (36, 24, 3)
    assert np.array_equal(train.panoptic(0).ids, np.rot90(made_map()))


def test_an_interrupt_leaves_nothing_open_and_nothing_behind(made: MadeSet, tmp_path: Path) -> None:
    out = tmp_path / "copies" / "out"
    assert not complaints_of_an_interrupt(lambda stop: fix(made.root, out, workers=1, progress=stop))
    assert not any(out.parent.iterdir())


def test_a_copy_goes_into_a_folder_of_its_own(made: MadeSet) -> None:
    with pytest.raises(InputError, match="not empty"):
        fix(made.root, made.root)


def test_what_cannot_be_opened_cannot_be_copied(made: MadeSet, tmp_path: Path) -> None:
    for split in COUNTS:
        (made.root / f"panoptic_{split}.json").write_text("{")
    with pytest.raises(InputError, match="broken JSON"):
        fix(made.root, tmp_path / "out")


def test_a_split_that_cannot_be_opened_is_left_out_and_told(made: MadeSet, tmp_path: Path) -> None:
    (made.root / "panoptic_val.json").write_text("{")
    fixed = fix(made.root, tmp_path / "out", workers=1)
    assert counts(fixed.left_out) == {"unusable split": 1}
    assert not fixed.sound
    assert (tmp_path / "out" / "panoptic_train.json").exists()


def test_the_command_repairs_and_says_so(made: MadeSet, tmp_path: Path) -> None:
    for name in ("wrong area", "no picture"):
        DAMAGES[name].do(made)
    made.save()
    console = Console(record=True, width=200)
    request = Request(str(made.root), fix=tmp_path / "out", json=tmp_path / "c.json", workers=1)
    assert run_check(request, console) == 1, "a picture is missing in the copy"
    text = console.export_text()
    assert "left out of" in text
    assert "missing picture (1)" in text
    report = json.loads((tmp_path / "c.json").read_text())
    assert report["findings"]["counts"] == {"error": 2, "warning": 0, "note": 0}
    assert report["fix"]["left_out"]["counts"]["error"] == 1
    assert report["fix"]["checked"]["findings"]["counts"]["error"] == 0


def test_the_command_is_content_with_a_sound_copy(made: MadeSet, tmp_path: Path) -> None:
    DAMAGES["wrong area"].do(made)
    made.save()
    assert run_check(Request(str(made.root), workers=1), Console(quiet=True)) == 1
    assert run_check(Request(str(made.root), fix=tmp_path / "out", workers=1), Console(quiet=True)) == 0


def test_random_damage_never_crashes(made: MadeSet, tmp_path: Path) -> None:
    """Bytes of files and values of JSONs changed at random: all is told, or refused as input that cannot be used."""
    rng = random.Random(5)
    outcomes: Counter[str] = Counter()
    original = contents(made.root)
    for turn in range(10):
        for name, data in original.items():
            (made.root / name).write_bytes(data)
        for _ in range(rng.randint(1, 4)):
            damage_at_random(made.root, rng)
        try:
            found = check(made.root, workers=1).findings
            outcomes["found" if len(found) else "nothing"] += 1
            fixed = fix(made.root, tmp_path / f"out{turn}", workers=1)
            kinds = {kind.name for kind in fixed.checked.findings.kinds("error")}
            repaired = {kind.name for kind in fixed.changed.kinds("error")}
            outcomes["copied"] += 1
            assert not kinds & (repaired - {"unlisted id", "faulty segment"}), (kinds, repaired)
        except InputError:
            outcomes["refused"] += 1
    assert outcomes["found"] > 6
    assert outcomes["copied"] > 4


VALUES = [None, -1, 0, 1.5, 10**30, "7", "", [], {}, True, float("nan"), "../x", "a\0b", "\ud800", [1, 2, 3]]


def damage_at_random(root: Path, rng: random.Random) -> None:
    path = rng.choice(sorted(p for p in root.rglob("*") if p.is_file()))
    if path.suffix != ".json" or rng.random() < 0.1:
        data = bytearray(path.read_bytes())
        if rng.random() < 0.5:
            data = data[: rng.randrange(len(data) + 1)]
        for _ in range(rng.randint(1, 5)):
            if data:
                data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(bytes(data))
        return
    try:
        content = json.loads(path.read_text())
    except ValueError:
        return
    place, key = content, rng.choice(["images", "annotations", "categories"])
    while True:
        inner = place[key]
        if not isinstance(inner, dict | list) or not inner or rng.random() < 0.1:
            break
        place, key = inner, rng.choice(list(inner) if isinstance(inner, dict) else range(len(inner)))
    place[key] = rng.choice(VALUES)
    path.write_text(json.dumps(content))
