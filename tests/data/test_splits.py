"""Splits: who is where, how often, how balanced, and what the file keeps."""

import json
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sentinode.data.adapters import import_manifest
from sentinode.data.leakage import check_split, require_clean
from sentinode.data.manifest import Manifest, make_manifest
from sentinode.data.overlaps import Overlaps
from sentinode.data.splits import ROLES, Protocol, Split, make_splits, read_splits, write_splits
from sentinode.errors import ExportError, LeakageError, ManifestError, PlanError
from sentinode.seeds import stream

# Counts of normal and tumour patches of the 19 slides of ../shared/data/pcam, so that the rules are tested without it.
PCAM_COUNTS = (
    (14, 0), (7, 0), (39, 12), (21, 31), (8, 0), (35, 11), (14, 0), (141, 69), (6, 14), (18, 12),
    (20, 6), (50, 38), (61, 53), (9, 13), (0, 18), (39, 13), (11, 0), (40, 21), (60, 33),
)  # fmt: skip


def cohort(counts, n_unknown: int = 0) -> Manifest:
    rows = [
        {"path": f"p{who:03}-{label}-{i}.png", "label": label, "patient_id": f"p{who:03}"}
        for who, (normal, tumour) in enumerate(counts)
        for label, n in (("normal", normal), ("tumour", tumour))
        for i in range(n)
    ]
    rows += [{"path": f"unknown-{i}.png", "label": "normal", "patient_id": ""} for i in range(n_unknown)]
    return make_manifest(pd.DataFrame(rows), ("normal", "tumour"))


def pairs(*positions: tuple[int, int]) -> Overlaps:
    frame = pd.DataFrame([(a, b, "shifted", 1.0, 5, 5, 0) for a, b in positions], columns=Overlaps.none().frame.columns)
    return Overlaps(frame)


def patients(manifest: Manifest, split: Split, role: str) -> set[str]:
    return set(manifest.groups[split.role(role)])


def shuffled(manifest: Manifest, seed: int) -> Manifest:
    return manifest.select(stream(seed, "shuffle").permutation(len(manifest)))


class TestPatients:
    def test_nineteen_slides_give_five_to_test_three_to_stop_and_eleven_to_train(self):
        manifest = cohort(PCAM_COUNTS)
        for split in make_splits(manifest, Protocol(), Overlaps.none()):
            assert [split.n_patients(manifest, role) for role in ("train", "stop", "test")] == [11, 3, 5]
            assert len(split.calibrate) == len(split.certify) == 0
            assert sum(len(split.role(role)) for role in ROLES) == 937

    def test_every_part_has_both_classes_and_about_its_share_of_each(self):
        manifest = cohort(PCAM_COUNTS)
        for seed in range(5):
            for split in make_splits(manifest, Protocol(seed=seed), Overlaps.none()):
                for role, share in (("train", 11 / 19), ("stop", 3 / 19), ("test", 5 / 19)):
                    positive = manifest.codes[split.role(role)]
                    assert abs(len(positive) / 937 - share) < 0.10
                    assert abs(positive.mean() - 344 / 937) < 0.12

    def test_over_the_repeats_everybody_is_tested_about_equally_often(self):
        manifest = cohort(PCAM_COUNTS)
        for seed in range(5):
            tested = pd.Series(0, index=np.unique(manifest.groups))
            for split in make_splits(manifest, Protocol(seed=seed), Overlaps.none()):
                tested[sorted(patients(manifest, split, "test"))] += 1
            assert tested.sum() == 50
            assert tested.max() - tested.min() <= 2

    def test_repeats_and_seeds_differ_and_the_first_repeats_do_not_depend_on_how_many_there_are(self):
        manifest = cohort(PCAM_COUNTS)
        ten = [split.digest for split in make_splits(manifest, Protocol(), Overlaps.none())]
        three = [split.digest for split in make_splits(manifest, Protocol(repeats=3), Overlaps.none())]
        other = [split.digest for split in make_splits(manifest, Protocol(seed=2), Overlaps.none())]
        assert len(set(ten)) == 10
        assert three == ten[:3]
        assert not set(ten) & set(other)

    def test_patients_whose_images_overlap_have_one_role_even_through_an_image_of_nobody(self):
        manifest = cohort([(3, 3)] * 12, n_unknown=1)
        overlaps = pairs((0, 6), (7, 72), (13, 72))  # p000 - p001 - nobody - p002
        for split in make_splits(manifest, Protocol(), overlaps):
            for role in ROLES:
                assert len({"p000", "p001", "p002"} & patients(manifest, split, role)) in {0, 3}
            assert 72 not in np.concatenate([split.role(role) for role in ROLES])

    def test_five_roles_are_filled_when_they_are_asked_for(self):
        manifest = cohort([(4, 4)] * 20)
        protocol = Protocol(test=0.2, stop=0.1, calibrate=0.1, certify=0.2)
        for split in make_splits(manifest, protocol, Overlaps.none()):
            assert [split.n_patients(manifest, role) for role in ROLES] == [8, 2, 2, 4, 4]

    def test_a_slide_is_the_unit_where_the_patient_is_unknown(self):
        frame = cohort([(3, 3)] * 8).frame[["path", "label", "patient_id"]]
        manifest = make_manifest(frame.rename(columns={"patient_id": "slide_id"}))
        split = make_splits(manifest, Protocol(repeats=1), Overlaps.none())[0]
        assert patients(manifest, split, "test") == set(manifest.frame["slide_id"].iloc[split.test])
        assert split.n_patients(manifest, "test") == 2

    def test_thousands_of_patients_are_drawn_in_bounded_memory(self):
        manifest = cohort([(1, 1)] * 3000)
        split = make_splits(manifest, Protocol(repeats=1), Overlaps.none())[0]
        assert split.n_patients(manifest, "test") == 750


