"""Binds the derivative to the product, apart from the math of each implementation.

For y = M W with the multi-hot matrix M of the sets, dW = M^T dy; M is a constant of the ids.
"""

from __future__ import annotations

from typing import Any, Protocol

import tensorflow as tf

from kernels.multi_hot.problem import Problem

Tensor = Any


class Product(Protocol):
    """What a module must hold to be an implementation."""

    def index(self, problem: Problem) -> Any:
        """Return what forward and backward share, computed once per batch."""

    def forward(self, table: Tensor, index: Any) -> Tensor:
        """Return y [B, H] from table [V, H]."""

    def backward(self, dy: Tensor, index: Any) -> Tensor:
        """Return dW [V, H] from dy [B, H]."""


def differentiable(product: Product, table: Tensor, problem: Problem) -> Tensor:
    """Return y [B, H] of `product`, with its backward function as the gradient to `table`."""
    # The scopes name the operations in a profile; a gradient's would otherwise stand outside all.
    with tf.name_scope("multi_hot_index"):
        index = product.index(problem)

    @tf.custom_gradient
    def bound(table: Tensor) -> Any:
        def gradient(dy: Tensor) -> Tensor:
            with tf.name_scope("multi_hot_backward"):
                return product.backward(dy, index)

        with tf.name_scope("multi_hot_forward"):
            # Without the stop, an eager tape would also record what happens inside forward.
            return product.forward(tf.stop_gradient(table), index), gradient

    return bound(table)
