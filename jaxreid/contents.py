"""File type by its first bytes, for messages about unexpected files."""

# First bytes of files that are taken for images or weights, or arrive in their place.
_MAGIC = {
    b"version https://git-lfs": "a Git LFS pointer; fetch the file itself with `git lfs pull`",
    b"\x89HDF": "an HDF5 file (Keras)",
    b"\x1f\x8b": "a gzip archive; unpack it first",
    b"BZh": "a bzip2 archive; unpack it first",
    b"\xfd7zXZ": "an xz archive; unpack it first",
    b"7z\xbc\xaf": "a 7z archive; unpack it first",
    b"Rar!": "a RAR archive; unpack it first",
    b"\x28\xb5\x2f\xfd": "a Zstandard archive; unpack it first",
    b"PK\x03\x04": "a ZIP archive; unpack it first",
    b"\x93NUMPY": "a NumPy array (.npy)",
    b"GGUF": "a GGUF file (llama.cpp)",
    b"\xff\xd8\xff": "a JPEG image",
    b"\x89PNG": "a PNG image",
    b"%PDF": "a PDF document",
}
# Brands of the container of films and phones' photographs, after four bytes of length and "ftyp".
_PHOTOGRAPHS = (b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"avif")
# Bytes from the start that `content_of` looks at.
HEAD = 1024


def content_of(head: bytes, size: int) -> str:
    """Name what a file holds, as the end of the sentence "FILE is ..."; "" if unknown.

    Args:
        head: the first `HEAD` bytes.
        size: bytes in all.
    """
    if not size:
        return "empty (0 bytes), an incomplete copy or download; fetch it again"
    for magic, words in _MAGIC.items():
        if head.startswith(magic):
            return words
    if head[257:262] == b"ustar":
        return "a tar archive; unpack it first"
    if head[4:8] == b"ftyp":
        if head[8:12] in _PHOTOGRAPHS:
            return "a HEIC or AVIF photograph; convert it to JPEG or PNG"
        return "a film; extract its frames"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if b"<svg" in text:
        return "an SVG drawing; convert it to PNG"
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<body")):
        return "a web page (HTML), not a download; download the file itself"
    if text.startswith((b"{", b"[")):
        return "JSON text"
    if not head.strip(b"\0"):
        return "full of zeros, as an interrupted download leaves it; download it again"
    if all(byte >= 32 or byte in b"\t\r\n" for byte in head):
        return f"text ({head[:40].decode(errors='replace').strip()!r})"
    return ""
