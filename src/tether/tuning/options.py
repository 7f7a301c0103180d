"""The options of ``tether tune``: one table, from which the CLI, YAML files and docs are made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

GROUPS = ("Main", "Model", "Data", "Optimiser", "Training", "Output")


def option(
    default: Any, text: str, *, group: str = "Main", metavar: str = "",
    choices: tuple[str, ...] = (), low: float | None = None, high: float | None = None,
    above: float | None = None, aliases: tuple[str, ...] = (), many: bool = False,
    settings: bool = True,
) -> Any:  # fmt: skip
    """A field of :class:`TuneConfig` with what the command line needs to know of it.

    Args:
        default: its default; a list is copied.
        text: one line of help.
        group: panel of ``--help``, one of ``GROUPS``.
        metavar: what stands for the value in the help.
        choices: allowed texts.
        low: least allowed number.
        high: largest allowed number.
        above: the number must be larger than this.
        aliases: further spellings on the command line, hidden.
        many: may be given several times.
        settings: whether it bears on the result, so that a resumed run must have the same.
    """
    assert group in GROUPS
    about = {
        "help": text, "group": group, "metavar": metavar, "choices": choices, "low": low,
        "high": high, "above": above, "aliases": aliases, "many": many, "settings": settings,
    }  # fmt: skip
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata=about)
    return field(default=default, metadata=about)


@dataclass
class TuneConfig:
    """What ``tether tune`` is told; every field is an option of the command and a key of its YAML.

    Make one with :func:`tether.tuning.config.load_config` to have files read, texts converted and
    every value checked; the fields here are plain values.
    """

    # -- Main: the first screen of the help -------------------------------------------------------
    model: str = option(
        "", "timm:NAME, hf:NAME, torchvision:NAME, demo:NAME, a hub name or a directory",
        metavar="MODEL",
    )  # fmt: skip
    data: str = option(
        "", "image folder, CSV/TSV/parquet file or folder, hub data set, or demo:digits",
        metavar="DATA",
    )  # fmt: skip
    sequence: str = option(
        "", "data sets as tasks one after another (continual learning), in place of --data",
        metavar="DATA,DATA",
    )  # fmt: skip
    methods: list[Any] = option(
        [], "NAME or NAME:key=value,key=value; may be given several times", metavar="METHOD",
        many=True,
    )  # fmt: skip
    output_dir: str = option(
        "", "run folder; by default runs/MODEL-DATA-METHODS", metavar="RUN", settings=False
    )
    epochs: float = option(20.0, "passes over the training data", above=0)
    batch_size: int = option(32, "samples of a forward, for each process", low=1)
    grad_accum_steps: int = option(1, "forwards for each update", low=1)
    lr: float = option(1e-3, "learning rate of the layers below the head", low=0)
    head_lr_mult: float = option(1.0, "the new head learns this many times faster", low=0)
    weight_decay: float = option(0.01, "decay towards zero, not for biases and norms", low=0)
    freeze: str = option(
        "", "'backbone' (a linear probe), or name patterns separated by commas", metavar="WHAT"
    )
    eval_metric: str = option(
        "", "chooses the best epoch; by default accuracy, map (multi-label) or mae", metavar="NAME"
    )
    patience: int = option(
        0, "stop after this many epochs without a better metric; 0: never", low=0
    )
    noise: str = option(
        "", "put wrong labels into the training data, for experiments", metavar="NAME:RATE"
    )
    shots: int = option(0, "keep this many training samples a class; 0: all", low=0)
    limit_train: int = option(0, "keep this many training samples; 0: all", low=0)
    augment: str = option(
        "default", "changes of training images",
        choices=("default", "none", "light", "colour", "randaugment"),
    )  # fmt: skip
    precision: str = option("fp32", "numbers in the forward", choices=("fp32", "bf16", "fp16"))
    device: str = option("auto", "where to train", choices=("auto", "cpu", "cuda"))
    workers: int = option(0, "processes that read data", low=0, settings=False)
    seed: int = option(42, "split, order, head, augmentation and methods follow from it", low=0)

    # -- Model -------------------------------------------------------------------------------------
    weights: str = option(
        "", "safetensors file for the backbone; says which keys were taken", group="Model",
        metavar="FILE",
    )  # fmt: skip
    model_args: dict[str, Any] = option(
        {}, "arguments of the model's constructor, as key=value,key=value", group="Model",
        metavar="ARGS",
    )  # fmt: skip
    image_size: int = option(0, "pixels a side; 0: the model's own", group="Model", low=0)
    max_length: int = option(128, "tokens of a text that are kept", group="Model", low=2)

    # -- Data --------------------------------------------------------------------------------------
    task: str = option(
        "auto", "what the labels are", group="Data",
        choices=("auto", "single_label", "multi_label", "regression"),
    )  # fmt: skip
    text_column: str = option(
        "", "column(s) of the texts; two: sentence pairs", group="Data", metavar="NAME[,NAME]"
    )
    image_column: str = option("", "column of the image paths", group="Data", metavar="NAME")
    label_column: str = option("", "column(s) of the labels", group="Data", metavar="NAME[,NAME…]")
    label_separator: str = option(
        ";", "between the labels of a multi-label cell", group="Data", metavar="SIGN"
    )
    true_label_column: str = option(
        "", "column of labels known to be right, for experiments: nothing is trained on them",
        group="Data", metavar="NAME",
    )  # fmt: skip
    domain_column: str = option(
        "", "column that says where a sample comes from", group="Data", metavar="NAME"
    )
    unlabelled: str = option(
        "", "more inputs without labels, for methods that use them", group="Data", metavar="PATH"
    )
    pairs: str = option(
        "", "CSV/parquet with the columns chosen, rejected, for methods on preferences",
        group="Data", metavar="PATH",
    )  # fmt: skip
    validation_share: float = option(
        0.2, "part of the training data to validate on where no split exists", group="Data",
        above=0, high=0.9,
    )  # fmt: skip
    limit_classes: int = option(
        0, "keep the first so many classes, in every split; 0: all", group="Data", low=0
    )
    limit_validation: int = option(
        0, "keep this many validation samples; 0: all", group="Data", low=0
    )
    on_bad_sample: str = option(
        "fail", "what to do about unreadable images and empty texts", group="Data",
        choices=("skip", "fail"),
    )  # fmt: skip

    # -- Optimiser ---------------------------------------------------------------------------------
    optim: str = option(
        "adamw", "optimiser of torch", group="Optimiser",
        choices=("adamw", "adam", "sgd", "rmsprop", "adagrad", "nadam", "radam"),
    )  # fmt: skip
    optim_args: dict[str, Any] = option(
        {}, "its arguments, as key=value,key=value", group="Optimiser", metavar="ARGS"
    )
    layer_decay: float = option(
        1.0, "each layer below learns this many times slower than the one above", group="Optimiser",
        above=0, high=1,
    )  # fmt: skip
    lr_scheduler: str = option(
        "cosine", "course of the learning rate", group="Optimiser",
        choices=("cosine", "linear", "constant", "polynomial", "cosine_with_restarts"),
        aliases=("lr_scheduler_type", "sched"),
    )  # fmt: skip
    warmup_ratio: float = option(
        0.0, "share of training with a rising rate", group="Optimiser", low=0, high=1
    )
    clip_grad: float = option(
        0.0, "largest norm of all gradients together; 0: none", group="Optimiser", low=0,
        aliases=("max_grad_norm",),
    )  # fmt: skip

    # -- Training ----------------------------------------------------------------------------------
    loss: str = option(
        "auto", "auto: cross_entropy, binary_cross_entropy (multi-label) or mse; model: its own",
        group="Training",
        choices=("auto", "cross_entropy", "binary_cross_entropy", "mse", "l1", "model"),
    )  # fmt: skip
    label_smoothing: float = option(
        0.0, "share of each label spread over all classes", group="Training", low=0, high=0.99
    )
    class_weights: str = option(
        "", "'balanced', or CLASS=WEIGHT,CLASS=WEIGHT", group="Training", metavar="WEIGHTS"
    )
    freeze_norm: str = option(
        "auto", "batch-norm statistics stand still: where frozen (auto), everywhere, nowhere",
        group="Training", choices=("auto", "all", "none"),
    )  # fmt: skip
    compile: bool = option(False, "torch.compile the model", group="Training")
    channels_last: bool = option(
        True, "weights of image models in the layout that convolutions are fast in",
        group="Training",
    )  # fmt: skip
    eval_batch_size: int = option(
        0,
        "samples of an evaluating forward; 0: the training one's",
        group="Training",
        low=0,
        settings=False,
    )
    stages: list[Any] = option(
        [], "stages one after another (YAML only): lists of options", group="Training"
    )
    fsdp: str = option(
        "", "shard the model over accelerators ('full_shard')", group="Training", metavar="HOW"
    )

    # -- Output ------------------------------------------------------------------------------------
    save_steps: int = option(
        0, "updates between checkpoints; 0: one each epoch", group="Output", low=0, settings=False
    )
    save_total_limit: int = option(
        2, "checkpoints to keep, beside the best one; 0: write none", group="Output", low=0,
        settings=False,
    )  # fmt: skip
    export: str = option(
        "best", "which weights go to RUN/model", group="Output", choices=("best", "last", "none"),
        settings=False,
    )  # fmt: skip
    record: bool = option(
        True, "keep what training says of each sample, for tether labels find", group="Output"
    )
    epoch_measures: bool = option(
        True, "measure distances, features and label agreement every epoch", group="Output",
        settings=False,
    )  # fmt: skip
    report_to: str = option(
        "none", "none, tensorboard, wandb, mlflow, trackio; several separated by commas",
        group="Output", metavar="TRACKER", settings=False,
    )  # fmt: skip
    logging_steps: int = option(
        0,
        "updates between lines of a tracker; 0: one each epoch",
        group="Output",
        low=0,
        settings=False,
    )
