"""A CUDA device in the host's memory, on which TensorFlow's own GPU runtime runs.

One library takes the names of NVIDIA's: the driver (`driver.cc`, `streams.cc`, `modules.cc`,
`blocks.cc`), CUDA's runtime (`runtime.cc`), the functions of cuBLAS, cuDNN, NCCL and NVRTC that are
called (`libraries.cc`), and NVML (`nvml.cc`, which other tests use alone). `ptx.py` translates
kernels to C, which GCC compiles. `device.py` builds everything and makes the environment of a
process on the device; `trainings.py` trains there and compares with a CPU.

Every stream is a thread; blocks, warps and lanes run in an order that follows from a seed; new
memory of the device holds NaN. Not emulated: speed, cuDNN, CUPTI, NCCL between processes, Triton,
tensor cores.
"""
