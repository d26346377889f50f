"""The model card says what is known of a model, and what is not."""

import json

import pytest

from sentinode.models.bundle import (
    BundleFacts,
    CalibrationFacts,
    DataFacts,
    PromiseFacts,
    TileFacts,
    Value,
)
from sentinode.models.card import model_card

AUC = Value(value=0.912, low=0.85, high=0.95)


def facts(**changes):
    known = {
        "algorithm": "paper-cnn",
        "settings": {"epochs": 30},
        "seed": 1,
        "classes": ("normal", "tumour"),
        "columns": ("normal", "tumour"),
        "tile": TileFacts(height=96, width=96, mpp=1.0, mpp_source="manifest"),
        "data": DataFacts(
            manifest="a" * 64,
            split="b" * 64,
            n_images={"train": 500, "stop": 0, "test": 200},
            n_patients={"train": 12, "test": 5},
            source="Our own slides",
        ),
        "versions": {"sentinode": "0.1", "python": "3.11"},
        "metrics": {"auc": AUC, "sensitivity": Value(value=None)},
    }
    return BundleFacts(**(known | changes))


def front_matter(card):
    _, head, _ = card.split("---\n", 2)
    return {key: json.loads(value) for key, value in (line.split(": ", 1) for line in head.splitlines())}


def test_the_front_matter_is_what_model_hubs_read():
    known = front_matter(model_card(facts()))
    assert (known["library_name"], known["pipeline_tag"]) == ("sentinode", "image-classification")
    (result,) = known["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "roc_auc", "name": "AUC", "value": 0.912}]
    assert result["dataset"]["name"] == "Our own slides"


def test_the_front_matter_is_yaml():
    yaml = pytest.importorskip("yaml")
    data = facts().data.model_copy(update={"source": 'slides: "ours", # not theirs'})
    card = model_card(facts(data=data))
    known = yaml.safe_load(card.split("---\n", 2)[1])
    assert known["model-index"][0]["results"][0]["dataset"]["name"] == 'slides: "ours", # not theirs'
    assert known == front_matter(card)


def test_a_card_has_every_heading_and_number():
    card = model_card(facts())
    for heading in ("Data and protocol", "Performance", "Calibration", "Triage", "Known limits", "How it was made"):
        assert f"\n## {heading}\n" in card
    assert "| AUC | 0.912 | 0.850 to 0.950 |" in card
    assert "| sensitivity at 0.5 | n/a | n/a |" in card
    assert "| train | 500 | 12 | trained on |" in card
    assert "| stop |" not in card
    assert "Research use only" in card
    assert "epochs = 30" in card
    assert "Versions: sentinode 0.1, python 3.11." in card


def test_what_is_not_known_is_said():
    card = model_card(facts(metrics={}))
    assert "Not known: no patients were kept for a test" in card
    assert "model-index" not in card
    assert "a probability of 0.8 need not come true" in card
    assert "Nothing is promised" in card
    assert "How it does from site to site is not known" in card


def test_sites_calibration_and_promises_are_told():
    calibration = CalibrationFacts(
        method="temperature",
        slope=0.5,
        n_patients=6,
        n_images=300,
        losses={"none": 0.6, "temperature": 0.4},
        before={"ece": Value(value=0.2), "rms_corrected": Value(value=0.21)},
        after={"ece": Value(value=0.05, low=0.01, high=0.09), "rms_corrected": Value(value=0.0)},
    )
    promise = PromiseFacts(
        kind="average", unit="patches", alpha=0.05, delta=None, threshold=0.1, n_patients=40, misses=1
    )
    here = {"auc": AUC, "sensitivity": AUC, "specificity": AUC, "patients": Value(value=3.0)}
    card = model_card(facts(calibration=calibration, promises=(promise,), by_site={"bergen": here, "lyon": here}))
    assert "temperature, fitted on 6 patients (300 images)" in card
    assert "| expected calibration error | 0.200 | 0.050 | 0.010 to 0.090 |" in card
    assert "at most 5 % of the patients with a tumour have any of their tumour patches called clear" in card
    assert "nothing is promised of slides" in card
    assert "| bergen | 3 | 0.912 (0.850 to 0.950) |" in card
    assert "from site to site is not known" not in card


def test_synthetic_images_and_unknown_patients_are_told():
    data = facts().data.model_copy(update={"synthetic": True, "unknown": "train"})
    card = model_card(facts(data=data))
    assert "**Synthetic images: what follows says nothing about tissue.**" in card
    assert "synthetic" in front_matter(card)["tags"]
    assert "cannot be excluded" in card


def test_a_class_cannot_break_a_table():
    here = {"auc": AUC, "patients": Value(value=3.0)}
    card = model_card(facts(by_site={"a|b": here, "c": here}))
    assert "| a/b | 3 |" in card
