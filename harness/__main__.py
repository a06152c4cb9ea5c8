"""`python -m harness`: the same as the console script."""

from harness.cli.main import entry_point

entry_point()
