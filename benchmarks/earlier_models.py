"""Train a language model from before the Transformer, with the size, the training time and the data of a checkpoint.

    python benchmarks/earlier_models.py runs/quickstart --model lstm --seconds 200 --seed 1

It is trained on the rows of the checkpoint, with its tokenizer, and scored in bits per byte on the validation
documents. This measures what each step towards the Transformer gains at equal size and equal time. As in the
Transformer, the input and output embeddings are tied. All four read across the documents of a row, `window` only its
last tokens, which gives them a little more context.

    bag      the embeddings of the tokens so far, added up without their order, and a feed-forward layer
    window   the embeddings of the last eight tokens, in order, and a feed-forward layer (Bengio et al. 2003)
    rnn      two layers of Elman's network (Elman 1990; language modelling: Mikolov et al. 2010)
    lstm     two layers of the LSTM (Hochreiter & Schmidhuber 1997; layers as in Zaremba et al. 2014)
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


LAYERS = 2  # of the recurrent networks
WINDOW = 8  # tokens


class EarlierLanguageModel(nn.Module):
    """Embedding -> `states` of a subclass -> the same embedding."""

    def __init__(self, vocab_size: int, width: int):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        self.build(width)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Ids `[B, T]` -> logits `[B, T, V]`."""
        width = self.embedding.embedding_dim
        return self.states(self.embedding(input_ids) * width**0.5) @ self.embedding.weight.T


class BagOfWords(EarlierLanguageModel):
    def build(self, width: int) -> None:
        self.layer = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def states(self, vectors: torch.Tensor) -> torch.Tensor:
        """Vectors `[B, T, D]` -> states `[B, T, D]`; here and below, a state knows only its own and earlier tokens."""
        counts = torch.arange(1, vectors.shape[1] + 1).unsqueeze(-1)
        return self.layer(vectors.cumsum(1) / counts**0.5)  # a sum of n random vectors grows with the root of n


class Window(EarlierLanguageModel):
    def build(self, width: int) -> None:
        self.layer = nn.Sequential(nn.Linear(WINDOW * width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def states(self, vectors: torch.Tensor) -> torch.Tensor:
        padded = nn.functional.pad(vectors, (0, 0, WINDOW - 1, 0))  # zeros before the first token
        return self.layer(padded.unfold(1, WINDOW, 1).flatten(2))


class Recurrent(EarlierLanguageModel):
    kind: type[nn.RNNBase] = nn.RNN

    def build(self, width: int) -> None:
        self.network = self.kind(width, width, LAYERS, batch_first=True)

    def states(self, vectors: torch.Tensor) -> torch.Tensor:
        return self.network(vectors)[0]


class Lstm(Recurrent):
    kind = nn.LSTM


MODELS = {"bag": BagOfWords, "window": Window, "rnn": Recurrent, "lstm": Lstm}


def width_for(kind: type[EarlierLanguageModel], parameters: int, vocab_size: int) -> int:
    """The width at which a model has a number of parameters, as nearly as possible."""

    def difference(width: int) -> int:
        with torch.device("meta"):
            return abs(sum(weight.numel() for weight in kind(vocab_size, width).parameters()) - parameters)

    return min(range(8, 4096, 4), key=difference)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkpoint", help="folder of a trained text-generation model")
    parser.add_argument("--model", choices=MODELS, default="lstm")
    parser.add_argument("--seconds", type=float, required=True, help="training time")
    parser.add_argument("--seed", type=int, default=1)
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
    width = width_for(MODELS[args.model], transformer.num_parameters(), len(tokenizer))
    model = MODELS[args.model](len(tokenizer), width)
    updates = train(model, rows, collate, args)

    held_out = task.encode(examples["validation"], tokenizer, "validation").rows
    with torch.no_grad():
        losses = torch.cat([row_losses(model, batch) for batch in DataLoader(held_out, 32, collate_fn=collate)])
    nats, targets = losses.T.tolist()
    num_bytes = sum(len(text.encode()) for text in examples["validation"]["text"])
    scores = TextLoss(keep_in_memory=True).compute(nats=nats, targets=list(map(int, targets)), num_bytes=num_bytes)
    size = sum(parameter.numel() for parameter in model.parameters())
    print(  # noqa: T201
        f"{args.model}, width {width}, {size:,} parameters, {updates:,} updates in {args.seconds:.0f} s, seed "
        f"{args.seed}: {scores['bits_per_byte']:.4f} bits per byte"
    )


def train(model: EarlierLanguageModel, rows: Dataset, collate: Callable, args: argparse.Namespace) -> int:
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


def row_losses(model: EarlierLanguageModel, batch: dict) -> torch.Tensor:
    """`[B, 2]`: nats and number of targets of each row."""
    return next_token_nll(model(batch["input_ids"]), batch["labels"])


if __name__ == "__main__":
    main()
