"""Where runs begin."""

from types import SimpleNamespace

import pytest
import torch
from PIL import Image, ImageDraw
from torch.nn import functional as F

import clipgen
from clipgen import inits as starts
from clipgen.images.reading import parse_colour, to_image, to_tensor
from clipgen.inits import Dalle
from clipgen.losses.regularisers import lightness
from clipgen.mini import canonical_name, drafts, scenes
from clipgen.priors import Drawings
from clipgen.prompts import Prompt
from clipgen.registry import INITS


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


MADE = {name: INITS[name]() for name in ("noise", "perlin", "gradient")} | {
    name: starts.Colour(parse_colour(name)) for name in ("navy", "#ff8000")
}


@pytest.mark.parametrize("name", MADE)
def test_made_starts(name):
    first, again, other = (MADE[name].draw((24, 40), rng(seed)) for seed in (1, 1, 2))
    assert first.shape == (1, 3, 24, 40) and first.min() >= 0 and first.max() <= 1
    assert torch.equal(first, again) and torch.equal(first, other) == isinstance(MADE[name], starts.Colour)


def test_made_starts_are_as_rough_as_they_say():
    noise, perlin, gradient = (
        MADE[name].draw((64, 64), rng()).diff(dim=-1).abs().mean() for name in ("noise", "perlin", "gradient")
    )
    assert noise > 4 * perlin > 4 * gradient and parse_colour("a fox") is None


@pytest.mark.parametrize(
    ("init", "goals"), [("random", 0), ("perlin", 1), pytest.param("dalle", 1, marks=pytest.mark.slow)]
)
def test_random_codes_have_no_goal_even_in_a_mask(init, goals, tmp_path):
    run = clipgen.Run("a cat", init=init, mask="left", steps=1, cutouts=2, size=(64, 64), folder=tmp_path)
    list(run)
    assert len(run.optimization.spec.init_targets) == goals


def test_a_start_that_went_names_the_one_to_choose(tmp_path):
    with pytest.raises(clipgen.ClipgenError, match=r"init='collage': .* choose init='dalle'"):
        clipgen.Run("a cat", init="collage", folder=tmp_path)
    folder = clipgen.Run("a cat", init="perlin", folder=tmp_path).journal.folder
    saved = folder / "settings.json"
    saved.write_text(saved.read_text().replace('"perlin"', '"collage"'))
    for again in (clipgen.Run.resume, clipgen.Run.replay):
        with pytest.raises(clipgen.ClipgenError, match=rf"{folder}: init='collage': .* choose init='dalle'"):
            again(folder)


@pytest.mark.slow
def test_what_the_prompt_has_a_colour_for_is_drafted_grey(tmp_path):
    asked = {"generator": "stack", "init": "dalle", "steps": 1, "cutouts": 2, "size": (128, 64)}
    run = clipgen.Run("a blue cat and a banana", folder=tmp_path, **asked)
    list(run)
    (goal,) = run.optimization.spec.init_targets
    cat, banana = (part.amax(1) - part.amin(1) for part in goal.image.chunk(2, -1))
    assert goal.space == "colouring" and cat.max() < 1e-5 and banana.max() > 0.5


@pytest.mark.parametrize(("colour", "hue"), [("black", 0.06), ("white", 0.06), ("pink", 0), ("blue", 0), ("", 0)])
def test_grey_is_about_as_light_as_the_colour_and_black_white_and_gray_stay(colour, hue):
    drawing = torch.ones(1, 3, 64, 64)
    drawing[..., 16:48, 16:48] = torch.tensor([0.3, 0.6, 0.4])[:, None, None]
    grey = drafts.to_grey(drawing, colour)
    light, before = (lightness(picture)[..., 32, 32].item() for picture in (grey, drawing))
    goal = lightness(torch.tensor(scenes.COLOURS[colour])[:, None, None]).item() if colour else before
    assert light == pytest.approx(min(goal, 0.88), abs=0.02)
    assert (grey.amax(1) - grey.amin(1))[..., 32, 32].item() == pytest.approx(hue, abs=1e-4)
    assert (grey[..., :8, :8] == 1).all(), "paper stays white"


