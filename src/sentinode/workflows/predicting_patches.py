"""Patches in, a table and a page out: images that somebody has cut already, of the size that the model takes."""

import hashlib
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from sentinode.algorithms.descriptors import stain_statistics
from sentinode.data.patches import PatchReader
from sentinode.errors import ExportError, ManifestError, ModelError
from sentinode.evaluation.typicality import unlike_training
from sentinode.models.bundle import Bundle, read_bundle
from sentinode.models.runtime import Recogniser, open_recogniser
from sentinode.models.tuning import PrecisionWish
from sentinode.report.patches_page import PatchesView, write_patches_page
from sentinode.slides.naming import is_slide_name
from sentinode.storage import whole_files
from sentinode.workflows.refusing import Gate, gate_of, patch_refusals
from sentinode.workflows.trail import TRAIL, require_unchanged, trail_file, write_trail

if TYPE_CHECKING:
    from sentinode.inference.engine import Inspected

__all__ = ["PatchRun", "find_patches", "predict_patches"]

BATCH = 64
SHOWN, UNSURE = 24, 12
"""Patches on the page: the most suspicious, and the least sure."""

PLAIN_IMAGES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})

LOOKED_AT = 1000
"""Patches whose colours are held against those of the training images."""


class _Patch(NamedTuple):
    root: Path
    path: str  # below the root
    name: str  # in the table


class _Found(NamedTuple):
    patches: list[_Patch]  # that could be read
    proba: NDArray[np.float64]  # (n, k)
    colours: NDArray[np.float32] | None  # (m, 17): of some of them, `stain_statistics`; None where the gate knows them
    failures: dict[str, str]
    flag: NDArray[np.str_]  # (n,): what the gate says of each
    distance: NDArray[np.float32]  # (n, 2): from the training images; NaN for what has a flag


@dataclass(frozen=True, eq=False)
class PatchRun:
    """What became of the patches.

    Parameters
    ----------
    frame : DataFrame
        ``path, prob_<class> ..., called, typicality, refused``: a row a patch that was read, in the order of the input.
        Of one that was refused the probabilities are NaN, it is called ``"refused"``, and the last column says why.
    failures : dict of str to str
        File -> why it has no result.
    warnings : tuple of str
        What one should know before one trusts it.
    bundle : Bundle
        The model.
    """

    frame: pd.DataFrame
    failures: dict[str, str]
    warnings: tuple[str, ...]
    bundle: Bundle

    @property
    def n_refused(self) -> int:
        """Patches that are nonsense, or unlike the training images in structure."""
        return int((self.frame["refused"] != "").sum())

    @property
    def n_suspicious(self) -> int:
        """Patches that reach a probability of 0.5."""
        return int((self.frame[f"prob_{self.bundle.facts.positive}"] >= 0.5).sum())

    def to_json(self) -> dict[str, Any]:
        """Write it as JSON would.

        Returns
        -------
        dict
            The counts, each patch, the warnings, the failures.
        """
        return {
            "model": self.bundle.digest,
            "n_patches": len(self.frame),
            "n_suspicious": self.n_suspicious,
            "n_refused": self.n_refused,
            "patches": self.frame.astype(object).where(self.frame.notna(), None).to_dict(orient="records"),
            "warnings": list(self.warnings),
            "failures": self.failures,
        }


def find_patches(inputs: Sequence[Path | str], bundle: Bundle) -> tuple[Path, ...]:
    """Tell which inputs are patches, and not slides: images of the very size that the model takes, or folders of them.

    Parameters
    ----------
    inputs : sequence of Path or str
        Files and folders, as a command line names them.
    bundle : Bundle
        The model.

    Returns
    -------
    tuple of Path
        Of `inputs`. A folder counts if every image in it and below it is a patch, and there is one.
    """
    size = (bundle.facts.tile.width, bundle.facts.tile.height)
    return tuple(path for path in map(Path, inputs) if _all_patches(path, size))


