"""Pictures worked on by several processes, the results handed out in order."""

import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sized
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing import get_context, parent_process, resource_tracker
from typing import Any, TypeVar

from thingstuff.errors import InputError

Item = TypeVar("Item")
Result = TypeVar("Result")

_AHEAD = 4
"""Items per process that are begun before their turn: memory does not grow with their number."""
_FEW = 6  # items that are done before another process has started
_MOST = 60  # a pool of Windows takes no more

_work: Callable[[Any], Any] | None = None  # of a process of the pool: sent once, not with every item


def worker_count(workers: int | None) -> int:
    """Return how many processes to use: as given, else one for each core this process may use.

    Raises `InputError` for fewer than one.
    """
    if workers is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return min(cores, _MOST)
    if workers < 1:
        raise InputError(f"workers={workers}: give the number of processes, 1 or more, or leave it out for all cores")
    return min(workers, _MOST)


def in_processes(
    work: Callable[[Item], Result], items: Iterable[Item], workers: int | None = None
) -> Generator[Result, None, None]:
    """Yield `work(item)` for each item, in their order; with one process, or for a few items, in the caller's own.

    `work` is a function of a module or an object that pickles, and so are items and results. Whatever is raised comes
    through in its item's place, and then no further item is begun; `close` waits for those that were. Raises
    `InputError` where a process was killed.
    """
    count = worker_count(workers)
    few = isinstance(items, Sized) and len(items) <= (1 if workers else _FEW)
    return (work(item) for item in items) if count == 1 or few else _pooled(work, items, count)


def _pooled(work: Callable[[Item], Result], items: Iterable[Item], count: int) -> Generator[Result, None, None]:
    # not fork: a lock that another thread holds, such as that of a progress display, would stay locked in the child
    pool = ProcessPoolExecutor(count, get_context("spawn"), initializer=_begin, initargs=(work,))
    waiting: deque[Future[Result]] = deque()
    left = iter(items)
    try:
        while True:
            with _interrupts_held():
                waiting.extend(pool.submit(_do, item) for item in islice(left, _AHEAD * count - len(waiting)))
            if not waiting:
                return
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise InputError(
            "a process that worked on the pictures was ended from outside: if memory is full, use fewer workers; a "
            "script of your own needs its calls below `if __name__ == '__main__':`"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Keep Ctrl-C back: a process that is born meanwhile never hears of it, as its parent ends it in an orderly way."""
    if sys.platform == "win32":
        yield
        return
    resource_tracker.ensure_running()  # it would let interrupts through again when it starts with the first process
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(work: Callable[[Any], Any]) -> None:
    global _work
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _work = work


def _end_with_parent() -> None:
    """End this process when its parent is killed, which else would leave it waiting for work for ever."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _do(item: Any) -> Any:
    assert _work is not None
    return _work(item)
