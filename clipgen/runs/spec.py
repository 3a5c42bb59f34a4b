"""A run before it runs: everything checked, nothing loaded."""

from __future__ import annotations

import platform
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

import clipgen
from clipgen import device
from clipgen.clip.base import Perceptor
from clipgen.clip.catalogue import family, load_perceptor
from clipgen.errors import ClipgenError
from clipgen.export.film import settings_of
from clipgen.generators.catalogue import entry_of, load_generator
from clipgen.generators.protocol import Parameterisation
from clipgen.losses.loss import FunctionLoss, Loss, LossFunction
from clipgen.prompts import parse_weighted, positive_texts, slug, warn_of_titles
from clipgen.runs.inputs import Inputs
from clipgen.runs.journal import Journal
from clipgen.runs.saved import check_saved
from clipgen.runs.settings import Settings, build, default_start, immutable, to_numbers

Losses = Sequence[LossFunction | Loss] | Mapping[str, LossFunction]


@dataclass(frozen=True)
class Models:
    """What a run loads. Runs that name the same can share it."""

    names: tuple[str, ...]
    precision: str
    generator: Parameterisation
    perceptors: list[tuple[Perceptor, float]]  # with their shares, which sum to one
    judge: Perceptor | None = None  # who guides nothing


class RunSpec:
    """Settings that can work, with what they name. Raises ClipgenError for what a person can mend."""

    def __init__(
        self,
        settings: Settings,
        inputs: Inputs,
        losses: Losses = (),
        changes: Sequence[Mapping[str, Any]] = (),
        journal: Journal | None = None,
    ):
        self.inputs, self.losses = inputs, objectives(losses)
        self.changes, self.journal = sorted(changes, key=lambda change: change["step"]), journal
        self.device = device.pick(settings.device)
        self.precision = device.precision(self.device, settings.precision)
        self.perceptors = shares(settings.perceptor)
        _check_judge(settings.judge, self.perceptors)
        entry = entry_of(settings.generator)
        settings = replace(
            settings, size=settings.size or _size(entry.side_on(self.device), settings.quality, self.device)
        )
        for size in settings.sizes:
            entry.check(settings.generator, settings.relax, size)
        if settings.tile and not entry.tiles:
            raise ClipgenError(f"tile=True: {settings.generator} draws up to an edge; choose mini-vqgan, fft or pixels")
        prompts = settings.prompts
        usual = (
            default_start(settings.perceptor) if positive_texts(prompts) else "random"
        )  # no start draws what no word says
        init = usual if settings.init == "auto" else settings.init
        self.settings = replace(settings, init=init)
        self._check_spared(self.settings)
        self.inputs.load(self.settings)
        self.start = self.inputs.start(self.settings)
        self.start.check(prompts)
        if init in self.inputs.latents and (tokens := self.inputs.latents[init]).dtype.kind in "iu":
            width, height = settings.sizes[0]
            entry.check_tokens(settings.generator, tokens, (height, width))
        self.apply_changes(self.settings, self.changes)

    @classmethod
    def create(
        cls, prompt: Any, asked: Mapping[str, Any], losses: Losses = (), inputs: Inputs | None = None
    ) -> RunSpec:
        """A new run: the arguments of ``clipgen.Run``."""
        inputs = inputs or Inputs()
        named = inputs.named({**asked, "prompt": prompt})
        settings = build(named.pop("prompt"), named)
        if not named.keys() & {"generator", "recipe"} and default_start(settings.perceptor) == "random":
            warnings.warn(
                f"no generator is named for {settings.perceptor}: its pictures are sums of pixels, as of recipe='das'; "
                "the notebooks of 2021 used a VQGAN, such as generator='vqgan_imagenet_f16_16384'",
                stacklevel=4,
            )
        spec = cls(settings, inputs, losses)
        warn_of_titles(settings.prompts)
        return spec

    @classmethod
    def resume(cls, folder: str | Path, losses: Losses = (), trust: bool = False) -> RunSpec:
        """An interrupted run, to go on in its folder. ``trust``: as of ``Run.resume``."""
        journal = Journal.open(folder)
        given = journal.inputs()
        spec = cls._saved(journal.history, folder, losses, trust, given, journal)
        for name in spec.inputs.all.keys() - given.keys():  # trusted, and part of the run from now on
            journal.keep_input(name, spec.inputs.all[name])
        return spec

    @classmethod
    def replay(cls, source: str | Path, losses: Losses = (), trust: bool = False) -> RunSpec:
        """A run again, from its folder or from a file that it exported; with all that was changed on its way."""
        journal = Journal.open(source) if Path(source).is_dir() else None
        saved = journal.history if journal else check_saved(settings_of(source), source)
        return cls._saved(saved, source, losses, trust, journal.inputs() if journal else {})

    @classmethod
    def _saved(
        cls,
        saved: Mapping[str, Any],
        source: str | Path,
        losses: Losses,
        trust: bool,
        given: Mapping[str, Any],
        journal: Journal | None = None,
    ) -> RunSpec:
        changes = [without_removed(named_today(change, saved), source) for change in saved.get("changes", [])]
        try:
            settings, inputs = _saved(saved, source, losses), Inputs(given)
            if not trust:
                inputs.check_inside([asdict(settings), *changes], source)
            return cls(settings, inputs, losses, changes, journal)
        except ClipgenError as error:
            if str(source) in str(error):
                raise
            raise ClipgenError(f"{source}: {error}") from error

    def apply_changes(self, settings: Settings, changes: Iterable[Mapping[str, Any]]) -> Settings:
        """The settings after some changes, one after another, with everything loaded that they name.

        Each change has its ``step``. Raises ClipgenError as ``change`` does.
        """
        for change in changes:
            settings = self.change(settings, {name: value for name, value in change.items() if name != "step"})
        return settings

    def change(self, settings: Settings, asked: Mapping[str, Any]) -> Settings:
        """Return the settings after one change, with everything loaded that they name.

        The one rule for what is changed live, waits its turn, is resumed or replayed. Raises ClipgenError for what
        cannot be changed while a run goes on, and for values that cannot work together.
        """
        if names := immutable(asked):
            raise ClipgenError(f"{names[0]}=...: cannot be changed while a run goes on; start another, or branch")
        values = asdict(settings) | to_numbers(asked)  # whoever asks has given names to pictures
        settings = build(values.pop("prompt"), values)
        self._check_spared(settings)
        self.inputs.load(settings)
        return settings

    def _check_spared(self, settings: Settings) -> None:
        """Raise ClipgenError for models that have no patches to leave out."""
        for name, _ in self.perceptors if settings.patch_dropout else ():
            if not family(name).has_patches(name):
                raise ClipgenError(
                    f"patch_dropout={settings.patch_dropout}: {name} looks at all of a view at once, in no patches; "
                    "choose a ViT such as ViT-B-32/openai, or patch_dropout=0"
                )

    @property
    def notes(self) -> dict[str, Any]:
        """What a run folder says of its beginning."""
        versions = {"clipgen": clipgen.__version__, "torch": torch.__version__, "python": platform.python_version()}
        place = {"device": str(self.device), "precision": self.precision}
        machine = place | {"platform": platform.platform(), "threads": torch.get_num_threads()}
        names = [loss.name for loss in self.losses]
        return asdict(self.settings) | {"losses": names, "versions": versions, "machine": machine}

    def create_journal(self, folder: str | Path) -> Journal:
        """Return the journal of a new run below ``folder``, with all that it needs to be made again."""
        journal = Journal.create(folder, slug(self.settings.prompt), self.notes)
        for name, value in self.inputs.all.items():
            journal.keep_input(name, value)
        journal.add_changes(self.changes)
        return journal

    def load_models(self, share_models_with: Models | None = None) -> Models:
        """Return the models, those of another run if the settings name the same ones."""
        s = self.settings
        names = s.generator, s.relax, s.perceptor, str(self.device), self.precision
        models = share_models_with
        if not (models and models.names == names):
            perceptors = [(load_perceptor(name, self.device, self.precision), share) for name, share in self.perceptors]
            generator = load_generator(s.generator, self.device, s.relax, self.precision)
            models = Models(names, self.precision, generator, perceptors)
        if s.judge == (models.judge.name if models.judge else ""):
            return models
        return replace(models, judge=load_perceptor(s.judge, self.device, self.precision) if s.judge else None)


