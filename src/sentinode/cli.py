"""The commands: one function each, which calls the same workflow that a Python user would.

Nothing heavy is imported before a command needs it, so that ``sentinode --help`` answers at once.
"""

import os
import sys
import traceback
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from sentinode._version import __version__
from sentinode.errors import PlanError, SentinodeError
from sentinode.execution import keep_memory

if TYPE_CHECKING:
    from sentinode.study.table import StudyTable
    from sentinode.workflows.slide_evaluation import SlideEvaluationWish

__all__ = ["app", "main"]

REFUSED, INTERNAL, INTERRUPTED = 2, 70, 130  # exit codes; 70 is EX_SOFTWARE of sysexits.h, 130 is 128 + SIGINT


class _Commands(TyperGroup):
    """The commands, each of which Ctrl-C ends with a line of ours; typer says nothing, or "Aborted"."""

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - click's context, or typer's own: that depends on its version
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            sys.stderr.write(
                "interrupted: what a study has finished is kept, and the same command goes on from there\n"
            )
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Recognise cancer in pathology images, and learn honestly how well. Research use only.",
    epilog="Start with: sentinode demo",
)
data_app = typer.Typer(no_args_is_help=True, help="Tables of images: bring them in, check them.")
algorithm_app = typer.Typer(no_args_is_help=True, help="The recipes that can be trained and compared.")
study_app = typer.Typer(no_args_is_help=True, help="Compare algorithms over repeated, paired runs.")
app.add_typer(data_app, name="data")
app.add_typer(algorithm_app, name="algorithm")
app.add_typer(study_app, name="study")
trail_app = typer.Typer(no_args_is_help=True, help="The audit trail: who had what recognised, and is it unchanged?")
app.add_typer(trail_app, name="trail")

# Whoever reads a path tells in one line that it cannot be read, and what to do; typer draws a box.
_path_argument = partial(typer.Argument, readable=False)
_path_option = partial(typer.Option, readable=False)
Trail = Annotated[
    Path | None, _path_option("--trail", help="The audit trail to write; else SENTINODE_TRAIL, else beside the output.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Write the result as JSON to standard output.")]


def main() -> None:
    """Run the command line; what Sentinode refuses becomes a line or two and an exit code, not a traceback."""
    sys.excepthook = _admit_a_fault_of_ours
    keep_memory()
    try:
        typer.main.get_command(app)()  # not app(), which would put a hook of typer's in the place of ours
    except (SentinodeError, OSError) as fault:
        if isinstance(fault, BrokenPipeError):  # the reader of our output has left: `sentinode ... | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(1) from None
        if "--verbose" in sys.argv:
            traceback.print_exc()
        sys.stderr.write(f"error: {_in_words(fault)}\n")
        raise SystemExit(REFUSED) from None


def _in_words(fault: SentinodeError | OSError) -> str:
    if isinstance(fault, OSError) and not isinstance(fault, SentinodeError):
        return f"{fault.filename or 'the operating system'}: {fault.strerror or fault}; see --verbose for where"
    return str(fault)


def _admit_a_fault_of_ours(kind: type[BaseException], fault: BaseException, trace: TracebackType | None) -> None:
    """Say that Sentinode is at fault, not the input: the hook for whatever nothing has caught."""
    if "--verbose" in sys.argv:
        traceback.print_exception(kind, fault, trace)
    house = str(Path(__file__).parent)
    ours = [frame for frame in traceback.extract_tb(trace) if frame.filename.startswith(house)]
    where = f" ({Path(ours[-1].filename).name}, line {ours[-1].lineno})" if ours else ""
    sys.stderr.write(
        f"internal error{where}: {kind.__name__}: {str(fault).partition(chr(10))[0]}\n"
        "This is a fault of Sentinode: please report it, with what the same command shows after sentinode --verbose\n"
    )
    raise SystemExit(INTERNAL)


def _version(wanted: bool) -> None:  # noqa: FBT001 - typer hands the flag over by position
    if wanted:
        typer.echo(f"sentinode {__version__}")
        raise typer.Exit


