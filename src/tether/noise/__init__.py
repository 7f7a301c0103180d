"""Label-noise protocols: exact definitions, stated rates, the same labels for a seed anywhere."""

from tether.noise.asymmetric import (
    CIFAR10_FLIPS,
    CIFAR100_SUPERCLASSES,
    asymmetric_noise,
    block_mapping,
    cifar100_superclass_labels,
    pair_noise,
)
from tether.noise.auxiliary import auxiliary_noise
from tether.noise.base import NoisyLabels, transition_matrix
from tether.noise.dataset import NoisyDataset
from tether.noise.human import load_cifar_n
from tether.noise.instance import instance_noise
from tether.noise.matrix import matrix_noise
from tether.noise.multilabel import multilabel_noise
from tether.noise.parse import NOISE_NAMES, parse_noise
from tether.noise.symmetric import class_agnostic_noise, symmetric_noise

__all__ = [
    "CIFAR10_FLIPS",
    "CIFAR100_SUPERCLASSES",
    "NOISE_NAMES",
    "NoisyDataset",
    "NoisyLabels",
    "asymmetric_noise",
    "auxiliary_noise",
    "block_mapping",
    "cifar100_superclass_labels",
    "class_agnostic_noise",
    "instance_noise",
    "load_cifar_n",
    "matrix_noise",
    "multilabel_noise",
    "pair_noise",
    "parse_noise",
    "symmetric_noise",
    "transition_matrix",
]
