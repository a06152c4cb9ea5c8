"""Compiled programs, the state that they change, devices, evaluation, checkpoints."""
