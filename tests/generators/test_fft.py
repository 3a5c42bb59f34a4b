"""The spectrum: its waves, its scale and its colours."""

import pytest
import torch

import clipgen
from clipgen.generators import Entry
from clipgen.generators.pixels import COLOURS, FFT, MAGNITUDE, Maco, hartley


@pytest.mark.parametrize("size", [(8, 8), (7, 8), (8, 5), (9, 7)])
def test_hartley_holds_the_fourier_spectrum(size):
    picture = torch.randn(2, 3, *size, dtype=torch.float64)
    waves = hartley(picture)
    assert torch.allclose(hartley(waves), picture) and torch.allclose(waves.norm(), picture.norm())
    mirrored = waves.flip(-2, -1).roll((1, 1), (-2, -1))  # the waves that run the other way
    spectrum = torch.complex((waves + mirrored) / 2, (mirrored - waves) / 2)
    assert torch.allclose(spectrum, torch.fft.fft2(picture, norm="ortho"))


def test_low_frequencies_count_more():
    """The same number makes a wave that is the weaker the shorter it is."""
    fft = FFT("fft", Entry("", native_size=64, stride=1), torch.device("cpu"))
    heights = []
    for cycles in (1, 2, 4, 8, 16):
        latent = torch.zeros(1, 3, 64, 64)
        latent[0, 0, 0, cycles] = 1
        heights.append(float(fft.to_logits(latent).norm()))
    assert torch.allclose(torch.tensor(heights), heights[0] / torch.tensor([1.0, 2, 4, 8, 16]))


def test_the_first_colour_is_lightness():
    fft = FFT("fft", Entry("", native_size=64, stride=1), torch.device("cpu"))
    latent = torch.zeros(3, 3, 16, 16)
    for colour in range(3):
        latent[colour, colour, 0, 0] = 1
    light, red_blue, green = fft.to_logits(latent)[:, :, 0, 0]
    assert (light > 0).all() and light.std() < 0.03 * light.mean()
    assert red_blue[0] > 0 > red_blue[2] and green[1] < 0 < green[0] and green[2] > 0
    assert light.norm() > 2 * red_blue.norm() > 2 * green.norm() > 0
    assert torch.allclose(COLOURS.norm(dim=0).max(), torch.tensor(1.0))


def test_nothing_is_left_behind_as_specks():
    """Where all numbers' first steps add up beyond white, pixels come back: a sharp picture is found everywhere."""
    fft = FFT("fft", Entry("", native_size=64, stride=1), torch.device("cpu"))
    wanted = torch.full((1, 3, 64, 64), 0.98)
    wanted[..., 12:52, 20:44] = torch.tensor([0.9, 0.1, 0.1])[:, None, None]
    latent = fft.start((64, 64), torch.Generator().manual_seed(0)).requires_grad_()
    optimiser = torch.optim.Adam([latent], lr=0.3 * fft.lr, betas=(0.9, 0.99))
    for _ in range(150):
        optimiser.zero_grad()
        (fft.image(latent) - wanted).square().mean().backward()
        optimiser.step()
        fft.project_(latent)
    away = (fft.image(latent) - wanted).abs().amax(1)
    assert (away > 0.5).sum() == 0 and away.mean() < 0.05


def spectrum(logits):
    """The Fourier spectrum of each decorrelated colour."""
    return torch.fft.fft2(torch.einsum("cr,brhw->bchw", COLOURS.inverse(), logits), norm="ortho")


@pytest.mark.parametrize("size", [(16, 16), (15, 12), (9, 20)])
def test_phases_alone_are_free(size):
    """Magnitudes are 1/f whatever the latent; its gradient reaches the phases."""
    maco = Maco("maco", Entry("", native_size=64, stride=1), torch.device("cpu"))
    down, across = (torch.fft.fftfreq(side) for side in size)
    magnitudes = MAGNITUDE * 0.25 / torch.hypot(down[:, None], across).clamp(min=1 / max(size))
    latent = torch.randn(1, 3, *size).requires_grad_()
    assert torch.allclose(spectrum(maco.to_logits(latent)).abs(), magnitudes.expand(1, 3, -1, -1), atol=1e-5)
    assert torch.allclose(maco.to_logits(latent), maco.to_logits(7 * latent), atol=1e-5)
    maco.image(latent).square().mean().backward()
    assert ((latent.grad != 0).float().mean() > 0.9) and abs((latent.grad * latent).sum()) < 1e-4 * latent.grad.norm()
    before = maco.image(latent).detach()
    maco.project_(latent)
    assert latent.detach().square().mean() == pytest.approx(1) and torch.allclose(maco.image(latent), before, atol=1e-5)


def test_the_phases_of_a_picture_are_kept():
    maco = Maco("maco", Entry("", native_size=64, stride=1), torch.device("cpu"))
    picture = torch.rand(1, 3, 12, 16)
    angles = (spectrum(picture - 0.5) / spectrum(maco.to_logits(maco.encode(picture)))).angle()
    assert angles.abs().max() < 1e-3


@pytest.mark.slow
def test_a_run_of_phases_resumes_and_replays(tmp_path):
    quick = {"generator": "maco", "steps": 4, "every": 1, "cutouts": 2, "size": (64, 64), "folder": tmp_path}
    frames = [frame.image.tobytes() for frame in clipgen.Run("a cat", **quick)]
    half = clipgen.Run("a cat", **quick)
    for frame in half:
        if frame.step == 2:
            half.stop()
    assert [frame.image.tobytes() for frame in clipgen.Run.resume(half.journal.folder)] == frames[2:]
    again = clipgen.Run.replay(half.journal.folder, folder=tmp_path)
    assert [frame.image.tobytes() for frame in again] == frames and len({*frames}) == 4
