"""The default start: the transformer drafts each thing of the prompt alone, and CLIP's gradient does the rest.

The transformer draws single, plain things well, under the names of its training. It fails at coloured things, at two
things, and at things in front of scenery. So each thing is drafted alone, cut out, and put beside the other one, or
where their relation puts it (a hat on a head), in front of the prompt's scenery. What has a colour in the prompt is
drafted in a grey as light as that colour: CLIP's gradient colours grey well. What is made of another thing has that
one's colours, and a picture in a painter's style those of the painter.
"""

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from clipgen.images.reading import to_image, to_tensor
from clipgen.inits import Dalle, InitContext
from clipgen.losses.regularisers import lightness
from clipgen.mini import ARTICLES, canonical_name, drawing_names, everyday_names, scenes, strip_articles
from clipgen.priors import Drawings, dalle
from clipgen.prompts import Prompt, positive_text_prompts

_PREPOSITIONS = "in front of|on top of|in|on|at|over|above|under|by|among|near"
_PREPOSITION = rf"(?:{_PREPOSITIONS})(?: the| an?)? "
_JOINT = re.compile(rf" (and|with|next to|behind|{scenes.VERBS}|{_PREPOSITIONS})(?= )")
_PART = "slice|piece|pair|bunch|bowl|painting|drawing|photo|photograph|picture|portrait|image|illustration|render"
_OF = re.compile(rf"^(?:.*\s)?(?:{_PART}) of ", re.DOTALL)  # "a slice of pizza", "an oil painting of a cat"
_SIMILAR = {  # words for places that the transformer was not trained on, by a similar one that it was
    "grass": ("garden", "park", "field", "hill"),
    "sea": ("lake", "river", "waves"),
    "sky": ("clouds", "air"),
    "beach": ("desert",),
    "forest": ("jungle",),
    "snow": ("winter", "winter morning", "winter day"),
    "sunset": ("sunrise", "dawn", "evening"),
    "night sky": ("night", "midnight"),
}
_PHRASES = {
    key: (key, *scenes.LOCATIONS.get(key, ()), *_SIMILAR.get(key, ())) for key in (*scenes.LOCATIONS, *_SIMILAR)
}
_SCENERY = {re.sub(f"^{_PREPOSITION}", "", phrase): name for name, phrases in _PHRASES.items() for phrase in phrases}
_STYLE = re.compile(  # with what is around its name: "in the style of Claude Monet", "by Monet", "a watercolour of"
    r",?\s*(?:(?:\bin )?\bthe style of (?:\w+ )?|\bby (?:\w+ )?|(?:\b(?:in|as|like) )?(?:\b(?:an?|the) )?)"
    rf"\b({'|'.join(scenes.STYLES)})\b(?: style| painting| picture)?(?: of\b)?"
)
_TINTS = {colour: colour for colour in scenes.COLOURS} | {"grey": "gray", "silver": "gray", "gold": "yellow"}
_TINTS |= {"golden": "yellow", "violet": "purple", "magenta": "pink"}
_TINTS |= dict.fromkeys(("navy", "turquoise", "cyan", "beige"), "")
DRAFT_TEMPERATURE = 0.25  # of sampling the tokens
DRAFTS = 4  # to choose from: their best is as likely as the best of 16 at temperature 0.5, in a third of the time
# Below this log-likelihood (nats) a draft mixes several things, and a beam search looks for a likelier one.
MIN_LOG_LIKELIHOOD, BEAMS = -20.0, 8
_DRAFT_SIZE = (128, 128)
CACHE: dict[tuple[str, int, str], list[Drawings]] = {}  # the stages of a thing, a seed and a device
MAX_CACHED = 32
_PAPER_TOLERANCE = 60  # how far paper may be from white, as a sum over the channels, of 255 each


class Thing(NamedTuple):
    """What is drafted, and its colour in the prompt."""

    text: str
    colour: str | None = None  # of ``scenes.COLOURS``; empty: another one, or a material; None: the prompt has none


class Layout(NamedTuple):
    """Up to two things, the scenery behind them, how they are related, the time of day, and the style."""

    things: list[Thing]
    scenery: str | None = None  # a name for ``scenes.draw_scenery``
    relation: str | None = None  # of the first thing to the second, as in ``scenes.relation_of``; None: side by side
    sky: str | None = None  # of scenery with a ground: one of ``scenes.TIMES``
    style: str | None = None  # one of ``scenes.STYLES``


