"""Pictures that repeat: whatever is moved to the other side, decoder and views do not notice."""

import dataclasses

import numpy as np
import pytest
import torch

import clipgen
from clipgen.cutouts import CutoutConfig
from clipgen.generators import wrap_edges
from clipgen.generators.catalogue import load_generator
from clipgen.generators.vae import TAESD, VAE


def rng():
    return torch.Generator().manual_seed(0)


@pytest.fixture(params=["mini-vqgan", "mini-dvae", "vae", "fft"])
def param(request):
    if request.param == "vae":
        torch.manual_seed(0)
        return VAE("vae", TAESD(4), 64, torch.device("cpu"))
    return load_generator(request.param)


@torch.no_grad()
def test_a_decoder_does_not_know_where_the_edge_is(param):
    """What is rolled by a cell comes out rolled by a cell; and the net pads with zeros again afterwards."""
    picture = torch.nn.functional.interpolate(torch.rand(1, 3, 6, 8, generator=rng()), (48, 64), mode="bicubic")
    latent, cells = param.encode(picture.clamp(0, 1)), (2, 3)
    by = tuple(n * param.stride for n in cells)
    if param.stride == 1:  # a spectrum is periodic by itself
        one, other = (
            wrap_edges(param).image(latent),
            wrap_edges(param).image(param.encode(picture.clamp(0, 1).roll(by, (2, 3)))),
        )
    else:
        plain = param.image(latent)
        one, other = wrap_edges(param).image(latent), wrap_edges(param).image(latent.roll(cells, (2, 3)))
        assert (one - plain).abs().max() > 0.01 and torch.equal(param.image(latent), plain), "as it was"
    assert (one.roll(by, (2, 3)) - other).abs().max() < 1e-3
    assert wrap_edges(param).name == param.name and wrap_edges(param).lr == param.lr


def test_a_view_across_the_edge_sees_the_other_side():
    images, by = torch.rand(2, 3, 40, 60, generator=rng()), (10, 15)
    views = CutoutConfig(cutouts=9, padding="wrap", augment="flip, affine, perspective").sample(images.shape, 32, rng())
    shift = torch.eye(3)
    shift[0, 2], shift[1, 2] = 2 * by[1] / 60, 2 * by[0] / 40
    moved = dataclasses.replace(views, warp=shift @ views.warp).render(images.roll(by, (2, 3)))
    assert (views.render(images) - moved).abs().max() < 1e-3
    middles = views.warp[:, :2, 2] / views.warp[:, 2:, 2]
    assert middles.abs().max() > 0.7, "no place is nearer to an edge than another"
    inside = dataclasses.replace(views, warp=torch.diag(torch.tensor([0.5, 0.5, 1.0])).expand(18, 3, 3))
    assert torch.allclose(
        inside.render(images), dataclasses.replace(inside, padding="border").render(images), atol=1e-5
    )


@pytest.mark.slow
def test_the_seam_is_like_any_other_line(tmp_path):
    """Of all borders between cells, those at the edges differ as the others do; without ``tile`` far more."""
    seams = {}
    for tile in (False, True):
        knobs = {"generator": "mini-vqgan", "init": "random", "size": (64, 64), "tile": tile}
        knobs |= {"steps": 20, "every": 20, "cutouts": 6}
        run = clipgen.generate("colourful flowers", folder=tmp_path, progress=False, **knobs)
        picture = np.asarray(run.image, float)
        steps = [np.abs(picture - np.roll(picture, 1, axis)).mean((1 - axis, 2)) for axis in (0, 1)]
        edge, inside = (np.mean([step[some] for step in steps]) for some in (0, slice(8, None, 8)))
        seams[tile] = edge / inside
    assert seams[True] < 1.7 < 3 < seams[False], seams


@pytest.mark.parametrize("generator", ["stack", "strokes"])
def test_what_draws_up_to_an_edge_is_refused(generator):
    with pytest.raises(clipgen.ClipgenError, match=r"tile=True: .* draws up to an edge; choose mini-vqgan"):
        clipgen.Run("a cat", generator=generator, tile=True)
