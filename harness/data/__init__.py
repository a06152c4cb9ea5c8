"""Files and text become `RaggedSets`, validated once, here. NumPy and the standard library only."""
