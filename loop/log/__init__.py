"""The folder of the exposure log: its files, and their compaction."""
