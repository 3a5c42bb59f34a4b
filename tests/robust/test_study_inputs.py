"""What people write into a study: axes of every kind, words of YAML, tables with empty cells, templates."""

import csv
import datetime
import itertools

import numpy as np
import pandas
import pytest
import torch

import clipgen
from clipgen.cli import main
from clipgen.errors import ClipgenError
from clipgen.studies.executor import plan_workers
from clipgen.studies.grid import expand_grid
from clipgen.studies.row import Row, StudyStorage
from clipgen.studies.study import Study

TINY = {"generator": "pixels", "size": (64, 64), "init": "perlin", "cutouts": 2, "steps": 1}
WORDS = ["cat", "dog"]


def runs(*arguments, **options):
    """(prompt, settings) of every run."""
    return [(one.prompt, one.settings) for one in expand_grid(*arguments, **options)]


def prompts(template="a {thing}", **settings):
    """The prompts of every run."""
    return [one.prompt for one in expand_grid(template, settings)]


@pytest.mark.parametrize(
    "axis",
    [
        set(WORDS),
        frozenset(WORDS),
        np.array(WORDS),
        np.array(WORDS, dtype=object),
        pandas.Series(WORDS),
        pandas.Index(WORDS),
        pandas.Categorical(WORDS),
        (word for word in WORDS),
        map(str, WORDS),
        dict.fromkeys(WORDS).keys(),
        {1: "cat", 2: "dog"}.values(),
        iter(WORDS),
    ],
    ids=lambda axis: type(axis).__name__,
)
def test_any_iterable_of_words_is_an_axis(axis):
    assert prompts(thing=axis) == ["a cat", "a dog"]


@pytest.mark.parametrize(
    "axis",
    [
        {3, 1, 2},
        np.arange(1, 4),
        np.array([1.0, 2.0, 3.0]),
        torch.arange(1, 4),
        pandas.Series([1, 2, 3]),
        (n for n in (1, 2, 3)),
        [np.int64(1), np.uint8(2), np.float64(3)],
    ],
    ids=lambda axis: type(axis).__name__,
)
def test_any_iterable_of_numbers_is_an_axis(axis):
    asked = expand_grid("a cat", {"seed": axis})
    assert [repr(one.settings["seed"]) for one in asked] == ["1", "2", "3"], "plain whole numbers"
    assert [one.label for one in asked] == ["seed=1", "seed=2", "seed=3"]


def test_axes_of_placeholders_and_of_templates():
    assert prompts("{n} cats", n=np.arange(2, 4)) == ["2 cats", "3 cats"]
    assert prompts("in {year}", year=[datetime.date(2024, 1, 2)]) == ["in 2024-01-02"]
    assert [one.prompt for one in expand_grid({"a dog", "a cat"}, {})] == ["a cat", "a dog"]
    assert [one.prompt for one in expand_grid((f"a {word}" for word in WORDS), {})] == ["a cat", "a dog"]


