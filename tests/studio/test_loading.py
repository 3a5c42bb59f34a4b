"""Models that come from a slow server, seen and stopped in the Studio."""

import io
import threading
import time
from dataclasses import replace

import huggingface_hub.constants
import pytest
import torch
from slow_server import SlowServer
from studio_hands import SMALL, click, named, until

import clipgen
from clipgen.generators.catalogue import GENERATORS, Entry
from clipgen.generators.vqgan import VQModel
from clipgen.progress import Download
from clipgen.storage.remote import Remote

CONFIG = {
    "n_embed": 32,
    "embed_dim": 4,
    "z_channels": 4,
    "ch": 32,
    "ch_mult": (1, 1, 2),
    "num_res_blocks": 1,
    "attn_resolutions": (),
}


@pytest.fixture
def server():
    """Has the checkpoint of a small VQGAN with random weights; gives nothing of it yet."""
    out = io.BytesIO()
    torch.save({"state_dict": VQModel(**CONFIG).state_dict()}, out)
    server = SlowServer(out.getvalue())
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.let(len(server.content))
    server.shutdown()
    server.server_close()


@pytest.fixture(params=["address", "hub"])
def source(request, server, cache, tmp_path, monkeypatch):
    """Where the catalogue says that it is."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    hub = {
        "ENDPOINT": server.address,
        "HUGGINGFACE_CO_URL_TEMPLATE": f"{server.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}",
        "HF_HUB_CACHE": str(tmp_path / "hub"),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "DOWNLOAD_CHUNK_SIZE": 1 << 10,  # else its library says something every 10 MB
    }
    for name, value in hub.items():
        monkeypatch.setattr(huggingface_hub.constants, name, value)
    return f"{server.address}/last.ckpt" if request.param == "address" else "hf:org/repo/last.ckpt"


@pytest.fixture
def studio(source, tmp_path, monkeypatch):
    """A Studio whose generator is there."""
    entry = Entry("clipgen.generators.vqgan:load", CONFIG, files=(Remote("slow/last.ckpt", (source,)),))
    monkeypatch.setitem(GENERATORS, "slow", replace(entry, stride=4, codebook_size=32))
    monkeypatch.setattr(clipgen.Studio, "_newest_job", None)  # whose models would be shared
    studio = clipgen.Studio("a red heart", folder=tmp_path / "runs", generator="slow", steps=2, **SMALL)
    yield studio
    studio.stop()
    studio.job.join(60)


@pytest.mark.slow
def test_a_download_is_shown_and_the_run_begins_after_it(studio, server):
    total = len(server.content)
    server.let(total // 4)
    click(studio, "Generate")
    until(lambda: "(25%)" in studio.preview.status.value, "a quarter of it")
    assert "Downloading" in studio.preview.phase.value
    assert '<progress value="0.250" max="1">' in studio.preview.phase.value
    assert "slow/last.ckpt · " in studio.preview.status.value
    assert not named(studio, "Stop")[0].disabled
    server.let(total // 2)
    until(lambda: "(50%)" in studio.preview.status.value, "half of it")
    assert "B/s" in studio.preview.status.value and " left" in studio.preview.status.value
    server.let(total)
    assert studio.wait(120).finished
    assert "step 2/2" in studio.preview.status.value and "<progress" not in studio.preview.phase.value


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.5, 0], ids=["on its way", "nothing comes"])
def test_stop_while_it_downloads(share, studio, server):
    half = int(len(server.content) * share)
    server.let(half)
    click(studio, "Generate")
    until(lambda: f"({share:.0%})" in studio.preview.status.value or (not half and server.begun), "the beginning")
    click(studio, "Stop")
    assert studio.wait(60) is None and not studio.job.is_alive
    until(lambda: "Stopped" in studio.preview.phase.value, "the word")
    assert not studio.preview.error.value and not named(studio, "Generate")[0].disabled

    server.let(len(server.content))
    click(studio, "Generate")
    assert studio.wait(120).finished
    (address,) = GENERATORS["slow"].files[0].sources
    if half and not address.startswith("hf:"):
        assert server.begun == [0, half], "what had come is kept"


@pytest.mark.parametrize(
    "done, total, told",
    [
        (250_000_000, 1_000_000_000, "a.pt · 250MB of 1.00GB (25%) · 5.00MB/s · 02:30 left"),
        (3_000_000, None, "a.pt · 3.00MB · 60.0kB/s"),
    ],
)
def test_what_is_told_of_a_download(done, total, told):
    assert str(Download("a.pt", done, total, began=time.monotonic() - 50)) == told


def test_what_was_here_before_makes_it_no_faster():
    download = Download("a.pt", 300_000_000, 400_000_000, 200_000_000, time.monotonic() - 20)
    assert str(download) == "a.pt · 300MB of 400MB (75%) · 5.00MB/s · 00:20 left"
