import os

import pytest
import torch
from filelock import FileLock
from published import published


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """A cache folder with models of the published sizes: a gigabyte, written once for all workers."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "published"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            part = tmp_path_factory.mktemp("part")
            vqgans = "vqgan_imagenet_f16_1024", "vqgan_imagenet_f16_16384"
            published(part, *vqgans, dtype=torch.float16).rename(folder)
    return folder
