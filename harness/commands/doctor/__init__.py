"""`harness doctor`: what this machine can do for a run, each line with OK or the remedy."""
