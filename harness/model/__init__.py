"""Models: layers, the default network, precision, memory budgets, files, and export."""
