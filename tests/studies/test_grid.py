"""What a study asks for: every run that its lists, placeholders and tables mean, and what they cannot mean."""

import numpy as np
import pytest

from clipgen.errors import ClipgenError
from clipgen.studies.grid import expand_grid
from clipgen.studies.row import Row, StudyStorage
from clipgen.studies.study import Study


def runs(*arguments, **options):
    """(prompt, settings) of every run."""
    return [(one.prompt, one.settings) for one in expand_grid(*arguments, **options)]


def test_each_with_each_the_last_one_fastest():
    asked = expand_grid("a {thing}", {"thing": ["cat", "dog"], "seed": range(2), "cutouts": (16,), "steps": 9})
    assert [(one.prompt, one.settings["seed"]) for one in asked] == [
        ("a cat", 0),
        ("a cat", 1),
        ("a dog", 0),
        ("a dog", 1),
    ]
    assert asked[3].settings == {"seed": 1, "cutouts": 16, "steps": 9}
    assert asked[3].varied == {"thing": "dog", "seed": 1} and asked[3].label == "thing=dog, seed=1"


def test_side_by_side():
    settings = {"thing": ["cat", "dog"], "seed": [5, 6], "size": (64, 96)}
    assert runs("a {thing}", settings, zipped=True) == [
        ("a cat", {"seed": 5, "size": (64, 96)}),
        ("a dog", {"seed": 6, "size": (64, 96)}),
    ]


def test_templates_sizes_and_pictures_vary_too():
    prompts = ["a {colour} cat", "a cat"]
    filled = [prompt for prompt, _ in runs(prompts, {"colour": ["red", "blue"]})]
    assert filled == ["a red cat", "a blue cat", "a cat", "a cat"]
    assert [s["size"] for _, s in runs("a", {"size": [(64, 64), (96, 64)]})] == [(64, 64), (96, 64)]
    picture = np.zeros((4, 4, 3), np.uint8)
    assert runs("a", {"init": picture})[0][1]["init"] is picture


def test_a_setting_in_the_prompt_is_still_a_setting():
    assert runs("a cat, {thing}, seed {seed}", {"seed": [1, 2], "thing": "red"}) == [
        ("a cat, red, seed 1", {"seed": 1}),
        ("a cat, red, seed 2", {"seed": 2}),
    ]


def test_a_whole_number_and_a_float_are_one_row(tmp_path):
    one, same = (Row(expand_grid("a cat", {"lr": lr})[0], tmp_path) for lr in (1, 1.0))
    assert one.folder == same.folder and one.folder.name == "a-cat-fb9a4757c1"
    earlier = Row(expand_grid("a cat", {"lr": 1.0})[0], tmp_path, {"b71ad56642": "a-cat-b71ad56642"})
    assert earlier.folder.name == "a-cat-b71ad56642", "as clipgen 0.4 named it"


def test_none_twice(tmp_path):
    points = expand_grid(["a {colour} cat", "a cat"], {"colour": ["red", "blue"], "seed": [1, 1]})
    study = Study((Row(point, tmp_path) for point in points), StudyStorage(tmp_path))
    assert [row.spec.settings.prompt for row in study.rows] == ["a red cat", "a blue cat", "a cat"]


@pytest.mark.parametrize("suffix", ["csv", "yaml", "rows"])
def test_a_table(suffix, tmp_path):
    rows = [{"thing": "cat", "cutouts": 8, "lr": 0.5}, {"thing": "dog", "size": "64x96"}]
    table = tmp_path / f"table.{suffix}"
    if suffix == "csv":
        table.write_text("\ufeffthing, cutouts,lr,size\ncat,8,0.5,\ndog,,,64x96\n", "utf-8")
    elif suffix == "yaml":
        table.write_text("- {thing: cat, cutouts: 8, lr: 0.5}\n- {thing: dog, size: 64x96}\n")
    else:
        table = [rows[0] | {"size": float("nan")}, rows[1] | {"cutouts": None}]
    assert runs("a {thing}", {"seed": range(2)}, table) == [
        ("a cat", {"cutouts": 8, "lr": 0.5, "seed": 0}),
        ("a cat", {"cutouts": 8, "lr": 0.5, "seed": 1}),
        ("a dog", {"size": (64, 96), "seed": 0}),
        ("a dog", {"size": (64, 96), "seed": 1}),
    ]


def test_a_pandas_table():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"prompt": ["a cat", "a dog"], "seed": [1, 2], "near": [None, 0.5]})
    assert runs(None, {}, frame) == [("a cat", {"seed": 1}), ("a dog", {"seed": 2, "near": 0.5})]


@pytest.mark.parametrize(
    ("template", "settings", "table", "zipped", "remedy"),
    [
        ("a {thing}", {}, None, False, "add thing="),
        ("a {}", {}, None, False, "plain names"),
        ("a {thing", {"thing": ["cat"]}, None, False, "a brace is written"),
        ("a {thing.x}", {"thing": ["cat"]}, None, False, "plain names"),
        (None, {"seed": [1]}, None, False, "there is no prompt"),
        ("a", {"seed": []}, None, False, "one of the lists is empty"),
        ("a", {"seed": [1, 2], "steps": [1, 2, 3]}, None, True, "not 2, 3"),
        ("a", {"seed": 1}, [{"seed": 2}], False, "is also in the table"),
        ("a", {}, "missing.csv", False, "save it as CSV"),
        ("a", {}, "missing.yaml", False, "write a YAML file"),
        ("a", {}, [], False, "must be rows with names"),
        ("a", {}, [1, 2], False, "must be rows with names"),
    ],
)
def test_what_cannot_be_meant(template, settings, table, zipped, remedy):
    with pytest.raises(ClipgenError, match=remedy):
        expand_grid(template, settings, table, zipped)
