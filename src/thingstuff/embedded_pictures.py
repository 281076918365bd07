"""Pictures inside a page that needs nothing beside itself: as addresses that hold their bytes, as JPEGs that fit."""

import base64
import io

from PIL import Image

_KINDS = ((b"\x89PNG", "png"), (b"GIF8", "gif"), (b"\xff\xd8", "jpeg"))
_LEAST_SIDE = 64


def data_url(content: bytes) -> str:
    """Return a PNG, a GIF or a JPEG as an address that holds it."""
    kind = next(kind for start, kind in _KINDS if content.startswith(start))
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def jpeg_within(image: Image.Image, most_bytes: int) -> bytes:
    """Return an image as JPEG of at most so many bytes: first of less quality, then of fewer pixels, 64 a side left."""
    while True:
        for quality in (88, 78, 66, 52):
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=quality, optimize=True)
            if buffer.tell() <= most_bytes or max(image.size) <= _LEAST_SIDE:
                return buffer.getvalue()
        image = image.resize((max(1, image.width * 3 // 4), max(1, image.height * 3 // 4)), Image.Resampling.LANCZOS)
