"""Deliberate faults: kills and errors at every call that changes a file, and hostile input."""
