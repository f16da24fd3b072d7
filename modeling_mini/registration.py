"""Make transformers and its neighbours know the Mini classes, without a change on their side."""

import importlib.abc
import importlib.util
import sys
from collections.abc import Callable

import transformers
from transformers.models.auto import modeling_auto

from .configuration_mini import MiniConfig
from .modeling_mini import (
    MiniForCausalLM,
    MiniForMaskedLM,
    MiniForQuestionAnswering,
    MiniForSequenceClassification,
    MiniForTokenClassification,
    MiniModel,
)


AUTO_CLASSES = {
    transformers.AutoModel: MiniModel,
    transformers.AutoModelForCausalLM: MiniForCausalLM,
    transformers.AutoModelForMaskedLM: MiniForMaskedLM,
    transformers.AutoModelForSequenceClassification: MiniForSequenceClassification,
    transformers.AutoModelForTokenClassification: MiniForTokenClassification,
    transformers.AutoModelForQuestionAnswering: MiniForQuestionAnswering,
}
AUTO_CLASS_NAMES = {ours.__name__: auto_class.__name__ for auto_class, ours in AUTO_CLASSES.items()}


def register() -> None:
    """Register the config and every head. Runs on import of the package; running it again changes nothing.

    All or nothing: with a head missing here, transformers would pair the remote model class of a checkpoint with the
    local config class.
    """
    transformers.AutoConfig.register(MiniConfig.model_type, MiniConfig, exist_ok=True)
    for auto_class, model_class in AUTO_CLASSES.items():
        auto_class.register(MiniConfig, model_class, exist_ok=True)

    # Only for names listed here does the Trainer shift labels under label smoothing, and lm-eval score as causal.
    modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[MiniConfig.model_type] = MiniForCausalLM.__name__

    # `transformers serve` looks the class of a checkpoint up by name in the transformers module.
    for model_class in AUTO_CLASSES.values():
        setattr(sys.modules["transformers"], model_class.__name__, model_class)

    _AfterImport("peft.utils.constants", _add_lora_targets).watch()
    _AfterImport("transformers.pipelines", _add_pipelines).watch()


def _add_lora_targets(constants) -> None:
    """Give PEFT the default LoRA targets of Llama."""
    targets = getattr(constants, "TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING", {})
    targets[MiniConfig.model_type] = ["q_proj", "v_proj"]


def _add_pipelines(module) -> None:
    """Give `transformers.pipeline` the tasks that it dropped, where what they are read with is installed."""
    if all(importlib.util.find_spec(name) for name in ("datasets", "evaluate")):
        from . import pipelines  # noqa: F401, it registers them at its end


class _AfterImport(importlib.abc.MetaPathFinder):
    """Calls `action(module)` once a module has run, or at once if it has: to keep the import of this package light."""

    def __init__(self, module_name: str, action: Callable):
        self.module_name, self.action = module_name, action

    def watch(self) -> None:
        if self.module_name in sys.modules:
            self.action(sys.modules[self.module_name])
        elif not any(getattr(finder, "module_name", None) == self.module_name for finder in sys.meta_path):
            sys.meta_path.insert(0, self)

    def find_spec(self, fullname, path, target=None):
        if fullname != self.module_name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        run_module = spec.loader.exec_module

        def run_and_act(module):
            run_module(module)
            self.action(module)

        spec.loader.exec_module = run_and_act
        return spec
