"""From a source's classes to categories: which are things, which are merged or dropped, and what ids they have."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from thingstuff.convert.source import SourceClass
from thingstuff.errors import InputError
from thingstuff.panoptic import Categories, default_colors

Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class ClassRules(BaseModel):
    """What a person wants of the classes; every name is checked against the source's."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    things: Annotated[tuple[Name, ...], Field(strict=False)] = ()
    """Classes that are things, by their name in the source or the merged one."""
    stuff: Annotated[tuple[Name, ...], Field(strict=False)] = ()
    """Classes that are stuff."""
    merge: Mapping[Name, Annotated[tuple[Name, ...], Field(strict=False)]] = Field(default_factory=dict)
    """New class -> the classes of the source that become it."""
    drop: Annotated[tuple[Name, ...], Field(strict=False)] = ()
    """Classes that are left out, as though nobody had labelled them."""
    ids: Mapping[Name, Annotated[int, Field(ge=0)]] = Field(default_factory=dict)
    """Class -> its category_id, where another one than the source's is wanted."""
    background: Name | None = None
    """A class of stuff for what nothing covers; void where there is none."""


@dataclass(frozen=True)
class ClassPlan:
    """The categories, and the name of the category of each source class that is not dropped."""

    categories: Categories
    names: Mapping[str, str]


def read_rules(path: Path) -> ClassRules:
    """Read class rules from YAML: things, stuff, merge, drop, ids, background, each optional.

    Raises `InputError` that names the field.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is not there; give the YAML file of the classes") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no YAML: {error}") from None
    if not isinstance(values, dict):
        raise InputError(
            f"{path} holds no classes; write such as 'things: [date, fig]' or 'merge: {{nut: [hazelnut]}}'"
        )
    try:
        return ClassRules.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        known = ", ".join(ClassRules.model_fields)
        wrong = "give a list of names" if first["type"] == "tuple_type" else first["msg"]
        raise InputError(f"{path}: {field}: {wrong}; the fields are {known}") from None


def joined_rules(file: ClassRules, given: ClassRules) -> ClassRules:
    """Return the rules of a file with those of the command line added: where both speak, the latter's count."""
    kinds = {*given.things, *given.stuff}
    return ClassRules(
        things=(*(n for n in file.things if n not in kinds), *given.things),
        stuff=(*(n for n in file.stuff if n not in kinds), *given.stuff),
        merge={**file.merge, **given.merge},
        drop=(*file.drop, *(n for n in given.drop if n not in file.drop)),
        ids={**file.ids, **given.ids},
        background=given.background or file.background,
    )


def plan_classes(
    classes: Sequence[SourceClass],
    rules: ClassRules,
    filled: Sequence[SourceClass] = (),
    earlier: Mapping[str, int] | None = None,
) -> ClassPlan:
    """Return the categories that rules make of a source's classes, with those that filling may bring.

    A class keeps the source's category_id, a merged one that of the first of its classes; `earlier` are the ids of an
    earlier conversion into the same folder; others get the next free one from 1. A class whose kind neither the source
    nor the rules tell is a thing. Raises `InputError` for names that are not there and rules that contradict.
    """
    _check_names(classes, rules)
    merged_into = {old: new for new, olds in rules.merge.items() for old in olds}
    names = {c.name: merged_into.get(c.name, c.name) for c in classes if c.name not in rules.drop}
    found: dict[str, SourceClass] = {}
    for entry in classes:
        if entry.name in names:
            target = names[entry.name]
            first = found.setdefault(target, entry._replace(name=target))
            if first.id is None and entry.id is not None:
                found[target] = first._replace(id=entry.id)
    for entry in filled:
        found.setdefault(entry.name, entry)
    if rules.background is not None:
        found.setdefault(rules.background, SourceClass(rules.background, isthing=False))
    _check_kinds(found, rules)
    kinds = {n: _isthing(found[n], rules) for n in found}
    if not found:
        raise InputError("no class is left; drop fewer of them (--drop)")
    return ClassPlan(_categories(found, kinds, rules.ids, earlier or {}), names)


