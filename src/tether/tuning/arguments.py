"""The Trainer's arguments, from the settings of a stage."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import torch

from tether.errors import ConfigError
from tether.tuning.metrics import LESS, METRICS
from tether.tuning.options import TuneConfig

#: Tracker -> the package it needs.
TRACKERS = {
    "tensorboard": "tensorboard",
    "wandb": "wandb",
    "mlflow": "mlflow",
    "trackio": "trackio",
}


def training_arguments(config: TuneConfig, root: Path, task: str) -> Any:
    """``TrainingArguments`` of a stage.

    Args:
        config: its settings.
        root: folder of its checkpoints.
        task: what the labels are.

    Raises:
        ConfigError: the device cannot do what is asked, or a tracker is not installed.
    """
    from transformers import TrainingArguments

    cpu = check_device(config)
    metric = metric_name(config, task)
    schedule = config.lr_scheduler if config.lr else "constant"  # some want a rate to fall from
    args = TrainingArguments(
        output_dir=str(root),
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=config.eval_batch_size or config.batch_size,
        gradient_accumulation_steps=config.grad_accum_steps,
        num_train_epochs=config.epochs,
        learning_rate=config.lr,
        weight_decay=config.weight_decay,
        lr_scheduler_type=schedule,
        lr_scheduler_kwargs={"lr_end": 0.0} if schedule == "polynomial" else {},
        warmup_steps=min(config.warmup_ratio, 1 - 1e-9),
        max_grad_norm=config.clip_grad,
        seed=config.seed,
        data_seed=config.seed,
        bf16=config.precision == "bf16",
        fp16=config.precision == "fp16",
        use_cpu=cpu,
        ddp_backend="gloo" if cpu and int(os.environ.get("WORLD_SIZE", "1")) > 1 else None,
        ddp_find_unused_parameters=False,
        dataloader_num_workers=config.workers,
        dataloader_pin_memory=not cpu,
        eval_strategy="epoch",
        save_strategy=_save_strategy(config),
        save_steps=config.save_steps or 500,
        save_total_limit=None,  # we prune, after the manifest
        logging_strategy="steps" if config.logging_steps else "epoch",
        logging_steps=config.logging_steps or 500,
        logging_nan_inf_filter=False,
        metric_for_best_model=metric,
        greater_is_better=metric not in LESS,
        load_best_model_at_end=False,
        torch_compile=config.compile,
        fsdp=config.fsdp,
        fsdp_config={"version": 2} if config.fsdp else None,
        remove_unused_columns=False,
        label_names=["labels"],
        disable_tqdm=True,
        log_level="error",
        report_to=trackers(config),
    )
    args._n_gpu = min(args.n_gpu, 1)  # one process, one device: torchrun brings the others
    return args


def _save_strategy(config: TuneConfig) -> str:
    if not config.save_total_limit:
        return "no"
    return "steps" if config.save_steps else "epoch"


def check_device(config: TuneConfig) -> bool:
    """Whether the run is on the CPU.

    Raises:
        ConfigError: CUDA, sharding or float16 is asked for and cannot be had.
    """
    there = torch.cuda.is_available()
    if config.device == "cuda" and not there:
        raise ConfigError("option device: no CUDA device is usable here; give --device cpu")
    cpu = config.device == "cpu" or not there
    if cpu and config.fsdp:
        raise ConfigError(
            "option fsdp: sharding needs accelerators, and this would run on the CPU; leave it out"
        )
    if cpu and config.precision == "fp16":
        raise ConfigError("option precision: fp16 needs an accelerator; on the CPU give bf16")
    return cpu


def metric_name(config: TuneConfig, task: str) -> str:
    """The metric that chooses the best epoch.

    Raises:
        ConfigError: the task has no such metric.
    """
    known = METRICS[task]
    if config.eval_metric and config.eval_metric not in known:
        raise ConfigError(
            f"option eval_metric: {config.eval_metric!r} is not one of {', '.join(known)}, which "
            f"{task} data have"
        )
    return config.eval_metric or known[0]


def trackers(config: TuneConfig) -> list[str]:
    """The trackers to report to.

    Raises:
        ConfigError: unknown, or not installed.
    """
    names = [name.strip() for name in config.report_to.split(",") if name.strip()]
    names = [name for name in names if name != "none"]
    for name in names:
        if name not in TRACKERS:
            raise ConfigError(
                f"option report_to: {name!r} is not one of none, {', '.join(TRACKERS)}"
            )
        if importlib.util.find_spec(TRACKERS[name]) is None:
            raise ConfigError(f"option report_to: {name} is not installed: pip install {name}")
    return names
