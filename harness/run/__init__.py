"""A run, as it is recorded: its folder, its records and who is told of them."""
