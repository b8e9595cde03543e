"""Makes the canonical tables that training and the load read from the original files of public data sets."""