def layout(*prompts: str) -> Layout:
    """Return the first two things of prompts, and the first scenery. "A cat on a mat" is "a cat"."""
    # What comes after a comma or a word such as "with" is a thing only if drawings have its name; CLIP sees it anyway.
    things, sceneries, relation, style = list[Thing](), list[str](), None, None
    for text in map(str.lower, prompts):
        style = style or next(iter(_STYLE.findall(text)), None)
        parsed = _parse(_STYLE.sub("", text).strip(" .,!") or text.strip(" .,!"))
        relation = relation if things else parsed[1]
        things, sceneries = things + parsed[0], sceneries + parsed[2]
    sceneries.sort(key=scenes.TIMES.__contains__)  # places first
    scenery = sceneries[0] if sceneries else None
    sky = next((name for name in sceneries if name in scenes.TIMES and scenery not in scenes.TIMES), None)
    return Layout(things[:2], scenery, relation if len(things) == 2 else None, sky, style)


def _parse(text: str) -> tuple[list[Thing], str | None, list[str]]:
    """Return a prompt's things (all of it if it names none, and no scenery), their relation, and its sceneries."""
    subjects, companions, sceneries = list[str](), list[str](), list[str]()
    relation, has_unknown_material = None, False
    first, *later = re.split(r",\s*", text)
    if later and not _is_name(first) and len(strip_articles(first).split()) == 1 and _is_described_name(later[0]):
        first, *later = later  # "a huge, green dragon"
    for phrase in (first, *later):
        for joint, part in _split_parts(phrase):
            bare, beside = strip_articles(part), phrase is not first or joint not in ("", "and")
            material = (
                scenes.find_material(bare, everyday_names()) if joint in scenes.MATERIAL and not companions else None
            )
            if bare in _SCENERY and not material and joint != "with" and (beside or bare not in everyday_names()):
                sceneries.append(_SCENERY[bare])
            elif not beside and set(bare.split()) - _TINTS.keys():
                subjects.append(part)
            elif material or (joint not in scenes.MATERIAL and beside and _is_name(part) and (joint or part != bare)):
                # A name after a comma has its article.
                relation = relation if companions else scenes.relation_of(joint, bare)
                companions.append(material or part)
            elif joint in scenes.MATERIAL:
                has_unknown_material = has_unknown_material or len(subjects) == 1  # CLIP colours it
    parts = subjects + companions or ([text] if text and not sceneries else [])
    things = [_to_thing(part) for part in parts]
    if has_unknown_material:
        things[0] = things[0]._replace(colour=things[0].colour or "")
    return things, relation if len(subjects) == 1 else None, sceneries


def _split_parts(phrase: str) -> list[tuple[str, str]]:
    """Return (what joins it to the part before, part) of each part of a phrase, without "a painting of"."""
    if strip_articles(phrase) in everyday_names():  # "a bow and arrow"
        return [("", phrase)]
    first, *rest = _JOINT.split(f" {phrase}")
    parts = [("", first), *zip(rest[::2], rest[1::2], strict=True)]
    return [(joint, _OF.sub("", part.strip())) for joint, part in parts if part.strip()]


def _is_described_name(text: str) -> bool:
    """Return whether a text is an adjective and a name, as "green dragon" is and "oil painting" is not."""
    words = text.split()
    return len(words) > 1 and words[0] not in ARTICLES and _is_name(f"a {words[-1]}")


def _is_name(text: str) -> bool:
    """Return whether drawings have this name, or for "a red hat" one that ends so: "top hat"."""
    bare = " ".join(word for word in strip_articles(text).split() if word not in _TINTS)
    has_article = text.startswith(("a ", "an "))
    if bare in everyday_names():
        return True
    return bool(bare) and has_article and any(name.endswith(f" {bare}") for name in everyday_names())


def _to_thing(text: str) -> Thing:
    words = [word for word in text.split() if word not in _TINTS]
    is_name = strip_articles(text) in everyday_names()  # "a red apple"
    # "An orange" is a thing, and "a heart of gold" has no colour.
    if is_name or len(words) == len(text.split()) or text.split()[-1] in _TINTS:
        return Thing(text)
    for i, word in enumerate(words[:-1]):
        if word in ("a", "an"):
            words[i] = "an" if words[i + 1][0] in "aeiou" else "a"
    return Thing(" ".join(words), next(_TINTS[word] for word in text.split() if word in _TINTS))


