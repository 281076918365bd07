"""Run folders: what `thingstuff train` and `evaluate` do, as functions.

A run folder holds config.yaml (enough to run it again), metrics.jsonl, best.safetensors and last.safetensors,
result.json, overlays/, progress/ and progress.gif (a val picture's prediction as training went on) and report.html.
"""

import json
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny

from thingstuff import checkpoint, pretrained
from thingstuff.backbone_weights import told_by_backbone
from thingstuff.backbones import ResNet
from thingstuff.checking.quick import quick_check
from thingstuff.config import changed, check_keys, dotted_keys, validated
from thingstuff.data.coco import CocoPanoptic
from thingstuff.errors import InputError
from thingstuff.evaluation.pq import PQResult
from thingstuff.evaluation.result import Evaluation
from thingstuff.io import atomic_write
from thingstuff.models import create, find
from thingstuff.models.base import ModelConfig, PanopticModel
from thingstuff.panoptic import Categories
from thingstuff.predicting import OVERLAYS
from thingstuff.recipes import default_recipe, model_of, recipe_for
from thingstuff.recipes.settings import changed_training, shortest_settings
from thingstuff.report import Example, RunReport, best_weights, write_report
from thingstuff.scoring import evaluate_model, make_examples, shown_positions, spread
from thingstuff.training import Listener, Silence, TrainConfig, fit
from thingstuff.training_progress import GIF, ProgressListener, frame_files, write_gif
from thingstuff.transfer import settings_of, take_over
from thingstuff.weights import load_backbone

CONFIG, METRICS, RESULT, REPORT = "config.yaml", "metrics.jsonl", "result.json", "report.html"
OWN_FILES = (CONFIG, METRICS, RESULT, REPORT, GIF, f"best{checkpoint.SUFFIX}", f"last{checkpoint.SUFFIX}")
EXAMPLES, WORST, BEST = 12, 6, 4
DEFAULT_MODEL = "panoptic-fcn-r50"
MASKS_RECIPE = "detr-masks"
"""What goes on after a training of boxes alone."""


class RunConfig(BaseModel):
    """All that makes a run; config.yaml holds it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str
    """Data folder or YAML file."""
    train_split: str = "train"
    """Split to learn from."""
    val_split: str | None = "val"
    """Split to score on; null for none."""
    model_name: str
    """A name in MODELS."""
    model: SerializeAsAny[ModelConfig]
    """The model's settings."""
    train: TrainConfig
    """The training's settings."""
    first_weights: str | None = None
    """Where the first weights come from, as `pretrained.load` takes it; null for those that the backbone names."""
    first_settings: dict[str, Any] = Field(default_factory=dict)
    """The model's settings, by dotted key, that came with them, or with the backbone's; others are the preset's."""

    @property
    def usual_model(self) -> ModelConfig:
        """The model's settings where none is changed."""
        return changed(find(self.model_name)[0], self.first_settings)

    @property
    def usual_recipe(self) -> str:
        """The recipe where none is named."""
        return _usual_recipe(find(self.model_name)[1], self.model, self.first_weights)


def _usual_recipe(model_class: type[PanopticModel], model: ModelConfig, first_weights: str | None) -> str:
    return default_recipe(model_class, model) if first_weights is None else model_class.fine_tune_recipe


