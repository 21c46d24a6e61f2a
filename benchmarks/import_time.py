"""What `import hear_dasheng` and its first use add to `import torch`."""

from __future__ import annotations

import statistics

import measure

SNIPPET = """
import sys, time
import torch
start = time.perf_counter()
{imports}
print(time.perf_counter() - start)
"""
IMPORTS = {
    "import hear_dasheng": "import hear_dasheng",
    "from hear_dasheng import load_model": "from hear_dasheng import load_model",
}


def main() -> None:
    print(measure.machine())
    for name, imports in IMPORTS.items():
        runs = [float(measure.in_fresh_process("-c", SNIPPET.format(imports=imports))) for _ in range(7)]
        print(f"{name:<36} adds {statistics.median(runs):.3f} s (max {max(runs):.3f}) to import torch")


if __name__ == "__main__":
    main()
