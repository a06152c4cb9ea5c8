"""Tasks: the loss, the activation of the output, metrics and measures."""
