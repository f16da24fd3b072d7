"""How the benchmarks start train.py on a CPU."""

import sys
from pathlib import Path


def command(options: dict, processes: int = 1) -> list[str]:
    """The command that starts train.py with these arguments; with torchrun if there are several processes."""
    launcher = []
    if processes > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        options = options | {"ddp_backend": "gloo"}
    script = Path(__file__).resolve().parents[1] / "train.py"
    arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
    return list(map(str, [sys.executable, *launcher, script, "--use_cpu", "true", *arguments]))
