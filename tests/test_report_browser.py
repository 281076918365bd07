"""The reports in a real browser: sliding, pointing, sorting, copying, on desktop and phone, in light and dark."""

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Locator, Page

import error_scene
from browser import DESKTOP, PHONE, Opened, eventually, opened, screenshot
from html_pages import Page as Written
from html_pages import decoded
from test_evaluation_report import report, run_report, worst
from test_report import history, result
from thingstuff.drawing_progress import Animation
from thingstuff.evaluation_report import write_evaluation_report
from thingstuff.report import write_report

LOOKS = {"desktop in light": (DESKTOP, False), "phone in dark": (PHONE, True)}
YELLOW = (255, 225, 77)


def gif() -> bytes:
    """Red, then blue."""
    first, last = (Image.new("RGB", (64, 48), color) for color in ("red", "blue"))
    buffer = io.BytesIO()
    first.save(buffer, "GIF", save_all=True, append_images=[last], duration=200, loop=0)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of the worked example: its picture as the worst three times and once as the best."""
    evaluation = error_scene.evaluation()
    (row,) = evaluation.errors.worst
    rows = tuple(replace(row, image_id=f"{i}.jpg", pq=i / 10) for i in range(3))
    evaluation = replace(evaluation, errors=replace(evaluation.errors, worst=rows))
    pictures = [worst(name=f"{i}.jpg") for i in range(3)]
    best = [worst(name="best.jpg", pq=1.0, errors=())]
    given = report(evaluation=evaluation, worst=pictures, best=best, config_yaml="model_name: a\nmodel:\n  b: 1\n")
    return write_evaluation_report(tmp_path_factory.mktemp("browser") / "evaluation.html", given)


@pytest.fixture(scope="module")
def run(evaluation: Path) -> Path:
    """The report of a run with everything in it."""
    given = run_report(history=history(), baselines={"another": result(0.3)}, progress=Animation(gif(), (0, 30)))
    return write_report(evaluation.with_name("run.html"), given)


@pytest.fixture(scope="module", params=LOOKS)
def seen(evaluation: Path, request: pytest.FixtureRequest) -> Iterator[Opened]:
    with opened(evaluation, LOOKS[request.param][0], dark=LOOKS[request.param][1]) as found:
        yield found


@pytest.fixture
def page(seen: Opened, evaluation: Path) -> Page:
    """The evaluation's report as it is opened first."""
    seen.page.emulate_media(media="screen", reduced_motion="no-preference")
    return seen.go(evaluation)


@pytest.fixture
def run_page(seen: Opened, page: Page, run: Path) -> Page:
    """The run's report."""
    return seen.go(run)


def width(page: Page) -> int:
    return page.viewport_size["width"] if page.viewport_size else 0


def frame_of(page: Page) -> Locator:
    frame = page.locator("#worst-1 .frame")
    frame.scroll_into_view_if_needed()
    return frame


def point_at(page: Page, frame: Locator, row: float, column: float) -> None:
    """Point at a letter of the scene, on a phone with a finger."""
    box = frame.bounding_box()
    assert box is not None
    place = box["x"] + (column + 0.5) / 12 * box["width"], box["y"] + (row + 0.5) / 6 * box["height"]
    if page.evaluate("matchMedia('(hover: hover)').matches"):
        page.mouse.move(*place)
    else:
        page.touchscreen.tap(*place)


def lines(page: Page) -> list[str]:
    return page.locator("#worst-1 .pointed span").all_inner_texts()


def yellow(frame: Locator) -> int:
    """How many pixels of a frame are in the colour of the ground truth's segment that is spoken of."""
    shown = np.asarray(Image.open(io.BytesIO(frame.screenshot())).convert("RGB"), int)
    return int((np.abs(shown - YELLOW).max(2) < 40).sum())


def looks_like(frame: Locator, panels: list[Image.Image]) -> int:
    """Which of some panels a frame shows."""
    shown = Image.open(io.BytesIO(frame.screenshot())).convert("RGB").resize(panels[0].size)
    return int(np.argmin([np.abs(np.asarray(shown, float) - np.asarray(panel, float)).mean() for panel in panels]))


