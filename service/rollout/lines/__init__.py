"""The lines of the rollout document: how one is read, changed and rolled back without touching the others."""
