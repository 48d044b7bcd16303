"""Measure the kernels against their peers and limits: `make bench`, or `python benchmarks/run.py NAME …`, or with `--studies`.

Every module of this folder but this one offers `measure() -> list[dict]`; a row holds

    kernel     what was measured, with its size
    ours       our figure, with its unit
    peer       the peer or the limit, and its figure on the same input in the same run
    ratio      peer / ours: above 1 we are ahead, for a limit 1 is the best possible
    spread     [lowest, highest] ratio of the repetitions
    agreement  how the two results were compared before they were timed
    note       what a reader should know

Modules that train networks over many seeds, or whole language models, and measure errors rather than times, say
`STUDY = True`; they take minutes each and run when they are named, or all with `make studies`.

`quantization_formats` needs torchao and bitsandbytes, which `make bench` puts into `.venv/oracles` and on the path.

Results go to `results/<module>.json`, written whole or not at all.
"""
import datetime
import importlib
import json
import os
import platform
import sys
import time
from pathlib import Path

import torch

HERE = Path(__file__).parent
FIELDS = ("kernel", "ours", "peer", "ratio", "spread", "agreement", "note")


def machine() -> dict:
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [x.split(":", 1)[1].strip() for x in info.read_text().splitlines()
                 if x.startswith("model name")]
        cpu = names[0] if names else cpu
    return {"cpu": cpu, "cores": os.cpu_count(), "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "python": platform.python_version(), "torch": torch.__version__,
            "date": datetime.date.today().isoformat()}


def write(path: Path, content: dict) -> None:
    path.parent.mkdir(exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    os.replace(part, path)


def table(rows: list[dict]) -> str:
    lines = [("kernel", "ours", "peer or limit", "ratio", "spread", "agreement")]
    for r in rows:
        lines.append((r["kernel"], r["ours"], r["peer"], f"{r['ratio']:.3g}",
                      "{:.3g}–{:.3g}".format(*r["spread"]), r["agreement"]))
    widths = [max(len(row[k]) for row in lines) for k in range(len(lines[0]))]
    return "\n".join("  ".join(x.ljust(w) for x, w in zip(row, widths)) for row in lines)


def main(names: list[str], studies: bool) -> None:
    sys.path.insert(0, str(HERE))
    found = sorted(p.stem for p in HERE.glob("*.py") if p.stem not in ("run", "timing"))
    if unknown := set(names) - set(found):
        sys.exit(f"no such benchmark: {', '.join(sorted(unknown))}; there are {', '.join(found)}")
    for name in names or found:
        module = importlib.import_module(name)
        if not names and getattr(module, "STUDY", False) != studies:
            continue
        print(f"== {name}", flush=True)
        start = time.perf_counter()
        rows = module.measure()
        print(f"{time.perf_counter() - start:.0f} s", flush=True)
        for row in rows:
            if missing := set(FIELDS) - set(row):
                raise ValueError(f"{name}: a row lacks {', '.join(sorted(missing))}")
        print(table(rows), flush=True)
        write(HERE / "results" / f"{name}.json", {"format": 1, "machine": machine(), "rows": rows})


if __name__ == "__main__":
    main([a for a in sys.argv[1:] if a != "--studies"], "--studies" in sys.argv)
