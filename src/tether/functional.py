"""The formulas behind the methods, as pure functions of tensors."""

from __future__ import annotations

from tether.methods.features.adarand_losses import adarand_feature_loss, adarand_prior_loss
from tether.methods.features.alignment import alignment_loss
from tether.methods.features.bss import batch_spectral_shrinkage
from tether.methods.features.calibration import procrustes_rotation, semantic_calibration
from tether.methods.features.channel_weights import attention_weights
from tether.methods.features.class_moments import class_feature_statistics
from tether.methods.features.class_relationship import class_relationship
from tether.methods.features.conr_losses import conr_loss, label_density_weights
from tether.methods.features.contrast import class_contrast, projected_contrast
from tether.methods.features.feature_maps import feature_map_distances
from tether.methods.features.feature_norm import feature_norm_penalty
from tether.methods.features.feature_proximity import feature_proximity_loss
from tether.methods.features.random_regression import random_feature_regression
from tether.methods.features.self_distillation import hidden_state_distillation
from tether.methods.features.sgm import sgm_penalty
from tether.methods.features.sphere import (
    brownian_diffusion_loss,
    multi_view_centroid_loss,
    spectral_dispersion_loss,
)
from tether.methods.gradients.head_curvature import (
    head_gradient,
    head_hessian_diag,
    head_hessian_gradient_product,
    hessian_alignment_penalty,
)
from tether.methods.gradients.orthogonal import orthogonalize_gradients_
from tether.methods.gradients.stablemax import log_stablemax, stablemax, stablemax_cross_entropy
from tether.methods.inputs.abnormal import abnormal_adversarial_penalty
from tether.methods.inputs.decoupled_losses import decoupled_mixup_loss
from tether.methods.inputs.mixed_batches import cutmix, mixup, mixup_cross_entropy
from tether.methods.inputs.noise_masks import beta_mask
from tether.methods.inputs.policy_formulas import intrusion_loss, policy_interval, sample_ratio
from tether.methods.layers.multi_sample_dropout import multi_sample_loss
from tether.methods.layers.stochastic_norm import stochastic_norm
from tether.methods.layers.truncation import nested_accuracy_curve, nested_dropout
from tether.methods.matching import distillation_divergence
from tether.methods.targets.confidence_reweighting import (
    confidence_weighted_loss,
    confidence_weights,
)
from tether.methods.targets.elr import elr_penalty, update_running_targets_
from tether.methods.targets.incremental_bce import incremental_losses
from tether.methods.targets.prediction_distillation import prediction_distillation_losses
from tether.methods.targets.ps_kd import blend_targets
from tether.methods.targets.random_networks import (
    distillation_cross_entropy,
    interpolate_init_,
    neighborhood_init_,
    random_teacher,
)
from tether.methods.targets.self_label_correction import correct_labels
from tether.methods.targets.small_loss import small_loss_selection
from tether.methods.weights.anchors import negative_direction, repulsion_penalty
from tether.methods.weights.averaging import ema_share, ema_update_, interpolate, uniform_soup
from tether.methods.weights.compander import compand, expand_inverse
from tether.methods.weights.envelope import group_envelope
from tether.methods.weights.ewc_fisher import accumulate_fisher
from tether.methods.weights.fisher import diagonal_fisher
from tether.methods.weights.gg_prior import (
    deepshape_,
    estimate_gg_shape,
    gg_normal_,
    rf8_quantize,
)
from tether.methods.weights.projections import (
    mars_norm,
    project_ball,
    project_batch_norm,
    project_frobenius,
    project_mars,
)
from tether.methods.weights.prune_masks import gamma_prune_mask, vote_coupled_masks
from tether.methods.weights.radii import radii_from_distances
from tether.methods.weights.start_penalty import start_penalty

__all__ = [
    "abnormal_adversarial_penalty",
    "accumulate_fisher",
    "adarand_feature_loss",
    "adarand_prior_loss",
    "alignment_loss",
    "attention_weights",
    "batch_spectral_shrinkage",
    "beta_mask",
    "blend_targets",
    "brownian_diffusion_loss",
    "class_contrast",
    "class_feature_statistics",
    "class_relationship",
    "compand",
    "confidence_weighted_loss",
    "confidence_weights",
    "conr_loss",
    "correct_labels",
    "cutmix",
    "decoupled_mixup_loss",
    "deepshape_",
    "diagonal_fisher",
    "distillation_cross_entropy",
    "distillation_divergence",
    "elr_penalty",
    "ema_share",
    "ema_update_",
    "estimate_gg_shape",
    "expand_inverse",
    "feature_map_distances",
    "feature_norm_penalty",
    "feature_proximity_loss",
    "gamma_prune_mask",
    "gg_normal_",
    "group_envelope",
    "head_gradient",
    "head_hessian_diag",
    "head_hessian_gradient_product",
    "hessian_alignment_penalty",
    "hidden_state_distillation",
    "incremental_losses",
    "interpolate",
    "interpolate_init_",
    "intrusion_loss",
    "label_density_weights",
    "log_stablemax",
    "mars_norm",
    "mixup",
    "mixup_cross_entropy",
    "multi_sample_loss",
    "multi_view_centroid_loss",
    "negative_direction",
    "neighborhood_init_",
    "nested_accuracy_curve",
    "nested_dropout",
    "orthogonalize_gradients_",
    "policy_interval",
    "prediction_distillation_losses",
    "procrustes_rotation",
    "project_ball",
    "project_batch_norm",
    "project_frobenius",
    "project_mars",
    "projected_contrast",
    "radii_from_distances",
    "random_feature_regression",
    "random_teacher",
    "repulsion_penalty",
    "rf8_quantize",
    "sample_ratio",
    "semantic_calibration",
    "sgm_penalty",
    "small_loss_selection",
    "spectral_dispersion_loss",
    "stablemax",
    "stablemax_cross_entropy",
    "start_penalty",
    "stochastic_norm",
    "uniform_soup",
    "update_running_targets_",
    "vote_coupled_masks",
]
