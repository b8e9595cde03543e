"""Makes canonical tables, which training and the load read, from the original files of public data sets."""
