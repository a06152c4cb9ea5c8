"""Measuring: sweeps in processes of their own, honest comparison, and what bounds a run."""