@pytest.mark.parametrize(
    ("sizes", "wanted"),
    [
        (np.array([64, 96]), [(64, 96)]),
        ([np.int64(64), 96.0], [(64, 96)]),
        (np.array([[64, 64], [96, 64]]), [(64, 64), (96, 64)]),
        ({(64, 64), (96, 64)}, [(64, 64), (96, 64)]),
        (("64x64", "96"), [(64, 64), (96, 96)]),
        (([64, 64] for _ in range(1)), [(64, 64)]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_sizes(sizes, wanted):
    assert [one.settings["size"] for one in expand_grid("a cat", {"size": sizes})] == wanted


def test_a_half_pixel_is_not_cut_off():
    assert expand_grid("a cat", {"size": [64.5, 64]})[0].settings["size"] == [64.5, 64]


def test_pictures_are_no_axes():
    picture, latent = np.zeros((4, 4, 3), np.uint8), np.zeros((1, 3, 4, 4), np.float16)
    assert expand_grid("a", {"init": picture})[0].settings["init"] is picture
    assert expand_grid("a", {"init": latent})[0].settings["init"] is latent
    assert expand_grid(picture, {})[0].prompt is picture
    many = [np.full((100, 100, 3), 0, np.uint8) for _ in range(2)]
    many[1][50, 50] = 255  # which numpy does not print
    assert len(expand_grid("a", {"init": many})) == 2


@pytest.mark.parametrize(
    "value",
    [{"a": 1}, np.zeros((4, 4, 3), np.uint8), [["a", "b"]], [np.zeros((2, 2))], None, float("nan"), [None], object()],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_word_fills_no_placeholder(value):
    with pytest.raises(ClipgenError, match=r"\{thing\}"):
        expand_grid("a {thing}", {"thing": value})


@pytest.mark.parametrize(
    "template",
    [
        "a {thing:2}",
        "a {thing:x}",
        "a {thing:{w}}",
        "a {thing:}",
        "a {thing!r}",
        "a {thing.x}",
        "a {thing[0]}",
        "a { thing }",
        "a {0}",
        "a {}",
        "a {thing",
        "a thing}",
        "a {{thing}",
        "a {{{thing}}",
    ],
)
def test_a_placeholder_is_a_plain_name(template):
    with pytest.raises(ClipgenError, match="plain names"):
        expand_grid(template, {"thing": ["cat"], "w": [2]})


def test_what_stands_behind_a_placeholder_and_in_double_braces_stays():
    assert prompts("{{x}} {thing}:2 {{{thing}}}", thing=["cat"]) == ["{x} cat:2 {cat}"]
    assert prompts("a {thing}", thing=["{thing}", "{{"]) == ["a {thing}", "a {{"], "filled once"
    assert prompts("a {größe} {class}", **{"größe": ["big"], "class": ["cat"]}) == ["a big cat"]
    with pytest.raises(ClipgenError, match=r"nothing fills \{prompt\}"):
        expand_grid("a {prompt}", {})


@pytest.mark.parametrize(
    "empty", [None, float("nan"), np.nan, pandas.NA, pandas.NaT, np.datetime64("NaT"), ""], ids=repr
)
def test_an_empty_cell_asks_for_nothing(empty):
    assert runs("a cat", {}, [{"seed": 1, "lr": empty}, {"seed": 2, "lr": 0.5}]) == [
        ("a cat", {"seed": 1}),
        ("a cat", {"seed": 2, "lr": 0.5}),
    ]


@pytest.mark.parametrize("kind", ["float64", "Float64", "Int64"])
def test_an_empty_cell_beside_a_whole_number(kind, tmp_path):
    """pandas makes floats of whole numbers in a column with an empty cell, and writes them as 3.0."""
    frame = pandas.DataFrame({"n": [3, None], "seed": [1, None], "lr": [0.5, None]}).astype(
        {"n": kind, "seed": kind, "lr": "float64"}
    )
    frame["prompt"] = ["{n} cats", "a cat"]
    wanted = [("3 cats", {"seed": 1, "lr": 0.5}), ("a cat", {})]
    assert runs(None, {}, frame) == wanted
    Row(expand_grid(None, TINY, frame)[0], tmp_path)
    frame.drop(columns="n").assign(prompt=["3 cats", "a cat"]).to_csv(tmp_path / "frame.csv", index=False)
    assert runs(None, {}, tmp_path / "frame.csv") == wanted


def test_a_table_is_any_iterable_of_rows():
    assert runs("a cat", {}, ({"seed": seed} for seed in (1, 2))) == [("a cat", {"seed": 1}), ("a cat", {"seed": 2})]


# --- YAML ---------------------------------------------------------------------------------------------------------


def asked_of(text, tmp_path, monkeypatch):
    """The arguments with which ``clipgen study`` calls ``clipgen.study`` for a file."""
    arguments = {}

    def study(**given):
        arguments.update(given)
        raise ClipgenError("enough")

    monkeypatch.setattr(clipgen, "study", study)
    (tmp_path / "study.yaml").write_text(text, "utf-8")
    assert main(["study", str(tmp_path / "study.yaml"), "-o", str(tmp_path / "out.csv")]) == 2
    return arguments


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[yes, no, on]", ["yes", "no", "on"]),
        ("[Yes, NO, off, true, False]", ["Yes", "NO", "off", "true", "False"]),
        ("[2024-01-02, 2001-12-14t21:59:43.10-05:00]", ["2024-01-02", "2001-12-14t21:59:43.10-05:00"]),
        ("[12:30, 1:2:3.5]", ["12:30", "1:2:3.5"]),
        ("[007, =, 10km, 1_2_x, y, n]", ["007", "=", "10km", "1_2_x", "y", "n"]),
        ("[5, -3, 0.5, 1e3]", ["5", "-3", "0.5", "1000.0"]),
        ("!!set {cat, dog}", ["cat", "dog"]),
    ],
)
def test_words_of_yaml_stay_words(text, words, tmp_path, monkeypatch):
    arguments = asked_of(f"prompt: a {{thing}}\nthing: {text}", tmp_path, monkeypatch)
    assert prompts(thing=arguments["thing"]) == [f"a {word}" for word in words]


def test_settings_that_are_true_or_false_and_numbers_in_yaml(tmp_path, monkeypatch):
    text = "prompt: a cat\ntile: yes\nzip: no\nsteps: 1e1\nseed: [0x10, 1_000, 3.0]\nlr: 5e-1\nfolder: 2024"
    arguments = asked_of(text, tmp_path, monkeypatch)
    assert arguments["zip"] is False and arguments["folder"] == "2024"
    settings = {name: arguments[name] for name in ("tile", "steps", "seed", "lr")}
    assert [list(one.settings.values()) for one in expand_grid("a cat", settings)] == [
        [True, 10, 0.5, seed] for seed in (16, 1000, 3)
    ]


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "\n".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)
)
MERGES = "a0: &a0 {b0: 1, b1: 1}\n" + "\n".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}" for n in range(1, 12)
)
MANY = "prompt: a cat\n" + "".join(f"p{n}: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]\n" for n in range(20))


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        (BOMB, "with its aliases it has more than"),
        (MERGES, "with its aliases it has more than"),
        ("a: &a [*a]", "contains itself"),
        ("a: &a {b: *a}", "contains itself"),
        ("[" * 900 + "]" * 900, "recursion"),
        (MANY, "more than 10,000 rows"),
        ("prompt: a cat\nseed: 1" + "0" * 5000, "study"),
        ("prompt: a cat\nseed: 1" + "0" * 4000, "seed=...: a whole number of more than"),
        ("prompt: a cat\nlr: 1" + "0" * 400, "lr=...: a whole number of more than"),
        ("prompt: a {n}\nn: 1" + "0" * 5000, "study"),
        ("prompt: a cat\nfolder: null", "folder has no value"),
        ("prompt: a cat\nfolder:", "folder has no value"),
        ("prompt: a cat\nfolder: [a]", "folder=['a']"),
        ("prompt: a cat\nfolder: ''", "folder=''"),
        ("prompt: a cat\nworkers: x", "workers='x': must be a whole number"),
        ("prompt: a cat\nworkers: 1.5", "workers=1.5: must be a whole number"),
        ("prompt: a cat\nworkers: yes", "workers='yes': must be a whole number"),
        ("prompt: a cat\nbatch: x", "batch='x': must be a whole number"),
        ("prompt: a cat\nbatch:", "batch=None: must be a whole number"),
        ("prompt: a cat\nbatch: .inf", "batch=inf: must be a whole number"),
        ("prompt: a cat\nmax_rows: x", "max_rows='x': must be a whole number"),
        ("prompt: a cat\nengine:", "engine='None' is unknown"),
        ("prompt: a cat\nengine: 5", "engine='5' is unknown"),
        ("prompt: a cat\nzip: maybe", "zip='maybe': must be True or False"),
        ("prompt: a cat\ntable: 5", "table=...: must be rows"),
        ("prompt: a {thing:2}\nthing: [cat]", "plain names"),
        ("prompt: a cat\nseed: !!int x", "cannot be read"),
        ("!!python/object:os.system {}", "cannot be read"),
        ("? [a]\n: b", "study"),
        ("1: b", "must be names with values"),
    ],
)
def test_what_no_study_file_can_ask_for(text, remedy, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = text if "prompt" not in text else text + "\n" + "".join(f"{k}: {v}\n" for k, v in YAML.items())
    (tmp_path / "study.yaml").write_text(text)
    assert main(["study", "study.yaml", "--quiet"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert remedy in line and len(line) < 6000
    assert [path.name for path in tmp_path.iterdir()] == ["study.yaml"]


YAML = {"generator": "pixels", "size": "64x64", "init": "perlin", "steps": 1}


def test_the_limit_on_rows_can_be_raised():
    with pytest.raises(ClipgenError, match="raise max_rows=10000"):
        expand_grid("a cat", {"seed": range(10_001)})
    with pytest.raises(ClipgenError, match="max_rows"):
        expand_grid("a cat", {"seed": itertools.count()})
    with pytest.raises(ClipgenError, match="max_rows"):
        expand_grid("a cat", {"seed": range(10**20)}, zipped=True)
    with pytest.raises(ClipgenError, match="max_rows"):
        expand_grid("a cat", {}, ({"seed": seed} for seed in itertools.count()))
    with pytest.raises(ClipgenError, match="max_rows=3"):
        clipgen.study("a cat", seed=range(4), max_rows=3, **TINY)
    assert len(expand_grid("a cat", {"seed": range(10_001)}, max_rows=20_000)) == 10_001


@pytest.mark.parametrize("workers", ["x", 1.5, True, [1], float("nan"), -1])
def test_workers_are_a_whole_number(workers, tmp_path):
    with pytest.raises(ClipgenError, match=r"workers=.*must be a whole number of at least 1"):
        clipgen.study("a cat", workers=workers, folder=tmp_path, progress=False, **TINY)
    assert not list(tmp_path.iterdir())


def test_whole_numbers_of_workers_are_taken_as_such():
    assert plan_workers(np.int64(2), 9, 0, 4) == plan_workers(2.0, 9, 0, 4) == (2, 2)


# --- CSV ----------------------------------------------------------------------------------------------------------

CELLS = [
    "=1+1",
    "+49 30",
    "-a cat",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    "＝1",
    "'=1",
    "''=1",
    "'tis a cat",
    "a cat",
    " a cat",
    "a cat ",
    "'a cat ",
    'a "cat", a dog',
    "a\ncat",
    "-5",
    "é🐈",
]


def test_no_cell_is_a_formula_and_what_is_read_is_what_was_written(tmp_path):
    asked = expand_grid("{thing} cats", {"thing": CELLS} | TINY)
    rows = [Row(one, tmp_path) for one in asked]
    file = Study(rows, StudyStorage(tmp_path)).export(tmp_path / "study.csv")
    with file.open(newline="", encoding="utf-8") as lines:
        raw = list(csv.DictReader(lines))
    for cell, word in zip((line["thing"] for line in raw), CELLS, strict=True):
        assert cell[0] not in "=+-@\t\r\n＝", f"{cell!r} would be a formula"
        assert cell in (word, f"'{word}")
    again = expand_grid(None, {}, file)
    assert [one.prompt for one in again] == [one.prompt for one in asked] == [f"{word} cats" for word in CELLS]
    assert [one.settings["thing"] for one in again] == CELLS


def test_numbers_stay_numbers(tmp_path):
    """Below zero, too: of settings, and of scores."""
    rows = [Row(one, tmp_path) for one in expand_grid("a cat", {"saturation": [-0.5, np.float64(-1e-6)]} | TINY)]
    file = Study(rows, StudyStorage(tmp_path)).export(tmp_path / "study.csv")
    assert [line["saturation"] for line in csv.DictReader(file.open())] == ["-0.5", "-1e-06"]
    assert [one.settings["saturation"] for one in expand_grid(None, {}, file)] == [-0.5, -1e-6]
