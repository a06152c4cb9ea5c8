"""Readers, one file for each format, that turn texts, tokens or ids into blocks of rows."""
