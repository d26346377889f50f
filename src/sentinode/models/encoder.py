"""A local encoder that turns patches into features: an ONNX graph or a TorchScript file, never a download.

A TOML file beside it states what no file of weights states by itself::

    file = "encoder.onnx"           # or .pt, .ts (TorchScript: needs the extra 'train')
    size = 224                      # px a side of what it takes, (n, 3, size, size) float32, red, green, blue
    mpp = 0.5                       # micrometres a pixel at which it was trained
    mean = [0.485, 0.456, 0.406]    # of pixels from 0 to 1
    std = [0.229, 0.224, 0.225]

Patches are brought to the encoder's mpp, then cut to its size about their centre, or filled up with their mirror image
where their field is smaller.

A model whose head was trained on one names it by its digest, and does not hold it: such files are large, and their
licences are often strict.
"""

import hashlib
import importlib
import os
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sentinode.errors import ExportError, MissingExtra, ModelError, PlanError
from sentinode.models.engines import quiet_import
from sentinode.storage import whole_file

__all__ = ["FOLDER_VARIABLE", "Encoder", "EncoderFacts", "EncoderUse", "find_encoder", "read_encoder"]

Embed = Callable[[NDArray[np.float32]], NDArray[np.float32]]

FOLDER_VARIABLE = "SENTINODE_ENCODERS"
"""Environment variable: a folder in which the files of encoders are looked for."""

_BATCH = 32
_TORCHSCRIPT = frozenset({".pt", ".pth", ".ts"})


class EncoderFacts(BaseModel):
    """What is stated of an encoder.

    Parameters
    ----------
    file : str
        Weights and graph, relative to the TOML file.
    size : int
        Side of what it takes, in pixels.
    mpp : float
        Micrometres a pixel at which it was trained.
    mean, std : (3,) float
        Of red, green and blue from 0 to 1: what it takes is (pixel / 255 - mean) / std.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)

    file: str
    size: Annotated[int, Field(ge=8, le=4096)]
    mpp: Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]
    mean: tuple[float, float, float]
    std: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]


class EncoderUse(EncoderFacts):
    """The encoder that a model needs, and does not hold.

    Parameters
    ----------
    digest : str
        As `Encoder.digest`: no other file will do.
    folder : str
        Where it lay when the model was trained.
    """

    digest: str
    folder: str


@dataclass(frozen=True)
class Encoder:
    """An encoder on disk.

    Parameters
    ----------
    facts : EncoderFacts
        What is stated of it.
    path : Path
        Of its file.
    digest : str
        SHA-256 (hex) of the file and of what is stated: features of another digest are other features.
    """

    facts: EncoderFacts
    path: Path
    digest: str

    def embed(
        self,
        pixels: Sequence[NDArray[np.uint8]] | NDArray[np.uint8],
        mpp: Sequence[float],
        on_progress: Callable[[int, int], None] | None = None,
    ) -> NDArray[np.float32]:
        """Compute the features of patches.

        Parameters
        ----------
        pixels : (n, h, w, 3) uint8
            Patches.
        mpp : (n,) float
            Micrometres a pixel of each.
        on_progress : callable, optional
            Called with the number of patches done and their total.

        Returns
        -------
        (n, 1, d) float32
            As heads take them.

        Raises
        ------
        ModelError
            If the file cannot be run, or does not give one vector of finite numbers a patch.
        MissingExtra
            If it is TorchScript, and torch is not installed.
        """
        # MissingExtra is _open's.
        run, parts = _open(self.path), []
        for begin in range(0, len(pixels), _BATCH):
            batch = range(begin, min(begin + _BATCH, len(pixels)))
            given = np.stack([self._prepared(np.asarray(pixels[place]), mpp[place]) for place in batch])
            try:
                found = run(given)
            except RuntimeError as error:
                shape = "x".join(map(str, given.shape))
                raise ModelError(f"{self.path}: cannot take {shape} float32 ({str(error).splitlines()[-1]})") from error
            if found.ndim != 2 or len(found) != len(given) or not np.isfinite(found).all():
                raise ModelError(
                    f"{self.path}: gave {found.shape} for {len(given)} patches; an encoder gives one vector of finite "
                    "numbers a patch, (n, d): export it with its pooling"
                )
            parts.append(found.astype(np.float32)[:, None])
            if on_progress is not None:
                on_progress(batch[-1] + 1, len(pixels))
        return np.concatenate(parts)

    def embed_to(
        self,
        file: Path,
        pixels: Sequence[NDArray[np.uint8]] | NDArray[np.uint8],
        mpp: Sequence[float],
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Compute the features of patches into a file, unless it is there.

        Parameters
        ----------
        file : Path
            The ``.npy``; name it by the digests of the pixels and of the encoder.
        pixels, mpp, on_progress
            As in `embed`.

        Raises
        ------
        ModelError
            As from `embed`.
        ExportError
            If it cannot be written.
        """
        # ModelError is embed's.
        if file.exists():
            return
        features = self.embed(pixels, mpp, on_progress)
        try:
            with whole_file(file) as part, part.open("wb") as stream:
                np.save(stream, features, allow_pickle=False)
        except OSError as error:
            raise ExportError(f"{file}: cannot be written ({error.strerror or error}); make room") from error

    def in_use(self) -> EncoderUse:
        """State it for a model.

        Returns
        -------
        EncoderUse
            Everything but its weights.
        """
        stated = {**self.facts.model_dump(), "file": self.path.name}
        return EncoderUse(**stated, digest=self.digest, folder=str(self.path.parent.resolve()))

    def _prepared(self, patch: NDArray[np.uint8], mpp: float) -> NDArray[np.float32]:
        # (h, w, 3) uint8 -> (3, size, size) float32.
        height, width = (max(1, round(side * mpp / self.facts.mpp)) for side in patch.shape[:2])
        scaled = np.asarray(Image.fromarray(patch).resize((width, height), Image.Resampling.BICUBIC))
        field = _about_centre(_about_centre(scaled, self.facts.size, 0), self.facts.size, 1) / np.float32(255)
        mean, std = (np.array(one, dtype=np.float32) for one in (self.facts.mean, self.facts.std))
        return np.ascontiguousarray(((field - mean) / std).transpose(2, 0, 1), dtype=np.float32)