def predict_patches(
    inputs: Sequence[Path | str],
    model: Path | str | Bundle,
    out: Path | str,
    *,
    mpp: float | None = None,
    precision: PrecisionWish = "auto",
    allow_atypical: bool = False,
    trail: Path | str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> PatchRun:
    """Recognise patches and write ``patches.csv`` and ``patches.html``.

    Parameters
    ----------
    inputs : sequence of Path or str
        Patches, or folders of patches (those in folders below, too).
    model : Path, str or Bundle
        A bundle, or its folder.
    out : Path or str
        Folder for both files; they appear whole, and together.
    mpp : float, optional
        Micrometres a pixel of the patches; refused where the model was trained at another one.
    precision : {"auto", "float32", "int8"}
        Whether the model may be computed in bf16 where the CPU does that, or shall be in int8.
    allow_atypical : bool
        Whether patches that are unlike the training images in structure are recognised all the same, at one's own
        risk. Nonsense (glass, noise, another stain) stays refused.
    trail : Path or str, optional
        The audit trail, which gets a line a run; left out, that of ``SENTINODE_TRAIL``, else ``OUT/trail.jsonl``.
    on_progress : callable, optional
        Called with the number of patches done and their total.

    Returns
    -------
    PatchRun
        A patch that cannot be read stops no other.

    Raises
    ------
    ModelError
        If the bundle cannot be read, takes features, was trained at another mpp, or does not offer the int8 asked for.
    ManifestError
        If there is no patch, or none can be read.
    ExportError
        If `out` cannot be written, or the trail was changed.
    """
    # ManifestError is also the reader's.
    bundle, out = model if isinstance(model, Bundle) else read_bundle(model), Path(out)
    file = trail_file(trail, out) or out / TRAIL
    require_unchanged(file)
    _require_mpp(bundle, mpp)
    patches = [one for path in map(Path, inputs) for one in _patches(path)]
    if not patches:
        raise ManifestError(f"{', '.join(map(str, inputs))}: no image in it; give patches, or folders of patches")
    recogniser = open_recogniser(bundle, quick=True, precision=precision)
    size = (bundle.facts.tile.height, bundle.facts.tile.width)
    with ExitStack() as stack:
        readers = {root: stack.enter_context(PatchReader(root)) for root in {one.root for one in patches}}
        gate = gate_of(bundle)
        found = _recognise(patches, size, readers, (gate, recogniser), on_progress or (lambda _done, _total: None))
        p_values = gate.p_values(found.distance)
        why = patch_refusals(found.flag, p_values, allow=allow_atypical)
        frame = _frame(found, bundle, p_values[:, 0], why)
        run = PatchRun(frame, found.failures, _warnings(bundle, gate, found, why), bundle)
        _write(run, found, readers, out)
    options = {"precision": precision, "allow_atypical": allow_atypical}
    write_trail(file, "predict", [_trail_event(run, inputs, options)])
    return run


def _warnings(bundle: Bundle, gate: Gate, found: _Found, why: NDArray[np.str_]) -> tuple[str, ...]:
    n = int((why != "").sum())
    refused = f"{n:,} of {len(why):,} patches are refused: patches.csv says why of each." if n else ""
    look = gate.look(found.flag, found.distance, allow=True, what="patches")
    colours = unlike_training(bundle.typicality(), found.colours) if found.colours is not None else ""
    whole = f"Refused as a whole: {look.refusal}." if look.refusal else ""
    return tuple(filter(None, (whole, refused, look.warning, colours)))


def _trail_event(run: PatchRun, inputs: Sequence[Path | str], options: dict[str, Any]) -> dict[str, Any]:
    verdict = f"{run.n_suspicious} of {len(run.frame)} patches suspicious, {len(run.failures)} failed"
    if run.n_refused:
        verdict += f", {run.n_refused} refused"
    return {
        "model": run.bundle.digest,
        "options": options,
        "patches": {"inputs": [Path(one).name for one in inputs], "answers": _digest(run.frame)},
        "verdict": verdict,
    }


def _digest(frame: pd.DataFrame) -> str:
    return hashlib.sha256(frame.to_csv(index=False).encode()).hexdigest()


def _all_patches(path: Path, size: tuple[int, int]) -> bool:
    if path.is_dir():
        found = False
        for one in _images(path):  # the first that is none ends the walk
            here = _size(one)
            if here != size and not (here is None and one.suffix.lower() in PLAIN_IMAGES):
                return False
            found |= here == size  # one that is damaged is still a patch among patches, and fails by its name
        return found
    return path.is_file() and is_slide_name(path.name) and _size(path) == size


def _images(folder: Path) -> Iterator[Path]:
    return (one for one in folder.rglob("*") if is_slide_name(one.name) and one.is_file())


def _size(path: Path) -> tuple[int, int] | None:
    # Of the header alone.
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # nothing is decoded here
            with Image.open(path) as image:
                return image.size
    except Image.DecompressionBombError:
        return 0, 0  # larger than any patch
    except Exception:  # noqa: BLE001 - Pillow raises what its plug-ins raise; here it only means: no plain image
        return None


def _patches(path: Path) -> list[_Patch]:
    if not path.exists():
        raise ManifestError(f"{path}: is not there; give patches, or folders of patches")
    if path.is_file():
        return [_Patch(path.parent, path.name, str(path))]
    return [_Patch(path, one.relative_to(path).as_posix(), str(one)) for one in sorted(_images(path))]


def _require_mpp(bundle: Bundle, mpp: float | None) -> None:
    tile = bundle.facts.tile
    if tile.height == 1:
        raise ModelError(
            f"{bundle.folder}: takes features of {tile.width} numbers, not images; use: sentinode evaluate"
        )
    if mpp is not None and tile.mpp is not None and abs(mpp / tile.mpp - 1) > 0.05:
        raise ModelError(
            f"the patches have {mpp:g} um a pixel, and {bundle.folder} was trained at {tile.mpp:g}; "
            f"cut them at {tile.mpp:g}, or train a model at {mpp:g}"
        )


def _recognise(
    patches: Sequence[_Patch],
    size: tuple[int, int],
    readers: dict[Path, PatchReader],
    model: tuple[Gate, Recogniser],
    on_progress: Callable[[int, int], None],
) -> _Found:
    kept: list[_Patch] = []
    proba: list[NDArray[np.float64]] = []
    colours: list[NDArray[np.float32]] = []
    looks: list[Inspected] = []
    (gate, recogniser), inspect = model, model[0].inspect(None)
    failures: dict[str, str] = {}
    step = max(1, len(patches) // LOOKED_AT)
    for begin in range(0, len(patches), BATCH):
        batch: list[tuple[_Patch, NDArray[np.uint8]]] = []
        for one in patches[begin : begin + BATCH]:
            try:
                batch.append((one, _read(readers[one.root], one, size)))
            except ManifestError as fault:
                failures[one.name] = str(fault)
        if batch:
            pixels = np.stack([image for _, image in batch])
            proba.append(recogniser.predict_proba(pixels).astype(np.float64))
            if gate.everything is None:  # else the colours are among what is measured
                colours.append(stain_statistics(pixels[:: min(step, len(pixels))]))
            looks.append(inspect(pixels))
            kept += [one for one, _ in batch]
        on_progress(min(begin + BATCH, len(patches)), len(patches))
    if not kept:
        first = next(iter(failures.values()))
        raise ManifestError(f"none of {len(patches)} patches could be read; the first: {first}")
    flag, distance = np.concatenate([one.flag for one in looks]), np.concatenate([one.measured for one in looks])
    return _Found(kept, np.concatenate(proba), np.concatenate(colours) if colours else None, failures, flag, distance)


def _read(reader: PatchReader, patch: _Patch, size: tuple[int, int]) -> NDArray[np.uint8]:
    pixels = reader.read(patch.path).pixels
    if pixels.shape[:2] != size:
        here, wanted = (f"{width} x {height} px" for height, width in (pixels.shape[:2], size))
        raise ManifestError(f"{patch.name}: is {here}, and the model takes {wanted}")
    return pixels


def _frame(found: _Found, bundle: Bundle, typicality: NDArray[np.float32], refused: NDArray[np.str_]) -> pd.DataFrame:
    classes, fit = np.array(bundle.facts.classes), refused == ""
    proba = np.where(fit[:, None], found.proba, np.nan)
    columns = {f"prob_{name}": proba[:, place].round(6) for place, name in enumerate(bundle.facts.classes)}
    called = np.where(fit, classes[found.proba.argmax(axis=1)], "refused")
    looks = {"typicality": typicality.astype(np.float64).round(4), "refused": refused}
    return pd.DataFrame({"path": [one.name for one in found.patches], **columns, "called": called, **looks})


def _write(run: PatchRun, found: _Found, readers: dict[Path, PatchReader], out: Path) -> None:
    rows = np.flatnonzero(run.frame["refused"].to_numpy() == "")
    proba = found.proba[rows, -1]

    def shown(order: NDArray[np.int64]) -> tuple[tuple[NDArray[np.uint8], str, float], ...]:
        chosen = [(found.patches[rows[place]], float(proba[place])) for place in order.tolist()]
        return tuple((readers[one.root].read(one.path).pixels, one.path, value) for one, value in chosen)

    tile = run.bundle.facts.tile
    taken = f"{tile.mpp:g} um a pixel, as the model's training images" if tile.mpp else "the same as in training"
    view = PatchesView(
        proba=proba,
        suspicious=shown(np.argsort(-proba, kind="stable")[:SHOWN]),
        unsure=shown(np.argsort(np.abs(proba - 0.5), kind="stable")[:UNSURE]),
        warnings=run.warnings,
        failures=run.failures,
        refused=Counter(one for one in run.frame["refused"] if one),
        facts=run.bundle.facts,
        footer={"model": f"{run.bundle.facts.algorithm}, {run.bundle.digest}", "resolution taken for granted": taken},
    )
    try:
        with whole_files((out / "patches.csv", out / "patches.html")) as (table, page):
            run.frame.to_csv(table, index=False)
            write_patches_page(view, page)
    except OSError as error:
        raise ExportError(f"{out}: cannot be written ({error.strerror or error}); choose another --out") from error
