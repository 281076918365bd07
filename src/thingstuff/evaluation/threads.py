"""Work done by several threads and handed out in order."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from thingstuff.errors import InputError

Item = TypeVar("Item")
Result = TypeVar("Result")

_TOGETHER = 4
"""Items that a thread takes at once: handing over takes Python's lock from the others."""
_AHEAD = 2
"""Such batches per thread that are begun before their turn: memory does not grow with their number."""


def thread_count(threads: int | None) -> int:
    """Return how many threads to use: as given, else one for each core this process may use.

    Raises `InputError` for fewer than one.
    """
    if threads is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if threads < 1:
        raise InputError(f"threads={threads}: give the number of threads, 1 or more, or None for all cores")
    return threads


def in_order(work: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """Yield `work(item)` for each item, in their order; with one thread, in the caller's own.

    Whatever is raised comes through in its item's place, and then no further batch is begun.
    """
    if threads == 1:
        yield from map(work, items)
        return
    waiting: deque[tuple[Future[None], list[Result]]] = deque()
    pool, left = ThreadPoolExecutor(threads, thread_name_prefix="thingstuff"), iter(items)
    try:
        while True:
            batch = tuple(islice(left, _TOGETHER))
            if batch:
                done: list[Result] = []
                waiting.append((pool.submit(_work_off, work, batch, done), done))
            if not waiting:
                return
            if not batch or len(waiting) >= _AHEAD * threads:
                first, results = waiting.popleft()
                error = first.exception()
                yield from results
                if error is not None:
                    raise error
    finally:
        pool.shutdown(cancel_futures=True)


def _work_off(work: Callable[[Item], Result], batch: Sequence[Item], done: list[Result]) -> None:
    for item in batch:
        done.append(work(item))
