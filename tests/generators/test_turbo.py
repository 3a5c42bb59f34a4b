"""One-step generators against diffusers' own pipeline, tiny and with random weights, as the hub's cache keeps it."""

import json
import warnings
from dataclasses import replace

import huggingface_hub.constants
import numpy as np
import pytest
import torch

import clipgen
from clipgen.errors import ClipgenError
from clipgen.generators import vae
from clipgen.generators.catalogue import GENERATORS
from clipgen.losses import StepContext
from clipgen.losses.regularisers import NoiseNorm
from clipgen.runs.finish import finish_batch

diffusers = pytest.importorskip("diffusers")
NAME = "hf-hub:org/turbo"
PROMPTS = ["a red apple", "two dogs in the snow, oil on canvas"]


def tokenizer(folder):
    """CLIP's tokenizer without merges: a token for each letter."""
    from transformers import CLIPTokenizer

    letters = [chr(i) for i in (*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 324))]
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=77), len(words)


def livelier(net):
    for weight in net.parameters():
        weight.data += 0.05 * torch.randn_like(weight)
    return net.eval()


def build(folder, scheduler):
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    words, count = tokenizer(folder)
    text = CLIPTextConfig(
        vocab_size=count,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=count - 2,
        eos_token_id=count - 1,
        pad_token_id=count - 1,
    )
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=32,
        attention_head_dim=8,
    )
    decoder = diffusers.AutoencoderKL(
        block_out_channels=(32, 32, 64, 64),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
    )
    return diffusers.StableDiffusionPipeline(
        livelier(decoder),
        livelier(CLIPTextModel(text)),
        words,
        livelier(unet),
        scheduler,
        None,
        None,
        requires_safety_checker=False,
    )


BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SCHEDULERS = {  # the first is SD-Turbo's
    "euler": lambda: diffusers.EulerDiscreteScheduler(**BETAS, timestep_spacing="trailing"),
    "ddim v": lambda: diffusers.DDIMScheduler(
        **BETAS, timestep_spacing="trailing", clip_sample=False, prediction_type="v_prediction"
    ),
    "lcm": lambda: diffusers.LCMScheduler(**BETAS),
}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Puts a pipeline into a cache of the hub, as org/turbo, and returns it."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    vae.hub_config.cache_clear()

    def keep(scheduler="euler"):
        repo = tmp_path / "hub" / "models--org--turbo"
        (repo / "refs").mkdir(parents=True)
        (repo / "refs" / "main").write_text("0" * 40)
        pipeline = build(tmp_path, SCHEDULERS[scheduler]())
        pipeline.save_pretrained(repo / "snapshots" / ("0" * 40))
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    return keep


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_picture_is_the_pipelines(scheduler, hub):
    """On three seeds and two prompts."""
    pipeline = hub(scheduler)
    ours = clipgen.load_generator(NAME)
    for prompt in PROMPTS:
        ours.condition([prompt])
        for seed in range(3):
            noise = ours.start((64, 64), torch.Generator().manual_seed(seed))
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")
                wanted = pipeline(prompt, 64, 64, 1, guidance_scale=0.0, latents=noise, output_type="pt").images
                found = ours.image(noise)
            assert found.shape == (1, 3, 64, 64) and wanted.std() > 0.01
            assert (found - wanted).abs().max() <= 1e-5


