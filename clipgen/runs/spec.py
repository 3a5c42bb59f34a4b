"""A run before it begins: everything is checked, and no model is loaded."""

import math
import os
import platform
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import clipgen
from clipgen import device
from clipgen.clip import Perceptor
from clipgen.clip.catalogue import find_family, load_perceptor
from clipgen.errors import ClipgenError
from clipgen.export import settings_of
from clipgen.generators import Entry, Generator, check_tokens, token_grid
from clipgen.generators.catalogue import entry_of, load_generator
from clipgen.losses import FunctionLoss, Loss, LossFunction
from clipgen.prompts import parse_weighted, slug, warn_of_titles
from clipgen.registry import LOSSES
from clipgen.runs.folder import check_saved
from clipgen.runs.inputs import Inputs, identify_weights
from clipgen.runs.journal import Journal
from clipgen.runs.settings import Settings, build, check_names, default_init, to_numbers
from clipgen.setting import check_path, parse_size
from clipgen.storage import expand_home

# Settings that changes of version 0.4 may have: ``fit`` had no effect, and ``window`` is gone.
IGNORED = {"fit", "window"}
Losses = Sequence[LossFunction | Loss] | Mapping[str, LossFunction] | LossFunction | Loss | None


@dataclass(frozen=True)
class Models:
    """The models of a run. Runs with the same key can share them."""

    key: tuple[str, ...]  # see ``RunSpec.models_key``
    generator: Generator
    perceptors: list[tuple[Perceptor, float]]  # with their weights, which sum to one
    judge: Perceptor | None = None  # scores frames, and does not guide


