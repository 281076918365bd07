"""The folder that `show` makes: what its scripts say of each picture, also of broken ones, and what the page does."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from html_pages import Page
from thingstuff.checking.findings import Finding, Findings
from thingstuff.errors import InputError
from thingstuff.io import read_id_map, write_id_map
from thingstuff.panoptic import Categories
from thingstuff.showing.entries import join_classes
from thingstuff.showing.show import show

HEIGHT, WIDTH = 24, 40
CATEGORIES = [
    {"id": 7, "name": "cat", "isthing": 1, "color": [200, 30, 30]},
    {"id": 9, "name": "grass", "isthing": 0, "color": [30, 160, 30]},
    {"id": 12, "name": "</script><b>&\"'", "isthing": 0},
]
FLAGS = {"crowd": 1, "filled": 2, "not listed": 4, "no pixels": 8}


def a_map() -> np.ndarray:
    """Grass (2) with two cats (3, 400), a row of void above."""
    ids = np.full((HEIGHT, WIDTH), 2, dtype=np.int32)
    ids[0] = 0
    ids[4:10, 5:15] = 3
    ids[12, 30] = 400
    return ids


def infos() -> list[dict[str, Any]]:
    common = {"area": 1, "bbox": [0, 0, 1, 1]}
    return [
        {"id": 2, "category_id": 9, "iscrowd": 0, "filled": {"by": "detr", "score": 0.934}, **common},
        {"id": 400, "category_id": 7, "iscrowd": 0, **common},
        {"id": 3, "category_id": 7, "iscrowd": 0, **common},
    ]


def write_set(data: Path, count: int, split: str = "val", categories: list[dict[str, Any]] = CATEGORIES) -> dict:
    """Write a whole split and return its JSON, to be damaged."""
    (data / split).mkdir(parents=True, exist_ok=True)
    (data / f"panoptic_{split}").mkdir(exist_ok=True)
    images, annotations = [], []
    for n in range(1, count + 1):
        pixels = np.full((HEIGHT, WIDTH, 3), 40 + n, dtype=np.uint8)
        Image.fromarray(pixels).save(data / split / f"p{n}.jpg")
        write_id_map(data / f"panoptic_{split}" / f"p{n}.png", a_map())
        images.append({"id": n, "file_name": f"p{n}.jpg", "height": HEIGHT, "width": WIDTH})
        annotations.append({"image_id": n, "file_name": f"p{n}.png", "segments_info": infos()})
    truth = {"images": images, "annotations": annotations, "categories": categories}
    write_json(data, truth, split)
    return truth


def write_json(data: Path, truth: dict, split: str = "val") -> None:
    (data / f"panoptic_{split}.json").write_text(json.dumps(truth))


def called(script: Path) -> list[Any]:
    """The values that a script hands over."""
    name, arguments = re.fullmatch(r"thingstuff\.(\w+)\((.*)\);\n", script.read_text(), re.DOTALL).groups()
    assert name in ("pictures", "found", "kind", "map")
    return json.loads(f"[{arguments}]")


def pictures(out: Path) -> list[dict[str, Any]]:
    """What the page has of each picture, its map's script included."""
    keys = ("file", "split", "name", "id", "width", "height", "thumb_width", "thumb_height", "codes", "faults", "kinds")
    rows = [dict(zip(keys, row, strict=True)) for row in called(out / "data" / "pictures-0.js")[1]]
    for row in rows:
        file, _, row["map"] = called(out / "maps" / f"{row['file']}.js")
        assert file == row["file"]
        assert (out / "thumbnails" / f"{file}.jpg").is_file()
    return rows


def segments(picture: dict[str, Any]) -> dict[int, tuple[int, int, list[int], int, str]]:
    """Label, area, box, flags and note of each segment by its id."""
    return {row[0]: (row[1], row[2], row[3:7], row[7], row[8]) for row in picture["map"]["segments"]}


def painted(picture: dict[str, Any]) -> np.ndarray:
    """The ids that the page paints, at the size it shows."""
    known = np.array([0, *(row[0] for row in picture["map"]["segments"])])
    pairs = np.array(picture["map"]["runs"]).reshape(-1, 2)
    return known[np.repeat(pairs[:, 0], pairs[:, 1])].reshape(picture["height"], picture["width"])


