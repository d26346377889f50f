"""Write the tables and figures of the studies on real patches for ``docs/results``.

    sentinode data import kaggle-pcam ../shared/data/pcam --out build/pcam/manifest.csv
    sentinode study run benchmarks/pcam/patients.toml --out build/pcam/patients     # and the other plans
    sentinode study curve benchmarks/pcam/curve.toml --out build/pcam/curve          # of plans with a [curve]
    python benchmarks/pcam/write_results.py

The tables and figures of ``docs/results/founding-experiment.md`` are taken in from the files that this writes; the
numbers in its prose are copied from them.
"""

import sys
import tomllib
from pathlib import Path

from sentinode.report.figures import learning_curves, to_svg
from sentinode.report.study_page import accuracy_drawing
from sentinode.study.curve import curve_rows, in_words, summarise_curve
from sentinode.study.printing import Grid, grids, write_csv
from sentinode.study.store import read_study
from sentinode.study.table import StudyTable, summarise

ROOT = Path(__file__).parents[2]
OUT = ROOT / "docs" / "results" / "pcam"


def main() -> None:
    """Write what there is, study by study."""
    OUT.mkdir(parents=True, exist_ok=True)
    for plan in sorted(Path(__file__).parent.glob("*.toml")):
        folder = ROOT / "build" / "pcam" / plan.stem
        if "curve" in tomllib.loads(plan.read_text(encoding="utf-8")):
            _write_curve(plan, folder)
            continue
        if not (folder / "study.json").exists():
            print(f"{plan.stem}: not run yet; sentinode study run {plan} --out {folder}", file=sys.stderr)
            continue
        table = summarise(folder)
        write_csv(table, OUT / f"{plan.stem}.csv")
        (OUT / f"{plan.stem}.md").write_text(_markdown(table, read_study(folder).n_trials), encoding="utf-8")
        (OUT / f"{plan.stem}.svg").write_text(accuracy_drawing(table), encoding="utf-8")
        print(f"wrote {OUT / plan.stem}.*")


def _write_curve(plan: Path, folder: Path) -> None:
    if not (folder / "learning-curve.json").exists():
        print(f"{plan.stem}: not run yet; sentinode study curve {plan} --out {folder}", file=sys.stderr)
        return
    table, parts = summarise_curve(folder), []
    for axis in dict.fromkeys(axis for axis, _, _ in table.curves):
        mine = {name: curve for (on, name, of), curve in table.curves.items() if (on, of) == (axis, "auc")}
        drawing = to_svg(learning_curves(mine, unit=f"{axis} to train on", label="1 - AUC", logarithmic=True))
        (OUT / f"{plan.stem}-{axis}.svg").write_text(drawing, encoding="utf-8")
        header, rows = curve_rows(table, axis)
        lines = [header, ("---",) + ("---:",) * (len(header) - 1), *rows]
        words = [f"- {in_words(key, curve)}" for key, curve in table.curves.items() if key[0] == axis]
        parts += ["\n".join("| " + " | ".join(line) + " |" for line in lines), "\n".join(words)]
    facts = ", ".join(f"{name} `{table.facts[name][:12]}`" for name in ("plan", "data", "splits"))
    (OUT / f"{plan.stem}.md").write_text("\n\n".join([*parts, f"*Digests: {facts}.*"]) + "\n", encoding="utf-8")
    print(f"wrote {OUT / plan.stem}*")


def _markdown(table: StudyTable, n_trials: int) -> str:
    done = int(table.costs["n_repeats"].sum())
    parts = [_grid(grid) for grid in grids(table)]
    notes = [f"*Note: {note}*" for note in table.notes]
    environment = ", ".join(f"{key} {value}" for key, value in table.facts["environment"].items())
    facts = (
        f"*{done} of {n_trials} trials. Plan `{str(table.facts['plan'])[:12]}`, data "
        f"`{str(table.facts['data'])[:12]}`, splits `{str(table.facts['splits'])[:12]}`. {environment}.*"
    )
    return "\n\n".join([*parts, *notes, facts]) + "\n"


def _grid(grid: Grid) -> str:
    rows = [grid.header, ["---"] + ["---:"] * (len(grid.header) - 1), *grid.rows]
    return f"**{grid.title}**\n\n" + "\n".join("| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


if __name__ == "__main__":
    main()
