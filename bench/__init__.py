"""The benchmark: compares the CPU cost of a ranking with the model alone, an empty route and a plain FastAPI server."""
