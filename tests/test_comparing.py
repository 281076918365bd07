"""Per-picture sums and the bootstrap over them, against plain loops over PQAccumulator and against what is known."""

import io
import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from thingstuff.errors import InputError
from thingstuff.evaluation.comparing import (
    GROUPS,
    MEASURES,
    Comparison,
    Difference,
    compare_sums,
    qualities,
    resample_counts,
    resampled_totals,
)
from thingstuff.evaluation.pairs import compare_maps
from thingstuff.evaluation.picture_sums import PictureLines, PictureSums
from thingstuff.evaluation.pq import PQAccumulator, PQResult
from thingstuff.evaluation.segments import ImageId, Match, PictureMatches, ScoredPicture
from thingstuff.panoptic import Categories, Panoptic, Segment

CATEGORIES = Categories(("cat", "car", "sky", "sea"), (True, True, False, False), (17, 3, 187, 155))
UNLISTED = 99


def picture(image_id: ImageId, matched: Sequence[tuple[int, float]], missed: Sequence[int] = ()) -> ScoredPicture:
    """Make a picture of matches (category_id, IoU) and missed ground truth by category_id."""
    return scored(image_id, PictureMatches(_matches(matched), dict(enumerate(missed)), {}, {}))


def scored(image_id: ImageId, matches: PictureMatches) -> ScoredPicture:
    return ScoredPicture(image_id, {}, {}, {}, matches)


def _matches(matched: Sequence[tuple[int, float]]) -> tuple[Match, ...]:
    return tuple(Match(i, i, category_id, iou) for i, (category_id, iou) in enumerate(matched, start=1))


def some_pictures(count: int, seed: int, iou: float = 0.5) -> list[ScoredPicture]:
    """Make pictures of every kind: classes that are rare, unlisted or wholly missed, and pictures with nothing."""
    draw = random.Random(seed)
    pictures = []
    for number in range(count):
        ids = draw.choices((17, 3, 187, 155, UNLISTED), (9, 3, 5, 0.3, 1), k=draw.randrange(5))
        matched = [(i, draw.uniform(iou, 1.0)) for i in ids]
        missed = dict(enumerate(draw.choices((17, 187), k=draw.randrange(3))))
        false = dict(enumerate(draw.choices((17, 3), k=draw.randrange(2))))
        pictures.append(scored(number, PictureMatches(_matches(matched), missed, false, {1000: 17})))
    return pictures


def stored(pictures: Sequence[ScoredPicture], spool_bytes: int = 2**20) -> PictureSums:
    sums = PictureSums(CATEGORIES, spool_bytes)
    for each in pictures:
        sums.add(each)
    return sums


def plain(pictures: Sequence[ScoredPicture]) -> PQResult:
    scores = PQAccumulator(CATEGORIES, keep=False)
    for each in pictures:
        scores.add_matches(each.image_id, each.matches)
    return scores.result()


def as_array(result: PQResult) -> np.ndarray:
    """Return [groups, measures] as `qualities` does."""
    means = (result.all, result.things, result.stuff)
    return np.array([[np.nan if v is None else v for v in (mean.pq, mean.sq, mean.rq)] for mean in means])


THINGS = np.array(CATEGORIES.things, bool)


# Sums


def test_sums_add_up_to_the_accumulators_result() -> None:
    pictures = some_pictures(50, seed=1)
    sums = stored(pictures)
    assert len(sums) == 50
    total = sums.sums_at(np.arange(50)).sum(axis=0)
    for found, expected in zip(total, plain(pictures).per_class, strict=True):
        assert found[0] == pytest.approx(expected.iou, rel=1e-12)
        assert tuple(found[1:]) == (expected.tp, expected.fp, expected.fn)


def test_sums_are_found_at_any_positions_in_any_order() -> None:
    pictures = some_pictures(40, seed=2)
    positions = np.array([39, 3, 4, 5, 4, 0, 38, 39, 20])
    found = stored(pictures).sums_at(positions)
    for row, position in zip(found, positions, strict=True):
        own = pictures[position].matches.sums()
        assert {i for i in own if i != UNLISTED} == {CATEGORIES.ids[label] for label in np.flatnonzero(row.any(axis=1))}
        for label, category_id in enumerate(CATEGORIES.ids):
            if category_id in own:
                entry = own[category_id]
                assert row[label].tolist() == [entry.iou, entry.tp, entry.fp, entry.fn], "to the bit"


def test_nothing_is_read_of_no_positions() -> None:
    assert stored(some_pictures(3, seed=3)).sums_at(np.arange(0)).shape == (0, 4, 4)


