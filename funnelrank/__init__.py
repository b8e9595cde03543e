"""The `funnelrank` command. The version of the project is written here only."""

__version__ = "0.2.0"
