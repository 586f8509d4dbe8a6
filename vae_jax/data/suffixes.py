"""Which files look like pictures, by suffix, and which of those can be read: the one table of these names.

What a file is, its content says (`images.open_image`); a suffix only decides which files of a folder are looked at.
"""

from __future__ import annotations

import os

# What the installed decoders read: Pillow, and OpenCV for deep colour.
READ = (
  *(".png", ".apng"),
  *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),  # .mpo: a camera's JPEG with further views behind it
  ".webp",
  ".avif",
  *(".tif", ".tiff"),
  *(".bmp", ".dib"),
  ".gif",
  *(".pbm", ".pgm", ".ppm", ".pnm", ".pfm"),
  *(".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
)

# Raw files of cameras. Many are TIFF files whose first picture is a small preview.
RAW = (
  *(".dng", ".raw", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".srf", ".sr2", ".raf", ".orf", ".rw2"),
  *(".pef", ".srw", ".x3f", ".erf", ".kdc", ".dcr", ".mef", ".mos", ".mrw", ".3fr", ".fff", ".iiq", ".rwl"),
)

# All that looks like a picture. What is not read is named and counted, never passed over in silence.
PICTURES = (
  *READ,
  *RAW,
  *(".heic", ".heif", ".hif", ".avifs", ".jxl", ".jxr", ".wdp", ".hdp", ".jps", ".pns"),
  *(".exr", ".hdr", ".dds", ".dpx", ".cin", ".fits", ".fit", ".fts", ".dcm", ".nii"),
  *(
    ".psd",
    ".psb",
    ".xcf",
    ".kra",
    ".tga",
    ".sgi",
    ".ras",
    ".pcx",
    ".pam",
    ".qoi",
    ".ico",
    ".icns",
    ".xbm",
    ".xpm",
  ),
)

# Drawings and documents: no photographs, so not looked for in a folder, yet no names of folders either.
DRAWINGS = (".svg", ".svgz", ".eps", ".ps", ".pdf", ".ai", ".wmf", ".emf")


def why_unread(name: str) -> str:
  """Why a file that looks like a picture is not read, and what to do; "" for any other file."""
  suffix = os.path.splitext(name)[1].lower()
  if suffix in READ or suffix not in PICTURES:
    return ""
  what = "raw files of cameras are" if suffix in RAW else f"{suffix[1:].upper()} is"
  return f"{what} not read; convert it to PNG, TIFF or JPEG"
