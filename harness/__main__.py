"""`python -m harness`: the same as the console script."""

from harness.cli.main import entry_point

if __name__ == "__main__":  # a spawned process imports this module under another name
    entry_point()
