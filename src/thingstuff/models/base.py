"""The interface every model offers, and `predict`, which is the same for all."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args, overload

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveFloat, ValidationError
from pydantic_core import InitErrorDetails
from torch import Tensor, nn

from thingstuff.errors import InputError
from thingstuff.head_cost import HeadCost
from thingstuff.instances import MOST_INSTANCES, Instances
from thingstuff.panoptic import Categories, Panoptic
from thingstuff.sizes import resized_size
from thingstuff.structures import Images, Segments, Size, Target
from thingstuff.walk import Seen, Step
from thingstuff.watching import Watched

Precision = Literal["fp32", "bf16", "fp16"]
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
INSTANCE_PIXELS = 16_000_000
"""Most mask values that are resized at once where instances are made."""
Picture = npt.NDArray[np.uint8]
"""A picture as uint8 [H, W, 3], RGB."""


class PreprocessConfig(BaseModel):
    """How a picture becomes network input."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    channel_order: Literal["RGB", "BGR"] = "RGB"
    """Order of the channels that the network sees."""
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    """Subtracted from the channels, in the network's order (0 to 255)."""
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (58.395, 57.12, 57.375)
    """Divided by, in the network's order."""
    short_side: int = Field(default=800, ge=32)
    """The shorter side is resized to this ..."""
    max_side: int = Field(default=1333, ge=32)
    """... unless the longer one would exceed this."""
    divisor: int = Field(default=32, ge=1)
    """The batch is padded to a multiple of this; 1 pads to the largest picture."""


def padded_to(multiple: int) -> AfterValidator:
    """Return the check of a model that needs `divisor` to be a multiple, for the annotation of its `preprocess`."""

    def check(preprocess: PreprocessConfig) -> PreprocessConfig:
        if preprocess.divisor % multiple:
            context = {"multiple_of": multiple}
            wrong = InitErrorDetails(type="multiple_of", loc=("divisor",), input=preprocess.divisor, ctx=context)
            raise ValidationError.from_exception_data("preprocess", [wrong])
        return preprocess

    return AfterValidator(check)


class ModelConfig(BaseModel):
    """What every model's config has."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    preprocess: PreprocessConfig = PreprocessConfig()
    """Size rule, normalisation, padding."""


def check_precision(precision: str, on_gpu: bool) -> None:
    """Raise `InputError` for an unknown precision, and for fp16 without a GPU."""
    if precision not in get_args(Precision):
        raise InputError(f"precision {precision!r} is unknown; known are {', '.join(get_args(Precision))}")
    if precision == "fp16" and not on_gpu:
        raise InputError("precision fp16 needs a GPU; on a CPU leave it at fp32")


def resize_picture(picture: Picture, size: Size) -> Picture:
    """Resize uint8 [H, W, 3] to (height, width) by PIL's bilinear filter."""
    if picture.shape[:2] == size:
        return picture
    return np.asarray(Image.fromarray(picture).resize((size[1], size[0]), Image.Resampling.BILINEAR))


def open_picture(picture: "str | Path | Image.Image | Picture") -> Picture:
    """Return a path's, PIL image's or array's pixels as uint8 [H, W, 3] RGB; EXIF orientation is applied to paths.

    Raises `InputError` for what is no such picture.
    """
    if isinstance(picture, (str, Path)):
        from thingstuff.io import read_picture

        return np.asarray(read_picture(Path(picture)))
    if isinstance(picture, Image.Image):
        return np.asarray(picture.convert("RGB"))
    if isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3:
        if not picture.size:
            raise InputError(f"a picture of {picture.shape[1]} x {picture.shape[0]} pixels has nothing to look at")
        return picture
    raise InputError(
        f"a picture must be a path, a PIL image or uint8 [height, width, 3]; this is {type(picture).__name__}"
        + (f" {picture.dtype} {list(picture.shape)}" if isinstance(picture, np.ndarray) else "")
    )


