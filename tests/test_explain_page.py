"""The page of a walk: what it holds, that its pictures hold the numbers, its size, and what it does when used."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import Page as BrowserPage

from browser import DESKTOP, PHONE, opened, screenshot
from html_pages import Page, decoded
from made_walk import CAT, COVERED, ODD, SKY, made_result, made_views, made_walk, with_covered
from models_contract import CATEGORIES, scene
from thingstuff.errors import InputError
from thingstuff.explain_page import LIMIT, page_of
from thingstuff.explaining import explain
from thingstuff.models import create
from thingstuff.panoptic import Panoptic
from thingstuff.walk import (
    AttentionView,
    MapView,
    Mark,
    MarksView,
    MatrixView,
    PixelsView,
    Row,
    TableView,
    Walk,
)


@pytest.fixture(scope="module")
def walk() -> Walk:
    return made_walk(made_views(each=5))


@pytest.fixture(scope="module")
def page(walk: Walk, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return walk.save(tmp_path_factory.mktemp("page") / "page.html")


def empty_walk() -> Walk:
    """A walk in which nothing was found."""
    result = made_result()
    return made_walk((), Panoptic(np.zeros_like(result.ids), (), result.categories))


# ---- what is in it


def test_it_holds_every_step_with_its_words_and_tensors(walk: Walk, page: Path) -> None:
    read = Page(page)
    assert [a["id"] for a in read.all("section")] == ["overview", *(f"step-{step.name}" for step in walk.steps)]
    for step in walk.steps:
        text = " ".join(read.text[f"step-{step.name}"].split())
        for part in (step.title, step.question, step.text, step.paper, step.source, "1 × 2 × 3", "0 to 5"):
            assert part in text
        assert "1 channels2 rows3 columns" in text
        for view in step.views:
            assert view.title in text
            assert view.caption in text
    middle = " ".join(read.text["step-middle"].split())
    assert "made from Step picture" in middle
    assert "used again in Step quiet, Step result" in middle
    assert ["cat", "0.91", "kept"] in read.rows["step-middle"]


def test_its_links_lead_somewhere_and_nothing_is_outside_of_it(page: Path) -> None:
    read = Page(page)
    ids = [a["id"] for _, a in read.tags if "id" in a]
    assert len(set(ids)) == len(ids)
    links = [a["href"] or "" for a in read.all("a")]
    assert {f"#{i}" for i in ids if i and i.startswith("step-") and not i.endswith("-title")} == {*links}
    assert all((image["src"] or "").startswith("data:image/") for image in read.all("img"))
    assert not read.all("link")
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//|url\((?!["']?data:|["']?\$)|@import""", page.read_text())


def test_names_are_text_and_no_tags(page: Path) -> None:
    read = Page(page)
    assert "a <picture>.jpg" in read.text["head"]
    assert "</script><b>&\"'" in read.text["overview"]
    assert "peak of </title>" in read.text["step-middle"]
    assert [a for a in read.all("b") if a] == []


def test_pictures_of_maps_hold_their_numbers(walk: Walk, page: Path) -> None:
    read = Page(page)
    (at,) = [n for n, a in enumerate(read.all("img")) if (a["alt"] or "").startswith("Energy")]
    (stage,) = [a for a in read.all("div") if a.get("data-unit") == "logit" and a.get("data-scale") == "amounts"]
    low, high = float(stage["data-low"] or 0), float(stage["data-high"] or 0)
    (view,) = [v for v in walk["middle"].views if v.title == "Energy"]
    assert isinstance(view, MapView)
    levels = np.asarray(decoded(read)[at])
    assert np.abs(low + levels / 254 * (high - low) - view.values).max() <= (high - low) / 254 / 2 + 1e-6
    assert (low, high) == (-1, 2)


def test_the_same_walk_gives_the_same_bytes(page: Path) -> None:
    assert page_of(made_walk(made_views(each=5))).encode() == page.read_bytes()


