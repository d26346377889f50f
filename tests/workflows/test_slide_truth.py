"""What is true of a slide: drawings and masks become the same lesions, and what is not clear is refused."""

import numpy as np
import pytest
import shapely
import tifffile
from PIL import Image

from sentinode.errors import ManifestError, PlanError
from sentinode.geometry import Box, Scale, Size
from sentinode.slides.annotation_files import write_asap, write_geojson
from sentinode.slides.annotations import Annotations, Region
from sentinode.workflows.slide_truth import SlideTruth, TruthWish, find_truth, lesions_on

SIZE, SCALE = Size(8001, 6003), Scale(0.5)  # 4 x 3 mm
DISC = shapely.Point(3000, 2000).buffer(400)  # 0.4 mm across


@pytest.fixture
def slide(tmp_path):
    """The file of a slide, which is never opened here, and a folder for its truth."""
    (tmp_path / "truth").mkdir()
    (tmp_path / "case 1.ome.tif").write_bytes(b"")
    return tmp_path / "case 1.ome.tif"


def wish(slide, **more):
    return TruthWish(slide.parent / "truth", **more)


def lesions(slide, size=SIZE, bounds=None, **more):
    return lesions_on(find_truth(slide, wish(slide, **more), "tumour"), size, SCALE, bounds)


