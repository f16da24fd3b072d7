"""`modeling-mini plan`: memory, time and the accelerate file of a training run, from the shape of the model alone.

Nothing is trained and no weight is made: parameters are counted on the meta device, and the rest is arithmetic over
what the forward pass of `modeling_mini.py` keeps for the backward pass. The optimizer is AdamW, whose two states are
float32; gradients are those of an update of several batches, which stay while the next batch is read.
"""

import re
from dataclasses import dataclass, fields

from .configuration_mini import MiniConfig
from .errors import UserError
from .model_card import markdown_table
from .modeling_mini import LOGITS_PER_CHUNK
from .presets import count_parameters, preset_path


# Float32 in each of the phases of the loss: the log-probabilities, and two gradients of them.
LOSS_BYTES_PER_LOGIT = 12
DDP_BUCKETS = 4  # bytes a parameter: DDP copies gradients into buckets to send them
DEEPSPEED_BUCKET = 5e8  # elements, the default of reduce_bucket_size and of allgather_bucket_size
DEEPSPEED_LIVE = 1e9  # parameters, the default of stage3_max_live_parameters
CHINCHILLA = 20  # tokens a parameter (Hoffmann et al. 2022)
SECONDS_PER_DAY = 86_400


@dataclass
class Run:
    """What is to be trained on what.

    Args:
        config: the shape of the model.
        parameters: how many it has.
        gpus: devices in all, which share the rows of each update.
        memory: bytes of a device that a run may take.
        length: tokens of a row.
        element: bytes of a number in the matrix products: 2 under bf16, 4 under float32.
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
        """Of the embedding, which is also the head where they are tied."""
        return self.config.vocab_size * self.config.hidden_size

    def layer_activations(self) -> float:
        """Bytes a token that one layer keeps: Korthikanti et al. 2022, section 4, without the scores.

        The residual stream stays float32 under autocast. Each of the three projections keeps a cast of its own of
        the normed input, where there is a cast.
        """
        hidden, inner, element = self.config.hidden_size, self.config.intermediate_size, self.element
        normed = (2 if element == 4 else 4) * element * hidden
        residuals = 2 * (4 * hidden + 8)  # the inputs of two norms, their means and deviations
        attention = 4 * element * hidden + 4 * self.config.num_attention_heads  # Q, K, V, the output, log-sum-exp
        dropout = 2 * hidden + inner if self.config.hidden_dropout else 0  # one byte each on a GPU
        return normed + residuals + attention + 2 * element * inner + dropout

    def row_activations(self, recomputed: bool) -> float:
        """Bytes a row of `length` tokens keeps up to the loss, which is `loss_memory`."""
        hidden, layers = self.config.hidden_size, self.config.num_hidden_layers
        kept = 4 * hidden * layers + self.layer_activations() if recomputed else layers * self.layer_activations()
        ends = 4 * hidden + 8 + self.element * hidden + 24  # the last norm, what the head reads; ids, places, labels
        return self.length * (kept + ends)

    def loss_memory(self, rows: int) -> float:
        """Bytes of the logits that exist at a time, see `MiniLMHead`."""
        return LOSS_BYTES_PER_LOGIT * min(LOGITS_PER_CHUNK, rows * self.length * self.config.vocab_size)

    def flops_per_token(self) -> float:
        """Floating-point operations, forward and backward: 6 a parameter and 12 L D T (Chowdhery et al. 2022, B).

        An input table of its own multiplies nothing and does not count; what is computed twice does not either.
        """
        multiplied = self.parameters - (0 if self.config.tie_word_embeddings else self.table)
        return 6 * multiplied + 12 * self.config.num_hidden_layers * self.config.hidden_size * self.length


@dataclass
class Memory:
    """Bytes of one device without activations."""

    weights: float
    gradients: float
    optimizer: float
    buffers: float  # what is gathered, sent or cast

    @property
    def total(self) -> float:
        return sum(getattr(self, field.name) for field in fields(self))


@dataclass
class Strategy:
    """A way to spread a run over devices, and the file of `configuration/accelerate` that says so."""

    file: str
    memory: Memory
    recomputed: bool = False
    argument: str = ""  # of train.py

    def rows(self, run: Run) -> int:
        """The largest number of rows that a device can read at a time; 0 if the run does not fit."""
        left = run.memory - self.memory.total
        row = run.row_activations(self.recomputed)
        rows = max(0, int(left // row))
        while rows and rows * row + run.loss_memory(rows) > left:
            rows -= 1
        return rows

    def peak(self, run: Run, rows: int) -> float:
        """Bytes of a device that reads so many rows at a time."""
        return self.memory.total + rows * run.row_activations(self.recomputed) + run.loss_memory(rows)


def strategies(run: Run) -> list[Strategy]:
    """All of them, the simplest first; of one device, no more than need no other."""
    n, share, element = run.parameters, run.parameters / run.gpus, run.element
    casts = 0 if element == 4 else element * run.layer_parameters * run.config.num_hidden_layers
    checkpointed = "--gradient_checkpointing true"
    if run.gpus == 1:
        whole = Memory(4 * n, 4 * n, 8 * n, casts)
        return [Strategy("one-device.yaml", whole), Strategy("one-device.yaml", whole, True, checkpointed)]
    replicated = Memory(4 * n, 4 * n, 8 * n, DDP_BUCKETS * n + casts)
    # The layer that computes, the one that is fetched meanwhile, the gradient of one, and the table with its own.
    gathered = element * (3 * run.layer_parameters + 2 * run.table)
    sharded = Memory(4 * share, 4 * share, 8 * share, gathered)
    buckets = element * min(n, DEEPSPEED_BUCKET)
    zero2 = Memory(element * n, (element + 4) * share, 12 * share, 2 * buckets)
    zero3 = Memory(element * share, (element + 4) * share, 12 * share, buckets + element * min(n, DEEPSPEED_LIVE))
    return [
        Strategy("ddp.yaml", replicated),
        Strategy("ddp.yaml", replicated, True, checkpointed),
        Strategy("fsdp2.yaml", sharded),
        Strategy("fsdp2-checkpointing.yaml", sharded, True),
        Strategy("zero2.yaml", zero2),
        Strategy("zero3.yaml", zero3, True, checkpointed),
        Strategy("fsdp2-offload.yaml", Memory(0, 0, 0, gathered), True),
    ]


def choose(found: list[Strategy], run: Run) -> Strategy | None:
    """The first that reads a row at a time, DeepSpeed's aside: what it does, FSDP2 does without another package."""
    return next((s for s in found if not s.file.startswith("zero") and s.rows(run) > 0), None)


