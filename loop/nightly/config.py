"""The configuration of a nightly run: a YAML file, read strictly."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from features.files.strict_yaml import SourcePlace, YamlError, read_yaml
from features.model_types import misread_truths
from models.errors import Fault, RecipeError
from models.metrics.paired import PairedMetric
from models.options import Options
from models.recipe.explain import faults_of
from models.recipe.places import Places
from service.addresses.log_address import is_uri
from service.addresses.registry_address import registry_folder
from service.settings import Settings

Share = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(gt=0)]


def _registry(value: object) -> object:
    """The folder of a registry; that of this host's copy if it is in an object store."""
    text = str(value)
    return registry_folder(text, Settings.from_environment().registry_cache) if is_uri(text) else value


class VerifySection(Options):
    """The share of the exposures to compute again (0: none), and the tables that training reads, if there are any.

    Only the newest `newest_h` hours with exposures are read: older ones were verified in their own night.
    """

    share: Share = 0.01
    newest_h: Annotated[int, Field(ge=1)] = 24
    tables: Path | None = None


class TrainSection(Options):
    """Changes of the recipe as `--set` has them, the threads of torch, its device, and what the weights start from.

    `live`: the run of the live version, where it fits; `cold`: random weights.
    """

    set: tuple[str, ...] = ()
    threads: Annotated[int, Field(ge=1)] | None = None
    device: str = "cpu"
    start: Literal["live", "cold"] = "live"


class CompareSection(Options):
    """How the new model is compared with the live one.

    `margins`: by task, the largest loss of `metric` that is accepted. The last `newest_h` hours with closed labels are
    for the comparison alone. At least `min_impressions` of them, and `min_coverage` scored by the live version.
    """

    margins: Annotated[dict[str, Annotated[float, Field(ge=0)]], Field(min_length=1)]
    metric: PairedMetric = "auc"
    newest_h: Amount = 24.0
    min_impressions: Annotated[int, Field(ge=1)] = 1000
    min_coverage: Share = 0.9


class PublishSection(Options):
    """The role of the new version in the rollout document, and the line that gets it."""

    role: Literal["canary", "shadow"]
    percent: Annotated[float, Field(gt=0, le=100)] | None = None
    line: str | None = None
    sign_with: Path | None = None

    @model_validator(mode="after")
    def _percent_of_a_canary(self) -> "PublishSection":
        if (self.role == "canary") != (self.percent is not None):
            raise ValueError("a canary needs 'percent', and a shadow has none")
        return self


class NightlyConfig(Options):
    """A nightly run. `work` keeps a folder per run; `keep_days` and `keep_gb` bound the hours of the log.

    `registry` is a folder or the URI of an object store. `source`: the URI that services send the log's files to, if
    the log is no folder of theirs.
    """

    log: Path
    source: str | None = None
    recipe: Path
    registry: Annotated[Path, BeforeValidator(_registry)]
    work: Path
    model: str | None = None
    keep_days: Amount | None = None
    keep_gb: Amount | None = None
    memory_mb: Annotated[int, Field(ge=64)] = 1024
    verify: VerifySection = VerifySection()
    train: TrainSection = TrainSection()
    compare: CompareSection
    publish: PublishSection


def read_config(path: Path) -> NightlyConfig:
    """Read a configuration. Raises RecipeError with one fault per bad place: file, line and the nearest valid name."""
    try:
        document = read_yaml(path)
    except FileNotFoundError:
        raise RecipeError.of([Fault("no such file", place=SourcePlace(str(path)))]) from None
    except YamlError as error:
        raise RecipeError.of([Fault(error.message, error.location, place=error.place)]) from None
    raw = document.value
    if not isinstance(raw, dict):
        message = "a nightly run is a mapping with 'log', 'recipe', 'registry', 'work', 'compare', 'publish'"
        raise RecipeError.of([Fault(message, place=SourcePlace(str(path)))])
    places = Places.of(document)
    misread = [Fault(str(each), each.location) for each in misread_truths(NightlyConfig, raw, places.scalars)]
    if misread:
        raise RecipeError.of(fault.at(places.place_of(fault.location)) for fault in misread)
    try:
        return NightlyConfig.model_validate(raw)
    except ValidationError as error:
        raise RecipeError.of(faults_of(error.errors(), NightlyConfig, places)) from None