def make_config(
    data: str,
    model_name: str | None,
    changes: Mapping[str, Any],
    recipe: str | None = None,
    val_split: str | None = "val",
    first_weights: str | None = None,
) -> RunConfig:
    """Build a run's config from a model's preset and a recipe, changed by dotted keys of either.

    With `first_weights` (whatever `pretrained.load` takes) the model is theirs where none is named, with their settings
    instead of the preset's; under another name it keeps how they see pictures. Else the model is the recipe's, and a
    backbone's imported weights bring how they see pictures. Without `recipe` it is the model's own for scratch where
    nothing of it is pretrained, else the one for fine-tuning. Raises `InputError` for unknown names, keys
    and values, a recipe for models of another class, and parts to learn that the model lacks.
    """
    recipe_model = model_of(recipe) if recipe is not None else None
    settings: dict[str, Any] = {}
    if first_weights is not None:
        source = pretrained.load_source(first_weights).model
        model_name = model_name or source.name
        settings = settings_of(source, model_name)
    model_name = model_name or recipe_model or DEFAULT_MODEL
    preset, model_class = find(model_name)
    usual = changed(preset, settings)
    of_model, of_training = _sorted_changes(preset, changes)
    if first_weights is not None and "backbone.weights" in of_model:
        raise InputError("backbone.weights and --from both give the backbone's first weights; leave one of them out")
    if first_weights is None:
        settings = _asked_by_backbone(changed(usual, of_model))
        usual = changed(usual, settings)
    model = changed(usual, of_model)
    chosen = recipe_for(recipe or _usual_recipe(model_class, model, first_weights), model_name, model.preprocess)
    return RunConfig(
        data=data,
        model_name=model_name,
        model=changed(usual, {**chosen.model, **of_model}),
        train=changed_training(chosen.train, of_training, model_class),
        val_split=val_split,
        first_weights=first_weights,
        first_settings=settings,
    )


def _asked_by_backbone(model: ModelConfig) -> dict[str, Any]:
    """Return the model's settings, by dotted key, that its backbone's weights were trained with, where they tell."""
    backbone = model.model_dump().get("backbone", {})
    return told_by_backbone(backbone.get("weights"), backbone.get("depth", 0))


def resumed_config(run: Path, data: str | None, model_name: str | None, changes: Mapping[str, Any]) -> RunConfig:
    """Return the config of a run that goes on, perhaps with its data elsewhere and training settings changed.

    Raises `InputError` where there is no run, or its model would have to change.
    """
    config = read_config(run)
    of_model, of_training = _sorted_changes(config.model, changes)
    if model_name not in (None, config.model_name) or changed(config.model, of_model) != config.model:
        raise InputError(
            f"{run} is a run of {config.model_name} with the settings in {run / CONFIG}, and a model cannot change "
            "while it is trained: leave the change out, or start a run in another --out"
        )
    train = changed_training(config.train, of_training, find(config.model_name)[1])
    return config.model_copy(update={"train": train, "data": data or config.data})


def _sorted_changes(model: ModelConfig, changes: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tell the model's settings (with or without `model.` before them) from the training's.

    The training's are checked where its recipe is known, which decides whether there is a second stage to set.
    """
    of_training = {key: value for key, value in changes.items() if key.split(".")[0] in TrainConfig.model_fields}
    rest = {key: value for key, value in changes.items() if key not in of_training}
    model_keys = dotted_keys(model)
    known = [*dotted_keys(TrainConfig()), *model_keys, *(f"model.{key}" for key in model_keys)]
    check_keys(rest, known, "model or training")
    of_model = {key.removeprefix("model."): value for key, value in rest.items()}
    return of_model, of_training


def read_config(run: Path) -> RunConfig:
    """Read a run folder's config.yaml. Raises `InputError` where it is missing or wrong."""
    path = run / CONFIG
    if not path.is_file():
        raise InputError(f"{path} is not there: {run} is no run to go on with; leave out --resume to start one")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        preset, _ = find(values["model_name"])
        model = validated(type(preset), values["model"], f"{path}: model")
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} cannot be read ({error!r}); restore it, or start a new run in another folder"
        ) from None
    return validated(RunConfig, {**values, "model": model}, str(path))


@dataclass(frozen=True)
class RunResult:
    """A finished run: its folder, its report, and how the best weights score (None without a val split)."""

    folder: Path
    report: Path
    result: Evaluation | None
    measurable: bool = True
    """Whether the model has segments: after boxes alone it has none yet."""


@dataclass(frozen=True)
class Extras:
    """What a report shows besides the run itself."""

    title: str = "thingstuff run"
    baselines: Mapping[str, PQResult] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)


def is_main_process() -> bool:
    """Tell whether this is the first of the processes that torchrun or accelerate started."""
    return os.environ.get("RANK", "0") == "0"