def test_it_replaces_nothing_unasked(walk: Walk, page: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"page\.html is there already.*--overwrite"):
        walk.save(page)
    with pytest.raises(InputError, match="is a folder"):
        walk.save(tmp_path, overwrite=True)
    assert walk.save(page, overwrite=True) == page


# ---- how large it is


def big_views(count: int) -> tuple[MapView | PixelsView | AttentionView, ...]:
    """Views of a picture of 800 x 1333 in which nothing can be compressed: more than fits."""
    draw = np.random.default_rng(2)
    attention = draw.random((25 * 42, 25, 42), dtype=np.float32)
    return (
        *(
            MapView(title=f"Query {n}", values=draw.random((200, 334), dtype=np.float32), unit="logit", segments=(CAT,))
            for n in range(count)
        ),
        PixelsView(title="Res2", pixels=draw.integers(0, 256, (200, 334, 3)).astype(np.uint8)),
        AttentionView(title="Attention", grid=(25, 42), maps={f"layer {n}": attention for n in range(6)}),
    )


def test_a_large_walk_stays_below_the_limit_and_says_what_was_made_small() -> None:
    text = page_of(made_walk(big_views(100)))
    assert 1_000_000 < len(text.encode()) < LIMIT
    assert "200 × 334 cells, to keep the page small" in text
    assert "cells with 25 × 42 each are drawn as" in text


def test_a_small_limit_coarsens_the_largest_first() -> None:
    views = made_views((100, 150))
    whole = page_of(made_walk(views))
    assert "to keep the page small" not in whole
    limit = len(whole.encode()) - 10_000
    small = page_of(made_walk(views), limit)
    assert len(small.encode()) < limit
    assert "of 100 × 150 cells, to keep the page small" in small
    assert "with 4 × 6 each are drawn" not in small
    with pytest.raises(InputError, match="even with the coarsest maps"):
        page_of(made_walk(views), 20_000)


# ---- in a browser


def chosen(page: BrowserPage, selector: str) -> int:
    return page.locator(selector).count()


def colours_of_attention(page: BrowserPage) -> str:
    canvas = "figure.attention canvas"
    page.wait_for_selector(canvas)
    return str(page.evaluate(f"document.querySelector('{canvas}').toDataURL()"))


def test_a_segment_is_followed_back_and_let_go(page: Path) -> None:
    with opened(page) as seen:
        browser = seen.page
        screenshot(browser, "walk-desktop-light")
        stage = browser.locator("#overview .stage")
        box = stage.bounding_box()
        assert box is not None
        stage.click(position={"x": box["width"] * 20 / 80, "y": box["height"] * 40 / 60})
        assert "Following cat (segment 5) through 2 of 4 steps" in browser.inner_text("#followed")
        assert browser.inner_text("#step-middle p.note") == "cat: Made 5."
        assert chosen(browser, "#step-middle .small figure.mine") == 5
        assert chosen(browser, "#step-middle .small figure.other") == 10
        assert chosen(browser, "tr.mine") == 1
        assert chosen(browser, ".mark.mine") == 1
        assert chosen(browser, ".band.mine") == 2
        assert chosen(browser, "#contents a.silent") == 2
        browser.wait_for_function("document.body.style.getPropertyValue('--outline').includes('blob:')")
        outlined = browser.evaluate(
            "getComputedStyle(document.querySelector('#step-quiet .stage'), '::after').backgroundImage"
        )
        assert outlined.startswith('url("blob:')
        screenshot(browser, "walk-desktop-light-follow")
        browser.keyboard.press("Escape")
        assert not browser.is_visible("#followed")
        assert chosen(browser, ".mine, .other, .silent, p.note:not([hidden])") == 0
        browser.click("#step-middle tr[data-segments]")
        assert chosen(browser, ".chips button[aria-pressed=true]") == 2
        browser.click("#clear")
        assert browser.inner_text("#followed-text") == ""
        browser.locator("#step-result .chips button").nth(2).press("Enter")
        assert f"(segment {ODD})" in browser.inner_text("#followed")


