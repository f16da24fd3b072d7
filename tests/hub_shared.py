"""What the tests of tests/hub share: names, checks of a repository, and ways to damage one."""

import json

import pytest

from modeling_mini.configuration_mini import AUTO_CLASSES


AUTO_NAMES = list(AUTO_CLASSES.values())
CODE = {"configuration_mini.py", "loss_mini.py", "masking_mini.py", "modeling_mini.py"}  # in every repository
# The requests of a push, as (method, text in the path).
ENDPOINTS = {
    "who": ("GET", "/whoami"),
    "create": ("POST", "/repos/create"),
    "head": ("GET", "/api/models/alice/mini"),
    "preupload": ("POST", "/preupload/"),
    "batch": ("POST", "/info/lfs/objects/batch"),
    "object": ("PUT", "/lfs-objects/"),
    "commit": ("POST", "/commit/"),
}

transfers = pytest.mark.parametrize("hub", ["lfs", "regular", "xet"], indirect=True)


def files_of(hub, repo_id="alice/mini", revision="main"):
    """The files of a revision: `{path: Blob}`."""
    return hub.repository(repo_id).find(revision).files


def damage_config(folder, **fields):
    """Overwrite fields of config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
