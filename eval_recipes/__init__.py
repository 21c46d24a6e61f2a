"""A HEAR model -> validation, embeddings on disk, scores, tables."""