def test_pointing_tells_values_and_names(page: Path) -> None:
    with opened(page) as seen:
        browser = seen.page
        energy = browser.locator("figure", has_text="Energy").first.locator(".stage")
        box = energy.bounding_box()
        assert box is not None
        energy.hover(position={"x": box["width"] * 0.5 / 12, "y": box["height"] * 0.5 / 8})
        assert browser.inner_text("#tip") == "−1 logit · row 1, column 1 · sky"
        energy.hover(position={"x": box["width"] * 11.5 / 12, "y": box["height"] * 7.5 / 8})
        assert browser.inner_text("#tip") == "2 logit · row 8, column 12"
        matrix = browser.locator("figure.matrix .stage")
        box = matrix.bounding_box()
        assert box is not None
        matrix.hover(position={"x": box["width"] * 5 / 6, "y": box["height"] / 6})
        told = re.fullmatch(r"cat at 1 and sky: (.*) cosine", browser.inner_text("#tip"))
        assert told is not None
        assert float(told[1].replace("−", "-")) == pytest.approx(-0.5, abs=1 / 127)
        marks = browser.locator(".stage.marks")
        marks.scroll_into_view_if_needed()
        box = marks.bounding_box()
        assert box is not None
        browser.mouse.move(box["x"] + box["width"] * 60 / 96, box["y"] + box["height"] * 30 / 64)
        assert browser.inner_text("#tip") == "peak of </title>"


def test_an_attention_shows_the_cell_that_is_clicked(walk: Walk, page: Path) -> None:
    (view,) = [v for v in walk["middle"].views if isinstance(v, AttentionView)]
    with opened(page) as seen:
        browser = seen.page
        stage = browser.locator("figure.attention .stage")
        box = stage.bounding_box()
        assert box is not None
        stage.click(position={"x": box["width"] / 6, "y": box["height"] / 4})
        assert "row 1 of 2, column 1 of 3, on sky" in browser.inner_text("figure.attention .cell")
        first = colours_of_attention(browser)
        share = float(view.maps["layer 1"][0].max())
        assert float(browser.inner_text("figure.attention [data-end=high]")) == pytest.approx(share, rel=0.01)
        browser.keyboard.press("ArrowRight")
        assert "row 1 of 2, column 2 of 3" in browser.inner_text("figure.attention .cell")
        second = colours_of_attention(browser)
        browser.select_option("figure.attention select", "layer 2")
        assert len({first, second, colours_of_attention(browser)}) == 3
        browser.locator("#overview .chips button").nth(2).click()  # its middle is at (62, 35) of 96 x 64
        assert "row 2 of 2, column 2 of 3" in browser.inner_text("figure.attention .cell")


def test_keys_and_contents_walk_from_step_to_step(page: Path) -> None:
    with opened(page, (1280, 700)) as seen:
        browser = seen.page
        focused = "document.activeElement.id"
        browser.keyboard.press("n")
        assert browser.evaluate(focused) == "step-picture-title"
        browser.keyboard.press("n")
        assert browser.evaluate(focused) == "step-middle-title"
        browser.locator("#overview .chips button").first.press("Enter")
        browser.click("#contents a[href='#step-middle']")
        browser.wait_for_selector("#contents a[href='#step-middle'][aria-current]")
        browser.click("#after")  # over the step that has nothing of it
        assert browser.evaluate(focused) == "step-result-title"
        browser.keyboard.press("p")
        assert browser.evaluate(focused) == "step-middle-title"


