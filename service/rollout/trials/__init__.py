"""Tries versions and documents before they take traffic: the gate, trial rankings, checks of a change."""
