"""HEAR modules -> embeddings of clips, in batches, by one process or many."""
