"""Plans a service of any size from figures that were measured on one machine, and simulates its serving tier."""
