"""Arguments of public functions: pictures in every form, and what is none; all is checked before models are loaded."""

import io
import struct

import numpy as np
import pytest
import torch
from PIL import Image

import clipgen
from clipgen import ClipgenError
from clipgen.device import resolve_device
from clipgen.images.films import FilmReader
from clipgen.images.reading import to_picture
from clipgen.inspect import draw_pipeline
from clipgen.runs.spec import parse_ensemble
from clipgen.studies.grid import expand_grid

RED, BLUE = (200, 30, 40), (30, 40, 200)
TINY = {"generator": "pixels", "init": "random", "size": (32, 32), "steps": 2, "cutouts": 2}


def _red():
    return Image.new("RGB", (16, 16), RED)


def _bytes(picture, kind="PNG", **options):
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def _gif():
    return _bytes(_red(), "GIF", save_all=True, append_images=[Image.new("RGB", (16, 16), BLUE)], duration=40)


@pytest.fixture
def unloaded(monkeypatch):
    """Fail where a model is loaded."""

    def fail(*args, **kwargs):
        raise AssertionError("a model was loaded before the arguments were checked")

    for name in ("clip.catalogue.load_perceptor", "priors._models", "priors.load_perceptor"):
        monkeypatch.setattr(f"clipgen.{name}", fail)


# --- pictures -------------------------------------------------------------------------------------------


def test_bytes_are_a_picture_wherever_one_is_taken(tmp_path):
    data = _bytes(_red())
    assert to_picture(data).getpixel((3, 3)) == to_picture(io.BytesIO(data)).getpixel((3, 3)) == RED
    for given in (data, io.BytesIO(data)):
        run = clipgen.Run(given, **TINY | {"init": given}, folder=tmp_path)
        assert run.settings.prompt.startswith("picture-") and run.settings.init == run.settings.prompt
        assert clipgen.rank(given, ["a", "b"]).shape == (1, 2)
        assert clipgen.strip([given]).size == (272, 272)


@pytest.mark.parametrize("value", [None, 137, {"a": 1}, object()], ids=["None", "int", "dict", "object"])
def test_what_is_no_picture_is_named(value):
    with pytest.raises(ClipgenError, match=r"image=.*is not a picture"):
        to_picture(value)


def test_a_folder_is_no_picture(tmp_path):
    with pytest.raises(ClipgenError, match="is a folder"):
        to_picture(tmp_path)


@pytest.mark.parametrize(
    "numbers",
    [
        np.ones((8, 8), complex),
        np.full((8, 8), "a"),
        np.zeros((8, 8), [("r", "u1")]),
        np.zeros((8, 8), "m8[s]"),
        np.full((8, 8), None),
        torch.ones(3, 8, 8, dtype=torch.complex64),
        torch.ones(8, 8).to_sparse(),
        torch.quantize_per_tensor(torch.ones(3, 8, 8), 0.1, 0, torch.quint8),
        torch.ones(3, 8, 8, device="meta"),
    ],
    ids=["complex", "words", "struct", "timedelta", "objects", "complex-tensor", "sparse", "quantized", "meta"],
)
def test_arrays_without_real_numbers_are_refused(numbers, tmp_path):
    with pytest.raises(ClipgenError, match="image"):
        to_picture(numbers)
    with pytest.raises(ClipgenError, match=r"image|init"):
        clipgen.Run("a cat", **TINY | {"init": numbers}, folder=tmp_path)


