"""Large tables: the tensors that lie in a file beside the graph, and the lookup of keys in them."""
