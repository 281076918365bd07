"""Training recipes by name: `RECIPES` maps each to a function that gives a training and the settings beside it."""

from collections.abc import Callable
from functools import partial

from thingstuff.errors import InputError
from thingstuff.models import find
from thingstuff.models.base import ModelConfig, PanopticModel, PreprocessConfig
from thingstuff.recipes.base import Recipe
from thingstuff.recipes.detr import (
    detr_fine_tune,
    detr_paper_boxes,
    detr_paper_joint,
    detr_paper_masks,
    detr_recipe,
    detr_scratch,
)
from thingstuff.recipes.general import fine_tune, scratch
from thingstuff.recipes.panoptic_fcn import VARIANTS, Variant, schedule_recipe, variant_recipe
from thingstuff.recipes.panoptic_fpn import panoptic_fpn_recipe

__all__ = ["RECIPES", "Recipe", "default_recipe", "fits", "model_of", "recipe_for"]


def _variant(variant: Variant, size: PreprocessConfig) -> Recipe:
    return variant_recipe(variant, size)


RECIPES: dict[str, Callable[[PreprocessConfig], Recipe]] = {
    "scratch": lambda size: Recipe(scratch(size), about="a small model without pretrained weights"),
    "fine-tune": lambda size: Recipe(fine_tune(size), about="your own pictures, from pretrained weights"),
    "panoptic-fcn-1x": lambda size: schedule_recipe("1x", size),
    "panoptic-fcn-3x": lambda size: schedule_recipe("3x", size),
    **{name: partial(_variant, variant) for name, variant in VARIANTS.items()},
    "panoptic-fpn-r50-1x": lambda _: panoptic_fpn_recipe("1x", "ResNet-50, 12 epochs"),
    "panoptic-fpn-r50-3x": lambda _: panoptic_fpn_recipe("3x", "ResNet-50, 37 epochs"),
    "detr-scratch": lambda size: Recipe(
        detr_scratch(size), model_name="detr-panoptic-tiny", other_classes=True, about="a small DETR from scratch"
    ),
    "detr-fine-tune": lambda size: Recipe(
        detr_fine_tune(size), model_name="detr-panoptic-r50", other_classes=True, about="your own pictures"
    ),
    "detr-boxes": lambda _: detr_recipe(detr_paper_boxes(), about="the paper's first step: boxes"),
    "detr-masks": lambda _: detr_recipe(detr_paper_masks(), about="the paper's second step: masks"),
    "detr-two-step": lambda _: detr_recipe(detr_paper_boxes(), detr_paper_masks(), "the paper's two steps"),
    "detr-joint": lambda _: detr_recipe(detr_paper_joint(), about="boxes and masks at once"),
}
"""Name -> function of how the model sees pictures."""


def model_of(name: str) -> str | None:
    """Return the model that a recipe is for; raises `InputError` for an unknown recipe, naming the known ones."""
    if name not in RECIPES:
        raise InputError(f"unknown recipe {name!r}; known are {', '.join(RECIPES)}")
    return RECIPES[name](PreprocessConfig()).model_name


def recipe_for(name: str, model_name: str, size: PreprocessConfig) -> Recipe:
    """Return a recipe for a model. Raises `InputError` where it is for models of another class."""
    recipe = RECIPES[name](size)
    if not fits(recipe, find(model_name)[1]):
        raise InputError(
            f"recipe {name} is for {recipe.model_name} and models of its class, which {model_name} is not; "
            "leave --model out or give another --recipe"
        )
    return recipe


def fits(recipe: Recipe, model_class: type[PanopticModel]) -> bool:
    """Tell whether a recipe may train a model of a class."""
    if recipe.model_name is None or recipe.other_classes:
        return True
    return issubclass(model_class, find(recipe.model_name)[1])


def default_recipe(model_class: type[PanopticModel], model: ModelConfig) -> str:
    """Return the recipe where none is named: for a backbone without pretrained weights the one for scratch."""
    backbone = model.model_dump().get("backbone", {})
    return model_class.scratch_recipe if backbone.get("weights") == "none" else model_class.backbone_recipe
