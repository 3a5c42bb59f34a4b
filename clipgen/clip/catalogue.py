"""Load perceptors by name; zero-shot classification (``rank``)."""

from __future__ import annotations

import warnings
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from clipgen import device as devices
from clipgen.clip import Perceptor
from clipgen.clip.published import NAMED
from clipgen.errors import ClipgenError, suggest
from clipgen.images.reading import to_list, to_picture
from clipgen.registry import PERCEPTOR_FAMILIES


def find_family(name: str) -> type[Perceptor]:
    """Return the class of a perceptor. Raises ClipgenError for a name of no family, or of no model."""
    for kind in PERCEPTOR_FAMILIES.values():
        if kind.knows(name):
            kind.check(name)
            return kind
    nearest = suggest(name, ["mini", "evaluator", *NAMED])
    raise ClipgenError(
        f"perceptor={name!r} is unknown; {nearest}choose one of: mini, evaluator, ViT-B-32/openai or another "
        "architecture/tag of open_clip, pickscore, hps-v2.1 and others by name (clipgen models), "
        "hf-hub:org/name"
    )


def load_perceptor(name: str = "mini", device: torch.device | str = "cpu", precision: str = "auto") -> Perceptor:
    """Return a perceptor, ready on a device.

    Args:
        name: One of

            - ``mini``, which ships with clipgen;
            - ``evaluator``, which also ships: built and trained differently, to judge what ``mini`` guides;
            - ``architecture/tag`` as open_clip lists them, ``ViT-B-16-SigLIP2/webli``; if only one tag begins so,
              its beginning is enough: ``ViT-L-14/datacomp_xl``, ``ViT-B-16-SigLIP2``;
            - ``architecture/file``, weights of your own;
            - ``pickscore``, ``hps-v2.1``, ``fare2``, ``fare4``, ``tecoa4``, ``clipag``, ``aesthetic``: see
              ``clipgen models``;
            - ``hf-hub:org/name``, a model on the Hugging Face hub;
            - a name of the CLIP paper, ``ViT-B/32``, ``RN50x4``, ``ViT-L/14@336px``: OpenAI's weights.
        device: auto, cpu, cuda or mps, or a torch device.
        precision: The image tower's: bf16, fp16, fp32, or auto for what suits the device.

    Raises:
        ClipgenError: For an unknown name or device, and for weights that cannot be downloaded, read or loaded.
    """
    name = str(name)
    kind = find_family(name)
    device = devices.resolve_device(device) if isinstance(device, str) else device
    precision = devices.resolve_precision(device, precision)
    model = kind(name, device)  # type: ignore[call-arg]
    model.set_precision(precision)
    return model


def embed(perceptor: Perceptor, texts: list[str]) -> Tensor:
    """Return ``embed_text`` of texts, with a warning that quotes the end of a text that is too long."""
    for text in texts:
        if not perceptor.fits(text):
            words, space = text.split(), " "
            if not perceptor.fits(words[0]):  # in a script without spaces
                words, space = list(text.strip()), ""
            # How many words fit, by bisection: a long text is tokenised a few times only.
            count = bisect_left(range(1, len(words)), True, key=lambda n: not perceptor.fits(space.join(words[:n])))
            dropped = space.join(words[count:])
            warnings.warn(f"prompt too long for {perceptor.name}; this is dropped: {dropped!r}", stacklevel=3)
    return perceptor.embed_text(texts)


def rank(images: Any, texts: Sequence[str] | str, perceptor: Perceptor | str = "mini", device: str = "auto") -> Tensor:
    """Return how well each picture matches each text, as (images, texts) probabilities: CLIP in one call.

    They are a softmax over the texts with the model's own temperature (Radford et al. 2021), or for SigLIP a sigmoid,
    whose rows need not sum to one (Zhai et al. 2023). ``images`` are in any form that ``to_picture`` takes.

    ``pickscore`` and ``hps-v2.1`` were trained on which of two pictures people prefer for a text. With them it is a
    softmax over the images: how likely each is preferred to the others for a text (Kirstain et al. 2023).

    Raises:
        ClipgenError: For a picture that cannot be read, and for no pictures or texts.
    """
    several, words = to_list(images), to_list(texts)
    if not several or not words:
        raise ClipgenError("rank needs at least one picture and one text")
    if not all(isinstance(word, str) for word in words):
        raise ClipgenError(f"texts={texts!r}: must be texts, such as ['a cat', 'a dog']")
    pictures = [to_picture(image) for image in several]  # before the perceptor is loaded
    model = load_perceptor(perceptor, devices.resolve_device(device)) if isinstance(perceptor, str) else perceptor
    logits = model.scale * model.embed_image(pictures) @ embed(model, words).T
    if model.bias is not None:
        return (logits + model.bias).sigmoid().cpu()
    return logits.softmax(0 if model.is_preference else 1).cpu()
