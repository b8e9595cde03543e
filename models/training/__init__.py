"""The training loop and its pieces: optimisation, evaluation, selection, checkpoints, diagnostics."""