def mask(downsample=8, values=(0, 255), size=SIZE):
    """The disc as a mask, its sides rounded up."""
    row, column = np.indices((-(-size.height // downsample), -(-size.width // downsample)))
    inside = shapely.contains_xy(DISC, (column + 0.5) * downsample, (row + 0.5) * downsample)
    return np.where(inside, values[1], values[0]).astype(np.uint8)


def test_a_drawing_and_masks_give_the_same_lesion(slide, tmp_path):
    truth = tmp_path / "truth"
    write_asap(Annotations((Region("Tumor", DISC),)), truth / "case 1.xml")
    drawn = lesions(slide)
    assert drawn.labels.shape == (386, 514)
    assert (len(drawn.counted), drawn.at([[3000, 2000], [3000, 2430], [3000, 2500]]).tolist()) == (1, [1, 1, 0])
    (truth / "case 1.xml").unlink()
    for name, write in {
        "case 1_mask.png": lambda path: Image.fromarray(mask()).save(path),
        "case 1.PNG": lambda path: Image.fromarray(mask()).convert("1").save(path),
        "case 1_evaluation_mask.png": lambda path: Image.fromarray(mask()).convert("RGB").save(path),
        "case 1_Mask.tif": write_pyramid,
    }.items():
        write(truth / name)
        masked = lesions(slide)
        differs = (masked.labels != drawn.labels).sum()
        assert differs < 0.02 * (drawn.labels > 0).sum(), name
        assert len(masked.counted) == 1
        (truth / name).unlink()


def write_pyramid(path):
    with tifffile.TiffWriter(path) as tiff:
        for number, downsample in enumerate((4, 8, 16, 32)):
            tiff.write(mask(downsample), tile=(64, 64), compression="zlib", subfiletype=1 if number else 0)


def test_a_cell_that_is_smaller_than_a_pixel_is_not_lost(slide, tmp_path):
    cells = tuple(Region("Tumor", shapely.Point(x, 900).buffer(4)) for x in (1000, 1700, 2803))
    write_asap(Annotations(cells), tmp_path / "truth" / "case 1.xml")
    found = lesions(slide)
    assert (found.labels.max(), len(found.counted)) == (3, 0)
    assert set(found.at([[x, 900] for x in (1000, 1700, 2803)]).tolist()) == {1, 2, 3}


def test_what_was_cut_out_is_no_tumour_unless_it_is_a_hole(slide, tmp_path):
    half = Region("_2", shapely.box(3000, 1000, 4000, 3000))
    write_asap(Annotations((Region("_0", DISC), half)), tmp_path / "truth" / "case 1.xml")
    assert lesions(slide).at([[2800, 2000], [3200, 2000]]).tolist() == [1, 0]


def test_the_place_in_qupath_is_counted_from_the_scanned_part(slide, tmp_path):
    write_geojson(Annotations((Region("Tumor", DISC),)), tmp_path / "truth" / "case 1.geojson")
    moved = lesions(slide, bounds=Box(2000, 1000, 1, 1))
    assert moved.at([[5000, 3000], [3000, 2000]]).tolist() == [1, 0]


def test_names_can_be_given_classes(slide, tmp_path):
    write_geojson(
        Annotations((Region("Krebs", DISC), Region("Tissue", shapely.box(0, 0, 4000, 4000)))),
        tmp_path / "truth" / "case 1.geojson",
    )
    with pytest.raises(ManifestError, match=r"has 'Krebs', 'Tissue' drawn.*--class 'Krebs'=tumour"):
        lesions(slide)
    found = lesions(slide, classes={"Krebs": "tumour", "Tissue": "normal"})
    assert found.at([[3000, 2000], [1000, 1000]]).tolist() == [1, 0]
    with pytest.raises(PlanError, match="no --class is tumour"):
        lesions(slide, classes={"Krebs": "cancer"})


def test_a_slide_without_truth_is_normal_only_where_that_was_said(slide):
    with pytest.raises(ManifestError, match=r"case 1\.ome\.tif: may or may not .*say --no-truth-is-normal"):
        find_truth(slide, wish(slide), "tumour")
    with pytest.raises(ManifestError, match="is a tumour by the table"):
        find_truth(slide, wish(slide, labels={"case 1": "tumour"}, no_truth_is_normal=True), "tumour")
    for said in ({"no_truth_is_normal": True}, {"labels": {"case 1": "normal"}}):
        assert not lesions(slide, **said).labels.any()


def test_truth_that_contradicts_the_table_is_refused(slide, tmp_path):
    Image.fromarray(mask()).save(tmp_path / "truth" / "case 1_mask.png")
    with pytest.raises(ManifestError, match="has tumour, and the table says normal"):
        lesions(slide, labels={"case 1": "normal"})
    Image.fromarray(np.zeros_like(mask())).save(tmp_path / "truth" / "case 1_mask.png")
    with pytest.raises(ManifestError, match="has no tumour, and the table says tumour"):
        lesions(slide, labels={"case 1": "tumour"})


def test_values_that_may_mean_anything_are_asked_for(slide, tmp_path):
    Image.fromarray(mask(values=(1, 2))).save(tmp_path / "truth" / "case 1-mask.png")
    with pytest.raises(ManifestError, match=r"has the values 1, 2, .*--mask-value 2"):
        lesions(slide)
    assert lesions(slide, mask_value=2).at([[3000, 2000], [10, 10]]).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("write", "why"),
    [
        (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n no more"), "cannot be read as a mask"),
        (lambda path: Image.fromarray(mask()[:300]).save(path), "no reduced picture of a slide of 8001 x 6003"),
        (lambda path: Image.fromarray(mask(128)).save(path), "too coarse"),
    ],
    ids=["damaged", "another shape", "coarse"],
)
def test_masks_that_cannot_be_are_refused(slide, tmp_path, write, why):
    write(tmp_path / "truth" / "case 1.png")
    with pytest.raises(ManifestError, match=why) as told:
        lesions(slide)
    assert str(told.value).startswith(str(tmp_path / "truth" / "case 1.png"))


def test_a_damaged_tiff_is_refused(slide, tmp_path):
    (tmp_path / "truth" / "case 1.tif").write_bytes(b"II*\0\0\0\0\0")
    with pytest.raises(ManifestError, match="cannot be read as a mask"):
        lesions(slide)


def test_two_truths_of_a_slide_are_refused(slide, tmp_path):
    write_asap(Annotations((Region("Tumor", DISC),)), tmp_path / "truth" / "case 1.xml")
    Image.fromarray(mask()).save(tmp_path / "truth" / "case 1.png")
    with pytest.raises(ManifestError, match="a drawing and a mask"):
        find_truth(slide, wish(slide), "tumour")
    (tmp_path / "truth" / "case 1.xml").unlink()
    Image.fromarray(mask()).save(tmp_path / "truth" / "case 1_mask.png")
    with pytest.raises(ManifestError, match="more than one mask"):
        find_truth(slide, wish(slide), "tumour")


def test_a_slide_is_not_its_own_mask(slide):
    with pytest.raises(ManifestError, match="neither a drawing nor a mask"):
        find_truth(slide, TruthWish(slide.parent), "tumour")


def test_what_was_drawn_beyond_the_slide_is_told(slide, tmp_path):
    write_asap(Annotations((Region("Tumor", DISC),)), tmp_path / "truth" / "case 1.xml")
    with pytest.raises(ManifestError, match="drawn beyond the slide of 1000 x 1000 px"):
        lesions(slide, size=Size(1000, 1000))


def test_a_truth_of_nothing_is_nothing():
    assert not lesions_on(SlideTruth(None, None, "", "tumour"), SIZE, SCALE).labels.any()
