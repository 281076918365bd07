"""What `thingstuff predict` does: pictures in, COCO panoptic files and overlays out."""

from collections.abc import Callable, Sequence
from pathlib import Path

from thingstuff.errors import InputError
from thingstuff.io import CocoPanopticWriter, read_picture, read_sections
from thingstuff.models.base import PanopticModel

OVERLAYS = "overlays"
PICTURE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}


def find_pictures(paths: Sequence[Path]) -> list[Path]:
    """Return the picture files among paths, those of folders sorted by name.

    Raises `InputError` for a path that is not there and a folder without pictures.
    """
    found = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in PICTURE_SUFFIXES)
            if not inside:
                raise InputError(f"{path} holds no pictures ({', '.join(sorted(PICTURE_SUFFIXES))})")
            found.extend(inside)
        elif path.is_file():
            found.append(path)
        else:
            raise InputError(f"{path}: no such picture or folder")
    return found


def predict_pictures(
    model: PanopticModel,
    pictures: Sequence[Path],
    out: Path,
    *,
    overwrite: bool = False,
    images: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write out/panoptic/*.png, out/panoptic.json (COCO panoptic) and out/overlays/*.jpg; return the JSON's path.

    Image ids are those that the COCO JSON `images` gives to the file names; without it they are the names' own numbers
    where all are numbers (000000000139.jpg is 139), else 1, 2, ... in the pictures' order.
    Every picture is opened first, so that a broken one is told before work begins. Raises `InputError` for broken
    pictures, two pictures of one name, and an output folder that is in use.
    """
    check_output(out, overwrite)
    _check_pictures(pictures)
    ids = _image_ids(pictures, images)
    writer = CocoPanopticWriter(out, model.categories, overwrite=overwrite)
    overlays = out / OVERLAYS
    overlays.mkdir(parents=True, exist_ok=True)
    chunk = 32
    for begin in range(0, len(pictures), chunk):
        share = pictures[begin : begin + chunk]
        for path, panoptic in zip(share, model.predict(share), strict=True):
            writer.add(path.stem, panoptic, ids[path], path.name)
            panoptic.draw(path).save(overlays / f"{path.stem}.jpg", quality=90)
        if progress:
            progress(begin + len(share), len(pictures))
    return writer.close()


def _image_ids(pictures: Sequence[Path], images: Path | None) -> dict[Path, int | str]:
    if images is None:
        numbers = [int(p.stem) if p.stem.isdecimal() else 0 for p in pictures]
        good = len({*numbers}) == len(numbers) and 0 not in numbers
        return dict(zip(pictures, numbers if good else range(1, len(pictures) + 1), strict=True))
    (entries,) = read_sections(images, ("images",))
    named = [e for e in entries if isinstance(e, dict) and isinstance(e.get("id"), int | str) and "file_name" in e]
    by_name: dict[str, int | str] = {Path(str(e["file_name"])).name: e["id"] for e in named}
    unknown = [p.name for p in pictures if p.name not in by_name]
    if unknown:
        raise InputError(f"{images} has no image with the file name {unknown[0]} ({len(unknown)} such); leave them out")
    return {p: by_name[p.name] for p in pictures}


def check_output(out: Path, overwrite: bool) -> None:
    """Raise `InputError` for an output folder that is in use, or a file."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; give a folder for the predictions")
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        raise InputError(f"{out} is not empty; give another --out, or --overwrite")


def _check_pictures(pictures: Sequence[Path]) -> None:
    stems: dict[str, Path] = {}
    for path in pictures:
        twin = stems.setdefault(path.stem.casefold(), path)
        if twin is not path:
            raise InputError(f"{twin} and {path} would write the same files; rename one or predict them apart")
        read_picture(path)
