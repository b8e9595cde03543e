"""One model version: its manifest, its checks, and the bundle in memory."""
