"""Training batches whose order and augmentation depend on the seed and the position alone.

So a resumed run sees what an uninterrupted one would have seen, and two processes see what one sees with the doubled
batch, whatever the number of workers.
"""

import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from thingstuff.data.coco import CocoPanoptic
from thingstuff.data.transforms import AugmentConfig, Ids, Pixels, Remains, augment, remains, target_of
from thingstuff.errors import InputError
from thingstuff.structures import Target

Key = tuple[int, int]
"""(position in the endless order, index of the picture)."""


@dataclass(frozen=True)
class Example:
    """One augmented picture with its map of places (0 is void, k its k-th segment) and what is left there.

    Labels and crowd flags are those of all its segments.
    """

    name: str
    picture: Pixels
    places: Ids
    left: Remains
    labels: tuple[int, ...]
    crowd: tuple[bool, ...]


@dataclass(frozen=True)
class Batch:
    """Augmented examples of one step."""

    examples: tuple[Example, ...]

    @property
    def names(self) -> list[str]:
        """File names of the pictures."""
        return [e.name for e in self.examples]

    @property
    def pictures(self) -> list[Pixels]:
        """uint8 pictures [h, w, 3] of network-input size."""
        return [e.picture for e in self.examples]

    def targets(self, device: torch.device | str) -> list[Target]:
        """Derive the targets on a device."""
        return [target_of(e.places, e.left, e.labels, e.crowd, device) for e in self.examples]


class AugmentedPictures(Dataset["Example | str"]):
    """A data set's pictures, augmented as (seed, position) tells; of one that cannot be read, what is wrong."""

    def __init__(self, data: CocoPanoptic, config: AugmentConfig, seed: int) -> None:
        self.data, self.config, self.seed = data, config, seed

    def __getitem__(self, key: Key) -> "Example | str":
        position, index = key
        record = self.data.records[index]
        random = np.random.default_rng([self.seed, position])
        try:
            picture, places = self.data.picture(index), self.data.places(index)
        except InputError as error:  # a worker would wrap it into a traceback, so the main process raises it
            return str(error)
        picture, places = augment(picture, places, self.config, random)
        return Example(
            name=record.file_name,
            picture=picture,
            places=places,
            left=remains(places),
            labels=tuple(s.label for s in record.segments),
            crowd=tuple(s.iscrowd for s in record.segments),
        )


def endless_order(count: int, seed: int) -> Iterator[Key]:
    """Yield (position, index) for ever, each epoch in its own random order."""
    position = itertools.count()
    for epoch in itertools.count():
        for index in np.random.default_rng([seed, epoch]).permutation(count):
            yield next(position), int(index)


def endless_batches(portrait: Sequence[bool], batch_size: int, seed: int) -> Iterator[list[Key]]:
    """Yield batches for ever that hold either portrait or landscape pictures, so that little is padded."""
    waiting: tuple[list[Key], list[Key]] = ([], [])
    for key in endless_order(len(portrait), seed):
        group = waiting[portrait[key[1]]]
        group.append(key)
        if len(group) == batch_size:
            yield list(group)
            group.clear()


@dataclass(frozen=True)
class ShareOfBatches:
    """One process's rows of each step's batch."""

    portrait: Sequence[bool]
    batch_size: int
    """Pictures of this process."""
    steps: range
    seed: int
    rank: int
    processes: int

    def __iter__(self) -> Iterator[list[Key]]:
        share = slice(self.rank * self.batch_size, (self.rank + 1) * self.batch_size)
        batches = endless_batches(self.portrait, self.batch_size * self.processes, self.seed)
        for batch in itertools.islice(batches, self.steps.start, self.steps.stop):
            yield batch[share]


def _start_worker(_: int) -> None:
    """Leave signals to the main process, which saves before it stops, and end with it however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "setsid"):  # out of reach of what is sent to the whole process group
        os.setsid()
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    # A worker whose parent was killed would wait for ever to hand over its last batch.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _collate(rows: "list[Example | str]") -> "list[Example | str]":
    return rows


def training_batches(
    data: CocoPanoptic,
    augmentation: AugmentConfig,
    *,
    batch_size: int,
    steps: range,
    seed: int,
    workers: int,
    rank: int = 0,
    processes: int = 1,
) -> Iterator[Batch]:
    """Yield this process's share of the batch of each step; `batch_size` is per process."""
    sampler = ShareOfBatches([r.height > r.width for r in data.records], batch_size, steps, seed, rank, processes)
    loader: DataLoader[Example | str] = DataLoader(
        AugmentedPictures(data, augmentation, seed),
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=_collate,
        worker_init_fn=_start_worker,
        generator=torch.Generator().manual_seed(seed),  # else making the loader would draw from the run's own
    )
    for rows in loader:
        for row in rows:
            if isinstance(row, str):
                raise InputError(row)
        yield Batch(tuple(rows))
