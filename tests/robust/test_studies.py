"""Where studies and runs are kept: addresses, locks, damaged folders; and what a study's page shows."""

import json
import os
import re
import shutil
import struct
import zlib
from pathlib import Path

import fsspec
import pytest
from PIL import Image

import clipgen
from clipgen.errors import ClipgenError
from clipgen.studies.grid import expand_grid
from clipgen.studies.row import Row, RowState, StudyStorage
from clipgen.studies.study import Study
from clipgen.studio.gallery import Gallery

TINY = {"generator": "pixels", "size": (64, 64), "init": "perlin", "cutouts": 2, "steps": 1}


@pytest.fixture(autouse=True)
def desk(tmp_path, monkeypatch):
    """A folder to work in."""
    (tmp_path / "desk").mkdir()
    monkeypatch.chdir(tmp_path / "desk")
    return tmp_path / "desk"


@pytest.fixture
def memory():
    """The file system of memory:// addresses, empty."""
    files = fsspec.filesystem("memory")
    files.store.clear()
    yield files
    files.store.clear()


def kept_row(address, seed=1):
    """A row that is made, as its state says, and copied to an address; and the study's storage."""
    storage = StudyStorage(address)
    row = Row(expand_grid("a cat", {"seed": seed} | TINY)[0], storage.folder)
    with storage.locked():
        row.begin(1)
        RowState(1, 1.0, done=True).write(row.folder)
        storage.upload(row.folder)
    return storage, row


KEYS = ["../evil", "inputs/../../../evil", "../../../../evil", "..", "./evil/../../evil", "a\\..\\evil", "c:/evil"]


@pytest.mark.parametrize("key", KEYS)
def test_no_key_of_an_address_is_written_outside_of_its_row(key, memory, desk, tmp_path):
    _, row = kept_row("memory://away")
    memory.pipe_file(f"/away/{row.folder.name}/{key}", b"evil")
    before = {path for path in tmp_path.rglob("*") if row.folder not in path.parents}
    shutil.rmtree(row.folder)
    StudyStorage("memory://away").sync([row.folder])
    assert RowState.read(row.folder).done and row.journal.settings["prompt"] == "a cat", "what is the row's is taken"
    assert {path for path in tmp_path.rglob("*") if row.folder not in path.parents} == before
    assert not [path for path in tmp_path.rglob("*") if "evil" in path.name]


def test_a_failure_at_the_address_does_not_undo_what_was_made_here(memory):
    storage, row = kept_row("memory://away")
    RowState(20, 1.0, error="lost").write(row.folder)
    storage.upload(row.folder)
    RowState(50, 2.0).write(row.folder)
    storage.sync([row.folder])
    assert RowState.read(row.folder).step == 50
    RowState(10, 2.0).write(row.folder)
    storage.sync([row.folder])
    assert RowState.read(row.folder).step == 20, "what is further comes from there"


def test_rows_of_a_study_in_progress_are_not_replaced(memory):
    fcntl = pytest.importorskip("fcntl")
    storage, row = kept_row("memory://away")
    RowState(0, 1.0).write(row.folder)
    holder = os.open(storage.folder, os.O_RDONLY)
    fcntl.flock(holder, fcntl.LOCK_EX)
    with pytest.raises(ClipgenError, match="this study is in progress"):
        StudyStorage("memory://away").sync([row.folder])
    os.close(holder)
    assert not RowState.read(row.folder).done


@pytest.mark.parametrize("name", ["[old]", "a[1]b", "*", "what?", "{x}", "[!a]"])
@pytest.mark.parametrize("kind", ["memory", "file"])
def test_an_address_is_no_pattern(kind, name, memory, tmp_path):
    address = f"memory://{name}/study" if kind == "memory" else f"file://{tmp_path}/{name}/study"
    storage, row = kept_row(address)
    assert storage.row_names()[row.folder.name.rpartition("-")[2]] == row.folder.name
    shutil.rmtree(storage.folder)
    again = StudyStorage(address)
    assert [*again.row_names().values()] == [row.folder.name], "found again"
    again.sync([row.folder])
    assert RowState.read(row.folder).done


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("memory://a-b/c", "memory://a/b-c"),
        ("memory://a/B", "memory://a/b"),
        ("memory://a/é?", "memory://a/é!"),
        ("memory://" + "a" * 100 + "/b", "memory://" + "a" * 100 + "/c"),
        ("memory://a/b/c", "memory://a-b-c"),
    ],
)
def test_two_addresses_never_share_a_folder(one, other, memory):
    assert StudyStorage(one).folder != StudyStorage(other).folder
    assert StudyStorage(one).folder == StudyStorage(f"{one}/").folder, "the same with a slash at its end"
    assert len(StudyStorage(one).folder.name.encode()) < 100


def test_an_address_of_nothing_is_refused(memory):
    with pytest.raises(ClipgenError, match="folder='memory://'"):
        StudyStorage("memory://")


def test_a_password_in_an_address_is_in_no_name_and_no_error(memory):
    study = StudyStorage("memory://me:secret@away/study")
    assert "secret" not in str(study.folder) and study.address == "memory://me:secret@away/study"
    assert study.folder != StudyStorage("memory://away/study").folder
    with pytest.raises(ClipgenError, match="nowhere://away/study") as caught:
        StudyStorage("nowhere://me:secret@away/study")
    assert "secret" not in str(caught.value)


