"""A page about a run: what was trained, how it went, and how good its predictions are."""
