"""The PQ that masks of each stride leave: against plain loops, at its ends, over processes, and what masks cost."""

import dataclasses
import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import closing
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from rich.console import Console
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from command_line import call
from models_contract import CATEGORIES
from thingstuff.ceiling import Ceiling, ceiling, first_presets, frame_alone
from thingstuff.ceiling_tables import _work
from thingstuff.coarse_maps import BLOCK, KEPT, area_shares, bands_through_cells, through_cells
from thingstuff.convert.pool import in_processes
from thingstuff.data.coco import CocoPanoptic
from thingstuff.data.scenes import SCENE_CATEGORIES, make_scenes
from thingstuff.errors import InputError
from thingstuff.evaluation import errors
from thingstuff.evaluation.evaluator import evaluate
from thingstuff.evaluation.segments import PictureMatches
from thingstuff.head_cost import STRIDES, HeadCost, measured, reduced_size
from thingstuff.models import MODELS, create
from thingstuff.models.base import PanopticModel
from thingstuff.models.panoptic_fcn import PanopticFCN
from thingstuff.models.panoptic_fpn import PanopticFPN
from thingstuff.panoptic import Panoptic, Segment
from thingstuff.structures import Frame, Size

Ids = npt.NDArray[np.int32]


def panoptic(ids: Ids, labels: dict[int, int], crowds: tuple[int, ...] = ()) -> Panoptic:
    """A map whose segments have these labels."""
    present = [i for i in labels if (ids == i).any()]
    segments = tuple(Segment(i, labels[i], int((ids == i).sum()), iscrowd=i in crowds) for i in present)
    return Panoptic(ids, segments, CATEGORIES)


def whole(height: int, width: int) -> Frame:
    """The frame of a picture that is neither resized nor padded."""
    return Frame((height, width), (height, width), (height, width))


