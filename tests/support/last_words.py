"""What PyTorch and CUDA say at the end, and whose fault it is."""

# By the first lines of the exception; None where it is the program's own.
WORDS = {
    "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity": "OUT_OF_MEMORY",
    "CUDA error: out of memory\nCUDA kernel errors might be asynchronous": "OUT_OF_MEMORY",
    "MPS backend out of memory (MPS allocated: 1 GB)": "OUT_OF_MEMORY",
    "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried": "OUT_OF_MEMORY",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`": "OUT_OF_MEMORY",
    "CUDA error: unspecified launch failure\nCUDA kernel errors might be": "DRIVER",
    "CUDA error: uncorrectable ECC error encountered": "DRIVER",
    "No CUDA GPUs are available": "DRIVER",
    "Unexpected error from cudaGetDeviceCount(). Error 100: no CUDA-capable device": "DRIVER",
    "CUDA driver version is insufficient for CUDA runtime version": "DRIVER",
    "Found no NVIDIA driver on your system. Please check": "DRIVER",
    "CUDA error: device-side assert triggered\nCompile with `TORCH_USE_CUDA_DSA`": None,
    "CUDA error: an illegal memory access was encountered": None,
    "CUDA error: invalid device ordinal": None,
    "mat1 and mat2 shapes cannot be multiplied": None,
}