def test_each_thing_is_drawn_alone():
    told = {
        "a green cat": ([("a cat", "green")], None),
        "an Orange fish": ([("a fish", "orange")], None),
        "an orange": ([("an orange", None)], None),
        "a red crab and a banana": ([("a crab", "red"), ("a banana", None)], None),
        "an orange octopus": ([("an octopus", "orange")], None),
        "a red apple": ([("a red apple", None)], None),
        "a red car in the snow": ([("a car", "red")], "snow"),
        "a cat and a dog on a green field": ([("a cat", None), ("a dog", None)], "grass"),
        "a rocket at night": ([("a rocket", None)], "night sky"),
        "a glass of wine on the beach": ([("a glass of wine", None)], "beach"),
        "a cat on a table": ([("a cat", None)], None),
        "a huge, green dragon": ([("dragon", "green")], None),
        "a red, round apple": ([("round apple", None)], None),
        "a cat on the left and a dog on the right, smiling": ([("a cat", None), ("a dog", None)], None),
        "!": ([], None),
        "a cat and in the snow": ([("a cat", None)], "snow"),
        "a woman with red hair": ([("a woman", None)], None),
        "a heart of gold": ([("a heart of gold", None)], None),
        "a bow and arrow near a black and white cat": ([("a bow", None), ("arrow", None)], None),
        "a cat on a mat under a tree": ([("a cat", None), ("a tree", None)], None),
        "the sun over the sea and a boat": ([("the sun", None), ("a boat", None)], "sea"),
        "a dog, a cat and a bird": ([("a dog", None), ("a cat", None)], None),
        "a cat, trending on artstation": ([("a cat", None)], None),
        "a pair of scissors in the air": ([("scissors", None)], "sky"),
        "a painting of a red car in the desert": ([("a car", "red")], "beach"),
        "a field of flowers": ([("a field of flowers", None)], None),
        "the night sky": ([], "night sky"),
        "the Sea and the moon": ([("the moon", None)], "sea"),
        "A rose In The Snow.": ([("a rose", None)], "snow"),
        "a grey cat by a golden house": ([("a cat", "gray"), ("a house", "yellow")], None),
        "at night": ([], "night sky"),
        "red": ([("red", None)], None),
    }
    assert {text: drafts.layout(text) for text in told} == {
        text: (*drawn, None, None, None) for text, drawn in told.items()
    }


@pytest.mark.parametrize(
    ("text", "things", "background", "relation"),
    [
        ("a cat in the snow with a hat", [("a cat", None), ("a hat", None)], "snow", "head"),
        ("a cat with a red hat", [("a cat", None), ("a hat", "red")], None, "head"),
        ("a giraffe wearing a red scarf", [("a giraffe", None), ("a scarf", "red")], None, "neck"),
        ("a fox wearing glasses", [("a fox", None), ("glasses", None)], None, "eyes"),
        ("a green fox wearing glasses on the beach", [("a fox", "green"), ("glasses", None)], "beach", "eyes"),
        ("a cat riding a bicycle", [("a cat", None), ("a bicycle", None)], None, "ride"),
        ("a robot playing a guitar", [("a robot", None), ("a guitar", None)], None, "hold"),
        ("an astronaut holding a balloon", [("an astronaut", None), ("a balloon", None)], None, "raise"),
        ("a castle on a cloud", [("a castle", None), ("a cloud", None)], None, "on"),
        ("a dog sitting on a chair", [("a dog", None), ("a chair", None)], None, "on"),
        ("a rabbit in a bowl", [("a rabbit", None), ("a bowl", None)], None, "in"),
        ("a house made of cheese", [("a house", None), ("a cheese wedge", None)], None, "made"),
        ("an armchair in the shape of an avocado", [("an armchair", None), ("an avocado", None)], None, "made"),
        ("a red car made of bananas", [("a car", "red"), ("a banana", None)], None, "made"),
        ("a rabbit made of gold in the snow", [("a rabbit", None), ("a coin", None)], "snow", "made"),
        ("a fox made of snow", [("a fox", None), ("a cloud", None)], None, "made"),
        ("a chair made of smoke", [("a chair", "")], None, None),
        ("a cat and a dog with a hat", [("a cat", None), ("a dog", None)], None, None),
        ("a cat wearing pyjamas", [("a cat", None)], None, None),
        ("a cat next to a dog", [("a cat", None), ("a dog", None)], None, None),
        ("riding a bicycle", [("a bicycle", None)], None, None),
        ("a cat riding", [("a cat riding", None)], None, None),
    ],
)
def test_the_subject_is_always_drawn_and_related_to_what_it_wears_holds_or_rides(text, things, background, relation):
    assert drafts.layout(text) == (things, background, relation, None, None)


