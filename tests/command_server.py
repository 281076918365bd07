"""A process that imports thingstuff once and runs commands in forks of itself: imports take longer than small runs.

Each line of its input is an order: {"arguments", "environment", "log"} starts a command, whose process id is answered;
{"wait": process id} is answered by its exit code, negative for the signal that ended it.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class CommandServer:
    """Starts commands, and waits for their ends."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def _ask(self, **order: Any) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def start(self, log: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> int:
        """Start `thingstuff` with these arguments and return its process id; what it says goes to `log`."""
        return self._ask(arguments=arguments, environment=environment or {}, log=str(log))

    def wait(self, process: int) -> int:
        """Return the exit code of a command when it has ended."""
        return self._ask(wait=process)


@contextmanager
def command_server() -> Iterator[CommandServer]:
    """Have a server for as long as the block lasts."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, __file__], text=True, stdin=pipe, stdout=pipe) as process:
        yield CommandServer(process)
        assert process.stdin is not None
        process.stdin.close()


def serve() -> None:
    """Do what is ordered until the input ends."""
    import two_stages
    from thingstuff import display, predicting, runs  # noqa: F401 -- the commands import them on use

    two_stages.register()
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            answer = os.waitstatus_to_exitcode(os.waitpid(order["wait"], 0)[1])
        else:
            answer = os.fork()
            if answer == 0:
                run(order)
        print(answer, flush=True)


def run(order: Mapping[str, Any]) -> None:
    """Run a command in this process and end it."""
    from thingstuff.cli import main

    os.environ.update(order["environment"])
    sys.argv = ["thingstuff", *order["arguments"]]
    code: Any = 1
    with open(order["log"], "w", encoding="utf-8") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        finally:
            sys.stdout.flush()
            os._exit(code)


if __name__ == "__main__":
    serve()