def test_a_link_in_a_row_is_not_copied_to_an_address(memory, tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    storage, row = kept_row("memory://away")
    (row.folder / "inputs" / "secret.txt").symlink_to(tmp_path / "secret.txt")
    storage.upload(row.folder)
    assert not [key for key in memory.store if "secret" in key]


def test_a_refused_lock_leaves_nothing_open(tmp_path):
    fcntl = pytest.importorskip("fcntl")
    holder = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(holder, fcntl.LOCK_EX)
    before = len(os.listdir("/dev/fd"))
    for _ in range(5):
        with (
            pytest.raises(ClipgenError, match="this study is in progress, in another process"),
            StudyStorage(tmp_path).locked(),
        ):
            pass
    assert len(os.listdir("/dev/fd")) == before
    os.close(holder)
    with StudyStorage(tmp_path).locked():
        pass


# --- its page -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["$rows", "${rows}", "$title $css", "$$rows", "$rows $rows", "$unknown", "$"])
def test_a_page_is_filled_once(text, tmp_path):
    """What a prompt has of a template is shown as it is, and every row is there."""
    templates = [f"a {thing} {text}".replace("{", "{{").replace("}", "}}") for thing in ("cat", "dog")]
    rows = [Row(one, tmp_path) for one in expand_grid(templates, TINY)]
    page = Study(rows, StudyStorage(tmp_path), f"study of {text}").export(tmp_path / "page.html").read_text("utf-8")
    assert f"<title>study of {text}</title>" in page and f"<h1>study of {text}</h1>" in page
    (grid,) = re.findall(r'<ul id="rows">(.*?)</ul>', page, re.DOTALL)
    assert re.findall("<span>prompt=(.*?)</span>", grid) == templates
    assert page.count("<li ") == 2
    (records,) = re.findall(r'id="study">(.*?)</script>', page, re.DOTALL)
    assert [record["prompt"] for record in json.loads(records)] == templates


# --- the gallery --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of a finished run."""
    run = clipgen.generate("a cat", folder=tmp_path_factory.mktemp("runs"), progress=False, **TINY)
    return run.journal.folder


def gallery(folder):
    """The prompts that a gallery of earlier runs shows."""
    shown = Gallery(folder, {"Open": print})
    return [card.children[1].value for card in shown.children[1].children]


def settings_with(**values):
    """A function that gives the settings of a run folder other values."""

    def damage(folder):
        file = folder / "settings.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | values))

    return damage


def file_of(name, content):
    """A function that replaces a file of a run folder."""
    return lambda folder: (folder / name).write_bytes(content)


def bomb(folder):
    file = folder / "frames" / "00001.png"
    content = file.read_bytes()
    head = b"IHDR" + struct.pack(">II", 30_000, 30_000) + content[24:29]
    file.write_bytes(content[:12] + head + struct.pack(">I", zlib.crc32(head)) + content[33:])


DAMAGES = {
    "steps are a word": settings_with(steps="x"),
    "steps are nothing": settings_with(steps=None),
    "settled is a word": settings_with(settled="x"),
    "patience is a list": settings_with(patience=[1]),
    "deep JSON": file_of("settings.json", b'{"format": 2, "a": ' + b"[" * 100_000),
    "bytes": file_of("settings.json", b"\xff\xfe\x00"),
    "changes that are numbers": file_of("changes.jsonl", b"1\n2\n"),
    "changes without a step": file_of("changes.jsonl", b'{"prompt": "a"}\n'),
    "changes of deep JSON": file_of("changes.jsonl", b"[" * 100_000),
    "scores that are words": file_of("scores.csv", b"step,clip\nx,y\n"),
    "scores without steps": file_of("scores.csv", b"clip\n0.5\n"),
    "a frame that is none": file_of("frames/00001.png", b"no picture"),
    "a frame far too large": bomb,
    "a frame whose number is none": lambda folder: shutil.copy(folder / "frames/00001.png", folder / "frames/².png"),
    "settings are a folder": lambda folder: ((folder / "settings.json").unlink(), (folder / "settings.json").mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=[*DAMAGES])
def test_a_damaged_folder_takes_no_other_run_along(damage, made, desk):
    for name in ("20260101-whole", "20260102-damaged"):
        shutil.copytree(made, desk / name)
    damage(desk / "20260102-damaged")
    assert gallery(desk)[-1:] == ["a cat"]


def test_damaged_folders_take_no_places(made, desk):
    shutil.copytree(made, desk / "20260101-whole")
    for number in range(30):
        (desk / f"20260102-{number:02d}").mkdir()
        (desk / f"20260102-{number:02d}" / "settings.json").write_text('{"format": 2, "steps": "x"}')
    studio = clipgen.Studio(folder=desk)
    (card,) = studio.gallery.children[1].children
    studio.close()
    assert card.children[1].value == "a cat"


def test_a_run_that_only_lacks_its_disk_is_no_damaged_one(made, desk, monkeypatch):
    """The frames cannot be read at the moment: the run is there, without a picture."""
    shutil.copytree(made, desk / "20260101-whole")
    opened = Image.open

    def fails(file, *args, **options):
        if "frames" in str(file):
            raise OSError(107, "Transport endpoint is not connected")
        return opened(file, *args, **options)

    monkeypatch.setattr(Image, "open", fails)
    assert gallery(desk) == ["a cat"]


def test_a_disk_that_is_gone_is_an_empty_gallery(desk, monkeypatch):
    def fails(*_):
        raise OSError(107, "Transport endpoint is not connected")

    monkeypatch.setattr(Path, "glob", fails)
    assert gallery(desk / "drive") == []