class PanopticModel(nn.Module, ABC):
    """A panoptic model: batch -> forward -> segments -> merge to predict, and forward -> loss to learn."""

    config_class: ClassVar[type[ModelConfig]]
    PARTS: ClassVar[tuple[str, ...]] = ("all",)
    """What can be learned by itself; `all` is the whole model."""
    fine_tune_recipe: ClassVar[str] = "fine-tune"
    """The recipe where none is named, for first weights that were trained before."""
    backbone_recipe: ClassVar[str] = "fine-tune"
    """The recipe where none is named and nothing but the backbone is pretrained."""
    scratch_recipe: ClassVar[str] = "scratch"
    """The recipe where none is named, without pretrained weights."""

    def __init__(self, config: ModelConfig, categories: Categories) -> None:
        super().__init__()
        self.config = config
        self.categories = categories
        self.name = ""
        self.learning = "all"
        self._precision = "fp32"
        self._network: Callable[[Images], Any] | None = None
        self._trainable: frozenset[str] | None = None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @abstractmethod
    def forward(self, images: Images) -> Any:
        """Return the model's output, of one type whatever the mode."""

    def look(self, images: Images) -> Any:
        """Return the output that predictions are made of: that of `forward`, compiled where that was asked for."""
        return (self._network or self)(images)

    @abstractmethod
    def loss(self, output: Any, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Return the weighted losses; what is minimised is their sum."""

    @abstractmethod
    def segments(self, output: Any, images: Images) -> list[Segments]:
        """Return each picture's candidates: filtered first, their masks made then."""

    @abstractmethod
    def merge(self, segments: Segments) -> Panoptic:
        """Let one picture's candidates compete for its pixels."""

    @abstractmethod
    def class_rows(self) -> dict[str, list[str | None]]:
        """Return, for each parameter whose first axis runs over classes, whose each row is.

        That is a category's name, a name in brackets for what is no category, or None for a row that is nobody's.
        """

    # ---- what can be seen inside

    @abstractmethod
    def watched(self) -> tuple[Watched, ...]:
        """Return the modules whose inputs or outputs `steps` reads."""

    @abstractmethod
    def steps(self, seen: Seen) -> list[Step]:
        """Return the steps of one picture's pass in their order; the last, `result`, is the final map.

        Every tensor comes from the pass: from its output, from a watched module, or from these by the model's own
        functions. Every parameter belongs to the `layers` of a step.
        """

    # ---- what masks would cost

    uncounted_masks: ClassVar[str] = "what masks cost at each stride is not known of this model"
    """Why `mask_cost` tells nothing, for readers who asked for it; not read where it tells a cost."""

    def mask_cost(self, canvas: Size, stride: int) -> HeadCost | None:
        """Return the cost of a canvas's masks, (height, width), at a stride of `head_cost.STRIDES`, or None.

        Counted by shapes on the meta device; the weights may lie anywhere. Raises `InputError` for another stride.
        """
        return None

    # ---- instances, before they compete

    @property
    def instance_threshold(self) -> float:
        """What the values of `Segments.masks` exceed inside a thing; 0.5 where they are probabilities."""
        return 0.5

    def instance_candidates(self, output: Any, images: Images, segments: Sequence[Segments]) -> list[Segments]:
        """Return each picture's candidates for average precision, which rewards unsure ones too.

        Those are its `segments` themselves, unless the model's authors rank more than they let compete.
        """
        return list(segments)

    @torch.no_grad()
    def instances(self, segments: Segments) -> Instances:
        """Return the things among one picture's candidates by falling score, at most 100, with masks of its own size.

        Each mask is resized by itself and may be empty; nothing competes.
        """
        is_thing = torch.tensor([*self.categories.things, False], device=segments.labels.device)[segments.labels]
        things = segments.pick(is_thing)
        things = things.pick(things.scores.argsort(descending=True, stable=True)[:MOST_INSTANCES])
        frame = things.frame
        masks = np.zeros((len(things), *frame.original), dtype=np.bool_)
        step = max(1, INSTANCE_PIXELS // max(math.prod(frame.canvas), math.prod(frame.original)))
        for start in range(0, len(things), step):
            rows = slice(start, start + step)
            masks[rows] = (frame.restore(things.masks[rows]) > self.instance_threshold).cpu().numpy()
        return Instances(masks, things.labels.cpu().numpy(), things.scores.float().cpu().numpy(), self.categories)

    # ---- learning in parts

    @classmethod
    def check_part(cls, part: str) -> None:
        """Raise `InputError` naming the model's parts where `part` is none of them."""
        if part not in cls.PARTS:
            raise InputError(f"learns={part!r}: {cls.__name__} has no such part; its parts are {', '.join(cls.PARTS)}")

    def parameters_of(self, part: str) -> Iterable[str]:
        """Return the names of a part's parameters; asked only for parts other than `all`."""
        raise NotImplementedError(f"{type(self).__name__} names the part {part!r} but not its parameters")

    def learn(self, part: str) -> None:
        """Let gradients reach one part alone: its parameters, except those that were frozen from the start.

        Raises `InputError` naming the model's parts where `part` is none of them.
        """
        self.check_part(part)
        if self._trainable is None:
            self._trainable = frozenset(name for name, p in self.named_parameters() if p.requires_grad)
        chosen = self._trainable if part == "all" else self._trainable.intersection(self.parameters_of(part))
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name in chosen)
        self.learning = part
        self.train(self.training)

    @property
    def measurable(self) -> bool:
        """Whether a model that has learned this part, and those before it, has segments to score."""
        return True

    def train(self, mode: bool = True) -> "PanopticModel":
        """Set the mode; while one part learns, what holds only frozen parameters stays in eval mode."""
        super().train(mode)
        if mode and self.learning != "all":
            _frozen_to_eval(self)
        return self

    # ---- from pictures to network input

    def network_size(self, size: Size) -> Size:
        """Return the (height, width) that the model's size rule resizes a picture to."""
        return resized_size(size, self.config.preprocess.short_side, self.config.preprocess.max_side)

    def batch(self, pictures: Sequence[Picture]) -> Images:
        """Resize by the model's size rule, normalise and pad uint8 pictures [H, W, 3]."""
        sizes = [(p.shape[0], p.shape[1]) for p in pictures]
        resized = [resize_picture(p, self.network_size(s)) for p, s in zip(pictures, sizes, strict=True)]
        return self.pad(resized, sizes)

    def pad(self, pictures: Sequence[Picture], original: Sequence[Size] | None = None) -> Images:
        """Normalise pictures of network-input size, then pad them with zeros at the right and bottom to one canvas."""
        rule = self.config.preprocess
        sizes = tuple((p.shape[0], p.shape[1]) for p in pictures)
        height, width = (-(-max(s[axis] for s in sizes) // rule.divisor) * rule.divisor for axis in (0, 1))
        mean = torch.tensor(rule.mean, device=self.device)[:, None, None]
        std = torch.tensor(rule.std, device=self.device)[:, None, None]
        rows = []
        for picture, (h, w) in zip(pictures, sizes, strict=True):
            tensor = torch.tensor(picture, device=self.device).permute(2, 0, 1).float()
            tensor = tensor.flip(0) if rule.channel_order == "BGR" else tensor
            rows.append(F.pad((tensor - mean) / std, (0, width - w, 0, height - h)))
        # convolutions are faster so
        pixels = torch.stack(rows).contiguous(memory_format=torch.channels_last)
        return Images(pixels, sizes, tuple(original) if original else sizes)

    # ---- predicting

    def speed_up(self, precision: str = "fp32", *, compiled: bool = False) -> "PanopticModel":
        """Choose how `predict` runs the network, in mixed precision or compiled by `torch.compile`; return the model.

        Both are for GPUs and change results, bf16 visibly, so neither is ever chosen by itself (docs/performance.md).
        Raises `InputError` for an unknown precision, and for fp16 without a GPU.
        """
        check_precision(precision, self.device.type != "cpu")
        self._precision = precision
        self._network = torch.compile(self.forward) if compiled else None
        return self

    @overload
    def predict(  # type: ignore[overload-overlap]
        self, pictures: "str | Path | Image.Image | Picture", batch_size: int = ...
    ) -> Panoptic: ...
    @overload
    def predict(
        self,
        pictures: "Sequence[str | Path | Image.Image | Picture]",
        batch_size: int = ...,
        progress: Callable[[int], None] | None = ...,
    ) -> list[Panoptic]: ...
    def predict(
        self, pictures: Any, batch_size: int = 8, progress: Callable[[int], None] | None = None
    ) -> Panoptic | list[Panoptic]:
        """Return the panoptic map of a picture, or of each of a list in its order.

        Pictures are paths, PIL images or uint8 [H, W, 3] RGB; maps have the pictures' own sizes. Only pictures of
        equal padded size share a batch, so that a list gives what each gives alone. `progress` is called with the
        number done. Raises `InputError` for what is no picture.
        """
        if isinstance(pictures, (str, Path, Image.Image, np.ndarray)) or not hasattr(pictures, "__iter__"):
            return self._predict_list([pictures], 1, None)[0]
        return self._predict_list(list(pictures), batch_size, progress)

    def predict_with_instances(
        self,
        pictures: "Sequence[str | Path | Image.Image | Picture]",
        watch: Callable[[int, Instances], None],
        batch_size: int = 8,
    ) -> list[Panoptic]:
        """Predict as `predict` does, and call `watch` with each picture's position and its instances, from one look.

        Positions come in any order; what `watch` does not keep is freed.
        """
        return self._predict_list(list(pictures), batch_size, None, watch)

    @torch.no_grad()
    def _predict_list(
        self,
        pictures: list[Any],
        batch_size: int,
        progress: Callable[[int], None] | None,
        watch: Callable[[int, Instances], None] | None = None,
    ) -> list[Panoptic]:
        results: dict[int, Panoptic] = {}
        waiting: dict[Size, list[tuple[int, Picture]]] = {}
        training = self.training
        self.eval()
        try:
            for index, entry in enumerate(pictures):
                picture = open_picture(entry)
                group = waiting.setdefault(self._canvas(picture), [])
                group.append((index, picture))
                full = sum(len(g) for g in waiting.values()) >= 4 * batch_size
                if len(group) == batch_size or full:
                    fullest = max(waiting.values(), key=len)
                    self._predict_group(fullest, results, watch)
                    fullest.clear()
                    if progress:
                        progress(len(results))
            for group in waiting.values():
                self._predict_group(group, results, watch)
            if progress:
                progress(len(results))
        finally:
            self.train(training)
        return [results[index] for index in range(len(pictures))]

    def _canvas(self, picture: Picture) -> Size:
        height, width = self.network_size((picture.shape[0], picture.shape[1]))
        divisor = self.config.preprocess.divisor
        return -(-height // divisor) * divisor, -(-width // divisor) * divisor

    def _predict_group(
        self,
        group: list[tuple[int, Picture]],
        results: dict[int, Panoptic],
        watch: Callable[[int, Instances], None] | None,
    ) -> None:
        if not group:
            return
        images = self.batch([picture for _, picture in group])
        half = HALF.get(self._precision)
        with torch.autocast(self.device.type, half, enabled=half is not None):
            output = self.look(images)
        found = self.segments(output, images)
        for (index, _), segments in zip(group, found, strict=True):
            results[index] = self.merge(segments)
        if watch is not None:
            for (index, _), candidates in zip(group, self.instance_candidates(output, images, found), strict=True):
                watch(index, self.instances(candidates))


def _frozen_to_eval(module: nn.Module) -> None:
    """Put the modules inside one whose parameters are all frozen into eval mode.

    One without parameters, such as dropout, goes with what it lies in.
    """
    for child in module.children():
        parameters = list(child.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            child.eval()
        else:
            _frozen_to_eval(child)
