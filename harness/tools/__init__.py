"""Clients of the trainer: experiments, the recipe, benchmark, search and report."""
