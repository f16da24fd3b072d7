"""Every model class of the package, with the Auto class that opens it."""

import transformers

import modeling_mini
from modeling_mini.configuration_mini import AUTO_CLASSES


MODEL_CLASSES = [getattr(modeling_mini, name) for name in AUTO_CLASSES]
AUTO_CLASS_OF = {getattr(modeling_mini, name): getattr(transformers, auto) for name, auto in AUTO_CLASSES.items()}
