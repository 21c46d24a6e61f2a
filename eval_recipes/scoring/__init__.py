"""heareval's downstream protocol, engineered: embeddings of a task -> its scores."""
