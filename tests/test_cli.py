"""The command as a person types it, in a process of its own."""

import os
import re
import subprocess
import sys

import pytest
from PIL import Image

from clipgen.cli import COMMANDS, GROUPS, main


def clipgen(*arguments, cwd):
    return subprocess.run([sys.executable, "-m", "clipgen", *arguments], cwd=cwd, capture_output=True, text=True)


@pytest.mark.slow
def test_a_prompt_becomes_files_here(tmp_path):
    done = clipgen("a red apple", "--steps", "9", "--size", "64", "--cutouts", "4", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {p.name for p in tmp_path.iterdir()} == {"a-red-apple.png", "a-red-apple.gif", "clipgen-runs"}
    assert "clip=" in done.stderr and "step" in done.stderr
    assert done.stderr.index("draft:") < done.stderr.index("CLIP:"), "the bar says who draws"
    (line,) = done.stdout.splitlines()
    (folder,) = (tmp_path / "clipgen-runs").iterdir()
    assert all(part in line for part in ("a-red-apple.png", "a-red-apple.gif", f"clipgen-runs/{folder.name}"))
    with Image.open(tmp_path / "a-red-apple.png") as png:
        assert png.size == (256, 256)


def test_output_by_suffix(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    asked = "--steps 6 --size 64x96 --init perlin --cutouts 4 --quiet -o x.webp -o y.mp4"
    assert main(["a cat", *asked.split()]) == 0
    assert not capsys.readouterr().err
    assert {p.name for p in tmp_path.iterdir()} == {"x.webp", "y.mp4", "clipgen-runs"}


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        ([""], "write what you want to see"),
        ([], "clipgen --help lists the commands"),
        (["a cat", "--recipe", "crowsn"], "recipe='crowsn': did you mean crowson? There are murdock-dalle,"),
        (["a cat", "--temperature", "2"], "--temperature: there is no such option; it is an option of clipgen dalle"),
        (["a cat", "--boomerang"], "--boomerang: there is no such option; it is an option of clipgen export"),
        (["a cat", "--keep", "4"], "keep='4': choose one of: last, best; parts of a picture are kept by clipgen dalle"),
        (["a cat", "--foo"], "--foo: there is no such option; clipgen generate --help"),
        (["models", "--foo"], "--foo: there is no such option; clipgen models --help"),
        (["a cat", "--lr", "-1"], "lr=-1.0: must be a number from 1e-12 to 1,000,000; 0.15 is the default"),
        (["a cat", "--steps", "abc"], "steps='abc': must be a whole number from 1 to 1,000,000; 120 is the default"),
        (["a cat", "--lr"], "--lr: expected one argument; clipgen generate --help shows examples"),
        (["dalle", "a cat", "-n", "x"], "-n: 'x' must be a whole number"),
        (["dalle"], "required: prompt; clipgen dalle --help"),
        (["resume"], "required: RUN; clipgen resume --help"),
        (
            ["resume", "nothere"],
            "nothere: this is not a run folder (it has no settings.json); choose one of clipgen-runs",
        ),
        (["a cat", "--mask", "token"], "mask='token': use all, top"),
        (["a cat", "--mask", "./token"], "mask='./token': there is no such file; did you mean taken?"),
        (["a cat", "--init", "perlim"], "no such start, colour or file; did you mean perlin? use auto"),
        (["a cat", "--perceptor", "minni"], "perceptor='minni' is unknown; did you mean mini? choose"),
        (["a cat", "--judge", "evaluater"], "judge='evaluater' is unknown; did you mean evaluator? choose"),
        (["a cat", "--perceptor", "ViT-B32/openai"], "no architecture 'ViT-B32'; did you mean ViT-B-32?"),
        (["a cat", "--perceptor", "ViT-B-32"], "also name its weights, such as ViT-B-32/openai"),
        (["a cat", "--perceptor", "ViT-B-32/opnai"], "did you mean openai? 'opnai' is neither"),
        (["a cat", "--mask", "nope.png"], "mask='nope.png': there is no such file"),
        (["a cat", "--init", "nope.png"], "init='nope.png': there is no such file"),
        (["nope.png | a cat"], "prompt='nope.png': there is no such file"),
        (["a cat [middle]"], "region='middle': did you mean centre? use all, top"),
        (["a cat [0.2,0.2,0.5]"], "region='0.2,0.2,0.5': use all, top"),
        (["a cat", "--size", "64x64@0-60"], "size='64x64@0-60': write width x height"),
        (["dalle", "a cat", "--keep", "middle"], "keep='middle': did you mean centre? use all, top"),
        (["a cat", "--generator", "nothing"], "choose one of"),
        (["a cat", "--generator", "mini-dvae", "--size", "500x500"], "nearest is (496, 496)"),
        (["a cat", "--size", "big"], "size='big': write width x height"),
        (["a cat", "--steps", "0"], "a whole number from 1"),
        (["a cat", "--carry", "0.2"], "carry=0.2: is for the frames of a film; add --film"),
        (["a cat", "--stepz", "3"], "did you mean --steps?"),
        (["a", "red", "apple"], "put it in quotes"),
        (["a cat", "-o", "cat.jpeg"], "use one of"),
        (["a cat", "-o", "missing/cat.png"], "choose a file in a folder"),
        (["a cat", "-o", "taken/cat.png"], "choose a file in a folder"),
        (["a cat", "-o", "cat.png", "-o", "folder.gif"], "'folder.gif': cannot be written (is a folder)"),
        (["a cat", "--batch", "2", "-o", "missing/cat.png"], "choose a file in a folder"),
        (
            ["a cat", "--perceptor", "ViT-B-32/openai", "-o", "missing/cat.png"],
            "choose a file in a folder",
        ),  # nothing loaded
        (["dalle", "a cat", "--model", "dalle-mini", "-o", "missing/cat.png"], "choose a file in a folder"),
        (["dalle", "a cat", "-o", "cat.jpeg"], "use one of"),
        (["dalle", "a cat", "-o", "folder.gif"], "choose a file"),
        (["resume", "taken", "missing/cat.png"], "choose a file in a folder"),
        (["a cat", "--folder", "taken"], "choose a folder"),
    ],
)
def test_bad_input(arguments, remedy, tmp_path, monkeypatch, capsys):
    """In this process: one of its own for each would take a minute."""
    (tmp_path / "taken").write_text("a file, not a folder")
    (tmp_path / "folder.gif").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert remedy in capsys.readouterr().err.splitlines()[-1]
    assert {p.name for p in tmp_path.iterdir()} == {"taken", "folder.gif"}


