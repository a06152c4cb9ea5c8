"""Devices and strategy, the compiled step and its N-step dispatch, checkpoints."""
