"""Train an LSTM language model with the size, the training time and the data of a trained checkpoint.

    python benchmarks/lstm.py runs/quickstart --seconds 200 --seed 1

The LSTM is trained on the rows of the checkpoint, with its tokenizer, and scored in bits per byte on the validation
documents. This measures the gain from recurrent networks to the Transformer at equal size and equal time. As in the
Transformer, the input and output embeddings are tied. The state is carried over the documents of a row, which gives
the LSTM a little more context.
"""

import argparse
import time
from collections.abc import Callable

import torch
from datasets import Dataset
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from modeling_mini.inference.loading import load_checkpoint, recorded_arguments
from modeling_mini.metrics import TextLoss
from modeling_mini.tasks import task_class
from modeling_mini.tasks.base import TaskArguments
from modeling_mini.tasks.batches import next_token_nll


class LstmLanguageModel(nn.Module):
    """Embedding -> LSTM (Hochreiter & Schmidhuber 1997; layers as in Zaremba et al. 2014) -> the same embedding."""

    def __init__(self, vocab_size: int, width: int, layers: int):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        self.lstm = nn.LSTM(width, width, layers, batch_first=True)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Ids `[B, T]` -> logits `[B, T, V]`."""
        width = self.embedding.embedding_dim
        states, _ = self.lstm(self.embedding(input_ids) * width**0.5)
        return states @ self.embedding.weight.T


def width_for(parameters: int, vocab_size: int, layers: int) -> int:
    """The width D at which V D + layers (8 D^2 + 8 D) is closest to a number of parameters."""
    return min(
        range(8, 4096, 4),
        key=lambda width: abs(vocab_size * width + layers * (8 * width**2 + 8 * width) - parameters),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkpoint", help="folder of a trained text-generation model")
    parser.add_argument("--seconds", type=float, required=True, help="training time")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--learning_rate", type=float, default=1e-2)
    parser.add_argument("--weight_decay", type=float, default=0.3, help="by default that of the quickstart")
    parser.add_argument("--batch_size", type=int, default=16)
    args = parser.parse_args()

    task = task_class("text-generation")(TaskArguments(**recorded_arguments(args.checkpoint)))
    transformer, tokenizer = load_checkpoint(args.checkpoint, task)
    examples = task.load()
    rows = task.encode(examples["train"], tokenizer, "training").rows
    collate = task.collator(tokenizer)
    torch.manual_seed(args.seed)
    width = width_for(transformer.num_parameters(), len(tokenizer), args.layers)
    model = LstmLanguageModel(len(tokenizer), width, args.layers)
    updates = train(model, rows, collate, args)

    held_out = task.encode(examples["validation"], tokenizer, "validation").rows
    with torch.no_grad():
        losses = torch.cat([row_losses(model, batch) for batch in DataLoader(held_out, 32, collate_fn=collate)])
    nats, targets = losses.T.tolist()
    num_bytes = sum(len(text.encode()) for text in examples["validation"]["text"])
    scores = TextLoss(keep_in_memory=True).compute(nats=nats, targets=list(map(int, targets)), num_bytes=num_bytes)
    size = sum(parameter.numel() for parameter in model.parameters())
    print(  # noqa: T201
        f"LSTM of {args.layers} x {width}, {size:,} parameters, {updates:,} updates in {args.seconds:.0f} s, seed "
        f"{args.seed}: {scores['bits_per_byte']:.4f} bits per byte"
    )


def train(model: LstmLanguageModel, rows: Dataset, collate: Callable, args: argparse.Namespace) -> int:
    """AdamW with a warm-up of 20 updates and linear decay over the given time; returns the number of updates."""
    optimizer = torch.optim.AdamW(
        model.parameters(), args.learning_rate, betas=(0.9, 0.95), weight_decay=args.weight_decay
    )
    updates, start = 0, time.perf_counter()
    with tqdm(total=round(args.seconds), unit="s", disable=None) as progress:
        while True:
            shuffled = rows.shuffle(seed=args.seed + updates)
            for batch in DataLoader(shuffled, args.batch_size, collate_fn=collate):
                elapsed = time.perf_counter() - start
                if elapsed >= args.seconds:
                    return updates
                progress.update(round(elapsed) - progress.n)
                for group in optimizer.param_groups:
                    group["lr"] = args.learning_rate * min((updates + 1) / 20, 1 - elapsed / args.seconds)
                nats, targets = row_losses(model, batch).sum(0)
                (nats / targets).backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
                updates += 1


def row_losses(model: LstmLanguageModel, batch: dict) -> torch.Tensor:
    """`[B, 2]`: nats and number of targets of each row."""
    return next_token_nll(model(batch["input_ids"]), batch["labels"])


if __name__ == "__main__":
    main()