def cut_out(drawing: Tensor) -> Tensor:
    """Return the opacity (1, 1, H, W) of a drawing (1, 3, H, W): 0 where white paper is connected to the edge."""
    pixels = torch.from_numpy(np.array(to_image(F.pad(drawing[0], (1, 1, 1, 1), value=1)))).int()
    filled = _fill_from_edge((255 - pixels).sum(-1) <= _PAPER_TOLERANCE)[1:-1, 1:-1]
    outside = filled.to(drawing.device)[None, None].float()
    # The rim is half paper.
    return 1 - F.avg_pool2d(F.max_pool2d(outside, 5, 1, 2), 3, 1, 1, count_include_pad=False)


def _fill_from_edge(is_paper: Tensor) -> Tensor:
    """Return which pixels (H, W) of paper are connected to the edge, all of which is paper."""
    filled, count = torch.zeros_like(is_paper), -1
    filled[0] = True
    while count != (count := int(filled.sum())):
        for _ in "rows", "columns":  # a run of paper is filled if a part of it is; at the edge runs may join
            filled, is_paper = filled.T, is_paper.T
            runs = (~is_paper).flatten().cumsum(0)
            is_filled = torch.bincount(runs, filled.flatten().float()) > 0
            filled = is_paper & is_filled[runs].view_as(is_paper)
    return filled


def stages_of(thing: str, seed: int, device: str) -> Iterator[Drawings]:
    """Yield the likeliest drawing of a thing after each row; last the samples, or the beams if one is likelier.

    Later runs find them cached.
    """
    key = thing, seed, device
    if cached := CACHE.get(key):  # another thread may clear it at any time
        yield from cached
        return
    stages, best, highest = list[Drawings](), list[Drawings](), -math.inf
    options: dict[str, Any] = {"seed": seed, "guidance": 1, "perceptor": None, "device": device}
    for count, temperature in ((DRAFTS, DRAFT_TEMPERATURE), (BEAMS, 0)):
        for drawings in dalle(thing, count, stream="likeliest", temperature=temperature, **options):
            if drawings.done < 1:
                stages.append(drawings)
                yield drawings
        pairs = zip(drawings.images, drawings.likelihoods)
        likelihoods = [-math.inf if is_blank(image) else value for image, value in pairs]
        if not best or max(likelihoods) > highest:
            best, highest = [drawings.ordered(likelihoods)], max(likelihoods)
        if highest >= MIN_LOG_LIKELIHOOD:
            break
    if len(CACHE) >= MAX_CACHED:
        CACHE.clear()
    CACHE[key] = stages + best
    yield from best


def is_blank(drawing: Image.Image) -> bool:
    """Return whether less than a hundredth of a drawing differs from its median brightness by a tenth."""
    pixels = to_tensor(drawing)
    return float(((pixels - pixels.median()).abs().amax(1) > 0.1).float().mean()) < 0.01


