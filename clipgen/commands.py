"""What each command of ``clipgen.cli`` does. A command adds its options to a parser, parses words, and acts."""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

import clipgen
from clipgen.cli import add_settings
from clipgen.errors import ClipgenError
from clipgen.export import check_writable
from clipgen.export import export as export_film
from clipgen.generators.catalogue import GENERATORS
from clipgen.prompts import slug
from clipgen.registry import ENGINES, WRITERS
from clipgen.runs.finish import Interrupted, finish, resumable
from clipgen.runs.frames import check_output, export_run
from clipgen.runs.journal import Journal
from clipgen.runs.run import Run
from clipgen.runs.spec import RunSpec
from clipgen.setting import check_count
from clipgen.storage import display_path, expand_home, find_unused
from clipgen.storage.remote import Published, cached, list_items, prune
from clipgen.studies.films import FILM, finish_film
from clipgen.studies.page import check_file
from clipgen.studies.tables import MAX_ROWS, read_study

OUTPUTS = " ".join(WRITERS)


def generate(parser: argparse.ArgumentParser, words: list[str]) -> int:
    """Draw a prompt, several pictures of it, or a film after it."""
    parser.usage = "clipgen [generate] PROMPT [options]"
    parser.add_argument(
        "prompt", metavar="PROMPT", help='what to draw: "a red apple", "a cat:2 | dog:-0.5", "selfie.jpg:3 | a cat"'
    )
    add_settings(parser)
    add = next(group for group in parser._action_groups if group.title == "prompt and output").add_argument
    files = f"{OUTPUTS}; repeatable (default: <prompt>.png and .gif, here; <prompt>-2 where these exist)"
    add("-o", "--output", action="append", type=expand_home, metavar="FILE", help=files)
    add("--batch", type=int, metavar="N", help="draw N pictures with consecutive seeds from --seed; best first")
    add("--film", metavar="FILE", help="redraw every frame of a video, GIF or WebP")
    add("--carry", type=float, help="with --film: share of the previous frame that is kept (default: 0.5)")
    add("--fps", type=float, help="frames per second (default: 15; with --film: the source's)")
    add("--folder", help="where run folders are created (default: clipgen-runs)")
    add("--quiet", action="store_true", default=False, help="show no progress bar")
    options = vars(parser.parse_intermixed_args(words))
    prompt, quiet, count = options.pop("prompt"), options.pop("quiet"), options.pop("batch", 1)
    output, fps, film = options.pop("output", None), options.pop("fps", None), options.pop("film", None)
    _check_options(options, count, film, fps)

    def name_files() -> list[Path]:
        """Return the files; default names are found again after the run, as another one may have taken them."""
        if not output:
            return _unused_files(prompt, count=count)
        numbers = range(1, count + 1) if count > 1 else ()
        return [file.with_name(f"{file.stem}-{i}{file.suffix}") for i in numbers for file in output] or output

    _check_outputs(name_files(), options.get("generator", ""))
    options["progress"] = not quiet
    if film:
        return _write_film(lambda: clipgen.restyle(film, prompt, **options), name_files, fps)
    if count == 1:
        return _write_run(clipgen.generate(prompt, **options), name_files(), fps)
    runs = clipgen.batch(prompt, count, **options)
    begun, paths = [run for run in runs if run.journal.steps], name_files()
    each, statuses = len(paths) // count, list[int]()
    for i, run in enumerate(clipgen.best(begun) if begun else ()):
        print(f"{i + 1}. seed {run.settings.seed}, CLIP score {run.score:.3f}:", end=" ")
        statuses.append(_write_run(run, paths[i * each : (i + 1) * each], fps))
    for run in runs[len(begun) :]:
        _write_run(run, [])
    return max(statuses) if len(statuses) == count else 130


def _check_options(options: Mapping[str, Any], count: int, film: str | None, fps: float | None) -> None:
    """Raise ClipgenError for options of ``generate`` that cannot work, or not together."""
    check_count("batch", count)
    if (keep := options.get("keep", "last")) not in ("last", "best"):
        raise ClipgenError(f"keep={keep!r}: choose one of: last, best; parts of a picture are kept by clipgen dalle")
    if count > 1 and film:
        raise ClipgenError(f"batch={count}: a film is redrawn once; leave --batch out, or --film")
    if "carry" in options and not film:
        raise ClipgenError(f"carry={options['carry']}: is for the frames of a film; add --film, or leave --carry out")
    if fps is not None and not 0 < fps <= 60:
        raise ClipgenError(f"fps={fps}: must be from above 0 to 60")


