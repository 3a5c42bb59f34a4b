"""Published architectures at their real size, with random weights in the published formats, as if downloaded."""

from pathlib import Path

import dall_e.decoder
import dall_e.encoder
import open_clip
import torch

from clipgen.generators.catalogue import GENERATORS
from clipgen.generators.vqgan import VQModel


def published(folder: Path, *vqgans: str) -> Path:
    """A cache folder with the dVAE, some VQGANs, and a CLIP in a file of one's own, ``ViT-B-32.pt``."""
    torch.manual_seed(0)
    encoder, decoder = dall_e.encoder.Encoder(), dall_e.decoder.Decoder()
    decoder.blocks.output.conv.w.data *= 30  # pictures, not one grey
    (folder / "dvae").mkdir()
    for name, module in (("encoder", encoder), ("decoder", decoder)):
        torch.save(module, folder / "dvae" / f"{name}.pkl")
    for name in vqgans:
        net = VQModel(**GENERATORS[name].config)
        net.codebook.data.normal_()
        state = net.state_dict() | {"loss.discriminator.main.0.weight": torch.zeros(64, 3)}
        (folder / name).mkdir()
        torch.save({"state_dict": state, "global_step": 1}, folder / name / "last.ckpt")
    torch.save(open_clip.create_model("ViT-B-32", pretrained=None).state_dict(), folder / "ViT-B-32.pt")
    return folder
