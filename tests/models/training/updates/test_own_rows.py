"""Tests that processes that update a part of the rows each do together what one process does, and no more."""

import pytest
import torch
from torch import Tensor

from models.training.updates.own_rows import OwnRows
from models.training.updates.row_updates import ROW_RULES, LazyRows

ROWS = 23
DIM = 4
DECAY = 0.9


def steps_of_rows(number: int) -> list[tuple[Tensor, Tensor]]:
    """Rows int64 `[U]`, ascending, and their gradients `[U, D]`, by step."""
    generator = torch.Generator().manual_seed(number)
    steps = []
    for _ in range(6):
        rows = torch.randperm(ROWS, generator=generator)[:9].sort().values
        steps.append((rows, torch.randn(9, DIM, generator=generator)))
    return steps


def trained(rule_name: str, own: OwnRows) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """The table `[R, D]`, the average of its own rows, and the state of the rule after some steps."""
    table = torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(1))
    rule = ROW_RULES[rule_name](table, own)
    average = LazyRows(own.of(table).clone(), table, DECAY, own)
    for step, (rows, gradient) in enumerate(steps_of_rows(2)):
        is_own = rows % own.count == own.number
        before = average.caught_up(rows[is_own], step)
        rule.step(rows[is_own], gradient[is_own], rate=0.1, decay=0.01)
        average.update(rows[is_own], before, step + 1)
    average.catch_up_all(6)
    return table, average.average, rule.state


@pytest.mark.parametrize("rule_name", ROW_RULES)
@pytest.mark.parametrize("count", [2, 3, ROWS + 1])
def test_parts_have_the_bits_of_the_whole_and_no_row_of_another_part(rule_name: str, count: int) -> None:
    table, average, state = trained(rule_name, OwnRows())
    for number in range(count):
        own = OwnRows(number, count)
        table_of_part, average_of_part, state_of_part = trained(rule_name, own)
        assert torch.equal(own.of(table_of_part), own.of(table))
        assert torch.equal(average_of_part, own.of(average))
        for name, values in state.items():
            assert torch.equal(state_of_part[name], own.of(values)), name
    assert sum(len(OwnRows(number, count).of(table)) for number in range(count)) == ROWS
