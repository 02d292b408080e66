"""What a file consists of: one reader for each format."""
