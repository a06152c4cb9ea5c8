"""Clients of the trainer: benchmark, search and report."""
