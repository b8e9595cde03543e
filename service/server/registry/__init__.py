"""Keeps this host's copy of a registry in an object store up to date, in a process of its own."""
