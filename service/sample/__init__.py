"""The sample that `make run` serves, with an embedded Redis."""
