"""The exit codes of every command, and the mapping from errors to exit codes."""

from enum import IntEnum


class ExitCode(IntEnum):
    """The exit codes of the commands."""

    DONE = 0
    FAILED = 1  # refused or failed, with a message
    USAGE = 2  # the command line itself is wrong
    INTERRUPTED = 3  # Ctrl-C; the message says how to go on


class CommandError(Exception):
    """A command that cannot be done as given; the message says why."""


# Package and name of each error class, so that this table imports neither torch nor onnxruntime. A subclass counts as
# its base class. Errors that are not listed are bugs and end with a traceback.
REFUSALS = frozenset(
    {
        ("builtins", "OSError"),
        ("batch", "BatchError"),
        ("bench", "ScaleError"),
        ("export", "ParityError"),
        ("export", "PublishError"),
        ("export", "ReductionError"),
        ("funnelrank", "CommandError"),
        ("loop", "LogError"),
        ("loadtest", "CallError"),
        ("loadtest", "TargetError"),
        ("loadtest", "WorkloadError"),
        ("models", "NonFiniteLossError"),
        ("models", "PathsError"),
        ("models", "ProcessesError"),
        ("models", "RecipeError"),
        ("models", "ReplayError"),
        ("models", "RunError"),
        ("models", "VectorsError"),
        ("redis", "RedisError"),
        ("service", "BundleRejected"),
        ("service", "CannotStart"),
        ("service", "DocumentUnreadable"),
        ("service", "DocumentError"),
        ("service", "LoadError"),
        ("service", "RolloutUnreadable"),
        ("service", "SampleError"),
        ("service", "ServiceError"),
        ("service", "SettingsError"),
        ("tables", "TableError"),
        ("torch", "OnnxExporterError"),
    }
)


def is_refusal(error: BaseException) -> bool:
    """Return whether a command reports an error in one line, without a traceback."""
    names = {(kind.__module__.partition(".")[0], kind.__name__) for kind in type(error).__mro__}
    return not names.isdisjoint(REFUSALS)


# The extra of the project that installs a package.
EXTRAS = {
    "duckdb": "loop",
    "gensim": "vectors",
    "gevent": "loadtest",
    "locust": "loadtest",
    "jinja2": "train",
    "matplotlib": "train",
    "onnx": "train",
    "onnxscript": "train",
    "optuna": "train",
    "pandas": "train",
    "ray": "ray",
    "sklearn": "train",
    "torch": "train",
}
# Packages of this project that an installation may lack: the image has only the service, the wheel lacks the benchmark.
OPTIONAL = ("batch", "bench", "export", "loadtest", "loop", "models")


def missing_part(error: ModuleNotFoundError) -> str | None:
    """Return a message that says what to install; None if the missing package belongs to every installation."""
    package = (error.name or "").partition(".")[0]
    if package in EXTRAS:
        return f"{package} is not installed; pip install 'funnelrank[{EXTRAS[package]}]'"
    if package in OPTIONAL:
        return f"this installation has no {package}/; run the command in a checkout of the repository"
    return None
