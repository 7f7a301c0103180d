"""What a run leaves for others: the model, its card, and the predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tether.models.card import CardFacts, CardMethod, write_card
from tether.models.predict import write_predictions
from tether.tuning.assembly import Assembly
from tether.tuning.config import dump_config
from tether.tuning.options import TuneConfig
from tether.tuning.result import Result


def export(
    run: Path, made: Assembly, config: TuneConfig, result: Result,
    logits: dict[str, NDArray[np.floating[Any]]], *, main: bool,
) -> None:  # fmt: skip
    """Write ``model/`` with its card, and ``predictions-SPLIT.csv``.

    Args:
        run: the run folder.
        made: data, model and methods of the last stage.
        config: the settings of the run.
        result: its scores.
        logits: split -> outputs for its samples, of the weights that are exported.
        main: whether this process writes; where the model is sharded all take part in saving it.
    """
    source = made.source
    for split, values in logits.items() if main else ():
        write_predictions(
            run / f"predictions-{split}.csv", source.tables[split], values, source.class_names,
            source.task, separator=config.label_separator or ";",
        )  # fmt: skip
    if config.export == "none":
        return
    made.loaded.save(run / "model")
    if main:
        write_card(run / "model", card_facts(made, config, result))


def card_facts(made: Assembly, config: TuneConfig, result: Result) -> CardFacts:
    """What the model card says."""
    source, loaded = made.source, made.loaded
    parts = [part for method in made.methods for part in method.expand()]
    return CardFacts(
        name=Path(result.run_dir).name,
        base_model=loaded.name,
        library=loaded.library,
        kind=loaded.kind,
        task=source.task,
        class_names=source.class_names,
        data=source.name,
        counts={split: len(table) for split, table in source.tables.items()},
        methods=[
            CardMethod(method.info.name, method.info.summary, method.info.paper, method.options())
            for method in parts
        ],
        settings=dump_config(config),
        last=result.last,
        best=result.best,
        metric=result.metric,
        exported=config.export,
        how_to_load=loaded.how_to_load,
        noise=dict(source.noise),
    )
