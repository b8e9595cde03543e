"""The checks on answers and the measurements of a phase."""