def resume(parser: argparse.ArgumentParser, words: list[str], is_replay: bool = False) -> int:
    """Go on with an interrupted run or film; or make a run again."""
    parser.add_argument("source", type=Path, metavar="RUN", help="a run folder" + ", or an exported file" * is_replay)
    files = f"{OUTPUTS} (default: <prompt>.png and .gif, here; <prompt>-2 where these exist)"
    parser.add_argument("output", nargs="*", type=expand_home, metavar="FILE", help=files, default=[])
    parser.add_argument("--quiet", action="store_true", default=False, help="show no progress bar")
    parser.add_argument("--trust", action="store_true", help="read files that the run refers to elsewhere")
    if is_replay:
        parser.add_argument("--folder", help="where run folders are created (default: clipgen-runs)")
    options = vars(parser.parse_intermixed_args(words))
    source, output, quiet = options.pop("source"), options.pop("output", []), options.pop("quiet")
    _check_outputs(output or _unused_files("here"))
    if not is_replay and (source / FILM).is_dir():
        redraw = partial(finish_film, Journal.open(source), not quiet, trust=options.get("trust", False))
        return _write_film(redraw, lambda: output or _unused_files(source.name))
    run = (Run.replay if is_replay else Run.resume)(source, **options)
    _check_outputs(output, run.settings.generator)
    return _write_run(finish(run, not quiet), output or _unused_files(run.settings.prompt))


def replay(parser: argparse.ArgumentParser, words: list[str]) -> int:
    """Make a run again."""
    return resume(parser, words, is_replay=True)


def export(parser: argparse.ArgumentParser, words: list[str]) -> int:
    """Write a run as files."""
    parser.add_argument("source", type=Path, metavar="RUN", help="a run folder")
    parser.add_argument("output", nargs="+", type=expand_home, metavar="FILE", help=OUTPUTS)
    parser.add_argument("--fps", type=float, help="frames per second (default: 15; of a redrawn film: the source's)")
    parser.add_argument("--hold", type=float, help="seconds on the last frame (default: 2; of a redrawn film: 0)")
    larger = "2 or 4 times the size; or the file of a published upscaler's weights"
    parser.add_argument("--upscale", type=lambda text: int(text) if text.isdecimal() else text, help=larger)
    parser.add_argument("--animate", action="store_true", help="animate an .svg, mark by mark")
    parser.add_argument("--boomerang", action="store_true", help="play forwards, then backwards")
    parser.add_argument("--megabytes", type=float, help="maximum size in MB; drops and shrinks frames if needed")
    parser.add_argument("--keep", help="last: all frames; best: up to the judge's best")
    parser.add_argument("--what", choices=("picture", "views"), help="views: add the cutouts that CLIP was shown")
    options = vars(parser.parse_intermixed_args(words))
    source, output, what = options.pop("source"), options.pop("output"), options.pop("what", "picture")
    _check_outputs(output)
    run = Run(RunSpec.open(source, resume=True)) if what == "views" else None
    for file in output:
        if run:
            print(run.export(file, what=what, **options))
        else:
            print(export_run(Journal.open(source), file, **options))
    return 0


def dalle(parser: argparse.ArgumentParser, words: list[str]) -> int:
    """Draw with a transformer; the options are the arguments of ``clipgen.dalle``."""
    parser.add_argument("prompt", help='what to draw: "a red car in the snow"')
    parser.add_argument("-n", type=int, help="number of pictures (default: 16)")
    parser.add_argument("--model", help="mini (built in; default), dalle-mini or dalle-mega")
    parser.add_argument("--image", help="complete this picture")
    parser.add_argument("--keep", help="part of --image to keep: top (default), bottom, left, right or a box x,y,w,h")
    parser.add_argument("--temperature", type=float, help="sampling temperature; 0: beam search (mini: 0.7)")
    parser.add_argument("--top-k", type=int, help="sample from the K likeliest tokens (mini: 128)")
    parser.add_argument("--guidance", type=float, help="strength of the text, at least 1 (mini: 1.5)")
    parser.add_argument("--seed", type=int, help="random seed (default: 0)")
    parser.add_argument("--perceptor", help="the CLIP that ranks the pictures")
    parser.add_argument("--device", help="auto, cpu, cuda or mps")
    files = "contact sheet; .gif .webp .mp4 .html: as it is drawn (default: <prompt>.png)"
    parser.add_argument("-o", "--output", type=expand_home, metavar="FILE", help=files)
    parser.add_argument("--quiet", action="store_true", default=False, help="show no progress bar")
    options = vars(parser.parse_intermixed_args(words))
    prompt, quiet, output = options.pop("prompt"), options.pop("quiet"), options.pop("output", None)
    _check_outputs([output or _unused_files(prompt, ".png")[0]], "")
    stages, sheets = clipgen.dalle(prompt, stream=True, **options), []
    with tqdm(total=100, disable=quiet, unit="%", dynamic_ncols=True) as bar:
        for drawings in stages:
            sheets.append(drawings.sheet())
            bar.update(round(100 * drawings.done) - bar.n)
    file = export_film(sheets, output or _unused_files(prompt, ".png")[0])
    print(f"{file} (done): {len(drawings)} pictures, CLIP scores {drawings.scores[0]:.3f} to {drawings.scores[-1]:.3f}")
    return 0


