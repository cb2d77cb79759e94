"""What lies in a folder that is not the model it was taken for, and what would help."""

from __future__ import annotations

from pathlib import Path

_POINTER = b"version https://git-lfs"


def is_pointer(file: Path) -> bool:
    """Whether a file is Git LFS's note of where the file is, as a clone without `git lfs` leaves it."""
    try:
        with file.open("rb") as opened:
            return opened.read(len(_POINTER)) == _POINTER
    except OSError:
        return False


def not_plain(path: Path) -> str | None:
    """The sentence for a path, or something in a directory, that is neither a file nor a folder: a pipe would be waited
    for without end, a device read without one. None where all is plain."""
    for each in (path, *(sorted(path.iterdir()) if path.is_dir() else ())):
        if each.exists() and not each.is_file() and not each.is_dir():
            return (
                f"{each} is neither a file nor a folder; name a .gguf file or a model directory that holds plain files."
            )
        if each != path and each.is_dir() and each.suffix in (".json", ".safetensors", ".jinja"):
            return f"{each} is a folder where a file of the model should be; fetch the model again."
    return None


def without_weights(path: Path) -> str:
    """The sentence for a directory without `model.safetensors`."""
    names = sorted(file.name for file in path.iterdir() if file.is_file())
    if any(name.startswith("adapter_") for name in names):
        return f"{path} holds a LoRA adapter; merge it into its model first, and choose that."
    if gguf := gguf_files(path):
        return f"{path} holds {gguf[0].name}; name that file: {gguf[0]}."
    pickled = next((name for name in names if name.endswith((".bin", ".pth", ".pt", ".ckpt"))), None)
    if pickled is not None:
        return (
            f"{path} holds its weights as {pickled} only, a form that can run code when it is read; "
            "choose a revision with "
            "safetensors, or save it so with transformers."
        )
    other = [name for name in names if name.endswith(".safetensors")]
    if other:
        return f"model.safetensors is missing in {path}, and so is an index for {other[0]}; fetch the model again."
    return f"model.safetensors is missing in {path}; fetch the model again."


def without_config(path: Path) -> str | None:
    """The sentence for a directory without `config.json`; None where there is nothing to say of it."""
    if gguf := gguf_files(path):
        return f"{path} holds no config.json but {gguf[0].name}; name that file: {gguf[0]}."
    if (path / "adapter_config.json").exists():
        return f"{path} holds a LoRA adapter; merge it into its model first, and choose that."
    if (path / "params.json").exists():
        return (
            f"{path} holds the model in Meta's own form; choose the Hugging Face form of it "
            "(config.json, safetensors), or "
            "a GGUF."
        )
    return None


def gguf_files(path: Path) -> list[Path]:
    """The GGUF files of a directory, of split ones the first part alone."""
    files = sorted(path.glob("*.gguf"))
    return [file for file in files if "-of-" not in file.name or "-00001-of-" in file.name]
