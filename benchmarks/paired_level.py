"""Count how often the corrected test cries wolf under the very splits that the real study is held on.

    python benchmarks/paired_level.py [studies]

Two algorithms are equally good on average over all slides of the world, but not on any single slide: on slide s the
one is ahead by e_s, drawn anew for each simulated study. On the frozen splits of the real patches (19 slides, ten
repeats, the real numbers of patches of each slide) repeat r then shows the difference of the pooled accuracies over
its test slides. What the choice of the training slides does to the difference is drawn as well: every training slide
pulls it by t_s, over the number of training slides. Nothing is assumed about the correlation of the repeats: it comes
from the slides that they share. A test that keeps its word is significant in 5 of 100 studies.
"""

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from sentinode.data.manifest import read_manifest
from sentinode.data.splits import read_splits
from sentinode.evaluation.statistics import corrected_resampled_ttest
from sentinode.seeds import stream

ROOT = Path(__file__).parents[1]
SPLITS = Path(__file__).parent / "pcam" / "splits" / "patients.json"
LEVEL = 0.05
PULLS = (0.0, 1.0, 4.0)
"""Standard deviation of a training slide's pull, where that of a test slide's difference is 1."""


def main(n_studies: int) -> None:
    """Print the share of significant studies: plain test, corrected test by slides, corrected test by patches."""
    manifest = read_manifest(ROOT / "build" / "pcam" / "manifest.csv")
    _, splits = read_splits(SPLITS, manifest)
    slides = manifest.frame["slide_id"].to_numpy(str)
    known = np.unique(np.concatenate([slides[split.test] for split in splits]))
    tested = np.stack([_shares(slides[split.test], known) for split in splits])  # (repeats, slides)
    trained = np.stack([_shares(slides[split.train], known) > 0 for split in splits])
    trained = trained / trained.sum(axis=1, keepdims=True)
    by_slide = float(np.mean([(row > 0).sum() for row in tested]) / np.mean([(row > 0).sum() for row in trained]))
    by_patch = float(np.mean([len(split.test) / len(split.train) for split in splits]))
    print(
        f"{len(splits)} repeats, {len(known)} slides, test to training {by_slide:.3f} by slide, {by_patch:.3f} by patch"
    )
    print(f"{'pull of training':>18}{'plain t-test':>14}{'corrected, slides':>20}{'corrected, patches':>20}")
    for pull in PULLS:
        rng = stream(1, "paired level", str(pull))
        wolf = np.zeros(3)
        for _ in range(n_studies):
            ahead, pulled = rng.normal(size=len(known)), pull * rng.normal(size=len(known))
            differences = tested @ ahead + trained @ pulled
            p = [
                float(stats.ttest_1samp(differences, 0).pvalue),
                corrected_resampled_ttest(differences, by_slide).p,
                corrected_resampled_ttest(differences, by_patch).p,
            ]
            wolf += np.array(p) < LEVEL
        print(f"{pull:18.1f}" + "".join(f"{share:17.3f}" for share in wolf / n_studies))


def _shares(slides: NDArray[np.str_], known: NDArray[np.str_]) -> NDArray[np.float64]:
    counts = np.array([(slides == slide).sum() for slide in known], dtype=float)
    return counts / counts.sum()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
