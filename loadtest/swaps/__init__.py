"""Version swaps under load and their cost."""