def test_a_whole_set(tmp_path):
    write_set(tmp_path / "data", 3)
    page = show(tmp_path / "data", tmp_path / "out")
    assert page == tmp_path / "out" / "index.html"
    rows = pictures(page.parent)
    assert [(row["name"], row["id"], row["faults"]) for row in rows] == [
        ("p1.jpg", 1, 0),
        ("p2.jpg", 2, 0),
        ("p3.jpg", 3, 0),
    ]
    for row in rows:
        assert np.array_equal(painted(row), a_map())
        assert segments(row) == {
            3: (0, 60, [5, 4, 10, 6], 0, ""),
            400: (0, 1, [30, 12, 1, 1], 0, ""),
            2: (
                1,
                HEIGHT * WIDTH - WIDTH - 61,
                [0, 1, WIDTH, HEIGHT - 1],
                FLAGS["filled"],
                "filled in by detr, score 0.93",
            ),
        }
        assert row["codes"] == [0 << 3 | 1, 1 << 3 | 4]
        # the largest cat has its class's colour, red in the lowest byte
        assert row["map"]["segments"][0][9] == 200 | 30 << 8 | 30 << 16
        with Image.open(page.parent / "pictures" / f"{row['file']}.jpg") as picture:
            assert picture.size == (WIDTH, HEIGHT) == (row["width"], row["height"])
    with Image.open(page.parent / "contact-sheet.jpg") as sheet:
        assert sheet.width > 3 * 480
        assert sheet.height > 288
        # below the title there is a thumbnail of mostly grass
        red, green, blue = sheet.convert("RGB").getpixel((sheet.width // 2, sheet.height - 100))
        assert green > 1.3 * red
        assert green > 1.3 * blue


def test_names_of_a_file_are_text_on_the_page(tmp_path):
    truth = write_set(tmp_path / "data", 1)
    truth["images"][0]["id"] = truth["annotations"][0]["image_id"] = "</script><i>"
    write_json(tmp_path / "data", truth)
    page = show(tmp_path / "data", tmp_path / "out")
    read = Page(page)
    assert not read.all("b")
    assert not read.all("i")
    (body,) = read.all("body")
    assert ["</script><b>&\"'", False] in json.loads(body["data-settings"])["classes"]
    assert "</script><b>&\"'" in read.text["filters"]
    assert not [tag for tag in ("script", "link", "img") for a in read.all(tag) if a.get("src") or a.get("href")]


def test_broken_pictures_are_shown_with_what_is_wrong(tmp_path):
    truth = write_set(data := tmp_path / "data", 9)
    (data / "panoptic_val" / "p1.png").unlink()
    (data / "val" / "p2.jpg").unlink()
    truth["annotations"][2]["segments_info"] = infos()[1:]
    truth["annotations"][3]["segments_info"].append({"id": 77, "category_id": 99})
    Image.new("RGB", (30, 20)).save(data / "val" / "p5.jpg")
    truth["annotations"][5]["file_name"] = "../p6.png"
    truth["annotations"][6]["segments_info"] = [None, {"id": "x"}, *infos(), infos()[0]]
    (data / "val" / "p8.jpg").write_bytes(b"no picture")
    (data / "panoptic_val" / "p8.png").write_bytes(b"no map")
    del truth["annotations"][8]
    truth["annotations"].append({"image_id": 50, "file_name": "p1.png", "segments_info": {}})
    truth["images"] += [None, {"id": 60}]
    write_json(data, truth)
    rows = pictures(show(data, tmp_path / "out", workers=1).parent)
    told = [" | ".join(row["map"]["faults"]) for row in rows]
    assert len(rows) == 12
    assert all(row["faults"] == len(row["map"]["faults"]) > 0 for row in rows)
    assert "p1.png is not there" in told[0]
    assert not rows[0]["map"]["map"]
    assert rows[0]["map"]["picture"]
    assert "p2.jpg is not there" in told[1]
    assert np.array_equal(painted(rows[1]), a_map())
    assert "id 2, not in segments_info" in told[2]
    assert segments(rows[2])[2][3] == FLAGS["not listed"]
    assert segments(rows[2])[2][0] == 3
    assert 3 << 3 | 1 in rows[2]["codes"]
    assert "category_id 99" in told[3]
    assert "id 77, without a pixel" in told[3]
    assert segments(rows[3])[77][:2] == (4, 0)
    assert segments(rows[3])[77][3] == FLAGS["no pixels"]
    assert "30 wide and 20 high" in told[4]
    assert painted(rows[4]).shape == (20, 30)
    assert "leads out" in told[5]
    assert not rows[5]["map"]["map"]
    assert "segments_info[0]" in told[6]
    assert "segments_info[1]" in told[6]
    assert "segment 2 stands twice" in told[6]
    assert not rows[7]["map"]["map"]
    assert not rows[7]["map"]["picture"]
    assert rows[7]["faults"] == 2
    assert "no annotation" in told[8]
    assert "images[9]" in told[9]
    assert "images[10]" in told[10]
    assert rows[10]["id"] == 60
    assert "not in images" in told[11]
    assert rows[11]["name"] == "p1.png"


def test_a_lossy_map_s_ids_share_a_segment(tmp_path):
    write_set(data := tmp_path / "data", 1)
    ids = a_map()
    ids[12:] += np.arange(12 * WIDTH, dtype=np.int32).reshape(12, WIDTH) + 1000
    write_id_map(data / "panoptic_val" / "p1.png", ids)
    (row,) = pictures(show(data, tmp_path / "out").parent)
    assert len(row["map"]["segments"]) == 3 + 200 + 1
    rest = segments(row)[0]
    assert rest[1] == 12 * WIDTH - 200
    assert rest[4] == "279 further ids"
    # ids beyond the first share the last place
    assert np.count_nonzero(painted(row) != ids) == rest[1]
    assert sum(s[1] for s in segments(row).values()) == np.count_nonzero(ids)


@pytest.mark.parametrize("name", ["a\0b.png", "\ud800.png", "x" * 300, ".", "panoptic_val", "/etc/hostname"])
def test_any_name_and_value_is_shown(tmp_path, name):
    truth = write_set(data := tmp_path / "data", 2)
    truth["images"][0]["file_name"] = truth["annotations"][0]["file_name"] = name
    odd = [None, [], {}, 1.5, "7", True, -1, 2**40]
    truth["annotations"][1]["segments_info"] = [{key: value} for key in ("id", "filled") for value in odd] + [
        {"id": 2, "category_id": 9, "iscrowd": value, "filled": value} for value in odd
    ]
    truth["images"] += [{"id": value, "file_name": value, "height": value} for value in odd]
    truth["categories"] = [*CATEGORIES, *({"id": value, "name": value, "color": value} for value in odd)]
    write_json(data, truth)
    rows = pictures(show(data, tmp_path / "out", workers=1).parent)
    assert len(rows) == 2 + len(odd)
    assert all(row["faults"] for row in rows)


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1)])
def test_pictures_of_any_shape(tmp_path, size):
    truth = write_set(data := tmp_path / "data", 1)
    write_id_map(data / "panoptic_val" / "p1.png", np.full(size, 2, dtype=np.int32))
    Image.new("RGB", size[::-1]).save(data / "val" / "p1.jpg")
    truth["images"][0].update(height=size[0], width=size[1])
    write_json(data, truth)
    (row,) = pictures(show(data, tmp_path / "out").parent)
    assert painted(row).shape == tuple(min(side, 1024) for side in size)
    assert (painted(row) == 2).all()


