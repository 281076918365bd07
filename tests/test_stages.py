"""Training in two stages: what learns in each, and runs that are killed in either go on as if nothing had happened."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from thingstuff import checkpoint, runs
from thingstuff.cli import app
from thingstuff.data.scenes import SceneConfig, make_scenes
from thingstuff.errors import InputError
from thingstuff.models import MODELS, create
from thingstuff.models.base import PanopticModel
from thingstuff.models.panoptic_fcn import PanopticFCN, PanopticFCNConfig, PanopticFCNOutput
from thingstuff.optim import OptimConfig, learning_rate
from thingstuff.panoptic import Categories
from thingstuff.recipes import RECIPES, Recipe
from thingstuff.runs import RunConfig, command_of, make_config, read_config, resumed_config, train_run
from thingstuff.stages import StageConfig, stage_at, stages_of, steps_of
from thingstuff.structures import Target
from thingstuff.training import Interrupted, Silence, TrainConfig

NAME = "in-two-parts"
CATEGORIES = Categories(("sky", "disc"), (False, True), (1, 2))
SMALL: dict[str, Any] = {
    "preprocess.short_side": 64,
    "backbone.stem_channels": 8,
    "backbone.res2_channels": 8,
    "fpn_channels": 32,
    "semantic_channels": 32,
    "position_channels": 32,
    "kernel_channels": 32,
    "encoder_channels": 8,
}
FAST: dict[str, Any] = {**SMALL, "augment.short_sides": [64], "batch_size": 2, "workers": 0}


class InTwoParts(PanopticFCN):
    """A model that finds where things are, and then their masks."""

    PARTS: ClassVar[tuple[str, ...]] = ("all", "boxes", "masks")

    def parameters_of(self, part: str) -> Iterable[str]:
        of_masks = ("kernel_head.", "semantic_fpn.", "feature_encoder.", "thing_embedding.", "stuff_embedding.")
        of_masks += ("fpn.output.2.", "fpn.lateral.2.")  # P2 serves masks alone
        return [name for name, _ in self.named_parameters() if name.startswith(of_masks) == (part == "masks")]

    @property
    def measurable(self) -> bool:
        return self.learning != "boxes"

    def loss(self, output: PanopticFCNOutput, targets: Sequence[Target]) -> dict[str, Tensor]:
        kind = {"all": "", "boxes": "position_", "masks": "mask_"}[self.learning]
        return {name: value for name, value in super().loss(output, targets).items() if name.startswith(kind)}


def two_stages() -> TrainConfig:
    optim = OptimConfig(kind="adamw", lr=1e-3, schedule="step", warmup_steps=2, clip="norm")
    return TrainConfig(
        learns="boxes", steps=8, optim=optim, then=StageConfig(learns="masks", steps=6, optim=optim), seed=3
    )


def register() -> None:
    """Put the model and its recipes among the known ones, for this process."""
    MODELS[NAME] = (MODELS["panoptic-fcn-tiny"][0], InTwoParts)
    RECIPES["two-stages"] = lambda _: Recipe(two_stages())


@pytest.fixture(autouse=True)
def _registered() -> Iterable[None]:
    register()
    yield
    del MODELS[NAME], RECIPES["two-stages"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    return make_scenes(folder / "data", train=11, val=2, seed=1, config=SceneConfig(size=(64, 80)))


def config_of(data: Path, changes: dict[str, Any] | None = None, recipe: str | None = "two-stages") -> RunConfig:
    return make_config(str(data), NAME, {**FAST, **(changes or {})}, recipe)


def model_of(**changes: Any) -> PanopticModel:
    torch.manual_seed(0)
    return create(NAME, CATEGORIES, **{**SMALL, **changes})


def rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def losses(out: Path) -> dict[int, dict[str, float]]:
    return {row["step"]: row["losses"] for row in rows(out) if "losses" in row}


def weights(out: Path) -> dict[str, Tensor]:
    return checkpoint.load_training(out / "last.safetensors")[0].state_dict()


def assert_same_run(ours: Path, whole: Path) -> None:
    assert list(losses(ours)) == list(losses(whole))
    for step, values in losses(whole).items():
        assert losses(ours)[step] == pytest.approx(values, rel=1e-6), step
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(ours)[name], value, rtol=1e-5, atol=1e-7)


# ---- parts of a model


def test_a_part_is_trained_alone_and_without_what_was_frozen_from_the_start() -> None:
    model = model_of(**{"backbone.frozen_stages": 2})
    from_the_start = {name for name, p in model.named_parameters() if p.requires_grad}
    assert "backbone.conv1.weight" not in from_the_start

    def trainable() -> set[str]:
        return {name for name, p in model.named_parameters() if p.requires_grad}

    model.learn("masks")
    of_masks = trainable()
    model.learn("boxes")
    of_boxes = trainable()
    assert of_boxes | of_masks == from_the_start
    assert not of_boxes & of_masks
    assert "kernel_head.out.weight" in of_masks
    assert "backbone.layer4.0.conv1.weight" in of_boxes
    model.learn("all")
    assert trainable() == from_the_start


def test_what_is_frozen_stays_in_eval_mode_while_a_part_learns() -> None:
    model = model_of()  # its backbone has batch norm
    model.learn("masks")
    model.train()
    assert model.training
    assert model.kernel_head.training  # type: ignore[union-attr]
    assert not model.backbone.training  # type: ignore[union-attr]
    assert not any(m.training for m in model.backbone.modules())  # type: ignore[union-attr]
    assert model.fpn.training  # type: ignore[union-attr]  -- for P2, which serves masks
    model.eval()
    assert not any(m.training for m in model.modules())
    model.train()
    model.learn("all")
    assert all(m.training for m in model.modules())


def test_dropout_goes_with_what_it_lies_in() -> None:
    model = model_of()
    model.kernel_head.dropout = torch.nn.Dropout(0.1)  # type: ignore[union-attr]
    model.position_head.dropout = torch.nn.Dropout(0.1)  # type: ignore[union-attr]
    model.train()
    model.learn("boxes")
    assert model.position_head.dropout.training  # type: ignore[union-attr]
    assert not model.kernel_head.dropout.training  # type: ignore[union-attr]


def test_a_part_that_the_model_lacks_is_named_with_its_parts(data: Path) -> None:
    with pytest.raises(InputError, match=r"'mask'.*InTwoParts.*all, boxes, masks"):
        model_of().learn("mask")
    with pytest.raises(InputError, match=r"'boxes'.*PanopticFCN.*its parts are all$"):
        make_config(str(data), "panoptic-fcn-tiny", {"learns": "boxes"})
    with pytest.raises(InputError, match=r"'mask'"):
        config_of(data, {"then.learns": "mask"})


# ---- stages


@pytest.mark.parametrize(
    ("epochs", "pictures", "whole_batch", "expected"),
    [
        (25, 118_287, 16, 25 * 7392),
        (300, 16, 16, 300),
        (1, 11, 2, 5),
        (0.5, 100, 10, 5),
        (3, 2, 16, 3),
        (0.01, 9, 3, 1),
    ],
)
def test_an_epoch_drops_its_last_incomplete_batch(
    epochs: float, pictures: int, whole_batch: int, expected: int
) -> None:
    assert steps_of(StageConfig(epochs=epochs, steps=77), pictures, whole_batch) == expected


def test_stages_follow_one_another() -> None:
    first, second = stages_of((StageConfig(steps=7), StageConfig(learns="masks", epochs=2)), 10, 3)
    assert (first.begin, first.end, second.begin, second.end) == (0, 7, 7, 13)
    assert (first.learns, second.learns) == ("all", "masks")
    assert [stage_at((first, second), step) for step in (0, 6, 7, 12, 13)] == [first, first, second, second, second]


def test_the_learning_rate_drops_once() -> None:
    config = OptimConfig(lr=1e-4, schedule="step", drop_at=200 / 300, warmup_steps=0)
    per_epoch = 7392  # COCO's 118,287 pictures by 16
    rates = [learning_rate(config, step, 300 * per_epoch) for step in (0, 200 * per_epoch - 1, 200 * per_epoch)]
    assert rates == pytest.approx([1e-4, 1e-4, 1e-5])
    for epochs, drop in ((25, 15), (300, 200), (150, 100)):
        config = OptimConfig(lr=1.0, schedule="step", drop_at=drop / epochs, warmup_steps=0)
        by_epoch = [learning_rate(config, epoch * 977, epochs * 977) for epoch in range(epochs)]
        assert by_epoch == [1.0] * drop + [pytest.approx(0.1)] * (epochs - drop)


# ---- settings


def test_the_second_stage_is_set_by_dotted_keys(data: Path) -> None:
    train = config_of(data, {"then.steps": 100, "then.optim.lr": 1e-4}).train
    assert train.then is not None
    assert (train.then.steps, train.then.optim.lr, train.then.learns) == (100, 1e-4, "masks")
    assert train.optim.lr == 1e-3
    with pytest.raises(InputError, match=r"unknown setting 'then\.steps' of the training"):
        config_of(data, {"then.steps": 100}, recipe="scratch")
    with pytest.raises(InputError, match=r"unknown setting 'then\.stps' of the training; did you mean 'then\.steps'"):
        config_of(data, {"then.stps": 100})


def test_steps_replace_a_recipes_epochs(data: Path) -> None:
    plain = config_of(data, recipe="detr-two-step").train
    assert plain.then is not None
    assert (plain.epochs, plain.then.epochs) == (300, 25)
    train = config_of(data, {"steps": 10, "then.steps": 5}, recipe="detr-two-step").train
    assert train.then is not None
    assert (train.epochs, train.steps, train.then.epochs, train.then.steps) == (None, 10, None, 5)
    with pytest.raises(InputError, match=r"then\.steps and then\.epochs"):
        config_of(data, {"then.steps": 5, "then.epochs": 2})


@pytest.mark.parametrize(
    ("recipe", "changes"),
    [
        ("two-stages", {}),
        ("two-stages", {"then.steps": 100, "then.optim.lr": 1e-5, "epochs": 2}),
        ("two-stages", {"then": None, "learns": "all"}),
        ("detr-two-step", {"augment.window": None}),
        ("detr-boxes", {"batch_size": 2, "epochs": 3}),
        ("detr-masks", {"steps": 4000}),
        ("detr-joint", {"augment.window.chance": 0.25, "unlabelled": "ignored"}),
        ("panoptic-fcn-1x", {}),
        (None, {"backbone.weights": "imagenet"}),
        (None, {"backbone.weights": "imagenet", "steps": 1500}),
        (None, {"then": {"learns": "masks", "steps": 5, "optim": {"lr": 1e-5}}}),
    ],
)
def test_a_run_s_command_makes_it_again(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str | None, changes: dict[str, Any]
) -> None:
    made: list[RunConfig] = []

    def seen(config: RunConfig, *_: Any, **__: Any) -> None:
        made.append(config)
        raise Interrupted(0)

    monkeypatch.setattr(runs, "train_run", seen)
    config = make_config(str(data), NAME, changes, recipe)
    with pytest.raises(SystemExit):
        app(shlex.split(command_of(config, tmp_path / "again"))[1:], standalone_mode=False)
    (again,) = made
    assert stages_of(again.train.stages, 1000, 4) == stages_of(config.train.stages, 1000, 4)
    assert without_steps(again) == without_steps(config)


def without_steps(config: RunConfig) -> dict[str, Any]:
    """A run's settings without steps that epochs replace."""
    values = config.model_dump()
    for stage in (values["train"], values["train"]["then"] or {}):
        if stage.get("epochs") is not None:
            del stage["steps"]
    return values


