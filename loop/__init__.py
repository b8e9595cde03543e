"""The loop: from the log of rankings, impressions and events to the next model."""
