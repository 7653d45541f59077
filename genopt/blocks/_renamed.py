"""Blocks that have a new name. For one release the old names still work, and warn."""

import warnings

__all__ = ['attribute', 'names']

names = {
    'debias3': 'debias_mom3', 'dual_sums': 'dual_averaging_sums', 'dual_rates': 'dual_averaging_weight', 'max_grad': 'decayed_max_grad',
    'look_ahead': 'extrapolate_grad', 'nesterov_debias': 'nadam_weights', 'rectify': 'rectification_term', 'warm_alpha': 'warmup_alpha',
    'warm_mom3': 'warmup_mom3', 'wait_a_step': 'skip_first_step', 'bounds': 'adabound_bounds',
    'adam_inside_step': 'adam_eps_root_step',
    'lazy': 'lazy_rows', 'sign': 'sign_grad', 'clip_value': 'clip_grad_value', 'clip_norm': 'clip_tensor_norm',
    'adaptive_clip': 'adaptive_grad_clip', 'normalize': 'normalize_grad', 'noise': 'add_noise', 'add_change': 'mars_correction',
    'cautious_decay': 'cautious_weight_decay', 'grams': 'grams_sign', 'clip_lr_rms': 'stable_adamw_lr',
    'relative_to_param': 'scale_by_param_rms', 'relative_lr': 'inverse_sqrt_lr', 'rectified': 'rectify_update',
    'trust_ratio': 'scale_by_trust_ratio', 'layer_ratio': 'lars_ratio', 'clip_layer_ratio': 'clip_lars_ratio',
    'scale_grad': 'scale_grad_by_lars', 'larc_ratio': 'scale_update_by_larc', 'decay_over_momentum': 'sgdp_decay',
    'project': 'adamp_projection',
    'shrink_back': 'fromage_rescale', 'average_p': 'polyak_average', 'average_weights': 'ema_weights', 'warmup': 'warmup_lr',
    'confident_step': 'came_step', 'cover_sqr_sum': 'sm3_sqr_sum', 'inner_eps_step': 'adagrad_eps_root_step',
    'scale_to_shape': 'scale_by_shape', 'linear_minimizer': 'linear_minimization_oracle', 'sum_grams': 'sum_shampoo_factors',
    'average_grams': 'average_shampoo_factors', 'root_grams': 'shampoo_inverse_roots', 'precondition': 'shampoo_precondition',
    'basis_first': 'soap_first_step', 'rotate': 'rotate_to_eigenbasis', 'rotate_back': 'rotate_from_eigenbasis',
    'turn_basis': 'update_eigenbasis', 'fit_often': 'psgd_update_schedule', 'probe': 'gaussian_probe',
    'balance_factors': 'psgd_balance_factors', 'fit_factors': 'psgd_update_factors', 'whiten': 'psgd_precondition',
    'travelled': 'distance_from_start', 'as_one': 'global_norms', 'adapted_rate': 'scale_lr_by_distance', 'debiased_rate': 'debias_lr',
    'grow': 'd_adapt_growth', 'grow_to_largest': 'prodigy_growth', 'scale_by_distance': 'scale_grad_by_distance',
    'scale_by_rate': 'scale_grad_by_lr', 'unit_rate': 'unit_lr', 'scaled_eps': 'scale_eps_by_distance',
    'sharpness': 'sharpness_aware'}

def attribute(module, name):
    "What `module` has in the place of the block whose old name is `name`. Raises `AttributeError` if there was no such block"
    new = names.get(name)
    if new not in vars(module): raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
    warnings.warn(f"the block {name} is now called {new}; the old name will go in the next release", DeprecationWarning, stacklevel=2)
    return vars(module)[new]