def test_on_a_phone_in_the_dark(page: Path) -> None:
    with opened(page, PHONE, dark=True) as seen:
        browser = seen.page
        assert not browser.is_visible("#contents ol")
        browser.tap("#contents summary")
        browser.tap("#contents a[href='#step-result']")
        assert not browser.is_visible("#contents ol")
        browser.wait_for_function("document.getElementById('where').textContent.startsWith('4/4')")
        browser.locator("#step-result .chips button").first.tap()
        assert f"(segment {SKY})" in browser.inner_text("#followed")
        browser.wait_for_function("document.body.style.getPropertyValue('--outline').includes('blob:')")
        light, dark = (
            browser.evaluate(f"getComputedStyle(document.body).{part}") for part in ("color", "backgroundColor")
        )
        assert luminance(light) > 10 * luminance(dark)
        screenshot(browser, "walk-phone-dark-follow")


def luminance(colour: str) -> float:
    """The relative luminance of rgb(r, g, b), about, plus a twentieth as for contrast."""
    red, green, blue = (int(part) / 255 for part in re.findall(r"\d+", colour)[:3])
    return 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2 + 0.05


def test_without_script_all_pictures_are_there(page: Path) -> None:
    with opened(page, PHONE, script=False) as seen:
        assert seen.page.is_visible("#contents ol")
        assert not seen.page.is_visible("text=Which")
        for name in ("Energy", "Attention"):
            assert seen.page.locator("figure", has_text=name).first.locator("img.layer").is_visible()
        screenshot(seen.page, "walk-phone-light-no-script")


def test_a_picture_in_which_nothing_was_found(tmp_path: Path) -> None:
    page = empty_walk().save(tmp_path / "page.html")
    assert "Nothing was found in this picture" in Page(page).text["overview"]
    with opened(page) as seen:
        seen.page.locator("#overview .stage").click()
        assert not seen.page.is_visible("#followed")
        seen.page.keyboard.press("n")
        seen.page.keyboard.press("Escape")


def test_a_segment_that_others_cover_is_followed_without_a_place(tmp_path: Path) -> None:
    walk = made_walk(result=with_covered(made_result()))
    assert walk.figures(tmp_path / "figures")
    with opened(walk.save(tmp_path / "page.html")) as seen:
        seen.page.locator("#overview .chips button").nth(3).click()
        assert f"(segment {COVERED})" in seen.page.inner_text("#followed")
        seen.page.wait_for_function("document.body.style.getPropertyValue('--outline').includes('blob:')")


def test_numbers_that_are_not_finite_are_told_on_page_and_figures(tmp_path: Path) -> None:
    nothing = np.full((8, 12), np.nan, dtype=np.float32)
    half = nothing.copy()
    half[:, 6:] = np.arange(48, dtype=np.float32).reshape(8, 6)
    nan = float("nan")
    views = (
        MapView(title="Energy", values=half, unit="logit"),
        MapView(title="Signed", values=nothing, unit="logit", signed=True),
        MarksView(title="Boxes", marks=(Mark((nan, 1.0, 2.0, 3.0), "lost", (9, 9, 9)),), values=nothing),
        TableView(title="Queries", columns=("score",), rows=(Row((nan,)),)),
        MatrixView(
            title="Alike",
            values=nothing[:2, :2],
            unit="cosine",
            names=("a", "b"),
            groups=(0, 1),
            row_segments=((), ()),
        ),
        AttentionView(title="Attention", grid=(2, 6), maps={"layer 1": np.full((12, 4, 6), nan, dtype=np.float32)}),
    )
    walk = made_walk(views)
    walk.steps[1].tensors[0].tensor[0, 0, 1] = nan
    page = walk.save(tmp_path / "page.html")
    read = Page(page)
    text = " ".join(read.text["step-middle"].split())
    for told in ("48 of 96 numbers, drawn black", "96 of 96 numbers", "1 of 1, whose coordinates", "288 of 288 shares"):
        assert told in text
    assert "0 to 5, 1 not finite" in text
    assert ["not a number"] in read.rows["step-middle"]
    assert walk.figures(tmp_path / "figures")
    with opened(page) as seen:
        energy = seen.page.locator("figure", has_text="Energy").first.locator(".stage")
        box = energy.bounding_box()
        assert box is not None
        energy.hover(position={"x": box["width"] * 0.5 / 12, "y": box["height"] * 0.5 / 8})
        assert seen.page.inner_text("#tip") == "not finite · row 1, column 1 · sky"
        energy.hover(position={"x": box["width"] * 11.5 / 12, "y": box["height"] * 7.5 / 8})
        assert seen.page.inner_text("#tip") == "47 logit · row 8, column 12"
        seen.page.locator("#overview .chips button").nth(1).click()
        colours_of_attention(seen.page)


