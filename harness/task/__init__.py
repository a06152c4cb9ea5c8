"""What labels mean: loss, activation of the output, metrics and measures."""
