"""A logistic regression of a few numbers: what the score of a slide and a first look are fitted by."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["weighted_logistic"]

Doubles = NDArray[np.float64]


def weighted_logistic(
    terms: Doubles, truth: NDArray[np.bool_], weight: Doubles, penalty: float, *, bounded: bool = False
) -> Doubles:
    """Minimise the weighted log loss and half the squared weights: one minimum, found from one place.

    Parameters
    ----------
    terms : (n, k) float64
        Standardised.
    truth : (n,) bool
        What is to be told.
    weight : (n,) float64
        Of each row in the loss.
    penalty : float
        Of the squared weights; above 0.
    bounded : bool
        Whether weights (not the intercept) are 0 or more.

    Returns
    -------
    (k + 1,) float64
        The weights, then the intercept.
    """
    from scipy.optimize import minimize  # noqa: PLC0415 - a fifth of a second, for fitting only

    sign = np.where(truth, 1.0, -1.0)

    def loss(values: Doubles) -> tuple[float, Doubles]:
        margin = sign * (terms @ values[:-1] + values[-1])
        pull = -weight * sign * np.exp(-np.logaddexp(0, margin))  # of each row on its own sum
        gradient = np.append(terms.T @ pull + penalty * values[:-1], pull.sum())
        return float(weight @ np.logaddexp(0, -margin) + penalty / 2 * values[:-1] @ values[:-1]), gradient

    bounds = [(0, None)] * terms.shape[1] + [(None, None)] if bounded else None
    return np.asarray(minimize(loss, np.zeros(terms.shape[1] + 1), jac=True, bounds=bounds, method="L-BFGS-B").x)
