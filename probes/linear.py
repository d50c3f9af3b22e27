"""Linear probe: the accuracy of logistic regression on frozen features.

As Alain and Bengio 2016 (arXiv 1610.01644) ask what a layer tells a linear classifier; solved to its optimum by
scikit-learn (L-BFGS) rather than by epochs of SGD, so it has one setting. n test images, m training images, D width.
"""

import importlib.util

from torch import Tensor

MAX_ITERATIONS = 1000  # of L-BFGS; scikit-learn warns where they are not enough


def linear_probe(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    c: float = 1.0,
) -> float:
    """Features (m, D) and (n, D), labels (m,) and (n,), on any device -> top-1 accuracy on the test images in percent.

    Features are standardised by the mean and deviation of the training features. c is the inverse strength of the L2
    penalty: a larger one fits the training images closer. ValueError where scikit-learn is missing, where c is not
    positive, where the training images are of one class, and on features that are not finite or do not fit the labels.
    """
    check_installed()
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if c <= 0:
        raise ValueError(f"the linear probe's C must be positive, not {c}")
    if len(train_labels.unique()) < 2:
        raise ValueError("the linear probe needs training images of at least two classes")
    if not (train_features.isfinite().all() and test_features.isfinite().all()):
        raise ValueError("the features are not finite: no linear probe can be fitted")
    train, labels, test, true = (
        value.detach().cpu().numpy()
        for value in (train_features, train_labels, test_features, test_labels)
    )
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=MAX_ITERATIONS))
    return 100 * float(classifier.fit(train, labels).score(test, true))


def check_installed() -> None:
    """ValueError where scikit-learn is missing: for callers who would compute features first."""
    if importlib.util.find_spec("sklearn") is None:
        raise ValueError("the linear probe needs scikit-learn: pip install scikit-learn")
