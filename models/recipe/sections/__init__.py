"""The sections of a recipe: `data`, `model`, `training` and `tuning`, one file each."""
