"""What `thingstuff predict` does: pictures in, COCO panoptic files and overlays out."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from thingstuff.coco_writing import MAPS, CocoPanopticWriter
from thingstuff.convert.picture_files import PICTURE_SUFFIXES
from thingstuff.drawing import check_alpha
from thingstuff.errors import InputError
from thingstuff.io import read_picture, read_sections
from thingstuff.models.base import PanopticModel

OVERLAYS = "overlays"


class PictureFile(NamedTuple):
    """A picture to predict and its name: its path in the folder that was given, with forward slashes."""

    path: Path
    name: str

    @property
    def stem(self) -> str:
        """The name without its suffix; what is written of the picture is named so."""
        return PurePosixPath(self.name).with_suffix("").as_posix()


def find_pictures(paths: Sequence[Path]) -> list[PictureFile]:
    """Return the picture files among paths, and those in folders and the folders in these, sorted by name.

    What begins with a dot is left aside, and so are id maps with their JSON beside them, and the overlays of earlier
    predictions. Raises `InputError` for a path that is not there and a folder without pictures.
    """
    found = []
    for path in paths:
        if path.is_dir():
            inside = sorted(_pictures_in(path))
            if not inside:
                raise InputError(f"{path} holds no pictures ({', '.join(sorted(PICTURE_SUFFIXES))})")
            found += [PictureFile(picture, picture.relative_to(path).as_posix()) for picture in inside]
        elif path.is_file():
            found.append(PictureFile(path, path.name))
        else:
            raise InputError(f"{path}: no such picture or folder")
    return found


def predict_pictures(
    model: PanopticModel,
    pictures: Sequence[PictureFile],
    out: Path,
    *,
    overwrite: bool = False,
    images: Path | None = None,
    alpha: float = 0.55,
    legend: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write out/panoptic/*.png, out/panoptic.json (COCO panoptic) and out/overlays/*.jpg; return the JSON's path.

    Subfolders in the pictures' names are kept; see `image_ids` for `images`, `Panoptic.draw` for `alpha` and `legend`.
    Every picture is opened first, so that a broken one is told before work begins. Raises `InputError` for broken
    pictures, two pictures of one name, pictures that lie where maps or overlays go, an output folder that is in use,
    and an alpha out of range.
    """
    check_output(out, overwrite)
    check_alpha(alpha)
    _check_pictures(pictures, out)
    ids = image_ids(pictures, images)
    writer = CocoPanopticWriter(out, model.categories, overwrite=overwrite)
    chunk = 32
    for begin in range(0, len(pictures), chunk):
        share = pictures[begin : begin + chunk]
        predicted = model.predict([picture.path for picture in share])
        for picture, panoptic in zip(share, predicted, strict=True):
            writer.add(picture.stem, panoptic, ids[picture], picture.name)
            overlay = out / OVERLAYS / f"{picture.stem}.jpg"
            overlay.parent.mkdir(parents=True, exist_ok=True)
            panoptic.draw(picture.path, alpha=alpha, legend=legend).save(overlay, quality=90)
        if progress:
            progress(begin + len(share), len(pictures))
    return writer.close()


def image_ids(pictures: Sequence[PictureFile], images: Path | None = None) -> dict[PictureFile, int | str]:
    """Return each picture's image id.

    The COCO JSON `images` gives it by the picture's name with its folders, else by the bare file name where that is
    told once there and once among the pictures. Without a JSON it is the file names' own number where all are numbers
    (000000000139.jpg is 139), else 1, 2, ... in the pictures' order. Raises `InputError` where the JSON cannot be read
    or a picture has no id in it.
    """
    if images is None:
        stems = [picture.path.stem for picture in pictures]
        numbers = [int(stem) if stem.isdecimal() else 0 for stem in stems]
        good = len({*numbers}) == len(numbers) and 0 not in numbers
        return dict(zip(pictures, numbers if good else range(1, len(pictures) + 1), strict=True))
    (entries,) = read_sections(images, ("images",))
    named = [e for e in entries if isinstance(e, dict) and isinstance(e.get("id"), int | str) and "file_name" in e]
    by_name: dict[str, int | str] = {PurePosixPath(str(e["file_name"])).as_posix(): e["id"] for e in named}
    listed, given = Counter(map(_bare, by_name)), Counter(_bare(picture.name) for picture in pictures)
    by_bare = {_bare(name): i for name, i in by_name.items() if listed[_bare(name)] == given[_bare(name)] == 1}
    found = {p: by_name.get(p.name, by_bare.get(_bare(p.name))) for p in pictures}
    if unknown := [picture.name for picture, image_id in found.items() if image_id is None]:
        bare = _bare(unknown[0])
        unclear = f", and {bare} alone does not tell which one it is; give the folder that its file names begin in"
        remedy = unclear if listed[bare] else "; leave them out"
        raise InputError(f"{images} has no image with the file name {unknown[0]} ({len(unknown)} such){remedy}")
    return {picture: image_id for picture, image_id in found.items() if image_id is not None}


def check_output(out: Path, overwrite: bool) -> None:
    """Raise `InputError` for an output folder that is in use, or a file."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; give a folder for the predictions")
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        raise InputError(f"{out} is not empty; give another --out, or --overwrite")


def _pictures_in(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and not _is_ours(name, names)]
        visible = (Path(place, name) for name in names if not name.startswith("."))
        yield from (path for path in visible if path.suffix.lower() in PICTURE_SUFFIXES)


def _is_ours(folder: str, beside: Sequence[str]) -> bool:
    """Whether a folder holds id maps or overlays, as the files beside it tell."""
    return (folder == OVERLAYS and f"{MAPS}.json" in beside) or (folder.startswith(MAPS) and f"{folder}.json" in beside)


def _bare(name: str) -> str:
    return PurePosixPath(name).name


def _check_pictures(pictures: Sequence[PictureFile], out: Path) -> None:
    written = {(out / folder).resolve() for folder in (MAPS, OVERLAYS)}
    stems: dict[str, PictureFile] = {}
    for picture in pictures:
        folder = picture.path.parent.resolve()  # of a link, where it stands
        if not written.isdisjoint((folder, *folder.parents)):
            raise InputError(
                f"{picture.path} lies where predictions are written; remove that folder or give another --out"
            )
        twin = stems.setdefault(picture.stem.casefold(), picture)
        if twin is not picture:
            raise InputError(
                f"{twin.path} and {picture.path} would write the same files; rename one or predict them apart"
            )
        read_picture(picture.path)
