"""Real tables that scikit-learn brings along."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_bp.datasets.samples import XY, Table


def digits() -> XY:
    """1,797 handwritten digits of 8 x 8 pixels (Alpaydin & Kaynak 1998).

    Returns:
        x of shape (1797, 64), float64 in [0, 1], row by row; and y of shape (1797,), 0 ... 9.

    Raises:
        ImportError: scikit-learn is not installed; it comes with the extra `data`.
    """
    images, labels = _sklearn().load_digits(return_X_y=True)
    return XY(images / 16.0, labels.astype(np.int64))


def iris() -> Table:
    """150 flowers of three species, by four lengths in cm (Fisher 1936).

    Returns:
        x of shape (150, 4), float64; and y of shape (150,), 0 ... 2.

    Raises:
        ImportError: scikit-learn is not installed; it comes with the extra `data`.
    """
    return _table(_sklearn().load_iris())


def breast_cancer() -> Table:
    """569 tumours, malignant (0) or benign (1), by thirty measurements (Wolberg et al. 1995).

    The measurements are as they were taken, and of very different sizes.

    Returns:
        x of shape (569, 30), float64; and y of shape (569,), 0 or 1.

    Raises:
        ImportError: scikit-learn is not installed; it comes with the extra `data`.
    """
    return _table(_sklearn().load_breast_cancer())


def _table(bunch: Any) -> Table:
    names, classes = map(str, bunch.feature_names), map(str, bunch.target_names)
    return Table(bunch.data, bunch.target.astype(np.int64), tuple(names), tuple(classes))


def _sklearn() -> Any:
    try:
        import sklearn.datasets
    except ImportError:
        raise ImportError(
            "these data come with scikit-learn: pip install 'tinygrad_bp[data]'"
        ) from None
    return sklearn.datasets
