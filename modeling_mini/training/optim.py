"""The optimizers that `--optimizer` offers, and Muon.

To add an optimizer, write a class like `TrainerOptimizer` and add it to `OPTIMIZERS`. Muon in a Trainer of your own:

    Trainer(..., optimizer_cls_and_kwargs=(MuonAdamWFactory, {"muon_learning_rate": 0.02, "learning_rate": 3e-3}))
"""

import os
from collections import defaultdict
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor

from ..errors import UserError


if TYPE_CHECKING:
    from .arguments import MiniTrainingArguments


# Coefficients of successive quintic iterations (Polar Express, Amsel et al. 2025). Each row is optimal for the range
# of singular values after the previous rows; the first range is 0.001 to 1.
QUINTICS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
)
# Margin for rounding: without it, a singular value slightly above the range would grow with each iteration.
CUSHION = 1.01

# Matrices of one shape are gathered from other devices and stacked, up to this many elements at a time.
MATRIX_ELEMENTS = 2**26


def orthogonalize(matrices: torch.Tensor) -> torch.Tensor:
    """Approximate nearest semi-orthogonal matrices: singular values between 0.4 and 1.6. `[N, R, C]` -> `[N, R, C]`.

    The Newton-Schulz iteration of Muon (Jordan et al. 2024) with other coefficients, batched over N matrices of one
    shape. Singular values below 0.001 of the norm become smaller than 0.4. Computes in bfloat16 on an accelerator, and
    in float32 on a CPU, because many CPUs emulate bfloat16 products slowly.
    """
    x = matrices.float() if matrices.device.type == "cpu" else matrices.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x  # the Gram matrix of the shorter side is the smaller one
    x = x / (CUSHION * x.norm(dim=(-2, -1), keepdim=True)).clamp(min=1e-7)
    for a, b, c in QUINTICS:
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b / CUSHION**3, alpha=c / CUSHION**5)
        x = torch.baddbmm(x, polynomial, x, beta=a / CUSHION)
    return (x.mT if tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum with orthogonalised updates, for matrices between hidden layers (Jordan et al. 2024).

    The update has the scale of `torch.optim.Muon` with `adjust_lr_fn="original"`: sqrt(max(1, rows / columns)).
    `torch.optim.Muon` orthogonalises one matrix at a time and always in bfloat16; this class batches equal shapes and
    computes in float32 on a CPU. If matrices are sharded over devices, each device gathers several updates at a time
    and orthogonalises the whole matrices: the work is repeated on every device.
    """

    def __init__(self, params, lr: float = 0.02, momentum: float = 0.95, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            by_shape = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for shape, parameters in by_shape.items():
                count = max(1, MATRIX_ELEMENTS // shape.numel())
                for start in range(0, len(parameters), count):
                    self._update(parameters[start : start + count], group)
        return loss

    def _update(self, parameters: list[nn.Parameter], group: dict) -> None:
        """One step for matrices of one shape; for sharded matrices, that is the shape of the whole matrix."""
        if parameters[0].ndim != 2:
            raise UserError(
                "Muon orthogonalises matrices, but was given flat parts of them (by DeepSpeed, or by FSDP 1); train "
                "with --optimizer adamw, or shard the model with FSDP2."
            )
        grads = [parameter.grad for parameter in parameters]
        buffers = []
        for parameter in parameters:
            state = self.state[parameter]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(parameter)
            buffers.append(state["momentum_buffer"])
        torch._foreach_lerp_(buffers, grads, 1 - group["momentum"])
        updates = torch._foreach_lerp(grads, buffers, group["momentum"])  # Nesterov
        rows, columns = parameters[0].shape
        step_size = group["lr"] * max(1, rows / columns) ** 0.5
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        directions = orthogonalize(torch.stack([whole(update) for update in updates])).unbind()
        torch._foreach_add_(parameters, list(map(sharded_like, directions, parameters)), alpha=-step_size)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Gather a matrix that is sharded over devices (FSDP2, tensor parallelism); return other matrices unchanged."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def sharded_like(tensor: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """The shard of a whole matrix that corresponds to this device's shard of the parameter."""
    if not isinstance(parameter, DTensor):
        return tensor
    return distribute_tensor(tensor, parameter.device_mesh, parameter.placements, src_data_rank=None)


class MuonAdamW(torch.optim.Optimizer):
    """`Muon` and `torch.optim.AdamW` behind one set of parameter groups and one state.

    Schedulers, checkpoints and resuming see an ordinary optimizer.
    """

    def __init__(self, muon: Muon, adamw: torch.optim.AdamW):
        self.parts = (muon, adamw)
        super().__init__([*muon.param_groups, *adamw.param_groups], defaults={})
        self._share()

    def _share(self) -> None:
        """Give both parts this optimizer's groups and state."""
        muon, adamw = self.parts
        count = len(muon.param_groups)
        muon.param_groups, adamw.param_groups = self.param_groups[:count], self.param_groups[count:]
        muon.state = adamw.state = self.state

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict(state_dict)
        self._share()

    def step(self, closure=None):
        muon, adamw = self.parts
        loss = muon.step(closure)  # runs the closure once; both parts use its gradients
        adamw.step()
        return loss


class MuonAdamWFactory:
    """For `Trainer(optimizer_cls_and_kwargs=...)`: the Trainer calls `MuonAdamWFactory()(model, **kwargs)`."""

    def __call__(
        self,
        model: nn.Module,
        muon_learning_rate: float = 0.02,
        muon_momentum: float = 0.95,
        learning_rate: float = 3e-3,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> MuonAdamW:
        """Both learning rates are peaks of the same schedule; weight decay applies only to matrices.

        AdamW (Loshchilov & Hutter 2019) trains embeddings, the output head, biases and norms.

        Raises:
            UserError: the model has no hidden matrix to train.
        """
        hidden, tables, vectors = split_parameters(model)
        if not hidden:
            raise UserError("The model has no trainable matrix in its layers for Muon; train with --optimizer adamw.")
        muon = Muon(hidden, lr=muon_learning_rate, momentum=muon_momentum, weight_decay=weight_decay)
        groups = [{"params": tables, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        adamw = torch.optim.AdamW([g for g in groups if g["params"]], lr=learning_rate, betas=betas, eps=eps)
        return MuonAdamW(muon, adamw)


def split_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
    """Trainable parameters as hidden matrices, other matrices (embeddings and heads), and vectors (biases, norms)."""
    hidden, other, vectors = [], [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter.ndim != 2:
            vectors.append(parameter)
        elif ".layers." in f".{name}":
            hidden.append(parameter)
        else:
            other.append(parameter)
    return hidden, other, vectors


class TrainerOptimizer:
    """The optimizer that the Trainer builds itself from its argument `--optim`: AdamW by default."""

    @staticmethod
    def check(args: "MiniTrainingArguments") -> None:
        """Refuse a run that this optimizer cannot train. Raises `UserError`."""

    @staticmethod
    def for_trainer(args: "MiniTrainingArguments") -> tuple[type, dict] | None:
        """The Trainer's `optimizer_cls_and_kwargs`, or None for the Trainer's own choice."""
        return None

    @staticmethod
    def describe(args: "MiniTrainingArguments") -> str:
        """Name and learning rate, for the model card."""
        return f"{getattr(args.optim, 'value', args.optim)} at {args.learning_rate}"


class MuonAndAdamW(TrainerOptimizer):
    """Muon for hidden matrices and AdamW for the rest, as `MuonAdamWFactory` builds them."""

    @staticmethod
    def check(args: "MiniTrainingArguments") -> None:
        if args.deepspeed_plugin is not None:
            raise UserError(
                "DeepSpeed splits matrices into flat parts, but Muon orthogonalises whole matrices; train with "
                "--optimizer adamw, or shard the model with FSDP2."
            )
        if os.environ.get("FSDP_OFFLOAD_PARAMS") == "true":
            raise UserError(
                "FSDP keeps the weights in host memory, but Muon orthogonalises on the device; train with --optimizer "
                "adamw."
            )

    @staticmethod
    def for_trainer(args: "MiniTrainingArguments") -> tuple[type, dict]:
        return MuonAdamWFactory, {
            "muon_learning_rate": args.muon_learning_rate,
            "muon_momentum": args.muon_momentum,
            "learning_rate": args.learning_rate,
            "betas": (args.adam_beta1, args.adam_beta2),
            "eps": args.adam_epsilon,
            "weight_decay": args.weight_decay,
        }

    @staticmethod
    def describe(args: "MiniTrainingArguments") -> str:
        return f"Muon at {args.muon_learning_rate} and AdamW at {args.learning_rate}"


OPTIMIZERS = {"adamw": TrainerOptimizer, "muon": MuonAndAdamW}


def optimizer_of(args: "MiniTrainingArguments") -> type[TrainerOptimizer]:
    """The optimizer that `--optimizer` names."""
    return OPTIMIZERS[args.optimizer]
