"""The loss as a module."""

from __future__ import annotations

from typing import Any

import torch

from softmax_ce.torch.loss import cross_entropy


class CrossEntropyLoss(torch.nn.CrossEntropyLoss):
    """Cross-entropy between logits and labels, in place of ``torch.nn.CrossEntropyLoss``.

    Parameters
    ----------
    weight, size_average, ignore_index, reduce, reduction, label_smoothing
        The arguments of ``torch.nn.CrossEntropyLoss``.
    z_loss : float, default 0.0
        Adds ``z_loss * logsumexp**2`` to the loss of each row that counts.
    softcap : float, optional
        Replaces each logit x by ``softcap * tanh(x / softcap)``.
    backend : str, optional
        A backend of softmax_ce. If it is named, its kernels compute small calls, too.

    Notes
    -----
    The class is a subclass of PyTorch's, with the same state: checkpoints fit both.

    Examples
    --------
    >>> import torch
    >>> from softmax_ce.torch import CrossEntropyLoss
    >>> loss = CrossEntropyLoss(label_smoothing=0.1)
    >>> logits = torch.zeros(2, 4, requires_grad=True)
    >>> print(round(loss(logits, torch.tensor([0, 3])).item(), 4))
    1.3863
    """

    def __init__(
        self, weight: Any = None, size_average: bool | None = None, ignore_index: int = -100,
        reduce: bool | None = None, reduction: str = "mean", label_smoothing: float = 0.0, *,
        z_loss: float = 0.0, softcap: float | None = None, backend: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(weight, size_average, ignore_index, reduce, reduction, label_smoothing)
        self.z_loss = z_loss
        self.softcap = softcap
        self.backend = backend

    def forward(self, input: Any, target: Any, *, denominator: Any = None) -> Any:
        """Return the loss.

        Parameters
        ----------
        input : Tensor, shape (C,), (N, C) or (N, C, d1, ...)
            Logits.
        target : Tensor
            Labels of shape (), (N,) or (N, d1, ...), or probabilities of the input's shape.
        denominator : float or Tensor with one element, optional
            Divides the sum in place of the mean's own denominator, for gradient accumulation.

        Returns
        -------
        Tensor
            The loss.
        """
        return cross_entropy(
            input, target, self.weight, ignore_index=self.ignore_index, reduction=self.reduction,
            label_smoothing=self.label_smoothing, z_loss=self.z_loss, softcap=self.softcap, denominator=denominator,
            backend=self.backend,
        )  # fmt: skip
