"""Several processes that train one model: who they are, how they connect, what they agree on."""
