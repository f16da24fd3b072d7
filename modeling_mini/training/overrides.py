"""The fields of the model's config that a run may replace with `--config_overrides`."""

from difflib import get_close_matches

from ..configuration_mini import MiniConfig
from ..errors import UserError


# Set by the tokenizer, or by the code that writes a checkpoint.
_NOT_FREE = {
    "pad_token_id": "the tokenizer sets it",
    "bos_token_id": "the tokenizer sets it",
    "eos_token_id": "the tokenizer sets it",
    "format_version": "the code that writes a checkpoint sets it",
}


def canonical_overrides(overrides: dict) -> dict:
    """`--config_overrides` by the names of the config's own fields, so that an alias and its field meet.

    Raises:
        UserError: a name is not a field of the model, or is not free, or a field is given twice.
    """
    fields = set(MiniConfig.__annotations__)
    canonical = {}
    for name, value in overrides.items():
        field = MiniConfig.attribute_map.get(name, name)
        if field not in fields:
            nearest = get_close_matches(name, [*fields, *MiniConfig.attribute_map], n=1, cutoff=0)[0]
            raise UserError(f"--config_overrides: there is no field {name!r}; the nearest is {nearest!r}.")
        if field in _NOT_FREE:
            raise UserError(f"--config_overrides: {name} is not free, because {_NOT_FREE[field]}; leave it out.")
        if field in canonical:
            raise UserError(f"--config_overrides: {name!r} and another name of {field!r} are both given; give one.")
        canonical[field] = value
    return canonical
