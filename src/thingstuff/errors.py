"""The one error for input that a user can mend."""

from collections.abc import Sequence


class InputError(ValueError):
    """Input that cannot be used: the message names the file, the field or value, and the remedy.

    The command line prints the message alone and exits with code 2; any other exception is a fault of ours and
    keeps its traceback.
    """


def raise_problems(problems: Sequence[str], heading: str, limit: int = 10) -> None:
    """Raise one `InputError` with `heading`, the first `limit` problems and the number of the rest; none, no error."""
    if not problems:
        return
    lines = [f"  - {problem}" for problem in problems[:limit]]
    if len(problems) > limit:
        lines.append(f"  and {len(problems) - limit} more")
    raise InputError("\n".join([heading, *lines]))
