"""Shards -> crops: what `pretrain.shards` is made of."""
