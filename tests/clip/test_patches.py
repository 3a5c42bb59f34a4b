"""Patch dropout: what a ViT is not shown does not count, and what it is shown pulls as all of it would."""

import json

import open_clip
import pytest
import torch
from torch.nn import functional as F

import clipgen
from clipgen.clip.catalogue import find_family
from clipgen.cutouts import CutoutConfig

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1}
SMALL = {"embed_dim": 64, "text_cfg": TEXT}
OWN = {"image_size": 64, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16}
TIMM = {"image_size": 224, "timm_model_name": "vit_tiny_patch16_224", "timm_pool": "token", "timm_proj": "linear"}
VISION = {
    "patchy": OWN,
    "patchy-mean": OWN | {"pool_type": "avg"},
    "patchy-coca": OWN | {"attentional_pool": True, "attn_pooler_heads": 2},
    "patchy-timm": TIMM,
}


@pytest.fixture(scope="module")
def vits(tmp_path_factory):
    """Small ViTs as perceptors: by the name of their architecture, in open_clip's own registry."""
    folder = tmp_path_factory.mktemp("configs")
    for name, vision in VISION.items():
        (folder / f"{name}.json").write_text(json.dumps(SMALL | {"vision_cfg": vision}))
    open_clip.add_model_config(folder)
    torch.manual_seed(0)
    for name in VISION:
        torch.save(open_clip.create_model(name).state_dict(), folder / f"{name}.pt")
    return {name: f"{name}/{folder / name}.pt" for name in VISION}


@pytest.mark.parametrize("name", VISION)
def test_only_the_kept_patches_are_looked_at(name, vits):
    perceptor = clipgen.load_perceptor(vits[name])
    side = perceptor.size // 16
    assert perceptor.patches == side**2 and find_family(vits[name]).has_patches(vits[name])
    rng = torch.Generator().manual_seed(1)
    views = torch.rand(2, 3, perceptor.size, perceptor.size, generator=rng)
    kept = torch.stack([torch.randperm(side**2, generator=rng)[: side**2 // 2] for _ in range(2)])
    shown = torch.zeros(2, side**2).scatter(1, kept, 1.0).view(2, 1, side, side)
    shown = F.interpolate(shown, scale_factor=16)
    with torch.no_grad():
        seen = perceptor.encode_image(views, kept)
        assert torch.allclose(perceptor.encode_image(views * shown, kept), seen, atol=1e-5), "the rest does not count"
        assert not torch.allclose(perceptor.encode_image(views.flip(-1) * shown, kept), seen, atol=1e-4)
        assert torch.allclose(perceptor.encode_image(views, kept.flip(1)), seen, atol=1e-5), "places come along"
        every = torch.arange(side**2).expand(2, -1)
        plain = perceptor.encode_image(views)
        assert torch.allclose(perceptor.encode_image(views, every), plain, atol=1e-5)
        assert not torch.allclose(seen, plain, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mini", False),
        ("evaluator", False),
        ("RN50/openai", False),
        ("ViT-B/32", True),
        ("ViT-L-14/datacomp_xl", True),
        ("coca_ViT-B-32/laion2b_s13b_b90k", True),
        ("ViT-B-16-SigLIP2/webli", True),
        ("convnext_base/laion400m_s13b_b51k", False),
        ("EVA02-B-16/merged2b_s8b_b131k", False),
        ("PE-Core-T-16-384/meta", False),
    ],
)
def test_who_can_is_known_before_loading(name, expected):
    assert find_family(name).has_patches(name) is expected


@pytest.mark.slow
def test_half_of_the_patches_pull_as_all_do(vits):
    """The mean gradient of 32 steps, on a latent, points where it would point."""
    perceptor, generator = clipgen.load_perceptor(vits["patchy"]), clipgen.load_generator()
    latent = generator.start((96, 96), torch.Generator().manual_seed(2)).requires_grad_()
    image, target = generator.image(latent), perceptor.embed_text(["a red apple"])[0]

    def pull(dropout):
        leaf = image.detach().requires_grad_()
        for step in range(32):
            rng = torch.Generator().manual_seed(step)
            views = CutoutConfig(cutouts=8, patch_dropout=dropout).sample(image.shape, 64, rng, perceptor.patches)
            kept = views.select_patches(slice(None), image.device)
            (perceptor.encode_image(views.render(leaf), kept) @ target).sum().backward()
        return torch.autograd.grad(image, latent, leaf.grad, retain_graph=True)[0].flatten()

    assert F.cosine_similarity(pull(0.5), pull(0.0), dim=0) > 0.9