def blobs(height: int, width: int, seed: int = 0) -> Panoptic:
    """A map of random blocks: four segments, a crowd among them, and void."""
    random = np.random.default_rng(seed)
    ids = np.kron(random.integers(0, 6, (height // 3 + 1, width // 3 + 1)), np.ones((3, 3), int))[:height, :width]
    return panoptic(ids.astype(np.int32), {1: 0, 2: 1, 3: 2, 4: 3, 5: 1}, crowds=(5,))


# Against plain loops


def plain(truth: Panoptic, frame: Frame, stride: int) -> Ids:
    """Reduce and restore a map by loops over cells and pixels: what each cell is covered by, then the best share."""
    (H, W), (ch, cw) = truth.size, frame.canvas
    h, w = -(-ch // stride), -(-cw // stride)
    order = [*(s.id for s in truth.segments), 0]
    finer = 2  # points along a pixel of the canvas: exact where it is one or two of the picture's
    points = [(np.arange(side * finer) + 0.5) / finer for side in frame.canvas]
    shares = np.zeros((len(order), h, w))
    for y in points[0]:
        for x in points[1]:
            py, px = int(y * H / frame.size[0]), int(x * W / frame.size[1])
            if py < H and px < W:
                shares[order.index(truth.ids[py, px]), int(y // stride), int(x // stride)] += 1
    masks = torch.from_numpy(shares / (stride * finer) ** 2)
    values = frame.restore(masks).round(decimals=9)
    best = np.array(order)[values.max(0).indices.numpy()].astype(np.int32)
    crowds = [s.id for s in truth.segments if s.iscrowd]
    return np.where(np.isin(best, crowds), 0, best).astype(np.int32)


@pytest.mark.parametrize("stride", [1, 2, 4, 8])
@pytest.mark.parametrize(
    "frame",
    [whole(16, 24), Frame((32, 32), (24, 30), (24, 30)), Frame((16, 24), (12, 18), (24, 36))],
    ids=["whole", "padded", "halved"],
)
def test_it_is_what_plain_loops_give(frame: Frame, stride: int) -> None:
    truth = blobs(*frame.original)
    ours, theirs = through_cells(truth, frame, stride), plain(truth, frame, stride)
    restored = [frame.restore(_shares(truth, frame, stride, i)[None])[0] for i in np.unique(truth.ids)]
    first, second = torch.stack(restored).topk(2, dim=0).values
    sure = (first - second > 1e-5).numpy()  # equal shares are won by whom rounding favours
    assert sure.mean() > 0.6
    assert (ours.ids == theirs)[sure].all()
    assert {s.id: s.area for s in ours.segments} == {
        i: int((ours.ids == i).sum()) for i in np.unique(ours.ids).tolist() if i
    }


def _shares(truth: Panoptic, frame: Frame, stride: int, value: int) -> Tensor:
    rows, columns = (
        area_shares(-(-canvas // stride), canvas, size, original)
        for canvas, size, original in zip(frame.canvas, frame.size, frame.original, strict=True)
    )
    return rows @ torch.from_numpy((truth.ids == value).astype(np.float32)) @ columns.T


def test_a_cell_holds_the_share_of_each_pixel() -> None:
    halves = area_shares(3, 6, 6, 6)
    assert torch.equal(halves, torch.eye(3).repeat_interleave(2, 1) / 2)
    larger = area_shares(4, 8, 8, 6)  # a cell of 2 canvas pixels is 1.5 picture pixels wide
    torch.testing.assert_close(larger[0], torch.tensor([1 / 1.5, 0.5 / 1.5, 0, 0, 0, 0]))
    beyond = area_shares(3, 12, 6, 6)  # padding covers half of the middle cell
    assert beyond.sum(1).tolist() == [1, 0.5, 0]


def test_bands_hold_what_the_whole_matrices_hold() -> None:
    frame = Frame((224, 288), (200, 267), (150, 201))  # several blocks, the last one short
    for stride in (1, 4, 8):
        h, w = reduced_size(frame.canvas, stride)
        bands, ways_back = bands_through_cells(frame, stride), frame.axes(torch.empty(h, w))
        sides = zip((h, w), frame.canvas, frame.size, frame.original, strict=True)
        for band, back, side in zip(bands, ways_back, sides, strict=True):
            whole_matrix, again = back.weights @ area_shares(*side), torch.zeros(side[3], side[3])
            for n, block in enumerate(band.blocks):
                begin = band.first[n * BLOCK]
                again[n * BLOCK : n * BLOCK + len(block), begin : begin + block.shape[1]] = block
            torch.testing.assert_close(again, whole_matrix, rtol=0, atol=1e-6)
            read = [row.nonzero()[[0, -1], 0].tolist() for row in whole_matrix]
            assert read == [[*ends] for ends in zip(band.first, band.last, strict=True)]


def test_memory_does_not_grow_with_pictures_of_many_sizes() -> None:
    bands_through_cells.cache_clear()
    for height in range(200, 200 + 2 * KEPT):
        bands_through_cells(Frame((128, 128), (128, 128), (height, 200)), 4)
    assert bands_through_cells.cache_info().currsize == KEPT
    large = bands_through_cells(Frame((800, 1088), (800, 1067), (3000, 4000)), 8)
    assert sum(block.numel() for band in large for block in band.blocks) * 4 < 4_000_000
    bands_through_cells.cache_clear()


# Its ends


@pytest.mark.parametrize("size", [(37, 53), (64, 64)])
def test_where_nothing_is_resized_stride_1_loses_nothing(size: tuple[int, int]) -> None:
    truth = blobs(*size)
    again = through_cells(truth, whole(*size), 1)
    without_crowds = np.where(truth.ids == 5, 0, truth.ids)
    assert (again.ids == without_crowds).all()
    result = evaluate([truth], [again])
    assert (result.all.pq, result.all.sq, result.all.rq) == (1, 1, 1)


def test_a_checkerboard_finer_than_the_stride_loses_everything() -> None:
    rows, columns = np.indices((64, 64))
    board = panoptic((1 + (rows + columns) % 2).astype(np.int32), {1: 1, 2: 3})
    pq = {stride: evaluate([board], [through_cells(board, whole(64, 64), stride)]).all.pq for stride in (1, 2, 4)}
    assert pq[1] == 1
    assert pq[2] == pq[4] == 0  # every share is a half: one segment has all, and an IoU of 0.5 is no match
    coarse = panoptic((1 + (rows // 8 + columns // 8) % 2).astype(np.int32), {1: 1, 2: 3})
    assert (evaluate([coarse], [through_cells(coarse, whole(64, 64), 2)]).all.pq or 0) > 0.8


def test_segments_keep_their_ids_and_a_lost_one_is_gone() -> None:
    ids = np.full((32, 32), 9, np.int32)
    ids[9, 9] = 4
    lost = through_cells(panoptic(ids, {4: 1, 9: 0}), whole(32, 32), 8)
    assert [(s.id, s.label, s.area) for s in lost.segments] == [(9, 0, 1024)]


# A data set


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    make_scenes(folder, 1, 8)
    return folder


@pytest.fixture(scope="module")
def of_scenes(scenes: Path) -> Ceiling:
    return ceiling(scenes, short_sides=[64, 128], model="detr-panoptic-tiny", workers=1)


def test_finer_masks_and_larger_inputs_reach_more(of_scenes: Ceiling) -> None:
    pq = [row.pq.all.pq or 0 for row in of_scenes.rows]
    assert [(row.short_side, row.stride) for row in of_scenes.rows] == [(s, t) for s in (64, 128) for t in (1, 2, 4, 8)]
    assert all(finer > coarser for finer, coarser in pairwise(pq[:4]))
    assert all(finer > coarser for finer, coarser in pairwise(pq[4:]))
    assert all(larger > smaller for smaller, larger in zip(pq[:4], pq[4:], strict=True))
    assert pq[4] == 1
    by_size = [row.pq or 0 for row in (of_scenes.rows[6].sizes[size].all for size in errors.SIZES)]
    assert by_size == sorted(by_size)


def test_sizes_add_up(of_scenes: Ceiling) -> None:
    for row in of_scenes.rows:
        for n, of_class in enumerate(row.pq.per_class):
            parts = [row.sizes[size].per_class[n] for size in errors.SIZES]
            assert sum(p.tp for p in parts) == of_class.tp
            assert sum(p.fn for p in parts) == of_class.fn
            assert sum(p.fp for p in parts) == of_class.fp
            assert sum(p.iou for p in parts) == pytest.approx(of_class.iou)


def test_it_is_the_evaluation_of_what_comes_back(scenes: Path, of_scenes: Ceiling) -> None:
    data = CocoPanoptic.open(scenes, "val")
    truths = [data.panoptic(n) for n in range(len(data))]
    with torch.device("meta"):
        model = create("detr-panoptic-tiny", SCENE_CATEGORIES, **{"preprocess.short_side": 64})
    frame = frame_alone(model, truths[0].size)
    assert frame == Frame((64, 96), (64, 80), (128, 160))
    expected = evaluate(truths, [through_cells(truth, frame, 4) for truth in truths])
    assert of_scenes.rows[2].pq == expected.pq


def test_progress_is_told_and_a_limit_kept(scenes: Path) -> None:
    done: list[tuple[int, int]] = []
    found = ceiling(
        scenes, strides=[4], model="panoptic-fcn-tiny", limit=5, workers=1, progress=lambda *at: done.append(at)
    )
    assert found.pictures == 5
    assert done == [(n, 5) for n in range(1, 6)]


def test_what_cannot_be_measured_is_refused(scenes: Path) -> None:
    for wrong, told in (
        ({"strides": [3]}, "stride 3"),
        ({"strides": []}, "no strides"),
        ({"short_sides": [16]}, "short side 16"),
        ({"max_side": 9}, "max side 9"),
        ({"limit": 0}, "limit 0"),
        ({"workers": 0}, "workers=0"),
        ({"model": "no-such"}, "no-such"),
        ({"split": "test"}, "test"),
    ):
        with pytest.raises(InputError, match=told):
            ceiling(scenes, **wrong)  # type: ignore[arg-type]


# The command


def test_the_command_prints_and_writes_what_is_measured(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "ceiling.json"
    options = ["--strides", "4,8", "--short-side", "64,128", "--model", "detr-panoptic-tiny", "--workers", 1]
    assert call("ceiling", scenes, *options, "--json", file) == 0
    shown = capsys.readouterr().out
    rows = json.loads(file.read_text())["rows"]
    assert [(row["short_side"], row["stride"]) for row in rows] == [(64, 4), (64, 8), (128, 4), (128, 8)]
    for row in rows:
        assert f"{100 * row['pq']['all']['pq']:.1f}" in shown
        assert row["costs"][0]["each"]["multiply_adds"] > 0
    assert "pictures: 8" in shown
    assert call("ceiling", scenes, *options, "--json", file) == 2
    assert "is there already" in capsys.readouterr().err
    assert call("ceiling", scenes, "--strides", "1,two") == 2
    assert "--strides '1,two'" in capsys.readouterr().err
    assert call("ceiling", scenes, "--model", "panoptic-fpn-tiny", "--strides", "4", "--workers", 1) == 0
    assert f"panoptic-fpn-tiny: {PanopticFPN.uncounted_masks}" in capsys.readouterr().out.replace("\n", " ")


def test_what_is_asked_for_twice_is_measured_once(scenes: Path) -> None:
    found = ceiling(scenes, strides=[8, 4, 8], short_sides=[128, 64, 128], limit=1, workers=1)
    assert [(row.short_side, row.stride) for row in found.rows] == [(128, 8), (128, 4), (64, 8), (64, 4)]


def test_tables_fit_a_terminal_of_80_columns(scenes: Path) -> None:
    measured = ceiling(scenes, short_sides=[64, 2000], strides=[1, 4], max_side=4000, limit=1, workers=1)
    assert [cost.head for cost in measured.rows[0].costs] == ["Panoptic FCN", "DETR"]
    console = Console(width=300, file=StringIO(), record=True)
    for table in (measured.table(), *measured.cost_tables()):
        console.print(table)
    shown = console.export_text()
    assert max(map(len, shown.splitlines())) <= 80
    assert "e+" not in shown
    for cost in measured.rows[-1].costs:
        assert f"Cost of the masks of {cost.head}" in shown
        assert f"Each {cost.mask}:" in shown
        assert _work(cost.once)[0] in shown


def test_enlarged_pictures_are_told(scenes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ("--limit", 1, "--strides", 4, "--workers", 1)
    assert call("ceiling", scenes, *few) == 0
    told = "your pictures have short sides of 128 pixels; they are enlarged to "
    shown = capsys.readouterr().out
    assert f"{told}800 (6.25 times)" in shown
    assert "the input is that of panoptic-fcn-r50; --model names yours, --short-side measures others" in shown
    assert call("ceiling", scenes, *few, "--model", "panoptic-fcn-tiny", "--short-side", "64,128,256,192") == 0
    shown = capsys.readouterr().out
    assert f"{told}256 (2 times), 192 (1.5 times)" in shown
    assert "measures others" not in shown
    assert call("ceiling", scenes, *few, "--model", "panoptic-fcn-tiny") == 0
    assert "enlarged" not in capsys.readouterr().out


@pytest.mark.usefixtures("interruptible")
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for another process")
def test_two_processes_give_what_one_gives_until_ctrl_c_ends_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One run for both, since processes take seconds to start: Ctrl-C comes with the third of twelve pictures."""
    make_scenes(tmp_path / "data", 1, 12)
    found: list[list[list[PictureMatches]]] = []
    expected: list[list[list[PictureMatches]]] = []
    workers: list[multiprocessing.process.BaseProcess] = []

    def recorded(work: Any, tasks: Any, count: int) -> Iterator[list[list[PictureMatches]]]:
        expected.extend(work(task) for task in tasks[:3])
        with closing(in_processes(work, tasks, count)) as results:
            for result in results:
                found.append(result)
                if len(found) == 3:
                    workers.extend(multiprocessing.active_children())
                    for worker in workers:  # a terminal tells all
                        os.kill(worker.pid or 0, signal.SIGINT)
                    signal.raise_signal(signal.SIGINT)
                yield result

    monkeypatch.setattr("thingstuff.ceiling.in_processes", recorded)
    file = tmp_path / "ceiling.json"
    options = ("--strides", "4,8", "--model", "panoptic-fcn-tiny", "--workers", 2)
    assert call("ceiling", tmp_path / "data", *options, "--json", file) == 130
    assert capsys.readouterr().err.endswith("stopped; nothing was written\n")
    assert not file.exists()
    assert len(found) == 3
    assert found == expected
    assert len(workers) == 2
    assert not any(worker.is_alive() for worker in workers)


def test_a_picture_whose_map_is_damaged_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_scenes(tmp_path / "data", 1, 2)
    broken = sorted((tmp_path / "data" / "panoptic_val").glob("*.png"))[1]
    broken.write_bytes(broken.read_bytes()[:200])
    assert call("ceiling", tmp_path / "data", "--workers", 1) == 2
    assert broken.name in capsys.readouterr().err


# What masks cost


def conv_adds(shapes: list[tuple[int, int]], cells: list[int], taps: int = 9) -> int:
    return sum(a * b * taps * n for (a, b), n in zip(shapes, cells, strict=True))


def model_without_weights(name: str, **changes: Any) -> Any:
    with torch.device("meta"):
        return create(name, CATEGORIES, **changes)


def test_the_cost_of_detr_at_stride_4_is_that_of_its_own_head() -> None:
    model = model_without_weights("detr-panoptic-tiny").to_empty(device="cpu")
    projected = torch.zeros(1, 128, 4, 5)
    stages = {s: torch.zeros(1, model.backbone.channels[s], 128 >> s, 160 >> s) for s in (2, 3, 4)}
    cost = model.mask_cost((128, 160), 4)
    with FlopCounterMode(display=False) as once:
        parts = model.mask_head.picture_parts(projected, stages)
    flops = []
    for queries in (1, 2):
        with FlopCounterMode(display=False) as counter:
            masks = model.mask_head(parts, torch.zeros(queries, 8, 4, 5))
        assert masks.shape == (queries, 32, 40)
        flops.append(counter.get_total_flops())
    assert cost.once.multiply_adds == once.get_total_flops() // 2
    assert cost.each.multiply_adds == (flops[1] - flops[0]) // 2
    assert cost.mask == "query"


def test_the_cost_of_detr_by_hand() -> None:
    """A conv after an upsampling is four 2x2 convs on one cell more along each side, see the mask head."""
    d, heads, (h, w) = 128, 8, (4, 5)
    widths = [d + heads, d + heads, d // 2, d // 4, d // 8, d // 16]
    grids = [(h << n) * (w << n) for n in range(6)]
    doubled = [((h << n) + 1) * ((w << n) + 1) for n in range(6)]
    model = model_without_weights("detr-panoptic-tiny")
    first = 9 * grids[0] * (heads * (d + heads) + (d + heads) * d // 2)
    ups = [16 * widths[n] * widths[n + 1] * doubled[n - 2] for n in (2, 3, 4)]
    finer = [16 * widths[5] ** 2 * doubled[n] for n in (3, 4)]
    for stride, stages in ((8, ups[:2]), (4, ups), (2, [*ups, finer[0]]), (1, [*ups, *finer])):
        cost = model.mask_cost((128, 160), stride)
        last = widths[2 + len(stages[:3])]
        assert cost.each.multiply_adds == first + sum(stages) + 9 * last * grids[len(stages)], stride


def test_the_memory_of_detr_by_hand() -> None:
    """Once: what the convolutions read. A query: its maps, what each norm and each ReLU keep, and the norms' sums."""
    model = model_without_weights("detr-panoptic-r50")
    d, heads, (h, w) = 256, 8, (25, 34)
    grids = [(h << n) * (w << n) for n in range(6)]
    stages = [(1024 + d // 2) * grids[1], (512 + d // 4) * grids[2], (256 + d // 8) * grids[3]]
    convs = [(d + heads) * grids[0], d // 2 * grids[0], d // 4 * grids[1], d // 8 * grids[2], d // 16 * grids[3]]
    finer = [d // 16 * grids[4], d // 16 * grids[5]]
    for stride, read, kept in (
        (8, stages[:2], convs[:-1]),
        (4, stages, convs),
        (2, stages, [*convs, finer[0]]),
        (1, stages, [*convs, *finer]),
    ):
        cost = model.mask_cost((800, 1088), stride)
        assert cost.once.bytes == 4 * (d * grids[0] + sum(read)), stride
        assert cost.each.bytes == 4 * (heads * grids[0] + 2 * sum(kept) + 2 * 8 * len(kept)), stride


def test_the_documented_costs_are_those_that_are_counted() -> None:
    text = (Path(__file__).parents[1] / "docs" / "ceiling.md").read_text(encoding="utf-8")
    begin = text.index(
        "| stride | Panoptic FCN, once | MiB | each kernel | MiB | DETR, once | MiB | each query | MiB |"
    )
    documented = [line.replace("*", "").strip("| ").split(" | ") for line in text[begin:].splitlines()[2:6]]
    models = [model_without_weights(name) for name in ("panoptic-fcn-r50", "detr-panoptic-r50")]
    for stride, row in zip(STRIDES, documented, strict=True):
        works = [work for cost in (m.mask_cost((800, 1088), stride) for m in models) for work in (cost.once, cost.each)]
        assert row == [str(stride), *(cell for work in works for cell in _work(work))]


def test_the_cost_of_panoptic_fcn_by_hand() -> None:
    model = model_without_weights("panoptic-fcn-tiny")
    E, C, blocks = 32, 64, 2
    for stride in (1, 2, 4, 8):
        cost = model.mask_cost((128, 160), stride)
        cells = {s: 128 * 160 // s**2 for s in (1, 2, 4, 8)}
        finer = sum(9 * C * C * cells[2 * s] for s in (2, 1) if s >= stride)
        assert cost.once.multiply_adds == finer + 9 * cells[stride] * ((C + 2) * E + (blocks - 1) * E * E)
        assert cost.each.multiply_adds == E * cells[stride]
        assert cost.each.bytes == 4 * cells[stride]  # what the sigmoid keeps: its result


def test_memory_is_what_autograd_keeps() -> None:
    conv = torch.nn.Conv2d(3, 5, 3, padding=1)
    x = torch.zeros(1, 3, 8, 8)
    assert measured(lambda: conv(x).relu()).bytes == 4 * (3 + 5) * 64  # the conv's input and the ReLU's result
    assert measured(lambda: conv(x).relu()).multiply_adds == 64 * 9 * 15
    part = measured(lambda: torch.nn.functional.conv2d(x[:, :2], conv.weight[:, :2]))
    assert part.bytes == 4 * 3 * 64  # of the picture's storage; a part of a parameter is a parameter still


def test_weights_need_not_lie_on_the_meta_device() -> None:
    for name in ("detr-panoptic-tiny", "panoptic-fcn-tiny"):
        real = create(name, CATEGORIES)
        assert real.mask_cost((128, 160), 2) == model_without_weights(name).mask_cost((128, 160), 2)


def test_panoptic_fpn_has_no_stride_and_strange_strides_are_refused() -> None:
    assert model_without_weights("panoptic-fpn-tiny").mask_cost((64, 64), 4) is None
    for name in ("detr-panoptic-tiny", "panoptic-fcn-tiny"):
        with pytest.raises(InputError, match="stride 16"):
            model_without_weights(name).mask_cost((64, 64), 16)


class Another(PanopticFCN):
    """A model of another file, which counts its masks itself."""

    def mask_cost(self, canvas: Size, stride: int) -> HeadCost:
        return dataclasses.replace(super().mask_cost(canvas, stride), head="Another")


class Silent(PanopticFCN):
    """A model of another file, which counts nothing."""

    mask_cost = PanopticModel.mask_cost  # type: ignore[assignment]


def test_a_new_model_is_priced_as_it_says(scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert first_presets() == ["panoptic-fcn-r50", "panoptic-fpn-r50", "detr-panoptic-r50"]
    preset = MODELS["panoptic-fcn-tiny"][0]
    monkeypatch.setitem(MODELS, "another", (preset, Another))
    monkeypatch.setitem(MODELS, "silent", (preset, Silent))
    (row,) = ceiling(scenes, strides=[4], short_sides=[64], limit=1, workers=1).rows
    assert [cost.head for cost in row.costs] == ["Panoptic FCN", "DETR", "Another"]
    silent = ceiling(scenes, strides=[4], model="silent", limit=1, workers=1)
    assert not silent.rows[0].costs
    assert silent.uncounted == "what masks cost at each stride is not known of this model"
    assert ceiling(scenes, strides=[4], model="another", limit=1, workers=1).uncounted == ""