def test_the_command_names_a_recipe_where_that_is_shorter(data: Path, tmp_path: Path) -> None:
    command = command_of(config_of(data, {"then.steps": 9}), tmp_path)
    assert "--recipe two-stages" in command
    assert "then.steps=9" in command
    assert "then.learns" not in command
    assert "--recipe" not in command_of(config_of(data, {"steps": 9}, recipe=None), tmp_path)


# ---- runs


class Seen(Silence):
    """What a training tells; it may be killed, as by a power cut, before a step is written down as done."""

    def __init__(self, kill_after: int | None = None) -> None:
        self.kill_after = kill_after
        self.rates: dict[int, float] = {}
        self.evaluated_at: list[int] = []
        self.total = 0

    def start(self, step: int, steps: int) -> None:
        self.total = steps

    def step(self, record: dict[str, Any]) -> None:
        self.rates[record["step"]] = record["lr"]
        if record["step"] == self.kill_after:
            raise KeyboardInterrupt

    def evaluated(self, step: int, result: Any) -> None:
        self.evaluated_at.append(step)


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Seen]:
    """A two-stage run that nothing disturbed."""
    register()
    out, seen = tmp_path_factory.mktemp("whole") / "run", Seen()
    train_run(config_of(data, {"save_every": 4, "evaluate_every": 4}), out, listener=seen)
    return out, seen


