"""The models, stored rows and requests of the benchmark."""