def shares(names: str) -> list[tuple[str, float]]:
    """An ensemble, ``mini | ViT-B-32/openai:0.5``: perceptors' names with their shares, which sum to one."""
    parts = parse_weighted(names)
    if not parts or min(weight for _, weight in parts) <= 0:
        raise ClipgenError(f"perceptor={names!r}: name at least one, each with a weight above 0, such as mini:0.5")
    for name, _ in parts:
        family(name)
    total = sum(weight for _, weight in parts)
    return [(name, weight / total) for name, weight in parts]


def _check_judge(judge: str, guides: Sequence[tuple[str, float]]) -> None:
    """Raise ClipgenError for a judge that does not exist, or guides."""
    if judge in dict(guides):
        raise ClipgenError(f"judge={judge!r}: it guides this run, so that it cannot judge it; choose another")
    try:
        if judge:
            family(judge)
    except ClipgenError as error:
        raise ClipgenError(str(error).replace("perceptor=", "judge=", 1)) from error


def objectives(losses: Losses) -> list[Loss]:
    """Losses of one's own, functions or objectives, with or without names. Raises ClipgenError for anything else."""
    made: list[Loss] = []
    for name, loss in losses.items() if isinstance(losses, Mapping) else (("", loss) for loss in losses):
        if not (isinstance(loss, Loss) or callable(loss)):
            raise ClipgenError(f"losses: {loss!r} is neither a function (image, latent, step) -> loss nor a Loss")
        made.append(loss if isinstance(loss, Loss) else FunctionLoss(loss, name))
    return made


