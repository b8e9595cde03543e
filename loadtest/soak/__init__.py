"""The soak test: traffic, events, swaps, canaries, weight changes and faults together."""