def test_each_stage_learns_its_part_by_its_own_schedule(data: Path, whole: tuple[Path, Seen]) -> None:
    out, seen = whole
    assert seen.total == 14
    parts = [{name.split("_")[0] for name in values} for values in losses(out).values()]
    assert parts == [{"position"}] * 8 + [{"mask"}] * 6
    optim = two_stages().optim
    expected = [learning_rate(optim, step, 8) for step in range(8)] + [learning_rate(optim, s, 6) for s in range(6)]
    assert list(seen.rates.values()) == pytest.approx(expected)
    assert seen.evaluated_at == [12, 14]  # never while boxes are learned alone
    assert json.loads((out / "result.json").read_text())["pictures"] == 2
    assert (out / "best.safetensors").exists()


def test_the_second_stage_leaves_the_first_part_as_it_was(data: Path, whole: tuple[Path, Seen], tmp_path: Path) -> None:
    config = config_of(data, {"save_every": 8})
    with pytest.raises(KeyboardInterrupt):
        train_run(config, tmp_path / "run", listener=Seen(kill_after=9))
    first, both = weights(tmp_path / "run"), weights(whole[0])
    of_masks = {*model_of().parameters_of("masks")}
    moved = {name for name, value in both.items() if not torch.equal(value, first[name])}
    assert moved  # ... and batch norm's statistics stay too
    assert moved <= of_masks
    assert not any("running" in name or "num_batches" in name for name in moved)


