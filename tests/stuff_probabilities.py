"""The probabilities of stuff at picture size, which the merge compares chunk by chunk and never holds as a whole."""

import torch
from jaxtyping import Float
from torch import Tensor

from thingstuff.panoptic import Categories
from thingstuff.structures import Segments


def semantic_probabilities(segments: Segments, categories: Categories) -> Float[Tensor, "rows H W"]:
    """Return the stuff's probabilities by label, `VOID` in the last row; zero where there is none."""
    is_thing = torch.tensor([*categories.things, False])[segments.labels]
    stuff = segments.pick(~is_thing)
    result = stuff.masks.new_zeros((len(categories) + 1, *stuff.frame.original))
    if len(stuff):
        result[stuff.labels] = stuff.frame.restore(stuff.masks)
    return result
