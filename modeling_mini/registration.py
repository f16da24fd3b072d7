"""Register the Mini classes with transformers, PEFT and vLLM, without any change to those packages."""

import importlib
import importlib.abc
import importlib.util
import sys
from collections.abc import Callable


_AUTO_MODELS = "transformers.models.auto.modeling_auto"
_LAYERS = "transformers.modeling_layers"
_OUR_MODELS = f"{__package__}.modeling_mini"


def register() -> None:
    """Register the config and every head. Runs on import of the package; running it again changes nothing.

    Imports neither transformers nor our models: each registration waits until the module that it needs is imported.
    """
    _AfterImport("transformers.models.auto.configuration_auto", _register_config).watch()
    # Our models import `modeling_layers`, which imports `modeling_auto`. When an inner module has been executed, the
    # modules that import it have not, so each step waits for the one before.
    _AfterImport(_OUR_MODELS, _register_models).watch()
    _AfterImport(_LAYERS, lambda _: importlib.import_module(_OUR_MODELS)).watch()
    _AfterImport(_AUTO_MODELS, lambda _: importlib.import_module(_LAYERS)).watch()
    _AfterImport("peft.utils.constants", _add_lora_targets).watch()
    _AfterImport("transformers.pipelines", _add_pipelines).watch()


def _register_config(configuration_auto) -> None:
    from .configuration_mini import MiniConfig

    configuration_auto.AutoConfig.register(MiniConfig.model_type, MiniConfig, exist_ok=True)


def _register_models(modeling_mini) -> None:
    """Register every head: for a missing one, transformers would pair a checkpoint's class with our config class."""
    from .configuration_mini import AUTO_CLASSES

    modeling_auto = importlib.import_module(_AUTO_MODELS)
    for name, auto_class_name in AUTO_CLASSES.items():
        model_class = getattr(modeling_mini, name)
        getattr(modeling_auto, auto_class_name).register(model_class.config_class, model_class, exist_ok=True)
        # `transformers serve` looks up the class of a checkpoint by name in the transformers module. There are two
        # objects of this module, because importing `transformers.processing_utils` runs its `__init__` once more, and
        # the server may hold either. Both find a name in their class.
        setattr(type(sys.modules["transformers"]), name, model_class)

    # The Trainer shifts labels under label smoothing only for names in this mapping, and lm-eval reads it to decide
    # which models are causal.
    modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[modeling_mini.MiniConfig.model_type] = "MiniForCausalLM"


def _add_lora_targets(constants) -> None:
    """Give PEFT the default LoRA targets, which are those of Llama."""
    from .configuration_mini import MiniConfig

    targets = getattr(constants, "TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING", {})
    targets[MiniConfig.model_type] = ["q_proj", "v_proj"]


def _add_pipelines(module) -> None:
    """Add the tasks that transformers dropped to `transformers.pipeline`, if the packages for them are installed."""
    if all(importlib.util.find_spec(name) for name in ("datasets", "evaluate")):
        from .inference import pipelines  # noqa: F401, the module registers them when it is imported


class _AfterImport(importlib.abc.MetaPathFinder):
    """Calls `action(module)` after a module is executed, or at once if it already is, to keep our own import light.

    The finder stays until the action has succeeded: a module may be looked up without being executed, or may fail and
    be imported again.
    """

    def __init__(self, module_name: str, action: Callable):
        self.module_name, self.action = module_name, action

    def watch(self) -> None:
        if self.module_name in sys.modules:
            self.action(importlib.import_module(self.module_name))  # waits for a thread that is still executing it
        elif not any(getattr(finder, "module_name", None) == self.module_name for finder in sys.meta_path):
            sys.meta_path.insert(0, self)

    def find_spec(self, fullname, path, target=None):
        if fullname != self.module_name:
            return None
        others = (finder.find_spec(fullname, path, target) for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, others), None)
        if spec is None:
            return None
        run_module = spec.loader.exec_module

        def run_and_act(module):
            run_module(module)
            self.action(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)

        spec.loader.exec_module = run_and_act
        return spec
