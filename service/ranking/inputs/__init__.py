"""The inputs of the graph for one request: rows of the store, of the request, and numbers of counters."""