def study(parser: argparse.ArgumentParser, words: list[str]) -> int:
    """Run the study of a YAML file. Exit status: 0 done, 2 where rows failed, 130 interrupted."""
    source = "the arguments of clipgen.study, and the template as prompt"
    parser.add_argument("source", type=Path, metavar="study.yaml", help=source)
    parser.add_argument("--workers", type=int, metavar="N", help="draw N rows at a time")
    parser.add_argument("--batch", type=int, metavar="N", help="draw N rows in one batch (default: 1)")
    parser.add_argument("--max-rows", type=int, metavar="N", help=f"maximum number of rows (default: {MAX_ROWS})")
    parser.add_argument("--engine", help=" or ".join(ENGINES))
    parser.add_argument("--folder", help="where the runs are kept (default: clipgen-runs/study-<prompt>)")
    files = ".html: a page; .png: the sheet; .csv: the table; repeatable (default: study.html, after study.yaml)"
    parser.add_argument("-o", "--output", action="append", type=expand_home, metavar="FILE", help=files)
    parser.add_argument("--quiet", action="store_true", default=False, help="show no progress bar")
    options = vars(parser.parse_intermixed_args(words))
    source, quiet = options.pop("source"), options.pop("quiet")
    outputs = options.pop("output", None) or [Path(f"{source.stem}.html")]
    for file in outputs:
        check_file(file)
    result = clipgen.study(**read_study(source) | options, progress=not quiet)
    states = [row.state for row in result.rows]
    if any(row.image for row in result.rows):
        files = " and ".join(str(result.export(file)) for file in outputs)
        best, ending = result.best(), "done" if result.finished else "so far"
        scores = ", ".join(f"{name} {value:.3f}" for name, value in best.scores.items() if name != "loss")
        print(f"{files} ({ending}); the runs are kept in {display_path(result.folder)}")
        print(f"best: {best.label} ({scores})")
    for row, state in zip(result.rows, states):
        if state.error:
            print(f"clipgen: {row.label}: {state.error}", file=sys.stderr)
    if result.finished:
        return 0
    if all(state.done or state.error for state in states):
        return 2
    print(f"interrupted; continue with: clipgen study {source}", file=sys.stderr)
    return 130


def _describe_model(model: Published, weights: str = "-") -> tuple[str, ...]:
    """Return the last cells of a model's line; ``weights``: where they are if its files are not cached."""
    size = f"{model.megabytes:.0f} MB" if model.megabytes else "-"
    if model.files and all(map(cached, model.files)):
        weights = "cached"
    return size, f"{model.memory} GB" if model.memory else "-", model.proof, model.licence, weights


