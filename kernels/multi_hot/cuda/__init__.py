"""The CUDA kernels of `native`: compiled by NVRTC for the GPU at hand, called through XLA.

Importing this compiles and loads nothing, not even TensorFlow.
"""
