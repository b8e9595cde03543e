"""Programs for contributors: the shape of the code, and what `make test-tools` installs."""
