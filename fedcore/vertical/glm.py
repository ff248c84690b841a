"""Generalised linear models over columns of several parties, without a third party.

    everyone       settings, keys, second moments                                     `glm_setup`, `glm_curvature`
    label holder   orders the next thing: a pass, a look at something, the end        `glm_holder`, `glm_orders`
    a pass         predictor, residual, gradient, all shared; a step on shares        `glm_pass`
    the end        each party gets the other share of its own weights                 `glm_looks`

Who learns what, besides its own weights at the end:

    label holder, first partner    second moments of all columns (`glm_curvature`); c and the momentum of the optimiser,
                                   which tell roughly the share of events, or the mean count
    everyone                       rows, numbers of columns, passes, whether the period of the mean function grew
    label holder                   the sum of sin^16 of the predictor (`links.far_series`), next to zero in range
    linear link                    the partners the power of two next to the largest label
    only where the job asks        `tolerance`: each party its own weights after each pass, the label holder the
                                   largest change of each party; `sign`: each party its own weights and slopes after
                                   each fit, the label holder and the first partner which weights are held at zero;
                                   `early_stop`: the label holder the loss on the test rows after each pass, the first
                                   partner whether it was the least so far;
                                   `p_values`: the label holder the information matrix, a partner its own variances

What follows from that: c gives the first partner the number of events with `class_weight`, and the mean with the Poisson
link. With the linear link second moments, own weights and labels are linear equations, from which a label holder with as
many columns as the partner solves the partner's weights. Over few rows moments could be solved for columns of few
values, and the information matrix for the prediction of each row: such are refused (`glm_setup.check_rows`).

Weights, predictors and residuals stay shared. Assumption: ring learning with errors; parties follow the protocol, and
label holder and partner do not put their shares together. Local truncation fails with a probability of at most 1e-5 for
a fit of 24,000 rows, 24 columns and 30 passes (`glm_curvature.failure`); weights are then far off, and a party that
gets such weights says so.

Linear models need one step, since P is then exact. The Poisson mean is bounded at e^4 times the mean of all rows.
Batches save work in a pass but end near the optimum and not at it.

Cost of a pass over 24,000 rows, 5 and 18 columns: 22 MB at the first period of the mean function, 61 MB at four times
that, which predictors of up to 44 in size need; most of it is `rows`. The second moments once: 12 MB.
Source: see `glm_pass` and `glm_curvature`.
"""

from fedcore.vertical.glm_fit import Fit, Watch
from fedcore.vertical.glm_holder import fit_label_holder
from fedcore.vertical.glm_partner import fit_partner

__all__ = ["Fit", "Watch", "fit_label_holder", "fit_partner"]