def train_run(
    config: RunConfig,
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    listener: Listener | None = None,
    say: Callable[[str], None] = lambda _: None,
    extras: Extras | None = None,
) -> RunResult:
    """Train as a config says, in a run folder, and report how the best weights do on the val split.

    Raises `InputError` for bad data or settings before anything is written, and for a folder that is in use (without
    `overwrite` or `resume`).
    """
    train = CocoPanoptic.open(config.data, config.train_split)
    val = CocoPanoptic.open(config.data, config.val_split) if config.val_split else None
    for split in (train, val):
        if split is not None:
            split.check_files()
    if val is not None and val.categories != train.categories:
        raise InputError(
            f"{val.paths.json}: its categories are not those of {train.paths.json}; both splits need the same"
        )
    if not resume:
        _tell_warnings(config, train, val, say)
    if is_main_process():
        _refuse_used_folder(out, resume or overwrite)
        _refuse_to_replace(config.first_weights, out, resume)
    model = _first_model(
        config, train.categories, begun=resume and (out / f"last{checkpoint.SUFFIX}").exists(), say=say
    )

    def ready() -> None:
        _clear(out, resume)
        atomic_write(out / CONFIG, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))

    told = listener or Silence()
    if val is not None and is_main_process() and _measurable(model, config.train):
        told = ProgressListener(model, val, out, told, say)
    fit(model, train, val, config.train, out, resume=resume, listener=told, ready=ready)
    if not is_main_process():
        return RunResult(out, out / REPORT, None, _measurable(model, config.train))
    return finish_run(config, out, val, extras or Extras(), listener, say)


def _tell_warnings(
    config: RunConfig, train: CocoPanoptic, val: CocoPanoptic | None, say: Callable[[str], None]
) -> None:
    """Tell what is doubtful about the data by its JSONs alone."""
    named = ((config.train_split, train), (config.val_split, val))
    findings = quick_check([(name, dataset) for name, dataset in named if name is not None and dataset is not None])
    if findings.grade_count("warning"):
        for line in findings.text(grades=("warning",)).splitlines():
            say(line)
        say(f"more on the data, and a repaired copy: {shlex.join(['thingstuff', 'check', config.data])} --fix OUT")


def _first_model(config: RunConfig, categories: Categories, begun: bool, say: Callable[[str], None]) -> PanopticModel:
    """Build a run's model with its first weights, which one that has `begun` has no need of."""
    # Before the seed: what the source's model draws must not decide what ours does.
    source = pretrained.load_source(config.first_weights) if config.first_weights and not begun else None
    torch.manual_seed(config.train.seed)
    model = create(config.model_name, categories, config.model)
    backbone = getattr(model, "backbone", None)
    if source is not None:
        try:
            taken = take_over(model, source)
        except InputError as error:
            raise InputError(f"{config.first_weights}: {error}") from None
        for line in taken.summary():
            say(line)
    elif config.first_weights is None and not begun and isinstance(backbone, ResNet):
        say(load_backbone(backbone))
    return model


def _refuse_to_replace(first_weights: str | None, out: Path, resume: bool) -> None:
    if first_weights is None or resume or not Path(first_weights).exists():
        return
    place = Path(first_weights).resolve()
    if out.resolve() in (place, place.parent):
        raise InputError(f"--overwrite would remove {first_weights}, which --from begins with; give another --out")


def _refuse_used_folder(out: Path, allowed: bool) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; give a folder for the run")
    if out.is_dir() and any(out.iterdir()) and not allowed:
        raise InputError(f"{out} is not empty; give another --out, --resume to go on with it, or --overwrite")


def _clear(out: Path, resume: bool) -> None:
    """Make the run folder, or empty it of an earlier run's own files."""
    out.mkdir(parents=True, exist_ok=True)
    if not resume:
        frames = [path for path, _ in frame_files(out)]
        for path in [*(out / name for name in OWN_FILES), *(out / OVERLAYS).glob("*.jpg"), *frames]:
            path.unlink(missing_ok=True)


