"""Runs a script with FSDP2 on CPUs: `accelerate launch … tests/fsdp2_on_cpu.py SCRIPT …`.

accelerate uses DDP for several CPU processes. This file reports them as GPU processes, so that accelerate uses FSDP2;
their device remains the CPU.
"""

import runpy
import sys

from accelerate.state import PartialState
from accelerate.utils import DistributedType


original_init = PartialState.__init__


def init_as_gpu_processes(self, *args, **kwargs):
    original_init(self, *args, **kwargs)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_GPU


PartialState.__init__ = init_as_gpu_processes
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
