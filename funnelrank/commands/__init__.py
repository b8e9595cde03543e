"""The commands with their options. Their modules import the rest lazily, so that help is fast and needs no torch."""
