"""The options of every command. A module here imports the rest lazily, so that help is fast and needs no torch."""
