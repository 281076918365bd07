"""What curing a cause brings, by the document and by hand; pixels confused, the worst pictures, tables and JSON."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from test_causes import CATEGORIES, Plain, drawn, random_pictures
from thingstuff.errors import InputError
from thingstuff.evaluation.causes import CAUSES, segment_errors
from thingstuff.evaluation.errors import SIZES, Confusion, ErrorAccumulator, ErrorReport
from thingstuff.evaluation.pairs import compare_maps
from thingstuff.evaluation.pq import ClassPQ, PQAccumulator, PQResult
from thingstuff.evaluation.segments import ScoredPicture, TruthSegment, match_segments
from thingstuff.panoptic import Categories, Panoptic, Segment

EXAMPLE = Categories(("dog", "car", "sky"), (True, True, False), (18, 3, 187))
DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "causes.md"


def report_of(pictures: Sequence[ScoredPicture], categories: Categories = CATEGORIES, worst: int = 20) -> ErrorReport:
    scores, errors = PQAccumulator(categories), ErrorAccumulator(categories, worst)
    for number, picture in enumerate(pictures):
        scores.add_matches(number, picture.matches)
        errors.add(picture)
    return errors.result(scores.result())


def compared(pairs: Sequence[tuple[Panoptic, Panoptic]]) -> list[ScoredPicture]:
    return [compare_maps(truth, prediction, i, truth.categories) for i, (truth, prediction) in enumerate(pairs)]


def rows(truth: str, prediction: str, crowds: str = "") -> tuple[Panoptic, Panoptic]:
    return drawn(truth, crowds), drawn(prediction)


def gains(report: ErrorReport) -> dict[str, float | None]:
    return {row.cause: row.gain for row in report.causes if row.truths or row.predictions}


# By hand


def test_a_cure_turns_truths_into_matches_and_takes_predictions_away() -> None:
    # cat: TP 1 (IoU 4/5), FN 1 missed, FP 1 false; sky exact
    report = report_of(compared([rows("aaaaabb.ssssssss", "AAAA....SSSSSSSS"), rows("ssss", "SSSB")]))
    cat, sky = 0.8 / 2, 1.75 / 2
    assert gains(report) == {
        "missed": pytest.approx((1.6 / 2.5 + sky) / 2 - (cat + sky) / 2),
        "false": pytest.approx((0.8 / 1.5 + sky) / 2 - (cat + sky) / 2),
    }
    missed, false = report.causes[0], report.causes[1]
    assert (missed.truths, missed.predictions, false.truths, false.predictions) == (1, 0, 0, 1)
    assert missed.gain_things == pytest.approx(1.6 / 2.5 - cat)
    assert missed.gain_stuff == 0.0
    assert [c.gain for c in report.per_class[0].causes[:2]] == pytest.approx([1.6 / 2.5 - cat, 0.8 / 1.5 - cat])
    assert [c.gain for c in report.per_class[1].causes] == [None] * 7, "no car anywhere"
    assert [c.gain for c in report.per_class[2].causes] == [0.0] * 7
    assert report.mask_gain_things == pytest.approx(1 / 2 - cat)
    assert report.mask_gain_stuff == pytest.approx(1 - sky)
    assert report.mask_gain == pytest.approx((1 / 2 + 1 - cat - sky) / 2)


def test_a_class_without_matches_takes_the_mean_iou_of_all_or_1() -> None:
    report = report_of(compared([rows("aasssskk", "..SSS.KK")]))
    assert report.per_class[0].causes[0].gain == pytest.approx((0.75 + 1) / 2)
    assert gains(report_of(compared([rows("aa..", "....")]))) == {"missed": 1.0}


def test_a_class_with_nothing_left_leaves_the_average() -> None:
    # car is predicted and never there: PQ 0 as long as it is
    report = report_of(compared([rows("ssss", "SSSK")]))
    assert gains(report) == {"false": 0.75 - 0.75 / 2}
    false = report.causes[1]
    assert (false.gain_things, false.gain_stuff) == (None, 0.0)
    assert report.per_class[1].causes[1].gain is None
    nothing_left = report_of(compared([rows("aa..", "KKKK"), rows("tt", "KK")]))
    assert nothing_left.causes[1].predictions == 0
    alone = replace(compared([rows("....", "KKKK")])[0].matches, ignored={}, false={1: 3})
    assert gains(report_of([ScoredPicture("alone", {(0, 1): 4}, {}, {1: 3}, alone)])) == {"false": None}


def test_where_nothing_is_cured_nothing_rises_to_the_last_bit() -> None:
    iou, tp = 3.4, 5
    assert iou / tp * tp != iou
    scores = PQResult.of([ClassPQ(i, str(i), True, iou, tp, 1, 2) for i in CATEGORIES.ids], 1)
    report = ErrorAccumulator(CATEGORIES).result(scores)
    assert [(row.gain, row.gain_things, row.gain_stuff) for row in report.causes] == [(0.0, 0.0, None)] * 7
    assert {c.gain for row in report.per_class for c in row.causes} == {0.0}


def test_sizes_are_of_the_segment_s_own_pixels() -> None:
    limits = [(1023, "small"), (1024, "medium"), (9215, "medium"), (9216, "large")]
    for area, size in limits:
        shared = {(1, 1): area, (2, 2): 1}
        truths = {1: TruthSegment(187, area, False), 2: TruthSegment(17, 1, False)}
        predictions = {1: 17, 2: 17}
        matches = match_segments(shared, truths, predictions)
        report = report_of([ScoredPicture(0, shared, truths, predictions, matches)])
        (wrong,) = [row for row in report.causes if row.cause == "wrong class"]
        counted = {s.size: (s.truths, s.predictions, s.gain) for s in wrong.sizes}
        assert counted == {s: (1, 1, wrong.gain) if s == size else (0, 0, 0.0) for s in SIZES}


# By the document


class PlainGains:
    """PQ's sums of all pictures, and its rise where some of the unmatched segments are cured."""

    def __init__(self, pairs: Sequence[tuple[Panoptic, Panoptic]]) -> None:
        self.tp, self.fp, self.fn = Counter[int](), Counter[int](), Counter[int]()
        self.iou: dict[int, Fraction] = dict.fromkeys(range(4), Fraction(0))
        self.unmatched: list[tuple[str, str, bool, int]] = []  # cause, size, of the ground truth?, label
        for truth, prediction in pairs:
            plain = Plain(truth, prediction)
            for t, (_, quality) in plain.match.items():
                self.tp[plain.t_class[t]] += 1
                self.iou[plain.t_class[t]] += quality
            for (is_truth, i), (cause, _, _) in plain.explain().items():
                label = (plain.t_class if is_truth else plain.p_class)[i]
                (self.fn if is_truth else self.fp)[label] += 1
                area = len(plain.pixels(truth if is_truth else prediction, i))
                size = "small" if area < 32 * 32 else "medium" if area < 96 * 96 else "large"
                self.unmatched.append((cause, size, is_truth, label))

    def quality(self, label: int, truths: int, predictions: int) -> Fraction | None:
        matches = sum(self.tp.values())
        sq = sum(self.iou.values()) / matches if matches else Fraction(1)
        if self.tp[label]:
            sq = self.iou[label] / self.tp[label]
        tp, fp, fn = self.tp[label] + truths, self.fp[label] - predictions, self.fn[label] - truths
        return sq * tp / (tp + Fraction(fp, 2) + Fraction(fn, 2)) if tp or fp or fn else None

    def rise(self, cause: str, labels: Sequence[int], sizes: Sequence[str] = SIZES) -> float | None:
        cured = Counter((side, label) for name, size, side, label in self.unmatched if name == cause and size in sizes)
        before = [self.quality(label, 0, 0) for label in labels]
        after = [self.quality(label, cured[True, label], cured[False, label]) for label in labels]
        old, new = ([value for value in side if value is not None] for side in (before, after))
        return float(Fraction(sum(new)) / len(new) - Fraction(sum(old)) / len(old)) if old and new else None


