"""First weights from another model: what fits by key and shape is copied, rows of classes by the classes' names."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_jsonable_python
from torch import Tensor

from thingstuff.config import dotted_keys
from thingstuff.errors import InputError
from thingstuff.models import find
from thingstuff.models.base import ModelConfig, PanopticModel
from thingstuff.pretrained import Source

BACKBONE = "backbone"
OF_CATEGORIES = ("outputs",)
"""Settings that belong to the categories of the source, not to its weights."""
UNTOLD = ("preprocess.channel_order", "preprocess.mean", "preprocess.std", "backbone.stride_in_1x1", "heads")
"""Settings that weights were trained with and that their shapes do not tell."""
COUNTER = "num_batches_tracked"
"""Batch norm's, which frozen norms lack and nothing reads."""
SHOWN = 8
"""Names that a line shows before it says how many more there are."""


@dataclass(frozen=True)
class Taken:
    """What a model got from another.

    `taken` are the keys copied whole, `by_class` those copied by rows of which some are new, `misshapen` those of
    another shape in the source, `lacking` those that it does not have. `known` and `new` are the model's classes.
    """

    taken: tuple[str, ...]
    by_class: tuple[str, ...]
    misshapen: tuple[str, ...]
    lacking: tuple[str, ...]
    known: tuple[str, ...]
    new: tuple[str, ...]

    def summary(self) -> list[str]:
        """Return it as lines for people, by the model's parts."""
        total = sum(map(len, (self.taken, self.by_class, self.misshapen, self.lacking)))
        left = {_part(key) for key in (*self.by_class, *self.misshapen, *self.lacking)}
        whole = [part for part in _parts(self.taken) if part not in left]
        lines = [f"taken: {', '.join(whole) or 'no part whole'} ({len(self.taken)} of {total} tensors)"]
        known, new = _listed(self.known), _listed(self.new)
        lines.append(
            f"classes: {len(self.known)} of {len(self.known) + len(self.new)} known"
            + (f" ({known})" if known else "")
            + (f"; new: {new}" if new else "")
        )
        for keys, why in ((self.misshapen, "another shape"), (self.lacking, "not in the source")):
            if keys:
                parts = ", ".join(f"{part}{self._share(part, keys)}" for part in _parts(keys))
                lines.append(f"not taken: {parts} ({why})")
        return lines

    def _share(self, part: str, keys: Sequence[str]) -> str:
        """Say how much of a part some keys are, where they are not all of it."""
        everything = (*self.taken, *self.by_class, *self.misshapen, *self.lacking)
        some, all_ = (sum(_part(key) == part for key in group) for group in (keys, everything))
        return "" if some == all_ else f" {some} of {all_}"


def take_over(model: PanopticModel, source: Source) -> Taken:
    """Copy every parameter and buffer of a source that fits a model, those that run over classes row by row.

    A row is that of the class of the same name (upper and lower case are one); rows without one stay as they are.
    Raises `InputError` where the backbones differ or less than half of the rest fits, and changes nothing then.
    """
    ours, theirs = model.state_dict(), source.model.state_dict()
    theirs = {key: value for key, value in theirs.items() if key not in source.missing}
    rows, their_rows = model.class_rows(), source.model.class_rows()
    lacking = tuple(key for key in ours if key not in theirs and not key.endswith(COUNTER))
    misshapen = tuple(k for k in ours if k in theirs and not _fits(ours[k], theirs[k], k in rows and k in their_rows))
    _refuse_misfit(model, source.model, ours, theirs, {*lacking, *misshapen})
    taken: list[str] = []
    by_class: list[str] = []
    known: set[str] = set()
    for key, tensor in ours.items():
        if key not in theirs or key in misshapen:
            continue
        if key in rows:
            found = _matched(rows[key], their_rows.get(key, ()))
            known |= {name for name, row in zip(rows[key], found, strict=True) if name is not None and row is not None}
            _copy_rows(tensor, theirs[key], found)
            (by_class if None in found else taken).append(key)
        else:
            tensor.copy_(theirs[key])
            taken.append(key)
    names = model.categories.names
    return Taken(
        tuple(taken),
        tuple(by_class),
        misshapen,
        lacking,
        tuple(name for name in names if name in known),
        tuple(name for name in names if name not in known),
    )


