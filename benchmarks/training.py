"""The network that benchmarks train."""

from benchmarks.peers.protocol import DROPOUT, HIDDEN_UNITS, NUM_TOKENS
from harness.base.quiet import quiet_import

with quiet_import():
    from harness.model.network import DefaultNetwork

tutorial_network = DefaultNetwork(
    hidden_units=HIDDEN_UNITS, dropout=DROPOUT, num_tokens=NUM_TOKENS, num_classes=2
)
"""The network of `harness train`, in the tutorial's sizes: 505,201 parameters."""