def models(parser: argparse.ArgumentParser, words: list[str]) -> int:
    """Print a table of the generators and perceptors that are known by name."""
    from clipgen.clip.published import NAMED, find_remote, list_published, read_config

    parser.add_argument("filter", nargs="?", default="", help="only names that contain this text")
    text = parser.parse_intermixed_args(words).filter.lower()
    facts = "size", "memory", "proven equal to", "licence", "weights"
    generators: list[tuple[str, ...]] = [("generator", "pixels", "stride", "codebook", *facts)]
    for name, entry in GENERATORS.items():
        numbers = str(entry.native_size), f"f{entry.stride}", str(entry.codebook_size or "-")
        builtin = "built-in" if entry.codebook_size else "none needed"
        generators.append((name, *numbers, *_describe_model(entry, "-" if entry.megabytes else builtin)))
    perceptors: list[tuple[str, ...]] = [("perceptor", "pixels", "licence", "weights")]
    perceptors += [(name, "64", "see model card", "built-in") for name in ("mini", "evaluator")]
    for architecture, tag in list_published():
        pixels = (read_config(architecture) or {}).get("vision_cfg", {}).get("image_size", "")
        pixels = "x".join(map(str, pixels)) if isinstance(pixels, (list, tuple)) else str(pixels)
        licence = "MIT" if tag == "openai" else "see hub page"
        weights = "cached" if cached(find_remote(architecture, tag)) else "-"
        perceptors.append((f"{architecture}/{tag}", pixels, licence, weights))
    named = [("perceptor, judge", *facts), *((name, *_describe_model(model)) for name, model in NAMED.items())]
    notes: dict[str, list[str]] = {}
    for name in (name for name in NAMED if text in name):
        notes.setdefault(NAMED[name].note, []).append(name)
    tables = []
    for heading, *rows in (generators, perceptors, named):
        if rows := [row for row in rows if text in row[0].lower()]:
            widths = [max(map(len, column)) for column in zip(heading, *rows)]
            lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in (heading, *rows)]
            tables.append("\n".join(lines))
    tables += [f"{', '.join(names)}:\n  {note}" for note, names in notes.items()]
    if "GB" in "".join(tables):
        scope = "a generator at its size, a perceptor with 16 cutouts"
        tables.append(f"memory: computed, of weights and a step in fp32 ({scope}); fp16: half")
    print("\n\n".join(tables) or f"no generator or perceptor has {text!r} in its name")
    return 0


def cache(parser: argparse.ArgumentParser, words: list[str]) -> int:
    """Print what lies in the cache folder; with --prune, delete what is not needed any more."""
    parser.add_argument("--prune", action="store_true", default=False, help="delete the files marked with *")
    is_pruning, items = parser.parse_intermixed_args(words).prune, list_items()
    for item in items:
        print(f"{item.megabytes:10.1f} MB {'*' if item.deletable else ' '} {item.file}  ({item.kind})")
    deletable = [item for item in items if item.deletable]
    total, deletable_total = (sum(item.megabytes for item in group) for group in (items, deletable))
    print(f"{total:10.1f} MB; not needed any more (*, what --prune deletes): {deletable_total:.1f} MB")
    if is_pruning and deletable:
        if is_terminal := sys.stdin is not None and sys.stdin.isatty():
            print("Delete these? [y/N] ", end="", flush=True)
        if not is_terminal or sys.stdin.readline().strip().lower() in ("y", "yes"):
            print(f"deleted: {len(prune())} files")
    return 0


def _unused_files(prompt: str, *suffixes: str, count: int = 1) -> list[Path]:
    """Return files here that are called after a prompt, one for each suffix and picture; none of them exists."""
    numbers = [f"-{number}" for number in range(1, count + 1)] if count > 1 else [""]
    return find_unused(slug(prompt), [number + suffix for number in numbers for suffix in suffixes or (".png", ".gif")])


def _check_outputs(files: Sequence[Path], generator: str | None = None) -> None:
    """Raise ClipgenError for a file that could not be written in the end."""
    for file in files:
        check_output(file, generator)
        check_writable(file)


def _write_film(redraw: Callable[[], Journal], name_files: Callable[[], list[Path]], fps: float | None = None) -> int:
    """Write the film that ``redraw`` returns, as far as it was made, and say where everything is."""
    try:
        journal, interruption = redraw(), ""
    except Interrupted as error:
        if not error.journal.steps:
            raise
        journal, interruption = error.journal, str(error)
    files = name_files()
    with resumable(journal):
        for file in files:
            export_run(journal, file, "last", fps=fps)
    ending = f"({interruption})" if interruption else f"(done); the run is in {display_path(journal.folder)}"
    print(f"{' and '.join(map(str, files))} {ending}")
    return 130 if interruption else 0


def _write_run(run, files: Sequence[Path], fps: float | None = None) -> int:
    """Write the files of a run, as far as it was made, and say where everything is."""
    if not run.journal.steps:
        raise Interrupted(run.journal)
    with resumable(run.journal):
        for file in files:
            run.export(file, fps=fps)
    written, folder = " and ".join(map(str, files)), display_path(run.journal.folder)
    if run.diverged:
        print(f"{written} (stopped at step {run.step}: the loss was not finite); lower lr, or the weight of a loss")
        return 2
    if not run.finished:
        print(f"{written} (interrupted at step {run.step}); continue with: clipgen resume {folder}")
        return 130
    unsaved, steps = run.journal.write_error, run.settings.steps
    early = f" after {run.step} of {steps} steps, as it no longer improved" if run.step < steps else ""
    where = f"{folder} lacks frames: {unsaved}" if unsaved else f"the run is kept in {folder}"
    print(f"{written} (done){early}; {where}")
    return 0
