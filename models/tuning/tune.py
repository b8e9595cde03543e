"""Searches the settings of a recipe within bounds; trials are compared on the validation part only."""

import errno
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState
from tqdm import tqdm

from models.data.cache import DEFAULT_CACHE, Data, open_data
from models.network.build import build_model
from models.recipe import Recipe, RecipeError
from models.recipe.sections.data import WHERE_DATA_LIES
from models.recipe.sections.search_space import SearchBounds, SearchedSetting, TuningSection, settings_of
from models.training.device import CPU, chosen_device
from models.training.loop import learn
from models.training.session import Progress
from models.training.step import NonFiniteLossError
from models.training.transfer import narrowed
from models.tuning.outcome import chosen, error_of_sqlite, report, seconds_of, with_settings, write_search

STUDY_FILE = "study.db"
TRIAL_FOLDER = "trial"
STARTUP_TRIALS = 8  # drawn at random before the sampler (TPE) models what is good
# no trial is pruned in its first quarter, nor before so many are complete
JUDGED_FROM = 25
JUDGED_AFTER = 5
DONE = (TrialState.COMPLETE, TrialState.PRUNED)


class PrunedError(Exception):
    """A trial that is not worth continuing, or that cannot continue; the message says why."""


@dataclass(frozen=True)
class Search:
    """A recipe's search in its folder: the distributions by setting, and the study that stores every trial."""

    recipe: Recipe
    section: TuningSection
    out: Path
    cache: Path
    study: optuna.Study
    space: Mapping[str, BaseDistribution]
    device: torch.device = CPU

    @property
    def done(self) -> list[FrozenTrial]:
        """The finished trials in order. An interrupted trial does not count and is run again."""
        return self.study.get_trials(deepcopy=False, states=DONE)


def open_search(recipe: Recipe, out: Path, cache: Path, device: torch.device = CPU) -> Search:
    """Open the search in `out`: a new one, or the one that exists there.

    Raises RecipeError if the recipe cannot be searched or `out` has the search of another recipe.
    """
    if recipe.tuning is None:
        raise RecipeError(
            "tuning: is missing; give its trials and its space, as in "
            "`tuning: {trials: 20, space: {model.dropout: {low: 0.0, high: 0.3}}}`"
        )
    data = open_data(narrowed(recipe), cache)
    build_model(
        data.recipe, data.encoding, data.cross_values
    )  # what is wrong with the recipe itself is no trial's fault
    out.mkdir(parents=True, exist_ok=True)
    storage = f"sqlite:///{out / STUDY_FILE}"
    pruner = optuna.pruners.MedianPruner(n_startup_trials=JUDGED_AFTER, n_warmup_steps=JUDGED_FROM)
    study = optuna.create_study(
        storage=storage, study_name="tuning", direction="maximize", pruner=pruner, load_if_exists=True
    )
    _claim(study, recipe, data, out)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)  # it was interrupted
    settings = settings_of(recipe)
    space = {name: _distribution(settings[name], bounds) for name, bounds in recipe.tuning.space.items()}
    return Search(recipe, recipe.tuning, out, cache, study, space, device)


def _claim(study: optuna.Study, recipe: Recipe, data: Data, out: Path) -> None:
    """Refuse a folder whose trials cannot be compared with this recipe's. The number of trials and minutes
    may change.
    """
    described = recipe.model_dump(
        mode="json", exclude={"description": True, "data": WHERE_DATA_LIES, "tuning": {"trials", "time_limit_minutes"}}
    )
    identity = json.loads(
        json.dumps({"recipe": described, "data": data.described["tables"], "threads": torch.get_num_threads()})
    )
    for name, value in identity.items():
        if study.user_attrs.get(name, value) != value:
            raise RecipeError(
                f"--out {out}: holds trials made with another {name}; give another folder, or the same {name} as before"
            )
        study.set_user_attr(name, value)


def _distribution(setting: SearchedSetting, bounds: SearchBounds) -> BaseDistribution:
    if bounds.choices is not None:
        return CategoricalDistribution([json.dumps(choice) for choice in bounds.choices])
    assert bounds.low is not None
    assert bounds.high is not None
    if setting.whole:
        return IntDistribution(int(bounds.low), int(bounds.high), log=bounds.log)
    return FloatDistribution(bounds.low, bounds.high, log=bounds.log)


def own_settings(search: Search) -> dict[str, Any] | None:
    """Return the recipe's own settings in the form of a trial, or None if one of them is outside the space."""
    settings = settings_of(search.recipe)
    own = {}
    for name, distribution in search.space.items():
        value = settings[name].value
        if isinstance(distribution, CategoricalDistribution):
            value = next(
                (text for text in distribution.choices if settings[name].checked(json.loads(str(text))) == value), None
            )
        if value is None or not _in_bounds(distribution, value):
            return None
        own[name] = value
    return own


def _in_bounds(distribution: BaseDistribution, value: Any) -> bool:
    """Return whether a value lies in a distribution; optuna itself raises for 0 on a logarithmic scale."""
    if isinstance(distribution, IntDistribution | FloatDistribution):
        return bool(distribution.low <= value <= distribution.high)
    return True


