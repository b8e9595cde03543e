"""Updates the weights: the optimiser, the rules for rows of tables, and the average over steps."""
