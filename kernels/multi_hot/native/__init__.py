"""`native`: C++ kernels that XLA calls inside the compiled program, built on this machine.

Importing this compiles and loads nothing, not even TensorFlow; `product` does.
"""