@pytest.mark.parametrize(
    ("text", "things", "background", "sky", "style"),
    [
        ("a beach at sunset", [], "beach", "sunset", None),
        ("a cat at night in the snow", [("a cat", None)], "snow", "night sky", None),
        ("at dawn", [], "sunset", None, None),
        ("a mountain on a winter morning", [("a mountain", None)], "snow", None, None),
        ("a city landscape in the style of Van Gogh", [("a city landscape", None)], None, None, "van gogh"),
        ("an owl in the style of Pablo Picasso", [("an owl", None)], None, None, "picasso"),
        ("a red fox by Monet", [("a fox", "red")], None, None, "monet"),
        ("a watercolour of a fox in the forest", [("a fox", None)], "forest", None, "watercolour"),
        ("a castle in the snow, oil painting", [("a castle", None)], "snow", None, "oil painting"),
        ("an oil painting of the sea", [], "sea", None, "oil painting"),
        ("a pencil sketch of a house", [("a house", None)], None, None, "pencil sketch"),
        ("a pencil", [("a pencil", None)], None, None, None),
        ("sketch", [("sketch", None)], None, None, "sketch"),
    ],
)
def test_a_time_of_day_and_a_style_are_read(text, things, background, sky, style):
    assert drafts.layout(text) == (things, background, None, sky, style)


def test_what_is_made_of_another_thing_has_its_own_outline_and_the_colours_of_the_other():
    """A square with a dark line, made of a disc that is green above and red below."""
    square, disc = torch.ones(1, 4, 64, 64), torch.ones(1, 4, 64, 64)
    square[:, 3], disc[:, 3] = 0, 0
    square[..., 10:50, 20:60] = torch.tensor([0.6, 0.6, 0.6, 1.0])[:, None, None]
    square[:, :3, 10:50, 38:42] = 0.1
    ys, xs = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    inside = (ys - 32) ** 2 + (xs - 32) ** 2 < 20**2
    disc[:, :, inside & (ys < 32)] = torch.tensor([0.0, 1.0, 0.0, 1.0])[:, None]
    disc[:, :, inside & (ys >= 32)] = torch.tensor([1.0, 0.0, 0.0, 1.0])[:, None]
    covered = scenes.cover(square, disc)
    assert torch.equal(covered[:, 3], square[:, 3])
    red, green, blue, _ = covered[0, :, 10:50, 20:60]
    assert (green - red)[:15, :15].min() > 0.9 and (red - green)[25:, :15].min() > 0.9 and blue.max() < 0.01
    assert covered[0, :3, 10:50, 38:42].amax() <= 0.3, "its line"


def test_a_style_has_its_colours_and_its_strokes():
    image = torch.rand(1, 1, 8, 8, generator=rng()).expand(1, 3, 8, 8)
    image = torch.nn.functional.interpolate(image, (64, 64))
    painted = {name: scenes.apply_style(image, style, rng()) for name, style in scenes.STYLES.items()}
    assert torch.equal(painted["sketch"], painted["charcoal"]) and painted["sketch"].std(1).max() < 1e-5
    for name, style in scenes.STYLES.items():
        ends = torch.zeros(1, 3, 8, 8)
        ends[..., 4:] = 1
        dark, light = scenes.apply_style(ends, style._replace(stroke=0.0), rng())[0, :, 0].T[[0, -1]].tolist()
        assert dark == pytest.approx([style.strength * value for value in style.palette[0]])
        assert light == pytest.approx([1 - style.strength * (1 - value) for value in style.palette[-1]])
        rough, smooth = (picture.diff(dim=-1).abs().gt(0.01).float().mean() for picture in (painted[name], image))
        assert (rough > 3 * smooth) == (style.stroke > 0), name
    assert torch.equal(painted["monet"], scenes.apply_style(image, scenes.STYLES["monet"], rng()))
    for size in ((1, 1), (2, 5)):  # the box of a small mask
        assert scenes.apply_style(torch.rand(1, 3, *size), scenes.STYLES["monet"], rng()).isfinite().all()


def test_the_ground_is_as_dark_as_the_sky():
    day, night = (scenes.draw_scenery("snow", 64, rng(), time) for time in (None, "night sky"))
    assert day.mean() > 0.7 > 0.4 > night.mean() and night[:, -8:].mean() < 0.5


