"""Builds data sets of texts, tokens or ids: numbers their tokens in blocks, and writes a store."""
