"""Follows the documents of a registry in one worker: loads, swaps and withdraws versions."""