def _size(side: int, quality: str, where: torch.device) -> tuple[int, int]:
    """What a generator draws best; a draft is smaller where pixels are dear, the best larger where they are cheap."""
    if quality == "draft" and where.type == "cpu":
        side //= 2
    if quality == "best" and where.type != "cpu":
        side = 3 * side // 2
    return side, side


def named_today(settings: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a run folder under their names of today: up to 0.2 noise and shift had settings of their own."""
    values, both = dict(settings), {**before, **settings}
    if not settings.keys() & {"noise", "shift"}:
        return values
    strengths = {name: both.get(key) for name, key in (("noise", "noise"), ("grain", "noise"), ("shift", "shift"))}
    names = [name.strip() for name in both.get("augment", "").split(",") if name.strip()]
    said = (f"{name}={strengths[name]}" if strengths.get(name) is not None else name for name in names)
    return {key: value for key, value in values.items() if key not in ("noise", "shift")} | {"augment": ", ".join(said)}


REMOVED = {"window": 1}  # settings of version 0.4 that are gone, with the value that changes nothing


def without_removed(settings: Mapping[str, Any], source: str | Path) -> dict[str, Any]:
    """Return saved settings without those that were removed.

    Raises:
        ClipgenError: A removed setting has a value that changed the picture.
    """
    for name, neutral in REMOVED.items():
        if settings.get(name, neutral) != neutral:
            raise ClipgenError(
                f"{source}: this run has {name}={settings[name]}, a setting that was removed; use clipgen 0.4, or set "
                f"{name} to {neutral} in its settings.json and changes.jsonl: the pictures will then be others"
            )
    return {name: value for name, value in settings.items() if name not in REMOVED}


def _saved(settings: Mapping[str, Any], source: str | Path, losses: Losses) -> Settings:
    """Settings as a journal or an exported file has them, to be followed with the same losses."""
    usual: dict[str, Any] = {
        knob.name: knob.default for knob in fields(Settings)
    }  # what a setting was before there was one
    values = usual | {
        key: value for key, value in without_removed(named_today(settings, settings), source).items() if key in usual
    }
    had, given = settings.get("losses", 0), [loss.name for loss in objectives(losses)]
    if had != (given if isinstance(had, list) else len(given)):  # before they had names they were counted
        said = ", ".join(map(str, had)) if isinstance(had, list) else had
        raise ClipgenError(
            f"{source}: this run followed {len(had) if isinstance(had, list) else had} losses of its own ({said}), "
            f"and {len(given)} are given ({', '.join(given)}); pass the same as losses=[...]"
        )
    return build(values.pop("prompt"), values)
