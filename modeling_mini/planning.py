"""`modeling-mini plan`: memory, time and the accelerate file of a training run, from the shape of the model alone.

Nothing is trained and no weight is made: parameters are counted on the meta device, and the rest is arithmetic over
what the layers of `modeling_mini.py` keep for the backward pass. The optimizer is AdamW, whose two states are float32;
gradients are those of an update of several batches, which stay while the next batch is read.
"""

import math
import re
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig

from .configuration_mini import MiniConfig
from .errors import UserError
from .loss_mini import LOGITS_PER_CHUNK
from .parsing import parse_dataclasses
from .presets import configuration_path, count_parameters, preset_path
from .tables import markdown_table


LOSS_BYTES_PER_LOGIT = 8  # float32: the logit, and the log-probability in whose place its gradient is formed
DDP_BUCKETS = 4  # bytes a parameter: DDP copies gradients into buckets to send them
DEEPSPEED_BUCKET = 5e8  # elements, the default of reduce_bucket_size and of allgather_bucket_size
DEEPSPEED_LIVE = 1e9  # parameters, the default of stage3_max_live_parameters
CHINCHILLA = 20  # tokens a parameter (Hoffmann et al. 2022)
SECONDS_PER_DAY = 86_400
# Bytes of a number in a matrix product, the words for it, and 10^12 operations a second of an H100.
PRECISIONS = {"bf16": (2, "bf16 with float32 weights", 989.0), "no": (4, "float32", 67.0)}


@dataclass
class PlanArguments:
    """What is to be trained on what."""

    gpus: int = field(default=1, metadata={"help": "Devices in all."})
    memory: str = field(default="80GB", metadata={"help": "Of one device: 80GB, 24GiB."})
    block_size: int | None = field(
        default=None, metadata={"help": "Tokens of a row; the positions of the model if left out."}
    )
    precision: Literal["bf16", "no"] = field(default="bf16", metadata={"help": "Mixed precision."})
    tokens: float | None = field(
        default=None, metadata={"help": f"To train on, e.g. 300e9; {CHINCHILLA} a parameter if left out."}
    )
    batch_tokens: float | None = field(
        default=None, metadata={"help": "Of an update; as many as fit at once if left out."}
    )
    tflops: float | None = field(
        default=None,
        metadata={"help": "What a device does, in 10^12 operations a second; that of an H100 if left out."},
    )
    mfu: float = field(
        default=0.4,
        metadata={"help": "Share of it that the model uses; what is computed a second time does not count."},
    )
    reserve: float = field(
        default=0.1, metadata={"help": "Share of the memory for the driver, communication and fragmentation."}
    )
    gpus_per_node: int = field(default=8, metadata={"help": "Devices of one machine."})


