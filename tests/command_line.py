"""Running a command line of ours in this process."""

import sys

from thingstuff.cli import main


def call(*words: object) -> int:
    """Run `thingstuff` with these words and return its exit code."""
    before, sys.argv = sys.argv, ["thingstuff", *map(str, words)]
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = before
    return 0
