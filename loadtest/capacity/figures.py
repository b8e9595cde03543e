"""The figures of one machine that a plan is made from: what a ranking costs, measured by `bench-capacity`."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

SHIPPED = Path(__file__).with_name("figures.json")
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
SomeAmount = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class FiguresError(ValueError):
    """A file that holds no figures. The message has its path."""


class _OfFigures(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RankingCost(_OfFigures):
    """A cost that grows with the candidates and with those among them that no cache holds.

    `any_missing` is added once if there is one: the worker then asks Redis for item rows.
    """

    fixed: Amount
    per_candidate: Amount = 0.0
    any_missing: Amount = 0.0
    per_missing_item: Amount = 0.0

    def at(self, candidates: float, missing: float) -> float:
        """The cost of one ranking."""
        cold = self.any_missing * min(1.0, missing) + self.per_missing_item * missing
        return self.fixed + self.per_candidate * candidates + cold


class PlanCheck(_OfFigures):
    """A figure that the plan or the simulation gives, and the real one, at a size that fitted no constant."""

    what: str
    planned: float
    real: float

    @property
    def error(self) -> float:
        """The relative error of the plan."""
        return self.planned / self.real - 1 if self.real else 0.0


class Figures(_OfFigures):
    """Costs of one ranking: CPU milliseconds of a worker and of Redis, bytes on the network and in the log.

    `answer_bytes` and `log_bytes` grow with the items of the answer, the others with the candidates.

    `service_times`: wall milliseconds of a ranking that waits for nobody, at even quantiles; only their ratio to their
    mean is used. `floor_ms`: what such a ranking takes by the clock beyond its CPU time.
    """

    machine: dict[str, Any]
    model: str
    behaviours: int
    ranking_ms: RankingCost
    redis_ms: RankingCost
    request_bytes: RankingCost
    answer_bytes: RankingCost
    redis_bytes: RankingCost
    log_bytes: RankingCost
    floor_ms: Amount
    service_times: Annotated[tuple[SomeAmount, ...], Field(min_length=2)]
    worker_mib: SomeAmount
    cached_item_bytes: SomeAmount
    user_bytes: SomeAmount
    item_bytes: SomeAmount
    checks: tuple[PlanCheck, ...] = ()


def read_figures(path: Path) -> Figures:
    """Read the figures of a machine. Raises FiguresError."""
    try:
        return Figures.model_validate_json(path.read_bytes())
    except OSError as error:
        raise FiguresError(f"{path}: {error.strerror}; `funnelrank bench-capacity --out {path}` writes it") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        problem = f"{path}: {place}: {first['msg']}; `funnelrank bench-capacity` writes such a file"
        raise FiguresError(problem) from None
