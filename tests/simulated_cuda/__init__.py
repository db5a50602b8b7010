"""A GPU that is simulated on the processor, for tests of what a training does to it."""

from simulated_cuda.device import CUDA, DeviceTensor, Gpu, gpu
from simulated_cuda.install import simulated

__all__ = ["CUDA", "DeviceTensor", "Gpu", "gpu", "simulated"]
