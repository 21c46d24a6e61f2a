"""How a computation runs: in which precision."""
