"""What the machine is and does: host facts now, GPU sampling beside them."""
