"""From files to tensors."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xmodal.data.module import PairedMedia

__all__ = ["PairedMedia"]


def __getattr__(name: str) -> Any:
    # Lazily, since reading one sound must not cost the import of lightning.
    if name == "PairedMedia":
        from xmodal.data.module import PairedMedia

        return PairedMedia
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
