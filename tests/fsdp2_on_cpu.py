"""`accelerate launch … tests/fsdp2_on_cpu.py SCRIPT …`: FSDP2 without a GPU, where accelerate would turn to DDP.

It takes its way for several GPUs if it finds several processes of a CPU, and finds the CPU as their device.
"""

import runpy
import sys

from accelerate.state import PartialState
from accelerate.utils import DistributedType


find_devices = PartialState.__init__


def find_devices_and_rename_them(self, *args, **kwargs):
    find_devices(self, *args, **kwargs)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_GPU


PartialState.__init__ = find_devices_and_rename_them
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