def plan(
    model: str,
    gpus: int = 1,
    memory: str = "80GB",
    block_size: int | None = None,
    precision: str = "bf16",
    tokens: float | None = None,
    batch_tokens: float | None = None,
    tflops: float = 989.0,
    mfu: float = 0.4,
    reserve: float = 0.1,
    gpus_per_node: int = 8,
) -> str:
    """What a run needs, as text.

    Args:
        model: a preset, or the path of a config.json or of its folder.
        gpus: devices in all.
        memory: of one of them: "80GB", "24GiB".
        block_size: tokens of a row; the positions of the model if left out.
        precision: "bf16" or "no", as `mixed_precision` of accelerate.
        tokens: to train on; 20 a parameter if left out (Hoffmann et al. 2022).
        batch_tokens: of an update; what fits the devices at once if left out.
        tflops: what a device can do at that precision, in 10^12 operations a second.
        mfu: the share of it that the model uses (Chowdhery et al. 2022, appendix B); what is computed a second time
            for want of memory does not count.
        reserve: share of the memory for the driver, the communication and what fragmentation wastes.
        gpus_per_node: devices of one machine.

    Raises:
        UserError: a value that makes no sense, or no such model.
    """
    for name, value in {"gpus": gpus, "tflops": tflops, "gpus_per_node": gpus_per_node}.items():
        if value <= 0:
            raise UserError(f"--{name} is {value}; give a number above 0.")
    for name, value in {"block_size": block_size, "tokens": tokens, "batch_tokens": batch_tokens}.items():
        if value is not None and value < 1:
            raise UserError(f"--{name} is {value}; give at least 1, or leave it out.")
    for name, value, lowest in (("mfu", mfu, "above 0"), ("reserve", reserve, "from 0")):
        if not (0 <= value <= 1) or (name == "mfu" and value == 0) or (name == "reserve" and value == 1):
            raise UserError(f"--{name} is {value}; give a share {lowest} to 1.")
    try:
        config = MiniConfig.from_pretrained(preset_path(model))
    except (OSError, ValueError) as error:
        raise UserError(str(error).splitlines()[0]) from error
    run = Run(
        config,
        count_parameters(config),
        gpus,
        parse_memory(memory) * (1 - reserve),
        block_size or config.max_position_embeddings,
        2 if precision == "bf16" else 4,
    )
    tokens = tokens or CHINCHILLA * run.parameters
    found = strategies(run)
    chosen = choose(found, run)
    days = run.flops_per_token() * tokens / (gpus * tflops * 1e12 * mfu) / SECONDS_PER_DAY
    lines = [
        f"{model}: {run.parameters:,} parameters, rows of {run.length:,} tokens, AdamW, {_PRECISIONS[precision]}",
        f"{gpus:,} x {memory}, of which {100 * reserve:.0f}% are kept free",
        "",
        _memory_table(found, chosen, run),
        "",
        *_advice(model, chosen, run, gpus_per_node, batch_tokens, precision),
        "",
        f"Work: {run.flops_per_token():.3g} operations a token, {run.flops_per_token() * tokens:.3g} for "
        f"{tokens:.3g} tokens.",
        f"Time: {_duration(days)} at {100 * mfu:.0f}% of {tflops:g} TFLOP/s on each device.",
    ]
    return "\n".join(lines)


