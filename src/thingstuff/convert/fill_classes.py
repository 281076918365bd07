"""Which of a model's classes fill in which of a person's: by name, or as the person says."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from thingstuff.convert.classes import ClassPlan
from thingstuff.convert.source import SourceClass
from thingstuff.errors import InputError
from thingstuff.panoptic import Categories, Color

_ENDINGS = (" other merged", " merged", " other", " stuff")
"""What COCO panoptic's names of stuff have behind the plain word, once hyphens are spaces."""


@dataclass(frozen=True)
class FillClasses:
    """What becomes of a model's classes: the others are left out."""

    names: Mapping[str, str]
    """Class of the model -> the category that its segments become."""
    things: frozenset[str]
    """Categories that are things, the person's and those brought."""
    colors: Mapping[str, Color]
    """Colour of each category, the person's and those brought."""
    brought: tuple[SourceClass, ...]
    """The categories that the person does not have yet."""


def parse_fill_map(text: str) -> dict[str, str]:
    """Read `sky-other-merged=sky,car=`: what classes of the model become, nothing for those to leave out.

    Raises `InputError` for entries without = and classes named twice.
    """
    renamed: dict[str, str] = {}
    for entry in text.split(","):
        old, sign, new = (part.strip() for part in entry.partition("="))
        if not sign or not old:
            raise InputError(
                f"--fill-map {entry.strip()!r}: write MODEL_CLASS=YOUR_CLASS, or MODEL_CLASS= to leave out"
            )
        if old in renamed:
            raise InputError(f"--fill-map: {old!r} stands more than once; choose one")
        renamed[old] = new
    return renamed


def match_classes(
    model: Categories, own: ClassPlan, renamed: Mapping[str, str] | None = None, things: bool = False
) -> FillClasses:
    """Return what becomes of a model's classes, given a person's and what they say of some (`--fill-map`).

    A class goes to the person's of the same name, whatever its case and hyphens, with COCO's endings left aside
    (sky-other-merged is sky); a name of the source goes to what it was merged into. Else it is new, under its own name,
    and new names that stand for things and stuff alike are stuff. Stuff is filled in, new things are if `things`
    (`--fill-things`). Things of the person's are theirs to draw: one they did not draw stays void, unless `renamed`
    asks for the class by name.
    Raises `InputError` for names that the model does not have, for what is asked for and cannot be filled in, and where
    nothing is left to fill in.
    """
    renamed = _known(renamed or {}, model)
    targets = _targets(model, own, renamed)
    kinds = dict(zip(own.categories.names, own.categories.things, strict=True))
    brought = _brought(model, targets, kinds)
    things_of = {**kinds, **{target: bool(entry.isthing) for target, entry in brought.items()}}
    names = {}
    for name, thing in zip(model.names, model.things, strict=True):
        target = targets.get(name)
        if target is None:
            continue
        reason = _reason_against(target, thing, things_of[target], things)
        if reason and name in renamed:
            raise InputError(f"--fill-map {name}={target}: {reason}")
        if not reason and (name in renamed or not kinds.get(target)):
            names[name] = target
    if not names:
        raise InputError(
            "the model has no class to fill in: they are things, or left out, or drawn by hand; "
            "ask for its things (--fill-things) or choose another model"
        )
    new = tuple(entry for target, entry in brought.items() if target in names.values())
    colors = dict(zip(own.categories.names, own.categories.colors, strict=True))
    return FillClasses(
        names,
        frozenset({n for n, t in kinds.items() if t} | {entry.name for entry in new if entry.isthing}),
        colors | {entry.name: entry.color for entry in new if entry.color is not None},
        new,
    )


def _reason_against(target: str, thing: bool, target_thing: bool, things: bool) -> str | None:
    """Return why a class of the model, of things or not, cannot become a category that is of things or not."""
    if not target_thing:
        return None
    if not thing:
        return f"it is stuff of the model, and {target!r} are things"
    return None if things else "things are filled in with --fill-things only"


def _brought(model: Categories, targets: Mapping[str, str], own: Mapping[str, bool]) -> dict[str, SourceClass]:
    """Return the new categories by name, each with the colour of the first class that becomes it."""
    found: dict[str, SourceClass] = {}
    for name, thing, color in zip(model.names, model.things, model.colors, strict=True):
        target = targets.get(name)
        if target is not None and target not in own:
            entry = found.setdefault(target, SourceClass(target, isthing=True, color=color))
            found[target] = entry._replace(isthing=bool(entry.isthing and thing))
    return found


def _known(renamed: Mapping[str, str], model: Categories) -> dict[str, str]:
    """Return what is said of the model's classes by their own names."""
    spellings = _by_name({name: name for name in model.names})
    found: dict[str, str] = {}
    for said, new in renamed.items():
        name = _looked_up(said, spellings)
        if name is None:
            near = difflib.get_close_matches(_simple(said), spellings, n=1)
            told = f"did you mean {spellings[near[0]]!r}?" if near else f"it has {', '.join(model.names[:12])} ..."
            raise InputError(f"--fill-map: the model has no class {said!r}; {told}")
        if name in found:
            raise InputError(f"--fill-map: {name!r} stands more than once; choose one")
        found[name] = new
    return found


def _targets(model: Categories, own: ClassPlan, renamed: Mapping[str, str]) -> dict[str, str]:
    """Return the category of each of the model's classes that is not left out."""
    mine = _by_name({**own.names, **{name: name for name in own.categories.names}})
    wanted = {name: renamed.get(name, name) for name in model.names}
    return {name: _looked_up(new, mine) or new for name, new in wanted.items() if new}


def _by_name(values: Mapping[str, str]) -> dict[str, str]:
    """Return values by every spelling of their names; a nearer spelling goes before one that leaves more aside."""
    found = dict(values)
    for spell in (_plain, _simple):
        for name, value in values.items():
            found.setdefault(spell(name), value)
    return found


def _looked_up(name: str, values: Mapping[str, str]) -> str | None:
    return next((values[s] for s in (name, _plain(name), _simple(name)) if s in values), None)


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name.strip().casefold())


def _simple(name: str) -> str:
    plain = _plain(name)
    return next((plain.removesuffix(end) for end in _ENDINGS if plain.endswith(end) and plain != end), plain)
