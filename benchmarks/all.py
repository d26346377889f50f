"""Run the benchmarks that take minutes, one after another; `make bench` calls this. What each shows stands in its head.

The studies on real patches take hours and are started by hand: see docs/results.
"""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
REAL = HERE.parents[1] / "shared" / "data" / "pcam"
BENCHMARKS = (
    ("speed.py",),
    ("training_speed.py",),
    ("slide_score.py",),
    ("phantom_difficulty.py", "--preset", "10x", "--seeds", "1"),
    ("interval_coverage.py", "19", "100"),
    ("triage_simulation.py",),
    ("overlap_search.py", str(REAL)),
)


def main() -> int:
    """Run them; the first that fails decides the exit code."""
    for name, *arguments in BENCHMARKS:
        if str(REAL) in arguments and not REAL.exists():
            print(f"{name}: left out, the real patches are not here", flush=True)
            continue
        print(f"\n== {name} {' '.join(arguments)}", flush=True)
        done = subprocess.run([sys.executable, str(HERE / name), *arguments], check=False)
        if done.returncode:
            return done.returncode
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
