"""Runs the steps of a night: compact, join, verify, train, compare, export, roll out.

A run has a folder WORK/NAME. The same run, started again, skips the steps that are done and goes on with the others.
"""

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from features.files.writing import write_whole
from loop.join.join import join
from loop.log.compact import compact
from loop.log.hours import hour_files
from loop.log.sources import opened
from loop.nightly.compare import ModelComparison, compare
from loop.nightly.config import NightlyConfig
from loop.nightly.data import shuffle_labels, split_by_newest
from loop.nightly.publishing import check_tasks, export_once, give_role, live_version
from loop.nightly.report import NightlyOutcome, NightlyReport
from loop.nightly.start import DATA_FOLDER, RECIPE, RUN_FOLDER, on_new_hours, start_of
from loop.nightly.steps import FinishedStep, fingerprint_of, forget_step, only_run, read_step, run_step
from loop.proof.verify import verify, write_counts
from models.recipe import load_recipe
from models.train import train
from models.training.checkpoint import WEIGHTS_FILE
from models.training.outcome import METRICS_FILE
from service.bundle.registry import Target, folder_of
from service.rollout.trials.checks import RegistryChecks
from tables.log_records import RecordKind


def nightly(config: NightlyConfig, name: str, checks: RegistryChecks, control: bool = False) -> NightlyReport:
    """Run, or continue, the run `name`, and write its report. A refusal is an outcome; errors are raised.

    `control` trains on shuffled labels in a folder of its own and publishes nothing: the comparison must refuse it.
    """
    folder = config.work / (f"{name}-control" if control else name)
    with only_run(folder):
        report = NightlyReport(name, control)
        try:
            _Night(config, folder, report, checks, control).run()
        except KeyboardInterrupt:
            report.end(NightlyOutcome.INTERRUPTED, "the same command goes on with the next step")
            raise
        except Exception as error:
            report.end(NightlyOutcome.FAILED, str(error))
            raise
        finally:
            report.write(folder)
    return report


