"""Observers of a run and what they write: console, files, TensorBoard, profiles."""
