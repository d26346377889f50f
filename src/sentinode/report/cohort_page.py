"""The page of all slides of a run, the most suspicious first, with what failed and why."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sentinode._version import __version__
from sentinode.models.bundle import BundleFacts
from sentinode.report.page import Link, Page, Section, TextTable, write_page

__all__ = ["write_cohort_page"]

OF_PATCHES = "The promise of this model is one about patches. It is not applied to slides: none is called clear."


def write_cohort_page(
    results: Sequence[Mapping[str, Any]], failures: Mapping[str, str], facts: BundleFacts, path: Path
) -> None:
    """Write the page.

    Parameters
    ----------
    results : sequence of mapping
        ``result.json`` of each slide, the most suspicious first.
    failures : mapping of str to str
        File -> why it has no result.
    facts : BundleFacts
        The model.
    path : Path
        Of the ``.html``; the slides' folders lie beside it.

    Raises
    ------
    ExportError
        If it cannot be written.
    """
    # ExportError is write_page's.
    n_suspicious = sum(one["regions"] > 0 and one["score"] is not None for one in results)
    n_refused = sum(one["score"] is None for one in results)
    lead = f"{n_suspicious} suspicious of {facts.positive}, {n_refused} refused, {len(failures)} failed."
    of_patches = bool(facts.promises) and all(one.unit == "patches" for one in facts.promises)
    page = Page(
        title=f"{len(results) + len(failures)} slides",
        lead=lead,
        badges=(
            "research use only",
            f"model {facts.algorithm}",
            *(("trained on synthetic images",) if facts.data.synthetic else ()),
        ),
        notes=(facts.intended_use, *(() if not of_patches else (OF_PATCHES,))),
        sections=(_slides(results, facts.positive), *(() if not failures else (_failures(failures),))),
        footer=(("Sentinode", __version__),),
    )
    write_page(page, path)


def _slides(results: Sequence[Mapping[str, Any]], positive: str) -> Section:
    promised = any(one.get("triage") for one in results)
    rows = tuple(
        (
            Link(str(one["slide_id"]), f"{one['slide_id']}/report.html"),
            f"{one['verdict']} (but see the warning on its page)" if one["warnings"] else str(one["verdict"]),
            *((str((one.get("triage") or {}).get("verdict", "")),) if promised else ()),
            "" if one["score"] is None else f"{one['score']:.3f}",
            f"{one['regions']}",
            f"{one['suspicious_mm2']:.3f}",
            f"{one['recognised']:,} of {one['tiles']:,}",
            f"{one['mpp']:.4g} ({one['mpp_source']})",
        )
        for one in results
    )
    header = (
        "slide",
        "verdict",
        *(("triage",) if promised else ()),
        f"score for {positive}",
        "regions",
        "suspicious, mm²",
        "tiles recognised",
        "um a pixel",
    )
    words = "; ".join(sorted({one["triage"]["words"] for one in results if one.get("triage")}))
    return Section("Slides, the most suspicious first", words, tables=(TextTable(header, rows),))


def _failures(failures: Mapping[str, str]) -> Section:
    rows = tuple((name, reason) for name, reason in failures.items())
    return Section("Without a result", tables=(TextTable(("file", "why, and what to do"), rows),))
