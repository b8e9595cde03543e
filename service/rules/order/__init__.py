"""The order of one list by bound rules: filters, diversity, and the search for the best order that holds."""
