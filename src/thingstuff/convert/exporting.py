"""From a COCO panoptic data set to COCO instances, semantic PNGs or YOLO segmentation."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from thingstuff.convert.aside import made_aside
from thingstuff.convert.coco_instances_writer import CocoInstancesWriter
from thingstuff.convert.export_target import Done, Writer, check_names
from thingstuff.convert.pool import in_processes
from thingstuff.convert.semantic_writer import SemanticWriter
from thingstuff.convert.yolo_writer import YoloWriter
from thingstuff.data.coco import CocoPanoptic, splits
from thingstuff.errors import InputError
from thingstuff.panoptic import Categories

_WRITERS: dict[str, Callable[[Path, Categories, bool], Writer]] = {
    "coco-instances": CocoInstancesWriter,
    "semantic": SemanticWriter,
    "yolo": YoloWriter,
}
TARGETS = tuple(_WRITERS)
"""What a COCO panoptic data set can be exported to."""
_PICTURES = "pictures"


@dataclass(frozen=True)
class ExportResult:
    """What an export wrote: `pictures`, and how many of what else, in words; what was left out is told there too."""

    out: Path
    target: str
    pictures: int
    counts: Mapping[str, int]

    def text(self) -> str:
        """Return it as lines for the terminal; what there is none of is not spoken of."""
        rows = {_PICTURES: self.pictures, **{what: count for what, count in self.counts.items() if count}}
        return "\n".join(f"{count:,} {what}" for what, count in rows.items())


def export(
    data: Path,
    out: Path,
    target: str,
    *,
    copy: bool = False,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ExportResult:
    """Write every split of a COCO panoptic data set in another format, whole or not at all.

    `target` is one of `TARGETS`; see `CocoInstancesWriter`, `SemanticWriter` and `YoloWriter` for what each holds.
    Pictures are linked, or copied with `copy`. `workers` processes share the pictures, one for each core if not given;
    `progress` is told (pictures done, of how many). Raises `InputError` where the target is unknown, `out` holds
    something, the splits have different categories, or maps and pictures are not what the JSON says.
    """
    if target not in _WRITERS:
        raise InputError(f"--as {target}: no such format to write; there are {', '.join(TARGETS)}")
    opened = _opened(data)
    categories = next(iter(opened.values())).categories
    if target == "yolo" and not categories.thing_labels:
        raise InputError(
            f"{data} has no class of things, and YOLO segmentation holds nothing else; choose another --as"
        )
    for split in opened.values():
        check_names(split)
    total = sum(map(len, opened.values()))
    counts: Counter[str] = Counter()
    with made_aside(out, "--to") as folder:
        writer = _WRITERS[target](folder, categories, copy)
        for name, split in opened.items():
            with closing(in_processes(writer.work(name), writer.tasks(split), workers)) as results:
                writer.write_split(name, split, _counted(results, counts, total, progress))
        writer.write_classes(tuple(opened))
    return ExportResult(out, target, counts.pop(_PICTURES), dict(counts))


def _opened(data: Path) -> dict[str, CocoPanoptic]:
    """Open every split; they must have the same categories, which the target names but once."""
    opened = {split: CocoPanoptic.open(data, split) for split in splits(data)}
    if not opened:
        raise InputError(f"{data} has no split: no panoptic_*.json is there; give a COCO panoptic data set")
    first, *others = opened.items()
    for name, split in others:
        if split.categories != first[1].categories:
            raise InputError(f"{data}: the categories of {name} are not those of {first[0]}; give both the same list")
    return opened


def _counted(
    results: Iterable[Done], counts: Counter[str], total: int, progress: Callable[[int, int], None] | None
) -> Iterator[Done]:
    for result in results:
        counts.update({_PICTURES: 1, **result.counts})
        if progress:
            progress(counts[_PICTURES], total)
        yield result
