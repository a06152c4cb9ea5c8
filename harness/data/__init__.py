"""Reads files and texts into `RaggedSets`, which are validated once."""
