"""A training harness for models whose input is a set of token ids."""
