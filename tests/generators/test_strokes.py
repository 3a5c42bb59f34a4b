"""Marks on a sheet: the rasteriser against finite differences and against each pixel by hand, and the contract."""

import subprocess
import sys
from itertools import pairwise

import pytest
import torch

import clipgen
from clipgen.errors import ClipgenError
from clipgen.generators import rasteriser
from clipgen.generators.catalogue import entry_of, load_generator
from clipgen.generators.drawings import bezier, outline
from clipgen.generators.rasteriser import Marks, rasterise
from clipgen.images.camera import Camera

SIZES = [(32, 32), (33, 64), (64, 21), (4, 37), (5, 4)]
each_size = pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")


@pytest.fixture(params=["strokes:24", "shapes:24", "pen:40"], ids=["strokes", "shapes", "pen"])
def family(request):
    return load_generator(request.param)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def some(filled, count=4, size=(11, 13), dtype=torch.double):
    """Marks with their gradients' leaves: places, radii, paints."""
    middle = torch.rand(count, 1, 2, generator=rng(), dtype=dtype) * torch.tensor([size[1], size[0]])
    points = middle + 4 * torch.randn(count, 2 if filled else 4, 2, generator=rng(1), dtype=dtype)
    radius = torch.zeros(count, dtype=dtype) if filled else 0.5 + torch.rand(count, generator=rng(2), dtype=dtype)
    return points, radius, 0.1 + 0.8 * torch.rand(count, 4, generator=rng(3), dtype=dtype)


def lines(points, filled):
    basis = outline(3) if filled else bezier(6, torch.device("cpu"))
    return basis.to(points) @ points + (5 if filled else 0)


