"""Work done by several threads and handed out in order."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from thingstuff.errors import InputError

Item = TypeVar("Item")
Result = TypeVar("Result")

_AHEAD = 4
"""Items per thread that are begun before their turn: memory does not grow with their number."""


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

    Whatever is raised comes through, and then no further item is begun.
    """
    if threads == 1:
        yield from map(work, items)
        return
    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="thingstuff")
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) >= _AHEAD * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
