"""The addresses that settings name: of a registry, an exposure log, Redis, and a feature store."""
