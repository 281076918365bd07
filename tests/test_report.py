"""The report page: what stands on it, that it needs nothing beside itself, and that it never breaks a good one."""

import base64
import io
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from html_pages import Page, decoded
from thingstuff.drawing_progress import Animation
from thingstuff.errors import InputError
from thingstuff.evaluation.pq import ClassPQ, PQResult
from thingstuff.panoptic import Categories, Panoptic, Segment
from thingstuff.report import Example, RunReport, best_weights, write_report
from thingstuff.report_page import percent

CATEGORIES = Categories(("cup", "<b>table</b>", "sky"), (True, False, False), (7, 3, 9))
SECTIONS = ["result", "curves", "classes", "examples", "config", "again"]


def result(quality: float) -> PQResult:
    """A result whose class `sky` never occurs."""
    classes = [
        ClassPQ(7, "cup", True, 10 * quality, 10, 3, 1),
        ClassPQ(3, "<b>table</b>", False, 4 * quality, 4, 0, 2),
        ClassPQ(9, "sky", False, 0.0, 0, 0, 0),
    ]
    return PQResult.of(classes, 12)


def history(steps: int = 30) -> list[dict]:
    rows: list[dict] = []
    for step in range(1, steps + 1):
        parts = {"position": 3 / step, "mask": 2 / step}
        rows.append({"step": step, "loss": 5 / step, "losses": parts, "lr": 0.01, "seconds": step * 0.5})
    for step in (10, 20, 30):
        pq = {"all": {"pq": step / 100, "sq": 0.5, "rq": 0.5}, "things": {"pq": None}, "stuff": {"pq": 0.1}}
        rows.append({"step": step, "pq": pq})
    return rows


