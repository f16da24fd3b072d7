"""`modeling-mini env`: versions and hardware, for a report of a problem."""

import os
import platform
from importlib import metadata


# What a run may use, in the order of its use; those that are not installed are shown too.
PACKAGES = (
    *("modeling_mini", "torch", "transformers", "tokenizers", "huggingface_hub", "safetensors"),
    *("accelerate", "datasets", "evaluate", "peft", "deepspeed", "scikit-learn", "sacrebleu", "rouge-score"),
    *("onnx", "onnxruntime", "openvino", "executorch", "litert-torch", "gguf", "gradio", "vllm"),
)


def environment() -> dict[str, str]:
    """What `env` shows: name -> version, or "not installed"."""
    lines = {"Python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            lines[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            lines[package] = "not installed"
    return lines | {"CPU cores": str(os.cpu_count()), "accelerator": _accelerator()}


def _accelerator() -> str:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
        platform_version = f"CUDA {torch.version.cuda}" if torch.version.cuda else f"ROCm {torch.version.hip}"
        return f"{', '.join(names)} ({platform_version})"
    if torch.accelerator.is_available():
        return torch.accelerator.current_accelerator().type
    return "none"


def describe() -> str:
    """`environment` as a list in Markdown, to paste into an issue."""
    return "".join(f"- {name}: {value}\n" for name, value in environment().items())
