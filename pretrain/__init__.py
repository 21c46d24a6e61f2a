"""Masked-autoencoder pretraining: audio files -> shards -> a checkpoint."""
