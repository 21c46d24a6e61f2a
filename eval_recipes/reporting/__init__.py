"""What `hear-dasheng report` is made of: scores, published numbers, tables, charts, files."""
