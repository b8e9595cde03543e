"""Says why the place of an item changed between two logged requests: exact Shapley shares of four factors."""
