"""The page of all slides says what a promise is about."""

import pytest

from sentinode.models.bundle import BundleFacts, DataFacts, PromiseFacts, TileFacts
from sentinode.report.cohort_page import OF_PATCHES, write_cohort_page


def facts(unit):
    promise = PromiseFacts(kind="average", unit=unit, alpha=0.1, delta=None, threshold=0.2, n_patients=20, misses=1)
    return BundleFacts(
        algorithm="paper-cnn",
        settings={},
        seed=1,
        classes=("normal", "tumour"),
        columns=("normal", "tumour"),
        tile=TileFacts(height=96, width=96, mpp=1.0),
        data=DataFacts(manifest="", split="", n_images={}, n_patients={}),
        versions={},
        promises=(promise,),
    )


@pytest.mark.parametrize(("unit", "told"), [("patches", True), ("slides", False)])
def test_a_promise_about_patches_is_not_applied_to_slides_and_says_so(tmp_path, unit, told):
    write_cohort_page((), {}, facts(unit), tmp_path / "index.html")
    assert (OF_PATCHES in (tmp_path / "index.html").read_text()) is told