def test_a_hat_is_on_the_head(monkeypatch):
    """A black square wears a red one, which overlaps its upper edge, whatever the size."""

    def draw(self, context, text, size):
        image = torch.ones(1, 3, *size)
        image[..., 32:96, 32:96] = torch.tensor([float("hat" in text), 0, 0])[:, None, None]
        yield image

    monkeypatch.setattr(drafts.Dalle, "stages", draw)
    generator, start = clipgen.load_generator("stack"), drafts.Drafts()
    for size in ((128, 128), (64, 96)):
        prompts = [Prompt("a penguin wearing a top hat")]
        context = starts.InitContext(generator, None, size, 0, rng(), generator.start(size, rng()), prompts)
        image = start.draw(context, start.find_subject(prompts), size)[0]
        red, black = (image[0] > 0.8) & (image[1] < 0.2), image.amax(0) < 0.2
        (hat, _), (head, _) = red.nonzero().float().mean(0), black.nonzero().float().mean(0)
        assert hat < head and 0.01 < red.float().mean() < black.float().mean() < 0.4
        assert red.any(1).nonzero().max() < black.any(1).nonzero().max()
        assert (red.any(1) & black.any(1)).any(), "it is on the head, not above"


def test_a_blank_draft_is_never_taken(monkeypatch):
    white, black = Image.new("RGB", (128, 128), "white"), Image.new("RGB", (128, 128), "white")
    black.paste("black", (40, 40, 80, 80))

    def dalle(thing, count, *, seed, **more):
        tokens = torch.arange(2)[:, None, None].expand(2, 16, 16)
        yield Drawings(thing, [white, black], [], tokens, "mini-dvae", [-1.0, -30.0 - seed % 10])

    monkeypatch.setattr(drafts, "dalle", dalle)
    (drawn,) = drafts.stages_of("a thing that nobody drew", 3, "cpu")
    assert drawn.images[0] is black and drawn.tokens[0, 0, 0] == 1 and drawn.likelihoods[0] == -33


def test_prompts_are_read_one_by_one_and_what_weighs_most_is_drafted():
    def drawn(*prompts):
        return drafts.Drafts().find_subject(prompts)

    cat, snow = Prompt("a golden cat"), Prompt("in the snow")
    assert drawn(cat, snow) == ([("a cat", "yellow")], "snow", None, None, None)
    assert drawn(cat, Prompt("a red house")) == ([("a cat", "yellow"), ("a house", "red")], None, None, None, None)
    beside = Prompt("oil", 0.5), Prompt("a crown", where="top"), Prompt("grey", -1)
    assert drawn(cat, *beside) == ([("a cat", "yellow")], None, None, None, None)
    assert drawn(Prompt("a crown", where="top")) == ([("a crown", None)], None, None, None, None)


def test_a_draft_is_named_as_run_folders_of_0_4_have_it():
    start = drafts.Drafts()
    key = start.draft_key(start.find_subject([Prompt("a golden cat in the snow")]))
    assert key == "Layout(things=[Thing(text='a cat', coloured=True)], place='snow')"
    key = start.draft_key(start.find_subject([Prompt("a beach at sunset by Monet")]))
    assert key == "Layout(things=[], place='beach', sky='sunset', style='monet')"


def test_a_drawing_is_cut_out_of_its_paper():
    """White within its lines stays, and so does what is at the edge of the picture."""
    drawing = torch.full((1, 3, 64, 64), 0.97)
    drawing[..., 20:44, 20:44] = 0.2
    drawing[..., 28:36, 28:36] = 1.0
    drawing[..., 50:, 30:40] = 0.4
    opaque = drafts.cut_out(drawing)
    assert opaque.shape == (1, 1, 64, 64)
    assert opaque[..., 24:40, 24:40].min() == 1 and opaque[..., 56:, 34:36].min() == 1
    assert opaque[..., :18, :].max() == 0 and opaque[..., 20:44, 46:].max() == 0


@pytest.mark.slow
def test_a_place_is_behind_the_thing(tmp_path):
    asked = {"generator": "stack", "init": "dalle", "steps": 1, "cutouts": 2, "size": (64, 64)}
    run = clipgen.Run("a dog in the night sky", folder=tmp_path, **asked)
    list(run)
    (goal,) = run.optimization.spec.init_targets
    edges = torch.cat([goal.image[..., :4, :].flatten(), goal.image[..., -4:, :].flatten()])
    assert edges.quantile(0.9) < 0.4 < 0.8 < goal.image[..., 16:48, 16:48].amax()


def test_paper_is_filled_as_by_a_flood_from_the_edge():
    """Through a maze, in whose closed rooms the paper stays."""
    is_paper = F.pad(torch.rand(40, 57, generator=rng()) > 0.4, (1, 1, 1, 1), value=True)
    flooded = to_image(is_paper.float().expand(3, -1, -1))
    ImageDraw.floodfill(flooded, (0, 0), (255, 0, 255))
    expected = to_tensor(flooded)[0, 1] < to_tensor(flooded)[0, 0]
    assert torch.equal(drafts._fill_from_edge(is_paper), expected) and not torch.equal(expected, is_paper)