@pytest.mark.slow
def test_a_mistake_is_told_without_a_traceback(tmp_path):
    done = clipgen("a cat", "--steps", "many", cwd=tmp_path)
    assert done.returncode == 2
    assert "a whole number" in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_an_unwritable_folder(tmp_path):
    tmp_path.chmod(0o500)
    done = clipgen("a cat", cwd=tmp_path)
    assert done.returncode == 2 and "choose a folder" in done.stderr


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="where nobody writes, not even root, is Linux's")
@pytest.mark.parametrize("command", [["a cat"], ["dalle", "a cat"]])
def test_where_nobody_may_write(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*command, "-o", "/proc/cat.png"]) == 2
    assert "output='/proc/cat.png': cannot be written" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def help_of(capsys, *words):
    with pytest.raises(SystemExit) as end:
        main([*words, "--help"])
    assert end.value.code == 0
    return capsys.readouterr().out


def test_help_lists_every_setting_in_groups(capsys):
    from dataclasses import fields

    from clipgen.runs.settings import Settings

    text = help_of(capsys, "generate")
    names = {field.name for field in fields(Settings)} - {"prompt"}
    assert all(f"--{name.replace('_', '-')} " in text or f"--{name.replace('_', '-')}\n" in text for name in names)
    parts = re.split(r"\n(?=\S[^\n]*:\n)", text)
    group = {part.partition(":")[0].strip(): part for part in parts}
    assert group.keys() >= GROUPS.keys()
    assert "--cut-min" in group["cutouts"] and "--lr" in group["optimiser"] and "--tv" in group["look"]
    assert "--output" in group["prompt and output"] and "--passes" in group["speed and memory"]


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help_with_three_examples(name, capsys):
    text = help_of(capsys, name)
    assert text.split("examples:")[1].count(f"\n  clipgen {name}") == 3
    assert COMMANDS[name].help in " ".join(help_of(capsys).split())


def test_help_brings_no_torch():
    code = "import sys\nfrom clipgen.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "assert not {'torch', 'numpy', 'open_clip', 'matplotlib'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("option", ["--cut-min", "--cut_min"])
def test_options_have_hyphens_or_underscores(option, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["a cat", f"{option}=99", "--quiet"]) == 2 and "cut_min=99" in capsys.readouterr().err
    assert main(["a cat", option, "99", "--quiet"]) == 2 and "cut_min=99" in capsys.readouterr().err


def test_a_file_keeps_its_underscores(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = "--generator pixels --init random --size 32 --steps 1 --cutouts 2 --quiet -o a_cat.png"
    assert main(["generate", *small.split(), "--", "a_cat"]) == 0 and (tmp_path / "a_cat.png").exists()


@pytest.mark.parametrize(
    ("name", "hint"), [("cat", "did you mean clipgen-runs/2-a-cat?"), ("hat", "the newest one here is clipgen-runs/3")]
)
def test_a_run_that_is_not_there_is_looked_for(name, hint, tmp_path, monkeypatch, capsys):
    for folder in ("1-a-cat", "2-a-cat", "3"):
        file = tmp_path / "clipgen-runs" / folder / "settings.json"
        file.parent.mkdir(parents=True)
        file.write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert main(["resume", name]) == 2
    assert f"{name}: this is not a run folder (it has no settings.json); {hint}" in capsys.readouterr().err


@pytest.mark.slow
def test_a_warning_of_the_command_shows_no_code(tmp_path):
    small = "--generator pixels --init random --size 32 --steps 1 --cutouts 2 --quiet -o a.png"
    (line,) = clipgen("a photo in 16:9", *small.split(), cwd=tmp_path).stderr.splitlines()
    assert line.startswith("clipgen: prompt: 'a photo in 16:9' is drawn as words")


@pytest.mark.slow
def test_a_run_that_diverges_is_not_called_interrupted(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = "cat --generator pixels --size 32 --cutouts 2 --steps 9 --tv 1e300 --quiet"
    with pytest.warns(UserWarning, match="not finite three times in a row"):
        code = main([*words.split(), "-o", "cat.png"])
    assert code == 2 and "stopped at step 3: the loss was not finite" in capsys.readouterr().out
    with pytest.warns(UserWarning, match="not finite three times in a row"):
        assert main([*words.replace("9", "3").split(), "--batch", "2", "-o", "cats.png"]) == 2, "at the last step, too"


@pytest.mark.parametrize(("word", "hint"), [("modles", "did you mean models?"), ("sunflower", "")])
def test_a_word_that_is_nearly_a_command_is_drawn_with_a_hint(word, hint, capsys):
    assert main([word, "--steps", "0"]) == 2
    said = capsys.readouterr().err
    assert "steps=0" in said and ("is not a command" in said) == bool(hint) and hint in said
