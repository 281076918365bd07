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
