"""A search for the settings that do best on validation rows, with Optuna."""
