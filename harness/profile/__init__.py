"""What a profile says: read through xprof, divided into the parts of a step, printed."""
