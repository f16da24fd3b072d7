"""`modeling-mini plan`: memory, time and accelerate file of a training run, from the shape of the model alone.

Nothing is trained and no model is built: the parameters come from the shape, and the rest is arithmetic
over the tensors that the layers of `modeling_mini.py` keep for the backward pass. The optimizer is AdamW with two
float32 states. Gradients are kept between the batches of an update, as gradient accumulation does.
"""

import math
import re
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from .configuration_mini import MiniConfig
from .errors import UserError
from .loss_mini import LOGITS_PER_CHUNK
from .model_folders import read_config
from .parsing import parse_dataclasses
from .presets import configuration_path, count_parameters, preset_path
from .tables import markdown_table


LOSS_BYTES_PER_LOGIT = 8  # float32: the logit, and the log-probability, which the gradient overwrites
DDP_BUCKETS = 4  # bytes per parameter: DDP copies gradients into buckets to send them
DEEPSPEED_BUCKET = 5e8  # elements, the default of reduce_bucket_size and of allgather_bucket_size
DEEPSPEED_LIVE = 1e9  # parameters, the default of stage3_max_live_parameters
CHINCHILLA = 20  # tokens per parameter (Hoffmann et al. 2022)
SECONDS_PER_DAY = 86_400
# Bytes of a number in a matrix product, its description, and the speed of an H100 in 10^12 operations per second.
PRECISIONS = {"bf16": (2, "bf16 with float32 weights", 989.0), "no": (4, "float32", 67.0)}


@dataclass
class PlanArguments:
    """The devices and the training run to plan for."""

    gpus: int = field(default=1, metadata={"help": "Total number of devices."})
    memory: str = field(default="80GB", metadata={"help": "Memory of one device: 80GB, 24GiB."})
    block_size: int | None = field(
        default=None, metadata={"help": "Tokens per row; by default max_position_embeddings of the model."}
    )
    precision: Literal["bf16", "no"] = field(
        default="bf16", metadata={"help": "Mixed precision; no means float32 throughout."}
    )
    tokens: float | None = field(
        default=None, metadata={"help": f"Training tokens, e.g. 300e9; by default {CHINCHILLA} per parameter."}
    )
    batch_tokens: float | None = field(
        default=None, metadata={"help": "Tokens per update; by default as many as fit at once."}
    )
    tflops: float | None = field(
        default=None,
        metadata={"help": "Speed of one device in 10^12 operations per second; by default that of an H100."},
    )
    mfu: float = field(
        default=0.4,
        metadata={"help": "Share of that speed that the model uses; recomputed operations do not count."},
    )
    reserve: float = field(
        default=0.1,
        metadata={"help": "Share of the memory that is reserved for the driver, communication and fragmentation."},
    )
    gpus_per_node: int = field(default=8, metadata={"help": "Devices per machine."})


@dataclass
class Run:
    """A model, the devices that share the rows of each update, and the length of a row.

    Args:
        config: the shape of the model.
        parameters: number of parameters.
        gpus: total number of devices.
        memory: bytes that the run may use on each device.
        length: tokens per row.
        element: bytes of a number in the matrix products.
    """

    config: MiniConfig
    parameters: int
    gpus: int
    memory: float
    length: int
    element: int = 2

    @property
    def layer_parameters(self) -> int:
        """Parameters of one layer: four projections, two feed-forward matrices, their biases, and two norms."""
        hidden, inner = self.config.hidden_size, self.config.intermediate_size
        return 4 * hidden * hidden + 2 * hidden * inner + 9 * hidden + inner

    @property
    def table(self) -> int:
        """Parameters of the embedding table, which is also the head if they are tied."""
        return self.config.vocab_size * self.config.hidden_size

    def layer_activations(self, autocast: bool = True) -> float:
        """Bytes per token that one layer keeps (Korthikanti et al. 2022, section 4, without the scores).

        Under autocast the inputs of the norms are float32, and each of the three projections keeps a separate cast of
        the normed input. Rows hold several documents, so attention keeps a mask.
        """
        hidden, inner, element = self.config.hidden_size, self.config.intermediate_size, self.element
        is_cast = autocast and element < 4
        norms = 2 * ((4 if is_cast else element) * hidden + 8)  # their inputs, means and standard deviations
        normed = (4 if is_cast else 2) * element * hidden
        attention = 4 * element * hidden + 4 * self.config.num_attention_heads  # Q, K, V, the output, log-sum-exp
        mask = element * self.length
        dropout = 2 * hidden + inner if self.config.hidden_dropout else 0  # one byte each on a GPU
        # ReLU keeps its output. The next product keeps the same tensor, unless dropout comes between them.
        inner_tensors = 1 if self.config.hidden_act == "relu" and not dropout else 2
        return norms + normed + attention + mask + inner_tensors * element * inner + dropout

    def row_activations(self, strategy: "Strategy") -> float:
        """Bytes that the forward pass keeps for one row, up to the loss."""
        hidden, layers = self.config.hidden_size, self.config.num_hidden_layers
        layer = self.layer_activations(strategy.autocast)
        all_layers = strategy.residual(self) * hidden * layers + layer if strategy.recomputed else layers * layer
        last_norm = 4 * hidden + 8 if self.config.norm_first else 0
        outside_layers = last_norm + self.element * hidden + 24  # the input of the head; ids, positions and labels
        return self.length * (all_layers + outside_layers)

    def passing(self, rows: int, strategy: "Strategy") -> float:
        """Temporary bytes: the logits of a chunk (see `MiniLMHead`), or the gradients within one layer."""
        logits = LOSS_BYTES_PER_LOGIT * min(LOGITS_PER_CHUNK, rows * self.length * self.config.vocab_size)
        return max(logits, rows * self.length * self.layer_activations(strategy.autocast) / 2)

    def flops_per_token(self) -> float:
        """Operations of the forward and backward pass: 6 per parameter and 12 L D T (Chowdhery et al. 2022, B).

        An untied input table multiplies nothing and does not count. Recomputed operations do not count either.
        """
        multiplying = self.parameters - (0 if self.config.tie_word_embeddings else self.table)
        return 6 * multiplying + 12 * self.config.num_hidden_layers * self.config.hidden_size * self.length