def finish_run(
    config: RunConfig,
    out: Path,
    val: CocoPanoptic | None,
    extras: Extras,
    listener: Listener | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> RunResult:
    """Score the best weights on the val split and write result.json, overlays/ and report.html."""
    history = [json.loads(line) for line in (out / METRICS).read_text(encoding="utf-8").splitlines()]
    empty = PQResult.of([], 0)
    result: Evaluation | None = None
    examples, worst, best, notes = [], [], [], dict(extras.notes)
    model = checkpoint.load(out)
    measurable = _measurable(model, config.train)
    if not measurable:
        notes["score"] = f"{config.train.stages[-1].learns} only: no masks to score yet"
    elif val is not None:
        result = evaluate_model(model, val, progress=listener.evaluating if listener else None)
        atomic_write(out / RESULT, json.dumps(result.to_json(), indent=1))
        at_worst, at_best = shown_positions(val, result, WORST, BEST)
        others = [i for i in range(len(val)) if i not in {*at_worst, *at_best}]
        at_others = [others[i] for i in spread(len(others), EXAMPLES)]
        worst, best, examples = (make_examples(model, val, chosen) for chosen in (at_worst, at_best, at_others))
        _write_overlays(out / OVERLAYS, [*worst, *best, *examples])
    report = RunReport(
        title=extras.title,
        command=command_of(config, _beside(out)),
        categories=model.categories,
        history=history,
        result=result.pq if result else empty,
        baselines=extras.baselines,
        examples=examples,
        config_yaml=(out / CONFIG).read_text(encoding="utf-8"),
        notes=notes,
        evaluation=result,
        worst=worst,
        best=best,
        progress=write_gif(out, say),
        weights=best_weights(history) if result else "",
    )
    return RunResult(out, write_report(out / REPORT, report), result, measurable)


def _beside(out: Path) -> Path:
    """Return a folder for the same run again: its own is refused, and to replace it is not for a copied command."""
    named = out.resolve() if out.name in ("", "..") else out
    return named.with_name(f"{named.name}-again")


def _measurable(model: PanopticModel, train: TrainConfig) -> bool:
    """Tell whether a training leads to segments that can be scored."""
    model.learn(train.stages[-1].learns)
    measurable = model.measurable
    model.learn("all")
    return measurable


def command_of(config: RunConfig, out: Path) -> str:
    """Return the command that makes a run again: by the recipe that leaves the fewest settings to name."""
    _, model_class = find(config.model_name)
    recipe, settings = shortest_settings(config.train, config.model, config.usual_model, model_class)
    words = ["thingstuff", "train", config.data, *settings, "--model", config.model_name]
    words += ["--from", config.first_weights] if config.first_weights else []
    words += ["--out", str(out)]
    if recipe != config.usual_recipe:
        words += ["--recipe", recipe]
    return shlex.join([*words, *_split_words(config)])


def next_command(config: RunConfig, run: RunResult) -> str:
    """Return the command that most would give after a run: to predict, or to learn masks after boxes alone."""
    if run.measurable:
        return shlex.join(["thingstuff", "predict", "PICTURES", "--weights", str(run.folder), "--out", "predictions"])
    out = run.folder.with_name(f"{run.folder.name}-masks")
    augment = config.train.augment.model_dump(mode="json")
    kept = {"batch_size": config.train.batch_size, "unlabelled": config.model.model_dump()["unlabelled"]}
    kept |= {f"augment.{key}": augment[key] for key in ("short_sides", "max_side", "window")}
    settings = [f"{k}={json.dumps(v).strip(chr(34))}" for k, v in kept.items() if not isinstance(v, dict)]
    words = ["thingstuff", "train", config.data, *settings, "--from", str(run.folder), "--recipe", MASKS_RECIPE]
    return shlex.join([*words, "--out", str(out), *_split_words(config)])


def _split_words(config: RunConfig) -> list[str]:
    return [] if config.val_split == "val" else ["--val-split", config.val_split or "none"]


def _write_overlays(folder: Path, examples: Sequence[Example]) -> None:
    folder.mkdir(exist_ok=True)
    for example in examples:
        name = "_".join(Path(example.name).with_suffix("").parts)
        example.prediction.draw(example.picture).save(folder / f"{name}.jpg", quality=90)
