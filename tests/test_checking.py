"""The doctor finds exactly what is wrong with a data set, and nothing in one that is sound."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from damaged_sets import CATEGORIES, COUNTS, DAMAGES, MadeSet, complaints_of_an_interrupt, counts
from thingstuff.checking import tally
from thingstuff.checking.checker import check
from thingstuff.checking.findings import GRADES, KEPT, KINDS, Finding, Findings
from thingstuff.checking.quick import quick_check
from thingstuff.checking.segments import SeenSegment
from thingstuff.checking.suggestions import suggest
from thingstuff.checking.tally import Tally
from thingstuff.checking_command import Request, run_check
from thingstuff.data.coco import CocoPanoptic
from thingstuff.errors import InputError
from thingstuff.evaluation.segments import ImageId
from thingstuff.panoptic import Categories


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MadeSet:
    """A faultless set of a few pictures, which is not told of."""
    monkeypatch.setattr(tally, "FEW_VAL", 2)
    return MadeSet(tmp_path / "data")


@pytest.mark.parametrize("name", DAMAGES)
def test_each_damage_is_found_and_nothing_else(name: str, made: MadeSet) -> None:
    DAMAGES[name].do(made)
    made.save()
    assert counts(check(made.root, workers=1).findings) == DAMAGES[name].found


@pytest.mark.parametrize("grade", GRADES)
def test_kinds_of_each_grade_come_in_order(grade: str, made: MadeSet) -> None:
    for name in ("wrong area", "wrong box", "no box"):
        DAMAGES[name].do(made) if name != "no box" else made.info(3).pop("bbox")
    made.save()
    findings = check(made.root, workers=1).findings
    assert [kind.grade for kind in findings.kinds()] == list(GRADES)
    assert findings.grade_count(grade) == 1
    assert findings.text(grades=(grade,)).startswith(f"{grade}: ")


def test_findings_name_split_file_picture_and_segment(made: MadeSet) -> None:
    DAMAGES["wrong area"].do(made)
    made.save()
    (finding,) = check(made.root, workers=1).findings
    assert (finding.split, finding.image_id, finding.segment_id) == ("train", 0, 40)
    assert finding.file == str(made.root / "panoptic_train.json")
    assert finding.message == "its area is 5 in the JSON, 90 in the map"


def test_several_processes_find_the_same(made: MadeSet) -> None:
    for name in ("wrong area", "cut picture", "a copy in val"):
        DAMAGES[name].do(made)
    made.save()
    done: list[tuple[int, int]] = []
    several = check(made.root, workers=2, progress=lambda *numbers: done.append(numbers))
    assert several.to_json() == check(made.root, workers=1).to_json()
    assert done == [(i + 1, 5) for i in range(5)]


def test_an_interrupt_leaves_nothing_open(made: MadeSet) -> None:
    assert not complaints_of_an_interrupt(lambda stop: check(made.root, workers=1, progress=stop))


def test_ids_that_splits_share_are_one_note(made: MadeSet) -> None:
    for number in range(COUNTS["val"]):
        made.json["val"]["images"][number]["id"] = made.json["val"]["annotations"][number]["image_id"] = number
    made.save()
    (finding,) = check(made.root, workers=1).findings
    assert (finding.kind, finding.split, finding.image_id) == ("image id in two splits", "val", None)
    assert finding.message == "shares 2 ids with train: 0, 1"


def test_of_many_ids_that_splits_share_three_are_named() -> None:
    splits: dict[str, set[ImageId]] = {"train": {*range(100), "7"}, "val": {*range(60, 110), "7"}, "test": {108, "9"}}
    classes = Categories.from_coco(CATEGORIES)
    tallies = [Tally(name, Path(f"{name}.json"), classes, pictures=100, ids=ids) for name, ids in splits.items()]
    assert [str(finding) for finding in tally.split_findings(tallies)] == [
        "val.json: shares 41 ids with train: 60, 61, 62 and 38 more",
        "test.json: shares 1 id with val: 108",
    ]


def test_one_split_is_not_compared_with_others(made: MadeSet) -> None:
    for name in ("cat not learned", "a copy in val", "lists"):
        DAMAGES[name].do(made)
    made.save()
    assert counts(check(made.root, ["train"], workers=1).findings) == {"category without segments": 1}
    assert len(check(made.root, ["val"], workers=1).findings) == 0


def test_a_set_without_val_is_told_of_and_so_is_a_small_one(made: MadeSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tally, "FEW_VAL", 3)
    assert counts(check(made.root, workers=1).findings) == {"tiny val split": 1}
    (made.root / "panoptic_val.json").unlink()
    assert counts(check(made.root, workers=1).findings) == {"no val split": 1}


def test_other_trees_are_read_too(made: MadeSet, tmp_path: Path) -> None:
    DAMAGES["wrong area"].do(made)
    made.save()
    entry = "{pictures: data/train, maps: data/panoptic_train, json: data/panoptic_train.json}"
    (tmp_path / "set.yaml").write_text(f"train: {entry}\n")
    assert counts(check(tmp_path / "set.yaml", workers=1).findings) == {"wrong area": 1, "no val split": 1}


def test_a_split_that_cannot_be_opened_is_one_finding(made: MadeSet) -> None:
    (made.root / "panoptic_val.json").write_text("{")
    result = check(made.root, workers=1)
    assert counts(result.findings) == {"unusable split": 1, "no val split": 1}
    assert "line 1, column 2" in result.findings.text()


def test_class_names_that_differ_in_case_or_spaces_alone_are_one_note() -> None:
    names = {1: "Traffic  light", 2: "tree", 3: "trafficlight", 4: "TRAFFIC LIGHT", 5: "traffic-light"}
    classes = Categories.from_coco([{"id": i, "name": name, "isthing": 1} for i, name in names.items()])
    found = tally.class_findings([Tally(name, Path(f"{name}.json"), classes) for name in ("train", "val")])
    assert [str(finding) for finding in found if finding.kind == "class names alike"] == [
        "train.json: 'Traffic  light' (id 1), 'trafficlight' (id 3), 'TRAFFIC LIGHT' (id 4)"
    ]


def test_what_is_no_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no split"):
        check(tmp_path)
    with pytest.raises(InputError, match="is not there"):
        check(tmp_path / "nothing")


def test_a_split_that_is_not_there_is_refused(made: MadeSet) -> None:
    with pytest.raises(InputError, match="has no split 'test'"):
        check(made.root, ["test"])


QUICK = [
    "wrong size", "no map", "JPEG", "no picture", "picture size", "against its map", "upside down", "twice",
    "no iscrowd", "two skies", "dot", "nothing listed", "case", "lists", "no cat", "cat not learned", "unknown",
    "picture twice", "crowd of stuff", "isthing of stuff", "isthing as it is", "names in other letters",
]  # fmt: skip


@pytest.mark.parametrize("name", QUICK)
def test_headers_and_json_tell_much_of_it(name: str, made: MadeSet) -> None:
    DAMAGES[name].do(made)
    made.save()
    assert counts(check(made.root, quick=True, workers=1).findings) == DAMAGES[name].found


def test_a_quick_look_reads_no_pixels(made: MadeSet) -> None:
    for path in (made.map(), made.picture()):
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])
    assert not len(check(made.root, quick=True, workers=1).findings)
    assert counts(check(made.root, workers=1).findings) == {"unreadable map": 1, "unreadable picture": 1}


def test_the_trainer_s_part_tells_what_the_json_tells(made: MadeSet) -> None:
    for name in ("no cat", "two skies", "shared picture"):
        DAMAGES[name].do(made)
    made.save()
    splits = [(name, CocoPanoptic.open(made.root, name)) for name in ("train", "val")]
    assert counts(quick_check(splits)) == {
        "category without segments": 1, "shared picture": 1, "stuff in several segments": 1,
    }  # fmt: skip


def test_findings_come_back_from_json(made: MadeSet, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("wrong area", "no cat"):
        DAMAGES[name].do(made)
    made.save()
    findings = check(made.root, workers=1).findings
    again = Findings.from_json(json.loads(json.dumps(findings.to_json())))
    assert again.to_json() == findings.to_json()
    assert list(again) == list(findings)
    for broken in ([], {}, {"kinds": [{"name": "nothing", "findings": [{}]}]}, {"kinds": 3}):
        with pytest.raises(InputError, match=r"c\.json"):
            Findings.from_json(broken, "c.json")


def test_of_many_findings_the_first_are_kept_and_all_are_counted() -> None:
    findings = Findings(Finding("no box", "train", "a.json", i, 1, "has no bbox") for i in range(KEPT + 5))
    assert findings.count("no box") == len(findings) == KEPT + 5
    assert len(findings.of_kind("no box")) == KEPT
    assert f"and {KEPT + 2:,} more" in findings.text()
    assert Findings.from_json(findings.to_json()).count("no box") == KEPT + 5


def test_every_kind_is_known_by_the_damages_or_tested_by_itself() -> None:
    covered = {kind for damage in DAMAGES.values() for kind in damage.found}
    elsewhere = {"tiny val split", "no val split", "unusable split", "class imbalance"}
    of_evaluation = {"empty list", "one kind of classes", "nothing annotated", "faulty annotation"}
    assert KINDS.keys() == covered | elsewhere | of_evaluation


@pytest.mark.parametrize(
    ("change", "kinds"),
    [
        (lambda train: train.update(images=[]), {"empty list"}),
        (
            lambda train: [c.update(isthing=1) for c in train["categories"]],
            {"one kind of classes", "different categories"},
        ),
        (lambda train: train["annotations"][0].pop("file_name"), {"faulty annotation"}),
        (lambda train: train["annotations"][0].update(segments_info=None), {"faulty annotation"}),
        (lambda train: train.update(categories=[{"id": 1}]), {"faulty category"}),
    ],
)
def test_faults_of_evaluation_are_found(change: "object", kinds: set[str], made: MadeSet) -> None:
    change(made.json["train"])  # type: ignore[operator]
    made.save()
    found = check(made.root, workers=1).findings
    assert kinds <= {*counts(found)}


def test_nothing_annotated_is_an_error(made: MadeSet) -> None:
    for position in range(3):
        made.repaint(lambda ids: ids.fill(0), position=position)
    made.save()
    assert check(made.root, workers=1).findings.count("nothing annotated") == 1


def tally_of(
    segments: dict[int, int], pictures: int = 100, size: tuple[int, int] = (480, 640), area: int = 1024
) -> Tally:
    made = Tally("train", Path("a.json"), Categories.from_coco(CATEGORIES))
    for number in range(pictures):
        made.add(number, size, [SeenSegment(i, area, False) for i, n in segments.items() for _ in range(n)], 0)
    return made


def test_very_rare_classes_are_noted() -> None:
    rare = tally_of({17: 1, 187: 1})
    rare.segments[3] = 1
    assert not list(rare.imbalance())
    rare.segments[17] = 101
    (finding,) = rare.imbalance()
    assert finding.message == "segments: cat 101, but car 1, sky 100, cat 101"


def test_settings_fit_sizes_and_numbers() -> None:
    # things of 32 x 32 pixels in pictures of 480 x 640: as large as wanted
    assert [str(s) for s in suggest(tally_of({17: 3}))] == [
        "preprocess.short_side=480", "preprocess.max_side=640", "batch_size=14", "steps=1000",
    ]  # fmt: skip
    small, large = suggest(tally_of({17: 3}, area=100)), suggest(tally_of({17: 3}, area=40_000))
    assert (small[0].value, large[0].value) == (800, 320)
    assert suggest(tally_of({187: 1}))[0].value == 480, "stuff alone: as large as the pictures"
    assert suggest(tally_of({17: 1}, size=(100, 100), area=4))[0].value == 224, "at most enlarged twice"
    assert suggest(tally_of({}, pictures=0)) == ()
    assert suggest(tally_of({17: 3}, pictures=3))[2].value == 3


def test_settings_are_such_that_training_takes() -> None:
    from thingstuff.runs import make_config

    changes = {s.key: s.value for s in suggest(tally_of({17: 3}))}
    config = make_config("data", "panoptic-fcn-tiny", changes)
    assert (config.model.preprocess.short_side, config.train.batch_size, config.train.steps) == (480, 14, 1000)
    assert max(config.train.augment.short_sides) == 480, "augmentation follows"


def test_the_command_prints_and_writes_what_was_found(made: MadeSet, tmp_path: Path) -> None:
    DAMAGES["wrong box"].do(made)
    made.save()
    console = Console(record=True, width=200)
    assert run_check(Request(str(made.root), json=tmp_path / "c.json", workers=1), console) == 0, (
        "a warning is no error"
    )
    text = console.export_text()
    assert "warning: wrong box (1)" in text
    assert "0 errors, 1 warning, 0 notes" in text
    assert "preprocess.short_side=" in text
    report = json.loads((tmp_path / "c.json").read_text())
    assert counts(Findings.from_json(report["findings"])) == {"wrong box": 1}
    assert report["statistics"]["train"]["pictures"] == 3
    classes = {row["name"]: row["segments"] for row in report["statistics"]["train"]["classes"]}
    assert classes == {"cat": 3, "car": 3, "sky": 3, "sea": 3}
    assert report["statistics"]["train"]["void_share"] == pytest.approx(2 / 24)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"copy": True}, "--copy is for"),
        ({"min_area": 3}, "--min-area is for"),
        ({"drop_duplicates": True}, "--drop-duplicates is for"),
        ({"quick": True, "fix": Path("out")}, "--quick"),
        ({"json": Path("no/such/folder/c.json")}, "no folder"),
        ({"workers": 0}, "workers=0"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, object], words: str, made: MadeSet) -> None:
    with pytest.raises(InputError, match=words):
        run_check(Request(str(made.root), **options), Console(quiet=True))  # type: ignore[arg-type]


def test_files_that_are_there_are_not_replaced(made: MadeSet) -> None:
    for options in ({"fix": made.root}, {"json": made.root / "panoptic_val.json"}):
        with pytest.raises(InputError, match="is there already"):
            run_check(Request(str(made.root), **options), Console(quiet=True))


@pytest.mark.parametrize(
    "name", ["camvid_panoptic_mini", "coco_things_openlicence_mini", "fruits_nuts", "coco_panoptic_samples"]
)
def test_real_data_sets_have_no_errors(name: str, shared_data: Path) -> None:
    splits = ["val"]
    result = check(shared_data / name, splits, workers=1)
    assert not result.findings.grade_count("error")
    assert {*counts(result.findings)} <= {"category without segments", "thing in pieces"}
