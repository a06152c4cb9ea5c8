"""Layers, the network, precision."""
