"""What files are called that nobody names: after the prompt, and never like one that exists."""

import json
import os
import re
import subprocess
import sys
from io import StringIO

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import clipgen
from clipgen.cli import main
from clipgen.errors import ClipgenError
from clipgen.prompts import slug
from clipgen.runs.journal import Journal
from clipgen.storage import remote as downloads
from clipgen.storage.weights import as_safetensors
from clipgen.studio.parts import save_input

SMALL = ["--generator", "pixels", "--init", "random", "--size", "32", "--steps", "1", "--cutouts", "2", "--quiet"]


def files(folder):
    return {path.name for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("🍎", "red-apple"),
        ("🐱🐶", "cat-face-dog-face"),
        ("a 🍎 on a 🪑", "a-red-apple-on-a-chair"),
        ("👩‍🚀", "woman-astronaut"),
        ("👍🏽", "thumbs-up-medium-skin-tone"),
        ("🇫🇷", "france"),
        ("❤️", "red-heart"),
        ("A red apple!", "a-red-apple"),
        ("my_file", "my_file"),
        ("café 猫", "café-猫"),
        ("???", "picture"),
    ],
)
def test_a_name_comes_from_the_prompt(prompt, name):
    assert slug(prompt) == name


@pytest.mark.parametrize("device", ["con", "PRN", "aux", "NUL", "com1", "Com9", "lpt1", "com¹", "con.", "nul!"])
def test_devices_of_windows_are_avoided(device):
    name = slug(device)
    assert not re.fullmatch(r"(?i)con|prn|aux|nul|(com|lpt)[\d¹²³]", name) and device[:3].lower() in name


@pytest.mark.filterwarnings("ignore:prompt too long")
@pytest.mark.parametrize("letter", ["𝒜", "猫", "🐈", "a"])
def test_a_name_of_long_letters_fits_into_a_file_system(letter, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([70 * letter, *SMALL]) == 0
    made = files(tmp_path)
    assert {name.rpartition(".")[2] for name in made} == {"png", "gif"}
    assert all(len(name.encode()) <= 200 for name in made)
    (folder,) = (tmp_path / "clipgen-runs").iterdir()
    assert folder.name.isprintable()


def test_an_upload_of_long_letters(tmp_path):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "red.png")
    kept = save_input(tmp_path, 90 * "猫" + ".png", (tmp_path / "red.png").read_bytes())
    with Image.open(kept) as picture:
        assert picture.getpixel((0, 0)) == (255, 0, 0)


def test_a_default_name_overwrites_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a-cat.gif").write_bytes(b"mine")
    for _ in range(2):
        assert main(["a cat", *SMALL]) == 0
    assert files(tmp_path) == {"a-cat.gif", "a-cat-2.png", "a-cat-2.gif", "a-cat-3.png", "a-cat-3.gif"}
    assert (tmp_path / "a-cat.gif").read_bytes() == b"mine"
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("a-cat-2.png and a-cat-2.gif") and second.startswith("a-cat-3.png and a-cat-3.gif")


def test_emoji_have_files_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for prompt in ("🍎", "🍌"):
        assert main([prompt, *SMALL]) == 0
    assert files(tmp_path) == {"red-apple.png", "red-apple.gif", "banana.png", "banana.gif"}


def test_a_link_and_a_folder_are_not_overwritten(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a-cat.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "a-cat-2.gif").mkdir()
    assert main(["a cat", *SMALL]) == 0
    assert files(tmp_path) == {"a-cat-3.png", "a-cat-3.gif"} and (tmp_path / "a-cat.png").is_symlink()


def test_several_pictures_overwrite_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a-cat-2.png").write_bytes(b"mine")
    assert main(["a cat", "--batch", "2", *SMALL]) == 0
    ends = {f"a-cat-2-{number}.{suffix}" for number in (1, 2) for suffix in ("png", "gif")}
    assert files(tmp_path) == ends | {"a-cat-2.png"} and (tmp_path / "a-cat-2.png").read_bytes() == b"mine"


