"""Tasks one after another without their earlier data: recipes, metrics, ``tune --sequence``."""

from tether.continual.classes import check_tasks, grow_head
from tether.continual.metrics import (
    average_accuracy,
    forgetting,
    forward_transfer,
    global_forgetting,
    local_forgetting,
)
from tether.continual.outcome import SequenceResult
from tether.continual.recipe import Memory, consolidate, methods_of_task
from tether.continual.train import Task, train_sequence

__all__ = [
    "Memory",
    "SequenceResult",
    "Task",
    "average_accuracy",
    "check_tasks",
    "consolidate",
    "forgetting",
    "forward_transfer",
    "global_forgetting",
    "grow_head",
    "local_forgetting",
    "methods_of_task",
    "train_sequence",
]