@pytest.mark.slow
def test_the_gradient_is_that_of_finite_differences(hub):
    hub()
    ours = clipgen.load_generator(NAME)
    ours.condition(PROMPTS[:1])
    ours.net.double()
    ours.net.text_embedding = ours.net.text_embedding.double()
    weights = torch.randn(1, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    noise = torch.randn(1, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()

    def value(latent):
        return (ours.net.decode(latent) * weights).sum()

    value(noise).backward()
    for seed in range(4):
        way = torch.randn(1, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(10 + seed))
        with torch.no_grad():
            slope = (value(noise + 1e-5 * way) - value(noise - 1e-5 * way)) / 2e-5
        assert float((noise.grad * way).sum()) == pytest.approx(float(slope), rel=1e-4)


@pytest.mark.slow
def test_half_precision_and_checkpointing_change_little(hub):
    """What lets a T4 hold 512x512: weights of 16 bits, and activations that are computed again."""
    hub()
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    images, gradients = [], []
    for precision in ("fp32", "fp32", "bf16"):
        ours = clipgen.load_generator(NAME, precision=precision)
        if images:
            assert ours.enable_checkpointing() and not ours.enable_checkpointing()
        latent = noise.clone().requires_grad_()
        images.append(ours.image(latent))
        images[-1].square().mean().backward()
        gradients.append(latent.grad)
    assert torch.equal(images[0], images[1]) and torch.allclose(gradients[0], gradients[1], atol=1e-7)
    assert ours.net.unet.conv_in.weight.dtype == ours.net.net.decoder.conv_in.weight.dtype == torch.bfloat16
    assert 0 < (images[2] - images[0]).abs().mean() < 0.02 and images[0].std() > 0.02
    assert torch.cosine_similarity(gradients[0].flatten(), gradients[2].flatten(), dim=0) > 0.9


def test_the_objective_and_the_norm_of_the_noise():
    latent = (3 * torch.randn(1, 4, 8, 8)).requires_grad_()

    class Spec:
        generator = type("G", (), {"is_noise": True})

    (term,) = NoiseNorm().terms(StepContext(torch.zeros(1), latent, 0, Spec, torch.Generator()))
    norm = latent.detach().norm()
    assert float(term.detach()) == pytest.approx(float(0.01 * (norm**2 / 2 - 255 * norm.log())), rel=1e-5)
    term.backward()
    pull = (latent.grad * latent.detach()).sum() / norm
    assert float(pull) == pytest.approx(float(0.01 * (norm - 255 / norm)), rel=1e-3), "to a norm of the root of d - 1"


@pytest.mark.slow
def test_a_run_is_conditioned_steered_resumed_and_replayed(hub, tmp_path):
    hub()
    quick = {"generator": NAME, "steps": 6, "every": 1, "cutouts": 2, "size": (64, 64), "folder": tmp_path, "lr": 50.0}
    plain = clipgen.Run(PROMPTS[0], **quick)
    frames = [frame.image.tobytes() for frame in plain]
    other = clipgen.Run(PROMPTS[1], like=plain, **quick)
    assert next(iter(other)).image.tobytes() != frames[0], "the same noise, another condition"
    steered = clipgen.Run(PROMPTS[0], like=plain, **quick)
    for frame in steered:
        if frame.step == 2:
            before = steered.optimization.spec.generator.net.text_embedding.clone()
            steered.change(prompt=PROMPTS[1])
        if frame.step == 4:
            steered.stop()
    assert not torch.equal(before, steered.optimization.spec.generator.net.text_embedding)
    resumed = clipgen.Run.resume(steered.journal.folder, like=plain)
    rest = [frame.image.tobytes() for frame in resumed]
    again = [frame.image.tobytes() for frame in clipgen.Run.replay(resumed.journal.folder, folder=tmp_path, like=plain)]
    assert again[:2] == frames[:2] and again[2:] != frames[2:] and again[4:] == rest and len(rest) == 2
    norm = resumed.optimization.latent.detach().norm()
    assert 0.94 * 16 < norm < 1.06 * 16
    checkpointed = resumed.optimization.spec.generator
    assert checkpointed.enable_checkpointing() and not checkpointed.enable_checkpointing()


def test_a_picture_is_noised_as_image_to_image_does(hub):
    pipeline = hub()
    ours = clipgen.load_generator(NAME)
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        clean = pipeline.vae.encode(image * 2 - 1).latent_dist.mode() * pipeline.vae.config.scaling_factor
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    pipeline.scheduler.set_timesteps(1)
    noisy = pipeline.scheduler.add_noise(clean, noise, pipeline.scheduler.timesteps[:1])
    assert (ours.encode(image) - noisy / pipeline.scheduler.init_noise_sigma).abs().max() <= 1e-5


def test_taesd_decodes_for_the_gradient_and_the_full_decoder_what_is_shown(hub, tmp_path, monkeypatch):
    pipeline = hub()
    monkeypatch.setenv("CLIPGEN_CACHE", str(tmp_path / "cache"))
    reference = diffusers.AutoencoderTiny().eval()
    reference.save_pretrained(tmp_path / "cache" / "taesd")
    entry = GENERATORS["sd-turbo-taesd"]
    monkeypatch.setitem(GENERATORS, "sd-turbo-taesd", replace(entry, config=entry.config | {"repo": "org/turbo"}))
    ours, full = clipgen.load_generator("sd-turbo-taesd"), clipgen.load_generator(NAME)
    noise = ours.start((64, 64), torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.equal(ours.image(noise), full.image(noise))
    with torch.no_grad():
        clean = pipeline("", 64, 64, 1, guidance_scale=0.0, latents=noise, output_type="latent").images
        wanted = (reference.decode(clean).sample + 1) / 2
    seen = ours.image(noise, 0.0, torch.Generator())
    assert (seen - wanted.clamp(0, 1)).abs().max() <= 1e-5 and wanted.std() > 0.01
    seen.square().mean().backward()
    assert noise.grad.abs().sum() > 0


def test_other_pipelines_are_refused(hub, tmp_path):
    hub()
    index = next((tmp_path / "hub").rglob("model_index.json"))
    index.write_text(index.read_text().replace("StableDiffusionPipeline", "FluxPipeline"))
    with pytest.raises(ClipgenError, match="is FluxPipeline; clipgen takes AutoencoderKL, "):
        clipgen.load_generator(NAME)


def test_a_hub_that_was_silent_is_asked_again(hub):
    with pytest.raises(ClipgenError, match="cannot be loaded"):
        vae.hub_config(NAME)
    hub()
    assert vae.hub_config(NAME)["class"] == "StableDiffusionPipeline"


@pytest.mark.slow
def test_each_run_of_a_batch_is_drawn_after_its_own_prompt(hub, tmp_path):
    hub()
    quick = {"generator": NAME, "steps": 3, "every": 1, "cutouts": 2, "size": (64, 64), "folder": tmp_path, "lr": 5.0}
    prompts = [PROMPTS[0], PROMPTS[0], PROMPTS[1]]
    first = clipgen.Run(prompts[0], **quick)
    alone = [first, *(clipgen.Run(prompt, like=first, **quick) for prompt in prompts[1:])]
    joined = [clipgen.Run(prompt, like=first, **quick) for prompt in prompts]
    joined[1].change(prompt=PROMPTS[1])
    alone[1].change(prompt=PROMPTS[1])
    finish_batch(joined, progress=False)
    for run, one in zip(joined, alone):
        list(one)
        assert run.finished and abs(np.asarray(run.image, int) - np.asarray(one.image, int)).mean() < 1