def _tiff(numbers, sample_format):
    """Return a grey TIFF of 32 bits, which Pillow writes with a sign only."""
    data, (height, width) = numbers.tobytes(), numbers.shape
    tags = [(256, width), (257, height), (258, 32), (259, 1), (262, 1), (273, 134), (277, 1), (278, height)]
    tags += [(279, len(data)), (339, sample_format)]
    table = b"".join(struct.pack("<HHII", name, 4 if name in (273, 279) else 3, 1, value) for name, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + table + bytes(4) + data


@pytest.mark.parametrize(("sample_format", "kind", "top"), [(1, "<u4", 2**32 - 1), (2, "<i4", 2**31 - 1)])
def test_a_grey_tiff_of_32_bits_uses_all_of_its_range(sample_format, kind, top):
    numbers = np.linspace(0, top, 256).astype(kind).reshape(16, 16)
    grey = np.asarray(to_picture(_tiff(numbers, sample_format)))[..., 0]
    assert abs(grey.flatten().astype(int) - np.arange(256)).max() <= 1


# --- rank, strip, contact_sheet -------------------------------------------------------------------------


def test_an_array_is_one_picture_and_a_batch_several():
    assert clipgen.rank(np.zeros((64, 48, 3), np.uint8), ["a cat", "a dog"]).shape == (1, 2)
    assert clipgen.rank(torch.zeros(2, 3, 16, 16), ["a cat", "a dog"]).shape == (2, 2)


def test_rank_checks_all_before_a_perceptor_is_loaded(unloaded):
    for images, texts, words in (
        ("no.png", ["a"], "image='no.png': there is no such file"),
        (b"no picture", ["a"], "image: cannot be read"),
        (_red(), [1], r"texts=\[1\]: must be texts"),
        (None, ["a"], "image=None: is not a picture"),
    ):
        with pytest.raises(ClipgenError, match=words):
            clipgen.rank(images, texts)


def test_sheets_read_pictures_as_all_else_does(tmp_path):
    clear = Image.new("RGBA", (16, 16), (*RED, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    lying = Image.new("RGB", (32, 16), RED)
    lying.save(tmp_path / "a.jpg", exif=exif)
    assert clipgen.strip([clear]).getpixel((128, 128)) == (255, 255, 255)
    for file in (tmp_path / "a.jpg", str(tmp_path / "a.jpg")):
        assert clipgen.contact_sheet([file], 1).size == (256 + 16, 512 + 16)
    assert clipgen.contact_sheet([np.zeros((16, 16, 3), np.uint8)], 1).getpixel((128, 128)) == (0, 0, 0)


def test_labels_and_columns_are_checked():
    for options in ({"labels": [1]}, {"labels": "a"}):
        with pytest.raises(ClipgenError, match="labels="):
            clipgen.strip([_red()], **options)
        with pytest.raises(ClipgenError, match="labels="):
            clipgen.contact_sheet([_red()], 1, **options)
    for columns in ("2", 1.5, True, 0, None):
        with pytest.raises(ClipgenError, match="columns="):
            clipgen.contact_sheet([_red()], columns)
    with pytest.raises(ClipgenError, match="megapixels"):
        clipgen.contact_sheet([_red()], 10**9)


# --- perceptors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", ["mini:nan", "mini:1e400", "mini:inf", "mini:1e308 | evaluator:1e308", "mini:0"])
def test_weights_of_perceptors_are_finite(weights):
    with pytest.raises(ClipgenError, match="each with a weight above 0"):
        parse_ensemble(weights)


# --- models by name -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source", ["x" * 5000, "a\0b", "~nobody42/x", "x/" * 3000], ids=["long", "null", "home", "deep"]
)
def test_impossible_names_of_run_folders(source):
    for open_run in (clipgen.Run.resume, clipgen.Run.replay):
        with pytest.raises(ClipgenError, match=r"not a run folder|cannot be read|not followed"):
            open_run(source)


@pytest.mark.parametrize("load", [clipgen.load_generator, clipgen.load_perceptor])
@pytest.mark.parametrize("name", [None, 5, "x" * 5000, "ViT-B-32/" + "x" * 5000, "x" * 5000 + "/openai"])
def test_what_names_no_model_is_refused(load, name):
    with pytest.raises(ClipgenError, match=r"generator=|perceptor="):
        load(name)


def test_models_load_on_any_device_that_a_run_takes():
    for load, name in ((clipgen.load_generator, "pixels"), (clipgen.load_perceptor, "mini")):
        assert load(name, "auto").device == resolve_device("auto")
        with pytest.raises(ClipgenError, match="device='gpu'"):
            load(name, "gpu")


# --- films ----------------------------------------------------------------------------------------------


def test_films_may_be_bytes_and_any_path(tmp_path):
    (tmp_path / "a.gif").write_bytes(_gif())

    class Named:
        def __fspath__(self):
            return str(tmp_path / "a.gif")

    for film in (_gif(), io.BytesIO(_gif()), Named()):
        reader = FilmReader(film)
        assert len(list(reader)) == len(list(reader)) == 2 and reader.durations == [0.04]


def test_what_is_no_film_is_refused(tmp_path):
    (tmp_path / "cut.gif").write_bytes(_gif()[:-40])
    closed = Image.open(io.BytesIO(_gif()))
    closed.close()
    for film, words in (
        (None, "film=None: is not a film"),
        (5, "film=5: is not a film"),
        (tmp_path, "is a folder; list its pictures"),
        (closed, "film: cannot be read"),
        (Image.open(tmp_path / "cut.gif"), "film: cannot be read"),
        ([_red(), 5], "image=5: is not a picture"),
    ):
        with pytest.raises(ClipgenError, match=words):
            clipgen.restyle(film, "a", folder=tmp_path)


def test_a_film_has_no_init(tmp_path):
    with pytest.raises(ClipgenError, match="init="):
        clipgen.restyle([_red()], "a", init="perlin", folder=tmp_path)
    assert not list(tmp_path.iterdir())


# --- dalle ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        *({"n": n} for n in (1.5, True, "2", 0, 2000)),
        *({"top_k": top_k} for top_k in (1.5, 0, "5")),
        *({"seed": seed} for seed in (1.5, -1, "1", 2**63)),
        {"temperature": "1"},
        {"guidance": float("nan")},
        {"prompt": None},
        {"prompt": " "},
        {"image": 5},
        {"image": "no.png"},
        {"keep": "foo"},
        {"keep": 5},
        {"stream": "rows"},
        {"perceptor": "no-such"},
        {"perceptor": 5},
        {"model": "no-such"},
    ],
    ids=str,
)
def test_dalle_checks_all_before_loading(options, unloaded):
    (name,) = options
    with pytest.raises(ClipgenError, match=rf"^{name}="):
        clipgen.dalle(**{"prompt": "a cat"} | options)


