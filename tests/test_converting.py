"""The engine of conversions on a made source: files, resuming, splits, faults, reports."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from thingstuff.convert.classes import ClassRules
from thingstuff.convert.converting import ConvertRules, convert
from thingstuff.convert.formats import open_source
from thingstuff.convert.ledger import Ledger
from thingstuff.convert.painting import Painted, PaintedSegment
from thingstuff.convert.source import Region, Source, SourceClass, SourceLabels, SourceObject, SourcePicture
from thingstuff.convert.splits import SplitRules
from thingstuff.data.coco import CocoPanoptic, splits
from thingstuff.errors import InputError
from thingstuff.io import read_id_map, read_json

SIZE = (12, 16)
CLASSES = (SourceClass("cup", isthing=True), SourceClass("table", isthing=False))


def read_boxes(picture: SourcePicture) -> SourceLabels:
    """Read `name top left height width` lines."""
    objects = []
    for line in picture.labels[0].read_text().splitlines():
        name, *numbers = line.split()
        if name == "broken":
            raise InputError(f"{picture.labels[0]}: a broken line; mend it")
        top, left, height, width = map(int, numbers)
        objects.append(SourceObject(name, Region(top, left, np.ones((height, width), dtype=np.bool_))))
    return SourceLabels(SIZE, tuple(objects), notes=("a note",))


def made(folder: Path, count: int = 5, classes: tuple[SourceClass, ...] = CLASSES) -> Source:
    folder.mkdir(exist_ok=True)
    pictures = []
    for n in range(count):
        path, labels = folder / f"p{n}.png", folder / f"p{n}.txt"
        if not path.exists():
            Image.fromarray(np.full((*SIZE, 3), n, dtype=np.uint8)).save(path)
            labels.write_text(f"table 2 0 6 16\ncup {n % 4} 3 4 5\n")
        pictures.append(SourcePicture(f"p{n}", path, (labels,)))
    return Source("boxes", "made here", classes, tuple(pictures), read_boxes, path=folder)


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = (p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.read_bytes()) for p in files}


def test_a_conversion_is_a_data_set_that_can_be_read(tmp_path: Path) -> None:
    source = made(tmp_path / "in")
    before = contents(tmp_path / "in")
    conversion = convert(source, tmp_path / "out", ConvertRules(ClassRules(background="rest")), workers=1)
    data = CocoPanoptic.open(tmp_path / "out", "train")
    data.check_files(fast=False)
    assert len(data) == 5
    first = data.panoptic(0)
    assert {first.name(s): s.area for s in first.segments} == {"cup": 20, "table": 96 - 10, "rest": 192 - 106}
    entry = read_json(conversion.jsons[0])["annotations"][0]["segments_info"]
    assert {s["id"]: (s["area"], s["bbox"]) for s in entry} == {
        s["id"]: (s["area"], s["bbox"]) for s in first.to_coco("", 1)["segments_info"]
    }
    assert (tmp_path / "out" / "train" / "p0.png").is_symlink()
    assert contents(tmp_path / "in") == before
    rows = {row.name: row for row in conversion.report.classes}
    assert (rows["cup"].segments, rows["cup"].pixels) == (5, 100)
    assert conversion.report.overlaps[0][:2] == ("table", "cup")
    assert [row.void for row in conversion.report.splits] == [0.0]
    assert [(row.what, row.times) for row in conversion.report.notes] == [("a note", 5)]
    assert read_json(tmp_path / "out" / ".convert" / "report.json")["classes"][0]["name"] == "cup"


def test_processes_and_copies_give_the_same(tmp_path: Path) -> None:
    source = made(tmp_path / "in", 9)
    one = convert(source, tmp_path / "one", workers=1)
    two = convert(source, tmp_path / "two", workers=2, copy=True)
    assert one.report == two.report
    assert one.jsons[0].read_bytes() == two.jsons[0].read_bytes()
    assert not (tmp_path / "two" / "train" / "p0.png").is_symlink()
    for n in range(9):
        name = Path("panoptic_train") / f"p{n}.png"
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_second_run_does_nothing_but_what_is_new_or_changed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    told: list[tuple[int, int]] = []
    convert(made(tmp_path / "in"), out, workers=1)
    before = contents(out / "panoptic_train")
    again = convert(made(tmp_path / "in"), out, workers=1)
    assert again.earlier == 5
    assert contents(out / "panoptic_train") == before
    (tmp_path / "in" / "p1.txt").write_text("cup 0 0 12 16\n")
    more = convert(made(tmp_path / "in", 7), out, workers=1, progress=lambda *n: told.append(n))
    assert (more.earlier, told[0], told[-1]) == (4, (4, 7), (7, 7))
    after = contents(out / "panoptic_train")
    assert {name for name in before if before[name] != after[name]} == {"p1.png"}
    data = CocoPanoptic.open(out, "train")
    assert [data.panoptic(1).name(s) for s in data.panoptic(1).segments] == ["cup"]
    assert [r.image_id for r in data.records] == [1, 2, 3, 4, 5, 6, 7]


def test_ids_stay_when_classes_are_added(tmp_path: Path) -> None:
    convert(made(tmp_path / "in"), tmp_path / "out", workers=1)
    convert(made(tmp_path / "in", 6, (SourceClass("apple"), *CLASSES)), tmp_path / "out", workers=1)
    entries = read_json(tmp_path / "out" / "panoptic_train.json")["categories"]
    assert {e["name"]: e["id"] for e in entries} == {"cup": 1, "table": 2, "apple": 3}


def test_a_map_that_a_person_changed_is_never_lost(tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert(made(tmp_path / "in"), out, workers=1)
    edited = out / "panoptic_train" / "p2.png"
    edited.write_bytes(edited.read_bytes() + b"more")
    convert(made(tmp_path / "in"), out, workers=1)
    assert edited.read_bytes().endswith(b"more"), "its labels are as they were: nothing is written"
    (tmp_path / "in" / "p2.txt").write_text("cup 0 0 12 16\n")
    with pytest.raises(InputError, match=r"p2\.png was changed after it was converted"):
        convert(made(tmp_path / "in"), out, workers=1)
    assert edited.read_bytes().endswith(b"more")


def test_other_settings_want_another_folder_or_overwrite(tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert(made(tmp_path / "in"), out, workers=1)
    rules = ConvertRules(min_area=3, splits=SplitRules((0.5,)))
    with pytest.raises(InputError, match=r"min_area was 0, now 3; split was \[\], now \[0.5\]"):
        convert(made(tmp_path / "in"), out, rules, workers=1)
    (out / "notes.txt").write_text("mine")
    convert(made(tmp_path / "in"), out, rules, workers=1, overwrite=True)
    assert (out / "notes.txt").read_text() == "mine"
    names = {p.name for p in out.rglob("p*.png")}
    assert names == {f"p{n}.png" for n in range(5)}
    assert len(list(out.glob("panoptic_*/*.png"))) == 5, "what the earlier conversion wrote is gone"


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="is not empty and holds no conversion"):
            convert(made(tmp_path / "in"), tmp_path / "out", workers=1, overwrite=overwrite)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine.txt"]
    with pytest.raises(InputError, match="is a file"):
        convert(made(tmp_path / "in"), tmp_path / "out" / "mine.txt", workers=1)


def test_wrong_rules_write_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no class 'cap'"):
        convert(made(tmp_path / "in"), tmp_path / "out", ConvertRules(ClassRules(drop=("cap",))), workers=1)
    assert not (tmp_path / "out").exists()


def test_broken_pictures_are_listed_and_can_be_left_out(tmp_path: Path) -> None:
    source = made(tmp_path / "in")
    (tmp_path / "in" / "p1.txt").write_text("broken\n")
    Image.new("RGB", (7, 7)).save(tmp_path / "in" / "p3.png")
    with pytest.raises(InputError) as error:
        convert(source, tmp_path / "out", workers=1)
    text = str(error.value)
    assert "2 of 5 pictures cannot be converted" in text
    assert "p1.txt: a broken line" in text
    assert "p3.png is 7 wide and 7 high" in text
    assert not list((tmp_path / "out").glob("*.json")), "no JSON speaks of half a data set"
    conversion = convert(source, tmp_path / "out", workers=1, skip_broken=True)
    assert (conversion.earlier, len(conversion.report.broken)) == (3, 2)
    assert len(CocoPanoptic.open(tmp_path / "out", "train")) == 3
    (tmp_path / "in" / "p1.txt").write_text("cup 0 0 2 2\n")
    Image.new("RGB", SIZE[::-1]).save(tmp_path / "in" / "p3.png")
    assert convert(source, tmp_path / "out", workers=1).report.splits[0].pictures == 5


def test_when_all_are_broken_nothing_is_left_to_skip(tmp_path: Path) -> None:
    source = made(tmp_path / "in", 2)
    for n in range(2):
        (tmp_path / "in" / f"p{n}.txt").write_text("broken\n")
    with pytest.raises(InputError, match="2 of 2 pictures cannot be converted"):
        convert(source, tmp_path / "out", workers=1, skip_broken=True)


def test_splits_and_pictures_in_folders(tmp_path: Path) -> None:
    source = made(tmp_path / "in", 20)
    pictures = tuple(p._replace(key=f"day/{p.key}") for p in source.pictures)
    rules = ConvertRules(splits=SplitRules((0.5,)))
    conversion = convert(replace(source, pictures=pictures), tmp_path / "out", rules, workers=1)
    assert [p.name for p in conversion.jsons] == ["panoptic_train.json", "panoptic_val.json"]
    sizes = {}
    for split in ("train", "val"):
        data = CocoPanoptic.open(tmp_path / "out", split)
        data.check_files(fast=False)
        assert data.records[0].file_name.startswith("day/")
        sizes[split] = len(data)
    assert sum(sizes.values()) == 20
    assert [e["id"] for e in read_json(conversion.jsons[0])["categories"]] == [1, 2], "both list the same categories"


def test_given_image_ids_are_kept_and_others_keep_clear(tmp_path: Path) -> None:
    source = made(tmp_path / "in", 4)
    pictures = tuple(p._replace(image_id=i) for p, i in zip(source.pictures, (3, None, "x", None), strict=True))
    convert(replace(source, pictures=pictures), tmp_path / "out", workers=1)
    assert [r.image_id for r in CocoPanoptic.open(tmp_path / "out", "train").records] == [3, 1, "x", 2]


def test_names_that_are_numbers_are_the_image_ids(tmp_path: Path) -> None:
    source = made(tmp_path / "in", 2)
    numbered = tuple(p._replace(key=key) for p, key in zip(source.pictures, ("a/0139", "b/7"), strict=True))
    convert(replace(source, pictures=numbered), tmp_path / "out", workers=1)
    assert [r.image_id for r in CocoPanoptic.open(tmp_path / "out", "train").records] == [139, 7]
    more = (*numbered, made(tmp_path / "in", 3).pictures[2])
    convert(replace(source, pictures=more), tmp_path / "out", workers=1)
    assert [r.image_id for r in CocoPanoptic.open(tmp_path / "out", "train").records] == [139, 7, 1]


def test_pictures_that_would_be_one_file_are_told(tmp_path: Path) -> None:
    source = made(tmp_path / "in", 2)
    pictures = (source.pictures[0], source.pictures[1]._replace(key="P0"))
    with pytest.raises(InputError, match="would write the same files"):
        convert(replace(source, pictures=pictures), tmp_path / "out", workers=1)


def test_nothing_to_convert_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no picture in the boxes labels"):
        convert(replace(made(tmp_path / "in"), pictures=()), tmp_path / "out")


class SkyAbove:
    """Fills every void pixel of the upper half with sky."""

    classes = (SourceClass("sky", 187, False), SourceClass("sea", 155, False))
    fingerprint = "sky above"

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self, picture: Path, painted: Painted) -> Painted:
        self.seen.append(picture.name)
        upper = np.zeros(painted.ids.shape, dtype=np.bool_)
        upper[: SIZE[0] // 2] = True
        ids = np.where((painted.ids == 0) & upper, np.int32(99), painted.ids)
        sky = PaintedSegment(99, "sky", marks={"filled": {"by": "above", "score": 0.5}})
        return Painted(ids, (*painted.segments, sky))


def test_a_filler_s_segments_are_marked_and_its_unused_classes_left_out(tmp_path: Path) -> None:
    filler = SkyAbove()
    conversion = convert(made(tmp_path / "in"), tmp_path / "out", filler=filler, workers=2)
    assert filler.seen == [f"p{n}.png" for n in range(5)]
    content = read_json(conversion.jsons[0])
    assert {e["name"]: e["id"] for e in content["categories"]} == {"cup": 1, "table": 2, "sky": 187}
    marked = [s for a in content["annotations"] for s in a["segments_info"] if "filled" in s]
    assert [s["filled"] for s in marked] == [{"by": "above", "score": 0.5}] * 5
    assert {row.name: row.filled for row in conversion.report.classes} == {"cup": 0, "table": 0, "sky": 5}
    assert convert(made(tmp_path / "in"), tmp_path / "out", filler=filler, workers=1).earlier == 5
    assert len(filler.seen) == 5, "a second run does not ask the model again"
    with pytest.raises(InputError, match="fill was 'sky above', now None"):
        convert(made(tmp_path / "in"), tmp_path / "out", workers=1)
    rules = ConvertRules(ClassRules(background="rest"))
    with pytest.raises(InputError, match="--background leaves nothing to fill in"):
        convert(made(tmp_path / "in"), tmp_path / "other", rules, filler=filler, workers=1)


def test_a_changed_map_is_void_where_nobody_labelled(tmp_path: Path) -> None:
    convert(made(tmp_path / "in", 1), tmp_path / "out", workers=1)
    ids = read_id_map(tmp_path / "out" / "panoptic_train" / "p0.png")
    assert (ids[9:] == 0).all()
    assert (ids[2:8] > 0).all()


SLOW = """
import sys, time
from pathlib import Path
import test_converting as t
from thingstuff.convert.converting import convert