SEEING = {
    "detr-panoptic-tiny": {"threshold": 0.0},
    "panoptic-fcn-tiny": {"thing_threshold": 0.0, "thing_score": 0.0, "stuff_threshold": 0.0},
    "panoptic-fpn-tiny": {"thing_score": 0.0},
}
"""Settings by which models that have learned nothing see something all the same."""


@pytest.mark.parametrize("name", SEEING)
def test_every_model_s_page_works(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    walk = explain(create(name, CATEGORIES, **SEEING[name]), *scene())
    assert walk.result.segments
    page = walk.save(tmp_path / "page.html")
    assert page.stat().st_size < 3_000_000
    with opened(page, DESKTOP) as seen:
        seen.page.locator("#overview .chips button").first.click()
        treated = re.search(rf"through (\d+) of {len(walk.steps)} steps", seen.page.inner_text("#followed"))
        assert treated is not None
        assert int(treated[1]) >= 3
        seen.page.wait_for_function("document.body.style.getPropertyValue('--outline').includes('blob:')")
        for width in (DESKTOP[0], PHONE[0]):
            seen.page.set_viewport_size({"width": width, "height": 800})
            assert (
                seen.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
            )


DIVERGED = {
    "detr-panoptic-tiny": ("backbone.conv1.weight", "class_head.weight", "mask_head.convs.2.weight"),
    "panoptic-fcn-tiny": ("backbone.conv1.weight", "position_head.centres.weight", "kernel_head.out.weight"),
    "panoptic-fpn-tiny": ("backbone.conv1.weight", "rpn.head.cls_logits.weight", "rpn.head.bbox_pred.weight"),
}
"""Layers of each model, early and late."""


@pytest.mark.parametrize(("name", "layer"), [(name, layer) for name in DIVERGED for layer in DIVERGED[name]])
@pytest.mark.parametrize("weight", [float("nan"), 1e20])
def test_a_model_that_diverged_is_explained_too(name: str, layer: str, weight: float) -> None:
    torch.manual_seed(0)
    model = create(name, CATEGORIES, **SEEING[name])
    with torch.no_grad():
        model.get_parameter(layer).fill_(weight)
    text = page_of(explain(model, *scene()))
    for content in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', text, re.S):
        json.loads(content, parse_constant=lambda constant: pytest.fail(f"{constant} is no JSON"))
    assert not re.search(r'data-(low|high)="[^"]*(nan|inf)', text)
    if np.isnan(weight):
        assert "ot finite" in text


def test_a_page_that_fetches_a_file_beside_it_is_caught(tmp_path: Path) -> None:
    Image.new("RGB", (3, 3)).save(tmp_path / "page.html.png")
    (tmp_path / "page.html").write_text('<!DOCTYPE html><title>t</title><img src="page.html.png" alt="">')
    with pytest.raises(AssertionError, match=r"page\.html\.png"), opened(tmp_path / "page.html") as seen:
        seen.page.wait_for_load_state()


# ---- figures


def test_figures_are_named_after_their_steps(tmp_path: Path) -> None:
    walk = made_walk()
    paths = walk.figures(tmp_path / "figures")
    names = [path.name for path in paths]
    drawn = [view for step in walk.steps for view in step.views if view.title != "Queries"]
    assert len(set(names)) == len(names) == len(drawn)
    assert names[0] == "01-picture-what-the-network-sees.png"
    assert "02-middle-signed.png" in names
    assert names[-1] == "04-result-final-map.png"
    for image in decoded_files(paths):
        assert 300 < image.shape[1] <= 640
        assert image.std() > 5
    with pytest.raises(InputError, match=r"01-picture-what-the-network-sees\.png is there already.*--overwrite"):
        walk.figures(tmp_path / "figures")
    before = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in walk.figures(tmp_path / "figures", overwrite=True)] == before


