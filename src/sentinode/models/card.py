"""The model card: what a model is, what it rests on, how good it was found, and where that ends; for a person.

The headings follow Mitchell et al. 2019, "Model cards for model reporting", FAT*; the front matter is the one that
model hubs read (Hugging Face: ``library_name``, ``pipeline_tag``, ``model-index``). All comes from ``bundle.json``.
"""

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sentinode.models.bundle import BundleFacts, CalibrationFacts, Int8Facts, Value

__all__ = ["model_card"]

NAMES: Mapping[str, str] = {
    "auc": "AUC",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "sensitivity": "sensitivity at 0.5",
    "specificity": "specificity at 0.5",
    "log_loss": "log loss",
    "brier": "Brier score",
    "ece": "calibration error (ECE)",
}
HUB_TYPES: Mapping[str, str] = {"auc": "roc_auc", "accuracy": "accuracy", "brier": "brier_score"}
"""Metric -> what model hubs call it."""

ROLES: Mapping[str, str] = {
    "train": "trained on",
    "stop": "decided when the training stopped",
    "calibrate": "calibrated on",
    "certify": "certified the triage",
    "test": "measured on, and nothing else",
}


def model_card(facts: "BundleFacts") -> str:
    """Describe a model for a person, with the front matter that model hubs read.

    Parameters
    ----------
    facts : BundleFacts
        What it is.

    Returns
    -------
    str
        Markdown.
    """
    parts = (
        _front_matter(facts),
        [f"# {facts.algorithm}: {', '.join(facts.classes[:-1])} or {facts.positive}", "", f"**{facts.intended_use}**"],
        ["## What it takes and gives", "", *_takes(facts)],
        ["## Data and protocol", "", *_data(facts)],
        ["## Performance", "", *_performance(facts.metrics)],
        *(() if not facts.by_site else (["### By site", "", *_by_site(facts)],)),
        ["## Calibration", "", *_calibration(facts.calibration)],
        ["## Triage", "", *_triage(facts)],
        *(() if facts.int8 is None else (["## In int8", "", *_int8(facts.int8)],)),
        ["## Known limits", "", *_limits(facts)],
        ["## How it was made", "", *_made(facts)],
    )
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def _front_matter(facts: "BundleFacts") -> list[str]:
    data = facts.data
    results = [
        {"type": HUB_TYPES.get(name, name), "name": NAMES.get(name, name), "value": one.value}
        for name, one in facts.metrics.items()
        if one.value is not None
    ]
    known: dict[str, Any] = {
        "library_name": "sentinode",
        "pipeline_tag": "image-classification",
        "tags": ["histology", "pathology", "vision", *(["synthetic"] if data.synthetic else [])],
        "license": "other",
        "license_name": "not-chosen",
    }
    if results:
        source = {"name": data.source or "not stated", "type": "private"}
        result = {"task": {"type": "image-classification"}, "dataset": source, "metrics": results}
        known["model-index"] = [{"name": facts.algorithm, "results": [result]}]
    # A value of YAML may be written as JSON: nothing in a source or a class can then be taken for a key.
    return ["---", *(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in known.items()), "---"]


def _takes(facts: "BundleFacts") -> Iterable[str]:
    tile = facts.tile
    mpp = "an unknown resolution" if tile.mpp is None else f"{tile.mpp:g} um a pixel ({tile.mpp_source})"
    if tile.height == 1:
        yield f"Features of {tile.width} numbers in, the probabilities of {_listed(facts.classes)} out."
        return
    classes = _listed(facts.classes)
    if facts.encoder is not None:
        yield (
            f"A head on the features of `{facts.encoder.file}` ({facts.encoder.size} px at {facts.encoder.mpp:g} um), "
            f"which is not part of this model: SHA-256 with what is stated of it `{facts.encoder.digest}`."
        )
        yield ""
    yield f"Tiles of {tile.width} x {tile.height} px, RGB, at {mpp} in; the probabilities of {classes} out."


def _data(facts: "BundleFacts") -> Iterable[str]:
    data = facts.data
    if data.synthetic:
        yield from ("**Synthetic images: what follows says nothing about tissue.**", "")
    yield from (f"{data.source or 'No source stated'}; {data.licence or 'no licence stated'}.", "")
    yield from ("| part | images | patients | |", "|---|---|---|---|")
    for role, n in data.n_images.items():
        if n:
            yield f"| {role} | {n:,} | {data.n_patients.get(role, 0):,} | {ROLES.get(role, '')} |"
    yield ""
    yield "Every patient (slide, where that is all that is known) has one part; images that share tissue stay together."
    if data.unknown == "train":
        yield "Images of unknown patients were trained on: **that some are of tested patients cannot be excluded.**"
    else:
        yield "Images of unknown patients were left out."
    yield f"Digests: manifest `{data.manifest[:16]}`, split `{data.split[:16]}`."