def test_the_slider_parts_two_images(page: Page, evaluation: Path) -> None:
    frame = frame_of(page)
    panels = decoded(Written(evaluation))[:4]
    page.locator("#worst-1 input[type=range]").focus()
    page.keyboard.press("End")
    assert looks_like(frame, panels) == 1, "the ground truth"
    page.keyboard.press("Home")
    assert looks_like(frame, panels) == 2, "the prediction"
    left, right = page.locator("#worst-1 select").all()
    right.select_option("Errors")
    assert looks_like(frame, panels) == 3
    left.select_option("Errors")
    assert [side.input_value() for side in (left, right)] == ["Errors", "Ground truth"], "one image is not both sides"
    assert looks_like(frame, panels) == 1


def test_a_pull_moves_the_slider(page: Page) -> None:
    box = frame_of(page).bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + 20, steps=4)
    page.mouse.up()
    assert float(page.locator("#worst-1 input[type=range]").input_value()) == pytest.approx(25, abs=1)
    handle = page.locator("#worst-1 .handle").bounding_box()
    assert handle is not None
    assert handle["x"] + handle["width"] / 2 == pytest.approx(box["x"] + box["width"] * 0.25, abs=5)


def test_a_segment_is_named_where_it_is_pointed_at(page: Page) -> None:
    frame = frame_of(page)
    assert yellow(frame) == 0
    point_at(page, frame, 5, 11)
    assert lines(page) == [
        "Ground truthsky · matched, IoU 94.4 · 57,600 pixels",
        "Predictiondog · false · 3,200 pixels",
    ]
    point_at(page, frame, 2, 2)
    assert lines(page) == [
        "Ground truthcar · wrong class: dog, IoU 100.0 · 9,600 pixels",
        "Predictiondog · wrong class: car, IoU 100.0 · 9,600 pixels",
    ]
    assert yellow(frame) > 50
    screenshot(page, f"report-pointed-{width(page)}", full=False)
    point_at(page, frame, 3, 4)
    assert lines(page)[1] == "Predictionvoid"
    page.mouse.move(0, 0)
    row = page.locator("#worst-1 tr[data-side=truth]", has_text="missed")
    row.focus()
    assert lines(page) == ["Ground truthcar · missed · 9,600 pixels"]
    row.blur()
    assert lines(page) == []
    assert yellow(frame) == 0


def test_tables_are_sorted_by_click_and_by_key(page: Page) -> None:
    table = page.locator("table.qualities")
    names = table.locator("tbody th")
    heading = table.locator("thead th", has_text="PQ")
    order = [c.name for c in sorted(error_scene.evaluation().per_class, key=lambda c: -(c.pq or 0))]
    heading.locator("button").click()
    assert (names.all_inner_texts(), heading.get_attribute("aria-sort")) == (order, "descending")
    page.keyboard.press("Enter")
    assert (names.all_inner_texts(), heading.get_attribute("aria-sort")) == (order[::-1], "ascending")
    first = table.locator("thead th").first
    first.locator("button").focus()
    page.keyboard.press("Space")
    assert (names.all_inner_texts(), first.get_attribute("aria-sort")) == (sorted(order), "ascending")
    assert heading.get_attribute("aria-sort") is None
    screenshot(page, f"report-classes-{width(page)}", full=False)
    causes = page.locator("#causes tbody th")
    page.locator("#causes thead tr").nth(1).locator("button", has_text="predicted").click()
    assert causes.all_inner_texts()[0] == "split", "the most, two"
    assert causes.all_inner_texts()[-1] == "inexact matches", "which has no count"
    page.locator("#worst-list thead th", has_text="PQ").locator("button").click()
    assert page.locator("#worst-list tbody th").all_inner_texts() == ["2.jpg", "1.jpg", "0.jpg"]


