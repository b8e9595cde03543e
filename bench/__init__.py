"""The benchmark: the CPU cost of a ranking beside the model itself, and beside what others do."""