@pytest.mark.slow
@pytest.mark.parametrize("filled", [False, True], ids=["lines", "filled"])
@pytest.mark.parametrize("work", [2**20, 600], ids=["one part", "many parts"])
def test_the_gradient_is_that_of_finite_differences(filled, work, monkeypatch):
    monkeypatch.setattr(rasteriser, "WORK", work)
    leaves = [leaf.requires_grad_() for leaf in some(filled)]
    weights = torch.randn(3, 11, 13, generator=rng(4), dtype=torch.double)

    def seen(points, radius, paint):
        marks = Marks(lines(points, filled), radius if not filled else radius * 0, paint, filled)
        return (rasterise(marks, (11, 13)) * weights).sum()

    assert torch.autograd.gradcheck(seen, leaves, eps=1e-7, atol=1e-4, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("filled", [False, True], ids=["lines", "filled"])
def test_a_picture_is_what_every_pixel_asks_of_every_mark(filled, monkeypatch):
    """Without tiles, one pixel after another, by the formula for the distance to a segment and the even-odd rule."""
    points, radius, paint = some(filled, count=5, size=(13, 17))
    drawn = lines(points, filled)
    wanted = torch.ones(3, 13, 17, dtype=torch.double)
    for line, r, (*colour, opacity) in zip(drawn, radius, paint.tolist()):
        for y in range(13):
            for x in range(17):
                p, away, crossings = torch.tensor([x + 0.5, y + 0.5], dtype=torch.double), torch.inf, 0
                for a, b in pairwise(line):
                    along = b - a
                    share = ((p - a) @ along / (along @ along)).clamp(0, 1)
                    away = min(away, float((p - a - share * along).norm()))
                    if (a[1] > p[1]) != (b[1] > p[1]):
                        crossings += float(a[0] + (p[1] - a[1]) / along[1] * along[0]) > x + 0.5
                inside = away if filled and crossings % 2 else -away
                cover = opacity * torch.tensor((float(r) + inside) / rasteriser.EDGE_SCALE).sigmoid()
                wanted[:, y, x] += cover * (torch.tensor(colour) - wanted[:, y, x])
    for work in (2**20, 2000):
        monkeypatch.setattr(rasteriser, "WORK", work)
        assert (rasterise(Marks(drawn, radius, paint, filled), (13, 17)) - wanted).abs().max() < 0.004, "beyond REACH"


def test_tiles_leave_no_trace(monkeypatch):
    points, radius, paint = some(False, count=20, size=(40, 50), dtype=torch.float32)
    marks = Marks(lines(points, False), radius, paint)
    pictures = []
    for tile in (8, 16, 64):
        monkeypatch.setattr(rasteriser, "TILE", tile)
        pictures.append(rasterise(marks, (40, 50)))
    assert all((picture - pictures[-1]).abs().max() < 0.01 for picture in pictures)
    assert torch.equal(rasterise(Marks(marks.lines + 500, radius, paint), (40, 50)), torch.ones(3, 40, 50)), "outside"


@each_size
def test_the_sheet_is_in_the_latent(family, size):
    latent = family.start(size, rng())
    assert latent.shape == family.shape(size) and latent.dtype == torch.float32
    assert torch.equal(latent, family.start(size, rng())) and not torch.equal(latent, family.start(size, rng(1)))
    picture = family.image(latent)
    assert picture.shape == (1, 3, *size) and 0 <= picture.min() < picture.max() <= 1
    assert family.image(torch.cat([latent, latent])).shape == (2, 3, *size)
    assert family.image(family.unpack(family.pack(latent), size)).shape == (1, 3, *size)
    family.project_(kept := latent.clone())
    assert torch.equal(kept, latent), "what is within bounds stays"


@pytest.mark.parametrize("size", [(4096, 4095), (2049, 4)])
def test_any_side_fits_in_16_bits(family, size):
    latent = family.unpack(family.pack(family.start(size, rng())), size)
    drawing = family.drawing(latent)
    assert drawing.size == size[::-1] and len(drawing.marks) == family.count


@pytest.mark.parametrize("optimizer", ["Adam", "AdamW", "SGD", "RMSprop"])
def test_no_optimiser_resizes_the_sheet(family, optimizer):
    latent = family.start((40, 70), rng()).requires_grad_()
    made = getattr(torch.optim, optimizer)([latent], lr=0.05, weight_decay=1)
    for _ in range(4):
        made.zero_grad()
        family.image(latent).square().mean().backward()
        made.step()
        family.project_(latent)
        assert family.image(latent).shape == (1, 3, 40, 70) and latent.isfinite().all()


def test_a_drawing_fits_a_sheet_of_any_size(family):
    small = family.start((32, 48), rng())
    large = family.unpack(family.pack(small), (128, 192))
    one, other = family.image(small), torch.nn.functional.avg_pool2d(family.image(large), 4)
    assert (one - other).abs().mean() < 0.05
    with pytest.raises(ClipgenError, match=r"a latent of shape .* at this size needs"):
        family.unpack(family.pack(small)[:, 1:], (32, 48))


def test_a_picture_is_laid_of_marks(family):
    """A mosaic is nearer to the picture than white paper is; a dark half gets most of the ink."""
    picture = torch.ones(1, 3, 48, 64)
    picture[..., :24, :] = torch.tensor([0.2, 0.1, 0.4])[:, None, None]
    found = family.image(family.encode(picture))
    assert (found - picture).square().mean() < (0.95 if "pen" in family.name else 0.5) * (1 - picture).square().mean()
    assert found[..., :24, :].mean() < found[..., 24:, :].mean() - 0.03
    assert family.image(family.encode(picture[..., :6, :60])).shape == (1, 3, 6, 60)


@pytest.mark.parametrize("text", ["x=0.1", "y=-0.1", "zoom=1.2", "angle=30", "zoom=0.8, angle=-20, x=0.05"])
def test_a_camera_moves_the_marks_themselves(family, text):
    """As it moves their picture, but for what comes in at the edges; lines of a pen stay as wide as they are."""
    camera, latent = Camera.parse(text), family.start((48, 64), rng())
    inverse_affine = camera.inverse_affine(0, (48, 64))
    moved = family.transform(torch.cat([latent, latent]), inverse_affine, rng(1))
    assert torch.equal(moved[0], moved[1]) and torch.equal(
        moved[0], family.transform(latent, inverse_affine, rng(1))[0]
    )
    wanted, found = (x[..., 12:-12, 16:-16] for x in (camera.move(family.image(latent), 0), family.image(moved[:1])))
    assert (found - wanted).abs().mean() < (0.1 if family.name.startswith("pen") else 0.03)


def test_what_leaves_the_sheet_comes_back(family):
    """Out of sight in one direction and faint, so that endless zooms have something to go on with."""
    latent, camera = family.start((48, 64), rng()), Camera.parse("x=0.5")
    for seed in range(3):
        latent = family.transform(latent, camera.inverse_affine(0, (48, 64)), rng(seed))
    assert not family._out_of_sight(latent[0, family.header :], (48, 64)).all()
    assert (family.image(latent) < 0.99).float().mean() > 0.001


def test_adam_finds_a_picture(family):
    """At the default learning rate, 40 steps come near a dark disc."""
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, 32)] * 2, indexing="ij")
    wanted = (1 - 0.8 * (x.square() + y.square() < 0.4).float()).expand(1, 3, 32, 32)
    latent = family.start((32, 32), rng()).requires_grad_()
    optimiser = torch.optim.Adam([latent], lr=family.lr * entry_of(family.name).defaults["lr"], betas=(0.9, 0.99))
    losses = []
    for _ in range(40):
        loss = (family.image(latent) - wanted).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        family.project_(latent)
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.45 * losses[0], losses[::10]
    assert family.distance(latent, latent) == 0 and family.distance(latent, family.encode(wanted)) > 0


def test_numbers_have_bounds(family):
    latent = family.start((16, 24), rng())
    marks = latent[:, family.header :]
    marks[..., ::2], marks[..., 1::2] = float("inf"), -1e30
    family.project_(latent)
    assert family.pack(latent).isfinite().all() and family.image(latent).isfinite().all()


def test_how_many_there_are_is_in_the_name():
    assert load_generator("strokes:7").count == 7 and load_generator("strokes").count == 128
    for name in ("strokes:", "strokes:0", "shapes:5000", "pen:few", "strokes:-1"):
        with pytest.raises(ClipgenError, match=r"<number of marks>, from 1 to 4096"):
            clipgen.Run("a cat", generator=name)
    with pytest.raises(ClipgenError, match="unknown"):
        load_generator("fft:3")


@pytest.mark.slow
def test_the_memory_of_500_strokes():
    """Of the whole process, torch included, at 512 x 512: strokes across the sheet, one step there and back."""
    code = """
import torch
from clipgen.generators.catalogue import load_generator
family = load_generator("strokes:500")
latent = family.start((512, 512), torch.Generator().manual_seed(0))
latent[:, family.header:, 2:8] += torch.randn(1, 500, 6, generator=torch.Generator().manual_seed(1)) * 0.2
latent.requires_grad_()
family.image(latent).square().sum().backward()
assert latent.grad.abs().sum() > 0
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1_500_000, f"{done.stdout} kB"
