"""The `funnelrank` command. The version of the project is written here and nowhere else."""

__version__ = "0.2.0"