class TestUnknown:
    def test_an_image_of_nobody_has_no_role_unless_it_is_asked_for_by_name(self):
        manifest = cohort([(3, 3)] * 8, n_unknown=5)
        for name in ("patients", "random"):
            for split in make_splits(manifest, Protocol(name=name, repeats=2), Overlaps.none()):
                used = np.concatenate([split.role(role) for role in ROLES])
                assert used.max() < 48

    def test_in_train_it_is_dropped_where_it_hangs_together_with_a_held_out_image(self):
        manifest = cohort([(3, 3)] * 8, n_unknown=4)
        overlaps = pairs((0, 48), (48, 49))  # p000 - nobody - nobody
        plain = make_splits(manifest, Protocol(), overlaps)
        taken = make_splits(manifest, Protocol(unknown="train"), overlaps)
        for without, split in zip(plain, taken, strict=True):
            assert np.array_equal(without.test, split.test)
            assert np.array_equal(without.stop, split.stop)
            extra = set(np.setdiff1d(split.train, without.train).tolist())
            assert extra == ({48, 49, 50, 51} if "p000" in patients(manifest, split, "train") else {50, 51})
            require_clean(check_split(manifest, split, overlaps))


class TestRandom:
    def test_images_are_drawn_within_their_class(self):
        manifest = cohort(PCAM_COUNTS)
        for split in make_splits(manifest, Protocol(name="random", repeats=3), Overlaps.none()):
            assert [len(split.role(role)) for role in ROLES] == [562, 141, 0, 0, 234]
            assert int(manifest.codes[split.test].sum()) == 86

    def test_a_patient_is_then_on_both_sides_and_that_is_said(self):
        manifest = cohort(PCAM_COUNTS)
        protocol = Protocol(name="random", repeats=1)
        split = make_splits(manifest, protocol, Overlaps.none())[0]
        with pytest.raises(LeakageError, match=r"patient 'p0\d\d' is in train and"):
            require_clean(check_split(manifest, split, Overlaps.none()))
        findings = check_split(manifest, split, Overlaps.none(), protocol)
        require_clean(findings)
        assert {finding.kind for finding in findings} == {"patient-in-two-roles"}


