"""Faults made on purpose: kills and errors at every call that changes a file, hostile input."""
