"""The nightly run: from the exposure log to a compared, exported and rolled out model."""
