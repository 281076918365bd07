"""What every model must do, whatever its insides: a model's own tests inherit `ModelContract` and name the model."""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pytest
import torch
from jaxtyping import config as jaxtyping_config
from PIL import Image
from torch import Tensor

from steps_contract import check_every_parameter_has_a_step, check_walk, check_zeroing
from thingstuff.boxes import boxes_of_masks
from thingstuff.errors import InputError
from thingstuff.evaluation.evaluator import evaluate
from thingstuff.explaining import explain
from thingstuff.models import create
from thingstuff.models.base import PanopticModel, Picture
from thingstuff.panoptic import VOID, Categories, Panoptic, Segment
from thingstuff.structures import Images, Segments, Target

CATEGORIES = Categories(("sky", "disc", "ground", "box"), (False, True, False, True), (3, 7, 11, 12))
"""Things and stuff take turns and ids have gaps: no model may take a position for a category_id."""
COLORS = ((120, 180, 240), (230, 60, 60), (60, 140, 60), (240, 220, 80))
SIZE = (96, 100)
"""Padded to 96 x 128: what a model learns by heart lies beside padding."""


def scene(height: int = SIZE[0], width: int = SIZE[1], shift: int = 0) -> tuple[Picture, Panoptic]:
    """A picture of sky and ground with a disc and a box before them, and its map."""
    rows, columns = np.mgrid[:height, :width]
    labels = np.where(rows < height // 2, 0, 2)
    labels[(rows - 34) ** 2 + (columns - 28 - shift) ** 2 <= 18**2] = 1
    labels[44:80, 52 + shift : 86 + shift] = 3
    noise = np.random.default_rng(shift).normal(0, 8, (height, width, 3))
    picture = np.clip(np.array(COLORS)[labels] + noise, 0, 255).astype(np.uint8)
    return picture, panoptic(labels)


def panoptic(labels: npt.NDArray[Any]) -> Panoptic:
    """A map with one segment per label that occurs."""
    present = sorted(int(label) for label in np.unique(labels))
    segments = tuple(Segment(label + 1, label, int((labels == label).sum())) for label in present)
    return Panoptic((labels + 1).astype(np.int32), segments, CATEGORIES)


def target(truth: Panoptic, crowd: tuple[int, ...] = (), unlabelled: tuple[int, ...] = ()) -> Target:
    """A map as a target; segments of these labels are crowds, or not labelled at all."""
    kept = [s for s in truth.segments if s.label not in unlabelled]
    size = truth.size
    masks = torch.from_numpy(np.array([truth.mask(s) for s in kept], dtype=bool).reshape(len(kept), *size))
    return Target(
        masks=masks,
        labels=torch.tensor([s.label for s in kept], dtype=torch.long),
        boxes_xyxy=boxes_of_masks(masks),
        crowd=torch.tensor([s.label in crowd for s in kept], dtype=torch.bool),
        unlabelled=~masks.any(0),
    )


def descend(model: PanopticModel, images: Images, targets: list[Target], steps: int, rate: float) -> None:
    """Train on one batch by AdamW with a short warm-up and a linear fall."""
    optimiser = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), rate, weight_decay=1e-4)
    model.train()
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1, (step + 1) / 10) * (1 - step / steps)
        optimiser.zero_grad()
        torch.stack(list(model.loss(model(images), targets).values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 20)
        optimiser.step()


@cache
def trained(contract: "type[ModelContract]", name: str) -> PanopticModel:
    """A small model of that name that has learnt one scene by heart; made once, not to be changed.

    DICE is flat where a mask misses its object: about one start in ten stays there, so three may try.
    """
    picture, truth = scene()
    first = contract.first_seeds.get(name, 0)
    for seed in range(first, first + 3):
        torch.manual_seed(seed)
        model = contract.build(name)
        descend(model, model.batch([picture]), [target(truth)], contract.steps, contract.rate)
        if quality(model, picture, truth) > 0.8:
            break
    return model.eval()


def quality(model: PanopticModel, picture: Picture, truth: Panoptic) -> float:
    """The PQ of a prediction."""
    return evaluate([truth], [model.predict(picture)]).all.pq or 0.0


def assert_same_map(ours: Panoptic, other: Panoptic) -> None:
    assert (ours.ids != other.ids).mean() < 1e-3
    assert [(s.id, s.label, s.source) for s in ours.segments] == [(s.id, s.label, s.source) for s in other.segments]
    assert [s.score for s in ours.segments] == pytest.approx([s.score for s in other.segments], abs=1e-4)


def total(losses: Mapping[str, Tensor]) -> Tensor:
    assert all(value.shape == () for value in losses.values())
    return torch.stack(list(losses.values())).sum()


class ModelContract:
    """The contract; a subclass says how its models are made small and how they are made to find nothing.

    Its tests run once per name: decorate the subclass with `pytest.mark.parametrize("name", ...)`.
    """

    changes: ClassVar[Mapping[str, Any]] = {}
    """Settings that make a model small enough to learn a scene of 96 pixels in seconds."""
    steps: ClassVar[int] = 60
    rate: ClassVar[float] = 0.003
    first_seeds: ClassVar[Mapping[str, int]] = {}
    """Where another start than the first is known to learn the scene, to save the time."""
    idle: ClassVar[str] = ""
    """Parameters, as a regular expression, whose gradient is zero by the model's own design."""

    @classmethod
    def silence(cls, model: PanopticModel) -> None:
        """Change the weights so that every score is low."""
        raise NotImplementedError

    @classmethod
    def build(cls, name: str, categories: Categories = CATEGORIES, **changes: Any) -> PanopticModel:
        return create(name, categories, **{**cls.changes, **changes})

    @pytest.fixture(autouse=True)
    def _one_thread(self) -> Iterator[None]:
        """Maps this small are slower on several threads."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(threads)

    @pytest.fixture
    def _as_users_run_it(self) -> Iterator[None]:
        """Without the checks of annotations that our tests add, which would answer before the model does."""
        jaxtyping_config.update("jaxtyping_disable", True)
        yield
        jaxtyping_config.update("jaxtyping_disable", False)

    # ---- predicting

    def test_learns_a_scene_by_heart_and_puts_it_where_it_was(self, name: str) -> None:
        model, (picture, truth) = trained(type(self), name), scene()
        assert model.batch([picture]).canvas[1] > picture.shape[1]
        assert quality(model, picture, truth) > 0.8
        assert (model.predict(picture).semantic() == truth.semantic()).mean() > 0.9

    def test_a_model_that_finds_nothing_answers_with_an_empty_map(self, name: str) -> None:
        model = self.build(name)
        self.silence(model)
        result = model.predict(scene(80, 112)[0])
        assert result.segments == ()
        assert result.size == (80, 112)
        assert not result.ids.any()

    def test_no_candidates_merge_to_an_empty_map(self, name: str) -> None:
        model = self.build(name)
        images = model.batch([scene()[0]])
        none = torch.zeros(0)
        empty = Segments(torch.zeros(0, 24, 24), none.long(), none, images.frame(0))
        result = model.merge(empty)
        assert result.segments == ()
        assert not result.ids.any()

    def test_a_map_is_consistent(self, name: str) -> None:
        result = trained(type(self), name).predict(scene()[0])
        ids, counts = np.unique(result.ids[result.ids > 0], return_counts=True)
        assert {s.id: s.area for s in result.segments} == dict(zip(ids.tolist(), counts.tolist(), strict=True))
        assert all(s.score is not None and 0 <= s.score <= 1 and s.source is not None for s in result.segments)
        assert result.categories == CATEGORIES

    # ---- what can be seen inside

    def test_its_walk_is_whole_and_of_the_pass_itself(self, name: str) -> None:
        model, (picture, truth) = trained(type(self), name), scene()
        walk = check_walk(model, picture, truth)
        check_every_parameter_has_a_step(model, walk)
        check_zeroing(model, picture, thorough=name.endswith("-tiny"), idle=self.idle)

    def test_it_walks_where_it_finds_nothing(self, name: str) -> None:
        model = self.build(name)
        self.silence(model)
        walk = explain(model, *scene(80, 112))
        assert walk.result.segments == ()
        assert [step.name for step in walk.steps] == [
            step.name for step in explain(trained(type(self), name), scene()[0]).steps
        ]
        assert all(step.views for step in walk.steps)

    # ---- instances

    def test_instances_are_the_scored_things_one_by_one(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        model, (picture, truth) = trained(type(self), name), scene()
        images = model.pad([picture], [(144, 150)])  # beside padding, and larger than the model sees it
        with torch.no_grad():
            output = model.look(images)
            (candidates,) = model.instance_candidates(output, images, model.segments(output, images))
        found = model.instances(candidates)
        assert found.masks.shape == (len(found), 144, 150)
        assert found.categories == CATEGORIES
        assert set(found.labels.tolist()) == {1, 3}
        assert (np.diff(found.scores) <= 0).all()
        assert ((found.scores >= 0) & (found.scores <= 1)).all()
        things = candidates.pick([row for row, label in enumerate(candidates.labels.tolist()) if label in (1, 3)])
        things = things.pick(things.scores.argsort(descending=True, stable=True))
        whole = things.frame.restore(things.masks) > model.instance_threshold
        assert things.labels.tolist() == found.labels.tolist()
        assert (whole.numpy() == found.masks).all()
        for label in (1, 3):
            ours = found.masks[found.labels.tolist().index(label)]
            true = np.asarray(Image.fromarray(truth.semantic() == label).resize((150, 144)))
            assert (ours & true).sum() / (ours | true).sum() > 0.7
        monkeypatch.setattr("thingstuff.models.base.INSTANCE_PIXELS", 1)
        assert (model.instances(candidates).masks == found.masks).all()

    def test_instances_are_at_most_a_hundred_and_may_be_none(self, name: str) -> None:
        model = self.build(name)
        frame = model.batch([scene()[0]]).frame(0)
        labels = torch.tensor([0, *[1] * 101, VOID])
        scores = torch.linspace(0.2, 0.9, 103)
        many = Segments(torch.full((103, 4, 4), model.instance_threshold + 0.1), labels, scores, frame)
        found = model.instances(many)
        assert len(found) == 100
        assert found.masks.all()
        assert found.scores.tolist() == scores[2:102].flip(0).tolist()
        none = model.instances(many.pick([0, 102]))
        assert none.masks.shape == (0, *SIZE)
        assert len(none.labels) == len(none.scores) == 0
        self.silence(model)
        with torch.no_grad():
            images = model.batch([scene()[0]])
            output = model.look(images)
            (candidates,) = model.instance_candidates(output, images, model.segments(output, images))
        assert model.instances(candidates).masks.shape[1:] == SIZE

    def test_a_list_gives_what_each_gives_alone(self, name: str) -> None:
        model = trained(type(self), name)
        pictures = [scene()[0], scene(96, 128, 6)[0], scene(110, 100, 3)[0], scene(shift=2)[0], scene(128, 96)[0]]
        done: list[int] = []
        together = model.predict(pictures, batch_size=2, progress=done.append)
        assert [p.size for p in together] == [picture.shape[:2] for picture in pictures]
        assert done == sorted(done)
        assert done[-1] == len(pictures)
        for picture, result in zip(pictures, together, strict=True):
            assert len(result.segments) > 0
            assert_same_map(result, model.predict(picture))
        assert model.predict([]) == []

    def test_a_padded_picture_gives_what_it_gives_alone_on_that_canvas(self, name: str) -> None:
        model = trained(type(self), name)
        small, large = scene()[0], scene(128, 160, 5)[0]
        images = model.pad([small, large], [(48, 48), (128, 160)])
        alone = Images(images.pixels[:1], images.sizes[:1], images.original[:1])
        with torch.no_grad():
            of_batch, of_one = model.segments(model(images), images), model.segments(model(alone), alone)
        assert len(of_batch) == 2
        assert of_batch[0].frame == of_one[0].frame
        assert of_batch[0].labels.tolist() == of_one[0].labels.tolist()
        torch.testing.assert_close(of_batch[0].masks, of_one[0].masks, atol=1e-3, rtol=0)
        assert_same_map(model.merge(of_batch[0]), model.merge(of_one[0]))
        assert model.merge(of_batch[0]).size == (48, 48)

    def test_a_picture_may_be_a_path_a_pil_image_or_an_array(self, name: str, tmp_path: Path) -> None:
        model, picture = trained(type(self), name), scene()[0]
        image = Image.fromarray(picture)
        image.save(tmp_path / "scene.png")
        expected = model.predict(picture)
        for same in (image, tmp_path / "scene.png", str(tmp_path / "scene.png")):
            assert_same_map(model.predict(same), expected)

    @pytest.mark.parametrize(
        "wrong",
        [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3)), np.zeros((8, 8, 4), np.uint8), 5, None, Path("missing.jpg")],
        ids=["grey", "float", "rgba", "number", "none", "missing"],
    )
    def test_what_is_no_picture_is_refused(self, name: str, wrong: Any, _as_users_run_it: None) -> None:
        for given in (wrong, [wrong]):
            with pytest.raises(InputError):
                self.build(name).predict(given)

    def test_predict_leaves_the_mode_as_it_was(self, name: str) -> None:
        model = self.build(name).train()
        model.predict(scene()[0])
        assert model.training
        with pytest.raises(InputError):
            model.predict(["missing.jpg"])
        assert model.training

    def test_half_precision_is_there_when_asked_for(self, name: str) -> None:
        model, picture = trained(type(self), name), scene()[0]
        expected = model.predict(picture)
        try:
            result = model.speed_up("bf16").predict(picture)
        finally:
            model.speed_up()
        assert (result.semantic() == expected.semantic()).mean() > 0.9
        assert [s.score for s in result.segments] != [s.score for s in expected.segments]
        assert_same_map(model.predict(picture), expected)
        for wrong in ("fp16", "int8"):
            with pytest.raises(InputError, match=wrong):
                self.build(name).speed_up(wrong)

    # ---- learning

    @pytest.mark.parametrize("teaches", ["no segment", "crowds only", "nothing labelled", "things only", "stuff only"])
    def test_poor_targets_still_teach(self, name: str, teaches: str) -> None:
        picture, truth = scene()
        poor = {
            "no segment": dataclasses.replace(
                target(truth, unlabelled=(0, 1, 2, 3)), unlabelled=torch.zeros(SIZE, dtype=torch.bool)
            ),
            "crowds only": target(truth, crowd=(1, 3), unlabelled=(0, 2)),
            "nothing labelled": target(truth, unlabelled=(0, 1, 2, 3)),
            "things only": target(truth, unlabelled=(0, 2)),
            "stuff only": target(truth, unlabelled=(1, 3)),
        }[teaches]
        model = self.build(name).train()
        for targets in ([poor], [poor, target(truth)]):
            model.zero_grad()
            loss = total(model.loss(model(model.batch([picture] * len(targets))), targets))
            loss.backward()
            assert loss.isfinite()
            assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())

    def test_every_trainable_parameter_learns(self, name: str) -> None:
        torch.manual_seed(0)
        model = self.build(name).train()
        pictures, truths = zip(scene(128, 160), scene(128, 160, 9), strict=True)
        images = model.pad(list(pictures))
        total(model.loss(model(images), [target(truth) for truth in truths])).backward()
        trainable = {key: p for key, p in model.named_parameters() if p.requires_grad}
        assert trainable
        still = [key for key, p in trainable.items() if p.grad is None or not p.grad.any()]
        assert [key for key in still if not re.fullmatch(self.idle, key)] == []

    def test_pictures_of_mixed_sizes_share_a_batch(self, name: str) -> None:
        model = self.build(name).train()
        scenes = [scene(), scene(112, 128, 4)]
        images = model.pad([picture for picture, _ in scenes])
        assert len(images) == 2
        assert images.padding[0].any()
        assert total(model.loss(model(images), [target(truth) for _, truth in scenes])).isfinite()

    @pytest.mark.parametrize("things", [True, False], ids=["things alone", "stuff alone"])
    def test_categories_may_lack_stuff_or_things(self, name: str, things: bool) -> None:
        categories = dataclasses.replace(CATEGORIES, things=(things,) * 4)
        model = self.build(name, categories)
        picture, truth = scene()
        assert total(model.train().loss(model(model.batch([picture])), [target(truth)])).isfinite()
        result = model.predict(picture)
        assert all(categories.things[s.label] == things for s in result.segments)

    def test_weights_go_round(self, name: str) -> None:
        first = trained(type(self), name)
        second = self.build(name).eval()
        second.load_state_dict(first.state_dict())
        picture = scene()[0]
        ours, theirs = first.predict(picture), second.predict(picture)
        assert (ours.ids == theirs.ids).all()
        assert ours.segments == theirs.segments

    def test_a_config_goes_round(self, name: str) -> None:
        config = self.build(name).config
        again = type(config).model_validate_json(config.model_dump_json())
        assert again == config
        assert create(name, CATEGORIES, again).config == config

    def test_an_unknown_setting_is_refused(self, name: str) -> None:
        with pytest.raises(InputError, match="short_side"):
            self.build(name, **{"preprocess.short_sid": 64})