def example(name: str = "a.jpg", height: int = 128, width: int = 160, seed: int = 0) -> Example:
    rng = np.random.default_rng(seed)
    ids = np.ones((height, width), dtype=np.int32)
    ids[height // 4 : height // 2, width // 4 : width // 2] = 2
    ids[-height // 8 :] = 0
    truth = Panoptic(ids, (Segment(1, 1, 1), Segment(2, 0, 1)), CATEGORIES)
    prediction = Panoptic(ids.clip(max=1), (Segment(1, 1, 1),), CATEGORIES)
    return Example(name, rng.integers(0, 256, (height, width, 3)).astype(np.uint8), truth, prediction, 0.123)


def report(**changes) -> RunReport:
    fields = {
        "title": "Cups & <tables>",
        "command": "thingstuff train data --out runs/a 'seed=0'",
        "categories": CATEGORIES,
        "history": history(),
        "result": result(0.9),
        "baselines": {"most frequent <class>": result(0.2)},
        "examples": [example(), example("<i>b</i>.jpg", seed=1)],
        "config_yaml": "optim:\n  lr: 0.01 # <fast>\n",
        "notes": {"time": "5 min & 2 s"},
    }
    return RunReport(**{**fields, **changes})


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return Page(write_report(tmp_path_factory.mktemp("report") / "report.html", report()))


def test_it_needs_nothing_beside_itself(page: Page):
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "data", "poster", "action", "srcset"):
            assert (attributes.get(name) or "#").startswith(("data:image/", "#")), (tag, attributes)
    assert not page.all("link")
    assert "url(" not in page.text["head"]
    assert "@import" not in page.text["head"]


def test_links_lead_to_the_sections(page: Page):
    assert [section["id"] for section in page.all("section")] == SECTIONS
    assert [link["href"] for link in page.all("a")] == [f"#{section}" for section in SECTIONS]


def test_the_result_stands_beside_the_baselines(page: Page):
    ours, baseline = page.rows["result"][-2:]
    assert ours[0] == "this model"
    assert baseline[0] == "most frequent <class>"
    for row, expected in ((ours, result(0.9)), (baseline, result(0.2))):
        parts = (expected.all, expected.things, expected.stuff)
        assert row[1:] == [percent(v) for part in parts for v in (part.pq, part.sq, part.rq)]
    assert page.rows["result"][0] == ["", "All (2 classes)", "Things (1 class)", "Stuff (1 class)"]
    assert percent(result(0.9).all.pq) == "73.5"
    assert "scored on 12 pictures" in page.text["result"]
    assert "5 min & 2 s" in page.text["result"]


def test_the_result_says_of_which_step_the_weights_are(page: Page, tmp_path: Path):
    assert "scored on 12 pictures." in page.text["result"]
    shown = Page(write_report(tmp_path / "r.html", report(weights=best_weights(history()))))
    words = "scored on 12 pictures with the weights of step 30, the last and best of the 3 evaluations in training."
    assert words in shown.text["result"]


def test_the_best_weights_are_those_that_a_training_keeps():
    def scored(*pqs: float | None) -> list[dict]:
        rows = [{"step": 1000 * i, "pq": {"all": {"pq": pq}}} for i, pq in enumerate(pqs, 1)]
        return [{"step": 1, "loss": 2.0}, *rows]

    assert best_weights(scored(0.1, 0.5, 0.5, 0.4)) == "step 2,000, the best of the 4 evaluations in training"
    assert best_weights(scored(None, 0.0)) == "step 1,000, the best of the 2 evaluations in training"
    assert best_weights(scored(0.3)) == "step 1,000"
    assert best_weights(scored()) == ""


def test_every_class_has_its_row(page: Page):
    rows = page.rows["classes"]
    assert rows[0] == ["class", "kind", "PQ", "SQ", "RQ", "TP", "FP", "FN"]
    assert rows[1] == ["cup", "thing", "75.0", "90.0", "83.3", "10", "3", "1"]
    assert rows[2] == ["<b>table</b>", "stuff", "72.0", "90.0", "80.0", "4", "0", "2"]
    assert rows[3] == ["sky", "stuff", "n/a", "n/a", "n/a", "0", "0", "0"]
    values = [cell["data-value"] for cell in page.all("td") if "data-value" in cell]
    assert float(values[1] or "nan") == pytest.approx(0.75)
    assert values[8 + 7] == ""


def test_classes_without_a_pq_stand_last(tmp_path: Path):
    given = result(0.9)
    turned = PQResult.of([*given.per_class[::-1]], 12)
    shown = Page(write_report(tmp_path / "r.html", report(result=turned)))
    assert [row[0] for row in shown.rows["classes"][1:]] == ["<b>table</b>", "cup", "sky"]
    assert "Classes without a PQ stand last." in shown.text["classes"]
    every = Page(write_report(tmp_path / "e.html", report(result=PQResult.of([*given.per_class[:2]], 12))))
    assert "stand last" not in every.text["classes"]


def test_a_title_of_paths_may_break_at_their_parts(tmp_path: Path):
    path = write_report(tmp_path / "r.html", report(title="runs/<a>/best & all"))
    assert "<h1>runs<wbr>/&lt;a&gt;<wbr>/best &amp; all</h1>" in path.read_text(encoding="utf-8")


def test_what_people_wrote_is_escaped(page: Page):
    assert not page.all("tables")
    assert not page.all("i") or all("class" in attributes for attributes in page.all("i"))
    assert "Cups & <tables>" in page.text["head"]
    assert "<i>b</i>.jpg" in page.text["examples"]
    assert "lr: 0.01 # <fast>" in page.text["config"]
    assert "runs/a 'seed=0'" in page.text["again"]


def test_examples_are_shown_large_enough_with_legends(page: Page):
    images = decoded(page)
    assert len(images) == 6
    assert all(image.size == (640, 512) for image in images)
    assert "cup × 1" in page.text["examples"]
    assert page.text["examples"].count("void") == 1 + 4
    assert "PQ 12.3" in page.text["examples"]
    captions = [f"{what} of a.jpg" for what in ("Picture", "Ground truth", "Prediction")]
    assert [image["alt"] for image in page.all("img")][:3] == captions


def test_the_picture_shown_is_the_one_given(tmp_path: Path):
    given = example()
    red = Example("red", np.full_like(given.picture, (200, 10, 10)), given.truth, given.prediction, None)
    shown = Page(write_report(tmp_path / "r.html", report(examples=[red])))
    picture, truth, prediction = (np.array(image).astype(int) for image in decoded(shown))
    assert np.abs(picture - (200, 10, 10)).max() < 6
    cup = (slice(150, 175), slice(170, 195))
    assert np.abs(truth[cup] - prediction[cup]).mean() > 20
    assert "PQ n/a" in shown.text["examples"]


def test_curves_of_each_quantity(page: Page):
    labels = [svg["aria-label"] for svg in page.all("svg") if "aria-label" in svg]
    names = ["Loss", "Loss by part", "PQ during training, %", "Learning rate"]
    assert labels == [f"{name} by training step" for name in names]
    points = [line["points"].split() for line in page.all("polyline")]
    assert [len(p) for p in points] == [30, 30, 30, 3, 3, 30]  # total, mask, position, all, stuff, lr
    heights = [float(point.split(",")[1]) for point in points[3]]
    assert heights[0] > heights[1] > heights[2]  # PQ rises, SVG's y falls
    assert "all: 30 at step 30" in page.text["curves"]
    for line in points:
        for x, y in (map(float, point.split(",")) for point in line):
            assert 64 <= x <= 428
            assert 10 <= y <= 208


def test_a_long_history_is_thinned_and_says_so(tmp_path: Path):
    rows = [{"step": step, "loss": 2.0 + step % 2} for step in range(1000)]
    page = Page(write_report(tmp_path / "r.html", report(history=rows)))
    (line,) = [line["points"].split() for line in page.all("polyline")]
    assert len(line) == 200
    assert "each point is the mean of 5 rows" in page.text["curves"]


def test_losses_that_span_much_have_a_logarithmic_axis(tmp_path: Path):
    rows = [{"step": step, "loss": 10.0 ** (2 - step)} for step in range(5)]
    page = Page(write_report(tmp_path / "r.html", report(history=rows)))
    heights = [float(point.split(",")[1]) for point in page.all("polyline")[0]["points"].split()]
    assert np.diff(heights) == pytest.approx([49.5] * 4, abs=0.11)
    assert "logarithmic" in page.text["curves"]
    for tick in ("100", "0.01"):
        assert tick in page.text["curves"].split()


@pytest.mark.parametrize(
    "rows",
    [
        [{"step": 0, "loss": 0.0}],
        [{"step": 5, "loss": 1.0, "lr": 0.0, "losses": {}}],
        [{"step": 1, "loss": math.nan}, {"step": 2, "loss": 3.0}],
        [{"step": 1, "loss": -3.0}, {"step": 2_000_000, "loss": 1e-12}],
        [{"step": 1, "pq": {"all": {"pq": 1.0}, "things": {"pq": 0.0}, "stuff": None}}],
        [{"step": 1, "loss": 7.3e9}, {"step": 2, "loss": 7.4e9}],
    ],
)
def test_odd_histories_are_drawn_inside_their_frame(tmp_path: Path, rows):
    page = Page(write_report(tmp_path / "r.html", report(history=rows, examples=[])))
    assert page.all("polyline")
    for circle in page.all("circle"):
        assert 64 <= float(circle["cx"] or "nan") <= 428
        assert 10 <= float(circle["cy"] or "nan") <= 208


def test_what_is_missing_is_said(tmp_path: Path):
    bare = report(
        history=[], baselines={}, examples=[], config_yaml="", command="", notes={}, result=PQResult.of([], 0)
    )
    page = Page(write_report(tmp_path / "r.html", bare))
    for section, sentence in (
        ("result", "No baseline was measured"),
        ("curves", "No training history"),
        ("classes", "No class was scored"),
        ("examples", "No example pictures"),
        ("config", "No configuration"),
        ("again", "The command was not recorded"),
    ):
        assert sentence in page.text[section]
    assert page.rows["result"][-1] == ["this model", *["n/a"] * 9]


def test_twelve_large_noisy_examples_stay_below_5_mb(tmp_path: Path):
    examples = [example(f"{i}.jpg", 600, 800, seed=i) for i in range(12)]
    path = write_report(tmp_path / "r.html", report(examples=examples))
    assert 100_000 < path.stat().st_size < 5_000_000
    images = decoded(Page(path))
    assert len(images) == 36
    assert all(200 <= max(image.size) <= 640 for image in images)


def gif(frames: int = 3) -> bytes:
    """Frames of one colour each, the last one blue."""
    buffer = io.BytesIO()
    first, *rest = (Image.new("RGB", (40, 40), color) for color in ["red"] * (frames - 1) + ["blue"])
    first.save(buffer, "GIF", save_all=True, append_images=rest, duration=100, loop=0)
    return buffer.getvalue()


def test_the_progress_of_a_training_moves_and_stands_still(tmp_path: Path):
    page = Page(write_report(tmp_path / "r.html", report(progress=Animation(gif(), (0, 700, 1400)))))
    assert [section["id"] for section in page.all("section")] == [SECTIONS[0], "progress", *SECTIONS[1:]]
    moving, still = page.all("img")[:2]
    assert (moving["class"], still["class"]) == ("moving", "still")
    assert base64.b64decode((moving["src"] or "").partition("base64,")[2]) == gif()
    last = np.asarray(decoded(page)[1].convert("RGB"), int)[20, 20]
    assert np.abs(last - (0, 0, 255)).max() < 9
    assert "predicted it, step 0 … step 1,400, in 3 frames." in " ".join(page.text["progress"].split())


def test_the_steps_of_a_progress_are_those_of_its_frames(tmp_path: Path):
    """A run may go on without its first frames, or lose the last ones; the history has all steps."""
    for steps, words in (((20, 10_000), "step 20 … step 10,000, in 2 frames."), ((7,), "predicted it, step 7.")):
        page = Page(write_report(tmp_path / "r.html", report(progress=Animation(gif(len(steps)), steps))))
        assert words in " ".join(page.text["progress"].split())
    with pytest.raises(InputError, match="names no steps"):
        write_report(tmp_path / "r.html", report(progress=Animation(gif())))


def test_progress_that_is_no_gif_is_refused(tmp_path: Path):
    for data in (b"GIF89a", b"no picture", gif()[:60]):
        with pytest.raises(InputError, match="the training's progress is no GIF"):
            write_report(tmp_path / "r.html", report(progress=Animation(data, (1,))))
    assert not list(tmp_path.iterdir())


def test_a_large_progress_takes_the_room_of_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(0)
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (300, 300, 3)).astype(np.uint8)).save(buffer, "GIF")
    assert buffer.tell() > 90_000
    monkeypatch.setattr("thingstuff.report_pictures._BYTES", 400_000)
    given = report(
        examples=[example(f"{i}.jpg", 300, 400, seed=i) for i in range(3)], progress=Animation(buffer.getvalue(), (5,))
    )
    bare = write_report(tmp_path / "bare.html", report(examples=[])).stat().st_size
    size = write_report(tmp_path / "r.html", given).stat().st_size - bare
    assert 400_000 < size < 400_000 * 4 / 3 + 12_000


