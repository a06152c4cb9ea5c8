"""Data sets of texts, tokens or ids: tokenized block by block, numbered, and written as a store."""