def used_only(categories: Categories, used: Iterable[str], optional: Iterable[str]) -> Categories:
    """Return categories without those of the `optional` that are not used; all others stay, used or not."""
    used, optional = {*used}, {*optional}
    kept = [entry for entry in categories.to_coco() if entry["name"] in used or entry["name"] not in optional]
    return Categories.from_coco(kept)


def _check_names(classes: Sequence[SourceClass], rules: ClassRules) -> None:
    own = [c.name for c in classes]
    double = sorted({n for n in own if own.count(n) > 1})
    if double:
        raise InputError(f"the source has more than one class named {double[0]!r}; rename one of them")
    merged = [old for olds in rules.merge.values() for old in olds]
    later = {*own, *rules.merge, *([rules.background] if rules.background else [])}
    for option, names, known in (
        ("--merge", merged, own),
        ("--drop", rules.drop, own),
        ("--things", rules.things, later),
        ("--stuff", rules.stuff, later),
        ("ids", rules.ids, later),
    ):
        for name in names:
            if name not in known:
                raise InputError(f"{option}: there is no class {name!r}{_near(name, known)}")
    for name in merged:
        if merged.count(name) > 1:
            raise InputError(f"--merge: {name!r} is to become two classes; choose one")
        if name in rules.drop:
            raise InputError(f"{name!r} is both merged and dropped; leave one of them out")
    for new in rules.merge:
        if new in own and new not in merged and new in rules.drop:
            raise InputError(f"{new!r} is dropped and others are to become it; leave one of them out")


def _check_kinds(found: Mapping[str, SourceClass], rules: ClassRules) -> None:
    both = sorted({*rules.things} & {*rules.stuff})
    if both:
        raise InputError(f"{both[0]!r} is named as thing and as stuff; leave one of them out")
    if rules.background in rules.things:
        raise InputError(f"the background {rules.background!r} cannot be a thing; leave it out of --things")
    background = found.get(rules.background) if rules.background is not None else None
    if background is not None and background.isthing is not False and background.name not in rules.stuff:
        raise InputError(
            f"--background: {background.name!r} is a class of things already; say that it is stuff "
            f"(--stuff {background.name}) or give the background another name"
        )
    for option, names in (("--things", rules.things), ("--stuff", rules.stuff)):
        for name in names:
            if name not in found:
                raise InputError(f"{option}: {name!r} is dropped or merged away; name what it becomes")


def _isthing(entry: SourceClass, rules: ClassRules) -> bool:
    if entry.name in rules.things or entry.name in rules.stuff:
        return entry.name in rules.things
    return entry.name != rules.background and entry.isthing is not False


def _categories(
    found: Mapping[str, SourceClass], kinds: Mapping[str, bool], wanted: Mapping[str, int], earlier: Mapping[str, int]
) -> Categories:
    ids: dict[str, int] = {}
    for name, entry in found.items():
        value = wanted.get(name, entry.id if entry.id is not None else earlier.get(name))
        if value is None:
            continue
        twin = next((n for n, i in ids.items() if i == value), None)
        if twin is not None and name in wanted:
            raise InputError(f"ids: {name!r} and {twin!r} would both have the id {value}; give each its own")
        if twin is None:
            ids[name] = value
    taken = {*ids.values(), *earlier.values()}  # a class that is gone may come back
    free = (i for i in range(1, 10**9) if i not in taken)
    # by name, so that the same classes get the same ids in whatever order the files speak of them
    for name in sorted(n for n in found if n not in ids):
        ids[name] = next(free)
    ordered = sorted(found, key=lambda n: ids[n])
    spare = default_colors(len(ordered))
    colors = tuple(found[n].color or spare[row] for row, n in enumerate(ordered))
    return Categories(tuple(ordered), tuple(kinds[n] for n in ordered), tuple(ids[n] for n in ordered), colors)


def _near(name: str, known: Iterable[str]) -> str:
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    few = ", ".join(known[:12]) + (f" and {len(known) - 12} more" if len(known) > 12 else "")
    return f"; did you mean {near[0]!r}?" if near else f"; there are {few or 'none'}"
