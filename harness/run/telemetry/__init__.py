"""Telemetry: metrics of the GPUs and the host, sampled in the background while a run trains."""
