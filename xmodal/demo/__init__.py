"""The page of `xmodal demo`; `page` alone imports gradio, with `endpoints`."""
