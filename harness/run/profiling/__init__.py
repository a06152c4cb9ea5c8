"""Profiles: some steps of a run under TensorFlow's profiler, and where their time goes."""
