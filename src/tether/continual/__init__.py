"""Tasks one after another without their earlier data: recipes, metrics, ``tune --sequence``."""

from typing import TYPE_CHECKING

from tether.lazy import lazy_names

if TYPE_CHECKING:
    from tether.continual.classes import check_tasks as check_tasks
    from tether.continual.classes import grow_head as grow_head
    from tether.continual.metrics import average_accuracy as average_accuracy
    from tether.continual.metrics import forgetting as forgetting
    from tether.continual.metrics import forward_transfer as forward_transfer
    from tether.continual.metrics import global_forgetting as global_forgetting
    from tether.continual.metrics import local_forgetting as local_forgetting
    from tether.continual.outcome import SequenceResult as SequenceResult
    from tether.continual.recipe import Memory as Memory
    from tether.continual.recipe import consolidate as consolidate
    from tether.continual.recipe import methods_of_task as methods_of_task
    from tether.continual.train import Task as Task
    from tether.continual.train import train_sequence as train_sequence

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

if not TYPE_CHECKING:  # what a sequence is called is read where torch is not to be imported
    _HOME = {
        "check_tasks": "classes", "grow_head": "classes", "average_accuracy": "metrics",
        "forgetting": "metrics", "forward_transfer": "metrics", "global_forgetting": "metrics",
        "local_forgetting": "metrics", "SequenceResult": "outcome", "Memory": "recipe",
        "consolidate": "recipe", "methods_of_task": "recipe", "Task": "train",
        "train_sequence": "train",
    }  # fmt: skip
    __getattr__ = lazy_names(__name__, {k: f"{__name__}.{v}" for k, v in _HOME.items()})
