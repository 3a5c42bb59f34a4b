"""Published upscalers, read by spandrel: larger pictures with more detail than Lanczos."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
from PIL import Image

from clipgen.device import resolve_device
from clipgen.errors import ClipgenError
from clipgen.images.reading import to_image, to_tensor
from clipgen.storage.weights import as_safetensors, load_weights


def load_upscaler(file: str | Path) -> Callable[[Image.Image], Image.Image]:
    """Return a function that makes a picture larger by the factor that the weights were trained for, such as 4.

    Args:
        file: A .safetensors or .pth of an architecture that spandrel knows (ESRGAN and many others), for RGB pictures.
            It is read as data: nothing in it is run.

    Raises:
        ClipgenError: spandrel is missing, or the file is missing or has no weights of an upscaler.
    """
    if not find_spec("spandrel"):
        raise ClipgenError(f'upscale={str(file)!r} is read by spandrel, which is missing; pip install ".[upscale]"')
    from spandrel import ImageModelDescriptor, ModelLoader

    tensors, _ = load_weights(as_safetensors(file))
    for prefix in ("params_ema.", "params."):  # of Real-ESRGAN and similar ones; the averaged weights first
        inner = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        tensors = inner or tensors
    try:
        model = ModelLoader(resolve_device()).load_from_state_dict(tensors)
    except Exception as error:  # an architecture that is not known, or weights that are not all there
        raise ClipgenError(
            f"upscale={str(file)!r}: spandrel does not know these weights ({str(error) or type(error).__name__}); "
            "choose an upscaler that it lists, or upscale=4"
        ) from error
    if not isinstance(model, ImageModelDescriptor) or model.scale < 2 or model.input_channels != 3:
        raise ClipgenError(f"upscale={str(file)!r}: these weights make no RGB picture larger; choose an upscaler's")
    model.eval()

    @torch.inference_mode()
    def upscale(picture: Image.Image) -> Image.Image:
        return to_image(model(to_tensor(picture).to(model.device))[0].float().clamp(0, 1).cpu())

    return upscale
