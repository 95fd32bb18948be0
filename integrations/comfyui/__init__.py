"""Nodes of xmodal for ComfyUI: copy or link this folder into its custom_nodes/."""

from .nodes import comfy_entrypoint

__all__ = ["comfy_entrypoint"]