@pytest.mark.parametrize(("kill_after", "save_every"), [(7, 4), (8, 4), (9, 4), (11, 5), (14, 4)])
def test_a_run_goes_on_from_any_place(
    data: Path, whole: tuple[Path, Seen], tmp_path: Path, kill_after: int, save_every: int
) -> None:
    out = tmp_path / "run"
    config = config_of(data, {"save_every": save_every, "evaluate_every": 4})
    with pytest.raises(KeyboardInterrupt):
        train_run(config, out, listener=Seen(kill_after))
    train_run(read_config(out), out, resume=True)
    assert_same_run(out, whole[0])


class StopAt(Silence):
    """Asks for an end, as Ctrl-C does, at a step."""

    def __init__(self, step: int) -> None:
        self.at = step

    def step(self, record: dict[str, Any]) -> None:
        if record["step"] == self.at:
            signal.raise_signal(signal.SIGINT)


def test_ctrl_c_at_the_boundary(data: Path, whole: tuple[Path, Seen], tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(Interrupted, match="step 8"):
        train_run(config_of(data, {"save_every": 100, "evaluate_every": 4}), out, listener=StopAt(8))
    _, state = checkpoint.load_training(out / "last.safetensors")
    assert state.values["step"] == 8
    seen = Seen()
    train_run(read_config(out), out, resume=True, listener=seen)
    assert list(seen.rates) == list(range(9, 15))
    assert_same_run(out, whole[0])


@pytest.mark.parametrize("kill_at", [6, 11])
def test_a_killed_process_goes_on_in_either_stage(
    data: Path, whole: tuple[Path, Seen], tmp_path: Path, kill_at: int
) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_stages; test_stages.register(); "
        "from thingstuff.cli import main; main()"
    )

    def start(*arguments: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", code, "train", *arguments, "--out", str(tmp_path / "run")]
        return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    settings = [f"{key}={json.dumps(value)}" for key, value in {**FAST, "save_every": 4, "evaluate_every": 4}.items()]
    killed = start(str(data), *settings, "--model", NAME, "--recipe", "two-stages")
    deadline = time.monotonic() + 120
    while (
        not (tmp_path / "run" / "metrics.jsonl").exists() or max(losses_so_far(tmp_path / "run"), default=0) < kill_at
    ):
        assert killed.poll() is None, killed.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    killed.kill()
    killed.communicate()
    resumed = start("--resume")
    output, _ = resumed.communicate(timeout=200)
    assert resumed.returncode == 0, output
    assert_same_run(tmp_path / "run", whole[0])


def losses_so_far(out: Path) -> list[int]:
    """The steps in the metrics of a run under way, whose last line may be half written."""
    return [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().split("\n")[:-1]]


def test_boxes_alone_are_not_scored(data: Path, tmp_path: Path) -> None:
    changes = {"then": None, "steps": 3, "evaluate_every": 1}
    seen = Seen()
    run = train_run(config_of(data, changes), tmp_path / "run", listener=seen)
    assert run.result is None
    assert seen.evaluated_at == []
    assert not (run.folder / "best.safetensors").exists()
    assert not (run.folder / "result.json").exists()
    assert "boxes only: no masks to score yet" in run.report.read_text(encoding="utf-8")


def test_epochs_are_counted_by_the_train_split(data: Path, tmp_path: Path) -> None:
    seen = Seen()
    config = config_of(data, {"epochs": 1, "then.epochs": 0.4})
    train_run(config, tmp_path / "run", listener=seen)
    assert seen.total == 5 + 2  # 11 pictures, two a step
    assert read_config(tmp_path / "run") == config


def test_a_stage_that_is_over_cannot_change(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train_run(config_of(data, {"save_every": 5}), out, listener=Seen(kill_after=11))  # saved at 10
    for changes in ({"steps": 4}, {"steps": 20}, {"then.learns": "all"}, {"then.optim.kind": "sgd"}):
        with pytest.raises(InputError, match=r"first step 9, learns=masks, optim\.kind=adamw; with these settings"):
            train_run(resumed_config(out, None, None, changes), out, resume=True)
    seen = Seen()
    train_run(resumed_config(out, None, None, {"then.steps": 4}), out, resume=True, listener=seen)
    assert list(seen.rates) == [11, 12]


def test_a_stage_under_way_may_become_longer(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train_run(config_of(data, {"save_every": 8}), out, listener=Seen(kill_after=9))  # saved where it ended
    seen = Seen()
    train_run(resumed_config(out, None, None, {"steps": 10}), out, resume=True, listener=seen)
    assert list(seen.rates) == list(range(9, 17))
    assert set(losses(out)[10]) == {"position_things", "position_stuff"}


def test_two_processes_train_in_stages_as_one_does(data: Path, tmp_path: Path) -> None:
    code = "import test_stages; test_stages.register(); from thingstuff.cli import main; main()"
    script = tmp_path / "command.py"
    script.write_text(f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); {code}\n", encoding="utf-8")

    def run(out: Path, batch_size: int, *launcher: str) -> None:
        own = {
            **FAST,
            "batch_size": batch_size,
            "backbone.norm": "group",
            "save_every": 100,
            "steps": 3,
            "then.steps": 3,
        }
        settings = [f"{key}={json.dumps(value)}" for key, value in own.items()]
        command = [sys.executable, *launcher, str(script), "train", str(data), *settings, "--model", NAME]
        command += ["--recipe", "two-stages", "--out", str(out)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 0, done.stderr

    run(tmp_path / "one", 4)
    run(tmp_path / "two", 2, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert list(one) == list(two) == list(range(1, 7))
    for step in one:
        assert two[step] == pytest.approx(one[step], rel=2e-4), step


def test_detr_goes_on_in_either_stage(data: Path, tmp_path: Path) -> None:
    changes = {"preprocess.short_side": 64, "augment.short_sides": [64], "batch_size": 2, "save_every": 2, "steps": 4}
    changes |= {"then.steps": 3, "dropout": 0.1}  # dropout draws random numbers, in the first stage alone
    config = make_config(str(data), "detr-panoptic-tiny", changes, "detr-scratch", val_split=None)
    train_run(config, tmp_path / "whole")
    for kill_after in (3, 7):
        out = tmp_path / str(kill_after)
        with pytest.raises(KeyboardInterrupt):
            train_run(config, out, listener=Seen(kill_after))
        train_run(read_config(out), out, resume=True)
        assert_same_run(out, tmp_path / "whole")


# ---- the paper's recipes


def test_the_recipes_of_detr_are_the_paper_s(monkeypatch: pytest.MonkeyPatch) -> None:
    size = PanopticFCNConfig().preprocess
    made = {name: RECIPES[f"detr-{name}"](size) for name in ("boxes", "masks", "two-step", "joint")}
    lengths = {name: [(s.learns, s.epochs) for s in recipe.train.stages] for name, recipe in made.items()}
    assert lengths == {
        "boxes": [("boxes", 300)],
        "masks": [("masks", 25)],
        "two-step": [("boxes", 300), ("masks", 25)],
        "joint": [("all", 300)],
    }
    drops = {"boxes": 200, "masks": 15, "all": 200}
    for recipe in made.values():
        assert recipe.model == {"unlabelled": "negative"}
        assert recipe.train.batch_size == 16
        for stage in recipe.train.stages:
            o = stage.optim
            assert (o.kind, o.lr, o.lr * o.backbone_lr, o.weight_decay, o.norm_decay) == (
                "adamw",
                1e-4,
                1e-5,
                1e-4,
                1e-4,
            )
            assert (o.clip, o.clip_at, o.warmup_steps) == ("norm", 0.1, 0)
            assert stage.epochs is not None
            epochs = range(int(stage.epochs))
            rates = [learning_rate(o, 100 * e, 100 * len(epochs)) for e in epochs]
            assert rates == pytest.approx([1e-4 if e < drops[stage.learns] else 1e-5 for e in epochs])
        a = recipe.train.augment
        assert (a.short_sides, a.max_side, a.flip, a.color, a.crop) == (tuple(range(480, 801, 32)), 1333, 0.5, 0, None)
        w = a.window
        assert w is not None
        assert (w.chance, w.short_sides, w.smallest, w.largest) == (0.5, (400, 500, 600), 384, 600)
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert RECIPES["detr-joint"](size).train.batch_size == 2
