"""What `hear-dasheng doctor` looks at: the system, devices, file formats, embeddings; and its report."""
