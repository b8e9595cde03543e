"""Writes the help on the settings from their definitions."""

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from features.nearest import near_names
from service.setting_values import TraceSettings
from service.settings import PREFIX, Settings, variable_of


def described() -> str:
    """Return one line per setting for `--help`: variable, default, unit, description, bounds."""
    lines = []
    # The traces' settings last, which the model inherits.
    fields = sorted(Settings.model_fields.items(), key=lambda named: named[0] in TraceSettings.model_fields)
    for name, field in fields:
        variable = variable_of(name)
        extra = field.json_schema_extra
        unit = extra.get("unit") if isinstance(extra, dict) else ""
        lines.append(f"  {variable:<33}{_default_of(field):<26}[{unit}] {field.description}{_bounds_of(field)}")
    return "\n".join(lines)


def _default_of(field: FieldInfo) -> str:
    """Return the default in the form of the environment; no secret has a default."""
    default = field.default.get_secret_value() if isinstance(field.default, SecretStr) else field.default
    if isinstance(default, tuple):
        return ",".join(default)
    if isinstance(default, bool):
        return str(default).lower()
    return "" if default is None else str(default)


def _bounds_of(field: FieldInfo) -> str:
    """The bounds of a number, in words."""
    lowest = next((bound.ge for bound in field.metadata if hasattr(bound, "ge")), None)
    highest = next((bound.le for bound in field.metadata if hasattr(bound, "le")), None)
    return "" if lowest is None else f" ({lowest} to {highest})"


def unknown_variable(variable: str) -> str:
    """Return the message about a variable that is no setting."""
    # Without the prefix, which would make all of them resemble one another.
    names = [name.upper() for name in Settings.model_fields]
    near = near_names(variable.partition("_")[2], names)
    advice = f"did you mean {PREFIX}{near[0]}?" if near else "funnelrank serve --help lists them"
    return f"{variable} is no setting of this service; {advice}"