def test_large_pictures_are_shown_smaller_and_measured_whole(tmp_path):
    write_set(data := tmp_path / "data", 1)
    Image.new("RGB", (2500, 1500)).save(data / "val" / "p1.jpg")
    ids = np.kron(a_map(), np.ones((63, 63), dtype=np.int32))[:1500, :2500]
    write_id_map(data / "panoptic_val" / "p1.png", ids)
    (row,) = pictures(show(data, tmp_path / "out").parent)
    assert (row["width"], row["height"]) == (1024, 614)
    assert segments(row)[400][1:3] == (63 * 63, [30 * 63, 12 * 63, 63, 63])
    assert painted(row)[int(12.5 * 63 * 614 / 1500), int(30.5 * 63 * 1024 / 2500)] == 400
    assert row["map"]["faults"] == [f"the JSON says {WIDTH} x {HEIGHT} pixels, the map has 2500 x 1500"]


def test_a_second_run_makes_only_what_changed(tmp_path):
    write_set(data := tmp_path / "data", 3)
    show(data, out := tmp_path / "out")
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("maps/*")}
    write_id_map(data / "panoptic_val" / "p2.png", np.where(a_map() == 3, 400, a_map()))
    (out / "notes.txt").write_text("mine")
    (out / "maps" / "mine.js").write_text("mine")
    show(data, out)
    after = {path.name: path.stat().st_mtime_ns for path in out.glob("maps/*") if path.name != "mine.js"}
    assert len(after) == 3
    assert len(before.items() & after.items()) == 2
    assert {path.stem for path in out.glob("pictures/*")} == {name.removesuffix(".js") for name in after}
    assert (out / "notes.txt").is_file()
    assert (out / "maps" / "mine.js").is_file()
    # a picture's files that were cut off or lost are made again
    cut, lost = sorted(after)[:2]
    whole = (out / "maps" / cut).read_text()
    (out / "maps" / cut).write_text(whole[:10])
    (out / "thumbnails" / lost.replace(".js", ".jpg")).unlink()
    show(data, out)
    assert (out / "maps" / cut).read_text() == whole
    assert len(pictures(out)) == 3


