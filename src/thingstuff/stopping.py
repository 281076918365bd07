"""Being stopped: Ctrl-C and requests to end, heard by all processes after the same step."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator


@contextmanager
def stop_requests(stop: threading.Event) -> Iterator[None]:
    """Turn the first Ctrl-C (or SIGTERM) into a request to stop after the step; a second one ends at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def request(signum: int, _: Any) -> None:
        if stop.is_set():
            signal.signal(signum, before[signum])
            signal.raise_signal(signum)
        stop.set()
        print("stopping after this step; once more to stop at once", file=sys.stderr)

    before = {int(s): signal.signal(s, request) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def any_process(accelerator: Accelerator, value: bool) -> bool:
    """Tell whether the value is true on any process, so that all stop after the same step."""
    if accelerator.num_processes == 1:
        return value
    flag = torch.tensor(float(value), device=accelerator.device)
    return bool(accelerator.reduce(flag, "sum").item() > 0)
