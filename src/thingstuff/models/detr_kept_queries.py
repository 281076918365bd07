"""What all steps of DETR's walk read: the pass of one picture, and the queries of it that give a segment.

Letters: Q queries, N of them kept, K class outputs with "no object" last, h w the encoded image.
"""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from thingstuff.merging import first_of_class
from thingstuff.models.detr import DETROutput, DETRPanoptic
from thingstuff.models.detr_merge_account import MergeAccount, account_of
from thingstuff.models.shared_steps import in_percent, map_axes, segment_of_row
from thingstuff.panoptic import VOID
from thingstuff.structures import Frame
from thingstuff.walk import Seen


@dataclass(frozen=True)
class KeptQuery:
    """A query that gives a segment: its number, class, probability, and the final segment it is part of, if any."""

    query: int
    label: int
    name: str
    score: float
    segments: tuple[int, ...]

    @property
    def title(self) -> str:
        """What its pictures are called."""
        return f"query {self.query}: {self.name}"


@dataclass(frozen=True, eq=False)
class DETRPass:
    """One picture's pass through DETR, the kept queries in the order of the rows of `Segments`, and their merge."""

    model: DETRPanoptic
    seen: Seen
    kept: tuple[KeptQuery, ...]
    merge: MergeAccount

    @property
    def output(self) -> DETROutput:
        """What the network gave."""
        assert isinstance(self.seen.output, DETROutput)
        return self.seen.output

    @property
    def frame(self) -> Frame:
        """Where the picture lies on the canvas."""
        return self.seen.images.frame(0)

    @property
    def padded(self) -> bool:
        """Whether whole cells of the encoded image are padding."""
        return self.output.valid is not None and not bool(self.output.valid.all())

    @property
    def probabilities(self) -> Float[Tensor, "Q K"]:
        """The class probabilities of the last decoder layer."""
        return self.output.in_full_precision().logits[-1, 0].softmax(-1).cpu()

    @property
    def queries(self) -> list[int]:
        """The numbers of the kept queries."""
        return [kept.query for kept in self.kept]

    @property
    def stride(self) -> int:
        """Pixels of the canvas to a cell of the encoded image."""
        return self.model.config.backbone.strides[5]

    def cells(self, channels: str) -> tuple[str, str, str]:
        """Return what the axes of a [C, h, w] map of the encoded image's size mean."""
        return map_axes(channels, self.stride)

    def output_name(self, output: int) -> str:
        """Return what a class output stands for."""
        labels = [*self.model.labels_of_outputs(), VOID]
        if output == len(labels) - 1:
            return "no object"
        return f"output {output}" if labels[output] == VOID else self.model.categories.names[labels[output]]

    def notes(self, sentence: Callable[[int, KeptQuery], str]) -> dict[int, str]:
        """Return each final segment's note: the sentences of its rows, of which joined stuff has several."""
        notes: dict[int, str] = {}
        for row, kept in enumerate(self.kept):
            for segment in kept.segments:
                notes[segment] = f"{notes[segment]} {sentence(row, kept)}" if segment in notes else sentence(row, kept)
        return notes


def pass_of(model: DETRPanoptic, seen: Seen) -> DETRPass:
    """Return the pass of one picture, with the queries that the model keeps."""
    _, _, kept = model.confident_queries(seen.output)
    queries: list[int] = kept[0].nonzero()[:, 0].tolist()
    labels, scores = seen.segments.labels.tolist(), seen.segments.scores.tolist()
    own = segment_of_row(seen)
    # as released, what joins another is emptied and dropped: it is part of nothing
    of_row = list(range(len(labels))) if model.config.as_released else first_of_class(labels, model.categories)
    rows = tuple(
        KeptQuery(query, label, model.categories.names[label], min(1.0, score), (own[row],) if row in own else ())
        for query, label, score, row in zip(queries, labels, scores, of_row, strict=True)
    )
    return DETRPass(model, seen, rows, account_of(model, seen))


def percent(share: float) -> str:
    """Return a share as text, with a digit after the point where it is close to nothing or all."""
    return f"{share:.0%}" if 0.1 <= share <= 0.9 else in_percent(share)