def test_a_thing_is_called_as_the_transformer_was_taught():
    mini = clipgen.load_perceptor("mini")
    told = {"a car": "an automobile", "a bike": "a bicycle", "the sun": "a sun", "the moon": "a crescent moon"}
    told |= {same: same for same in ("a dog", "a steam train", "the the")}
    told |= {"a cat": "a cat face", "a kitten": "a cat face", "a kettle": "a teapot", "a wizard": "a mage"}
    told |= {"a piano": "a musical keyboard", "the train": "a locomotive", "ghost": "a ghost", "grapes": "a grapes"}
    told |= {"doctor": "a health worker", "the queen": "a person with crown", "santa claus": "a mx claus"}
    told |= {"a squirrel": "a chipmunk", "beer": "a beer mug", "a cup of coffee": "a hot beverage"}
    assert {text: canonical_name(text, mini) for text in told} == told


@pytest.mark.slow
def test_of_its_drafts_the_likeliest_comes_first(monkeypatch):
    """A key it knows by heart; a kettle it was never shown, and searches for."""
    temperatures = []
    draw = drafts.dalle

    def counted(*asked, temperature, **more):
        temperatures.append(temperature)
        return draw(*asked, temperature=temperature, **more)

    monkeypatch.setattr(drafts, "dalle", counted)
    drafts.CACHE.clear()
    key, kettle = ([*drafts.stages_of(text, 6, "cpu")][-1].likelihoods for text in ("a key", "a kettle"))
    assert key == sorted(key, reverse=True) and len(key) == drafts.DRAFTS
    assert key[0] > -10 and kettle[0] < drafts.MIN_LOG_LIKELIHOOD
    assert temperatures == [drafts.DRAFT_TEMPERATURE, drafts.DRAFT_TEMPERATURE, 0]


@pytest.mark.parametrize(
    ("size", "squares"),
    [
        ((128, 128), ((19, 0, 72), (37, 56, 72))),
        ((64, 128), ((0, 0, 64), (0, 64, 64))),
        ((160, 64), ((0, 0, 64), (96, 0, 64))),
    ],
)
def test_two_drawings_have_the_room_there_is(size, squares, monkeypatch):
    """One beside or above the other; in a square only their margins may overlap."""
    monkeypatch.setattr(Dalle, "stages", lambda _, __, text, size: [torch.full((1, 3, *size), len(text) / 10)])
    param = clipgen.load_generator("stack")
    latent, prompts = param.start(size, rng()), [Prompt("a cat and a navy horse")]
    scene = starts.InitContext(param, None, size, 0, rng(), latent, prompts)
    image = drafts.Drafts().draw(scene, drafts.Drafts().find_subject(scene.prompts), scene.size)
    wanted = torch.ones(size)
    for (top, left, side), value in zip(squares, (0.5, 0.7), strict=True):  # the second lies on the first
        wanted[top : top + side, left : left + side] = value
    assert image.shape == (1, 3, *size) and torch.allclose(image[0, 0], wanted)


def test_a_transformer_asks_for_words(tmp_path):
    with pytest.raises(clipgen.ClipgenError, match="needs a text prompt; add one"):
        clipgen.Run(Image.new("RGB", (64, 64)), init="dalle", folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_drawing_is_never_stretched(monkeypatch):
    """In a picture that is no square it stands in the middle, and its border goes on."""
    drawn = torch.zeros(64, 64, 3, dtype=torch.uint8)
    drawn[:, :32, 0] = 255
    kept = Dalle()
    monkeypatch.setattr(kept, "sample", lambda *_: [SimpleNamespace(images=[Image.fromarray(drawn.numpy())])])
    param = clipgen.load_generator("stack")
    scene = starts.InitContext(param, None, (64, 128), 0, rng(), param.start((64, 128), rng()), [])
    wide = kept.draw(scene, "", (64, 128))
    assert wide.shape == (1, 3, 64, 128) and wide[0, 0, :, :60].min() > 0.9 and wide[0, 0, :, 68:].max() < 0.1
    tall = kept.draw(scene, "", (128, 64))
    assert tall[0, 0, :, :28].min() > 0.9 and tall[0, 0, :, 36:].max() < 0.1
