"""Tests how often a run writes checkpoints whose writing takes long."""

from models.training.checkpoint import CheckpointSpacing


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_checkpoints_take_at_most_a_tenth_of_the_time() -> None:
    clock = Clock()
    spacing = CheckpointSpacing(clock)
    saving_s = 0.0
    for _ in range(2000):  # steps of half a second, a checkpoint that takes four
        clock.now += 0.5
        if spacing.allows():
            with spacing.saving():
                clock.now += 4.0
            saving_s += 4.0
    assert 0.08 < saving_s / (clock.now - 100.0) <= 0.105


def test_a_quick_checkpoint_is_written_whenever_it_is_due() -> None:
    clock = Clock()
    spacing = CheckpointSpacing(clock)
    for _ in range(3):
        assert spacing.allows()
        with spacing.saving():
            clock.now += 0.9