# --- losses of one's own --------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(
    "constant",
    [0.0, 1, np.float32(2), torch.tensor(3.0), torch.tensor(3), torch.tensor([3.0])],
    ids=["float", "int", "numpy", "tensor", "whole tensor", "one in a list"],
)
def test_losses_may_be_constants_in_some_steps(constant, batch, tmp_path):
    losses = [lambda image, latent, step: image.std() if step > 0 else constant]
    options = TINY | {"losses": losses, "folder": tmp_path, "progress": False}
    runs = clipgen.batch("a cat", batch, batch=batch, **options)
    assert [run.step for run in runs] == [2] * batch


@pytest.mark.parametrize("value", [None, "0.5", torch.ones(2), 1j], ids=["None", "text", "two", "complex"])
def test_what_is_no_loss_is_said_with_its_name(value, tmp_path):
    def contrast(image, latent, step):
        return value

    with pytest.raises(ClipgenError, match="losses: contrast returned"):
        clipgen.generate("a cat", **TINY, losses=[contrast], folder=tmp_path, progress=False)


def test_one_loss_needs_no_list(tmp_path):
    def contrast(image, latent, step):
        return image.std()

    assert [loss.name for loss in clipgen.Run("a", **TINY, losses=contrast, folder=tmp_path).spec.losses] == [
        "contrast"
    ]
    assert clipgen.Run("a", **TINY, losses=None, folder=tmp_path).spec.losses == []
    for losses in (5, "contrast", ["contrast"]):
        with pytest.raises(ClipgenError, match="is neither a function"):
            clipgen.Run("a", **TINY, losses=losses, folder=tmp_path)


# --- numbers, texts and folders -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    return clipgen.generate("a cat", **TINY, folder=folder, progress=False)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        *((lambda run, tmp, o=o: run.export(tmp / "a.gif", **{o: "12"}), o) for o in ("fps", "hold", "megabytes")),
        (lambda run, tmp: run.export(tmp / "a.gif", hold=float("nan")), "hold"),
        (lambda run, tmp: clipgen.restyle([_red()], "a", carry="0.5", folder=tmp), "carry"),
        *((lambda run, tmp, n=n: clipgen.batch("a", n, folder=tmp), "count") for n in ("2", 1.5, -1, 0, float("nan"))),
        (lambda run, tmp: clipgen.batch("a", 1, seed="1", folder=tmp), "seed"),
        (lambda run, tmp: run.views("1"), "step"),
        (lambda run, tmp: run.views(99), "step"),
        (lambda run, tmp: run.words(1.5), "step"),
        (lambda run, tmp: clipgen.describe(_red(), penalty="1"), "penalty"),
        (lambda run, tmp: clipgen.explain(_red(), None), "text"),
        (lambda run, tmp: clipgen.Run("a", **TINY, folder=None), "folder"),
        (lambda run, tmp: clipgen.Run.resume(None), "folder"),
        (lambda run, tmp: clipgen.Run.replay(None), "source"),
    ],
)
def test_arguments_of_a_wrong_kind_are_named(call, name, made, tmp_path):
    with pytest.raises(ClipgenError, match=f"^{name}="):
        call(made, tmp_path)


