"""``precision=`` overrules what suits the device, for one run, and its journal says so."""

import pytest
from PIL import ImageChops

import clipgen
from clipgen import device as devices
from clipgen.errors import ClipgenError

SMALL = {"generator": "mini-vqgan", "init": "noise", "size": (64, 64), "cutouts": 2, "steps": 3, "every": 1}


@pytest.mark.slow
def test_runs_of_two_precisions_share_no_model(tmp_path):
    """Two at once, of which one was asked to share with the other: each computes as it was asked to."""
    own = clipgen.Run("a cat", folder=tmp_path, **SMALL)
    full = clipgen.Run("a cat", folder=tmp_path, like=own, precision="fp32", **SMALL)
    again = clipgen.Run("a cat", folder=tmp_path, like=full, precision="fp32", **SMALL)
    assert again.models is full.models
    suits = devices.resolve_precision(own.spec.device)
    assert (full.models is own.models) == (suits == "fp32")
    for _ in zip(own, full):
        pass
    for run, precision in ((own, suits), (full, "fp32")):
        assert run.models.generator.precision == run.models.perceptors[0][0].precision == precision
        assert run.journal.settings["machine"]["precision"] == precision
    assert (own.journal.settings["precision"], full.journal.settings["precision"]) == ("auto", "fp32")
    if suits == "bf16":
        assert ImageChops.difference(own.image, full.image).getbbox()


def test_naming_what_suits_the_device_shares_its_models(tmp_path):
    own = clipgen.Run("a cat", folder=tmp_path, **SMALL)
    named = clipgen.Run(
        "a cat", folder=tmp_path, like=own, precision=devices.resolve_precision(own.spec.device), **SMALL
    )
    assert named.models is own.models


@pytest.mark.slow
def test_a_replay_computes_as_the_run_did(tmp_path):
    run = clipgen.generate("a cat", folder=tmp_path, precision="fp32", progress=False, **SMALL)
    replay = clipgen.Run.replay(run.journal.folder, folder=tmp_path)
    assert replay.settings.precision == replay.spec.precision == "fp32"


def test_words_that_mean_nothing(tmp_path):
    with pytest.raises(ClipgenError, match="precision='half': choose one of: auto, bf16, fp16, fp32"):
        clipgen.Run("a cat", folder=tmp_path, precision="half")
    run = clipgen.Run("a cat", folder=tmp_path, **SMALL)
    with pytest.raises(ClipgenError, match=r"precision=.*cannot be changed during a run"):
        run.change(precision="fp32")
