"""The GIF of a training's progress: its frames, and what a run keeps of them."""

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from drawn_maps import CATEGORIES, two_cups
from thingstuff.data.coco import CocoPanoptic
from thingstuff.data.scenes import SceneConfig, make_scenes
from thingstuff.drawing_progress import LONGEST_SIDE, Animation, progress_frame, progress_gif
from thingstuff.errors import InputError
from thingstuff.evaluation.pq import PQResult
from thingstuff.models import create
from thingstuff.panoptic import Panoptic, Segment
from thingstuff.runs import make_config, train_run
from thingstuff.scoring import evaluate_model
from thingstuff.training import Silence
from thingstuff.training_progress import FRAMES, GIF, ProgressListener, frame_files, watched_position, write_gif

SMALL = {
    "preprocess.short_side": 64,
    "backbone.norm": "group",
    "backbone.stem_channels": 8,
    "backbone.res2_channels": 8,
    "fpn_channels": 32,
    "semantic_channels": 32,
    "position_channels": 32,
    "kernel_channels": 32,
    "encoder_channels": 8,
    "augment.short_sides": [64],
    "batch_size": 2,
    "workers": 0,
    "save_every": 100,
}


def plain(count: int, size: tuple[int, int] = (60, 40)) -> list[tuple[int, Image.Image]]:
    colors = [(255 * i // count, 80, 200 - 150 * i // count) for i in range(count)]
    return [(10 * i, Image.new("RGB", size, color)) for i, color in enumerate(colors)]


def noisy(count: int, size: tuple[int, int]) -> list[tuple[int, Image.Image]]:
    rng = np.random.default_rng(0)
    return [(i, Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8))) for i in range(count)]


def opened(gif: bytes) -> tuple[list[np.ndarray], list[int], int]:
    """Return a GIF's frames, their milliseconds and how often it repeats (0: for ever)."""
    frames, durations = [], []
    with Image.open(io.BytesIO(gif)) as image:
        loops = image.info["loop"]
        for i in range(image.n_frames):
            image.seek(i)
            frames.append(np.array(image.convert("RGB")))
            durations.append(image.info["duration"])
    return frames, durations, loops


def local_palettes(gif: bytes) -> int:
    """Count the frames that bring a palette of their own."""
    at, count = 13 + 3 * 2 ** ((gif[10] & 7) + 1), 0
    while gif[at] != 0x3B:
        if gif[at] == 0x2C:
            flags = gif[at + 9]
            count += flags >> 7
            at += 11 + (3 * 2 ** ((flags & 7) + 1) if flags >> 7 else 0)
        else:
            at += 2
        while gif[at]:
            at += gif[at] + 1
        at += 1
    return count


def test_frames_come_in_the_order_of_their_steps_and_the_last_stands_longest():
    frames, durations, loops = opened(progress_gif(plain(5)[::-1]).gif)
    reds = [int(frame[10, 10, 0]) for frame in frames]
    assert reds == sorted(reds)
    assert len(set(reds)) == 5
    assert loops == 0
    assert durations[-1] == max(durations) >= 3 * durations[1]


def test_a_bar_shows_how_far_the_training_is():
    frames, _, _ = opened(progress_gif(plain(5)).gif)
    lengths = [int((frame[-1] != frame[-1, -1]).any(axis=1).sum()) for frame in frames[:-1]]
    assert lengths == [0, 15, 30, 45]
    assert (frames[-1][-1] == frames[-1][-1, 0]).all()
    assert (frames[-1][-1] != frames[0][-1]).any()


def test_all_frames_share_one_palette():
    gif = progress_gif([*plain(3, (80, 64)), *((40 + i, f) for i, f in noisy(2, (64, 80)))]).gif
    assert gif[10] >> 7 == 1, "a global one"
    assert local_palettes(gif) == 0


@pytest.mark.parametrize(("count", "size"), [(100, (40, 60)), (70, (120, 200)), (2, (1500, 1500))])
def test_a_gif_stays_below_a_megabyte_and_keeps_first_and_last(count, size):
    given = noisy(count, size)
    made = progress_gif(given)
    assert len(made.gif) <= 1_000_000
    frames, _, _ = opened(made.gif)
    assert 2 <= len(frames) <= 60
    assert len(made.steps) == len(frames)
    assert (made.steps[0], made.steps[-1]) == (0, count - 1)
    assert list(made.steps) == sorted({*made.steps})
    if count > 2:
        for shown, (_, frame) in ((frames[0], given[0]), (frames[-1], given[-1])):
            assert np.abs(shown[: size[0]].astype(int) - np.array(frame)).mean() < 30
        assert np.abs(frames[0].astype(int) - frames[-1]).mean() > 50


