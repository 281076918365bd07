"""Work shared by processes: results in order, errors in their place, and no process left behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from thingstuff.convert.pool import in_processes, worker_count
from thingstuff.errors import InputError

SCRIPT = """
import os, sys, time
from thingstuff.convert.pool import in_processes
def work(number):
    time.sleep(0.02)
    return os.getpid()
if __name__ == "__main__":
    for pid in in_processes(work, range(10_000), 2):
        print(pid, flush=True)
"""


def square_unless_thirteen(number: int) -> tuple[int, int]:
    if number == 13:
        raise InputError("thirteen")
    if number == 113:
        os._exit(1)
    time.sleep(0.002 * (number % 3))
    return number**2, os.getpid()


def test_results_come_in_order_and_no_more_are_begun_than_wanted() -> None:
    asked = []

    def items() -> Iterator[int]:
        for number in range(20, 100):
            asked.append(number)
            yield number

    results = in_processes(square_unless_thirteen, items(), 2)
    found = [next(results)]
    assert len(asked) <= 8
    found += results
    assert [square for square, _ in found] == [n**2 for n in range(20, 100)]
    assert os.getpid() not in {pid for _, pid in found}


def test_one_worker_and_few_items_need_no_other_process() -> None:
    for items, workers in ((range(3), None), (range(1), 4), (range(12), 1), ((), 2)):
        found = list(in_processes(square_unless_thirteen, items, workers))
        assert found == [(n**2, os.getpid()) for n in items]


def test_what_is_raised_comes_in_its_place() -> None:
    results = in_processes(square_unless_thirteen, range(9, 40), 2)
    assert [next(results)[0] for _ in range(4)] == [81, 100, 121, 144]
    with pytest.raises(InputError, match=r"^thirteen$"):
        next(results)
    with pytest.raises(StopIteration):
        next(results)


def test_a_process_that_is_killed_is_told() -> None:
    with pytest.raises(InputError, match="ended from outside: if memory is full, use fewer workers"):
        list(in_processes(square_unless_thirteen, range(110, 120), 2))


def test_a_number_of_workers() -> None:
    assert worker_count(None) >= 1
    assert worker_count(3) == 3
    with pytest.raises(InputError, match="workers=0: give the number of processes"):
        list(in_processes(square_unless_thirteen, range(3), 0))


def started(folder: Path) -> tuple["subprocess.Popen[str]", set[int]]:
    """Start the script in a group of its own, as a terminal does; return it and its workers once both work."""
    script = folder / "script.py"
    script.write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    workers: set[int] = set()
    while len(workers) < 2:
        workers.add(int(process.stdout.readline()))
    return process, workers


def gone(workers: set[int]) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if not any(Path(f"/proc/{pid}/stat").exists() and not zombie(pid) for pid in workers):
            return True
        time.sleep(0.05)
    return False


def zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


looks_at_processes = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes in /proc")


@looks_at_processes
@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_is_the_parents_alone(tmp_path: Path) -> None:
    process, workers = started(tmp_path)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode in (-signal.SIGINT, 130)
    assert errors.count("Traceback") == 1
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert gone(workers)


@looks_at_processes
def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    process, workers = started(tmp_path)
    process.kill()
    process.communicate(timeout=20)
    assert gone(workers)
