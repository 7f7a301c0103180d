"""A finished run, opened again: its settings, data and model, and the weights it began with."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tether.data.table import DataSource
from tether.engine.reference import canonical, named_tensors
from tether.errors import ConfigError
from tether.files import read_rows
from tether.models.export import load_exported
from tether.models.weights import read_weights
from tether.tuning.assembly import Assembly, assemble
from tether.tuning.checkpoints import LAST, checkpoints, read_manifest
from tether.tuning.config import CONFIG_NAME, load_config
from tether.tuning.options import TuneConfig
from tether.tuning.result import RESULT_FILE, Result
from tether.tuning.run_folder import DONE, FAILED
from tether.tuning.stage import BEST, METRICS_FILE
from tether.tuning.stage_spec import stage_configs

#: Which weights of a run may be asked for.
WEIGHTS = ("best", "last", "exported")


def open_run(
    path: str | Path, *, weights: str = "best", data: DataSource | None = None
) -> OpenedRun:
    """Open a finished run, to measure it or to go on from what it found.

    Settings, result and history are read at once. Data and model are put together when they are
    first asked for, so that a run whose data are gone still tells the rest.

    Args:
        path: the run folder.
        weights: which weights the model gets: ``"best"`` (of the best epoch), ``"last"`` (of the
            newest checkpoint) or ``"exported"`` (what ``model/`` holds).
        data: in place of what the settings name, for example where the data have moved.

    Raises:
        ConfigError: the folder holds no finished run, or ``weights`` is none of the three.

    Example:
        >>> import tempfile
        >>> from tether.tuning.job import tune
        >>> folder = tempfile.TemporaryDirectory()
        >>> _ = tune({
        ...     "model": "demo:digits", "data": "demo:digits", "epochs": 1, "lr": 0.01,
        ...     "output_dir": folder.name + "/run",
        ... })
        >>> run = open_run(folder.name + "/run")
        >>> run.config.epochs, run.model.training, sorted(run.assembly.splits)
        (1.0, False, ['test', 'validation'])
        >>> moved = run.model.state_dict()["head.weight"] - run.reference["head.weight"]
        >>> bool(moved.norm() > 0)
        True
        >>> folder.cleanup()
    """
    if weights not in WEIGHTS:
        raise ConfigError(f"weights must be one of {', '.join(WEIGHTS)}, got {weights!r}")
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; give the folder of a finished run")
    if not (folder / CONFIG_NAME).is_file():
        raise ConfigError(f"{folder} holds no run: it has no {CONFIG_NAME}; give a run folder")
    if not all((folder / name).is_file() for name in (DONE, RESULT_FILE)):
        why = "failed" if (folder / FAILED).is_file() else "is not finished"
        raise ConfigError(
            f"the run in {folder} {why} (there is no {DONE} with {RESULT_FILE}): go on with "
            f"tether tune --config {folder / CONFIG_NAME} --resume"
        )
    return OpenedRun(folder, weights=weights, data=data)


class OpenedRun:
    """A finished run. Made by :func:`open_run`, which says what its arguments mean.

    Attributes:
        path: its folder.
        config: its settings.
        result: its scores.
        history: the rows of ``metrics.jsonl``.
    """

    def __init__(self, path: Path, *, weights: str, data: DataSource | None) -> None:
        self.path, self.weights, self._data = path, weights, data
        self.config: TuneConfig = load_config(path / CONFIG_NAME)
        self.result: Result = _result(path)
        self.history: list[dict[str, Any]] = read_rows(path / METRICS_FILE)

    @property
    def stage(self) -> TuneConfig:
        """The settings of the last stage, which the weights come from."""
        return stage_configs(self.config)[-1].config

    @cached_property
    def assembly(self) -> Assembly:
        """What the last stage was made of, with the weights that were asked for.

        Raises:
            ConfigError: the data or the pretrained weights have gone, moved or changed; or the
                run kept no such weights.
        """
        made = self._parts[0]
        model = made.loaded.model
        fill(model, self.tensors(), f"the {self.weights} weights of run {self.path}")
        model.eval()
        return made

    @property
    def model(self) -> nn.Module:
        """The model with the weights that were asked for, in evaluation mode, on the CPU.

        Raises:
            ConfigError: as :attr:`assembly`.
        """
        return self.assembly.loaded.model

    @property
    def reference(self) -> dict[str, Tensor]:
        """Parameters and buffers that the run began with, by name: pretrained, with its new head.

        Raises:
            ConfigError: as :attr:`assembly`.
        """
        return self._parts[1]

    @cached_property
    def _parts(self) -> tuple[Assembly, dict[str, Tensor]]:
        try:
            made = assemble(self.stage, source=self._data)
        except ConfigError as error:
            raise ConfigError(f"run {self.path} cannot be put together again: {error}") from error
        if self._data is None:
            self.check_data(made.source)
        reference = {n: t.detach().clone() for n, t in named_tensors(made.loaded.model)}
        return made, reference

    def check_data(self, source: DataSource) -> None:
        """Refuse data that are not those which the run saw: rows mean something else there.

        Raises:
            ConfigError: a split has changed.
        """
        before = self.fingerprints
        changed = [n for n, now in source.fingerprints.items() if before.get(n, now) != now]
        if changed:
            raise ConfigError(
                f"run {self.path}: the data {self.stage.data} have changed in "
                f"{', '.join(changed)} since it was trained; bring them back"
            )

    @property
    def fingerprints(self) -> Mapping[str, str]:
        """Split -> hash of the data that the last stage saw; empty where no checkpoint was kept."""
        found = [m for c in checkpoints(self._checkpoints) if (m := read_manifest(c)) is not None]
        return found[0].get("data", {}) if found else {}

    @property
    def _checkpoints(self) -> Path:
        stages = stage_configs(self.config)
        root = self.path / "checkpoints"
        return root if len(stages) == 1 else root / f"stage-{len(stages)}"

    def tensors(self) -> Mapping[str, Tensor]:
        """The weights that were asked for, by name.

        Raises:
            ConfigError: the run kept no such weights.
        """
        if self.weights == "exported":
            return load_exported(self.path).model.state_dict()
        if self.weights == "last" and self.config.export == "last":
            return load_exported(self.path).model.state_dict()
        name = BEST if self.weights == "best" else LAST
        file = self._checkpoints / name / "model.safetensors"
        if not file.is_file():
            why = "no epoch had a finite score" if name == BEST else "save_total_limit was 0"
            raise ConfigError(
                f"run {self.path} kept no {self.weights} weights ({file} is not there, perhaps "
                f"{why}): ask for other weights, one of {', '.join(WEIGHTS)}"
            )
        return read_weights(file)


def fill(model: nn.Module, tensors: Mapping[str, Tensor], origin: str) -> None:
    """Put tensors into all parameters and buffers of a model.

    Args:
        model: changed in place, and only where everything fits.
        tensors: by name; more than the model has do not hurt. Of tied weights one is enough.
        origin: what a message calls them.

    Raises:
        ConfigError: one is missing, or has another shape.
    """
    given = {canonical(name): tensor for name, tensor in tensors.items()}
    state = {canonical(name): tensor for name, tensor in model.state_dict().items()}
    other = [n for n, t in state.items() if n in given and given[n].shape != t.shape]
    taken = {_memory(t) for n, t in state.items() if n in given}
    missing = [n for n, t in state.items() if n not in given and _memory(t) not in taken]
    if other or missing:
        name = (other or missing)[0]
        theirs = f"{tuple(given[name].shape)} there" if other else "missing there"
        raise ConfigError(
            f"{origin} are of another model: {name!r} is {tuple(state[name].shape)} here and "
            f"{theirs} ({len(other) + len(missing)} of {len(state)} tensors do not fit)"
        )
    with torch.no_grad():
        for name, tensor in state.items():
            if name in given:
                tensor.copy_(given[name])


def _memory(tensor: Tensor) -> tuple[int, int]:
    """Where a tensor lies: the same for tied ones."""
    return tensor.data_ptr() or id(tensor), tensor.numel()


def _result(path: Path) -> Result:
    try:
        return Result.read(path)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path / RESULT_FILE} cannot be read: {error}") from error
