"""Item vectors that skip-gram learns from behaviour sequences, as a column of the items table."""