def test_folded_pictures_open_where_a_link_leads_and_for_print(page: Page) -> None:
    third = page.locator("#worst-3 details")
    assert third.get_attribute("open") is None
    assert page.locator("#worst-1 details").get_attribute("open") is not None
    page.locator("#worst-list a", has_text="2.jpg").click()
    assert eventually(page, page.locator("#worst-3 .frame").is_visible)
    page.emulate_media(media="print")
    assert eventually(page, page.locator("#worst-3 .compare").is_hidden)
    assert [image.is_visible() for image in page.locator("#worst-3 .panels img").all()] == [True] * 4
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert eventually(page, page.locator("#config pre").is_visible)


def test_the_command_is_copied(page: Page) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator("#again .copy").click()
    page.wait_for_function("document.querySelector('#again .copy').textContent === 'Copied'")
    assert page.evaluate("navigator.clipboard.readText()") == "thingstuff evaluate --gt a.json --pred b.json"
    settings = page.locator("#config pre")
    assert not settings.is_visible()
    page.locator("#config summary").click()
    assert settings.inner_text() == "model_name: a\nmodel:\n  b: 1"


def test_an_enlarged_picture_scrolls_in_its_own_window(page: Page, seen: Opened) -> None:
    frame = frame_of(page)
    before = frame.bounding_box()
    page.locator("#worst-1 .enlarge").click()
    after = frame.bounding_box()
    assert before is not None
    assert after is not None
    assert after["width"] > 1.9 * before["width"]
    seen.check()


def test_curves_tell_step_and_value(run_page: Page) -> None:
    page = run_page
    chart = page.locator("figure.chart", has_text="PQ during training")
    svg, readout = chart.locator("svg[role=img]"), chart.locator(".readout")
    svg.scroll_into_view_if_needed()
    assert readout.inner_text() == ""
    box = svg.bounding_box()
    assert box is not None
    # steps 10, 20 and 30 of an axis from 0 to 30, which goes from 64 to 428 of 440
    page.mouse.move(box["x"] + box["width"] * (64 + 364 * 0.7) / 440, box["y"] + box["height"] / 2)
    assert readout.inner_text() == "step 20: all 20, stuff 10"
    screenshot(page, f"report-curves-{width(page)}", full=False)
    page.mouse.move(0, 0)
    svg.focus()
    page.keyboard.press("Home")
    assert readout.inner_text() == "step 10: all 10, stuff 10"
    page.keyboard.press("End")
    page.keyboard.press("ArrowRight")
    assert readout.inner_text() == "step 30: all 30, stuff 10"


def test_results_are_sorted_beside_baselines(run_page: Page) -> None:
    names = run_page.locator("#results tbody th")
    assert names.all_inner_texts() == ["this model", "another"]
    run_page.locator("#results thead tr").nth(1).locator("button").nth(1).click()
    ours, other = error_scene.evaluation().pq.all.pq, result(0.3).all.pq
    assert (ours or 0) > (other or 0)
    assert names.all_inner_texts() == ["this model", "another"]
    run_page.keyboard.press("Enter")
    assert names.all_inner_texts() == ["another", "this model"]


def test_progress_moves_unless_that_is_not_wanted(run_page: Page) -> None:
    moving, still, button = (run_page.locator(f"#progress {what}") for what in (".moving", ".still", "button"))
    assert eventually(
        run_page, lambda: (moving.is_visible(), still.is_visible(), button.inner_text()) == (True, False, "Pause")
    )
    button.click()
    assert eventually(
        run_page, lambda: (moving.is_visible(), still.is_visible(), button.inner_text()) == (False, True, "Play")
    )
    run_page.emulate_media(reduced_motion="reduce")
    run_page.reload()
    assert eventually(
        run_page, lambda: (moving.is_visible(), still.is_visible(), button.inner_text()) == (False, True, "Play")
    )
    button.click()
    assert eventually(run_page, lambda: (moving.is_visible(), still.is_visible()) == (True, False))


def test_without_script_everything_is_there(seen: Opened, run: Path) -> None:
    assert seen.page.context.browser is not None
    context = seen.page.context.browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(run.as_uri())
    assert [image.is_visible() for image in page.locator("#worst-1 .panels img").all()] == [True] * 4
    assert not page.locator(".compare").first.is_visible()
    assert page.locator("#progress .moving").is_visible()
    assert page.locator("button", has_text="Copy").count() == 0
    context.close()
