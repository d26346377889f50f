"""How hard are the synthetic patches? AUC across patients of naive Bayes on colour and of the founding network.

A demo that colour alone solves shows nothing; one that no network learns within a minute shows nothing either. The
first three columns should stay at 0.70 or below, the last one should reach 0.90. Run from the repository:

    python benchmarks/phantom_difficulty.py --preset 10x --seeds 1 6
"""

import argparse
import time

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold
from sklearn.naive_bayes import GaussianNB

from sentinode.algorithms.descriptors import colour_moments, stain_statistics
from sentinode.algorithms.paper_cnn import PaperCNN
from sentinode.phantom.cohort import PRESETS, CohortPlan, draw_cohort
from sentinode.seeds import stream

#: 1 - stop - test: shares of patients, as in a study.
TEST, STOP = 0.25, 0.15

#: What the synthetic patches are to keep to.
MOST_BY_COLOUR, LEAST_BY_NETWORK = 0.70, 0.90


def _histograms(pixels: NDArray[np.uint8], bins: int = 16) -> NDArray[np.float64]:
    # The square roots of each patch's channel histograms.
    counts = [[np.histogram(channel, bins, (0, 256))[0] for channel in patch.reshape(-1, 3).T] for patch in pixels]
    return np.sqrt(np.array(counts).reshape(len(pixels), -1))


def _naive_bayes_auc(features: NDArray[np.floating], cancerous: NDArray[np.bool_], patient: NDArray[np.str_]) -> float:
    # The pooled AUC of four folds of patients.
    proba = np.zeros(len(features))
    for train, test in GroupKFold(4).split(features, cancerous, patient):
        proba[test] = GaussianNB().fit(features[train], cancerous[train]).predict_proba(features[test])[:, 1]
    return float(roc_auc_score(cancerous, proba))


def _network_auc(
    pixels: NDArray[np.uint8], label: NDArray[np.str_], patient: NDArray[np.str_], settings: dict[str, object]
) -> tuple[float, float]:
    # AUC on the test patients and seconds of training.
    patients = stream(1, "phantom-difficulty").permutation(np.unique(patient))
    n_test, n_stop = round(TEST * len(patients)), max(1, round(STOP * len(patients)))
    test = np.isin(patient, patients[:n_test])
    stop = np.isin(patient, patients[n_test : n_test + n_stop])
    train = ~test & ~stop
    started = time.perf_counter()
    network = PaperCNN(seed=1, **settings).fit(pixels[train], label[train], stop=(pixels[stop], label[stop]))
    seconds = time.perf_counter() - started
    proba = network.predict_proba(pixels[test])[:, list(network.classes_).index("cancerous")]
    return float(roc_auc_score(label[test] == "cancerous", proba)), seconds


def main() -> None:
    """Print a line a seed.

    Raises
    ------
    SystemExit
        At the end, where colour alone was too good or the network not good enough.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=list(PRESETS), default="10x")
    parser.add_argument("--patients", type=int, default=16)
    parser.add_argument("--patches", type=int, default=30)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--augment", default="none", help="none or orientations, as in paper-cnn")
    chosen = parser.parse_args()
    settings = {name: getattr(chosen, name) for name in ("epochs", "learning_rate", "batch_size", "augment")}
    missed = []
    print("seed  patches/s  moments  stains  histogram  paper-cnn  seconds")
    for seed in chosen.seeds:
        plan = CohortPlan(patients=chosen.patients, patches=chosen.patches, preset=chosen.preset, seed=seed)
        started = time.process_time()
        patches = list(draw_cohort(plan))
        rate = len(patches) / (time.process_time() - started)
        pixels = np.stack([patch.pixels for patch in patches])
        label = np.array([patch.label for patch in patches])
        patient = np.array([patch.patient_id for patch in patches])
        colour = [
            _naive_bayes_auc(features, label == "cancerous", patient)
            for features in (colour_moments(pixels), stain_statistics(pixels), _histograms(pixels))
        ]
        auc, seconds = _network_auc(pixels, label, patient, settings)
        print(
            f"{seed:4d}  {rate:9.0f}  {colour[0]:7.3f}  {colour[1]:6.3f}  {colour[2]:9.3f}  {auc:9.3f}  {seconds:7.0f}"
        )
        if max(colour) > MOST_BY_COLOUR or auc < LEAST_BY_NETWORK:
            missed.append(str(seed))
    if missed:
        raise SystemExit(f"seed {', '.join(missed)}: not as hard as it should be, or harder")


if __name__ == "__main__":
    main()