class _Night:
    """The steps of one run; each takes the former ones it depends on."""

    def __init__(
        self, config: NightlyConfig, folder: Path, report: NightlyReport, checks: RegistryChecks, control: bool
    ) -> None:
        self._config = config
        self._folder = folder
        self._report = report
        self._checks = checks
        self._control = control

    def run(self) -> None:
        report = self._report
        report.begin("configuration")
        check_tasks(self._config.registry, self._config.publish.line, self._config.compare.margins)
        if read_step(self._folder, "join") is None:
            forget_step(self._folder, "compact")  # a join that failed is done again with all that was logged since
        joined = self._join(self._compact())
        verified = self._verify(joined)
        if verified is not None and verified.result["skews"]:
            names = ", ".join(sorted(verified.result["skews"]))
            return report.end(NightlyOutcome.REFUSED, f"serving and training differ: {names}")
        trained = self._train(joined)
        compared = self._compare(trained)
        refusals = compared.result["refusals"]
        if self._control:
            refused = "; ".join(refusals)
            if refusals:
                return report.end(
                    NightlyOutcome.CONTROL_REFUSED, f"the model of shuffled labels was refused: {refused}"
                )
            return report.end(NightlyOutcome.CONTROL_PASSED, "the comparison would publish a model of shuffled labels")
        if refusals:
            return report.end(NightlyOutcome.REFUSED, "; ".join(refusals))
        # The model is good enough.
        exported = self._export(trained, compared)
        target = Target(**exported.result["target"])
        if compared.result["live"] == "none":
            return report.end(NightlyOutcome.EXPORTED, f"{target}: no version is live; start with `funnelrank rollout`")
        self._roll_out(exported, target)
        return report.end(NightlyOutcome.PUBLISHED, f"{target} is {self._config.publish.role}")

    def _step(self, name: str, inputs: object, work: Any, output: Path | None = None) -> FinishedStep:
        self._report.begin(name)
        done = run_step(self._folder, name, inputs, work, output)
        self._report.steps.append(done)
        return done

    def _compact(self) -> FinishedStep:
        config = self._config
        keep_hours = config.keep_days and config.keep_days * 24
        keep_bytes = None if config.keep_gb is None else int(config.keep_gb * 1e9)

        def work() -> Mapping[str, Any]:
            with opened(config.source) as source:
                done = compact(config.log, keep_hours, keep_bytes, source)
            return {
                "files": done.files,
                "records": {kind.value: count for kind, count in done.rows.items()},
                "in_use": len(done.in_use),
                "faulty": [f"{check.path}: {check.problem}" for check in done.faulty],
                "removed_hours": done.removed,
            }

        inputs = [config.log, keep_hours, keep_bytes, *filter(None, [config.source])]
        return self._step("compact", inputs, work)

    def _join(self, compacted: FinishedStep) -> FinishedStep:
        config = self._config
        split = [config.compare.newest_h, config.compare.min_impressions]
        inputs = [
            compacted.fingerprint,
            compacted.result,
            load_recipe(config.recipe, config.train.set).model_dump(mode="json"),
            [config.model, config.memory_mb, split, self._control],
        ]
        out = self._folder / DATA_FOLDER

        def work() -> Mapping[str, Any]:
            recipe = load_recipe(config.recipe, config.train.set)
            (self._folder / RECIPE).unlink(missing_ok=True)
            joined = join(config.log, recipe, out, config.model, config.memory_mb)
            parts = split_by_newest(out, self._folder / RECIPE, config.compare)
            if self._control:
                shuffle_labels(out, load_recipe(self._folder / RECIPE))
            return asdict(joined) | {"parts": parts}

        return self._step("join", inputs, work, self._folder / RECIPE)

    def _verify(self, joined: FinishedStep) -> FinishedStep | None:
        config = self._config
        section = config.verify
        if not section.share:
            return None

        def work() -> Mapping[str, Any]:
            hours = [path.parent.name for path in hour_files(config.log, RecordKind.EXPOSURES)]
            newest = set(hours[-section.newest_h :])
            done = verify(config.log, config.registry, section.tables, section.share, newest)
            write_counts(config.log, done)
            result = asdict(done)
            for skew in result["skews"].values():
                del skew["example"]  # it names users, and `forget-user` does not search the folder of a run
            return result

        return self._step("verify", [joined.fingerprint, section.model_dump(mode="json")], work)

    def _train(self, joined: FinishedStep) -> FinishedStep:
        start = start_of(self._folder, self._config, joined, self._control)
        inputs = [joined.fingerprint, joined.result, _hash_of(self._folder / RECIPE), start]
        run = self._folder / RUN_FOLDER

        def work() -> Mapping[str, Any]:
            if self._config.train.threads:
                torch.set_num_threads(self._config.train.threads)
            # An interrupted training of the same inputs goes on from its checkpoint.
            begun = self._folder / "train.inputs"
            fingerprint = fingerprint_of(inputs).encode()
            if not begun.exists() or begun.read_bytes() != fingerprint:
                shutil.rmtree(run, ignore_errors=True)
                write_whole(begun, fingerprint)
            recipe = load_recipe(self._folder / RECIPE)
            former = self._config.work / start["run"] / RUN_FOLDER if "run" in start else None
            if former is not None:
                recipe = on_new_hours(recipe, former)
            cache = self._folder / "cache"
            on = self._config.train.device
            metrics = train(recipe, run, resume=True, cache=cache, reading_steps=0, quiet=True, start=former, device=on)
            return {
                "started_from": None if former is None else start,
                "cold": start.get("cold", ""),
                "checkpoint_sha256": _hash_of(run / WEIGHTS_FILE),
                "data": metrics["data"]["hash"],
                "rows": metrics["parts"]["train"]["impressions"],
                "best": metrics["best"],
                "warnings": metrics["warnings"],
            }

        return self._step("train", inputs, work, run / METRICS_FILE)

    def _compare(self, trained: FinishedStep) -> FinishedStep:
        config = self._config
        live = live_version(config.registry, config.publish.line)
        former = read_step(self._folder, "compare")
        exported = read_step(self._folder, "export")
        if live is not None and former is not None and exported is not None:
            # This night's version became live: the run keeps its comparison with the one before.
            before = former.result["live"]
            if Target(**exported.result["target"]) == live and before not in ("none", str(live)):
                name, _, version = before.partition("/")
                live = Target(name=name, version=version)

        def work() -> Mapping[str, Any]:
            cache = self._folder / "cache"
            done: ModelComparison = compare(
                config.log, config.registry, live, self._folder / RUN_FOLDER, cache, config.compare
            )
            return asdict(done) | {"refusals": done.refusals}

        inputs = [trained.fingerprint, str(live), config.compare.model_dump(mode="json")]
        return self._step("compare", inputs, work)

    def _export(self, trained: FinishedStep, compared: FinishedStep) -> FinishedStep:
        config = self._config
        origin = {
            "run": self._report.name,
            "trained": trained.fingerprint,
            "checkpoint_sha256": trained.result["checkpoint_sha256"],
            "started_from": trained.result["started_from"],
            "compared_with": compared.result["live"],
        }
        known = read_step(self._folder, "export")
        output = folder_of(config.registry, Target(**known.result["target"])) if known is not None else None

        def work() -> Mapping[str, Any]:
            run = self._folder / RUN_FOLDER
            target = export_once(self._folder, run, config.registry, config.publish.sign_with, origin)
            return {"target": target.model_dump()}

        return self._step("export", [trained.fingerprint, compared.fingerprint], work, output)

    def _roll_out(self, exported: FinishedStep, target: Target) -> FinishedStep:
        section = self._config.publish

        def work() -> Mapping[str, Any]:
            return give_role(self._checks, target, section, f"nightly run {self._report.name}")

        return self._step("rollout", [exported.fingerprint, str(target), section.model_dump(mode="json")], work)


def _hash_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
