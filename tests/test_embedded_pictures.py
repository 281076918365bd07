"""Pictures inside a page: their addresses, and JPEGs that fit a budget."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from thingstuff.embedded_pictures import data_url, jpeg_within

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (240, 320, 3)).astype(np.uint8))


@pytest.mark.parametrize("kind", ["png", "gif", "jpeg"])
def test_an_address_holds_the_file_and_says_what_it_is(kind):
    buffer = io.BytesIO()
    NOISE.save(buffer, kind)
    head, _, content = data_url(buffer.getvalue()).partition(";base64,")
    assert head == f"data:image/{kind}"
    assert base64.b64decode(content) == buffer.getvalue()


def test_a_jpeg_loses_quality_first_and_pixels_then():
    sizes = []
    for most_bytes in (1_000_000, 60_000, 20_000, 3):
        content = jpeg_within(NOISE, most_bytes)
        sizes.append(Image.open(io.BytesIO(content)).size)
        assert len(content) <= most_bytes or max(sizes[-1]) <= 64
    assert sizes[0] == sizes[1] == NOISE.size
    assert sizes[1] > sizes[2] > sizes[3]
    assert sizes[2][0] / sizes[2][1] == pytest.approx(4 / 3, rel=0.03)
