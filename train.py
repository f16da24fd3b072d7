"""Train a language model.

    python train.py                                          the quickstart, on text of the Python installation
    python train.py RECIPE.yaml --learning_rate 1e-3         a recipe, with any argument overridden
    python train.py --dataset my.txt --output_dir runs/mine  your own text
    python train.py --resume                                 continue after an interruption
    accelerate launch train.py                               on many devices
    python train.py --help                                   every argument

The whole flow, from corpus to model card, is `train()` in modeling_mini/training/run.py.
"""

import sys


if __name__ == "__main__":
    from modeling_mini.cli import train
    from modeling_mini.commands import exit_on_signals

    exit_on_signals()
    sys.exit(train(sys.argv[1:], command=("python", sys.argv[0])))
