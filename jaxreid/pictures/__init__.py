"""Pictures of data, results and matches, drawn with Pillow on one canvas."""
