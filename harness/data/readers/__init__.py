"""Readers, one file for each kind of source, that turn texts, tokens or ids into blocks of rows."""
