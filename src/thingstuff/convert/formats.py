"""The formats that can be read, and which of them a path holds."""

from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import NamedTuple, Protocol, cast, runtime_checkable

from thingstuff.convert.semantic import recognise_maps
from thingstuff.convert.source import Source, SourceOptions
from thingstuff.errors import InputError


@runtime_checkable
class Reader(Protocol):
    """What the module of a format has."""

    def recognise(self, path: Path) -> str | None:
        """Return why a path holds the format, None where it does not; looks at names and a few files' beginnings."""
        ...

    def open_source(self, path: Path, reason: str, options: SourceOptions) -> Source:
        """Open it; raises `InputError` where it is not what the format says."""
        ...


class Format(NamedTuple):
    """A format: its name on the command line, what it is, and the module that reads it."""

    name: str
    what: str
    module: str


_FORMATS = (
    Format("coco-panoptic", "COCO panoptic: JSON and PNGs of segment ids", "coco_panoptic"),
    Format("coco-instances", "COCO instances: JSON with polygons and run lengths", "coco_instances"),
    Format("labelme", "LabelMe: a JSON beside each picture", "labelme"),
    Format("cvat", "CVAT for images: annotations.xml", "cvat"),
    Format("label-studio", "Label Studio: JSON export with polygons and brush masks", "label_studio"),
    Format("yolo", "YOLO segmentation: a text file of polygons for each picture", "yolo"),
    Format("voc", "VOC: pairs of PNGs, one of classes and one of objects", "voc"),
    Format("cityscapes", "Cityscapes: leftImg8bit and gtFine", "cityscapes"),
    Format("two-channel", "panopticapi's two channels: category in red, instance in green", "two_channel"),
    Format("semantic", "semantic PNGs: a class for each pixel", "semantic"),
)
FORMATS = {entry.name: entry for entry in _FORMATS}
"""Every format that can be read by its name."""


def open_source(path: Path, format: str | None = None, options: SourceOptions | None = None) -> Source:
    """Open foreign labels; of which format they are is found out where it is not given.

    Raises `InputError` where the path is missing, of no known format, or of more than one.
    """
    options = options or SourceOptions()
    if not path.exists():
        raise InputError(f"{path} is not there; give the file or folder of the labels")
    if format is None:
        entry, reason = _recognised(path, options.pictures)
    elif format in FORMATS:
        entry, reason = FORMATS[format], "named by --from"
    else:
        raise InputError(f"--from {format}: no such format; there are {', '.join(FORMATS)}")
    return replace(_reader(entry).open_source(path, reason, options), path=path.resolve())


def _recognised(path: Path, pictures: Path | None) -> tuple[Format, str]:
    found = [(entry, reason) for entry in _FORMATS if (reason := _reader(entry).recognise(path))]
    if len(found) == 1:
        return found[0]
    if not found and pictures and (maps := recognise_maps(path, pictures)):
        return FORMATS["semantic"], maps
    if not found:
        known = "\n".join(f"  {entry.name:15} {entry.what}" for entry in _FORMATS)
        raise InputError(f"{path}: the labels are of no format that could be recognised; name it (--from):\n{known}")
    reasons = "; ".join(f"{entry.name} ({reason})" for entry, reason in found)
    raise InputError(f"{path} may be of more than one format: {reasons}; name one (--from)")


def _reader(entry: Format) -> Reader:
    return cast(Reader, import_module(f"thingstuff.convert.{entry.module}"))
