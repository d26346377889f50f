"""Count how often the intervals over patients hold the truth when patients are few.

    python benchmarks/interval_coverage.py [patients] [studies]

Draws cohorts like the real patches (unequal sizes, patients of one class only, a bias and a separation of their own for
each patient), predictions as a classifier would make them, ten repeats of a quarter of the patients, and compares the
plain percentile interval with the one that `bootstrap_patients` gives. The truth is the metric over 5,000 patients.
The numbers in docs/statistics.md come from here.
"""

import sys

import numpy as np
from numpy.typing import NDArray

from sentinode.evaluation.bootstrap import (
    RepeatPredictions,
    Statistic,
    _compile,
    _mean_where_defined,
    bootstrap_patients,
    draw_patients,
)
from sentinode.evaluation.metrics import auc
from sentinode.seeds import stream

METRICS = ("accuracy", "balanced_accuracy", "sensitivity", "auc", "log_loss")
ONE_CLASS = 0.3
REPEATS = 10


def _draw_patient(rng: np.random.Generator) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    # 5 to 200 patches; three patients in ten have one class only.
    n = int(np.clip(rng.lognormal(3.5, 0.8), 5, 200))
    share = rng.integers(2) if rng.random() < ONE_CLASS else rng.beta(2, 2)
    positive = rng.random(n) < share
    logit = -1 + rng.normal(0, 0.8) + rng.normal(2.0, 0.7) * positive + rng.normal(size=n)
    return positive, 1 / (1 + np.exp(-logit))


def _part(
    patients: list[tuple[NDArray[np.bool_], NDArray[np.float64]]], chosen: NDArray[np.int64]
) -> RepeatPredictions:
    return RepeatPredictions(
        np.concatenate([patients[i][0] for i in chosen]),
        np.concatenate([patients[i][1] for i in chosen]),
        np.repeat([f"p{i:05d}" for i in chosen], [len(patients[i][0]) for i in chosen]),
    )


def _true_values() -> dict[Statistic, float]:
    rng = stream(0, "population")
    population = [_draw_patient(rng) for _ in range(5000)]
    everyone = _part(population, np.arange(len(population)))
    # Pairs of 5,000 patients would not fit; equal blocks of patients have the same mean for all but the pooled AUC.
    blocks = [_part(population, np.arange(i, i + 500)) for i in range(0, 5000, 500)]
    values = {statistic: found.mean for statistic, found in bootstrap_patients(blocks, METRICS, n=2).items()}
    values[Statistic("auc", "pooled")] = auc(everyone.positive, everyone.proba)
    return values


def main(n_patients: int, n_studies: int) -> None:
    """Print the coverage and mean width of both intervals for every statistic."""
    truth = _true_values()
    held: dict[Statistic, list[tuple[float, ...]]] = {statistic: [] for statistic in truth}
    for study in range(n_studies):
        rng = stream(1, "coverage", n_patients, study)
        patients = [_draw_patient(rng) for _ in range(n_patients)]
        n_test = max(2, n_patients // 4)
        repeats = [_part(patients, rng.choice(n_patients, n_test, replace=False)) for _ in range(REPEATS)]
        for statistic, interval in bootstrap_patients(repeats, METRICS, n=1000, seed=study).items():
            plain = _plain_percentiles(repeats, statistic, study)
            held[statistic].append((
                plain[0] <= truth[statistic] <= plain[1],
                plain[1] - plain[0],
                interval.low <= truth[statistic] <= interval.high,
                interval.high - interval.low,
            ))
    print(f"{n_patients} patients, {n_studies} studies, nominal 95 %")
    print(f"{'':30}{'percentile':>20}{'bootstrap_patients':>22}")
    for statistic, rows in held.items():
        plain_held, plain_width, held_share, width = np.nanmean(rows, axis=0)
        print(
            f"{statistic.metric + ' ' + statistic.average:30}"
            f"{plain_held:12.3f} ({plain_width:.3f}){held_share:14.3f} ({width:.3f})"
        )


def _plain_percentiles(repeats: list[RepeatPredictions], statistic: Statistic, seed: int) -> NDArray[np.float64]:
    # The same replicates, without the widening.
    ids, draws = draw_patients([np.asarray(repeat.patient) for repeat in repeats], 1000, seed)
    compiled = _compile(repeats, ids, (statistic.metric,))[statistic]
    replicates = _mean_where_defined(np.stack([quotient(draws) for quotient in compiled]))[1:]
    return np.nanpercentile(replicates, [2.5, 97.5])


if __name__ == "__main__":
    main(*(int(argument) for argument in (sys.argv[1:] + ["19", "500"][len(sys.argv) - 1 :])))
