"""The CUDA kernels of `native`: compiled by NVRTC for the GPU at hand, called through XLA."""
