"""When the loops that numba compiles are worth their loading."""

from types import ModuleType

# Loading them takes more than a second, and on one map they save a few milliseconds.
_ENOUGH = 300
_asked = 0


def compiled_loops(calls: int = 1) -> ModuleType | None:
    """Return `thingstuff.compiled_loops` once this process has asked for it often enough, None until then.

    Who knows how many `calls` will come asks for all of them at once. Threads may ask at the same time.
    """
    global _asked
    _asked += calls  # a count that a race of threads loses delays the loops, no more
    if _asked < _ENOUGH:
        return None
    from thingstuff import compiled_loops as loops

    return loops
