"""Readers: one file a format, from a source of texts, tokens or ids to blocks of its rows."""
