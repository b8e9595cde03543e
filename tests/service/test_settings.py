"""Tests the settings: environment, defaults, units, bounds, errors."""

import pytest

from service.settings import Settings, SettingsError, unknown_variables, variable_of
from service.settings_help import described, unknown_variable


def test_every_setting_has_a_default_a_unit_and_a_meaning() -> None:
    text = described()
    for name in Settings.model_fields:
        line = next(one for one in text.splitlines() if f"{variable_of(name)} " in one)
        assert "[" in line
        assert "]" in line


def test_settings_come_from_the_environment() -> None:
    settings = Settings.from_environment(
        {"FUNNELRANK_WORKERS": "3", "FUNNELRANK_FUSION_OVERRIDES": "true", "FUNNELRANK_PORT": " 9000 "}
    )
    assert (settings.workers, settings.fusion_overrides, settings.port) == (3, True, 9000)


def test_bad_values_are_named_by_variable() -> None:
    with pytest.raises(SettingsError) as error:
        Settings.from_environment({"FUNNELRANK_WORKERS": "many", "FUNNELRANK_PORT": "70000"})
    assert "FUNNELRANK_WORKERS" in str(error.value)
    assert "FUNNELRANK_PORT" in str(error.value)
    assert "many" in str(error.value)


@pytest.mark.parametrize(("given", "refusal"), [("50", "0 or at least 100"), ("-1", "greater"), ("700000", "less")])
def test_a_bound_on_replicas_that_cannot_be_kept_is_refused(given: str, refusal: str) -> None:
    with pytest.raises(SettingsError, match=f"FUNNELRANK_REDIS_REPLICA_LAG_MS: .*{refusal}.*{given}"):
        Settings.from_environment({"FUNNELRANK_REDIS_REPLICA_LAG_MS": given})
    assert Settings.from_environment({"FUNNELRANK_REDIS_REPLICA_LAG_MS": "100"}).redis_replica_lag_ms == 100


def test_secrets_show_up_in_no_text() -> None:
    settings = Settings.from_environment(
        {"FUNNELRANK_ADMIN_TOKEN": "hush", "FUNNELRANK_REDIS_URL": "redis://me:hush@host/0"}
    )
    assert "hush" not in repr(settings)
    assert "hush" not in settings.model_dump_json()


def test_a_misspelt_variable_is_found() -> None:
    assert unknown_variables({"FUNNELRANK_WORKER": "2", "FUNNELRANK_WORKERS": "2", "HOME": "/"}) == [
        "FUNNELRANK_WORKER"
    ]


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("ranker", False)],
)
def test_loopback_is_known(host: str, loopback: bool) -> None:
    assert Settings.from_environment({"FUNNELRANK_HOST": host}).on_loopback is loopback


def test_bounds_stand_in_the_help() -> None:
    line = next(line for line in described().splitlines() if "FUNNELRANK_PORT " in line)
    assert line.endswith("(1 to 65535)")


def test_a_misspelt_variable_is_told_with_the_nearest() -> None:
    environment = {"FUNNELRANK_REDIS_ULR": "x", "FUNELRANK_PORT": "1", "FUNNELRANK_QQQ": "1", "PORT": "1", "TERM": "x"}
    assert [unknown_variable(v) for v in unknown_variables(environment)] == [
        "FUNELRANK_PORT is no setting of this service; did you mean FUNNELRANK_PORT?",
        "FUNNELRANK_QQQ is no setting of this service; funnelrank serve --help lists them",
        "FUNNELRANK_REDIS_ULR is no setting of this service; did you mean FUNNELRANK_REDIS_URL?",
    ]