@settings(max_examples=30, deadline=None)
@given(
    counts=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=14),
    links=st.lists(st.tuples(st.integers(0, 10**4), st.integers(0, 10**4)), max_size=4),
    seed=st.integers(-5, 5),
    unknown=st.sampled_from(["leave-out", "train"]),
    n_unknown=st.integers(0, 4),
)
def test_whatever_the_cohort_nobody_straddles_roles_are_disjoint_and_rows_may_be_in_any_order(
    counts, links, seed, unknown, n_unknown
):
    counts = [(max(normal, 1 - min(tumour, 1)), tumour) for normal, tumour in counts]
    assume(any(normal for normal, _ in counts) and any(tumour for _, tumour in counts))
    manifest = cohort(counts, n_unknown)
    n = len(manifest)
    overlaps = pairs(*((min(a % n, b % n), max(a % n, b % n)) for a, b in links if a % n != b % n))
    protocol = Protocol(repeats=3, seed=seed, unknown=unknown)
    try:
        splits = make_splits(manifest, protocol, overlaps)
    except PlanError:
        return
    other = shuffled(manifest, seed)
    where = {name: position for position, name in enumerate(other.frame["image_id"])}
    moved = [where[name] for name in manifest.frame["image_id"]]
    turned = pairs(
        *(tuple(sorted((moved[a], moved[b]))) for a, b in overlaps.frame[["first", "second"]].itertuples(index=False))
    )
    assert [split.digest for split in make_splits(other, protocol, turned)] == [split.digest for split in splits]
    components = overlaps.components(n)
    for split in splits:
        roles = np.full(n, -1)
        for code, role in enumerate(ROLES):
            assert (roles[split.role(role)] == -1).all()
            roles[split.role(role)] = code
        known = manifest.groups != ""
        assert (roles[known] >= 0).all()
        for label in (manifest.groups, components):
            seen = pd.Series(roles[known | (roles >= 0)]).groupby(label[known | (roles >= 0)]).nunique()
            assert seen.drop("", errors="ignore").max() == 1
        for role in ("train", "stop", "test"):
            assert set(manifest.codes[roles == ROLES.index(role)]) == {0, 1}
        assert not [f for f in check_split(manifest, split, overlaps) if f.severity == "error"]


class TestWhatCannotBe:
    @pytest.mark.parametrize(
        ("settings_", "said"),
        [
            ({"name": "patient"}, "protocol = 'patient' is not possible"),
            ({"repeats": 0}, "repeats = 0"),
            ({"repeats": True}, "repeats = True"),
            ({"test": 1.0}, "test = 1.0 is not possible; write a share"),
            ({"stop": float("nan")}, "stop = nan"),
            ({"test": 0.0}, "test = 0 leaves nothing"),
            ({"test": 0.6, "stop": 0.4}, "nothing is left to train on"),
            ({"unknown": "drop"}, "unknown = 'drop'"),
        ],
    )
    def test_a_protocol_says_which_of_its_values_is_wrong(self, settings_, said):
        with pytest.raises(PlanError, match=said):
            Protocol(**settings_)

    def test_all_its_faults_come_in_one_error(self):
        with pytest.raises(PlanError) as caught:
            Protocol(name="x", repeats=-1, unknown="y")
        assert len(str(caught.value).splitlines()) == 3

    @pytest.mark.parametrize(
        ("counts", "said"),
        [
            ([(5, 5)], "1 patient cannot fill train and each part"),
            ([(5, 5)] * 2, "2 patients cannot fill"),
            ([(5, 0)] * 9 + [(0, 3)] * 2, "class 'tumour' has images of 2 patients"),
            ([(5, 0)] * 3 + [(0, 3)] * 3, "no draw of 6 patients"),
        ],
    )
    def test_shares_that_cannot_be_had_are_named(self, counts, said):
        shares = {"test": 0.17, "stop": 0.17} if "no draw" in said else {}
        with pytest.raises(PlanError, match=said):
            make_splits(cohort(counts), Protocol(repeats=1, **shares), Overlaps.none())

    def test_patients_that_all_hang_together_are_one(self):
        manifest = cohort([(2, 2)] * 5)
        with pytest.raises(PlanError, match=r"class 'normal' has images of 1 patient \(those who share tissue"):
            make_splits(manifest, Protocol(), pairs(*((4 * i, 4 * i + 4) for i in range(4))))

    def test_nobody_known_cannot_be_tested(self):
        manifest = make_manifest(pd.DataFrame({"path": list("abcdef"), "label": ["normal", "tumour"] * 3}))
        for name in ("patients", "random"):
            with pytest.raises(PlanError, match="no image has a patient or a slide"):
                make_splits(manifest, Protocol(name=name, unknown="train"), Overlaps.none())

    def test_too_few_images_for_random_parts(self):
        with pytest.raises(PlanError, match="class 'tumour' has 2 images, too few for train, stop, test"):
            make_splits(cohort([(9, 1)] * 2), Protocol(name="random"), Overlaps.none())

    def test_a_role_that_does_not_exist(self):
        split = make_splits(cohort([(3, 3)] * 8), Protocol(repeats=1), Overlaps.none())[0]
        with pytest.raises(ValueError, match="no role 'validation'"):
            split.role("validation")