@dataclass
class Strategy:
    """A way to distribute a run over devices: a file of `configuration/accelerate`, and the bytes that a device holds.

    Args:
        file: name of the file.
        weights, gradients, optimizer: bytes of each on a device.
        buffers: bytes of gathered, sent or cast tensors.
        recomputed: whether the backward pass computes the layers again.
        autocast: whether products cast their inputs; DeepSpeed uses one precision throughout.
        arguments: extra arguments of train.py.
        is_sharded, is_offloaded: whether FSDP2 shards the model, and whether it keeps the shards in host memory.
        is_offered: whether the plan may choose it.
    """

    file: str
    weights: float
    gradients: float
    optimizer: float
    buffers: float
    recomputed: bool = False
    autocast: bool = True
    arguments: tuple[str, ...] = ()
    is_sharded: bool = False
    is_offloaded: bool = False
    is_offered: bool = True

    @property
    def state(self) -> float:
        """Bytes without activations."""
        return self.weights + self.gradients + self.optimizer + self.buffers

    def residual(self, run: Run) -> int:
        """Bytes of a number between layers: with FSDP2 and DeepSpeed, in the precision of the products."""
        return run.element if self.is_sharded or not self.autocast else 4

    def peak(self, run: Run, rows: int) -> float:
        """Peak bytes of a device that reads `rows` rows at a time."""
        return self.state + rows * run.row_activations(self) + run.passing(rows, self)

    def rows(self, run: Run) -> int:
        """The largest number of rows that a device can read at a time; 0 if the run does not fit."""
        upper_bound = max(0, int((run.memory - self.state) // run.row_activations(self)))
        low, high = 0, upper_bound
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.peak(run, middle) <= run.memory else (low, middle - 1)
        return low


def strategies(run: Run) -> list[Strategy]:
    """All strategies for this number of devices, the simplest first."""
    n, share, element = run.parameters, run.parameters / run.gpus, run.element
    casts = 0 if element == 4 else element * (run.layer_parameters * run.config.num_hidden_layers + run.table)
    recompute = {"recomputed": True, "arguments": ("--gradient_checkpointing", "true")}
    if run.gpus == 1:
        whole = (4 * n, 4 * n, 8 * n, casts)
        return [Strategy("one-device.yaml", *whole), Strategy("one-device.yaml", *whole, **recompute)]
    replicated = (4 * n, 4 * n, 8 * n, DDP_BUCKETS * n + casts)
    # The layer that is computed, the next one, which is gathered meanwhile, the gradients of this layer, those of the
    # layer before, which are being sent, and the table with its gradients.
    gathered = element * (4 * run.layer_parameters + 2 * run.table)
    sharded = (4 * share, 4 * share, 8 * share, gathered)
    buckets = element * min(n, DEEPSPEED_BUCKET)
    zero2 = (element * n, (element + 4) * share, 12 * share, 2 * buckets)
    zero3 = (element * share, (element + 4) * share, 12 * share, buckets + element * min(n, DEEPSPEED_LIVE))
    deepspeed = {"autocast": False, "is_offered": False}
    return [
        Strategy("ddp.yaml", *replicated),
        Strategy("ddp.yaml", *replicated, **recompute),
        Strategy("fsdp2.yaml", *sharded, is_sharded=True),
        Strategy("fsdp2-checkpointing.yaml", *sharded, recomputed=True, is_sharded=True),
        Strategy("zero2.yaml", *zero2, **deepspeed),
        Strategy("zero3.yaml", *zero3, **recompute, **deepspeed),
        Strategy("fsdp2-offload.yaml", 0, 0, 0, gathered, recomputed=True, is_sharded=True, is_offloaded=True),
    ]


def choose(candidates: list[Strategy], run: Run) -> Strategy | None:
    """The first strategy that fits one row, except DeepSpeed: FSDP2 does the same without another package."""
    return next((strategy for strategy in candidates if strategy.is_offered and strategy.rows(run) > 0), None)


def plan(argv: list[str]) -> None:
    """`MODEL [--argument value ...]`: print what a run needs. The model is a preset, or the path of a config.

    Raises:
        UserError: an argument is wrong, or the model cannot be loaded.
    """
    if not argv or (argv[0].startswith("-") and argv[0] not in ("-h", "--help")):
        raise UserError("Name a preset, or the path of a config.json, first: modeling-mini plan gpt3-13b --gpus 64")
    model = argv[0]
    (args,) = parse_dataclasses(
        (PlanArguments,),
        argv[not model.startswith("-") :],
        "modeling-mini plan MODEL",
        about="MODEL is a preset, or the path of a config.json or of its folder. The optimizer is AdamW.",
    )
    check_plan_arguments(args)
    config = load_shape(model)
    run = Run(
        config,
        count_parameters(config),
        args.gpus,
        parse_memory(args.memory) * (1 - args.reserve),
        args.block_size or config.max_position_embeddings,
        PRECISIONS[args.precision][0],
    )
    sys.stdout.write(describe(model, run, args) + "\n")


def check_plan_arguments(args: PlanArguments) -> None:
    """Raise `UserError` for a value out of range."""
    for name in ("gpus", "gpus_per_node", "tflops", "block_size", "tokens", "batch_tokens"):
        value = getattr(args, name)
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"--{name} is {value}; give a number above 0.")
    if not 0 < args.mfu <= 1:
        raise UserError(f"--mfu is {args.mfu}; give a share above 0 and at most 1.")
    if not 0 <= args.reserve < 1:
        raise UserError(f"--reserve is {args.reserve}; give a share of at least 0 and below 1.")
    if args.gpus > args.gpus_per_node and args.gpus % args.gpus_per_node:
        raise UserError(
            f"--gpus is {args.gpus}, which is not divisible by --gpus_per_node {args.gpus_per_node}; change one of "
            "the two."
        )


def parse_memory(text: str) -> float:
    """Bytes of "80GB" (10^9) or "24GiB" (2^30). Raises `UserError`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([MGT])(i?)B?", text.strip(), re.I)
    if match is None or float(match[1]) == 0:
        raise UserError(f"--memory is {text!r}; write it like 80GB or 24GiB.")
    base = 1024 if match[3] else 1000
    return float(match[1]) * base ** {"M": 2, "G": 3, "T": 4}[match[2].upper()]


def load_shape(model: str) -> MiniConfig:
    """Config of a preset or of a path. Raises `UserError`."""
    try:
        path = preset_path(model)
    except ValueError as error:
        raise UserError(str(error)) from error
    return read_config(path, model)


def describe(model: str, run: Run, args: PlanArguments) -> str:
    """The plan as text."""
    _, precision, h100 = PRECISIONS[args.precision]
    tokens, tflops = args.tokens or CHINCHILLA * run.parameters, args.tflops or h100
    candidates = strategies(run)
    chosen = choose(candidates, run)
    operations = run.flops_per_token() * tokens
    days = operations / (run.gpus * tflops * 1e12 * args.mfu) / SECONDS_PER_DAY
    if chosen is None:
        advice = ["Nothing fits: use more devices, devices with more memory, or shorter rows (--block_size)."]
    else:
        advice = _advice(model, chosen, run, args)
    lines = [
        f"{model}: {run.parameters:,} parameters, rows of {run.length:,} tokens, AdamW, {precision}",
        f"{run.gpus:,} x {args.memory}, of which {100 * args.reserve:.0f}% is reserved; GB per device:",
        "",
        _table(candidates, chosen, run),
        "",
        *advice,
        "",
        f"Work: {run.flops_per_token():.3g} operations per token, {operations:.3g} for {tokens:.3g} tokens.",
        f"Time: {_duration(days)} at {100 * args.mfu:.0f}% of {tflops:g} TFLOP/s per device.",
        f"Assumed: {_assumptions(args)}.",
    ]
    return "\n".join(lines)


def _assumptions(args: PlanArguments) -> str:
    """The values behind the plan that differ between machines, with the options that set them."""
    values = [f"{args.gpus_per_node} devices per machine (--gpus_per_node)", f"{100 * args.mfu:.0f}% (--mfu)"]
    return ", ".join([*values, *([] if args.tflops else ["the TFLOP/s of an H100 (--tflops)"])])


def _table(candidates: list[Strategy], chosen: Strategy | None, run: Run) -> str:
    rows = [["", "file", "weights", "gradients", "optimizer", "buffers", "per row", "rows at a time", "total"]]
    for strategy in candidates:
        rows_at_a_time = strategy.rows(run)
        sizes = (strategy.weights, strategy.gradients, strategy.optimizer, strategy.buffers)
        rows.append(
            [
                "->" if strategy is chosen else "",
                " ".join([strategy.file, *strategy.arguments]),
                *(f"{size / 1e9:.2f}" for size in (*sizes, run.row_activations(strategy))),
                f"{rows_at_a_time:,}" if rows_at_a_time else "does not fit",
                f"{strategy.peak(run, max(rows_at_a_time, 1)) / 1e9:.1f}",
            ]
        )
    return markdown_table(rows)


def _advice(model: str, chosen: Strategy, run: Run, args: PlanArguments) -> list[str]:
    """The command, the tokens of an update, and the memory that a machine needs for the whole model."""
    rows, batches, step = chosen.rows(run), 1, run.gpus * run.length
    if args.batch_tokens is not None:
        rows_per_update = max(1, round(args.batch_tokens / step))  # on one device
        batches = -(-rows_per_update // rows)
        rows = round(rows_per_update / batches)
    update = f"An update reads {rows * batches * step:,} tokens"
    if args.batch_tokens is not None and rows * batches * step != args.batch_tokens:
        update += f" (requested: {args.batch_tokens:,.0f}; possible: multiples of {step:,})"
    devices = min(run.gpus, args.gpus_per_node)
    model_gb = 4 * run.parameters / 1e9
    if chosen.is_sharded:
        host = f"The first process builds the whole model, and gathers it at the end: {model_gb:,.1f} GB"
    else:
        host = f"Each process first builds the whole model: {model_gb * devices:,.1f} GB"
    advice = [_command(model, chosen, run, args, rows, batches), f"{update}.", f"{host} of the machine's memory."]
    if chosen.is_offloaded:
        shards_gb = 16 * run.parameters * devices / run.gpus / 1e9
        advice.append(f"It also holds the machine's shards of weights, gradients and optimizer: {shards_gb:,.0f} GB.")
    return advice


def _command(model: str, chosen: Strategy, run: Run, args: PlanArguments, rows: int, batches: int) -> str:
    path = configuration_path("accelerate", chosen.file)
    file = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    command = ["accelerate", "launch", "--config_file", str(file), "--num_processes", str(run.gpus)]
    if args.precision != "bf16":
        command += ["--mixed_precision", args.precision]
    if run.gpus > args.gpus_per_node:
        machines = str(run.gpus // args.gpus_per_node)
        command += ["--num_machines", machines, "--machine_rank", "RANK", "--main_process_ip", "ADDRESS"]
    command += ["train.py", "RECIPE", "--model", model, "--block_size", str(run.length)]
    command += ["--per_device_train_batch_size", str(rows), *chosen.arguments]
    if batches > 1:
        command += ["--gradient_accumulation_steps", str(batches)]
    if batches > 1 and chosen.is_sharded:  # without it, each device would keep whole gradients between the batches
        command += ["--accelerator_config", '{"gradient_accumulation_kwargs": {"sync_each_batch": true}}']
    if chosen.is_sharded:  # the plan assumes AdamW; Muon gathers sharded matrices
        command += ["--optimizer", "adamw"]
    return shlex.join(command)


def _duration(days: float) -> str:
    if days >= 2:
        return f"{days:,.0f} days"
    return f"{24 * days:.1f} hours" if days > 2 / 24 else f"{24 * 60 * days:.1f} minutes"