def progress(done, total):
    print(done, flush=True)
    time.sleep(0.1)

convert(t.made(Path(sys.argv[1]), 40), Path(sys.argv[2]), workers=1, progress=progress)
"""


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    made(tmp_path / "in", 40)
    command = [sys.executable, "-c", SLOW, str(tmp_path / "in"), str(tmp_path / "out")]
    with subprocess.Popen(command, cwd=Path(__file__).parent, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= 5:
                process.send_signal(signal.SIGKILL)
                break
    time.sleep(0.05)
    lines = tmp_path / "out" / ".convert" / "pictures.jsonl"
    text = lines.read_text()
    lines.write_text(text + text.splitlines()[0][:40])  # as a kill in the middle of a line leaves it
    conversion = convert(made(tmp_path / "in", 40), tmp_path / "out", workers=1)
    assert 5 <= conversion.earlier < 40
    convert(made(tmp_path / "in", 40), tmp_path / "whole", workers=1)
    assert json.loads(conversion.jsons[0].read_text()) == read_json(tmp_path / "whole" / "panoptic_train.json")


def rewrite(folder: Path, number: int, text: str) -> None:
    (folder / f"p{number}.txt").write_text(text)


def test_a_run_that_was_killed_while_it_replaced_a_map_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    convert(made(tmp_path / "in"), out, workers=1)
    rewrite(tmp_path / "in", 2, "cup 0 0 12 16\n")
    monkeypatch.setattr(Ledger, "add", killed)
    with pytest.raises(KeyboardInterrupt):
        convert(made(tmp_path / "in"), out, workers=1)
    monkeypatch.undo()
    assert convert(made(tmp_path / "in"), out, workers=1).earlier == 4
    assert [s.area for s in CocoPanoptic.open(out, "train").panoptic(2).segments] == [192]


def killed(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_torn_line_costs_one_picture_alone(tmp_path: Path) -> None:
    out, lines = tmp_path / "out", tmp_path / "out" / ".convert" / "pictures.jsonl"
    convert(made(tmp_path / "in"), out, workers=1)
    lines.write_text(lines.read_text()[:-40])
    assert convert(made(tmp_path / "in"), out, workers=1).earlier == 4
    assert convert(made(tmp_path / "in"), out, workers=1).earlier == 5


def test_what_the_source_has_no_more_is_gone_but_for_edited_maps(tmp_path: Path) -> None:
    out = tmp_path / "out"
    source = made(tmp_path / "in", 4)
    parts = [p._replace(split="val" if n < 2 else "train") for n, p in enumerate(source.pictures)]
    convert(replace(source, pictures=tuple(parts)), out, workers=1)
    edited = out / "panoptic_val" / "p1.png"
    edited.write_bytes(edited.read_bytes() + b"more")
    convert(replace(source, pictures=(parts[0]._replace(split="test"), *parts[3:])), out, workers=1)
    assert splits(out) == ("test", "train")
    files = {p.relative_to(out).as_posix() for p in out.rglob("*.png")}
    assert files == {
        "test/p0.png", "panoptic_test/p0.png", "train/p3.png", "panoptic_train/p3.png",
        "val/p1.png", "panoptic_val/p1.png",
    }  # fmt: skip
    for split in splits(out):
        CocoPanoptic.open(out, split).check_files(fast=False)


def test_a_picture_is_done_again_where_its_classes_are_others_now(tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert(made(tmp_path / "in"), out, workers=1)
    kinds = (SourceClass("cup", isthing=False), SourceClass("table", isthing=False))
    assert convert(made(tmp_path / "in", classes=kinds), out, workers=1).earlier == 0
    assert all(not s["isthing"] for s in read_json(out / "panoptic_train.json")["annotations"][0]["segments_info"])


def test_image_ids_of_new_pictures_keep_clear_of_earlier_ones(tmp_path: Path) -> None:
    source = made(tmp_path / "in", 3)
    a, b, c = (p._replace(image_id=i) for p, i in zip(source.pictures, (7, 7, 2), strict=True))
    convert(replace(source, pictures=(a, b)), tmp_path / "out", workers=1)
    convert(replace(source, pictures=(a, b, c)), tmp_path / "out", workers=1)
    assert [r.image_id for r in CocoPanoptic.open(tmp_path / "out", "train").records] == [1, 2, 3]


@pytest.mark.parametrize("key", ["..", "../a", "a/../../b", "/a", "C:/a", "a//b", "..\\a"])
def test_a_name_that_leads_out_is_refused(tmp_path: Path, key: str) -> None:
    source = made(tmp_path / "in", 1)
    with pytest.raises(InputError, match="leads out of the data set"):
        convert(replace(source, pictures=(source.pictures[0]._replace(key=key),)), tmp_path / "out", workers=1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("split", ["..", ".", "a/b", "panoptic_train", ""])
def test_a_split_that_cannot_be_a_folder_is_refused(tmp_path: Path, split: str) -> None:
    source = made(tmp_path / "in", 1)
    rows = (source.pictures[0]._replace(split=split),)
    if not split:
        convert(replace(source, pictures=rows), tmp_path / "out", workers=1)
        assert splits(tmp_path / "out") == ("train",)
        return
    with pytest.raises(InputError, match="cannot name a folder"):
        convert(replace(source, pictures=rows), tmp_path / "out", workers=1)


def test_two_runs_into_one_folder_are_refused(tmp_path: Path) -> None:
    source, out = made(tmp_path / "in"), tmp_path / "out"

    def again(done: int, total: int) -> None:
        if done == 2:
            convert(source, out, workers=1)

    with pytest.raises(InputError, match="another run is converting to"):
        convert(source, out, workers=1, progress=again)
    assert convert(source, out, workers=1).report.splits[0].pictures == 5


def test_overwrite_touches_nothing_before_the_new_one_is_known_to_work(tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert(made(tmp_path / "in"), out, workers=1, copy=True)
    before = contents(out / "train") | contents(out / "panoptic_train")
    written = (out / "panoptic_train.json").read_bytes()
    rewrite(tmp_path / "in", 3, "broken\n")
    with pytest.raises(InputError, match="1 of 5 pictures cannot be converted"):
        convert(made(tmp_path / "in"), out, ConvertRules(min_area=2), workers=1, copy=True, overwrite=True)
    assert contents(out / "train") | contents(out / "panoptic_train") == before
    assert (out / "panoptic_train.json").read_bytes() == written
    convert(made(tmp_path / "in"), out, ConvertRules(min_area=2), workers=1, overwrite=True, skip_broken=True)
    assert len(CocoPanoptic.open(out, "train")) == 4


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_data_set_is_never_written_over_its_own_source(tmp_path: Path, overwrite: bool) -> None:
    convert(made(tmp_path / "in"), tmp_path / "out", workers=1, copy=True)
    before = contents(tmp_path / "out")
    source = open_source(tmp_path / "out")
    for out in (tmp_path / "out", tmp_path):
        with pytest.raises(InputError, match="would be written over"):
            convert(source, out, workers=1, overwrite=overwrite)
    assert contents(tmp_path / "out") == before


def test_a_json_that_a_person_changed_is_never_lost(tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert(made(tmp_path / "in"), out, workers=1)
    path = out / "panoptic_train.json"
    path.write_text(path.read_text() + " ")
    with pytest.raises(InputError, match=r"panoptic_train\.json was changed after it was written"):
        convert(made(tmp_path / "in", 6), out, workers=1)
    assert path.read_text().endswith(" ")
    convert(made(tmp_path / "in", 6), out, workers=1, overwrite=True)
    path.unlink()
    assert convert(made(tmp_path / "in", 6), out, workers=1).earlier == 6
    assert path.is_file()


def test_a_picture_of_another_suffix_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    source = made(tmp_path / "in", 2)
    convert(source, tmp_path / "out", workers=1)
    other = tmp_path / "in" / "p0.bmp"
    (tmp_path / "in" / "p0.png").rename(other)
    pictures = (source.pictures[0]._replace(picture=other), source.pictures[1])
    convert(replace(source, pictures=pictures), tmp_path / "out", workers=1)
    assert sorted(p.name for p in (tmp_path / "out" / "train").iterdir()) == ["p0.bmp", "p1.png"]


def test_marks_cannot_be_dropped_where_there_are_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--drop-filled: boxes labels do not say"):
        convert(made(tmp_path / "in"), tmp_path / "out", ConvertRules(drop_filled=True), workers=1)
