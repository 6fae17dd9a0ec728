"""`app.py train` as a person presses it again after a crash: go on with the run in a folder, or begin it.

python -m tests.reliability.again FOLDER MODEL ROWS
"""

from __future__ import annotations

import sys
from pathlib import Path

import app


def main() -> int:
    """Train, and end as app.py does."""
    place, model, rows = Path(sys.argv[1]), *sys.argv[2:]
    run, home = place / "run", ["--home", str(place / "home")]
    if (run / "config.json").exists():
        return app.main([*home, "train", "--resume", str(run)])
    settings = {
        "model": model, "dataset": rows, "output_dir": run, "model_name": "x", "max_steps": 4, "save_steps": 1,
        "gradient_accumulation_steps": 2, "probe_steps": 0, "prove": "false", "rehearsal": "off", "stop_when_taken": "false",
    }  # fmt: skip
    return app.main([*home, "train", *(str(word) for name, value in settings.items() for word in (f"--{name}", value))])


if __name__ == "__main__":
    sys.exit(main())
