"""Models that come from a slow server, seen and stopped in the Studio."""

import io
import threading
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
from clipgen.studio.preview import describe_download
from clipgen.studio.worker import Speed

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
    threading.Thread(target=server.serve_forever, daemon=True).start()
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
    entry = Entry("clipgen.generators.vqgan:load", (Remote("slow/last.ckpt", (source,)),), CONFIG)
    monkeypatch.setitem(GENERATORS, "slow", replace(entry, stride=4, codes=32))
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
    assert f"slow/last.ckpt · {total / 4e6:.0f} of {total / 1e6:.0f} MB" in studio.preview.status.value
    assert not named(studio, "Stop")[0].disabled
    server.let(total // 2)
    until(lambda: "MB/s" in studio.preview.status.value and " left" in studio.preview.status.value, "the speed")
    assert "(50%)" in studio.preview.status.value
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
    "download, speed, said",
    [
        (Download("a.pt", 250_000_000, 1_000_000_000), 5e6, "a.pt · 250 of 1000 MB (25%) · 5.0 MB/s · 2 min 30 s left"),
        (Download("a.pt", 999_000_000, 1_000_000_000), 0.0, "a.pt · 999 of 1000 MB (100%)"),
        (Download("a.pt", 3_000_000, None), 2e5, "a.pt · 3 MB · 0.2 MB/s"),
    ],
)
def test_what_is_said_of_a_download(download, speed, said):
    assert describe_download(download, speed) == said


def test_the_speed_is_that_of_the_last_seconds():
    now = 0.0
    speed = Speed(lambda: now)
    assert speed.bytes_per_second == 0
    for half in range(20):  # a thousand a second, then eight thousand
        now = half / 2
        speed.update(Download("a.pt", 500 * half if half < 10 else 5000 + 4000 * (half - 10), None))
    assert speed.bytes_per_second == pytest.approx(8000, rel=0.15)
    now += 5
    assert speed.bytes_per_second == pytest.approx(4000, rel=0.15), "a stall makes it slower"