def test_a_film_overwrites_no_file_that_appears_meanwhile(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (32, 32), "red").save(tmp_path / "film.webp")
    add = Journal.add

    def add_and_write(journal, *frame):
        (tmp_path / "a-cat.gif").write_bytes(b"of another run")
        add(journal, *frame)

    monkeypatch.setattr(Journal, "add", add_and_write)
    asked = [word for word in SMALL if word not in ("--init", "random")]
    assert main(["a cat", "--film", "film.webp", *asked]) == 0
    assert files(tmp_path) == {"film.webp", "a-cat.gif", "a-cat-2.png", "a-cat-2.gif"}
    assert (tmp_path / "a-cat.gif").read_bytes() == b"of another run"


def test_a_name_that_is_given_is_overwritten(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert main(["a cat", *SMALL, "-o", "a-cat.png"]) == 0
    assert files(tmp_path) == {"a-cat.png"}


def test_an_explanation_overwrites_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = 60 * "猫"
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(f"{name}.png")
    (tmp_path / f"{name}-why.png").write_bytes(b"mine")
    assert main(["explain", f"{name}.png", "a cat", "--quiet"]) == 0
    assert files(tmp_path) == {f"{name}.png", f"{name}-why.png", f"{name}-2-why.png"}
    assert (tmp_path / f"{name}-why.png").read_bytes() == b"mine"


def test_resume_and_replay_take_options_between_their_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = {"generator": "pixels", "init": "random", "size": (32, 32), "steps": 1, "cutouts": 2}
    run = clipgen.generate("a cat", folder="runs", progress=False, **words)
    folder = str(run.journal.folder)
    assert main(["resume", folder, "--quiet", "out.gif"]) == 0
    assert main(["replay", folder, "one.png", "--quiet", "two.png", "--folder", "runs"]) == 0
    assert main(["export", folder, "three.gif", "--fps", "5", "four.gif"]) == 0
    assert files(tmp_path) == {"out.gif", "one.png", "two.png", "three.gif", "four.gif"}


def test_without_a_home_the_cache_says_what_to_do(monkeypatch, capsys):
    """As a user that has no passwd entry, in a container."""
    for name in ("HOME", "CLIPGEN_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    with pytest.raises(ClipgenError, match="set CLIPGEN_CACHE to a folder"):
        downloads.list_items()
    assert main(["cache"]) == 2
    assert "set CLIPGEN_CACHE to a folder" in capsys.readouterr().err


def test_a_picture_is_drawn_without_a_home(tmp_path):
    """A process of its own, whose libraries look for a home, too."""
    unset = {"HOME", "CLIPGEN_CACHE", "XDG_CACHE_HOME", "MPLCONFIGDIR", "HF_HOME"}
    around = {name: value for name, value in os.environ.items() if name not in unset}
    source = "import os, sys; os.getuid = lambda: 54321; from clipgen.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", source, "a cat", *SMALL], cwd=tmp_path, env=around, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert files(tmp_path) == {"a-cat.png", "a-cat.gif"}


def test_pruning_leaves_what_is_not_clipgens_own(cache, tmp_path, monkeypatch):
    own = cache / "converted" / "x-0123456789ab.safetensors"
    own.parent.mkdir(parents=True)
    save_file({"a": torch.ones(1)}, own)
    noted = own.with_name("y-0123456789ab.safetensors")
    save_file({"a": torch.ones(1)}, noted, {"origin": json.dumps(["not", "ours"])})
    broken = own.with_name("z-0123456789ab.safetensors")
    broken.write_bytes(b"mine")
    torch.save({"a": torch.ones(1)}, tmp_path / "gone.pt")
    copy = as_safetensors(tmp_path / "gone.pt")
    (tmp_path / "gone.pt").unlink()
    terminal = StringIO()  # at its end, as after Ctrl-D
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stdin", terminal)
    assert main(["cache", "--prune"]) == 0 and copy.exists()
    assert [item.file for item in downloads.prune()] == [copy]
    assert own.exists() and noted.exists() and broken.exists() and not copy.exists()
