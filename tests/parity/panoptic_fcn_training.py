"""What our Panoptic FCN makes of a recorded training batch."""

from dataclasses import dataclass
from functools import cached_property

from panoptic_fcn_case import Case, in_recorded_format, output_as_recorded, training_pictures, training_targets
from torch import Tensor

from thingstuff.models.base import Picture
from thingstuff.models.panoptic_fcn import PanopticFCN, PanopticFCNOutput
from thingstuff.models.panoptic_fcn_targets import LevelTargets, MaskTargets, level_targets, mask_targets
from thingstuff.structures import Images


@dataclass(frozen=True)
class Training:
    """What our model makes of a recorded training batch."""

    case: Case
    block: str

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        return self.case.file(self.case.blocks[self.block])

    @cached_property
    def model(self) -> PanopticFCN:
        return self.case.model().train()

    @cached_property
    def pictures(self) -> list[Picture]:
        return training_pictures(self.case, self.block)

    @cached_property
    def images(self) -> Images:
        return in_recorded_format(self.model.pad(self.pictures))

    @cached_property
    def output(self) -> PanopticFCNOutput:
        return output_as_recorded(self.model, self.images)

    @cached_property
    def masks(self) -> MaskTargets:
        targets = training_targets(self.tensors, self.model.categories)
        return mask_targets(targets, self.model.categories, self.images.canvas, self.model.target_settings)

    @cached_property
    def levels(self) -> list[LevelTargets]:
        shapes = [(c.shape[-2], c.shape[-1]) for c in self.output.centres]
        return level_targets(self.masks, shapes, self.images.canvas, self.model.target_settings)

    @cached_property
    def losses(self) -> dict[str, Tensor]:
        """The losses under the authors' names."""
        losses = self.model.loss(self.output, training_targets(self.tensors, self.model.categories))
        return {
            "loss_pos_th": losses["position_things"],
            "loss_pos_st": losses["position_stuff"],
            "loss_seg_th": losses["mask_things"],
            "loss_seg_st": losses["mask_stuff"],
        }

    def things_of(self, level: LevelTargets, picture: int) -> Tensor:
        """Which of a picture's instances a level has."""
        return level.instance[level.picture == picture]

    def regions_of(self, level: LevelTargets, picture: int) -> Tensor:
        """Which region classes a level has of a picture."""
        return level.regions[picture].flatten(1).any(1).nonzero()[:, 0]
