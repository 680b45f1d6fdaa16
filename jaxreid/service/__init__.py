"""HTTP service: embed, compare, search and index images that requests bring, and a page."""