def test_reading_and_adding_may_alternate() -> None:
    sums = PictureSums(CATEGORIES)
    for number in range(5):
        sums.add(picture(number, [(17, 0.75)] * number))
        assert sums.sums_at(np.arange(number + 1))[:, 0, 1].tolist() == list(range(number + 1))
        assert sums.sums_at(np.array([0])).sum() == 0, "the next is added behind the last, not where was read"


def test_a_store_beyond_its_memory_lies_on_disk_and_says_the_same() -> None:
    pictures = [picture(n, [(17, 0.6 + n / 10_000), (187, 0.9)]) for n in range(1500)]
    small, large = stored(pictures, spool_bytes=1000), stored(pictures)
    assert (small._records._file._rolled, large._records._file._rolled) == (True, False)
    assert len(small._records._buffer) < 2**16, "what is on disk is not kept in memory too"
    np.testing.assert_array_equal(small.sums_at(np.arange(1500)), large.sums_at(np.arange(1500)))
    np.testing.assert_array_equal(small.keys(), large.keys())
    file = small._records._file
    small.close()
    assert file.closed


def test_keys_tell_image_ids_apart() -> None:
    ids: list[ImageId] = [1, "1", 2, -1, "", "number 1", "\ud800"]
    keys = stored([picture(i, []) for i in ids]).keys()
    assert len({*keys.tolist()}) == len(ids)
    assert stored([picture("1", [])]).keys()[0] == keys[1]


# Lines


def scene(row: str) -> Panoptic:
    """Make a map one pixel high: a letter per segment, '.' for void; a to m are cats, n to z are sky."""
    letters = sorted({*row} - {"."})
    ids = np.array([[0 if c == "." else letters.index(c) + 1 for c in row]], np.int32)
    segments = [Segment(i, 0 if c < "n" else 2, row.count(c)) for i, c in enumerate(letters, start=1)]
    return Panoptic(ids, tuple(segments), CATEGORIES)


def test_lines_hold_each_pictures_sums_and_causes(tmp_path: Path) -> None:
    with PictureLines(tmp_path / "pictures.jsonl") as lines:
        lines.add(compare_maps(scene("aaaabbccnnn"), scene("aaa......zn"), "a", CATEGORIES))
        lines.add(compare_maps(scene("..."), scene("..."), 7, CATEGORIES))
        assert not (tmp_path / "pictures.jsonl").exists()
    first, second = map(json.loads, (tmp_path / "pictures.jsonl").read_text(encoding="utf-8").splitlines())
    assert first == {
        "image_id": "a",
        "pq": 0.75 / (1 + 0.5 * 5),
        "classes": [
            {"category_id": 17, "iou": 0.75, "tp": 1, "fp": 0, "fn": 2},
            {"category_id": 187, "iou": 0.0, "tp": 0, "fp": 2, "fn": 1},
        ],
        "causes": {"missed": 2, "split": 3},
    }
    assert second == {"image_id": 7, "pq": None, "classes": [], "causes": {}}
    assert [path.name for path in tmp_path.iterdir()] == ["pictures.jsonl"]


def broken_run(path: Path) -> None:
    with PictureLines(path) as lines:
        lines.add(picture(1, []))
        raise KeyboardInterrupt


