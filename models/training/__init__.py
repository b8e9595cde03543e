"""The training loop and its parts: optimisation, evaluation, selection, checkpoints, diagnostics."""