def _performance(metrics: "Mapping[str, Value]") -> Iterable[str]:
    if not metrics:
        return ["Not known: no patients were kept for a test. Measure it with `sentinode evaluate`."]
    rows = [f"| {NAMES.get(name, name)} | {_number(one)} | {_interval(one)} |" for name, one in metrics.items()]
    head = "On the test patients, which nothing was chosen on; image by image:"
    return [head, "", "| | | 95 % over patients |", "|---|---|---|", *rows]


def _by_site(facts: "BundleFacts") -> Iterable[str]:
    names = [
        name
        for name in ("auc", "sensitivity", "specificity", "ece")
        if all(name in one for one in facts.by_site.values())
    ]
    yield f"| site | patients | {' | '.join(NAMES[name] for name in names)} |"
    yield f"|---|---|{'---|' * len(names)}"
    for site, found in facts.by_site.items():
        cells = " | ".join(f"{_number(found[name])} ({_interval(found[name])})" for name in names)
        n = found["patients"].value
        yield f"| {_plain(site)} | {0 if n is None else int(n)} | {cells} |"


def _calibration(facts: "CalibrationFacts | None") -> Iterable[str]:
    if facts is None:
        return ["None: a probability of 0.8 need not come true four times in five. Train with `--calibrate` for one."]
    losses = ", ".join(f"{name} {loss:.3f}" for name, loss in facts.losses.items())
    on = f"{facts.n_patients} patients ({facts.n_images:,} images) of their own"
    lines = [f"{facts.method}, fitted on {on}; chosen by the log loss on patients held out: {losses}."]
    if "ece" in facts.before and "ece" in facts.after:
        lines += ["", "| on the test patients | before | after | 95 % over patients |", "|---|---|---|---|"]
        for name, label in (
            ("ece", "expected calibration error"),
            ("rms_corrected", "the same, squared, bias taken off"),
        ):
            after = facts.after[name]
            lines.append(f"| {label} | {_number(facts.before[name])} | {_number(after)} | {_interval(after)} |")
    return lines


def _triage(facts: "BundleFacts") -> Iterable[str]:
    if not facts.promises:
        return ["Nothing is promised of what scores low. Train with `--certify` for a promise."]
    return [f"- *{one.kind}*: {one.promise.in_words()}" for one in facts.promises]


def _int8(facts: "Int8Facts") -> Iterable[str]:
    yield f"Refused: {facts.refusal}." if facts.refusal else "Offered: `sentinode predict --precision int8`."
    if facts.mean_change is None or facts.largest_change is None:
        return
    yield ""
    lost = "unknown" if facts.auc_loss is None else f"{facts.auc_loss:.4f}"
    limit = "unknown" if facts.auc_loss_limit is None else f"at most {facts.auc_loss_limit:.4f}"
    yield (
        f"Against float32, on the {facts.n_patients} patients ({facts.n_images:,} images) of the calibrate part: the "
        f"log odds move by {facts.mean_change:.3f} on average and {facts.largest_change:.3f} at most; AUC lost {lost}, "
        f"{limit} (one-sided 95 % over patients)."
    )


def _limits(facts: "BundleFacts") -> Iterable[str]:
    data = facts.data
    n_test, n_train = data.n_patients.get("test", 0), data.n_patients.get("train", 0)
    yield f"- It has seen {n_train} patients. Another organ, stain, scanner or resolution: evaluate it there first."
    if n_test:
        yield f"- Its numbers rest on {n_test} patients; the intervals say what that is worth, and are a little short."
    yield "- The numbers are of single images. The score of a slide is the mean of five tiles, and is no probability."
    if len(facts.by_site) < 2:
        yield "- How it does from site to site is not known: one site, or nobody wrote down which."
    if facts.tile.mpp is None and facts.tile.height > 1:
        yield "- It cannot recognise slides: at which resolution it was trained is unknown."


def _made(facts: "BundleFacts") -> Iterable[str]:
    settings = ", ".join(f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in facts.settings.items())
    yield f"`{facts.algorithm}`, seed {facts.seed}{'; ' + _plain(settings) if settings else ''}."
    if "seconds" in facts.training:
        yield f"Trained in {facts.training['seconds']:,.0f} seconds."
    yield ""
    yield f"Versions: {', '.join(f'{name} {version}' for name, version in facts.versions.items())}."


def _listed(classes: Iterable[str]) -> str:
    return ", ".join(_plain(name) for name in classes)


def _plain(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ")


def _number(one: "Value") -> str:
    return "n/a" if one.value is None else f"{one.value:.3f}"


def _interval(one: "Value") -> str:
    return "n/a" if one.low is None or one.high is None else f"{one.low:.3f} to {one.high:.3f}"