class RunSpec:
    """Validated settings, with the pictures and latents that they name. Raises ClipgenError for invalid ones."""

    def __init__(
        self,
        settings: Settings,
        inputs: Inputs,
        losses: Losses = (),
        changes: Sequence[Mapping[str, Any]] = (),
        journal: Journal | None = None,
    ):
        self.inputs, self.losses = inputs, to_losses(losses)
        self.changes, self.journal = sorted(changes, key=lambda change: change["step"]), journal
        self.device = device.resolve_device(settings.device)
        self.precision = device.resolve_precision(self.device, settings.precision)
        self.perceptors = parse_ensemble(settings.perceptor)
        _check_judge(settings.judge, self.perceptors)
        entry, init = entry_of(settings.generator), settings.init
        size = settings.size or default_size(entry, settings.quality, self.device)
        if init == "auto":  # drafts need text
            init = default_init(settings.perceptor) if settings.texts else "random"
        self.settings = settings = settings.updated(size=size, init=init)
        for width, height in settings.growth.sizes:
            entry.check(settings.generator, settings.relax, (width, height))
        if settings.tile and not entry.tileable:
            raise ClipgenError(f"tile=True: {settings.generator} draws up to an edge; choose mini-vqgan, fft or pixels")
        self._check_objectives(settings)
        self.inputs.load(settings)
        self.init = self.inputs.create_init(settings)
        self.init.check(settings.prompts)
        data = self.inputs.by_name.get(init)
        if isinstance(data, np.ndarray) and data.dtype.kind in "iu":
            width, height = settings.growth.sizes[0]
            check_tokens(settings.generator, data, token_grid(entry, (height, width)), entry.codebook_size)
        self.apply_changes(settings, self.changes)

    @classmethod
    def create(
        cls, prompt: Any, options: Mapping[str, Any], losses: Losses = (), inputs: Inputs | None = None
    ) -> "RunSpec":
        """Return the spec of a new run, from the arguments of ``clipgen.Run``."""
        inputs = inputs or Inputs()
        named = inputs.name_values({**options, "prompt": prompt})
        settings = inputs.name_files(build(named.pop("prompt"), named))
        if not named.keys() & {"generator", "recipe"} and default_init(settings.perceptor) == "random":
            warnings.warn(
                f"no generator is named for {settings.perceptor}: pixels are optimised, as in recipe='das'; "
                "the notebooks of 2021 used a VQGAN, such as generator='vqgan_imagenet_f16_16384'",
                stacklevel=4,
            )
        spec = cls(settings, inputs, losses)
        warn_of_titles(settings.prompts)
        return spec

    @classmethod
    def open(cls, source: str | Path, losses: Losses = (), trust: bool = False, resume: bool = False) -> "RunSpec":
        """Return the spec for resuming or repeating a run, changes included, from its folder or an exported file.

        ``trust``: read files that the source names and does not contain. ``resume``: continue in the folder.
        """
        source = expand_home(check_path("source", source))
        journal = Journal.open(source) if resume or os.path.isdir(source) else None
        inputs = Inputs(journal.inputs() if journal else None)
        saved = journal.settings_and_changes if journal else check_saved(settings_of(source), source)
        contained = set(inputs.by_name)
        try:
            changes: list[dict[str, Any]] = saved.get("changes", [])
            for options in (saved, *changes):
                if options.get("window", 1) != 1:
                    raise ClipgenError(
                        f"window={options['window']}, a setting that was removed; use clipgen 0.4, or set it to 1 in "
                        "settings.json and changes.jsonl: the pictures will then differ"
                    )
            changes = [{name: change[name] for name in change if name not in IGNORED} for change in changes]
            values = {field.name: saved.get(field.name, field.default) for field in fields(Settings)}
            before, given = saved.get("losses", []), [loss.name for loss in to_losses(losses)]
            if before != given:
                used, passed = (", ".join(map(str, names)) or "none" for names in (before, given))
                raise ClipgenError(
                    f"{source}: this run used {len(before)} losses of its own ({used}), but {len(given)} are given "
                    f"({passed}); pass the same as losses=[...]"
                )
            if not trust:
                inputs.check_contained([values, *changes], source, saved.get("weights"))
            spec = cls(build(values.pop("prompt"), values), inputs, losses, changes, journal if resume else None)
        except ClipgenError as error:
            if str(source) in str(error):
                raise
            raise ClipgenError(f"{source}: {error}") from error
        if spec.journal:  # what is trusted is part of the run from now on
            spec.journal.keep_inputs({name: inputs.by_name[name] for name in inputs.by_name.keys() - contained})
        return spec

    def apply_changes(self, settings: Settings, changes: Iterable[Mapping[str, Any]]) -> Settings:
        """Return the settings after some changes, each with its ``step``. Raises ClipgenError as ``change`` does."""
        for change in changes:
            settings = self.change(settings, {name: value for name, value in change.items() if name != "step"})
        return settings

    def change(self, settings: Settings, options: Mapping[str, Any]) -> Settings:
        """Return the settings after one change, and load the pictures that it names.

        This is the one rule for changes that are live, waiting, resumed or replayed. Raises ClipgenError for settings
        that cannot change during a run, and for values that cannot work together.
        """
        check_names(options, only_live=True)
        settings = settings.updated(**to_numbers(options))
        settings.check()
        self._check_objectives(settings)
        self.inputs.load(settings)
        return settings

    def _check_objectives(self, settings: Settings) -> None:
        """Raise ClipgenError for losses and prompts that the perceptors do not support, or that conflict."""
        if settings.combine == "embeddings" and any(prompt.source for prompt in settings.prompts):
            raise ClipgenError("combine='embeddings': a direction, as 'a photo -> a sketch', needs combine='losses'")
        for kind in LOSSES.values():
            settings.select(kind).check([name for name, _ in self.perceptors])
        for name, _ in self.perceptors if settings.patch_dropout else ():
            if not find_family(name).has_patches(name):
                raise ClipgenError(
                    f"patch_dropout={settings.patch_dropout}: {name} has no patches; "
                    "choose a ViT such as ViT-B-32/openai, or patch_dropout=0"
                )

    def check_models(self, settings: Settings, models: Models) -> None:
        """Raise ClipgenError for losses that the loaded perceptors cannot have."""
        for kind in LOSSES.values():
            settings.select(kind).check_models([perceptor for perceptor, _ in models.perceptors])

    @property
    def metadata(self) -> dict[str, Any]:
        """The settings, losses, versions and machine, for the journal."""
        versions = {"clipgen": clipgen.__version__, "torch": torch.__version__, "python": platform.python_version()}
        machine = {
            "device": str(self.device),
            "precision": self.precision,
            "platform": platform.platform(),
            "threads": torch.get_num_threads(),
        }
        metadata = asdict(self.settings)
        weights = identify_weights(metadata)
        metadata |= {"losses": [loss.name for loss in self.losses], "versions": versions, "machine": machine}
        return metadata | ({"weights": weights} if weights else {})

    def create_journal(self, folder: str | Path) -> Journal:
        """Make a run folder in ``folder``, with all that is needed to make the run again."""
        journal = Journal.create(folder, slug(self.settings.prompt), self.metadata, self.inputs.by_name)
        journal.add_changes(self.changes)
        return journal

    @property
    def models_key(self) -> tuple[str, ...]:
        """The settings that two runs must share to share their models."""
        settings = self.settings
        return settings.generator, settings.relax, settings.perceptor, str(self.device), self.precision

    def load_models(self, share_models_with: Models | None = None) -> Models:
        """Return the models; those of another run if they have the same key."""
        settings, models = self.settings, share_models_with
        if not (models and models.key == self.models_key):
            clips = [(load_perceptor(name, self.device, self.precision), weight) for name, weight in self.perceptors]
            generator = load_generator(settings.generator, self.device, settings.relax, self.precision)
            models = Models(self.models_key, generator, clips)
        if settings.judge == (models.judge.name if models.judge else ""):
            return models
        judge = load_perceptor(settings.judge, self.device, self.precision) if settings.judge else None
        return replace(models, judge=judge)


