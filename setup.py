"""Installs hear_dasheng, pretrain and eval_recipes, what lies under them, and says what each needs."""

import re
import runpy
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+?)"', (HERE / "hear_dasheng/__init__.py").read_text()).group(1)
OFFICIAL = runpy.run_path(str(HERE / "eval_recipes/official_pins.py"))

# torchaudio's last release, 2.11, imports beside torch 2.11 to 2.14 and no other.
TORCH_BESIDE_TORCHAUDIO = ["torch>=2.11,<2.15", "torchaudio==2.11.*"]

EXTRAS = {
    "pretraining": [
        "accelerate>=1.10",
        "aiohttp",  # fsspec's HTTP
        "braceexpand",
        "fsspec",
        "matplotlib",
        "pandas",
        "pydantic>=2",
        "pyyaml",
        "s3fs",
        "scikit-learn",
        "tensorboard",
        "webdataset>=1.0",
    ],
    "evaluation": [
        *OFFICIAL["NEEDED_BY_TOOLS"],
        *TORCH_BESIDE_TORCHAUDIO,
        "accelerate>=1.10",
        "jinja2>=3.1",
        "librosa>=0.10",
        "markupsafe",
        "matplotlib",
    ],
    "plots": ["matplotlib"],
    "xares": [OFFICIAL["XARES"], *TORCH_BESIDE_TORCHAUDIO],
    "peers": [
        "librosa>=0.10",
        "timm>=1.0",
        "torch>=2.9",
        "transformers>=5",
    ],
}
EXTRAS["all"] = sorted({requirement for extra in EXTRAS.values() for requirement in extra})
EXTRAS["test"] = [
    *EXTRAS["all"],
    *OFFICIAL["NEEDED_BY_TESTED_MODULES"],
    "beartype>=0.18",
    "build[uv]",
    "dasheng==0.0.9",  # the oracle; it imports torchaudio
    "hypothesis",
    "kaldi-native-fbank",  # oracle of the filter banks
    "moto[server]>=5",  # a local S3 server
    "pytest>=8",
    "pytest-xdist",
    "pytorch-ignite",  # oracle of the learning-rate schedule
    "ruff==0.15.*",
    "twine",
]

setup(
    name="hear_dasheng",
    version=VERSION,
    description="Dasheng audio encoders: pretrain them, embed with them as HEAR modules, validate and score",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(
        include=[
            "hear_dasheng*",
            "pretrain*",
            "eval_recipes*",
            "safe_download*",
            "process_memory*",
            "whole_audio*",
        ]
    ),
    package_data={
        "hear_dasheng": ["data/*.csv"],
        "pretrain": ["configs/*.yaml"],
        "eval_recipes": ["data/*.csv"],
        "eval_recipes.reporting": ["templates/*"],
    },
    install_requires=[
        "click>=8",
        "filelock",
        "huggingface_hub>=0.23",
        "jaxtyping>=0.2.25",
        "numpy",
        "safetensors>=0.4",
        "soundfile>=0.12",
        "soxr>=0.3.7",
        "torch>=2.6",
        "tqdm",
    ],
    extras_require=EXTRAS,
    entry_points={
        "console_scripts": [
            "hear-dasheng = hear_dasheng.cli:main",
            "wavlist_to_tar = pretrain.wavlist_to_tar:main",
        ],
        "hear_dasheng.commands": [
            "init = hear_dasheng.commands:init",
            "info = hear_dasheng.commands:info",
            "export = hear_dasheng.commands:export",
            "tag = hear_dasheng.tag:tag",
            "doctor = hear_dasheng.doctor:doctor",
            "pretrain = pretrain.commands:pretrain",
            "finetune = pretrain.commands:finetune",
            "validate = eval_recipes.official:validate",
            "embed = eval_recipes.embed:embed",
            "heareval = eval_recipes.official_kit:heareval",
            "score = eval_recipes.score:score",
            "knn = eval_recipes.knn:knn",
            "tasks = eval_recipes.tasks:tasks",
            "report = eval_recipes.report:report",
            "demo = eval_recipes.demo:demo",
        ],
        "hear_dasheng.doctor": [
            "embedding = hear_dasheng.diagnosis.embedding:EmbeddingCheck",
            "training = pretrain.diagnosis:TrainingCheck",
            "scoring = eval_recipes.diagnosis:ProbeCheck",
        ],
    },
)