def parse_memory(text: str) -> float:
    """Bytes of "80GB" (10^9) or "24GiB" (2^30). Raises `UserError`."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([MGT])(i?)B?", text.strip(), re.I)
    if found is None or float(found[1]) == 0:
        raise UserError(f"--memory is {text!r}; write it like 80GB or 24GiB.")
    base = 1024 if found[3] else 1000
    return float(found[1]) * base ** {"M": 2, "G": 3, "T": 4}[found[2].upper()]


_PRECISIONS = {"bf16": "bf16 with float32 weights", "no": "float32"}


def _memory_table(found: list[Strategy], chosen: Strategy | None, run: Run) -> str:
    """A line a strategy: GB of a device at one row, or at the most that fit."""
    rows = [["", "file", "weights", "gradients", "optimizer", "buffers", "a row", "rows at a time", "GB at that"]]
    for strategy in found:
        most = strategy.rows(run)
        memory = strategy.memory
        static = [memory.weights, memory.gradients, memory.optimizer, memory.buffers]
        one = run.row_activations(strategy.recomputed)
        name = " ".join(filter(None, (strategy.file, strategy.argument)))
        peak = strategy.peak(run, max(most, 1))
        rows.append(
            [
                "->" if strategy is chosen else "",
                name,
                *(f"{size / 1e9:.2f}" for size in (*static, one)),
                f"{most:,}" if most else "does not fit",
                f"{peak / 1e9:.1f}",
            ]
        )
    return markdown_table(rows)


def _advice(
    model: str, chosen: Strategy | None, run: Run, gpus_per_node: int, batch_tokens: float | None, precision: str
) -> list[str]:
    """The command, and what an update of it reads."""
    if chosen is None:
        return ["Nothing fits: take more devices, devices with more memory, or shorter rows (--block_size)."]
    rows, batches = chosen.rows(run), 1
    if batch_tokens is not None:
        wanted = max(1, round(batch_tokens / (run.gpus * run.length)))  # rows of a device in an update
        batches = -(-wanted // rows)
        rows = -(-wanted // batches)
    arguments = [f"--model {model} --block_size {run.length} --per_device_train_batch_size {rows}"]
    if batches > 1:
        arguments.append(f"--gradient_accumulation_steps {batches}")
    arguments += [chosen.argument] if chosen.argument else []
    advice = [
        f"{_launcher(chosen, run, gpus_per_node, precision)} train.py RECIPE {' '.join(arguments)}",
        f"An update of all devices reads {rows * batches * run.gpus * run.length:,} tokens.",
    ]
    here = min(run.gpus, gpus_per_node)
    if chosen.file.startswith("fsdp2"):
        built = 4 * run.parameters * here / 1e9
        advice.append(f"Each process builds the model before it is divided: {built:,.0f} GB of a machine's memory.")
    if "offload" in chosen.file:
        kept = 16 * run.parameters * here / run.gpus / 1e9
        advice.append(f"Its shares of weights, gradients and optimizer stay there: {kept:,.0f} GB.")
    return advice


def _launcher(chosen: Strategy, run: Run, gpus_per_node: int, precision: str) -> str:
    command = f"accelerate launch --config_file configuration/accelerate/{chosen.file} --num_processes {run.gpus}"
    nodes = -(-run.gpus // gpus_per_node)
    if nodes > 1:
        command += f" --num_machines {nodes} --machine_rank RANK --main_process_ip ADDRESS"
    return command if precision == "bf16" else f"{command} --mixed_precision {precision}"


def _duration(days: float) -> str:
    if days >= 2:
        return f"{days:,.0f} days"
    return f"{24 * days:.1f} hours" if days > 2 / 24 else f"{24 * 60 * days:.1f} minutes"
