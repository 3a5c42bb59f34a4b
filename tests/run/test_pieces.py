"""Camera, masks, starts, augmentations and regularisers, each alone."""

import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from clipgen import masks, objectives, starts
from clipgen.camera import Camera
from clipgen.cutouts import AUGMENTATIONS, check_augment, cutouts, plan
from clipgen.errors import ClipgenError


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def smooth(height=64, width=64):
    return F.interpolate(torch.rand(1, 3, 6, 6, generator=rng()), (height, width), mode="bicubic").clamp(0, 1)


def test_camera_zoom_is_a_crop():
    image = smooth()
    crop = F.interpolate(image[..., 16:48, 16:48], (64, 64), mode="bicubic", align_corners=False)
    moved = Camera.parse("zoom=2").move(image, 0)
    assert (moved - crop)[..., 4:-4, 4:-4].abs().max() < 0.02


def test_camera_directions():
    dot = torch.zeros(1, 3, 64, 96)
    dot[..., 30:34, 46:50] = 1  # the centre

    def centre(text, image=dot):
        y, x = (Camera.parse(text).move(image, 0)[0, 0] > 0.3).nonzero().float().mean(0).tolist()
        return y, x

    # The camera goes right and down, so what it sees goes left and up.
    assert centre("x=0.25") == pytest.approx((31.5, 47.5 - 24), abs=1)
    assert centre("y=0.25") == pytest.approx((31.5 - 16, 47.5), abs=1)
    right = torch.zeros(1, 3, 64, 96)
    right[..., 30:34, 66:70] = 1
    y, x = centre("angle=90", right)
    assert (y, x) == pytest.approx((31.5 - 20, 47.5), abs=1), "clockwise it turns, so what was right is on top"


def test_camera_keyframes_and_mistakes():
    camera = Camera.parse("zoom=1.02, angle=1@50-100, zoom=1.1@10-20,x=-.1")
    assert camera and camera.at(0) == {"zoom": 1.02, "x": -0.1, "y": 0, "angle": 0}
    assert (
        camera.at(50)["angle"] == 1 and camera.at(100)["angle"] == 0 and camera.at(15)["zoom"] == pytest.approx(1.122)
    )
    assert not Camera.parse("")
    for wrong in (
        "zoom", "zoom=9", "tilt=1", "x=0.9", "y=-0.6", "angle=nan", "zoom=1..2", "zoom=1@5", "angle=100",
        "x=0.1@9-9", "x=0.1@90-10", "x=0.1@0-" + "9" * 5000,
    ):  # fmt: skip
        with pytest.raises(ClipgenError, match=r"camera=.*write 'zoom=1\.02"):
            Camera.parse(wrong)


@pytest.mark.parametrize(("spec", "share", "inside"), [
    ("all", 1, (5, 5)), ("top", 1 / 2, (1, 20)), ("bottom", 1 / 2, (38, 20)), ("left", 1 / 2, (20, 1)),
    ("right", 1 / 2, (20, 58)), ("centre", 1 / 4, (20, 30)), ("0,0,0.5,25%", 1 / 8, (1, 1)),
    ("not top", 1 / 2, (38, 20)), ("not not left", 1 / 2, (20, 1)), ("disc.png", None, (20, 30)),
])  # fmt: skip
def test_masks(spec, share, inside):
    picture = Image.new("L", (120, 80))
    picture.paste(255, (40, 20, 80, 60))
    mask = masks.load(spec, (40, 60), {"disc.png": picture})
    assert mask.shape == (1, 1, 40, 60) and mask[0, 0, inside[0], inside[1]] == 1
    assert float(mask.mean()) == pytest.approx(share or 1 / 6, abs=0.01)
    assert masks.file_of(spec) is None or spec == "disc.png"


def test_masks_name_their_file():
    for spec in ("disc.png", "not disc.png", " not  not disc.png "):
        assert masks.file_of(spec) == "disc.png"
    assert masks.file_of("not top") is masks.file_of("0.5,0,.5,1") is masks.file_of("") is None


def test_masks_that_cannot_be():
    picture = Image.new("L", (100, 100), 255)
    for spec, says in (
        ("middle", "use all, top"), ("0,0,2,1", "use all"), ("not all", "nothing to paint"), ("1,2,3", "use all"),
        ("square.png", "same proportions"), ("not square.png", "same proportions"), ("", "use all"),
    ):  # fmt: skip
        with pytest.raises(ClipgenError, match=says):
            masks.load(spec, (40, 60), {"square.png": picture})


def test_blend():
    new, old, mask = torch.ones(1, 3, 4, 4), torch.zeros(1, 3, 4, 4), masks.load("left", (4, 4), {})
    assert masks.blend(new, old, mask)[0, 0, 0].tolist() == [1, 1, 0, 0]