@dataclass
class Run:
    """A model, the devices that share the rows of each update, and a row.

    Args:
        config: the shape of the model.
        parameters: how many it has.
        gpus: devices in all.
        memory: bytes of a device that a run may take.
        length: tokens of a row.
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
        """Of one layer: four projections, two matrices of the feed-forward, and their biases and norms."""
        hidden, inner = self.config.hidden_size, self.config.intermediate_size
        return 4 * hidden * hidden + 2 * hidden * inner + 9 * hidden + inner

    @property
    def table(self) -> int:
        """Parameters of the embedding, which is also the head where they are tied."""
        return self.config.vocab_size * self.config.hidden_size

    def layer_activations(self, autocast: bool = True) -> float:
        """Bytes a token that one layer keeps (Korthikanti et al. 2022, section 4, without the scores).

        Under autocast the inputs of the norms are float32, and each of the three projections keeps a cast of its own
        of the normed input. Rows hold several documents, so that attention keeps a mask.
        """
        hidden, inner, element = self.config.hidden_size, self.config.intermediate_size, self.element
        is_cast = autocast and element < 4
        norms = 2 * ((4 if is_cast else element) * hidden + 8)  # their inputs, means and deviations
        normed = (4 if is_cast else 2) * element * hidden
        attention = 4 * element * hidden + 4 * self.config.num_attention_heads  # Q, K, V, the output, log-sum-exp
        mask = element * self.length
        dropout = 2 * hidden + inner if self.config.hidden_dropout else 0  # one byte each on a GPU
        # ReLU keeps what it returns, which the next product keeps anyway, unless dropout comes between them.
        kept = 1 if self.config.hidden_act == "relu" and not dropout else 2
        return norms + normed + attention + mask + kept * element * inner + dropout

    def row_activations(self, strategy: "Strategy") -> float:
        """Bytes that a row keeps up to the loss."""
        hidden, layers = self.config.hidden_size, self.config.num_hidden_layers
        layer = self.layer_activations(strategy.autocast)
        kept = strategy.residual(self) * hidden * layers + layer if strategy.recomputed else layers * layer
        last_norm = 4 * hidden + 8 if self.config.norm_first else 0
        ends = last_norm + self.element * hidden + 24  # what the head reads; ids, positions and labels
        return self.length * (kept + ends)

    def passing(self, rows: int, strategy: "Strategy") -> float:
        """Bytes that exist for a moment: logits of a chunk (see `MiniLMHead`), or gradients within one layer."""
        logits = LOSS_BYTES_PER_LOGIT * min(LOGITS_PER_CHUNK, rows * self.length * self.config.vocab_size)
        return max(logits, rows * self.length * self.layer_activations(strategy.autocast) / 2)

    def flops_per_token(self) -> float:
        """Floating-point operations, forward and backward: 6 a parameter and 12 L D T (Chowdhery et al. 2022, B).

        An input table of its own multiplies nothing and does not count; what is computed twice does not either.
        """
        multiplied = self.parameters - (0 if self.config.tie_word_embeddings else self.table)
        return 6 * multiplied + 12 * self.config.num_hidden_layers * self.config.hidden_size * self.length


@dataclass
class Strategy:
    """A way to spread a run over devices: the file of `configuration/accelerate` that says so, and bytes of a device.

    Args:
        file: its name.
        weights, gradients, optimizer: what a device holds of them.
        buffers: what is gathered, sent or cast.
        recomputed: whether the backward pass computes the layers again.
        autocast: whether products cast what they read; under DeepSpeed all is in one precision.
        arguments: of train.py.
        is_sharded, is_offloaded: whether FSDP2 divides the model, and keeps it in the memory of the host.
        is_offered: whether it may be chosen.
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
        """Bytes of a number between layers: FSDP2 and DeepSpeed hand on the precision of the products."""
        return run.element if self.is_sharded or not self.autocast else 4

    def peak(self, run: Run, rows: int) -> float:
        """Bytes of a device that reads so many rows at a time."""
        return self.state + rows * run.row_activations(self) + run.passing(rows, self)

    def rows(self, run: Run) -> int:
        """The largest number of rows that a device can read at a time; 0 if the run does not fit."""
        fitting = max(0, int((run.memory - self.state) // run.row_activations(self)))
        low, high = 0, fitting
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.peak(run, middle) <= run.memory else (low, middle - 1)
        return low


def strategies(run: Run) -> list[Strategy]:
    """All of them, the simplest first; of one device, those that need no other."""
    n, share, element = run.parameters, run.parameters / run.gpus, run.element
    casts = 0 if element == 4 else element * (run.layer_parameters * run.config.num_hidden_layers + run.table)
    recompute = {"recomputed": True, "arguments": ("--gradient_checkpointing", "true")}
    if run.gpus == 1:
        whole = (4 * n, 4 * n, 8 * n, casts)
        return [Strategy("one-device.yaml", *whole), Strategy("one-device.yaml", *whole, **recompute)]
    replicated = (4 * n, 4 * n, 8 * n, DDP_BUCKETS * n + casts)
    # The layer that computes, the one that is fetched meanwhile, the gradients of one, those of the one before, which
    # are being sent, and the table with its own.
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


def choose(found: list[Strategy], run: Run) -> Strategy | None:
    """The first that reads a row at a time, DeepSpeed's aside: what it does, FSDP2 does without another package."""
    return next((strategy for strategy in found if strategy.is_offered and strategy.rows(run) > 0), None)


def plan(argv: list[str]) -> None:
    """`MODEL [--argument value ...]`: print what a run needs. The model is a preset, or the path of a config.

    Raises:
        UserError: whatever the user can mend.
    """
    if not argv or (argv[0].startswith("-") and argv[0] not in ("-h", "--help")):
        raise UserError("Name a preset, or the path of a config.json, first: modeling-mini plan gpt3-13b --gpus 64")
    model = argv[0]
    (args,) = parse_dataclasses((PlanArguments,), argv[not model.startswith("-") :], "modeling-mini plan MODEL")
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
    """Raises `UserError` for what makes no sense."""
    for name in ("gpus", "gpus_per_node", "tflops", "block_size", "tokens", "batch_tokens"):
        value = getattr(args, name)
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"--{name} is {value}; give a number above 0.")
    if not 0 < args.mfu <= 1:
        raise UserError(f"--mfu is {args.mfu}; give a share above 0, at most 1.")
    if not 0 <= args.reserve < 1:
        raise UserError(f"--reserve is {args.reserve}; give a share from 0, below 1.")
    if args.gpus > args.gpus_per_node and args.gpus % args.gpus_per_node:
        raise UserError(
            f"--gpus is {args.gpus}, and machines of --gpus_per_node {args.gpus_per_node} cannot share them evenly; "
            "change one of the two."
        )


def parse_memory(text: str) -> float:
    """Bytes of "80GB" (10^9) or "24GiB" (2^30). Raises `UserError`."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([MGT])(i?)B?", text.strip(), re.I)
    if found is None or float(found[1]) == 0:
        raise UserError(f"--memory is {text!r}; write it like 80GB or 24GiB.")
    base = 1024 if found[3] else 1000
    return float(found[1]) * base ** {"M": 2, "G": 3, "T": 4}[found[2].upper()]


def load_shape(model: str) -> MiniConfig:
    """Config of a preset or path. Raises `UserError`."""
    try:
        config = AutoConfig.from_pretrained(preset_path(model))
    except (OSError, ValueError) as error:
        raise UserError(str(error).splitlines()[0]) from error
    except StrictDataclassError as error:
        raise UserError(f"{model}: {error.__cause__ or error}") from error
    if not isinstance(config, MiniConfig):
        raise UserError(f"{model} is a {config.model_type} model; this plans modeling_mini models.")
    return config


def describe(model: str, run: Run, args: PlanArguments) -> str:
    """The plan as text."""
    _, words, h100 = PRECISIONS[args.precision]
    tokens, tflops = args.tokens or CHINCHILLA * run.parameters, args.tflops or h100
    found = strategies(run)
    chosen = choose(found, run)
    work = run.flops_per_token() * tokens
    days = work / (run.gpus * tflops * 1e12 * args.mfu) / SECONDS_PER_DAY
    if chosen is None:
        advice = ["Nothing fits: take more devices, devices with more memory, or shorter rows (--block_size)."]
    else:
        advice = _advice(model, chosen, run, args)
    lines = [
        f"{model}: {run.parameters:,} parameters, rows of {run.length:,} tokens, AdamW, {words}",
        f"{run.gpus:,} x {args.memory}, of which {100 * args.reserve:.0f}% are kept free; GB of a device:",
        "",
        _table(found, chosen, run),
        "",
        *advice,
        "",
        f"Work: {run.flops_per_token():.3g} operations a token, {work:.3g} for {tokens:.3g} tokens.",
        f"Time: {_duration(days)} at {100 * args.mfu:.0f}% of {tflops:g} TFLOP/s on each device.",
    ]
    return "\n".join(lines)


def _table(found: list[Strategy], chosen: Strategy | None, run: Run) -> str:
    rows = [["", "file", "weights", "gradients", "optimizer", "buffers", "a row", "rows at a time", "in all"]]
    for strategy in found:
        most = strategy.rows(run)
        sizes = (strategy.weights, strategy.gradients, strategy.optimizer, strategy.buffers)
        rows.append(
            [
                "->" if strategy is chosen else "",
                " ".join([strategy.file, *strategy.arguments]),
                *(f"{size / 1e9:.2f}" for size in (*sizes, run.row_activations(strategy))),
                f"{most:,}" if most else "does not fit",
                f"{strategy.peak(run, max(most, 1)) / 1e9:.1f}",
            ]
        )
    return markdown_table(rows)


def _advice(model: str, chosen: Strategy, run: Run, args: PlanArguments) -> list[str]:
    """The command, what an update of it reads, and what the host must hold."""
    rows, batches, step = chosen.rows(run), 1, run.gpus * run.length
    if args.batch_tokens is not None:
        wanted = max(1, round(args.batch_tokens / step))  # rows of a device in an update
        batches = -(-wanted // rows)
        rows = round(wanted / batches)
    read = f"An update reads {rows * batches * step:,} tokens"
    if args.batch_tokens is not None and rows * batches * step != args.batch_tokens:
        read += f"; {args.batch_tokens:,.0f} were asked for, and rows on all devices come in steps of {step:,}"
    here = min(run.gpus, args.gpus_per_node)
    whole = 4 * run.parameters / 1e9
    if chosen.is_sharded:
        builds = f"The first process builds the whole model, and gathers it at the end: {whole:,.1f} GB"
    else:
        builds = f"Each process first builds the whole model: {whole * here:,.1f} GB"
    advice = [_command(model, chosen, run, args, rows, batches), f"{read}.", f"{builds} of a machine's memory."]
    if chosen.is_offloaded:
        kept = 16 * run.parameters * here / run.gpus / 1e9
        advice.append(f"Its shares of weights, gradients and optimizer stay there: {kept:,.0f} GB.")
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
    if batches > 1 and chosen.is_sharded:  # or each device would keep whole gradients between the batches
        command += ["--accelerator_config", '{"gradient_accumulation_kwargs": {"sync_each_batch": true}}']
    if chosen.is_sharded:  # AdamW is what is planned
        command += ["--optimizer", "adamw"]
    return shlex.join(command)


def _duration(days: float) -> str:
    if days >= 2:
        return f"{days:,.0f} days"
    return f"{24 * days:.1f} hours" if days > 2 / 24 else f"{24 * 60 * days:.1f} minutes"
