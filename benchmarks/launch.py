"""How the benchmarks start train.py on a CPU."""

import sys
from pathlib import Path


def command(options: dict, processes: int = 1) -> list[str]:
    """The words that start train.py with these arguments, by torchrun if there are several processes."""
    launcher = []
    if processes > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        options = options | {"ddp_backend": "gloo"}
    script = Path(__file__).resolve().parents[1] / "train.py"
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    return list(map(str, [sys.executable, *launcher, script, "--use_cpu", "true", *words]))
