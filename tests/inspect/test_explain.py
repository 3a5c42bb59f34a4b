"""Heat maps against scenes of which it is known where what is."""

import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Event

import open_clip
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F

import clipgen
from clipgen.cli import main
from clipgen.images.reading import to_image, to_tensor


def scene(drawings, first, second, upright):
    """Two drawings beside or above each other on white, 128 x 128, and where the first is."""
    canvas, place = torch.ones(3, 128, 128), torch.zeros(128, 128)
    for at, which in enumerate((first, second)):
        spot = (slice(64 * at, 64 * at + 64), slice(32, 96))
        small = F.avg_pool2d(drawings[0][which], 2)
        rows, columns = spot if upright else spot[::-1]
        canvas[:, rows, columns] = small
    (place[:64] if upright else place[:, :64]).fill_(1)
    return to_image(canvas), place


def share(found, place):
    """Of the map's mass, what lies on a place."""
    return float((found.map * place).sum() / found.map.sum())


@pytest.mark.slow
def test_the_map_lies_on_what_is_named(clip, drawings):
    rng = torch.Generator().manual_seed(1)
    hits, shares = 0, []
    for number in range(100):
        first, second = torch.randperm(200, generator=rng)[:2].tolist()
        picture, place = scene(drawings, first, second, upright=number % 2 == 1)
        shares.append(share(clipgen.explain(picture, drawings[1][first], clip), place))
        hits += shares[-1] > 0.5
    assert hits >= 90 and sum(shares) / 100 > 0.8


@pytest.mark.slow
@pytest.mark.parametrize("how", ["gradient", "occlusion"])
@pytest.mark.parametrize(("first", "second"), [("guitar", "rabbit face"), ("rabbit face", "guitar")])
def test_of_one_picture_each_text_has_its_own_region(how, first, second, clip, drawings):
    picture, place = scene(drawings, drawings[1].index("guitar"), drawings[1].index("rabbit face"), upright=False)
    found = clipgen.explain(picture, first, clip, how=how)
    assert share(found, place if first == "guitar" else 1 - place) > 0.65
    assert found.map.shape == (128, 128) and found.map.min() == 0 and found.map.max() == 1
    assert found.score == pytest.approx(float(clip.embed_image([picture])[0] @ clip.embed_text([first])[0]))


@pytest.mark.slow
def test_a_run_may_look_through_the_same_net_meanwhile(clip, drawings):
    """As in the Studio, where a person looks for a text while pictures are made."""
    picture, _ = scene(drawings, 4, 13, upright=False)
    wanted, over, looks = clipgen.explain(picture, "an ambulance", clip).map, Event(), []

    def run():
        while not over.is_set():
            looks.append(clip.encode_image(torch.rand(2, 3, clip.size, clip.size, requires_grad=True)))

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(run)
        try:
            found = [clipgen.explain(picture, "an ambulance", clip).map for _ in range(20)]
        finally:
            over.set()
        other.result()
    assert looks and all(torch.equal(one, wanted) for one in found)


@pytest.mark.parametrize("size", [(384, 128), (128, 300)])
def test_a_picture_that_is_no_square_is_looked_at_to_its_ends(size, clip, drawings):
    guitar = to_image(drawings[0][drawings[1].index("guitar")])
    for corner in ((0, 0), (size[0] - 128, size[1] - 128)):
        picture, place = Image.new("RGB", size, "white"), torch.zeros(*size[::-1])
        picture.paste(guitar, corner)
        place[corner[1] : corner[1] + 128, corner[0] : corner[0] + 128] = 1
        found = clipgen.explain(picture, "guitar", clip)
        assert found.map.shape == size[::-1] and share(found, place) > 0.5


def test_it_shows_itself(clip, drawings):
    picture, _ = scene(drawings, 4, 13, upright=False)
    found = clipgen.explain(picture, "an ambulance", clip)
    assert found.overlay.size == picture.size and isinstance(found.figure(), Figure)
    replace(found, text=r"$\foo$").figure().savefig(io.BytesIO())  # a text is no formula
    assert Image.open(io.BytesIO(found._repr_png_())).size == (256, 256)
    red, _, blue = to_tensor(found.overlay)[0]
    glow = (red - blue).clamp(min=0)
    assert glow[found.map > 0.8].mean() > 2 * glow[found.map < 0.1].mean()


def test_a_run_is_seen_by_its_own_perceptor(run):
    found = clipgen.explain(run, "an apple")
    assert found.picture.tobytes() == run.image.tobytes() and found.map.max() == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"text": " "}, "text=' ': write what is looked for"),
        ({"how": "magic"}, "how='magic': choose one of: gradient, occlusion"),
        ({"perceptor": "nothing"}, "perceptor='nothing' is unknown"),
        ({"image": "missing.png"}, "there is no such file"),
    ],
)
def test_mistakes(arguments, says):
    with pytest.raises(clipgen.ClipgenError, match=says):
        clipgen.explain(**({"image": Image.new("RGB", (64, 64)), "text": "a cat"} | arguments))


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["ViT-B-32", "RN50"])
def test_published_architectures_are_read(architecture, tmp_path, drawings):
    """With random weights there is nothing to find, but each text leads somewhere else."""
    torch.manual_seed(0)
    file = tmp_path / "random.safetensors"
    save_file(open_clip.create_model(architecture, pretrained_text=False).state_dict(), file)
    clip = clipgen.load_perceptor(f"{architecture}/{file}", precision="fp32")
    picture, _ = scene(drawings, 4, 13, upright=False)
    one, other = (clipgen.explain(picture, text, clip) for text in ("an ambulance", "a boar"))
    for found in (one, other):
        assert found.map.shape == (128, 128) and found.map.min() == 0 and found.map.max() == 1
        assert found.map.std() > 0.05, "no plain"
    assert (one.map - other.map).abs().mean() > 0.05


@pytest.mark.slow
def test_the_command(tmp_path, monkeypatch, drawings, capsys):
    monkeypatch.chdir(tmp_path)
    scene(drawings, 4, 13, upright=False)[0].save("scene.png")
    assert main(["explain", "scene.png", "an ambulance", "-o", "map.png"]) == 0
    assert "map.png (done): an ambulance, CLIP score 0." in capsys.readouterr().out
    assert Image.open("map.png").size == (128, 128)
    assert main(["explain", "scene.png", "a boar", "--figure", "--quiet"]) == 0
    assert capsys.readouterr().out == "scene-why.png\n" and Image.open("scene-why.png").width > 1000
    assert main(["explain", "scene.png", "a boar", "-o", "why.JPEG", "--quiet"]) == 0
    assert Image.open("why.JPEG").format == "JPEG" and not [*tmp_path.glob(".*")]
    assert main(["explain", "scene.png", "a boar", "-o", "missing/map.png"]) == 2
    assert "choose a file in a folder" in capsys.readouterr().err


def test_the_evaluator_explains_itself_too(drawings):
    picture, place = scene(drawings, drawings[1].index("guitar"), drawings[1].index("rabbit face"), upright=False)
    assert share(clipgen.explain(picture, "guitar", "evaluator"), place) > 0.5
