"""Replaces a module that transformers' source distribution does not contain: starts ranks on the CPU, over gloo."""

import os

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def _get_distributed_device_type() -> str:
    return "cpu"


def _get_distributed_backend() -> str:
    return "gloo"


def _get_rank_device(rank: int) -> torch.device:
    return torch.device("cpu")


def _set_rank_device(rank: int) -> None:
    """Nothing to do: a CPU has no current device."""


def _start_rank_processes(function, args: tuple, nprocs: int) -> None:
    """Run `function(rank, *args)` in each of `nprocs` new processes; an error in one stops all and is raised here."""
    mp.start_processes(function, args=args, nprocs=nprocs, start_method="spawn")


def run_distributed(world_size: int):
    """`run_distributed(2)(function)(*args)` runs `function(rank, *args)` on two ranks of one process group."""

    def with_ranks(function):
        def run(*args):
            # The store is in this process, so that no other test can take its port while the ranks start.
            store = dist.TCPStore("localhost", 0, world_size=None, is_master=True, wait_for_workers=False)
            _start_rank_processes(_run_rank, (function, args, world_size, store.port), world_size)

        return run

    return with_ranks


def _run_rank(rank: int, function, args: tuple, world_size: int, port: int) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    store = dist.TCPStore("localhost", port, world_size=None, is_master=False)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    try:
        function(rank, *args)
    finally:
        dist.destroy_process_group()
