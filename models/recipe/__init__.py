"""The recipe: the YAML file that says what a model reads, predicts, is made of, and how it is trained."""
