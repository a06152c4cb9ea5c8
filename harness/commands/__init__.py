"""Where all rooms meet: one module for each command of the CLI."""
