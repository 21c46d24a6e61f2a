"""Audio files -> shards: what `wavlist_to_tar` is made of."""