def _fits(ours: Tensor, theirs: Tensor, by_class: bool) -> bool:
    return ours.shape[1:] == theirs.shape[1:] if by_class else ours.shape == theirs.shape


def _matched(ours: Sequence[str | None], theirs: Sequence[str | None]) -> list[int | None]:
    """Return for each of our rows the source's row of that name, the one written alike before others."""
    alike = {name: row for row, name in reversed([*enumerate(theirs)]) if name is not None}
    by_name = {name.strip().casefold(): row for name, row in alike.items()}
    return [None if name is None else alike.get(name, by_name.get(name.strip().casefold())) for name in ours]


def _copy_rows(ours: Tensor, theirs: Tensor, found: Sequence[int | None]) -> None:
    for row, their_row in enumerate(found):
        if their_row is not None:
            ours[row].copy_(theirs[their_row])


def _refuse_misfit(
    model: PanopticModel,
    source: PanopticModel,
    ours: Mapping[str, Tensor],
    theirs: Mapping[str, Tensor],
    misfits: set[str],
) -> None:
    """Raise `InputError` where the backbones differ, in which norms may be frozen, or most of the rest does not fit."""
    beyond = [key for key in theirs if key not in ours and not key.endswith(COUNTER)]
    differing = [*(key for key in ours if key in misfits), *beyond]
    of_backbone = [key for key in differing if _part(key) == BACKBONE]
    rest = [key for key in ours if _part(key) != BACKBONE]
    fitting = sum(key not in misfits for key in rest)
    if 2 * fitting < len(rest):
        problem, first = f"{fitting} of {len(rest)} tensors beside the backbone fit", differing
    elif of_backbone:
        problem, first = "its backbone is another", of_backbone
    else:
        return
    told = ", ".join(_difference(key, ours, theirs) for key in first[:3])
    raise InputError(
        f"a {source.name} ({type(source).__name__}) cannot begin a {model.name} ({type(model).__name__}): "
        f"{problem}; first differences: {told}{f' and {len(first) - 3} more' if len(first) > 3 else ''}. Leave out "
        "--model and settings of layers to have the source's own, or give --from weights of such a model"
    )


def _difference(key: str, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> str:
    if key not in theirs:
        return f"{key} (not in the source)"
    if key not in ours:
        return f"{key} (only in the source)"
    return f"{key} ({list(theirs[key].shape)} instead of {list(ours[key].shape)})"


def _part(key: str) -> str:
    return key.split(".")[0]


def _parts(keys: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(map(_part, keys)))


def _listed(names: Sequence[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


# ---- settings


def settings_of(source: PanopticModel, model_name: str) -> dict[str, Any]:
    """Return the settings, by dotted key, in which a model that begins with a source differs from its preset.

    Under the source's own name they are all of the source's but what belongs to its categories; under another name
    those that weights were trained with and their shapes do not tell.
    """
    preset, _ = find(model_name)
    ours, theirs = dotted_keys(preset), dotted_keys(source.config)
    wanted = theirs if model_name == source.name else UNTOLD
    keys = [key for key in wanted if key in ours and key in theirs and key not in OF_CATEGORIES]
    values = {key: to_jsonable_python(attrgetter(key)(source.config)) for key in keys if _is_leaf(source.config, key)}
    usual = {key: to_jsonable_python(attrgetter(key)(preset)) for key in values}
    return {key: value for key, value in values.items() if value != usual[key]}


def _is_leaf(config: ModelConfig, key: str) -> bool:
    return not isinstance(attrgetter(key)(config), BaseModel)
