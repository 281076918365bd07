"""The categories of COCO panoptic files that may have faults."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from thingstuff.evaluation.problems import ProblemFile, clean, shown
from thingstuff.io import Kind, field_fault
from thingstuff.panoptic import Categories, Color, default_colors

_ID = {"id": Kind("a whole number", lambda v: type(v) is int)}
_ISTHING = {"isthing": Kind("0 or 1", lambda v: type(v) in (int, bool) and v in (0, 1))}
_NAME = {"name": Kind("a text", lambda v: type(v) is str and v != "")}


@dataclass(frozen=True)
class FileCategories:
    """The usable classes of a ground truth; ids listed with a fault and left out; ids whose name is a stand-in."""

    categories: Categories
    faulty: frozenset[int]
    renamed: frozenset[int]


def read_categories(entries: Sequence[Any], problem: ProblemFile) -> FileCategories:
    """Read a ground truth's `categories`: whatever is wrong with them goes to `problem`."""
    usable: dict[int, tuple[Mapping[str, Any], Color]] = {}
    faulty: set[int] = set()
    for position, (entry, colour) in enumerate(zip(entries, default_colors(len(entries)), strict=True)):
        at = f"categories[{position}]"
        faults = [fault for fault in (field_fault(entry, _ID), _isthing_fault(entry)) if fault]
        for fault in faults:
            problem("faulty category", f"{at}: {fault}")
        if faults:
            # its segments are no further fault
            faulty |= {entry["id"]} if isinstance(entry, dict) and type(entry.get("id")) is int else set()
        elif entry["id"] in usable:
            problem("duplicate category", f"{at}: id {entry['id']} stands twice")
        else:
            usable[entry["id"]] = (entry, _colour(entry, colour, at, problem))
    names, renamed = _named([(i, entry) for i, (entry, _) in usable.items()], problem)
    things = tuple(bool(entry["isthing"]) for entry, _ in usable.values())
    if usable and len({*things}) == 1:
        problem("one kind of classes", f"the categories have no {'stuff' if things[0] else 'things'}")
    colours = tuple(colour for _, colour in usable.values())
    return FileCategories(Categories(names, things, tuple(usable), colours), frozenset(faulty), renamed)


def compare_categories(entries: Iterable[Any], classes: FileCategories, problem: ProblemFile) -> None:
    """Tell `problem` which ids of a prediction's own `categories` mean something else in the ground truth."""
    categories = classes.categories
    for entry in entries:
        category_id = entry.get("id") if isinstance(entry, dict) else None
        label = categories.label_of.get(category_id) if type(category_id) is int else None
        if label is None:
            continue
        own = (categories.names[label], int(categories.things[label]))
        # a name that stands in for none, or for one that comes twice, is ours alone
        name = own[0] if category_id in classes.renamed else entry.get("name", own[0])
        other = (clean(name) if isinstance(name, str) else name, entry.get("isthing", own[1]))
        if other != own:
            texts = [f"{shown(name)} with isthing {shown(isthing)}" for name, isthing in (other, own)]
            problem("categories differ", f"category {category_id} is {texts[0]} here, {texts[1]} in the ground truth")


def _isthing_fault(entry: Any) -> str | None:
    return field_fault(entry, _ISTHING) if isinstance(entry, dict) else None


def _colour(entry: Mapping[str, Any], spare: Color, at: str, problem: ProblemFile) -> Color:
    colour = entry.get("color", spare)
    if isinstance(colour, list | tuple) and len(colour) == 3 and all(type(c) is int and 0 <= c <= 255 for c in colour):
        return (colour[0], colour[1], colour[2])
    problem("category colour", f"{at}: color {shown(colour)}")
    return spare


def _named(
    rows: Sequence[tuple[int, Mapping[str, Any]]], problem: ProblemFile
) -> tuple[tuple[str, ...], frozenset[int]]:
    """Return a name of its own for each class, and the ids of those to which the file gives none."""
    names: list[str] = []
    renamed: set[int] = set()
    given = {entry.get("name") for _, entry in rows if field_fault(entry, _NAME) is None}
    for category_id, entry in rows:
        fault, name = field_fault(entry, _NAME), entry.get("name")
        if fault is None and name in names:
            fault = f"name {shown(name)} stands twice"
            name = f"{name} ({category_id})"
        elif fault is not None:
            name = str(category_id)
        while fault is not None and (name in names or name in given):
            name = f"{name}'"
        if fault is not None:
            problem("category name", f"category {category_id}: {fault}")
            renamed.add(category_id)
        names.append(clean(str(name)))
    return tuple(names), frozenset(renamed)