def enlarged(panoptic: Panoptic, times: int) -> Panoptic:
    segments = tuple(replace(s, area=s.area * times**2) for s in panoptic.segments)
    return Panoptic(np.kron(panoptic.ids, np.ones((times, times), np.int32)), segments, CATEGORIES)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_gains_equal_the_document_s(seed: int) -> None:
    pairs = random_pictures(seed, count=6)
    pairs += [(enlarged(truth, 8), enlarged(prediction, 8)) for truth, prediction in pairs[:3]]
    report, plain = report_of(compared(pairs)), PlainGains(pairs)
    for i, row in enumerate(report.causes):
        assert row.cause == CAUSES[i]
        expected = [plain.rise(row.cause, labels) for labels in (range(4), (0, 1), (2, 3))]
        assert [row.gain, row.gain_things, row.gain_stuff] == pytest.approx(expected, abs=1e-12)
        assert [c.causes[i].gain for c in report.per_class] == pytest.approx(
            [plain.rise(row.cause, [label]) for label in range(4)], abs=1e-12
        )
        by_size = [plain.rise(row.cause, range(4), [size]) for size in SIZES]
        assert [s.gain for s in row.sizes] == pytest.approx(by_size, abs=1e-12)
        counts = Counter((size, side) for name, size, side, _ in plain.unmatched if name == row.cause)
        assert [(s.truths, s.predictions) for s in row.sizes] == [(counts[s, True], counts[s, False]) for s in SIZES]
        assert (row.truths, row.predictions) == tuple(sum(counts[s, side] for s in SIZES) for side in (True, False))
        of_class = Counter((label, side) for name, _, side, label in plain.unmatched if name == row.cause)
        found = [(c.causes[i].truths, c.causes[i].predictions) for c in report.per_class]
        assert found == [(of_class[label, True], of_class[label, False]) for label in range(4)]
    assert {size for _, size, _, _ in plain.unmatched} >= {"small", "medium"}
    assert {cause for cause, _, _, _ in plain.unmatched} == {*CAUSES}


