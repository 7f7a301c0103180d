"""One fine-tuning run of the demo: a ``tether.tune`` whose epochs are looked at."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

import tether
from tether import EarlyLearningRegularization, SelfLabelCorrection
from tether.demo.experiments import Experiment
from tether.demo.task import Task
from tether.demo.watch import Floats, Integers, Watch
from tether.engine.reference import unwrap
from tether.engine.registry import attached_to
from tether.measure import correction_report
from tether.noise import NoisyLabels


@dataclass(frozen=True)
class Run:
    """What a run came to.

    Attributes:
        experiment: name of the experiment.
        method: name of the method.
        seed: seed of the task, of the order of the samples and of the method.
        seconds: time spent training, evaluation left out.
        curves: quantity -> one value an epoch, the first before training.
        distances: layer -> distance travelled from the pretrained weights; the head from zero.
        features: ``"start"`` and ``"end"`` -> features of the training samples ``[N, 64]``.
        labels: ``"true"`` and ``"given"`` labels of the training samples ``[N]``.
        corrections: precision and recall of the labels that the method puts in place of the
            given ones; None where it suggests none.
    """

    experiment: str
    method: str
    seed: int
    seconds: float
    curves: dict[str, list[float]]
    distances: dict[str, float]
    features: dict[str, Floats]
    labels: dict[str, Integers]
    corrections: dict[str, float] | None


def fine_tune(experiment: Experiment, method: str, seed: int, epochs: int | None = None) -> Run:
    """Fine-tune the pretrained network of a seed with one method.

    Args:
        experiment: what to train on, and how.
        method: one of ``experiment.methods``.
        seed: everything random follows from it; methods are compared on equal seeds.
        epochs: instead of the experiment's own.
    """
    task = experiment.task(seed)
    look = _look(task)
    with tempfile.TemporaryDirectory() as folder:
        tether.tune(
            {
                **experiment.settings,
                "methods": list(experiment.methods[method]),
                "epochs": epochs or experiment.epochs,
                "seed": seed,
                "output_dir": f"{folder}/run",
            },
            callbacks=[look],
        )
    return Run(
        experiment=experiment.name,
        method=method,
        seed=seed,
        seconds=look.seconds,
        curves=look.watch.curves,
        distances=look.watch.distances(),
        features=look.watch.features(),
        labels={"true": task.noisy.true.numpy(), "given": task.noisy.labels.numpy()},
        corrections=None if look.labels is None else _score(task.noisy, look.labels),
    )


def _look(task: Task) -> Any:
    from transformers import TrainerCallback

    class Look(TrainerCallback):
        """Looks at the network before training and after each epoch."""

        model: nn.Module
        watch: Watch
        labels: Tensor | None = None
        seconds = 0.0
        _began = 0.0

        def on_train_begin(self, *args: Any, **now: Any) -> None:
            self.model = unwrap(now["model"])
            self.watch = Watch(self.model, task)  # type: ignore[arg-type]

        def on_epoch_begin(self, *args: Any, **now: Any) -> None:
            self._began = time.perf_counter()

        def on_epoch_end(self, *args: Any, **now: Any) -> None:
            self.seconds += time.perf_counter() - self._began
            self.watch.look()

        def on_train_end(self, *args: Any, **now: Any) -> None:
            handle = attached_to(self.model)
            self.labels = None if handle is None else suggested_labels(handle)

    return Look()


def suggested_labels(reg: tether.Handle) -> Tensor | None:
    """The label that the method believes in, for every training sample; None if it has none."""
    for method in reg.methods.values():
        if isinstance(method, (SelfLabelCorrection, EarlyLearningRegularization)):
            return method.labels()
    return None


def _score(noisy: NoisyLabels, labels: Tensor) -> dict[str, float]:
    report = correction_report(noisy.labels, noisy.true, labels)
    return {"precision": report["precision"], "recall": report["recall"]}
