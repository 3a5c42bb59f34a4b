import pytest
from published import published


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """A cache folder with models of the published sizes: gigabytes, written once for all tests of a worker."""
    return published(tmp_path_factory.mktemp("published"), "vqgan_imagenet_f16_1024", "vqgan_imagenet_f16_16384")