def parse_ensemble(names: str) -> list[tuple[str, float]]:
    """Return the perceptors of an ensemble, ``mini | ViT-B-32/openai:0.5``, with weights that sum to one."""
    parts = parse_weighted(names)
    total = sum(weight for _, weight in parts)
    if not (total < math.inf and all(weight > 0 for _, weight in parts)) or not parts:
        raise ClipgenError(f"perceptor={names!r}: name at least one, each with a weight above 0, such as mini:0.5")
    for name, _ in parts:
        find_family(name)
    return [(name, weight / total) for name, weight in parts]


def _check_judge(judge: str, guides: Sequence[tuple[str, float]]) -> None:
    if judge in dict(guides):
        raise ClipgenError(f"judge={judge!r}: it guides this run, so that it cannot judge it; choose another")
    try:
        if judge:
            find_family(judge)
    except ClipgenError as error:
        raise ClipgenError(str(error).replace("perceptor=", "judge=", 1)) from error


def to_losses(losses: Losses) -> list[Loss]:
    """Return functions and losses, with or without names, as losses. Raises ClipgenError for anything else."""
    result: list[Loss] = []
    several: Any = () if losses is None else losses
    if isinstance(several, str) or not isinstance(several, Iterable):
        several = [several]
    for name, loss in several.items() if isinstance(several, Mapping) else (("", loss) for loss in several):
        if not (isinstance(loss, Loss) or callable(loss)):
            raise ClipgenError(f"losses: {loss!r} is neither a function (image, latent, step) -> loss nor a Loss")
        result.append(loss if isinstance(loss, Loss) else FunctionLoss(loss, name))
    return result


def shares_latents(settings: Settings, values: Mapping[str, Any]) -> bool:
    """Return whether a run that begins with other ``values`` can read the latents of one with these settings."""
    if any(values[name] != getattr(settings, name) for name in ("generator", "relax")):
        return False
    begin = settings.updated(size=parse_size(values["size"])).growth.sizes[:1]
    return entry_of(settings.generator).is_vector or begin == settings.growth.sizes


def default_size(entry: Entry, quality: str, where: torch.device) -> tuple[int, int]:
    """Return the generator's own size, half of it for a draft on a CPU, and 1.5 times for the best on a GPU."""
    side, quality = entry.native_size_on(where), "normal" if entry.sequence else quality
    if quality == "draft" and where.type == "cpu":
        side //= 2
    if quality == "best" and where.type != "cpu":
        side = 3 * side // 2
    return side, side
