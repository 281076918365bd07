"""The size that a picture is resized to."""


def resized_size(size: tuple[int, int], short_side: int, max_side: int) -> tuple[int, int]:
    """Return the (height, width) whose short side is `short_side`, or whose long side is `max_side` if that is less.

    Each side is rounded by int(x + 0.5), as detectron2 does.
    """
    height, width = size
    scale = short_side / min(height, width)
    if max(height, width) * scale > max_side:
        scale = max_side / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def detr_resized_size(size: tuple[int, int], short_side: int, max_side: int) -> tuple[int, int]:
    """Return the (height, width) whose short side is `short_side`, less where the long side would exceed `max_side`.

    DETR's rule: a short side made smaller is rounded (half to even), the long side is truncated, and a picture whose
    short side is already right stays as it is.
    """
    height, width = size
    short, long = min(size), max(size)
    if long / short * short_side > max_side:
        short_side = max(1, round(max_side * short / long))
    if short == short_side:
        return size
    other = int(short_side * long / short)
    return (other, short_side) if width < height else (short_side, other)
