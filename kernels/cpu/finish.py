"""What follows a product's sums."""

from numba import njit


@njit(error_model="numpy")
def finish(y, scale, bias):
    """Scale of a quantised weight, and bias; of one row's outputs. Either may be empty: none."""
    if scale.shape[0] > 0:
        for i in range(y.shape[0]):
            y[i] *= scale[i]
    if bias.shape[0] > 0:
        for i in range(y.shape[0]):
            y[i] += bias[i]
