"""A device that says it is `cuda:0` and computes on the processor: what a training asks of a GPU shows without one.

A `DeviceTensor` holds a tensor of the processor. All operations on it come to `Gpu.run`, through its class; those that
make a tensor there (`torch.zeros(3, device="cuda")`, `.to("cuda")`) have no such tensor yet and come through the mode
`OnDevice`. `CudaIsFirst` stands before both and puts `cuda:0` for `cuda`, as torch would ask CUDA for the number. To
torch's C++ these tensors are on `meta`: it has no kernels to run by mistake and, unlike `cuda`, asks no driver.

What shows:
- operations over two devices, and fused updates of tensors with other strides, are errors;
- what the host waits for (values that Python or the shape of a result needs, copies that block) is an error in a
  capture;
- copies that nothing waits for, which must be of pinned memory, end late: their target holds rubbish until something
  waits, and their source may not change before;
- a capture records operations with the memory of then and undoes what it did; a replay does them again, without Python;
- its random numbers are its own, and wait for a state of their own after a capture that broke off.

Not simulated: CUDA's own kernels and their order of summing, several streams at once, the thread of its own that
backward has on a GPU, autocast, the allocator. Stricter than CUDA: pinned copies in a capture are errors too.
"""

from simulated_cuda.device import Gpu
from simulated_cuda.install import simulated
from simulated_cuda.tensor import CUDA, DeviceTensor

__all__ = ["CUDA", "DeviceTensor", "Gpu", "simulated"]