def search_on(search: Search, quiet: bool = False) -> None:
    """Run trials until their number or the time limit is reached; each is stored as soon as it ends."""
    bar = tqdm(total=search.section.trials, initial=len(search.done), unit="trial", disable=quiet, dynamic_ncols=True)
    while len(search.done) < search.section.trials and not _time_is_spent(search):
        trial = _next_trial(search)
        settings = chosen(trial.params, search.space)
        try:
            value = _run(search, trial, settings, bar)
            search.study.tell(trial, value)
        except PrunedError as pruned:
            trial.set_user_attr("reason", str(pruned))
            search.study.tell(trial, state=TrialState.PRUNED)
        except KeyboardInterrupt:
            search.study.tell(trial, state=TrialState.FAIL)
            raise
        bar.update()
        if not quiet:
            bar.write(_line(search, search.done[-1]))
    bar.close()
    shutil.rmtree(search.out / TRIAL_FOLDER, ignore_errors=True)


def _time_is_spent(search: Search) -> bool:
    limit = search.section.time_limit_minutes
    return limit is not None and sum(seconds_of(trial) for trial in search.done) >= limit * 60


def _next_trial(search: Search) -> optuna.Trial:
    """Start the next trial. The first one has the recipe's own settings.

    The sampler is seeded by the number of the trial, so that a continued search draws what an uninterrupted one would
    have drawn.
    """
    place = len(search.done)
    search.study.sampler = optuna.samplers.TPESampler(
        seed=search.section.seed * 10_007 + place, n_startup_trials=STARTUP_TRIALS
    )
    first_settings = own_settings(search) if place == 0 else None
    if first_settings is not None and not search.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        search.study.enqueue_trial(first_settings, user_attrs={"own": True})
    return search.study.ask(dict(search.space))


def _run(search: Search, trial: optuna.Trial, settings: Mapping[str, Any], bar: "tqdm[Any]") -> float:
    """Train with these settings; return the best validation score. Raises PrunedError with the reason."""

    def watch(progress: Progress, share: float) -> None:
        trial.report(progress.evaluations[-1]["score"], round(share * 100))
        _remember(trial, progress)
        bar.set_postfix_str(f"trial {len(search.done) + 1}: {share:.0%}, {progress.best_score:.5f}")
        if share < 1 and trial.should_prune():
            raise PrunedError(f"below the median of the trials before it at {share:.0%} of its steps")

    try:
        recipe = narrowed(with_settings(search.recipe, settings, "the trial"))
        data = without_test(open_data(recipe, search.cache))
        learned = learn(recipe, data, search.out / TRIAL_FOLDER, quiet=True, watch=watch, device=search.device)
    except (RecipeError, NonFiniteLossError) as error:
        raise PrunedError(str(error).partition("\n")[0]) from None
    assert learned.progress.best_score is not None
    return learned.progress.best_score


def without_test(data: Data) -> Data:
    """Return the data without the test part, so that no trial can read it."""
    return replace(data, parts={name: part for name, part in data.parts.items() if name != "test"})


def _remember(trial: optuna.Trial, progress: Progress) -> None:
    best = max(progress.evaluations, key=lambda entry: float(entry["score"]))
    trial.set_user_attr("score", best["score"])
    trial.set_user_attr("step", best["step"])
    trial.set_user_attr(
        "validation", {name: o["auc"] for name, o in best["validation"].items() if o.get("auc") is not None}
    )


def _line(search: Search, trial: FrozenTrial) -> str:
    score = trial.user_attrs.get("score")
    settings = " ".join(
        f"{name.rpartition('.')[2]}={json.dumps(value)}" for name, value in chosen(trial.params, search.space).items()
    )
    how = (
        f"pruned: {trial.user_attrs['reason']}"
        if trial.state == TrialState.PRUNED
        else f"best so far {search.study.best_value:.5f}"
    )
    parts = [*([] if score is None else [f"{score:.5f}"]), how, f"{seconds_of(trial):.0f} s; {settings}"]
    return f"trial {len(search.done)} of {search.section.trials}: {', '.join(parts)}"


def tune(
    recipe: Recipe, out: Path, *, cache: Path = DEFAULT_CACHE, quiet: bool = False, device: str = "cpu"
) -> dict[str, Any]:
    """Search a recipe's space and write the result into `out`; return the content of trials.json.

    Raises RecipeError, and OSError where the study cannot be stored.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        search = open_search(recipe, out, cache, chosen_device(device))
        search_on(search, quiet)
        searched = report(recipe, search.section, search.space, search.done)
    except Exception as error:
        reason = error_of_sqlite(error)
        if reason is None:
            raise
        raise OSError(errno.EIO, f"cannot be stored: {reason}", str(out / STUDY_FILE)) from error
    lines = write_search(searched, recipe, out)
    if not quiet:
        print("\n".join(lines))
    return searched
