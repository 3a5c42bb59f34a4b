"""What is served with status 200 and is not the file that was asked for: none stays, and the next source is tried."""

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from loopback import CONTENT, DIGEST, ZIP

from clipgen.errors import ClipgenError
from clipgen.storage.download import WrongFileError, check_format, check_hub_cache
from clipgen.storage.remote import Remote, Source, fetch

PAGE = b"<!DOCTYPE html>\n<html><head><title>This link is gone</title></head></html>"
REVISION = "d" * 40


def left(cache):
    return sorted(p.name for p in cache.rglob("*") if p.is_file())


@pytest.mark.parametrize(
    ("content", "mood", "says"),
    [
        (PAGE, {"type": "text/html; charset=utf-8"}, "a web page came"),
        (CONTENT, {"type": "text/html"}, "a web page came"),
        (PAGE * 3000, {}, "it is a web page"),
        (b"\n  <html>" + b"x" * 300_000, {"no_length": True}, "it is a web page"),
        (CONTENT[:100_000], {}, "100000 bytes are too few, it has about 0 MB"),
        (CONTENT[:100_000], {"no_length": True}, "100000 bytes are too few"),
        (bytes(range(256)) * 1200, {}, "of no known format"),
        (b'{"error": "quota"}' * 17_000, {}, "of no known format"),
    ],
)
def test_another_file_is_refused_and_the_next_source_tried(content, mood, says, server, cache):
    server.files["/gone"] = content
    server.mood = lambda number: mood if server.log[-1][0] == "/gone" else {}
    gone = f"{server.address}/gone"
    with pytest.warns(UserWarning, match=f"gone is not available .*{says}"):
        file = fetch(Remote("faceshq/last.ckpt", (gone, f"{server.address}/model.ckpt"), 0.307))
    assert file.read_bytes() == CONTENT and left(cache) == ["checksums.json", "last.ckpt"]
    assert [path for path, _ in server.log] == ["/gone", "/model.ckpt"], "it is not asked for a second time"
    file.unlink()
    with pytest.warns(UserWarning), pytest.raises(ClipgenError) as caught:
        fetch(Remote("faceshq/last.ckpt", (gone, f"{server.address}/nowhere"), 0.307))
    assert re.search(f"Tried:\n  .*/gone: .*{says}.*\n  .*/nowhere: HTTP Error 404", str(caught.value))
    assert left(cache) == ["checksums.json"]


def test_a_page_that_an_earlier_version_kept_is_named(server, cache):
    file = cache / "faceshq" / "last.ckpt"
    file.parent.mkdir(parents=True)
    file.write_bytes(PAGE)
    with pytest.raises(ClipgenError, match=r"last\.ckpt: it is a web page; delete it, and it is downloaded again"):
        fetch(Remote("faceshq/last.ckpt", (f"{server.address}/model.ckpt",), 0.307))
    assert server.log == []


@pytest.mark.parametrize(
    ("name", "start", "good"),
    [
        ("model.ckpt", ZIP, True),
        ("model.ckpt", b"\x80\x02\x8a\x0al\xfc", True),
        ("model.pkl", b"\x80\x05", True),
        ("model.ckpt", b"\x80\x09", False),
        ("model.safetensors", (2).to_bytes(8, "little") + b"{}", True),
        ("model.safetensors", (9999).to_bytes(8, "little") + b"{}", False),
        ("model.safetensors", b"version https://git-lfs.github.com/spec/v1\n", False),
        ("vocab.json", b' {"a": 1}', True),
        ("vocab.json", b"not found", False),
        ("merges.txt", b"#version: 0.2\na b", True),
        ("merges.txt", b"<html>", False),
        ("merges.txt", b"\0\0", False),
        ("model.ckpt", b"", False),
    ],
)
def test_first_bytes(name, start, good, tmp_path):
    (tmp_path / name).write_bytes(start)
    if good:
        check_format(tmp_path / name, name)
    else:
        with pytest.raises(WrongFileError):
            check_format(tmp_path / name, name)


def test_what_a_source_says_of_itself():
    plain = Source.parse("hf:org/repo/folder/model.ckpt", 3, "ab")
    assert plain == Source("hf:org/repo/folder/model.ckpt", 3, "ab")
    assert plain.hub == {"repo_id": "org/repo", "revision": None, "filename": "folder/model.ckpt"}
    own = Source.parse(f"hf:org/repo@{REVISION}/model.ckpt#sha256=cd&megabytes=1.5", 3, "ab")
    assert own.hub == {"repo_id": "org/repo", "revision": REVISION, "filename": "model.ckpt"}
    assert (own.megabytes, own.sha256) == (1.5, "cd")
    address = Source.parse("https://example.org/d/x/files/?p=%2Flast.ckpt&dl=1#sha256=cd")
    assert (address.where, address.hub) == ("https://example.org/d/x/files/?p=%2Flast.ckpt&dl=1", {})
    with pytest.raises(ValueError, match="bad query"):
        Source.parse("hf:org/repo/model.ckpt#abcdef")


