# Copyright 2026 The modeling_mini authors.
# SPDX-License-Identifier: Apache-2.0
"""The projection to the vocabulary, and a loss that never holds all logits.

Saving a model copies every `*_mini.py` into the checkpoint, so this file imports only torch and transformers.

Shapes:
    B batch, T tokens, N = B*T rows, D hidden_size, V vocab_size.
"""

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from transformers.utils.import_utils import is_tracing


IGNORED_LABEL = -100  # the label that every transformers loss skips

# The training loss holds at most this many logits at a time: 2^23 are 32 MiB in float32.
LOGITS_PER_CHUNK = 2**23


class MiniLMHead(nn.Linear):
    """Projection to the vocabulary, which can also return the loss without ever holding all logits.

    `head(hidden_states)` returns logits `[..., T, V]`. `head(hidden_states, labels)` returns the summed negative
    log-likelihood in nats over the labels that are not -100: at most `LOGITS_PER_CHUNK` logits exist at a time. The
    chunks are computed inside this module, because FSDP, ZeRO and offloading gather a module's weight around its
    forward.
    """

    def forward(self, hidden_states: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        if labels is None:
            return super().forward(hidden_states)
        hidden_states = hidden_states.reshape(-1, self.in_features)  # [B, T, D] -> [N, D]
        labels = labels.reshape(-1).to(hidden_states.device)  # [B, T] -> [N]
        if not is_tracing(labels):  # logits are the costliest part of a small model, and most of BERT's have no label
            is_target = labels != IGNORED_LABEL
            hidden_states, labels = hidden_states[is_target], labels[is_target]
        rows = max(1, LOGITS_PER_CHUNK // self.out_features)
        device = hidden_states.device.type
        if torch.is_autocast_enabled(device):
            hidden_states = hidden_states.to(torch.get_autocast_dtype(device))
        with torch.autocast(device, enabled=False):
            return SummedNLL.apply(hidden_states, self.weight, self.bias, labels, rows, torch.is_grad_enabled())


class SummedNLL(torch.autograd.Function):
    """Negative log-likelihood of labels under a linear layer, summed in nats, a chunk of rows at a time.

    The gradient of a sum with respect to the logits depends on the logits alone. The forward pass therefore computes
    the gradients of hidden states, weight and bias as well, and the backward pass only scales them: logits are neither
    stored nor computed twice (as in Liger Kernel, Hsu et al. 2024).
    """

    @staticmethod
    def forward(ctx, hidden_states, weight, bias, labels, rows, with_gradients):
        """`hidden_states` `[N, D]`, `weight` `[V, D]`, `bias` `[V]` or None, `labels` `[N]` with -100 to skip.

        Products have the precision of `hidden_states`; chunks are summed in float32.
        """
        total = torch.zeros((), dtype=torch.float32, device=hidden_states.device)
        needed = [with_gradients and is_needed for is_needed in ctx.needs_input_grad[:3]]
        chunks, weight_gradient, bias_gradient = [], None, None
        ctx.dtypes = (hidden_states.dtype, weight.dtype, weight.dtype)
        weight, bias = weight.to(hidden_states.dtype), None if bias is None else bias.to(hidden_states.dtype)
        for hidden, targets in zip(hidden_states.split(rows), labels.split(rows), strict=True):
            nll, gradient = nll_and_gradient(hidden, weight, bias, targets, any(needed))
            total += nll
            if needed[0]:
                chunks.append(gradient @ weight)
            if needed[1]:
                if weight_gradient is None:
                    weight_gradient = (gradient.mT @ hidden).float()
                elif hidden.dtype == torch.float32:
                    weight_gradient.addmm_(gradient.mT, hidden)
                else:
                    weight_gradient += gradient.mT @ hidden
            if needed[2]:
                bias_gradient = gradient.float().sum(0) + (0 if bias_gradient is None else bias_gradient)
            del gradient  # frees the memory before the next logits are computed
        ctx.save_for_backward(torch.cat(chunks) if chunks else None, weight_gradient, bias_gradient)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, output_gradient):
        gradients = [
            None if gradient is None else (gradient * output_gradient).to(dtype)
            for gradient, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return *gradients, None, None, None


def nll_and_gradient(hidden, weight, bias, labels, with_gradient):
    """Summed negative log-likelihood in nats, and its gradient with respect to the logits `[rows, V]` or None.

    The gradient, softmax minus one-hot, overwrites the log-probabilities.
    """
    is_target = (labels != IGNORED_LABEL).unsqueeze(-1)  # [rows, 1]
    targets = labels.clamp(min=0).unsqueeze(-1)
    log_probabilities = nn.functional.linear(hidden, weight, bias).float().log_softmax(-1)  # [rows, V]
    nll = -log_probabilities.gather(-1, targets).masked_fill(~is_target, 0).sum()
    if not with_gradient:
        return nll, None
    gradient = log_probabilities.exp_()
    gradient.scatter_add_(-1, targets, gradient.new_full(targets.shape, -1))
    return nll, gradient.mul_(is_target).to(hidden.dtype)


def loss_divisor(targets: torch.Tensor, num_items_in_batch: torch.Tensor | int | None) -> torch.Tensor | int:
    """The number of targets, which are the labels that are not -100; at least 1, so that no mean is NaN.

    Under gradient accumulation, `num_items_in_batch` is the number of targets in all batches of the update.
    """
    if num_items_in_batch is None:
        num_items_in_batch = (targets != IGNORED_LABEL).sum()
    return num_items_in_batch.clamp(min=1) if torch.is_tensor(num_items_in_batch) else max(num_items_in_batch, 1)
