"""Labels of any tool made a COCO panoptic data set, in one call."""

from pathlib import Path
from typing import Any

from thingstuff.convert.converting import Conversion, ConvertRules, convert
from thingstuff.convert.formats import open_source
from thingstuff.convert.source import SourceOptions


def convert_labels(
    labels: str | Path,
    out: str | Path,
    rules: ConvertRules | None = None,
    *,
    format: str | None = None,
    options: SourceOptions | None = None,
    **how: Any,
) -> Conversion:
    """Convert a file or folder of labels to COCO panoptic, as `thingstuff convert` does.

    `format` is one of `convert.formats.FORMATS`, recognised if not given; `how` is what `convert.converting.convert`
    takes. Raises `InputError` as `open_source` and `convert` do.
    """
    return convert(open_source(Path(labels), format, options), Path(out), rules, **how)
