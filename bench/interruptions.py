"""Kill `cairn make PLAN` with SIGKILL at random moments, go on, and compare all digests.

    python bench/interruptions.py plans/pico.py --kills 10 [a.b=c ...]

Prints one JSON line; exits with 1 where an artifact differs from that of an undisturbed run.
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def digests(folder: Path) -> dict[str, str]:
    """Digest of each finished artifact below a run's folder."""
    found = sorted(folder.glob("*/manifest.json"))
    return {path.parent.name: json.loads(path.read_text())["digest"] for path in found}


def run_with_kills(command: list[str], moments: list[float]) -> int:
    """Run the command again and again, killed after each of `moments` seconds; then to its end.

    Returns how many of the kills met a running process.
    """
    met = 0
    for moment in moments:
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            child.wait(moment)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
            child.wait()
            met += 1
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return met


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("plan", type=Path, nargs="?", default=Path("plans/pico.py"))
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="keep the runs here (default: temporary)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        command = [sys.executable, "-m", "cairn", "make", str(options.plan), *options.overrides]
        begin = time.monotonic()
        whole = [*command, "--runs", str(folder / "whole")]
        subprocess.run(whole, check=True, stdout=subprocess.DEVNULL)
        seconds = time.monotonic() - begin
        # Each life lasts up to twice its share, so that the kills spread over the whole run.
        rng = random.Random(options.seed)
        moments = [rng.uniform(0.3, 2 * seconds / options.kills) for _ in range(options.kills)]
        met = run_with_kills([*command, "--runs", str(folder / "cut")], moments)
        expected = digests(folder / "whole" / options.plan.stem)
        found = digests(folder / "cut" / options.plan.stem)
    different = sorted(name for name in expected if found.get(name) != expected[name])
    line = {
        "bench": "interruptions",
        "plan": str(options.plan),
        "seconds_undisturbed": round(seconds, 1),
        "kills": met,
        "artifacts": len(expected),
        "different": different,
    }
    print(json.dumps(line))
    return 1 if different or not expected else 0


if __name__ == "__main__":
    raise SystemExit(main())
