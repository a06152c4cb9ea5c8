"""`native`: C++ kernels that XLA calls inside the compiled program, built on this machine."""