def test_a_figure_shows_the_map_over_the_picture(tmp_path: Path) -> None:
    values = np.zeros((2, 3), dtype=np.float32)
    values[1, 2] = 1
    views = (
        MapView(title="Äpfel / 2", values=values, unit="share"),
        MapView(title="äpfel 2", values=values, unit="share"),
    )
    paths = made_walk(views).figures(tmp_path)
    assert [path.name for path in paths[1:3]] == ["02-middle-apfel-2.png", "02-middle-apfel-2-2.png"]
    (image,) = decoded_files(paths[1:2])
    height = 640 * 64 // 96
    low, high = image[: height // 2].mean(), image[height // 2 + 4 : height, 640 * 2 // 3 + 4 :].mean()
    assert high > low + 60
    assert image[10:100, 10:200].std() > 2, "the picture shows through"


def test_figures_of_an_earlier_walk_go_and_other_files_stay(tmp_path: Path) -> None:
    made_walk().figures(tmp_path)
    strangers = {tmp_path / "02-middle-notes.png": b"not ours", tmp_path / "01-plan.png": b""}
    for path, content in strangers.items():
        path.write_bytes(content)
    Image.new("RGB", (3, 3)).save(tmp_path / "03-photo.png")
    only = made_walk((PixelsView(title="Of its own", pixels=np.zeros((2, 2, 3), np.uint8)),))
    with pytest.raises(InputError, match="is there already"):
        only.figures(tmp_path)
    paths = only.figures(tmp_path, overwrite=True)
    assert set(tmp_path.iterdir()) == {*paths, *strangers, tmp_path / "03-photo.png"}
    assert all(path.read_bytes() == content for path, content in strangers.items())
    for path in paths:
        path.rename(path.with_name(f"{path.stem}-of-before.png"))
    with pytest.raises(InputError, match=r"of-before\.png is there already"):
        only.figures(tmp_path)


def test_figures_cannot_go_where_a_file_is(walk: Walk, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file: the figures cannot be written"):
        walk.figures(tmp_path / "file")


def decoded_files(paths: list[Path]) -> list[np.ndarray]:
    return [np.asarray(Image.open(path).convert("RGB")).astype(float) for path in paths]


def key_below(page: str, title: str) -> list[str]:
    """The names of the colour key of the view of that title."""
    text = re.search(r'<p class="key quiet">(.*?)</p>', page[page.index(f"<b>{title}</b>") :])
    assert text
    return re.findall(r"</span> ([^<]+)</span>", text[1])


def test_colours_of_marks_have_a_key() -> None:
    torch.manual_seed(0)
    walk = explain(create("panoptic-fpn-tiny", CATEGORIES), scene()[0])
    levels = next(view for view in walk["boxes"].views if isinstance(view, MarksView))
    used = {mark.color for mark in levels.marks}
    wanted = [name for name, color in levels.key if color in used]
    assert wanted
    assert key_below(page_of(walk), levels.title) == wanted
    box = MarksView(title="Boxes", marks=(Mark((1.0, 2.0, 9.0, 9.0), "1: disc", walk.categories.colors[1]),))
    boxes = replace(walk, steps=tuple(replace(s, views=(box,)) if s.name == "boxes" else s for s in walk.steps))
    assert key_below(page_of(boxes), "Boxes") == ["disc"]
