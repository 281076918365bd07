"""thingstuff: panoptic segmentation on PyTorch, from your own labelled pictures to a measured model.

Importing the package loads no torch; each public name is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from thingstuff.checking.checker import check
    from thingstuff.convert.classes import ClassRules
    from thingstuff.convert.converting import ConvertRules
    from thingstuff.convert.labels import convert_labels
    from thingstuff.data.coco import CocoPanoptic
    from thingstuff.drawing import overlay
    from thingstuff.errors import InputError
    from thingstuff.evaluation.comparing import Comparison
    from thingstuff.evaluation.evaluator import compare, evaluate
    from thingstuff.evaluation.pq import PQResult
    from thingstuff.evaluation.result import Evaluation
    from thingstuff.explaining import explain
    from thingstuff.models import MODELS, create
    from thingstuff.models.base import PanopticModel
    from thingstuff.models.panoptic_fcn import PanopticFCN, PanopticFCNConfig
    from thingstuff.panoptic import VOID, Categories, Panoptic, Segment
    from thingstuff.pretrained import load
    from thingstuff.showing.show import show
    from thingstuff.structures import Images, Segments, Target
    from thingstuff.training import TrainConfig, fit
    from thingstuff.walk import Step, Walk

_HOME = {
    "MODELS": "models",
    "VOID": "panoptic",
    "Categories": "panoptic",
    "ClassRules": "convert.classes",
    "CocoPanoptic": "data.coco",
    "Comparison": "evaluation.comparing",
    "ConvertRules": "convert.converting",
    "Evaluation": "evaluation.result",
    "Images": "structures",
    "InputError": "errors",
    "PQResult": "evaluation.pq",
    "Panoptic": "panoptic",
    "PanopticFCN": "models.panoptic_fcn",
    "PanopticFCNConfig": "models.panoptic_fcn",
    "PanopticModel": "models.base",
    "Segment": "panoptic",
    "Segments": "structures",
    "Step": "walk",
    "Target": "structures",
    "TrainConfig": "training",
    "Walk": "walk",
    "check": "checking.checker",
    "compare": "evaluation.evaluator",
    "convert_labels": "convert.labels",
    "create": "models",
    "evaluate": "evaluation.evaluator",
    "explain": "explaining",
    "fit": "training",
    "load": "pretrained",
    "overlay": "drawing",
    "show": "showing.show",
}

__all__ = [
    "MODELS",
    "VOID",
    "Categories",
    "ClassRules",
    "CocoPanoptic",
    "Comparison",
    "ConvertRules",
    "Evaluation",
    "Images",
    "InputError",
    "PQResult",
    "Panoptic",
    "PanopticFCN",
    "PanopticFCNConfig",
    "PanopticModel",
    "Segment",
    "Segments",
    "Step",
    "Target",
    "TrainConfig",
    "Walk",
    "check",
    "compare",
    "convert_labels",
    "create",
    "evaluate",
    "explain",
    "fit",
    "load",
    "overlay",
    "show",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'thingstuff' has no attribute {name!r}")
    value = getattr(import_module(f"thingstuff.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