class Drafts(Dalle):
    """The things of the prompt side by side; those that have a colour in the prompt are grey."""

    strength, space = 1.0, "colouring"

    def find_subject(self, prompts: Sequence[Prompt]) -> Layout:
        """Return the layout of the prompts of the largest weight that are about the whole picture, if any are."""
        positive = positive_text_prompts(prompts)
        whole = [prompt for prompt in positive if not prompt.where] or positive
        most = max((prompt.weight for prompt in whole), default=0.0)
        return layout(*(prompt.text for prompt in whole if prompt.weight >= most))

    def draft_key(self, subject: Layout) -> str:
        """Return the layout as text. Run folders keep it: another form would restart a resumed run from its draft."""
        more = [(name, getattr(subject, name)) for name in ("relation", "sky", "style")]
        rest = "".join(f", {name}={value!r}" for name, value in more if value)
        things = ", ".join(
            f"Thing(text={thing.text!r}, coloured={thing.colour is not None})" for thing in subject.things
        )
        return f"Layout(things=[{things}], place={subject.scenery!r}{rest})"

    def single_text(self, subject: Layout) -> str:
        is_plain = len(subject.things) == 1 and not (
            subject.scenery or subject.style or subject.things[0].colour is not None
        )
        return subject.things[0].text if is_plain else ""

    def strength_and_space(self, subject: Layout) -> tuple[float, str]:
        return (40.0, "pixels") if subject.style else (self.strength, self.space)  # CLIP would colour greys

    def stages(self, context: InitContext, subject: Layout, size: tuple[int, int]) -> Iterator[Tensor]:
        """Yield the things of a layout in front of its scenery, one after another, as images (1, 3, H, W)."""
        for image in self._compose(context, subject, size):
            rng = torch.Generator().manual_seed(context.seed)
            yield scenes.apply_style(image, scenes.STYLES[subject.style], rng) if subject.style else image

    def _compose(self, context: InitContext, subject: Layout, size: tuple[int, int]) -> Iterator[Tensor]:
        things = subject.things
        if subject.scenery is None and len(things) == 1:
            for drawing in super().stages(context, things[0].text, size):
                yield to_grey(drawing, things[0].colour)
            return
        image = torch.ones(1, 3, *size, device=context.generator.device)
        if subject.scenery:
            rng = torch.Generator().manual_seed(context.seed)
            scenery = scenes.draw_scenery(subject.scenery, max(size), rng, subject.sky)
            image[:] = F.interpolate(scenery[None], size, mode="bilinear", antialias=True)
        if subject.relation:
            things = [_with_face(things[0], subject.relation), things[1]]
        stage, drawings = image, list[Tensor]()
        for thing, square in zip(things, scenes.squares(len(things), *size), strict=True):
            before = stage
            for drawing in super().stages(context, thing.text, _DRAFT_SIZE):
                stage = before.clone()
                scenes.paste(stage, _cut_out_grey(drawing, thing), *square)
                yield stage
            drawings.append(drawing)
        if subject.relation:  # known only now that both are drawn
            layers = [_cut_out_grey(drawing, thing) for drawing, thing in zip(drawings, things, strict=True)]
            _paste_related(image, subject.relation, things[0], layers)
        if subject.relation or not things:
            yield image

    def sample(self, context: InitContext, text: str) -> Iterator[Drawings]:
        return stages_of(canonical_name(text, context.perceptor), context.seed, str(context.generator.device))


def to_grey(drawing: Tensor, colour: str | None) -> Tensor:
    """Return a drawing (1, 3, H, W) in grey, on average about as light as a colour, which is one of ``Thing``."""
    if colour is None:
        return drawing
    light = lightness(drawing)
    if colour:
        opaque, rgb = cut_out(drawing), light.new_tensor(scenes.COLOURS[colour])[:, None, None]
        tone = lightness(rgb).clamp(max=0.88)  # lighter lines would not be seen
        mean = ((light * opaque).sum() / opaque.sum().clamp(min=1)).clamp(0.25, 0.75)
        light = torch.where(light < mean, tone * light / mean, 1 - (1 - tone) * (1 - light) / (1 - mean))
        if rgb.amax() - rgb.amin() < 0.05:  # a trace of blue is held, and keeps CLIP from colouring it
            return torch.cat([light, light, (light + 0.06 * opaque).clamp(max=1)], 1)
    return light.expand_as(drawing)


def _cut_out_grey(drawing: Tensor, thing: Thing) -> Tensor:  # with its opacity, (1, 4, H, W)
    return torch.cat([to_grey(drawing, thing.colour), cut_out(drawing)], 1)


def _with_face(thing: Thing, relation: str) -> Thing:
    """Return the face of a thing that wears something, if there are drawings of faces alone: "a cat face"."""
    face = f"{strip_articles(thing.text)} face"
    if relation in scenes.WORN and face in drawing_names().names:
        return thing._replace(text=scenes.with_article(face))
    return thing


def _paste_related(image: Tensor, relation: str, first: Thing, layers: Sequence[Tensor]) -> None:
    """Paste two things where their relation puts them; parts of them may be outside of the image."""
    height, width = image.shape[-2:]
    if relation == "made":
        scenes.paste(image, scenes.cover(*layers), *scenes.squares(1, height, width)[0])
        return
    boxes = [scenes.bounding_boxes(layer[:, 3] > 0.5)[0].tolist() for layer in layers]
    has_face = first.text.endswith(" face") or strip_articles(first.text) in scenes.FACES
    positions, short = scenes.arrange(relation, boxes[0], boxes[1], has_face), min(height, width)
    for i in (1, 0) if relation in scenes.BEHIND else (0, 1):
        fraction, x, y = positions[i]
        side = max(1, round(fraction * short))
        top, left = height / 2 + (y - 0.5) * short - side / 2, width / 2 + (x - 0.5) * short - side / 2
        scenes.paste(image, layers[i], round(top), round(left), side)
