"""Those who receive a run's records: console, JSONL, TensorBoard."""
