"""Files: written whole or not at all; JSON and YAML read strictly."""
