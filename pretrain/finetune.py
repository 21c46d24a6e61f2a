"""`python -m pretrain.finetune`, an alias of `hear-dasheng finetune`.

The trainer is pretraining's; `pretrain/training/classification.py` is what differs.
On several processes: `accelerate launch -m pretrain.finetune CONFIG.yaml`.
"""

from __future__ import annotations

from pretrain.commands import finetune

if __name__ == "__main__":
    finetune(prog_name="python -m pretrain.finetune")
