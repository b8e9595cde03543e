"""CPU time, load and servers of the benchmark."""
