"""Decides which versions are live: the rollout document, each worker's follower, the checks on a new version."""
