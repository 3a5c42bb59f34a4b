"""A start for a run: the transformer draws each thing alone, grey where it is to be coloured, and CLIP does the rest.

What the transformer knows by heart are plain things, by the names that it was taught. Of a coloured one it draws an
outline without its parts, of two at once hardly either, and before a sea it draws half of a thing. So they are cut out
and put side by side, or where the prompt has a place for them, before that. To colour a drawing, on the other hand, is
what CLIP's gradient does well, if there is no colour in its way.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import NamedTuple

import torch
from PIL import ImageDraw
from torch import Tensor
from torch.nn import functional as F

from clipgen.clip.base import Perceptor
from clipgen.clip.catalogue import embed, load_perceptor
from clipgen.images.palette import lightness
from clipgen.images.reading import to_image, to_tensor
from clipgen.inits import Dalle, InitContext
from clipgen.losses.loss import InitTarget
from clipgen.mini.scenes import COLOURS, PLACES, background, with_article
from clipgen.mini.vocabulary import drawing_names, everyday_name
from clipgen.priors.sampling import Drawings, dalle
from clipgen.prompts import Prompt, positive_texts

_RELATED = "in front of|on top of|in|on|at|over|above|under|by|among|near"
_TO = rf"(?:{_RELATED})(?: the| an?)? "
_JOINT = re.compile(rf" (and|with|next to|behind|{_RELATED})(?= )")
_PART = (
    "slice|piece|pair|bunch|bowl|painting|drawing|photo|photograph|picture|portrait|sketch|image|illustration|render"
)
_OF = re.compile(rf"^(?:.*\s)?(?:{_PART}) of ", re.DOTALL)  # "a slice of pizza", "an oil painting of a cat"
_LIKE = {  # places that look like one that training had
    "grass": ("garden", "park", "field", "hill"),
    "sea": ("lake", "river", "waves"),
    "sky": ("clouds", "air"),
    "beach": ("desert",),
    "forest": ("jungle",),
}
_PHRASES = {place: (place, *PLACES.get(place, ()), *_LIKE.get(place, ())) for place in (*PLACES, *_LIKE)}
_FIELDS = {re.sub(f"^{_TO}", "", phrase): place for place, phrases in _PHRASES.items() for phrase in phrases}
_ARTICLES = {"a", "an", "the"}
_MORE = "grey", "gold", "golden", "silver", "navy", "turquoise", "cyan", "violet", "magenta", "beige"
_TINTS = {*COLOURS, *_MORE}
ALIKE = 0.88  # the cosine of two names of a thing: of a car and an automobile 0.91; a squirrel is no bison, 0.86
CALM = 0.25  # the temperature at which a thing is drawn that it knows by heart, and without guidance
DRAFTS = 4  # so many; as likely as the likeliest of 16 at twice the temperature, in a third of their time
SURE, TRIES = -20.0, 3  # nats: what it knows by heart is likelier, what it mixes is not, and is tried again
_DRAWN = (128, 128)  # the size at which a thing is cut out
_PAPER = 60  # levels of 255, of all channels together, by which paper may differ from white


class Thing(NamedTuple):
    """What is drawn, and whether the prompt has a colour for it."""

    text: str
    coloured: bool


class Layout(NamedTuple):
    """One thing in the middle or two side by side, before a place of ``background`` if there is one; or that alone."""

    things: list[Thing]
    place: str | None = None


def layout(*prompts: str) -> Layout:
    """Each thing is drawn alone: "a red car and a cat" is "a car" and "a cat", "a cat on a table" is a cat.

    The first two things are taken, and the first place. What is beside a thing, or after a comma, is one if it has a
    name; if not, it is left to CLIP.
    """
    things, place = list[Thing](), None
    for text in prompts:
        found, where = _read(text.lower().strip(" .,!"))
        things, place = things + [_thing(part) for part in found], place or where
    return Layout(things[:2], place)


def _read(text: str) -> tuple[list[str], str | None]:
    """The things of a prompt, those that stand beside others last, and its first place; all of it if it has neither."""
    heads, others, where = list[str](), list[str](), None
    first, *later = re.split(r",\s*", text)
    if later and not _known(first) and len(_bare(first).split()) == 1 and _described(later[0]):
        first, *later = later  # "a huge, green dragon"
    for phrase in (first, *later):
        for joint, part in _parts(phrase):
            bare, beside = _bare(part), phrase is not first or joint not in ("", "and")
            if bare in _FIELDS and joint != "with" and (beside or bare not in names()):
                where = where or _FIELDS[bare]
            elif not beside and set(bare.split()) - _TINTS:
                heads.append(part)
            elif beside and _known(part) and (joint or part != bare):  # after a comma with its article
                others.append(part)
    return heads + others or ([text] if text and where is None else []), where


def _parts(phrase: str) -> list[tuple[str, str]]:
    """What joins each part of a phrase to what is before it, and the part, without its style and its portion."""
    if _bare(phrase) in names():  # "a bow and arrow"
        return [("", phrase)]
    first, *rest = _JOINT.split(f" {phrase}")
    parts = [("", first), *zip(rest[::2], rest[1::2], strict=True)]
    return [(joint, _OF.sub("", part.strip())) for joint, part in parts if part.strip()]


def _described(text: str) -> bool:
    """Whether that goes on with an adjective and a name, as "green dragon" does; "oil painting" does not."""
    words = text.split()
    return len(words) > 1 and words[0] not in _ARTICLES and _known(f"a {words[-1]}")


def _known(text: str) -> bool:
    """Whether that is what a drawing is called; "a red hat" is a kind of it, of a "top hat"."""
    bare = " ".join(word for word in _bare(text).split() if word not in _TINTS)
    kind = text.startswith(("a ", "an "))
    return bare in names() or (bool(bare) and kind and any(name.endswith(f" {bare}") for name in names()))


def _thing(text: str) -> Thing:
    words = [word for word in text.split() if word not in _TINTS]
    known = _bare(text) in names()  # "a red apple"
    # "An orange" is a thing, and "a heart of gold" has no colour.
    if known or len(words) == len(text.split()) or text.split()[-1] in _TINTS:
        return Thing(text, False)
    for i, word in enumerate(words[:-1]):
        if word in ("a", "an"):
            words[i] = "an" if words[i + 1][0] in "aeiou" else "a"
    return Thing(" ".join(words), True)


@cache
def names() -> list[str]:
    """What drawings are called. The transformer was taught 841 of these names."""
    return [everyday_name(name).lower() for name in drawing_names().names]


def taught(text: str, perceptor: Perceptor) -> str:
    """A thing by the name that the transformer was taught: "the sun" is "a sun", "a car" is "an automobile".

    Mini CLIP knows which are alike: ``perceptor``, if it is that. "A moon" is at least a kind of it, "a crescent moon".
    """
    bare = _bare(text)
    text = with_article(bare) if bare and text.startswith("the ") else text
    if bare in (*names(), ""):
        return text
    mini = perceptor if perceptor.name == "mini" else load_perceptor("mini")
    alike = drawing_names().embeddings.to(mini.device) @ embed(mini, [text])[0]
    kinds = [i for i, name in enumerate(names()) if name.endswith(f" {bare}")]
    if alike.max() >= ALIKE:
        return with_article(names()[int(alike.argmax())])
    return with_article(names()[max(kinds, key=lambda i: float(alike[i]))]) if kinds else text


def _bare(text: str) -> str:
    return " ".join(word for word in text.split() if word not in _ARTICLES)


def places(count: int, height: int, width: int) -> list[tuple[int, int, int]]:
    """Top, left and side of squares: none, one in the middle, or two end to end along the longer side, a little askew.

    Where two would be small, their margins overlap. Mini CLIP knows pairs so, and not from corner to corner.
    """
    long, short = max(height, width), min(height, width)
    if count < 2:
        side = max(1, 7 * short // 8)
        return count * [((height - side) // 2, (width - side) // 2, side)]
    side = max(1, min(short, long // 2), 9 * short // 16)
    middle, askew = (short - side) // 2, (short - side) // 6
    first, second = (0, middle - askew), (long - side, middle + askew)
    if height > width:
        return [(*first, side), (*second, side)]
    return [(*first[::-1], side), (*second[::-1], side)]


def cut_out(drawing: Tensor) -> Tensor:
    """How opaque a drawing (1, 3, H, W) on white paper is, (1, 1, H, W): not where paper reaches it from the edge."""
    paper = to_image(F.pad(drawing[0], (1, 1, 1, 1), value=1))
    ImageDraw.floodfill(paper, (0, 0), (255, 0, 255), thresh=_PAPER)
    filled = to_tensor(paper)[..., 1:-1, 1:-1].to(drawing.device)
    outside = (filled - filled.new_tensor([1, 0, 1])[:, None, None]).abs().amax(1, keepdim=True) == 0
    # The rim is half paper.
    return 1 - F.avg_pool2d(F.max_pool2d(outside.float(), 5, 1, 2), 3, 1, 1, count_include_pad=False)


@lru_cache(maxsize=32)
def drawings_of(thing: str, seed: int, device: str) -> Drawings:
    """A few drawings of a thing, the likeliest first, kept for the next run that wants them.

    Of what the transformer knows by heart it is sure, of what it mixes from several it is not, and tries other seeds.
    """
    tried = list[Drawings]()
    while len(tried) < TRIES and (not tried or tried[-1].likelihoods[0] < SURE):
        other = (seed + len(tried) * 10**6) % 2**63
        tried.append(dalle(thing, DRAFTS, temperature=CALM, guidance=1, seed=other, perceptor=None, device=device))
    return max(tried, key=lambda drawings: drawings.likelihoods[0])


class Drafts(Dalle):
    """The things of the prompt side by side; grey, and to be coloured in, where the prompt has a colour for one."""

    def latent(self, context: InitContext) -> Tensor:
        drawn = self._layout(self.first_prompts(context))
        if drawn.place is None and len(drawn.things) == 1 and not drawn.things[0].coloured:
            return self.drawn_latent(context, [Prompt(drawn.things[0].text)])
        return context.generator.encode(self.draw_image(context, self.first_prompts(context), context.size))

    def targets(self, context: InitContext) -> list[InitTarget]:
        def draw(prompts: Sequence[Prompt], size: tuple[int, int]) -> Tensor:
            return self.draw_image(context, prompts, size)

        def draft_key(prompts: Sequence[Prompt]) -> str:
            return str(self._layout(prompts))

        return context.draft_targets(draw, space="colouring", draft_key=draft_key)

    def _layout(self, prompts: Sequence[Prompt]) -> Layout:
        """Of what weighs most. What is asked for in a part of the picture, or counts less, is left to CLIP."""
        wanted = positive_texts(prompts)
        whole = [prompt for prompt in wanted if not prompt.where] or wanted
        most = max((prompt.weight for prompt in whole), default=0.0)
        return layout(*(prompt.text for prompt in whole if prompt.weight >= most))

    def draw_image(self, context: InitContext, prompts: Sequence[Prompt], size: tuple[int, int]) -> Tensor:
        drawn = self._layout(prompts)
        if drawn.place is None and len(drawn.things) == 1:
            return _grey(self._alone(context, drawn.things[0], size), drawn.things[0])
        image = torch.ones(1, 3, *size, device=context.generator.device)
        if drawn.place:
            field = background(drawn.place, max(size), torch.Generator().manual_seed(context.seed))
            image[:] = F.interpolate(field[None], size, mode="bilinear", antialias=True)
        for thing, (top, left, side) in zip(drawn.things, places(len(drawn.things), *size), strict=True):
            drawing = self._alone(context, thing, _DRAWN)
            both = torch.cat([_grey(drawing, thing), cut_out(drawing)], 1)
            draft = F.interpolate(both, (side, side), mode="bicubic", antialias=True).clamp(0, 1)
            image[..., top : top + side, left : left + side].lerp_(draft[:, :3], draft[:, 3:])
        return image

    def _alone(self, context: InitContext, thing: Thing, size: tuple[int, int]) -> Tensor:
        return super().draw_image(context, [Prompt(thing.text)], size)

    def sample(self, context: InitContext, text: str) -> Drawings:
        return drawings_of(taught(text, context.perceptor), context.seed, str(context.generator.device))


def _grey(drawing: Tensor, thing: Thing) -> Tensor:
    return lightness(drawing).expand_as(drawing) if thing.coloured else drawing