def test_copies_may_differ(server, cache):
    """Each has its own checksum; the one of the publisher's does not keep a mirror's copy out, or let it in."""
    server.files["/mirror"] = copy = ZIP + CONTENT[:3:-1]
    gone, mirror = f"{server.address}/gone", f"{server.address}/mirror"
    refused = f"mirror: its SHA-256 is .*, and it should be {DIGEST[:16]}"
    with pytest.warns(UserWarning), pytest.raises(ClipgenError, match=refused):
        fetch(Remote("some/model.ckpt", (gone, mirror), sha256=DIGEST))
    good = hashlib.sha256(copy).hexdigest()
    with pytest.warns(UserWarning, match="404"):
        file = fetch(Remote("some/model.ckpt", (gone, f"{mirror}#sha256={good}"), sha256=DIGEST))
    assert file.read_bytes() == copy
    file.unlink()
    fetch(Remote("some/model.ckpt", (f"{server.address}/model.ckpt", mirror)))  # no pin of another address is held to


def test_a_file_of_the_hub_is_taken_where_nothing_can_be_noted(tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("no folder")
    monkeypatch.setenv("CLIPGEN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "model.ckpt").write_bytes(CONTENT)
    source = Source("hf:org/repo/model.ckpt", sha256=DIGEST)
    assert check_hub_cache(tmp_path / "model.ckpt", source, "model.ckpt") == tmp_path / "model.ckpt"


def hub(server, *remotes, **knobs):
    """Fetch in a fresh interpreter whose hub is the server, each twice; (the paths or refusals, the warnings)."""
    code = f"""
from clipgen.errors import ClipgenError
from clipgen.storage.remote import Remote, cached, fetch
for number, sources in enumerate({remotes!r}):
    remote = Remote(f"some{{number}}/last.ckpt", sources, 0.307, **{knobs!r})
    try:
        print(fetch(remote), end="\\0")
        assert fetch(remote) == cached(remote)
    except ClipgenError as error:
        print(error, end="\\0")
"""
    env = os.environ | {"HF_ENDPOINT": server.address, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\0")[:-1], done.stderr


def large(folder):
    return [p for p in folder.rglob("*") if p.is_file() and p.stat().st_size > 100_000]


@pytest.mark.slow
def test_the_hub_is_held_to_checksums_and_revisions(server, cache, tmp_path):
    server.files["/org/bad/resolve/main/model.ckpt"] = ZIP + b"something else" * 20_000
    server.files["/org/page/resolve/main/model.ckpt"] = PAGE * 4000
    server.files[f"/org/repo/resolve/{REVISION}/folder/model.ckpt"] = CONTENT
    sources = (
        f"hf:org/bad/model.ckpt#sha256={DIGEST}",
        "hf:org/page/model.ckpt",
        f"hf:org/repo@{REVISION}/folder/model.ckpt#sha256={DIGEST}",
    )
    (file,), said = hub(server, sources)
    assert Path(file).read_bytes() == CONTENT and Path(file).is_relative_to(tmp_path / "hub")
    assert re.search(r"bad/model\.ckpt is not available .*its SHA-256 is", said)
    assert re.search(r"page/model\.ckpt is not available .*it is a web page", said)
    assert {p.read_bytes() for p in large(tmp_path / "hub")} == {CONTENT}, "the wrong ones were deleted"
    (mark,) = json.loads((cache / "checksums.json").read_text())
    assert mark.startswith(f"hf:org/repo@{REVISION}/folder/model.ckpt {len(CONTENT)} "), "so it is read through once"


@pytest.mark.slow
def test_what_lies_in_the_hubs_cache_is_checked_too(server, cache):
    server.files["/org/repo/resolve/main/model.ckpt"] = ZIP + b"something else" * 20_000
    (file, refused), _ = hub(server, ("hf:org/repo/model.ckpt",), (f"hf:org/repo/model.ckpt#sha256={DIGEST}",))
    assert f"{file}: its SHA-256 is" in refused and Path(file).exists(), "others may use it"


@pytest.mark.slow
def test_a_blob_that_is_not_what_its_name_says(server, cache, tmp_path):
    """The hub names large files by their checksum; its library compares no more than sizes."""
    for name in ("wrong", "right"):
        server.files[f"/org/{name}/resolve/main/model.ckpt"] = CONTENT
    server.mood = lambda number: {"tag": DIGEST if "right" in server.log[-1][0] else "e" * 64}
    (refused, file), _ = hub(server, ("hf:org/wrong/model.ckpt",), ("hf:org/right/model.ckpt",))
    assert f"it should be {'e' * 16}..." in refused and Path(file).read_bytes() == CONTENT
    assert all("right" in str(p) for p in large(tmp_path / "hub")), "the wrong one was deleted"


@pytest.mark.slow
def test_bulky_files_come_where_they_can_be_pruned(server, cache, tmp_path):
    server.files[f"/org/repo/resolve/{REVISION}/model.ckpt"] = CONTENT
    place = f"hf:org/repo@{REVISION}/model.ckpt"
    (refused, file), _ = hub(server, (f"{place}#sha256=ab",), (f"{place}#sha256={DIGEST}",), bulky=True)
    assert "its SHA-256 is" in refused
    assert Path(file) == cache / "some1" / "last.ckpt" and Path(file).read_bytes() == CONTENT
    assert left(cache) == ["checksums.json", "last.ckpt"] and not large(tmp_path / "hub")
