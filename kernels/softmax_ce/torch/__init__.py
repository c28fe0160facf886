"""Cross-entropy for PyTorch: a function and a module that take the place of PyTorch's own on CPU tensors.

>>> from softmax_ce.torch import CrossEntropyLoss, cross_entropy  # doctest: +SKIP

They take PyTorch's arguments and return its results, loss and gradient from one fused call. They also take `z_loss`,
`softcap` and `denominator`, which PyTorch lacks.

PyTorch's own function computes calls that the kernels do not: tensors on other devices, tensor subclasses, calls inside
``torch.func`` transforms, forward-mode derivatives, and small calls, for which Python's overhead would cost more
than the kernels save.
"""

from softmax_ce.torch.buffers import release_buffers
from softmax_ce.torch.linear import linear_cross_entropy
from softmax_ce.torch.loss import cross_entropy
from softmax_ce.torch.module import CrossEntropyLoss
from softmax_ce.torch.parallel import vocab_parallel_cross_entropy

__all__ = [
    "CrossEntropyLoss",
    "cross_entropy",
    "linear_cross_entropy",
    "release_buffers",
    "vocab_parallel_cross_entropy",
]
