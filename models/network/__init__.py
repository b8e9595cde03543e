"""The network of a recipe: embeddings, encoders, trunk, towers, task structures and calibration."""