def document_tables() -> list[list[list[str]]]:
    """Return the tables of docs/causes.md as rows of cells, headings left out."""
    blocks = re.findall(r"(?:^\|.*\n)+", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    return [[[cell.strip() for cell in line.strip("|").split("|")] for line in b.splitlines()[2:]] for b in blocks]


def document_example() -> list[ScoredPicture]:
    """Return the picture that docs/causes.md draws: six rows of two halves, ground truth and prediction."""
    text = DOCUMENT.read_text(encoding="utf-8")
    drawing = re.findall(r"^    (\S{6}) (\S{6})    (\S{6}) (\S{6})$", text, re.MULTILINE)
    assert len(drawing) == 6
    labels = {c: label for label, row in enumerate(document_tables()[0]) for side in row[1:] for c in side.split()}
    maps = []
    for side in (0, 2):
        lines = [row[side] + row[side + 1] for row in drawing]
        maps.append(scene(lines, {c: labels[c] for line in lines for c in line if c != "."}, EXAMPLE))
    return compared([(maps[0], maps[1])])


def scene(lines: Sequence[str], labels: dict[str, int], categories: Categories) -> Panoptic:
    letters = sorted(labels)
    ids = np.array([[letters.index(c) + 1 if c != "." else 0 for c in line] for line in lines], np.int32)
    segments = (Segment(i, labels[c], int((ids == i).sum())) for i, c in enumerate(letters, 1))
    return Panoptic(ids, tuple(segments), categories)


def test_the_example_in_the_document() -> None:
    _, explained, figures = document_tables()
    pictures = document_example()
    said = {("abcdefgs" if e.is_truth else "ABCDEFGHS")[e.segment_id - 1]: e.cause for e in segment_errors(pictures[0])}
    assert said == {letter: row[1] for row in explained for letter in row[0].split()}
    report = report_of(pictures, EXAMPLE)
    lines = [[r.cause, str(r.truths), str(r.predictions), r.gain, r.gain_things, r.gain_stuff] for r in report.causes]
    lines += [["inexact matches", "", "", report.mask_gain, report.mask_gain_things, report.mask_gain_stuff]]
    assert figures == [[*line[:3], *(f"{100 * gain:.1f}" for gain in line[3:])] for line in lines]


# Pixels and pictures


def test_things_stuff_and_void() -> None:
    pairs = [rows("aaakkss.tt..", "AASSK.SSKTT.", crowds="k")]
    report = report_of(compared(pairs))
    # rows: things, stuff, void of the ground truth; the crowd of cars counts as things
    assert report.thing_stuff == ((3, 2, 0), (1, 2, 1), (0, 2, 1))
    assert report.labelled_pixels == 9
    assert report_of(compared(pairs * 3)).thing_stuff == ((9, 6, 0), (3, 6, 3), (0, 6, 3))


def test_confusions_are_the_most_frequent_first_and_leave_out_void_truth() -> None:
    report = report_of(compared([rows("aaaakksss..", "AKKKSSS..TT"), rows("bkkt", "TAAT")]))
    assert report.confusions == (
        Confusion(17, 3, 3),
        Confusion(3, 17, 2),
        Confusion(3, 187, 2),
        Confusion(187, None, 2),
        Confusion(17, 155, 1),
    )


def test_fifty_confusions_are_kept() -> None:
    categories = Categories(tuple(map(str, range(1, 62))), (True,) * 61, tuple(range(1, 62)))
    shared = {(i, 61): i for i in range(1, 61)}
    truths = {i: TruthSegment(i, i, False) for i in range(1, 61)}
    matches = match_segments(shared, truths, {61: 61})
    report = report_of([ScoredPicture(0, shared, truths, {61: 61}, matches)], categories)
    assert [c.pixels for c in report.confusions] == [*range(60, 10, -1)]


def test_what_is_of_no_listed_category_counts_nowhere() -> None:
    shared = {(1, 1): 3, (2, 0): 5, (9, 1): 1, (0, 8): 2}
    truths = {1: TruthSegment(17, 3, False), 2: TruthSegment(999, 5, False)}
    picture = ScoredPicture("odd", shared, truths, {1: 17}, match_segments(shared, truths, {1: 17}))
    report = report_of([picture])
    assert picture.matches.missed == {2: 999}
    assert (gains(report), report.confusions) == ({}, ())
    assert report.thing_stuff == ((3, 0, 0), (0, 0, 0), (0, 0, 2))
    assert [(w.image_id, w.errors) for w in report.worst] == [("odd", ())]


def test_the_worst_pictures() -> None:
    half, nothing, more = rows("aaaass", "AAA..."), rows("aass", "...."), rows("aassk", ".....")
    pairs = [half, nothing, rows("ss", "SS"), rows("..", "KK"), more, nothing, half]
    report = report_of(compared(pairs))
    assert [w.image_id for w in report.worst] == [4, 1, 5, 0, 6], "neither perfect nor void; more errors, then earlier"
    assert [(w.pq, w.matched, len(w.errors)) for w in report.worst] == [
        (0.0, 0, 3), (0.0, 0, 2), (0.0, 0, 2), (0.5, 1, 1), (0.5, 1, 1),
    ]  # fmt: skip
    assert report.worst[0].errors == segment_errors(compared(pairs)[4])
    errors = ErrorAccumulator(CATEGORIES, worst=2)
    for picture in compared(pairs):
        errors.add(picture)
    assert [picture.image_id for picture in errors.worst_pictures()] == [4, 1]
    for count in (0, 1, 2, 4):
        assert report_of(compared(pairs), worst=count).worst == report.worst[:count]
        assert [w.pq for w in report_of(compared(pairs[::-1]), worst=count).worst] == [0.0, 0.0, 0.0, 0.5][:count]


# Tables and JSON


def cells(report: ErrorReport, per_class: bool = False) -> list[list[list[str]]]:
    """Return each printed table as rows of cells, with its heading."""
    console, found = Console(width=200), []
    for table in report.tables(per_class):
        with console.capture() as capture:
            console.print(table)
        lines = [re.split("[│┃]", line)[1:-1] for line in capture.get().splitlines() if line[:1] in ("│", "┃")]
        found.append([[cell.strip() for cell in line] for line in lines])
    return found


def test_tables_of_the_example() -> None:
    report = report_of(document_example(), EXAMPLE)
    by_cause, by_size, pixels, confusions, worst, classes = cells(report, per_class=True)
    assert by_cause[1:] == document_tables()[2]
    assert by_size[0] == ["Cause", "small", "+PQ", "medium", "+PQ", "large", "+PQ"]
    assert by_size[4] == ["split", "1 / 2", "4.0", "0 / 0", "0.0", "0 / 0", "0.0"]
    assert pixels[1:] == [["things", "36.1", "0.0", "13.9"], ["stuff", "2.8", "47.2", "0.0"]]
    assert pixels[0] == ["Ground truth", "as things", "as stuff", "as void"]
    assert confusions[1:3] == [["car", "(void)", "8.3"], ["car", "dog", "8.3"]]
    summary = "1/0 missed, 0/1 false, 1/1 wrong class, 1/2 split, 2/1 merged, 1/1 poor mask, 0/1 duplicate"
    assert worst[0] == ["Picture", "PQ", "Matched", "Unmatched: truths / predictions"]
    assert worst[1:] == [["0", "19.0", "2", summary]]
    assert classes[0] == ["Class", *CAUSES]
    assert classes[1] == [
        "dog", "", "0/1 +0.9", "0/1 +0.9", "1/2 +12.0", "2/1 +18.3", "1/1 +10.3", "0/1 +0.9",
    ]  # fmt: skip
    assert classes[2:] == [["car", "1/0 +53.7", "", "1/0 +53.7", "", "", "", ""], ["sky", *[""] * 7]]
    assert cells(report) == [by_cause, by_size, pixels, confusions, worst]


def test_tables_of_nothing_and_of_odd_names() -> None:
    by_cause, _, pixels = cells(report_of(compared([rows("..", "..")])))
    assert by_cause[1] == ["missed", "0", "0", "n/a", "n/a", "n/a"]
    assert pixels[1] == ["things", "n/a", "n/a", "n/a"]
    odd = Categories(("[red]x", "[/]"), (True, False), (1, 2))
    truth, prediction = scene(["aab"], {"a": 0, "b": 1}, odd), scene(["bbb"], {"b": 1}, odd)
    picture = compare_maps(truth, prediction, "[b]name", odd)
    tables = cells(report_of([picture], odd), per_class=True)
    assert [tables[3][1][:2], tables[4][1][0], tables[5][2][0]] == [["[red]x", "[/]"], "[b]name", "[/]"]


def test_void_truth_is_in_no_row_of_the_thing_stuff_table() -> None:
    report = report_of(compared([rows("aass......", "AASSTTTTTT")]))
    assert report.thing_stuff[2] == (0, 6, 0)
    assert cells(report)[2][1:] == [["things", "50.0", "0.0", "0.0"], ["stuff", "0.0", "50.0", "0.0"]]


def test_ten_rows_are_shown() -> None:
    report = report_of(compared([rows("aass", "....")] * 12))
    assert (len(report.worst), len(cells(report)[4])) == (12, 11)


def test_json_round_trip_is_exact() -> None:
    report = report_of(compared(random_pictures(seed=7, count=5)))
    assert ErrorReport.from_json(json.loads(json.dumps(report.to_json()))) == report
    assert ErrorReport.from_json(report.to_json()) == report
    empty = report_of([])
    assert ErrorReport.from_json(json.loads(json.dumps(empty.to_json()))) == empty
    data = report.to_json()
    assert data["worst"][0]["errors"][0]["cause"] in CAUSES
    assert data["causes"][3]["sizes"][0]["size"] == "small"
    for field in data:
        with pytest.raises(InputError, match=rf"{field}.*to_json\(\)"):
            ErrorReport.from_json({k: v for k, v in data.items() if k != field})
    with pytest.raises(InputError, match="no error report"):
        ErrorReport.from_json({**data, "confusions": [3]})
