"""Turns examples into batches of fixed shape: their order, their capacity, and their transport."""
