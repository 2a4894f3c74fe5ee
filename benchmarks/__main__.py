"""Run every benchmark one after the other, each in a process of its own."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import benchmarks

NOT_BENCHMARKS = {"__main__", "report", "posts"}

if __name__ == "__main__":
    failed = []
    for module in sorted(m.name for m in pkgutil.iter_modules(benchmarks.__path__) if m.name not in NOT_BENCHMARKS):
        print(f"== {module}", flush=True)
        if subprocess.run([sys.executable, "-m", f"benchmarks.{module}", *sys.argv[1:]], check=False).returncode:
            failed.append(module)
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)
