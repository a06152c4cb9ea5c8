"""Several processes that train one model: their identities, their meeting, and their agreement."""