def test_the_curves_have_their_values_for_who_points_at_them(page: Page):
    curves = [group for group in page.all("g") if "data-steps" in group]
    assert [curve["data-name"] for curve in curves] == ["total", "mask", "position", "all", "stuff", "learning rate"]
    for curve, line in zip(curves, page.all("polyline"), strict=True):
        points = (line["points"] or "").split()
        assert len((curve["data-steps"] or "").split()) == len((curve["data-values"] or "").split()) == len(points)
    assert (curves[3]["data-steps"], curves[3]["data-values"]) == ("10 20 30", "10 20 30")


def test_every_class_has_its_bars(page: Page):
    shares = [cell["style"] for cell in page.all("td") if cell.get("class") == "quality" and cell.get("style")]
    assert shares == [f"--share:{share}%" for share in ("75.0", "90.0", "83.3", "72.0", "90.0", "80.0")]


def test_the_same_report_gives_the_same_bytes(tmp_path: Path):
    one, two = (write_report(tmp_path / f"{i}.html", report(progress=Animation(gif(), (1, 2, 3)))) for i in (1, 2))
    assert one.read_bytes() == two.read_bytes()


def test_a_written_report_replaces_the_one_before_and_leaves_nothing_else(tmp_path: Path):
    path = tmp_path / "new folder" / "report.html"
    write_report(path, report(title="First"))
    assert write_report(path, report(title="Second")) == path
    assert "Second" in path.read_text(encoding="utf-8")
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_a_report_that_fails_leaves_the_old_one(tmp_path: Path):
    path = tmp_path / "report.html"
    path.write_text("the one before")
    given = example()
    small = Panoptic(given.truth.ids[:10], given.truth.segments, CATEGORIES)
    broken = Example("cut.jpg", given.picture, given.truth, small, None)
    with pytest.raises(InputError, match=r"cut\.jpg: the prediction is 160 x 10 pixels"):
        write_report(path, report(examples=[broken]))
    assert path.read_text() == "the one before"
    assert len(list(tmp_path.iterdir())) == 1


def test_places_that_cannot_be_written_are_named(tmp_path: Path):
    (tmp_path / "file").write_text("no folder")
    for path, why in ((tmp_path / "file" / "r.html", "File exists"), (tmp_path, "Is a directory")):
        with pytest.raises(InputError) as refused:
            write_report(path, report())
        assert str(refused.value) == f"{path}: the page cannot be written ({why}); give a file in a folder with room"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_row_without_a_step_is_named(tmp_path: Path):
    with pytest.raises(InputError, match="history row 2 has no step"):
        write_report(tmp_path / "r.html", report(history=[{"step": 1, "loss": 1.0}, {"loss": 1.0}]))
