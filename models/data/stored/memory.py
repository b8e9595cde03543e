"""Refuses what must be in memory at once and is larger than the limit of the recipe."""

from models.recipe import RecipeError

_GIB = 1 << 30


def refuse_beyond(memory_bytes: int, needed_bytes: int, work: str, advice: str = "") -> None:
    """Raise RecipeError if `work` needs more than `memory_bytes`; `advice` names what else may be set."""
    if needed_bytes > memory_bytes:
        raise RecipeError(
            f"data.memory_gib: {work} would take {_shown(needed_bytes)} of memory, and the limit allows "
            f"{_shown(memory_bytes)} for it; set data.memory_gib higher{advice}",
            ("data", "memory_gib"),
        )


def _shown(size: int) -> str:
    return f"{size / _GIB:.1f} GiB" if size >= _GIB / 10 else f"{size / (1 << 20):.1f} MiB"
