"""Linear probe: the accuracy of logistic regression on frozen features.

As Alain and Bengio 2016 (arXiv 1610.01644) ask what a layer tells a linear classifier; solved to its optimum by
scikit-learn (L-BFGS) rather than by epochs of SGD, so it has one setting, C: the inverse strength of the L2 penalty.
C is searched for as Radford et al. 2021 (CLIP, arXiv 2103.00020, appendix A.3) do: seven values from 1e-6 to 1e6, then
the interval around the best one is halved until there are 8 steps a decade. n test images, m training images, D width.
"""

import importlib.util
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

MAX_ITERATIONS = 1000  # of L-BFGS; scikit-learn warns where they are not enough
FIRST_CS = (1e-6, 1e-4, 1e-2, 1.0, 1e2, 1e4, 1e6)
STEPS_PER_DECADE = 8


def linear_probe(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    c: float = 1.0,
) -> float:
    """Features (m, D) and (n, D), labels (m,) and (n,), on any device -> top-1 accuracy on the test images in percent.

    Arguments and errors are those of `fit`; a fit that did not come to its end is warned of.
    """
    classifier = fit(train_features, train_labels, c)
    if not classifier.converged:
        warnings.warn(unconverged(c), stacklevel=2)
    return classifier.top1(test_features, test_labels)


class LogisticRegression(NamedTuple):
    """A fitted classifier, which standardises features by the mean and deviation of those that it was fitted on."""

    pipeline: Any  # scikit-learn's
    c: float

    def predict(self, features: Tensor) -> Tensor:
        """Features (n, D) -> predicted labels int64 (n,), on the CPU. ValueError where they are not finite."""
        _check_finite(features)
        return torch.from_numpy(self.pipeline.predict(_array(features))).long()

    def top1(self, features: Tensor, labels: Tensor) -> float:
        """Features (n, D), labels (n,) -> accuracy in percent."""
        hits = self.predict(features) == labels.cpu()
        return 100 * hits.double().mean().item()

    def layer(self, classes: int) -> tuple[Tensor, Tensor]:
        """The same as a layer over features as they are: weight (classes, D) and bias (classes,), float32.

        A class that it was not fitted on gets zero weights and the lowest bias.
        """
        scaler, regression = self.pipeline[0], self.pipeline[-1]
        weight = torch.from_numpy(regression.coef_ / scaler.scale_)
        bias = torch.from_numpy(regression.intercept_) - weight @ torch.from_numpy(scaler.mean_)
        if len(weight) == 1:  # of two classes scikit-learn has the difference
            weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
        fitted = torch.from_numpy(regression.classes_)
        all_weights = weight.new_zeros(classes, weight.shape[1])
        all_biases = bias.min().repeat(classes)
        all_weights[fitted], all_biases[fitted] = weight, bias
        return all_weights.float(), all_biases.float()

    @property
    def converged(self) -> bool:
        """Whether L-BFGS came to its end before MAX_ITERATIONS."""
        return self.pipeline[-1].n_iter_.max() < MAX_ITERATIONS


def fit(features: Tensor, labels: Tensor, c: float = 1.0) -> LogisticRegression:
    """Features (m, D), labels (m,), on any device -> logistic regression with the inverse penalty c.

    ValueError where scikit-learn is missing, where c is not positive, where the images are of one class, and on
    features that are not finite.
    """
    check_installed()
    from sklearn import linear_model
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if c <= 0:
        raise ValueError(f"the linear probe's C must be positive, not {c}")
    if len(labels.unique()) < 2:
        raise ValueError("the linear probe needs training images of at least two classes")
    _check_finite(features)
    regression = linear_model.LogisticRegression(C=c, max_iter=MAX_ITERATIONS)
    pipeline = make_pipeline(StandardScaler(), regression)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # five lines; see `converged`
        pipeline.fit(_array(features), _array(labels))
    return LogisticRegression(pipeline, c)


class Sweep(NamedTuple):
    """Top-1 on the validation images in percent by C, ascending, and which fits did not come to their end."""

    top1: dict[float, float]
    unconverged: tuple[float, ...]

    @property
    def best(self) -> float:
        """The C of the highest accuracy; of equals the smallest, which has the strongest penalty."""
        return _best(self.top1)

    @property
    def at_edge(self) -> bool:
        """Whether a smaller or larger C than were tried might be better."""
        return len(self.top1) > 1 and self.best in (min(self.top1), max(self.top1))


def sweep(
    train: tuple[Tensor, Tensor],
    validation: tuple[Tensor, Tensor],
    cs: Sequence[float] = (),
    after_fit: Callable[[], None] = lambda: None,
) -> Sweep:
    """(features (m, D), labels (m,)) of both parts -> the accuracies of each C.

    cs: the values to try; none: the published search. after_fit is called after each. Errors are those of `fit`.
    """
    accuracies: dict[float, float] = {}
    stopped = []

    def measure(c: float) -> None:
        if c in accuracies:
            return
        classifier = fit(*train, c)
        accuracies[c] = classifier.top1(*validation)
        if not classifier.converged:
            stopped.append(c)
        after_fit()

    for c in cs or FIRST_CS:
        measure(c)
    if not cs:
        _halve(measure, accuracies)
    return Sweep(dict(sorted(accuracies.items())), tuple(sorted(stopped)))


def _halve(measure: Callable[[float], None], accuracies: dict[float, float]) -> None:
    """Measure halfway to both neighbours of the best, and again around the best of all."""
    lowest, highest = math.log10(FIRST_CS[0]), math.log10(FIRST_CS[-1])
    step = math.log10(FIRST_CS[1] / FIRST_CS[0])
    while step > 1.001 / STEPS_PER_DECADE:
        step /= 2
        middle = math.log10(_best(accuracies))
        for exponent in (middle - step, middle + step):
            if lowest <= exponent <= highest:
                measure(float(f"{10**exponent:.6g}"))


def _best(accuracies: dict[float, float]) -> float:
    return max(sorted(accuracies), key=accuracies.__getitem__)


def unconverged(*cs: float) -> str:
    """A line about fits that L-BFGS gave up."""
    values = ", ".join(f"{c:g}" for c in cs)
    return f"L-BFGS did not come to its end in {MAX_ITERATIONS} iterations at C {values}"


def fits_of_search() -> int:
    """How many fits the published search has at most."""
    halvings = math.log2(math.log10(FIRST_CS[1] / FIRST_CS[0]) * STEPS_PER_DECADE)
    return len(FIRST_CS) + 2 * round(halvings)


def _check_finite(features: Tensor) -> None:
    if not features.isfinite().all():
        raise ValueError("the features are not finite: no linear probe can be fitted")


def _array(values: Tensor) -> Any:
    return values.detach().cpu().numpy()


def check_installed() -> None:
    """ValueError where scikit-learn is missing: for callers who would compute features first."""
    if importlib.util.find_spec("sklearn") is None:
        raise ValueError("the linear probe needs scikit-learn: pip install scikit-learn")