def read_encoder(path: Path | str) -> Encoder:
    """Read what is stated of an encoder, and find its file; it is not loaded.

    Parameters
    ----------
    path : Path or str
        The TOML file.

    Returns
    -------
    Encoder
        Ready to embed.

    Raises
    ------
    PlanError
        If something is not stated, or the file is not there or of another kind.
    """
    path = Path(path)
    try:
        facts = EncoderFacts.model_validate(tomllib.loads(path.read_text(encoding="utf-8-sig")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise PlanError(
            f"{path}: cannot be read ({error}); give a TOML file with file, size, mpp, mean, std"
        ) from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise PlanError(f"{path}: {key}: {first['msg'].lower()}; state file, size, mpp, mean and std") from error
    file = path.parent / facts.file
    if file.suffix.lower() not in {".onnx", *_TORCHSCRIPT}:
        raise PlanError(f"{path}: file = {facts.file!r} is no .onnx and no TorchScript (.pt, .pth, .ts)")
    try:
        return Encoder(facts, file, _digest(file, facts))
    except OSError as error:
        raise PlanError(f"{path}: {file} cannot be read ({error.strerror}); nothing is ever downloaded") from error


def find_encoder(use: EncoderUse, bundle: Path) -> Encoder:
    """Find the encoder of a model: in the model's folder, in that of ``SENTINODE_ENCODERS``, where it lay before.

    Parameters
    ----------
    use : EncoderUse
        Which.
    bundle : Path
        Folder of the model.

    Returns
    -------
    Encoder
        The very file, by its digest.

    Raises
    ------
    ModelError
        If it is nowhere, or what is there is another one.
    """
    facts = EncoderFacts(**use.model_dump(exclude={"digest", "folder"}))
    named = os.environ.get(FOLDER_VARIABLE)
    folders = (bundle, *((Path(named),) if named else ()), Path(use.folder))
    there = [folder / use.file for folder in folders if (folder / use.file).is_file()]
    for file in there:
        if _digest(file, facts) == use.digest:
            return Encoder(facts, file, use.digest)
    if there:
        raise ModelError(f"{there[0]}: is another encoder than that of {bundle}; put that one there")
    raise ModelError(
        f"{bundle}: needs its encoder, {use.file}, which is neither there nor in {use.folder}; put it into the model's "
        f"folder, or name its own in the variable {FOLDER_VARIABLE}"
    )


def _digest(file: Path, facts: EncoderFacts) -> str:
    with file.open("rb") as stream:
        content = hashlib.file_digest(stream, "sha256")
    content.update(EncoderFacts(**facts.model_dump()).model_dump_json(exclude={"file"}).encode())
    return content.hexdigest()


def _about_centre(pixels: NDArray[np.uint8], size: int, axis: int) -> NDArray[np.uint8]:
    # Cut, or filled up with the mirror image, along one axis.
    excess = pixels.shape[axis] - size
    if excess >= 0:
        return np.take(pixels, range(excess // 2, excess // 2 + size), axis=axis)
    around = [(0, 0)] * pixels.ndim
    around[axis] = (-excess // 2, -excess - -excess // 2)
    return np.pad(pixels, around, mode="symmetric")


def _open(path: Path) -> Embed:
    return _opened(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=1)
def _opened(path: Path, _changed: int) -> Embed:  # once, and not for each batch of a slide
    return _open_torchscript(path) if path.suffix.lower() in _TORCHSCRIPT else _open_onnx(path)


def _open_onnx(path: Path) -> Embed:
    openvino = quiet_import("openvino")  # half a second that a study without an encoder does without
    try:
        compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    except RuntimeError as error:
        raise ModelError(f"{path}: is no graph that can be run ({str(error).splitlines()[-1]})") from error
    return lambda given: np.array(compiled(given)[0])


def _open_torchscript(path: Path) -> Embed:
    try:
        torch: Any = importlib.import_module("torch")
    except ModuleNotFoundError as missing:
        raise MissingExtra("train", f"the TorchScript encoder {path.name}") from missing
    try:
        network = torch.jit.load(str(path), map_location="cpu").eval()
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"{path}: is no TorchScript file ({str(error).splitlines()[0]})") from error

    def run(given: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return np.asarray(network(torch.from_numpy(given)).numpy())

    return run
