"""The exposure log: what was ranked, shown and done, written by a thread of each worker."""
