"""LAION's aesthetic score as an objective: a linear layer on the embeddings of OpenAI's CLIP, without a text."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from clipgen.clip.named import apply_head, head_of, load_head
from clipgen.errors import ClipgenError
from clipgen.losses.loss import Loss, StepContext
from clipgen.setting import setting


@dataclass(frozen=True)
class Aesthetic(Loss):
    """Ten minus the aesthetic score of the whole picture, by each CLIP of the run that has a head."""

    name = "aesthetic"
    aesthetic: float = setting(
        0.0, "weight of LAION's aesthetic score, such as 0.1; the perceptor must be one that it was trained on"
    )

    def check(self, perceptors: Sequence[str]) -> None:
        if self.aesthetic and not any(map(head_of, perceptors)):
            raise ClipgenError(
                f"aesthetic={self.aesthetic}: {', '.join(perceptors)} cannot give it; "
                "choose perceptor='ViT-L-14/openai', 'ViT-B-16/openai' or 'ViT-B-32/openai'"
            )

    def terms(self, context: StepContext) -> Iterator[Tensor]:
        for perceptor, share in context.spec.perceptors if self.aesthetic else ():
            if not (file := head_of(perceptor.name)):
                continue
            head = perceptor.cached("aesthetic head", lambda: load_head(file, perceptor.device))  # noqa: B023
            view = F.interpolate(context.image, (perceptor.size,) * 2, mode="bilinear", antialias=True)
            yield self.aesthetic * share * (10 - apply_head(head, perceptor.encode_image(view)).mean())