def test_starts():
    for name in (*starts.STARTS, "navy", "#ff8000"):
        first, again, other = (starts.start(name, (24, 40), rng(seed)) for seed in (1, 1, 2))
        assert first.shape == (1, 3, 24, 40) and first.min() >= 0 and first.max() <= 1 and starts.knows(name)
        assert torch.equal(first, again) and torch.equal(first, other) == (name not in starts.STARTS)
    rough = {name: starts.start(name, (64, 64), rng()).diff(dim=-1).abs().mean() for name in starts.STARTS}
    assert rough["noise"] > 4 * rough["perlin"] > 4 * rough["gradient"]
    assert starts.start("a fox", (8, 8), rng()) is None and not starts.knows("photo.png")


def test_default_views_are_those_of_the_first_version():
    """Seeds keep their pictures: numbers of commit 0f331e1, where drawing and rendering were one."""
    images = torch.linspace(0, 50, 2 * 3 * 24 * 40).sin().reshape(2, 3, 24, 40) / 2 + 0.5
    numbers = rng(5)
    views = cutouts(images, 3, 8, numbers)
    pixels = [0.310085, 0.126191, 0.191748, 0.354265, 0.176582, 0.207413]
    deviations = [0.33719, 0.331566, 0.336577, 0.339372, 0.337891, 0.332896]
    assert views[:, 1, 3, 6].tolist() == pytest.approx(pixels, abs=1e-5)
    assert views.std((1, 2, 3)).tolist() == pytest.approx(deviations, abs=1e-5)
    assert float(torch.rand((), generator=numbers)) == pytest.approx(0.526119, abs=1e-6), "as many numbers are drawn"


@pytest.mark.parametrize("augment", [(), *((name,) for name in AUGMENTATIONS), AUGMENTATIONS])
def test_views_in_parts_are_the_same_views(augment):
    images = torch.cat([smooth(), 1 - smooth()]).requires_grad_()
    views = plan(images.shape, 7, 24, rng(3), augment=augment)
    whole = views.render(images)
    parts = [views.render(images, part).unflatten(0, (2, -1)) for part in (slice(0, 3), slice(3, 4), slice(4, 7))]
    assert torch.equal(torch.cat(parts, 1).flatten(0, 1), whole) and whole.shape == (14, 3, 24, 24)
    whole.square().sum().backward()
    assert (images.grad != 0).float().mean() > 0.5
    assert not torch.equal(plan(images.shape, 7, 24, rng(4), augment=augment).render(images), whole)


def test_each_augmentation_does_something():
    image = smooth()
    plain = plan(image.shape, 6, 32, rng(), augment=()).render(image)
    for name in AUGMENTATIONS:
        assert (plan(image.shape, 6, 32, rng(), augment=(name,)).render(image) - plain).abs().mean() > 1e-3, name
    with pytest.raises(ClipgenError, match="augment='flop': choose among flip"):
        check_augment(["flip", "flop"])


def test_erased_views_have_a_grey_hole():
    views = plan((1, 3, 64, 64), 20, 32, rng(), augment=("erase",)).render(torch.ones(1, 3, 64, 64))
    share = (views == 0.5).float().mean((1, 2, 3))
    assert 0.03 < share.mean() < 0.2 and (share > 0).all()


@pytest.mark.parametrize("name", objectives.REGULARISERS)
def test_regularisers_lead_where_they_say(name):
    def colour(x):
        return x.std(1).mean()

    def detail(x):
        return (x - F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)).abs().mean()

    more = {"tv": lambda x: -x.diff(dim=-1).abs().mean(), "saturation": colour, "sharpness": detail,
            "symmetry": lambda x: -(x - x.flip(-1)).abs().mean()}[name]  # fmt: skip
    image = smooth().requires_grad_()
    before = more(image.detach())
    optimiser = torch.optim.Adam([image], lr=0.001)
    for _ in range(10):
        optimiser.zero_grad()
        objectives.REGULARISERS[name](image).backward()
        optimiser.step()
    assert more(image.detach()) > before


def test_palette_and_distances():
    colours = torch.tensor([[0.0, 0, 0], [1, 1, 1]])
    assert objectives.palette(colours.T[None, :, None], colours) == 0
    assert objectives.palette(torch.full((1, 3, 2, 2), 0.5), colours) == pytest.approx(0.75)
    image = torch.full((1, 3, 2, 2), 0.6).requires_grad_()
    objectives.palette(image, colours).backward()
    assert (image.grad < 0).all(), "descent goes to white, the nearest"
    a = F.normalize(torch.tensor([[1.0, 0], [1, 1], [-1, 0.1]]), dim=1)
    for distance in objectives.DISTANCES.values():
        away = distance(a, a[:1])[:, 0]
        assert away[0] < 1e-3 and away[0] < away[1] < away[2]


def test_a_stop_ends_the_pull():
    seen = F.normalize(torch.tensor([[1.0, 0.3]]), dim=1).requires_grad_()
    target, one = torch.tensor([[1.0, 0.0]]), torch.ones(1)
    (near,) = objectives.spherical_distance(seen, target).flatten().tolist()
    for stop, pulls in ((near - 0.01, True), (near + 0.01, False)):
        loss = objectives.follow(seen, target, one, stops=torch.tensor([stop]))
        (gradient,) = torch.autograd.grad(loss, seen)
        assert bool(gradient.abs().sum() > 0) == pulls