def test_a_run_that_is_cut_off_leaves_no_lines(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        broken_run(tmp_path / "pictures.jsonl")
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_full_leaves_no_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    lines = PictureLines(tmp_path / "pictures.jsonl")
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        lines.close()
    assert not list(tmp_path.iterdir())


def test_lines_are_never_written_over_a_file_or_into_no_folder(tmp_path: Path) -> None:
    (tmp_path / "pictures.jsonl").write_text("mine")
    with pytest.raises(InputError, match=r"pictures\.jsonl is there already"):
        PictureLines(tmp_path / "pictures.jsonl")
    with pytest.raises(InputError, match="there is no folder"):
        PictureLines(tmp_path / "nowhere" / "pictures.jsonl")
    assert (tmp_path / "pictures.jsonl").read_text() == "mine"


# Resamples


@pytest.mark.parametrize(("pictures", "chunk"), [(1, 4), (7, 7), (10, 3), (10, 1), (9, 100)])
def test_every_resample_draws_as_many_pictures_as_there_are(pictures: int, chunk: int) -> None:
    chunks = list(resample_counts(pictures, 50, 0, chunk))
    assert all(part.shape[1] <= chunk for part in chunks)
    counts = np.concatenate(chunks, axis=1)
    assert counts.shape == (50, pictures)
    assert counts.sum(axis=1).tolist() == [pictures] * 50


@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_chunks_do_not_change_the_distribution(chunk: int) -> None:
    # 5 pictures: each set of counts has its exact multinomial probability
    resamples, pictures = 40_000, 5
    counts = np.concatenate(list(resample_counts(pictures, resamples, 3, chunk)), axis=1)
    found = Counter(map(tuple, counts.tolist()))
    draws = np.random.default_rng(4).integers(pictures, size=(resamples, pictures))
    expected = Counter(map(tuple, np.apply_along_axis(np.bincount, 1, draws, minlength=pictures).tolist()))
    assert len(found) == len(expected) == 126
    # chi-square of two samples: 125 degrees of freedom, standard deviation 15.8
    chi = sum((found[key] - expected[key]) ** 2 / (found[key] + expected[key]) for key in found | expected)
    assert 125 - 4.5 * 15.8 < chi < 125 + 4.5 * 15.8


def test_resamples_equal_a_plain_loop_over_the_pictures_drawn() -> None:
    pictures, resamples = some_pictures(60, seed=5), 40
    counts = list(resample_counts(60, resamples, 6, chunk=13))
    found = qualities(resampled_totals([stored(pictures)], [np.arange(60)], counts)[0], THINGS)
    for row, times in zip(found, np.concatenate(counts, axis=1), strict=True):
        drawn = [pictures[n] for n in np.repeat(np.arange(60), times)]
        np.testing.assert_allclose(row, as_array(plain(drawn)), rtol=1e-12)


def test_a_class_or_group_that_a_resample_lacks_is_no_part_of_its_mean() -> None:
    pictures = [
        picture(0, [(17, 1.0), (3, 0.6)]),
        picture(1, [(17, 0.8)]),
        picture(2, [(187, 0.7)], missed=[155]),  # a class that is only missed does occur
    ]
    weights = np.array([[1, 1, 1], [0, 3, 0], [0, 0, 3], [1, 2, 0]])
    found = qualities(resampled_totals([stored(pictures)], [np.arange(3)], [weights])[0], THINGS)[:, :, 0]
    expected = [[(0.9 + 0.6 + 0.7) / 4, 0.75, 0.35], [0.8, 0.8, np.nan], [0.35, np.nan, 0.35]]
    np.testing.assert_allclose(found, [*expected, [(2.6 / 3 + 0.6) / 2, (2.6 / 3 + 0.6) / 2, np.nan]])


def test_intervals_are_those_of_a_plain_bootstrap() -> None:
    first, second = some_pictures(40, seed=7), some_pictures(40, seed=8, iou=0.6)
    found = compare_sums({"first": stored(first), "second": stored(second)}, resamples=4000)
    indices = np.random.default_rng(9).integers(40, size=(200, 40))
    samples = [[as_array(plain([pictures[i] for i in row])) for row in indices] for pictures in (first, second)]
    values, differences = np.array(samples), np.subtract(samples[1], samples[0])
    for number, row in enumerate(found.rows):
        g, m = divmod(number, 3)
        assert (row.group, row.measure) == (GROUPS[g], MEASURES[m])
        loops = (values[0, :, g, m], values[1, :, g, m], differences[:, g, m])
        for estimate, loop in zip((*row.values, *row.differences), loops, strict=True):
            # the 2.5th percentile of 200 scatters by about a fifth of a standard deviation
            bounds = np.array([estimate.low, estimate.high], float)
            np.testing.assert_allclose(bounds, np.percentile(loop, (2.5, 97.5)), atol=0.6 * loop.std())


def test_intervals_hold_the_resamples_alone_whoever_is_compared() -> None:
    pictures = some_pictures(30, seed=18)
    store = stored(pictures)
    (counts,) = resample_counts(30, 10, seed=19)
    sample = qualities(resampled_totals([store], [np.arange(30)], [counts])[0], THINGS)[:, 0, 0]
    low, high = np.percentile(sample, (2.5, 97.5))
    for others in ({}, {"other": stored(some_pictures(30, seed=20))}):
        estimate = compare_sums({"own": store, **others}, resamples=10, seed=19).row("all", "pq").values[0]
        assert (estimate.low, estimate.high) == pytest.approx((low, high), rel=1e-12)


# Comparisons


def test_values_are_those_of_the_accumulator() -> None:
    pictures = [some_pictures(700, seed=n) for n in range(3)]
    found = compare_sums({f"{n}": stored(each) for n, each in enumerate(pictures)}, resamples=20)
    assert (found.names, found.pictures, found.scored) == (("0", "1", "2"), 700, (700, 700, 700))
    for n, each in enumerate(pictures):
        values = [row.values[n].value for row in found.rows]
        np.testing.assert_allclose(np.array(values, float).reshape(3, 3), as_array(plain(each)), rtol=1e-12)
    row = found.row("things", "rq")
    assert row.differences[1].value == row.values[2].value - row.values[0].value
    assert len(row.differences) == 2


def test_identical_predictions_differ_by_exactly_nothing() -> None:
    pictures = some_pictures(600, seed=10)
    shuffled = random.Random(0).sample(pictures, 600)
    found = compare_sums({"a": stored(pictures), "b": stored(pictures), "shuffled": stored(shuffled)})
    assert {d for row in found.rows for d in row.differences} == {Difference(0.0, 0.0, 0.0, 0.0)}
    assert not any(d.clear for row in found.rows for d in row.differences)


def test_the_seed_alone_decides() -> None:
    sums = {"a": stored(some_pictures(50, seed=11)), "b": stored(some_pictures(50, seed=12))}
    first, again, other = (compare_sums(sums, resamples=200, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first.rows != other.rows
    assert first.row("all", "pq").values[0].value == other.row("all", "pq").values[0].value


def test_a_prediction_that_is_better_everywhere_is_better_in_every_resample() -> None:
    worse = [picture(n, [(17, 0.6), (187, 0.7)], missed=[17] * (n % 2)) for n in range(40)]
    better = [picture(n, [(17, 0.65), (187, 0.75)], missed=[17] * (n % 2)) for n in range(40)]
    found = compare_sums({"worse": stored(worse), "better": stored(better)})
    (difference,) = found.row("stuff", "pq").differences
    assert difference.value == pytest.approx(0.05)
    assert (difference.low, difference.high) == pytest.approx((0.05, 0.05))
    assert difference.above == 1.0
    assert difference.clear
    (reverse,) = compare_sums({"better": stored(better), "worse": stored(worse)}).row("stuff", "pq").differences
    assert (reverse.above, reverse.clear) == (0.0, True)


def test_intervals_cover_the_true_difference_in_about_95_percent() -> None:
    # one segment a picture, found or not: PQ is the sum of IoUs over (pictures + found) / 2, so in the long run
    # 0.8 x 0.7 / 0.9 where 8 of 10 are found at a mean IoU of 0.7
    true = 0.7 * 0.8 / 0.85 - 0.8 * 0.7 / 0.9
    covered, repetitions = 0, 100
    for repetition in range(repetitions):
        draw = random.Random(repetition)
        first, second = PictureSums(CATEGORIES), PictureSums(CATEGORIES)
        for n in range(60):
            hard = draw.random()  # the two predictions are not independent
            a = [(17, draw.uniform(0.6, 0.8))] if hard < 0.8 else []
            b = [(17, draw.uniform(0.7, 0.9))] if hard < 0.7 else []
            first.add(picture(n, a, missed=[17] * (not a)))
            second.add(picture(n, b, missed=[17] * (not b)))
        (difference,) = compare_sums({"a": first, "b": second}, resamples=300, seed=repetition).rows[0].differences
        assert difference.low is not None
        assert difference.high is not None
        covered += difference.low <= true <= difference.high
    assert 0.88 <= covered / repetitions <= 0.99


def test_only_pictures_that_all_have_are_compared() -> None:
    first, second, third = some_pictures(60, seed=13), some_pictures(60, seed=14), some_pictures(60, seed=15)
    kept = [n for n in range(60) if n % 5 and n % 7]
    found = compare_sums(
        {
            "all": stored(first),
            "some": stored([each for each in second if each.image_id % 5]),
            "others": stored([each for each in reversed(third) if each.image_id % 7]),
        },
        resamples=50,
    )
    same = {name: stored([every[n] for n in kept]) for name, every in zip(found.names, (first, second, third))}  # noqa: B905
    assert found.rows == compare_sums(same, resamples=50).rows
    assert (found.pictures, found.scored) == (len(kept), (60, 48, 51))
    assert "only pictures that all predictions have are compared; scored: all 60, some 48, others 51" in caption(found)


def test_one_prediction_has_intervals_and_no_differences() -> None:
    found = compare_sums({"a": stored(some_pictures(30, seed=16))}, resamples=100)
    estimate = found.row("all", "pq").values[0]
    assert estimate.low < estimate.value < estimate.high
    assert [row.differences for row in found.rows] == [()] * 9


def test_progress_is_told() -> None:
    told: list[tuple[int, int]] = []
    sums = {"a": stored([picture(n, []) for n in range(1100)])}
    compare_sums(sums, resamples=5, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (1100, 1100)
    assert told == sorted({*told})


def test_groups_that_never_occur_have_no_values() -> None:
    pictures = [picture(n, [(17, 0.6)]) for n in range(5)]
    found = compare_sums({"a": stored(pictures), "b": stored(pictures)}, resamples=10)
    row = found.row("stuff", "pq")
    assert row.values[1] == (None, None, None)
    assert row.differences[0] == (None, None, None, None)
    assert not row.differences[0].clear
    assert cells_of(shown(found))["Stuff PQ"] == ["n/a"] * 4


# Tables and JSON


def shown(comparison: Comparison) -> str:
    console = Console(width=150, file=io.StringIO(), record=True)
    console.print(comparison.table())
    return console.export_text()


def cells_of(text: str) -> dict[str, list[str]]:
    """Return a table's cells by the first of their row."""
    rows = ([cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if "│" in line)
    return {first: cells for first, *cells in rows}


def caption(comparison: Comparison) -> str:
    """Return what stands under the table, in one line."""
    return " ".join(shown(comparison).rpartition("┘")[2].split())


def test_the_table_marks_what_is_clear() -> None:
    worse = [picture(n, [(17, 0.6), (187, 0.6 + n % 7 / 20)]) for n in range(30)]
    better = [picture(n, [(17, 0.7), (187, 0.6 + n * 3 % 7 / 20)]) for n in range(30)]
    found = compare_sums({"old [x]": stored(worse), "new": stored(better)}, resamples=200)
    text = shown(found)
    assert "new - old [x]" in text, "names are no markup"
    cells = cells_of(text)
    assert [*cells] == [f"{group} {measure}" for group in ("All", "Things", "Stuff") for measure in ("PQ", "SQ", "RQ")]
    assert cells["Things PQ"] == ["60.0", "70.0", "+10.00 [+10.00, +10.00] *", "100 %"]
    assert cells["Things RQ"] == ["100.0", "100.0", "+0.00 [+0.00, +0.00]", "0 %"]
    assert not cells["Stuff PQ"][2].endswith("*")
    assert caption(found) == "[95 % intervals] from 200 resamples of 30 pictures (seed 0); * excludes 0"


def test_one_prediction_is_shown_with_its_intervals() -> None:
    found = compare_sums({"a": stored([picture(n, [(17, 0.6)]) for n in range(20)])}, resamples=10)
    assert cells_of(shown(found))["Things PQ"] == ["60.0 [60.0, 60.0]"]
    assert caption(found) == "[95 % intervals] from 10 resamples of 20 pictures (seed 0)"


def test_few_pictures_are_noted() -> None:
    found = compare_sums({"a": stored([picture(0, [(17, 0.6)])])}, resamples=10)
    assert "10 resamples of 1 picture (seed 0)" in caption(found)
    assert "with fewer than 20 pictures the intervals are unreliable" in caption(found)


def test_json_brings_everything_back() -> None:
    pictures = [each for each in some_pictures(30, seed=17) if 187 not in each.matches.sums()]
    found = compare_sums({"a": stored(pictures), "b": stored(pictures[3:])}, resamples=50, seed=5)
    assert Comparison.from_json(json.loads(json.dumps(found.to_json()))) == found
    data = found.to_json()
    del data["rows"][0]["values"]
    with pytest.raises(InputError, match="no comparison: KeyError"):
        Comparison.from_json(data)
    with pytest.raises(InputError, match="no row 'cats', 'pq'"):
        found.row("cats", "pq")


# What is refused

OTHER = Categories(("cat",), (True,), (17,))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: compare_sums({}), "no prediction"),
        (lambda: compare_sums({"a": stored([]), "b": stored([])}), "no picture is scored in all of a, b"),
        (lambda: compare_sums({"a": stored([picture(1, [])]), "b": stored([picture(2, [])])}), "no picture is scored"),
        (lambda: compare_sums({"a": PictureSums(CATEGORIES), "b": PictureSums(OTHER)}), "different categories"),
        (lambda: compare_sums({"a": stored([picture(1, [])] * 2)}), "a: a picture was added twice"),
        (lambda: compare_sums({"a": stored([picture(1, [(17, float("inf"))])])}), "a: an IoU is not finite"),
        (lambda: compare_sums({"a": stored([picture(1, [])])}, resamples=0), "resamples is 0"),
        (lambda: compare_sums({"a": stored([picture(1, [])])}, seed=-1), "seed -1"),
    ],
)
def test_what_cannot_be_compared_is_refused(make: Callable[[], Comparison], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
