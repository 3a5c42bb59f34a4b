import killed_study
import pytest
from PIL import Image

from clipgen.runs.journal import Journal
from clipgen.studies import executor

# A draft to start from takes longer than all of these steps.
QUICK = {"size": (64, 64), "init": "perlin", "cutouts": 2, "every": 1, "progress": False}


@pytest.fixture(scope="session")
def quick():
    """The settings of a run that takes next to no time."""
    return QUICK


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """The study that nobody kills, made with one thread."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(executor, "count_cores", lambda: 1)
        return killed_study.main(tmp_path_factory.mktemp("whole"), 1)


@pytest.fixture(scope="session")
def same():
    """Raises AssertionError where two run folders differ in a frame, a latent or a score."""

    def compare(made, wanted):
        assert Journal(made).steps == Journal(wanted).steps and Journal(made).scores == Journal(wanted).scores
        for part in ("frames", "latents"):
            for file in sorted((wanted / part).iterdir()):
                assert (made / part / file.name).read_bytes() == file.read_bytes(), f"{part}/{file.name} of {made}"

    return compare


@pytest.fixture
def film():
    """Seven frames of a square that wanders over a plain ground."""
    frames = []
    for number in range(7):
        frame = Image.new("RGB", (64, 64), (200, 220, 240))
        frame.paste((200, 40, 40), (6 * number, 20, 6 * number + 20, 40))
        frames.append(frame)
    return frames