def test_best_takes_runs(made):
    assert clipgen.best([made]) == clipgen.best(iter([made])) == [made]
    for runs in (made, None, [], [1], "ab"):
        with pytest.raises(ClipgenError, match="best needs at least one run"):
            clipgen.best(runs)


def test_a_whole_number_may_be_written_as_a_float(made):
    assert str(made.words(2.0)) == str(made.words(2))


# --- studies --------------------------------------------------------------------------------------------


def _study(*args, folder, **settings):
    less = {**TINY, "steps": 1, "folder": folder, "progress": False, "workers": 1}
    return clipgen.study(*args, **{**less, **settings})


def test_pictures_of_a_study_are_told_apart_by_number(tmp_path, inline_workers):
    red, blue = _red(), Image.new("RGB", (16, 16), BLUE)
    made = _study("a cat", init=["grey", red, blue, red.copy()], folder=tmp_path)
    assert made.varied == ["init"]
    assert [row.label for row in made.rows] == ["init=grey", "init=image 1", "init=image 2"]
    assert made.sheet().width > 3 * 256
    # Started again with others it finds the rows that it has.
    again = _study("a cat", init=[blue, red], folder=tmp_path)
    assert {row.folder for row in again.rows} == {row.folder for row in made.rows[1:]}


def test_pictures_may_be_prompts_of_a_study():
    points = expand_grid([_red(), np.zeros((8, 8)), {"a": 1}, {"a": 2}, io.BytesIO(_bytes(_red()))], {})
    labels = ["image 1", "image 2", "dict 1", "dict 2", "image 1"]
    assert [point.label for point in points] == [f"prompt={label}" for label in labels]
    assert expand_grid("a cat", {"init": io.BytesIO(_bytes(_red()))})[0].varied == {}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", "prompt,seed,seed\na cat,1,2\n", "'seed' twice"),
        ("a.csv", 'prompt,seed\n"a cat,1\na dog,2\n', "at line 3.*close each quote"),
        ("a.csv", 'prompt,seed\n"a cat,1\n"a dog",2\n', "at line 3.*close each quote"),
        ("a.csv", "prompt,\na cat,1\n", "a column without a name"),
        ("a.csv", "Prompt,seed\na cat,1\n", "'Prompt' must be called \"prompt\""),
        ("a.yaml", "- prompt: a cat\n  seed: 1\n  seed: 2\n", "line 3 has 'seed' a second time"),
    ],
)
def test_tables_that_lose_parts_are_refused(name, text, words, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(ClipgenError, match=words):
        expand_grid(None, {}, tmp_path / name)


@pytest.mark.parametrize("mark", [",", ";", "\t"], ids=["comma", "semicolon", "tab"])
def test_spreadsheets_of_any_country_are_read(mark, tmp_path):
    (tmp_path / "a.csv").write_text(f"prompt{mark}seed{mark}\r\na cat{mark}1{mark}\r\n", newline="")
    (point,) = expand_grid(None, {}, tmp_path / "a.csv")
    assert (point.prompt, point.settings) == ("a cat", {"seed": 1})


def test_merged_keys_of_yaml_are_no_duplicates(tmp_path):
    (tmp_path / "a.yaml").write_text("- &one {prompt: a cat, seed: 1}\n- {<<: *one, seed: 2}\n")
    assert [point.settings["seed"] for point in expand_grid(None, {}, tmp_path / "a.yaml")] == [1, 2]


# --- the drawing of the loop ----------------------------------------------------------------------------


def test_only_parts_of_the_loop_are_marked():
    with pytest.raises(ClipgenError, match="marked='<b>'"):
        draw_pipeline("CLIP", "<b>")