def test_the_same_frames_give_the_same_bytes():
    assert progress_gif(plain(4)) == progress_gif(plain(4))
    assert progress_gif([]) == Animation()
    assert len(opened(progress_gif(plain(1)).gif)[0]) == 1


def test_frames_of_another_size_are_fitted():
    small, large = Image.new("RGB", (30, 20)), Image.new("RGB", (60, 40), (255, 0, 0))
    frames, _, _ = opened(progress_gif([(0, small), (1, large)]).gif)
    assert {frame.shape for frame in frames} == {(43, 60, 3)}


@pytest.mark.parametrize(("size", "side"), [((120, 160), 320), ((2000, 1000), 320), ((8, 8), 320), ((200, 300), 300)])
def test_a_frame_is_small_and_says_step_and_pq(size, side):
    panoptic = two_cups(*size)
    picture = np.full((*size, 3), 200, dtype=np.uint8)
    untold, told = progress_frame(picture, panoptic, 70), progress_frame(picture, panoptic, 70, 0.123)
    assert max(untold.width, untold.height - 18) == side <= LONGEST_SIDE
    assert untold.size == told.size
    caption = np.array(told)[-18:]
    assert (caption != np.array(untold)[-18:]).any()
    assert (np.array(told)[:-18] == np.array(untold)[:-18]).all()
    assert (caption < 60).all(axis=2).any()
    with pytest.raises(InputError, match="the map is"):
        progress_frame(picture[:-1], panoptic, 1)


# ---- in a run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes") / "data"
    return make_scenes(folder, train=4, val=3, seed=1, config=SceneConfig(size=(64, 80)))


def steps_kept(out: Path) -> list[int]:
    return [step for _, step in frame_files(out)]


def test_a_run_keeps_a_frame_of_each_evaluation_and_goes_on_with_them(data, tmp_path):
    out = tmp_path / "run"

    def config(steps: int, val: str | None = "val"):
        return make_config(str(data), "panoptic-fcn-tiny", {**SMALL, "steps": steps, "evaluate_every": 1}, None, val)

    train_run(config(2), out)
    assert steps_kept(out) == [0, 1, 2]
    before = {path.name: path.read_bytes() for path, _ in frame_files(out)}
    frames, _, _ = opened((out / GIF).read_bytes())
    assert len(frames) == 3
    train_run(config(3), out, resume=True)
    assert steps_kept(out) == [0, 1, 2, 3]
    assert {path.name: path.read_bytes() for path, _ in frame_files(out)[:3]} == before
    assert len(opened((out / GIF).read_bytes())[0]) == 4
    train_run(config(1, None), out, overwrite=True)
    assert steps_kept(out) == []
    assert not (out / GIF).exists()


def test_always_the_same_picture_is_watched(data, tmp_path, monkeypatch):
    val = CocoPanoptic.open(data, "val")
    kinds = [len({s.label for s in record.segments}) for record in val.records]
    position = watched_position(val)
    assert position == kinds.index(max(kinds))
    model, seen = create("panoptic-fcn-tiny", val.categories), []

    def predict(picture):
        seen.append(picture)
        return Panoptic(np.ones((64, 80), dtype=np.int32), (Segment(1, 0, 1),), CATEGORIES)

    monkeypatch.setattr(model, "predict", predict)
    listener = ProgressListener(model, val, tmp_path, Silence(), pytest.fail)
    listener.start(0, 20)
    listener.evaluated(10, PQResult.of([], 1))
    assert len(seen) == 2
    assert all((picture == val.picture(position)).all() for picture in seen)
    assert steps_kept(tmp_path) == [0, 10]
    listener.start(5, 20)
    assert steps_kept(tmp_path) == [0], "what comes after the step to go on from is lost"
    assert len(seen) == 2, "the first frame stands"


def test_a_split_without_pictures_has_none_to_watch(data):
    val = CocoPanoptic.open(data, "val")
    assert watched_position(CocoPanoptic(val.paths, val.categories, ())) is None


@pytest.fixture
def listener(data, tmp_path, monkeypatch) -> ProgressListener:
    """One whose model predicts at once; `told` holds what it says."""
    val = CocoPanoptic.open(data, "val")
    model = create("panoptic-fcn-tiny", val.categories)
    made = ProgressListener(model, val, tmp_path, Silence(), [].append)
    monkeypatch.setattr(model, "predict", lambda picture: two_cups(*picture.shape[:2]))
    return made


def told(listener: ProgressListener) -> list[str]:
    return listener.say.__self__


