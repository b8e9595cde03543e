"""HTTP in, HTTP out: checks requests and writes responses."""