def test_another_s_folder_is_left_alone(tmp_path):
    write_set(tmp_path / "data", 1)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "index.html").write_text("mine")
    with pytest.raises(InputError, match=r"out is not empty and was not made by thingstuff show"):
        show(tmp_path / "data", tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["index.html"]
    with pytest.raises(InputError, match="is not empty and was not made"):
        show(tmp_path / "data", tmp_path / "out" / "index.html")


def test_what_cannot_be_shown_is_refused(tmp_path):
    truth = write_set(data := tmp_path / "data", 1)
    with pytest.raises(InputError, match="limit 0"):
        show(data, tmp_path / "out", limit=0)
    with pytest.raises(InputError, match="no split 'test'"):
        show(data, tmp_path / "out", splits=["test"])
    write_json(data, {**truth, "images": [], "annotations": []})
    with pytest.raises(InputError, match="no pictures"):
        show(data, tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="has no split"):
        show(tmp_path / "empty", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_limit_keeps_errors_and_spreads(tmp_path):
    write_set(data := tmp_path / "data", 20)
    finding = Finding("wrong area", "val", "panoptic_val.json", 4, 3, "its area is 1 in the JSON, 60 in the map")
    note = Finding("thing in pieces", "val", "panoptic_val.json", 5, 3, "in 2 pieces")
    rows = pictures(show(data, tmp_path / "out", findings=Findings([finding, note]), limit=5, workers=1).parent)
    assert [row["id"] for row in rows] == [1, 4, 6, 11, 16]


@pytest.mark.parametrize(
    ("limit", "head", "sheet"),
    [
        (4, "4 of 10 pictures", "data (4 of 10 pictures) · pictures 1 to 4 of 4"),
        (1, "1 of 10 pictures", "data (1 of 10 pictures) · pictures 1 to 1 of 1"),
        (10, "10 pictures", "data · pictures 1 to 10 of 10"),
        (None, "10 pictures", "data · pictures 1 to 10 of 10"),
    ],
)
def test_what_a_limit_left_out_is_told(tmp_path, monkeypatch, limit, head, sheet):
    write_set(data := tmp_path / "data", 10)
    titles: list[str] = []
    monkeypatch.setattr("thingstuff.showing.show.draw_sheet", lambda sheet: titles.append(sheet.title))
    page = show(data, tmp_path / "out", limit=limit, workers=1)
    assert re.findall(r'<p class="quiet">(.*?) ·', page.read_text()) == [head]
    assert titles == [sheet]


def test_findings_lead_to_their_pictures(tmp_path):
    write_set(data := tmp_path / "data", 3)
    write_set(data, 2, "train")
    found = [
        Finding("thing in pieces", "val", str(data / "panoptic_val" / "p2.png"), 2, 3, "in 2 pieces"),
        Finding("wrong area", "val", str(data / "panoptic_val.json"), 2, 400, "<b>its area</b>"),
        Finding("wrong area", "val", str(data / "panoptic_val.json"), 99, None, "of a picture that is not there"),
        Finding("no val split", None, str(data), None, None, "it has none"),
    ]
    page = show(data, tmp_path / "out", findings=Findings(found))
    read = Page(page)
    assert [a["data-kind"] for a in read.all("details") if "data-kind" in a] == ["0", "1", "2"]
    assert re.search(r"error\s+wrong area\s+\(2\)", read.text["filters"])
    kinds = [called(page.parent / "data" / f"kind-{k}.js")[1] for k in range(3)]
    # train comes first: picture 3 is the second of val
    assert kinds[0] == [
        [3, 400, "val · panoptic_val.json · segment 400", "<b>its area</b>"],
        [-1, None, "val · panoptic_val.json", "of a picture that is not there"],
    ]
    assert kinds[1] == [[-1, None, "data", "it has none"]]
    assert called(page.parent / "data" / "found-0.js")[1] == {"3": [[0, 400, "<b>its area</b>"], [2, 3, "in 2 pieces"]]}
    assert [row["kinds"] for row in pictures(page.parent)] == [[], [], [], [0, 2], []]
    show(data, tmp_path / "out", splits=["val"])
    assert sorted(p.name for p in (tmp_path / "out" / "data").iterdir()) == ["found-0.js", "pictures-0.js"]


def test_splits_share_classes_of_one_id_name_and_kind():
    colors = ((1, 2, 3), (4, 5, 6))
    train = Categories(("cat", "sky"), (True, False), (1, 2), colors)
    val = Categories(("sky", "cat"), (False, True), (2, 5), colors)
    classes = join_classes({"train": train, "val": val})
    assert classes.categories.names == ("cat", "sky", "cat (5)", "not listed", "no such class")
    assert classes.label_of == {"train": {1: 0, 2: 1}, "val": {2: 1, 5: 2}}


def test_many_pictures_come_in_parts_and_sheets(tmp_path, monkeypatch):
    monkeypatch.setattr("thingstuff.showing.page._CHUNK", 4)
    monkeypatch.setattr("thingstuff.showing.show.PER_SHEET", 8)
    write_set(data := tmp_path / "data", 10)
    calls: list[tuple[int, int]] = []
    out = show(data, tmp_path / "out", workers=1, progress=lambda *done: calls.append(done)).parent
    assert calls == [(n, 12) for n in range(1, 13)]
    assert [len(called(out / "data" / f"pictures-{k}.js")[1]) for k in range(3)] == [4, 4, 2]
    assert sorted(p.name for p in out.glob("contact-sheet*")) == ["contact-sheet-2.jpg", "contact-sheet.jpg"]
    links = [a["href"] for a in Page(out / "index.html").all("a")]
    assert links == ["contact-sheet.jpg", "contact-sheet-2.jpg"]


def test_processes_make_the_same_files(tmp_path):
    write_set(data := tmp_path / "data", 8)
    for workers in (1, 2):
        show(data, tmp_path / str(workers), workers=workers)
    one, two = (
        {p.relative_to(f): p.read_bytes() for p in f.rglob("*") if p.is_file()}
        for f in (tmp_path / "1", tmp_path / "2")
    )
    assert one == two


def test_real_pictures(shared_data, tmp_path):
    data = shared_data / "coco_panoptic_samples"
    rows = pictures(show(data, tmp_path / "out").parent)
    truth = json.loads((data / "panoptic_val.json").read_text())
    for row, annotation in zip(rows, truth["annotations"], strict=True):
        assert row["faults"] == 0
        assert np.array_equal(painted(row), read_id_map(data / "panoptic_val" / annotation["file_name"]))
        stated = {info["id"]: (info["area"], info["bbox"]) for info in annotation["segments_info"]}
        assert {i: (s[1], s[2]) for i, s in segments(row).items()} == stated


# What a person does on the page, and what it says then
DRIVE = """
<script>
addEventListener("load", async () => {
  const wait = () => new Promise(done => setTimeout(done, 60));
  const say = [], text = id => document.getElementById(id).textContent.trim();
  const key = name => document.body.dispatchEvent(new KeyboardEvent("keydown", {key: name, bubbles: true}));
  const stage = document.getElementById("stage");
  const at = (x, y) => {
    const box = stage.getBoundingClientRect();
    const [clientX, clientY] = [box.left + (x + .5) / 40 * box.width, box.top + (y + .5) / 24 * box.height];
    return {clientX, clientY, bubbles: true};
  };
  const grid = () => document.querySelectorAll("#grid a").length;
  await wait();
  say.push(["grid", grid()]);
  document.querySelector("#grid a").click(); await wait();
  say.push(["title", text("title")]);
  stage.dispatchEvent(new PointerEvent("pointermove", at(8, 6)));
  say.push(["tip", text("tip")], ["hover", document.querySelector("#segments tr.hover").textContent]);
  stage.dispatchEvent(new PointerEvent("pointermove", at(8, 0)));
  say.push(["void", text("tip")]);
  stage.dispatchEvent(new MouseEvent("click", at(30, 12))); await wait();
  stage.dispatchEvent(new PointerEvent("pointerleave"));
  say.push(["chosen", text("about")], ["aim", !document.getElementById("aim").hidden], ["hash", location.hash]);
  key("ArrowRight"); await wait();
  say.push(["next", text("title")], ["faults", text("faults")]);
  key("m");
  say.push(["map hidden", document.getElementById("fill").hidden]);
  const chip = [...document.querySelectorAll(".chips button")].find(b => b.textContent.includes("not listed"));
  chip.click(); await wait();
  say.push(["filtered", text("position"), text("count")]);
  say.push(["dim", document.querySelectorAll("#segments tr.dim").length]);
  key("Escape"); await wait();
  say.push(["left", grid()]);
  location.hash = ""; await wait();
  document.querySelector(".found").open = true; await wait();
  document.querySelector(".found li a").click(); await wait();
  say.push(["found", text("title"), text("about"), text("faults")]);
  document.body.append(Object.assign(document.createElement("pre"), {textContent: JSON.stringify(say)}));
});
</script>
</body>
"""


def browser() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    pytest.skip("no browser here")


def test_the_page_in_a_browser(tmp_path):
    truth = write_set(data := tmp_path / "data", 3)
    truth["annotations"][1]["segments_info"] = infos()[1:]
    write_json(data, truth)
    finding = Finding("wrong area", "val", "panoptic_val.json", 3, 400, "its area is 5")
    page = show(data, tmp_path / "out", findings=Findings([finding]))
    driven = page.with_name("driven.html")
    driven.write_text(page.read_text().replace("</body>", DRIVE))
    command = [browser(), "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
    command += ["--virtual-time-budget=8000", "--window-size=1200,900", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run([*command, driven.as_uri()], capture_output=True, text=True, timeout=60)
    assert "CONSOLE" not in done.stderr, done.stderr
    said = re.search(r"<pre>(.*)</pre>", done.stdout)
    assert said, done.stdout
    rows = json.loads(said[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    assert rows == [
        ["grid", 3],
        ["title", "p1.jpg · val · image 1 · 40 × 24"],
        ["tip", "cat 1 · id 3 · 60 pixels · 6.3 %"],
        ["hover", "cat 1606.3"],
        ["void", "void: nothing is annotated here"],
        ["chosen", "cat 2 · id 400 · 1 pixels · 0.1 %"],
        ["aim", True],
        ["hash", "#picture=0&segment=400"],
        ["next", "p2.jpg · val · image 2 · 40 × 24"],
        ["faults", "the map holds id 2, not in segments_info"],
        ["map hidden", True],
        ["filtered", "1 of 1", "1 of 3 pictures"],
        ["dim", 2],
        ["left", 1],
        [
            "found",
            "p3.jpg · val · image 3 · 40 × 24",
            "cat 2 · id 400 · 1 pixels · 0.1 %",
            "error wrong area: its area is 5",
        ],
    ]
