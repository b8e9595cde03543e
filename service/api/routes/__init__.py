"""The routes: one file per route, with its request and response models."""
