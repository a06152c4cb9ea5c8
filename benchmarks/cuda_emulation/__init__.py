"""The CUDA kernels of the multi-hot product, run on a CPU.

`emulation.h` stands for CUDA, so that g++ compiles the kernels' own sources; `fuzz.cc` compares
them with sums in double precision.
"""