def raising(error: Exception):
    def predict(picture):
        raise error

    return predict


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError(),
    ],
)
def test_too_little_memory_for_the_picture_leaves_its_frame_out(listener, monkeypatch, error):
    with monkeypatch.context() as patched:
        patched.setattr(listener.model, "predict", raising(error))
        listener.start(0, 20)
        listener.evaluated(10, PQResult.of([], 1))
    listener.evaluated(20, PQResult.of([], 1))
    assert steps_kept(listener.out) == [20]
    (line,) = told(listener)
    assert line.startswith("progress.gif lacks step 0: memory does not suffice to predict ")
    assert line.endswith(".jpg; the training goes on")


def test_other_faults_of_a_prediction_are_not_hidden(listener, monkeypatch):
    for error in (RuntimeError("sizes do not match"), OSError("no memory of ours"), ValueError("x")):
        monkeypatch.setattr(listener.model, "predict", raising(error))
        with pytest.raises(type(error), match=str(error)):
            listener.evaluated(10, PQResult.of([], 1))


def test_a_frame_that_cannot_be_written_is_left_out(listener):
    (listener.out / FRAMES).write_text("no folder")
    listener.start(0, 30)
    listener.evaluated(10, PQResult.of([], 1))
    (listener.out / FRAMES).unlink()
    listener.evaluated(20, PQResult.of([], 1))
    assert steps_kept(listener.out) == [20]
    shutil.rmtree(listener.out)
    listener.evaluated(30, PQResult.of([], 1))
    (line,) = told(listener)
    assert line.startswith("progress.gif lacks step 0: its frame cannot be written ([Errno ")


def test_an_old_frame_that_cannot_be_removed_ends_no_training(listener):
    (listener.out / FRAMES / "step-000010.png").mkdir(parents=True)
    listener.start(5, 30)
    (line,) = told(listener)
    assert line.startswith("an earlier frame of progress.gif cannot be removed ([Errno ")


def test_a_picture_that_cannot_be_read_is_told_as_evaluation_tells_it(data, tmp_path):
    root = shutil.copytree(data, tmp_path / "data")
    val = CocoPanoptic.open(root, "val")
    model = create("panoptic-fcn-tiny", val.categories)
    val.records[watched_position(val)].picture.write_bytes(b"no picture")
    with pytest.raises(InputError) as scored:
        evaluate_model(model, val)
    with pytest.raises(InputError) as watched:
        ProgressListener(model, val, tmp_path, Silence(), pytest.fail).start(0, 10)
    assert str(watched.value) == str(scored.value)


def test_a_run_whose_frames_cannot_be_kept_ends_well(data, tmp_path):
    out, said = tmp_path / "run", []
    out.mkdir()
    (out / FRAMES).write_text("no folder")
    config = make_config(str(data), "panoptic-fcn-tiny", {**SMALL, "steps": 1, "evaluate_every": 1})
    run = train_run(config, out, overwrite=True, say=said.append)
    assert run.report.is_file()
    assert [line for line in said if GIF in line] == [line for line in said if "its frame cannot be written" in line]
    assert len([line for line in said if GIF in line]) == 1


def keep(out: Path, frames: list[tuple[int, Image.Image]]) -> None:
    (out / FRAMES).mkdir()
    for step, frame in frames:
        frame.save(out / FRAMES / f"step-{step:06d}.png")


def test_frames_that_are_left_out_are_not_read(tmp_path, monkeypatch):
    keep(tmp_path, plain(150))
    read = []
    opening = Image.open
    monkeypatch.setattr(Image, "open", lambda path, *a, **k: read.append(path) or opening(path, *a, **k))
    animation = write_gif(tmp_path, pytest.fail)
    assert len(read) == len(animation.steps) == 60
    assert (animation.steps[0], animation.steps[-1]) == (0, 1490)
    assert (tmp_path / GIF).read_bytes() == animation.gif


def test_damaged_frames_are_left_out_and_told(tmp_path):
    keep(tmp_path, plain(6))
    paths = [path for path, _ in frame_files(tmp_path)]
    paths[1].write_bytes(b"no picture")
    paths[5].write_bytes(paths[5].read_bytes()[:60])
    said = []
    assert write_gif(tmp_path, said.append).steps == (0, 20, 30, 40)
    (line,) = said
    assert "step-000010.png cannot be read" in line
    assert line.endswith("nor can 1 more; progress.gif is made without")


def test_a_gif_that_cannot_be_written_is_still_there_for_the_report(tmp_path):
    keep(tmp_path, plain(2))
    (tmp_path / GIF).mkdir()
    said = []
    assert write_gif(tmp_path, said.append).steps == (0, 10)
    assert ["progress.gif cannot be written" in line for line in said] == [True]