@app.callback()
def options(
    *,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show the log, and tracebacks of errors.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Set what holds for every command."""
    del version  # answered by its callback
    from sentinode.terminal import start_logging

    start_logging(verbose=verbose)


@app.command(epilog="Example: sentinode doctor --json")
def doctor(*, as_json: AsJson = False) -> None:
    """Look at this machine and installation, and say what to do about what is missing."""
    from sentinode.terminal import print_json, print_rows
    from sentinode.workflows.doctor import examine

    findings = examine(Path.cwd())
    if as_json:
        print_json([finding.to_json() for finding in findings])
    else:
        print_rows(("", "looked at", "found", "to do"), [(f.state, f.what, f.found, f.advice) for f in findings])
    raise typer.Exit(code=int(any(finding.state == "missing" for finding in findings)))


@data_app.command(
    "import",
    epilog="Example: sentinode data import folder MY-IMAGES --patient-pattern '(P\\d+)_' --out manifest.csv",
)
def data_import(  # noqa: PLR0913 - the options of a command
    layout: Annotated[str, typer.Argument(help="How the data lies on disk: folder, kaggle-pcam, pcam-h5 or features.")],
    root: Annotated[Path, _path_argument(help="Its folder; nothing in it is changed.")],
    *,
    out: Annotated[Path, _path_option(help="The manifest to write, .csv or .parquet.")] = Path("manifest.csv"),
    patient_pattern: Annotated[
        str | None, typer.Option(help="folder: a regular expression whose group is the patient, on the path.")
    ] = None,
    patients: Annotated[
        Path | None, _path_option(help="folder: a CSV that says whose each image is (file, patient_id).")
    ] = None,
    positive: Annotated[str | None, typer.Option(help="folder, features: the class that is looked for.")] = None,
    mpp: Annotated[float | None, typer.Option(help="folder: micrometres per pixel, where known.")] = None,
    labels: Annotated[
        Path | None, _path_option(help="features: a CSV of the slides: slide_id, label, patient_id, site.")
    ] = None,
    annotations: Annotated[
        Path | None, _path_option(help="features: a folder of drawings, by which single tiles are labelled.")
    ] = None,
    classes: Annotated[
        list[str] | None, typer.Option("--class", help="features: a drawn name and its class, e.g. Tumor=tumour.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a manifest: whose image is it, what does it show, where are its pixels."""
    from sentinode.terminal import print_json, print_manifest
    from sentinode.workflows.importing import import_data
    from sentinode.workflows.tiling import parse_classes

    manifest = import_data(
        layout,
        root,
        out,
        patient_pattern=patient_pattern,
        patients=patients,
        positive=positive,
        mpp=mpp,
        labels=labels,
        annotations=annotations,
        classes=parse_classes(classes) if classes else None,
    )
    if as_json:
        print_json({"manifest": str(out), "classes": list(manifest.classes), "images": len(manifest)})
    else:
        print_manifest(manifest.frame, manifest.classes, str(out))


@data_app.command("check", epilog="Example: sentinode data check manifest.csv --json")
def data_check(
    manifest: Annotated[Path, _path_argument(help="The manifest, .csv or .parquet.")], *, as_json: AsJson = False
) -> None:
    """Look for what would make a study untrue: faults, duplicates, shared tissue, confounding. Exit code 1: mend it."""
    from sentinode.terminal import print_check, print_json, progress
    from sentinode.workflows.checking import check_data

    with progress("checking images") as advance:
        report = check_data(manifest, advance)
    if as_json:
        print_json(report.to_json())
    else:
        print_check(report)
    raise typer.Exit(code=int(report.must_be_mended))


@data_app.command(
    "tiles", epilog="Example: sentinode data tiles SLIDES --annotations XML --mpp 1.0 --tile 96 --out manifest.csv"
)
def data_tiles(  # noqa: PLR0913 - the options of a command
    inputs: Annotated[list[Path], _path_argument(help="Slides, or folders of slides.")],
    *,
    mpp: Annotated[float, typer.Option(help="Micrometres a pixel of the tiles.")],
    tile: Annotated[int, typer.Option(help="Side of a tile in pixels.")] = 96,
    annotations: Annotated[
        Path | None, _path_option(help="Folder of drawings: ASAP XML, QuPath GeoJSON, ImageScope XML.")
    ] = None,
    slides: Annotated[
        Path | None, _path_option(help="A table of the slides: slide_id, and patient_id, site, label where known.")
    ] = None,
    classes: Annotated[
        list[str] | None, typer.Option("--class", help="A drawn name and its class, e.g. Tumor=tumour; or =exclude.")
    ] = None,
    background: Annotated[str, typer.Option(help="The class where nothing was drawn.")] = "normal",
    unannotated: Annotated[
        Literal["refuse", "background", "leave-out"],
        typer.Option(help="What becomes of slides without a drawing."),
    ] = "refuse",
    rule: Annotated[Literal["centre", "area"], typer.Option(help="What of a tile decides.")] = "centre",
    minimum: Annotated[float, typer.Option(help="Share from which on a tile has the class; 0: any.")] = 0.0,
    ambiguous: Annotated[float, typer.Option(help="Share up to which it has none; between: left out.")] = 0.0,
    overlap: Annotated[float, typer.Option(help="Share of its side that a tile shares with the next.")] = 0.0,
    slide_mpp: Annotated[float | None, typer.Option(help="Micrometres a pixel of the slides' files.")] = None,
    mpp_table: Annotated[Path | None, _path_option(help="The same for each: a CSV with slide,mpp.")] = None,
    out: Annotated[Path, _path_option(help="The manifest to write, .csv or .parquet.")] = Path("manifest.csv"),
    as_json: AsJson = False,
) -> None:
    """Make a manifest of the tiles of slides, labelled by what was drawn on them; nothing is cut to disk."""
    from sentinode.terminal import print_json, print_tiles, progress
    from sentinode.workflows.slide_inputs import mpp_wish
    from sentinode.workflows.tiling import TilesWish, make_tiles, parse_classes

    wish = TilesWish(
        mpp,
        tile,
        annotations,
        slides,
        parse_classes(classes or []),
        background,
        unannotated,
        rule,
        minimum,
        ambiguous,
        overlap,
        slide_mpp=mpp_wish(slide_mpp, mpp_table),
    )
    with progress("looking for tissue") as advance:
        report = make_tiles(inputs, out, wish, advance)
    if as_json:
        print_json({"manifest": str(out), "slides": [dict(one) for one in report.slides], **dict(report.left_out)})
    else:
        print_tiles(report.slides, report.left_out, report.notes, str(out))


@app.command(epilog="Example: sentinode phantom cohort --patients 12 --sites 2")
def phantom(
    out: Annotated[Path, _path_argument(help="The folder to make.")],
    *,
    patients: Annotated[int, typer.Option(help="How many patients.")] = 12,
    patches: Annotated[int | None, typer.Option(help="Draw so many patches of each patient, and no slides.")] = None,
    sites: Annotated[int, typer.Option(help="Laboratories, each with its stain and scanner.")] = 2,
    preset: Annotated[str, typer.Option(help="10x (1.0 micrometre a pixel) or 40x (0.25).")] = "10x",
    size: Annotated[int | None, typer.Option(help="Side of each slide in pixels, up to 100000.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed, the same cohort.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Draw synthetic slides of lymph nodes, normal and cancerous, with their truth; or patches with a manifest."""
    from sentinode.terminal import print_json, progress, say
    from sentinode.workflows.phantom_slides import write_phantom_slides
    from sentinode.workflows.phantoms import draw_phantom_patches

    with progress("drawing") as advance:
        if patches is None:
            table = write_phantom_slides(
                out, patients=patients, sites=sites, preset=preset, seed=seed, size=size, on_progress=advance
            )
        else:
            table = draw_phantom_patches(
                out, patients=patients, patches=patches, sites=sites, preset=preset, seed=seed, on_progress=advance
            )
    if as_json:
        print_json({"table": str(table), "patients": patients, "synthetic": True})
    else:
        say(f"wrote {table} (synthetic)")


@app.command(epilog="Example: sentinode demo --out demo")
def demo(
    *,
    out: Annotated[Path, _path_option(help="The folder for everything.")] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Another seed, another cohort and study.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Run the whole path on synthetic cohorts: draw, check, compare, train, recognise held-out slides, report."""
    from sentinode.terminal import demo_progress, print_demo, print_json
    from sentinode.workflows.demo import run_demo

    with demo_progress() as listen:
        result = run_demo(out, seed, listen)
    if as_json:
        print_json(result.to_json())
    else:
        print_demo(result)
    raise typer.Exit(code=int(not result.complete))


@app.command(epilog="Example: sentinode train manifest.csv --set epochs=6 --out model")
def train(  # noqa: PLR0913 - the options of a command
    manifest: Annotated[Path, _path_argument(help="Images to learn from: a manifest, .csv or .parquet.")],
    *,
    out: Annotated[Path, _path_option(help="The folder of the model to write; the same one goes on when interrupted.")],
    algorithm: Annotated[str, typer.Option(help="The recipe: see sentinode algorithm list.")] = "imagenet-cnn",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of the recipe, e.g. epochs=30; may be repeated.")
    ] = None,
    test: Annotated[float, typer.Option(help="Share of the patients kept apart to measure the model.")] = 0.25,
    stop: Annotated[float, typer.Option(help="Share of the patients that decide when training stops.")] = 0.15,
    unknown: Annotated[str, typer.Option(help="Images of unknown patients: leave-out or train.")] = "leave-out",
    mpp: Annotated[float | None, typer.Option(help="Micrometres a pixel, where the manifest does not say.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed, the same patients and weights.")] = 1,
    calibrate: Annotated[float, typer.Option(help="Share of the patients to calibrate on, e.g. 0.15; 0: none.")] = 0.0,
    certify: Annotated[float, typer.Option(help="Share of the patients to certify a triage on; 0: no promise.")] = 0.0,
    alpha: Annotated[float, typer.Option(help="Triage: share of patients with a tumour that may be missed.")] = 0.01,
    delta: Annotated[float, typer.Option(help="Triage: probability with which its promise may be broken.")] = 0.05,
    by_site: Annotated[
        bool, typer.Option("--by-site", help="Triage: a promise for each site, too, from its own patients.")
    ] = False,
    encoder: Annotated[
        Path | None, _path_option(help="A TOML file that states a local encoder: the recipe is a head on its features.")
    ] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="Quantise, too; offered where the calibrate part says that nothing is lost.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train a recogniser, measure it on patients kept apart, and write it as a model."""
    from sentinode.terminal import (
        print_calibration,
        print_evaluation,
        print_int8,
        print_json,
        print_promises,
        training_progress,
    )
    from sentinode.workflows.training import TrainingWish, parse_settings, train_model

    known = parse_settings(settings or [])
    wish = TrainingWish(
        algorithm,
        known,
        test=test,
        stop=stop,
        unknown=unknown,
        mpp=mpp,
        seed=seed,
        calibrate=calibrate,
        certify=certify,
        alpha=alpha,
        delta=delta,
        by_site=by_site,
        encoder=encoder,
        int8=int8,
    )
    with training_progress() as listen:
        bundle = train_model(manifest, out, wish, listen)
    if as_json:
        print_json({"model": str(out), "digest": bundle.digest, **bundle.facts.model_dump(mode="json")})
    else:
        print_evaluation(bundle.facts.metrics, bundle.facts.data.n_patients.get("test", 0), str(out))
        print_calibration(bundle.facts.calibration)
        print_promises(bundle.facts.promises)
        print_int8(bundle.facts.int8)


@app.command(
    epilog="Example: sentinode evaluate SLIDES --model model --froc --truth XML --slides slides.csv --out measured"
)
def evaluate(  # noqa: PLR0913 - the options of a command
    inputs: Annotated[
        list[Path], _path_argument(help="A manifest of labelled images; with --froc, slides or folders of slides.")
    ],
    *,
    model: Annotated[Path, _path_option(help="The folder that sentinode train wrote.")],
    predictions: Annotated[Path | None, _path_option(help="A CSV to write: each image, its probabilities.")] = None,
    froc: Annotated[
        bool, typer.Option("--froc", help="Measure on slides: lesions found against false alarms a slide, slide AUC.")
    ] = False,
    truth: Annotated[
        Path | None, _path_option(help="--froc: folder of drawings (XML, GeoJSON) or masks (TIFF, PNG) of the slides.")
    ] = None,
    slides: Annotated[
        Path | None, _path_option(help="--froc: a table of the slides: slide_id, patient_id, label where known.")
    ] = None,
    no_truth_is_normal: Annotated[
        bool, typer.Option("--no-truth-is-normal", help="--froc: a slide without drawing and mask has no lesion.")
    ] = False,
    classes: Annotated[
        list[str] | None, typer.Option("--class", help="--froc: a drawn name and its class, e.g. Tumor=tumour.")
    ] = None,
    allow_atypical: Annotated[
        bool, typer.Option("--allow-atypical", help="--froc: measure slides that are unlike the training's, too.")
    ] = False,
    mask_value: Annotated[int | None, typer.Option(help="--froc: the value of tumour in the masks.")] = None,
    radius: Annotated[float, typer.Option(help="--froc: micrometres around a detection without another.")] = 187.0,
    out: Annotated[
        Path | None, _path_option(help="--froc: folder for everything; may be one of sentinode predict.")
    ] = None,
    mpp: Annotated[float | None, typer.Option(help="--froc: micrometres a pixel of the slides.")] = None,
    mpp_table: Annotated[Path | None, _path_option(help="--froc: a CSV with the columns slide,mpp.")] = None,
    trail: Trail = None,
    as_json: AsJson = False,
) -> None:
    """Measure a model on images or slides that it has not seen, with intervals over patients; refuses the others."""
    from sentinode.terminal import print_evaluation, print_json, progress
    from sentinode.workflows.evaluating import evaluate_model, the_manifest

    if froc:
        from sentinode.workflows.slide_evaluation import slide_evaluation_wish

        wish = slide_evaluation_wish(
            truth,
            slides,
            classes or [],
            (mpp, mpp_table),
            mask_value=mask_value,
            no_truth_is_normal=no_truth_is_normal,
            allow_atypical=allow_atypical,
            radius_um=radius,
        )
        _evaluate_slides(inputs, model, wish, out, as_json=as_json)
        return
    manifest = the_manifest(inputs, for_slides=(truth, slides, out))
    with progress("recognising") as advance:
        found = evaluate_model(manifest, model, predictions=predictions, on_progress=advance, trail=trail)
    if as_json:
        print_json(found.to_json())
    else:
        shown = {**found.metrics, **{name: found.calibration[name] for name in ("ece", "rms_corrected")}}
        print_evaluation(shown, found.n_patients, str(model), n_unknown=found.n_unknown, notes=found.notes)


def _evaluate_slides(
    inputs: list[Path], model: Path, wish: "SlideEvaluationWish", out: Path | None, *, as_json: bool
) -> None:
    from sentinode.terminal import prediction_progress, print_json, print_slide_evaluation
    from sentinode.workflows.slide_evaluation import evaluate_slides

    with prediction_progress() as listen:
        found = evaluate_slides(inputs, model, wish, out, listen)
    if as_json:
        print_json(found.to_json())
    else:
        print_slide_evaluation(found, out)
    raise typer.Exit(code=int(bool(found.failures)))


@app.command(epilog="Example: sentinode predict SLIDES --model model --out answers")
def predict(  # noqa: PLR0913 - the options of a command
    inputs: Annotated[list[Path], _path_argument(help="Slides or patches, or folders of either.")],
    *,
    model: Annotated[Path, _path_option(help="The folder that sentinode train wrote.")],
    out: Annotated[Path, _path_option(help="The folder for the answers; the same one goes on after an interruption.")],
    mpp: Annotated[float | None, typer.Option(help="Micrometres a pixel of the slides, e.g. 0.25 for 40x.")] = None,
    mpp_table: Annotated[Path | None, _path_option(help="A CSV with the columns slide,mpp.")] = None,
    mpp_from_objective: Annotated[
        bool, typer.Option(help="Take the objective power where a file has no mpp: right to about 15 %.")
    ] = False,
    overlap: Annotated[float, typer.Option(help="Share of its side that a tile shares with the next.")] = 0.0,
    check_quality: Annotated[bool, typer.Option(help="Leave out blurred, inked and folded tiles.")] = True,
    allow_atypical: Annotated[
        bool, typer.Option("--allow-atypical", help="Go on, at your own risk, where tissue is unlike the training's.")
    ] = False,
    overlay: Annotated[bool, typer.Option(help="Write the heatmap on the tissue as a pyramid, too.")] = True,
    heatmap: Annotated[
        Literal["tiles", "dense"],
        typer.Option(help="dense: a point every few pixels, by running the network over large fields, too."),
    ] = "tiles",
    maps: Annotated[
        bool, typer.Option("--maps", help="Show in the gallery of a slide what each answer rests on, too.")
    ] = False,
    precision: Annotated[
        Literal["auto", "float32", "int8"],
        typer.Option(help="auto: bf16 where the CPU computes in it and stays close; int8: of a model that offers it."),
    ] = "auto",
    site: Annotated[str, typer.Option(help="Where the slides are from: sort them by the promise for that site.")] = "",
    first_look: Annotated[
        bool,
        typer.Option("--first-look", help="Spare the network the tiles that a fitted first look calls unsuspicious."),
    ] = False,
    profile: Annotated[bool, typer.Option("--profile", help="Say where the time went.")] = False,
    trail: Trail = None,
    as_json: AsJson = False,
) -> None:
    """Recognise slides: a verdict, the fields to look at first, a heatmap, a report for each.

    Images of the very size that the model takes are patches: they get a table and a page together.
    """
    from sentinode.models.bundle import read_bundle
    from sentinode.slides.tile_loops import compiled_before
    from sentinode.terminal import (
        prediction_progress,
        print_json,
        print_patches,
        print_profile,
        print_slides,
        progress,
        say,
    )
    from sentinode.workflows.predicting import PredictionWish, int8_is_left_out, predict_slides
    from sentinode.workflows.predicting_patches import find_patches, predict_patches
    from sentinode.workflows.slide_inputs import mpp_wish

    bundle = read_bundle(model)
    patches = find_patches(inputs, bundle)
    slides = [one for one in inputs if one not in patches]
    if patches and slides:
        raise PlanError(f"{patches[0]} is of patches, and {slides[0]} is not: recognise them in two calls")
    if patches:
        _require_of_patches(
            patches[0],
            {
                "--site is of slides: nothing is sorted that is a patch": bool(site),
                "--maps is of slides: look into one with sentinode explain": maps,
                "--heatmap is of slides: a patch is one point of a map": heatmap == "dense",
                "--first-look is of slides: a patch is always recognised": first_look,
            },
        )
    if not compiled_before():
        say("compiling what looks at every pixel, once on this machine: some ten seconds")
    if not first_look and int8_is_left_out(bundle, precision):  # a first look holds for what it was fitted with
        say("this CPU does not compute in bf16, and the model offers int8: --precision int8 may be quicker")
    if patches:
        with progress("recognising patches") as advance:
            found = predict_patches(
                patches,
                bundle,
                out,
                mpp=mpp,
                precision=precision,
                allow_atypical=allow_atypical,
                trail=trail,
                on_progress=advance,
            )
        if as_json:
            print_json(found.to_json())
        else:
            print_patches(found, out)
        raise typer.Exit(code=int(bool(found.failures)))
    wish = PredictionWish(
        mpp_wish(mpp, mpp_table, from_objective=mpp_from_objective),
        overlap=overlap,
        check_quality=check_quality,
        allow_atypical=allow_atypical,
        overlay=overlay,
        heatmap=heatmap,
        maps=maps,
        precision=precision,
        site=site,
        first_look=first_look,
    )
    with prediction_progress() as listen:
        run = predict_slides(inputs, bundle, out, wish, listen, trail)
    if as_json:
        print_json({"slides": [dict(one) for one in run.results], "failures": dict(run.failures)})
    else:
        print_slides(run.results, run.failures, out)
        if profile:
            print_profile(run.results)
    raise typer.Exit(code=int(bool(run.failures)))


def _require_of_patches(patch: Path, wishes: Mapping[str, bool]) -> None:
    for why, wished in wishes.items():
        if wished:
            raise PlanError(f"{patch} is of patches, and {why}")


@app.command(epilog="Example: sentinode explain slide.svs --at 12034,5120 --model model --out explained")
def explain(
    image: Annotated[Path, _path_argument(help="A patch; with --at, a slide.")],
    *,
    model: Annotated[Path, _path_option(help="The folder that sentinode train wrote.")],
    out: Annotated[Path, _path_option(help="The folder to write.")],
    at: Annotated[
        str | None, typer.Option(metavar="X,Y", help="Centre of the tile on the slide, in level-0 pixels.")
    ] = None,
    mpp: Annotated[float | None, typer.Option(help="Micrometres a pixel of the slide, where it does not say.")] = None,
    as_json: AsJson = False,
) -> None:
    """Look into one tile: where the answer comes from, and what each layer of the network made of it."""
    from sentinode.slides.resolution import MppWish
    from sentinode.terminal import print_explanation, print_json, progress
    from sentinode.workflows.explaining import explain as look_into
    from sentinode.workflows.explaining import parse_place

    place = None if at is None else parse_place(at)
    with progress("asking the model") as advance:
        found = look_into(image, model, out, place, MppWish(mpp), advance)
    if as_json:
        print_json(found.to_json())
    else:
        print_explanation(found.to_json(), out)


@app.command(epilog="Example: sentinode triage others.csv --model model --prevalence 0.2 --out triage")
def triage(  # noqa: PLR0913 - the options of a command
    manifest: Annotated[
        Path, _path_argument(help="Labelled slides or patches of patients whom the model has not seen.")
    ],
    *,
    model: Annotated[Path, _path_option(help="The folder that sentinode train wrote.")],
    prevalence: Annotated[float, typer.Option(help="Share of the slides to be read that have a tumour.")],
    alpha: Annotated[float, typer.Option(help="Share of patients with a tumour that may be missed.")] = 0.01,
    delta: Annotated[float, typer.Option(help="Probability with which a confident promise may be broken.")] = 0.05,
    by_site: Annotated[bool, typer.Option("--by-site", help="A promise for each site, too.")] = False,
    mpp_table: Annotated[Path | None, _path_option(help="A CSV with the columns slide,mpp.")] = None,
    out: Annotated[Path | None, _path_option(help="A folder to write: page, tables, curve.")] = None,
    trail: Trail = None,
    as_json: AsJson = False,
) -> None:
    """Say which slides need not be read first, what is promised of them, and what that saves."""
    from sentinode.terminal import print_json, print_triage, progress
    from sentinode.workflows.slide_inputs import mpp_wish
    from sentinode.workflows.triaging import TriageWish, triage_manifest

    wish = TriageWish(prevalence, alpha, delta, by_site, None if mpp_table is None else mpp_wish(None, mpp_table))
    with progress("recognising") as advance:
        found = triage_manifest(manifest, model, wish, out=out, on_progress=advance, trail=trail)
    if as_json:
        print_json(found.to_json())
    else:
        print_triage(found, out)


@app.command(epilog="Example: sentinode slide-score SLIDES --model model --slides slides.csv --out model-for-slides")
def slide_score(
    inputs: Annotated[list[Path], _path_argument(help="Slides, or folders of slides, that the model has not seen.")],
    *,
    model: Annotated[Path, _path_option(help="The folder that sentinode train wrote.")],
    slides: Annotated[Path, _path_option(help="A table of the slides: slide_id, label, patient_id where known.")],
    out: Annotated[Path, _path_option(help="The folder of the model to write: the same one, with the score.")],
    answers: Annotated[Path | None, _path_option(help="A folder of sentinode predict; is taken as it is.")] = None,
    as_json: AsJson = False,
) -> None:
    """Fit how tiles are put together to the score of a slide, on slides that the model has not seen."""
    from sentinode.terminal import prediction_progress, print_json, print_slide_scoring
    from sentinode.workflows.slide_scoring import fit_slide_score

    with prediction_progress() as listen:
        found = fit_slide_score(inputs, model, slides, out, answers, listen)
    if as_json:
        print_json(found.to_json())
    else:
        print_slide_scoring(found)
    raise typer.Exit(code=int(bool(found.failures)))


@app.command(epilog="Example: sentinode first-look ARCHIVE --model model --out quicker-model")
def first_look(  # noqa: PLR0913 - the options of a command
    inputs: Annotated[list[Path], _path_argument(help="Slides, or folders of slides, that the model has not seen.")],
    *,
    model: Annotated[Path, _path_option(help="The folder that sentinode train wrote.")],
    out: Annotated[Path, _path_option(help="The folder of the model to write: the same one, with the first look.")],
    slides: Annotated[Path | None, _path_option(help="A table of the slides: slide_id, patient_id.")] = None,
    alpha: Annotated[
        float, typer.Option(help="Share of the suspicious tiles that may be lost, on the mean over patients.")
    ] = 0.01,
    delta: Annotated[float, typer.Option(help="Probability with which that may be broken.")] = 0.05,
    average: Annotated[
        bool,
        typer.Option("--average", help="Let it hold on average, and not with a probability: fewer patients will do."),
    ] = False,
    mpp: Annotated[float | None, typer.Option(help="Micrometres a pixel of the slides, e.g. 0.25 for 40x.")] = None,
    mpp_table: Annotated[Path | None, _path_option(help="A CSV with the columns slide,mpp.")] = None,
    as_json: AsJson = False,
) -> None:
    """Fit which tiles the network need not see, on slides without labels. Exit code 1: none, or a slide failed."""
    from sentinode.terminal import prediction_progress, print_first_look, print_json
    from sentinode.workflows.first_looking import fit_first_look_on
    from sentinode.workflows.slide_inputs import mpp_wish

    with prediction_progress() as listen:
        found = fit_first_look_on(
            inputs,
            model,
            out,
            table=slides,
            alpha=alpha,
            delta=None if average else delta,
            mpp=mpp_wish(mpp, mpp_table, from_objective=False),
            on_event=listen,
        )
    if as_json:
        print_json(found.to_json())
    else:
        print_first_look(found)
    raise typer.Exit(code=int(bool(found.failures) or bool(found.missing)))


@app.command(epilog="Example: sentinode drift NEW-SLIDES --model model --out drift")
def drift(
    inputs: Annotated[
        list[Path],
        _path_argument(help="New slides, or folders of slides, in the order they came; or a manifest."),
    ],
    *,
    model: Annotated[Path, _path_option(help="The folder that sentinode train wrote.")],
    alarm: Annotated[float, typer.Option(help="Probability of a false alarm, ever.")] = 0.01,
    mpp: Annotated[float | None, typer.Option(help="Micrometres a pixel, where a file does not say.")] = None,
    out: Annotated[Path | None, _path_option(help="A folder to write: drift.html, drift.csv, drift.json.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say whether scanner, stain or case mix changed since the training. Exit code 1: it did, or a case failed."""
    from sentinode.terminal import print_drift, print_json, progress
    from sentinode.workflows.drifting import find_drift
    from sentinode.workflows.slide_inputs import mpp_wish

    with progress("looking") as advance:
        found = find_drift(inputs, model, alarm, mpp=mpp_wish(mpp, None), out=out, on_progress=advance)
    if as_json:
        print_json(found.to_json())
    else:
        print_drift(found, out)
    raise typer.Exit(code=int(found.test.alarmed_at is not None or bool(found.failures)))


@app.command(epilog="Example: sentinode bench slide.svs --part reading --json")
def bench(
    slide: Annotated[Path | None, _path_argument(help="A slide; without one, a synthetic one is drawn.")] = None,
    *,
    part: Annotated[
        list[str] | None,
        typer.Option(help="reading, between levels, runtime, end to end, training or memory; may be repeated."),
    ] = None,
    repeats: Annotated[int, typer.Option(help="How often each pair of ways is run.")] = 3,
    tiles: Annotated[int, typer.Option(help="Tiles of each run.")] = 192,
    mpp: Annotated[float | None, typer.Option(help="Micrometres a pixel, where the file does not say.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure how fast this machine reads, recognises and trains, against the plain ways, as ratios of one run."""
    from sentinode.terminal import print_bench, print_json, progress
    from sentinode.workflows.bench import BenchWish, run_bench
    from sentinode.workflows.slide_inputs import mpp_wish

    wish = BenchWish(tuple(part or ()), repeats, tiles, mpp_wish(mpp, None, from_objective=False))
    with progress("measuring") as advance:
        found = run_bench(slide, wish, advance)
    if as_json:
        print_json(found.to_json())
    else:
        print_bench(found)


@trail_app.command("verify", epilog="Example: sentinode trail verify answers/trail.jsonl")
def trail_verify(
    file: Annotated[Path, _path_argument(help="A trail.jsonl.")],
    *,
    head: Annotated[str | None, typer.Option(help="SHA-256 of its last line as it was kept elsewhere.")] = None,
    as_json: AsJson = False,
) -> None:
    """Look for lines that were changed, removed or inserted. Exit code 1: there are some."""
    from sentinode.terminal import print_json, print_trail
    from sentinode.workflows.trail import verify_trail

    report = verify_trail(file, head)
    if as_json:
        print_json(report.to_json())
    else:
        print_trail(report, file)
    raise typer.Exit(code=int(bool(report.faults)))


@study_app.command("run", epilog="Example: sentinode study run study.toml --out results")
def study_run(
    plan: Annotated[Path, _path_argument(help="The plan, a TOML file.")],
    *,
    out: Annotated[Path, _path_option(help="The folder of the study; the same one goes on after an interruption.")],
    as_json: AsJson = False,
) -> None:
    """Compare algorithms over repeated, paired runs; what is finished is never done again."""
    from sentinode.terminal import study_progress
    from sentinode.workflows.studying import run_study_from

    with study_progress() as listen:
        table = run_study_from(plan, out, listen)
    _show_study(table, out, as_json=as_json)


@study_app.command("table", epilog="Example: sentinode study table results --json")
def study_table(
    folder: Annotated[Path, _path_argument(help="The folder of a study, finished or not.")], *, as_json: AsJson = False
) -> None:
    """Make the table and the report of a study once more, from what is stored."""
    from sentinode.workflows.studying import tabulate

    _show_study(tabulate(folder), folder, as_json=as_json)


@study_app.command("curve", epilog="Example: sentinode study curve study.toml --out curve")
def study_curve(
    plan: Annotated[Path, _path_argument(help="The plan, a TOML file; [curve] says at which sizes.")],
    *,
    out: Annotated[Path, _path_option(help="The folder of the curve; the same one goes on after an interruption.")],
    as_json: AsJson = False,
) -> None:
    """Train on fewer and fewer patients and patches, and say what twice as many would bring."""
    from sentinode.terminal import print_curve, print_json, study_progress
    from sentinode.workflows.studying import run_curve_from

    with study_progress() as listen:
        table = run_curve_from(plan, out, listen)
    if as_json:
        print_json(table.to_json())
    else:
        print_curve(table, out)
    raise typer.Exit(code=int(not table.complete))


def _show_study(table: "StudyTable", folder: Path, *, as_json: bool) -> None:
    from sentinode.terminal import print_json, print_study

    if as_json:
        print_json(table.to_json())
    else:
        print_study(table, folder)
    raise typer.Exit(code=int(not table.complete))


@algorithm_app.command("list", epilog="Example: sentinode algorithm list --size 96")
def algorithm_list(
    *,
    size: Annotated[int, typer.Option(min=8, max=4096, help="Side of the images in pixels.")] = 96,
    as_json: AsJson = False,
) -> None:
    """List the recipes that can be trained and compared."""
    from sentinode.terminal import print_json, print_rows
    from sentinode.workflows.describing import describe_all

    found = describe_all(size)
    if as_json:
        print_json([description.to_json() for description in found])
    else:
        rows = [(d.name, f"{d.parameters:,}", f"{d.multiply_adds:,}", d.summary) for d in found]
        print_rows(("algorithm", "parameters", "multiply-adds", "what it is"), rows)


@algorithm_app.command("show", epilog="Example: sentinode algorithm show paper-cnn --size 96")
def algorithm_show(
    name: Annotated[str, typer.Argument(help="An algorithm, or a study.toml: all of that plan.")],
    *,
    size: Annotated[int, typer.Option(min=8, max=4096, help="Side of the images in pixels.")] = 96,
    as_json: AsJson = False,
) -> None:
    """Show a recipe layer by layer: output, parameters, multiply-adds; and what can be set."""
    from sentinode.terminal import print_description, print_json
    from sentinode.workflows.describing import describe

    found = describe(name, size)
    if as_json:
        print_json([description.to_json() for description in found])
        return
    for description in found:
        print_description(description)


if __name__ == "__main__":
    main()
