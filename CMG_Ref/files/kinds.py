"""What a file is that was given for a ``torch.save`` file and is none, and what to do about it."""

from __future__ import annotations

import re
from pathlib import Path

from CMG_Ref.files.words import some

START = 4096
"""Bytes from a file's beginning that are enough to know it."""

_CONVERT = "save what it holds again with torch.save"

_BEGINNINGS: tuple[tuple[bytes, str], ...] = (
    (b"\x93NUMPY", f"is a numpy .npy file; {_CONVERT}"),
    (b"\x89HDF\r\n\x1a\n", f"is an HDF5 file (Keras, h5py); {_CONVERT}"),
    (b"ftrt", "is a TensorRT plan; name the checkpoint that it was made from"),
    (b"\x1f\x8b", "is packed with gzip; unpack it (gunzip, or tar xzf) and name the file inside"),
    (b"\xfd7zXZ\x00", "is packed with xz; unpack it (unxz, or tar xJf) and name the file inside"),
    (b"BZh", "is packed with bzip2; unpack it (bunzip2, or tar xjf) and name the file inside"),
    (b"\x28\xb5\x2f\xfd", "is packed with zstd; unpack it (unzstd) and name the file inside"),
    (b"7z\xbc\xaf\x27\x1c", "is packed with 7-Zip; unpack it (7z x) and name the file inside"),
    (b"Rar!", "is packed with RAR; unpack it and name the file inside"),
    (b"%PDF", "is a PDF document; copy or download the file again"),
    (b"\x7fELF", "is a program; name the file that torch.save wrote"),
)

_FOLDERS = {
    "saved_model.pb": f"a TensorFlow SavedModel; {_CONVERT}",
    "manifest.ocdbt": f"an Orbax (JAX) checkpoint; {_CONVERT}",
    "_METADATA": f"an Orbax (JAX) checkpoint; {_CONVERT}",
    ".metadata": "a torch.distributed checkpoint; make one file of it with "
    "python -m torch.distributed.checkpoint.format_utils dcp_to_torch",
    "data.pkl": "an unpacked torch.save archive; name the file that it was unpacked from",
    "manifest.json": "an engine folder; name the checkpoint that it was made from",
}


def folder_kind(path: Path) -> str:
    """What a folder is, and what to name instead of it."""
    for name, text in _FOLDERS.items():
        if (path / name).exists():
            return f"is a folder, {text}"
    files = sorted(file.name for pattern in ("*.pt", "*.pth", "*.ckpt") for file in path.glob(pattern))
    inside = f"one of those in it ({', '.join(files[:3])})" if files else "a file"
    return f"is a folder; expected a torch.save file: name {inside}"


def beginning_kind(start: bytes, size: int) -> str | None:
    """What a file of ``size`` bytes that begins so is, if that is not what ``torch.save`` or a pickle tool writes.

    Zip archives are ``archive_kind``'s, and text that may still be YAML is ``text_kind``'s.
    """
    if not start:
        return "is empty; copy or download it again"
    for beginning, text in _BEGINNINGS:
        if start.startswith(beginning):
            return text
    if start.startswith(b"version https://git-lfs"):
        real = re.search(rb"\nsize (\d+)", start)
        missing = f", {int(real[1])} bytes," if real and len(real[1]) < 20 else ""
        return f"is a Git LFS pointer: the file itself{missing} was not fetched; run git lfs pull in its repository"
    if re.match(rb"(\xef\xbb\xbf)?\s*<(!doctype|!--|html|head|body|\?xml|error)", start, re.IGNORECASE):
        return "is a web page: the download got a page (to log in, or an error) instead of the file; download it again"
    if start[257:262] == b"ustar":
        return f"is a tar archive; unpack it (tar xf) and name the file inside{_first_torch_format(start)}"
    length = int.from_bytes(start[:8], "little")
    if start[8:9] == b"{" and 2 <= length <= max(size - 8, 0):
        return (
            "is a safetensors file; make a torch.save file of it: "
            "torch.save(safetensors.torch.load_file('in.safetensors'), 'out.pt')"
        )
    if start[:3] == b"\x08\x01\x12":
        return f"is a TensorFlow SavedModel; {_CONVERT}"
    if start[0] == 8 and 2 <= start[1] < 32 and start[2:3] in (b"\x12", b"\x1a", b"\x22", b"\x3a", b"\x42"):
        return "is an ONNX model; name the checkpoint that it was exported from"
    if start[0] in (*range(0x81, 0x90), 0xDE, 0xDF) and re.match(
        rb"(.|\xde..|\xdf....)[\xa1-\xbf\xd9]", start, re.DOTALL
    ):
        return f"is MessagePack (as flax writes it for JAX); {_CONVERT}"
    return None


def archive_kind(names: list[str]) -> str | None:
    """What a zip archive of these members is, if ``torch.save`` has not written it."""
    parts = {"/".join(name.split("/")[1:]) for name in names}
    if "constants.pkl" in parts:
        return (
            "is a TorchScript archive (torch.jit.save); save its weights alone: "
            "torch.save(torch.jit.load('in.pt').state_dict(), 'out.pt')"
        )
    if "archive_format" in parts or "serialized_exported_program.json" in names:
        return (
            "is a program of torch.export.save; save its weights alone: "
            "torch.save(dict(torch.export.load('in.pt2').state_dict), 'out.pt')"
        )
    if "data.pkl" in parts:
        return None
    inside = [name for name in names if name.endswith((".pt", ".pth", ".ckpt"))]
    if inside:
        return f"is a zip archive with {some(inside)} inside; unpack it and name that"
    if any(name.endswith(".npy") for name in names):
        return f"is a numpy .npz archive of {some([name.removesuffix('.npy') for name in names])}; {_CONVERT}"
    return f"is a zip archive without data.pkl (it holds {some(names)}); expected a torch.save file"


def text_kind(start: bytes) -> str | None:
    """What a text that begins so is; None for what is no text."""
    try:
        text = start.decode("utf-8") if len(start) < START else start[:-4].decode("utf-8", "ignore")
    except UnicodeDecodeError:
        return None
    if not text.strip() or any(not (letter.isprintable() or letter in "\r\n\t") for letter in text):
        return None
    if re.match(r"\s*(#.*\n\s*|---\s*\n\s*)*[\w.\"' -]+:(\s|$)", text):
        return "is YAML; expected a torch.save file (stats may come from YAML: name it .yaml and give it as the data)"
    if text.lstrip()[0] in "{[":
        return f"is JSON ({_quoted(text)}); expected a torch.save file"
    return f"is text ({_quoted(text)}), damaged or not a torch.save file; expected one, copy or make it again"


def _first_torch_format(start: bytes) -> str:
    """The oldest ``torch.save``'s files were tar archives of these members."""
    first = start[:100].split(b"\0")[0]
    if first in (b"sys_info", b"pickle", b"tensors", b"storages"):
        return "; or, as torch itself wrote them before 2017, load and save it again with torch"
    return ""


def _quoted(text: str) -> str:
    return ascii(" ".join(text.split())[:40])
