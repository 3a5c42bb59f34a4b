"""Published architectures at their real size, with random weights in the published formats, as if downloaded."""

from pathlib import Path

import dall_e.decoder
import dall_e.encoder
import open_clip
import torch
from safetensors.torch import save_file

from clipgen.generators.catalogue import GENERATORS
from clipgen.generators.vqgan import VQModel


def published(folder: Path, *vqgans: str, dtype: torch.dtype = torch.float32) -> Path:
    """A cache folder with the dVAE, some VQGANs, and a CLIP in a file of one's own, ``ViT-B-32.safetensors``.

    A ``dtype`` of 16 bits is half as much to write.
    """
    torch.manual_seed(0)
    encoder, decoder = dall_e.encoder.Encoder(), dall_e.decoder.Decoder()
    decoder.blocks.output.conv.w.data *= 30  # pictures, not one grey
    (folder / "dvae").mkdir()
    for name, module in (("encoder", encoder), ("decoder", decoder)):
        torch.save(module.to(dtype), folder / "dvae" / f"{name}.pkl")
    for name in vqgans:
        net = VQModel(**GENERATORS[name].config)
        net.codebook.data.normal_()
        state = net.to(dtype).state_dict() | {"loss.discriminator.main.0.weight": torch.zeros(64, 3)}
        (folder / name).mkdir()
        torch.save({"state_dict": state, "global_step": 1}, folder / name / "last.ckpt")
    clip = open_clip.create_model("ViT-B-32", pretrained=None).half()  # as OpenAI's are
    save_file(clip.state_dict(), folder / "ViT-B-32.safetensors")
    return folder
