"""What `thingstuff explain` does: one pass over one picture, and a page that walks through it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

from thingstuff.config import parse_overrides
from thingstuff.data.coco import CocoPanoptic, SplitPaths, locate, parse_ground_truth, splits
from thingstuff.errors import InputError, raise_problems
from thingstuff.explain_figures import write_figures
from thingstuff.explain_page import check_page, write_walk
from thingstuff.explaining import explain
from thingstuff.io import map_folder, read_picture, read_sections
from thingstuff.models.base import PanopticModel
from thingstuff.panoptic import Panoptic
from thingstuff.pretrained import load_changed
from thingstuff.scoring import refuse_other_categories

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Request:
    """The options of `thingstuff explain`, by their names there."""

    picture: Path
    weights: str
    out: Path
    truth: Path | None = None
    figures: Path | None = None
    settings: Sequence[str] | None = None
    revision: str | None = None
    overwrite: bool = False


def run_explain(request: Request, console: "Console") -> None:
    """Do what `thingstuff explain` was asked for; raises `InputError` where something given cannot be used."""
    check_page(request.out, request.overwrite)  # weights may take minutes to fetch
    if request.figures is not None and request.figures.exists() and not request.figures.is_dir():
        raise InputError(f"{request.figures} is a file; give a folder for the figures")
    read_picture(request.picture)
    data = None if request.truth is None else find_truth(request.truth, request.picture)
    with console.status("looking"):
        model = load_changed(request.weights, parse_overrides(list(request.settings or ())), revision=request.revision)
        walk = explain(model, request.picture, None if data is None else _truth(data, model, request.weights))
    figures = []
    with console.status("drawing"):
        if request.figures is not None:
            figures = write_figures(request.figures, walk, overwrite=request.overwrite)
        page = write_walk(request.out, walk, overwrite=request.overwrite)
    found = len(walk.result.segments)
    lines = [f"{walk.name}: {found} segment{'' if found == 1 else 's'}, {len(walk.steps)} steps through {walk.kind}"]
    lines += [f"figures: {request.figures} ({len(figures)} PNGs, {_size(figures)})"] if figures else []
    lines.append(f"page: {page} ({_size([page])})")
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _size(paths: Sequence[Path]) -> str:
    """Return what files take, in MB or below that kB."""
    total = sum(path.stat().st_size for path in paths)
    return f"{total / 1e6:.1f} MB" if total >= 1e6 else f"{max(1, round(total / 1e3))} kB"


def _truth(data: CocoPanoptic, model: PanopticModel, weights: str) -> Panoptic:
    refuse_other_categories(model, weights, data)
    return data.panoptic(0)


class _Listed(NamedTuple):
    """A picture as a JSON lists it, and where that JSON's files lie."""

    paths: SplitPaths
    image: dict[str, Any]


def find_truth(truth: Path, picture: Path) -> CocoPanoptic:
    """Return the one picture of a COCO panoptic JSON, or of a data set's splits, that has the picture's file name.

    Where several have it, the one whose folders are the picture's. Raises `InputError` where there is none, where more
    than one may be meant, and where what the JSON says of it cannot be used.
    """
    listed = [
        _Listed(paths, image)
        for paths in _jsons(truth, picture)
        for image in read_sections(paths.json, ("images",))[0]
        if isinstance(image, dict) and _bare(image) == picture.name
    ]
    if len(listed) > 1:
        listed = [entry for entry in listed if _is_file(entry, picture)]
        if len(listed) != 1:
            raise InputError(
                f"{truth} lists several pictures named {picture.name}, and their folders do not tell which one is "
                f"{picture}; give the JSON of its split, or the picture in the data set's own folder"
            )
    if not listed:
        raise InputError(
            f"{truth} lists no picture named {picture.name}; give the JSON or data set that the picture belongs to, or "
            "leave --truth out"
        )
    own = listed[0].paths.pictures / listed[0].image["file_name"]
    if own.is_file() and not own.samefile(picture) and own.read_bytes() != picture.read_bytes():
        raise InputError(
            f"{truth} lists {own}, and {picture} is another picture of that name; give the JSON or data set that it "
            "belongs to, or leave --truth out"
        )
    return _alone(listed[0])


def _jsons(truth: Path, picture: Path) -> list[SplitPaths]:
    if truth.suffix.lower() == ".json":
        read_sections(truth, ("images", "annotations", "categories"))  # a fault of the JSON is told before its maps'
        return [SplitPaths(_picture_folder(truth, picture), map_folder(truth, None, "put them there"), truth)]
    found = splits(truth)
    if not found:
        raise InputError(f"{truth} has no panoptic_*.json; give a COCO panoptic JSON or a data set's folder (--truth)")
    return [locate(truth, split) for split in found]


def _picture_folder(json: Path, picture: Path) -> Path:
    """Return the folder of a JSON's pictures where it lies in a data set's layout, else the picture's own."""
    split = json.stem.removeprefix("panoptic_")
    folders = (json.parent / split, json.parent.parent / split)
    return next((folder for folder in folders if folder.is_dir()), picture.parent)


def _bare(image: dict[str, Any]) -> str:
    name = image.get("file_name")
    return PurePosixPath(name).name if isinstance(name, str) else ""


def _is_file(entry: _Listed, picture: Path) -> bool:
    """Whether a listed picture is this file, or ends in the same folders."""
    name = PurePosixPath(entry.image["file_name"])
    here = picture.resolve()
    in_folders = len(name.parts) > 1 and here.parts[-len(name.parts) :] == name.parts
    return in_folders or (entry.paths.pictures / name).resolve() == here


def _alone(entry: _Listed) -> CocoPanoptic:
    """Return the data set of one picture; faults of others do not matter here."""
    json, image = entry.paths.json, entry.image
    _, annotations, classes = read_sections(json, ("images", "annotations", "categories"))
    own = [a for a in annotations if isinstance(a, dict) and a.get("image_id") == image.get("id")]
    categories, records, problems = parse_ground_truth(entry.paths, [image], own, classes)
    raise_problems(problems, f"{json} cannot be used:")
    return CocoPanoptic(entry.paths, categories, records)