class TestFile:
    @pytest.mark.parametrize("name", ["patients", "random"])
    @pytest.mark.parametrize("unknown", ["leave-out", "train"])
    def test_what_was_written_is_read_back_whatever_the_order_of_the_rows(self, tmp_path, name, unknown):
        manifest = cohort(PCAM_COUNTS, n_unknown=9)
        protocol = Protocol(name=name, unknown=unknown, repeats=3)
        splits = make_splits(manifest, protocol, pairs((0, 940), (500, 941)))
        write_splits(tmp_path / "splits.json", manifest, protocol, splits)
        other = shuffled(manifest, 4)
        again, back = read_splits(tmp_path / "splits.json", other)
        assert again == protocol
        assert [split.digest for split in back] == [split.digest for split in splits]
        for before, after in zip(splits, back, strict=True):
            for role in ROLES:
                ids = manifest.frame["image_id"].iloc[before.role(role)]
                assert set(other.frame["image_id"].iloc[after.role(role)]) == set(ids)
        assert [path.name for path in tmp_path.iterdir()] == ["splits.json"]

    def test_the_file_names_patients_and_no_positions(self, tmp_path):
        manifest, protocol = cohort([(3, 3)] * 8), Protocol(repeats=1)
        splits = make_splits(manifest, protocol, Overlaps.none())
        write_splits(tmp_path / "splits.json", manifest, protocol, splits)
        content = json.loads((tmp_path / "splits.json").read_text())
        assert set(content["splits"][0]["test"]) == patients(manifest, splits[0], "test")
        assert content["protocol"] == asdict(protocol)

    def written(self, tmp_path, change) -> tuple[Manifest, str]:
        manifest, protocol = cohort([(3, 3)] * 8), Protocol(repeats=2)
        path = tmp_path / "splits.json"
        write_splits(path, manifest, protocol, make_splits(manifest, protocol, Overlaps.none()))
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))
        return manifest, str(path)

    def test_a_patient_moved_by_hand_is_noticed(self, tmp_path):
        def move(content):
            content["splits"][1]["train"].append(content["splits"][1]["test"].pop())

        manifest, path = self.written(tmp_path, move)
        with pytest.raises(ManifestError, match="repeat 1 does not have the digest"):
            read_splits(path, manifest)

    def test_a_patient_in_two_roles_is_leakage(self, tmp_path):
        def copy(content):
            content["splits"][0]["train"].append(content["splits"][0]["test"][0])

        manifest, path = self.written(tmp_path, copy)
        with pytest.raises(LeakageError, match=r"repeat 0: 'p00\d' is in train and in test"):
            read_splits(path, manifest)

    @pytest.mark.parametrize(
        "change",
        [
            lambda content: content["protocol"].update(repeats="many"),
            lambda content: content["protocol"].update(extra=1),
            lambda content: content["splits"][0].pop("test"),
            lambda content: content["splits"][0].update(test=3),
            lambda content: content.update(splits=5),
            lambda content: content.update(splits=[5]),
            lambda content: content.pop("images"),
            lambda content: content.update(format="other"),
        ],
    )
    def test_a_file_that_is_not_as_it_was_written_is_refused(self, tmp_path, change):
        manifest, path = self.written(tmp_path, change)
        with pytest.raises(ManifestError, match=r"splits\.json"):
            read_splits(path, manifest)

    def test_splits_of_other_images_are_refused(self, tmp_path):
        _, path = self.written(tmp_path, lambda _content: None)
        with pytest.raises(ManifestError, match="was made for other images, patients or labels than these 42"):
            read_splits(path, cohort([(3, 3)] * 7))

    def test_a_file_that_cannot_be_read_is_named(self, tmp_path):
        (tmp_path / "half.json").write_text('{"format": ')
        for name, said in (("half.json", "line 1 is not JSON"), ("none.json", "cannot be read")):
            with pytest.raises(ManifestError, match=said):
                read_splits(tmp_path / name, cohort([(3, 3)] * 8))

    def test_a_folder_that_cannot_be_made_is_an_export_error(self, tmp_path):
        manifest, protocol = cohort([(3, 3)] * 8), Protocol(repeats=1)
        splits = make_splits(manifest, protocol, Overlaps.none())
        (tmp_path / "nowhere").write_text("a file")
        with pytest.raises(ExportError, match="cannot be written"):
            write_splits(tmp_path / "nowhere" / "splits.json", manifest, protocol, splits)


def test_the_real_slides_are_split_five_three_eleven_without_leakage(pcam_root):
    manifest = import_manifest("kaggle-pcam", pcam_root)
    splits = make_splits(manifest, Protocol(), Overlaps.none())
    assert len({split.digest for split in splits}) == 10
    for split in splits:
        assert [split.n_patients(manifest, role) for role in ("train", "stop", "test")] == [11, 3, 5]
        assert check_split(manifest, split, Overlaps.none()) == ()
