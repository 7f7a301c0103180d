"""Load models with a head for the data, save them so that others can load them, and describe them.

:func:`load_model` reads models of timm, transformers, torchvision and of this package;
``LoadedModel.save`` writes a folder that loads without tether; :func:`load_exported` and
:func:`predict` read it again.
"""

from tether.models.export import load_exported
from tether.models.freeze import FreezeReport, freeze
from tether.models.groups import parameter_groups
from tether.models.load import load_model
from tether.models.predict import predict, write_predictions
from tether.models.spec import ImagePreprocess, KeyReport, LoadedModel

__all__ = [
    "FreezeReport",
    "ImagePreprocess",
    "KeyReport",
    "LoadedModel",
    "freeze",
    "load_exported",
    "load_model",
    "parameter_groups",
    "predict",
    "write_predictions",
]
