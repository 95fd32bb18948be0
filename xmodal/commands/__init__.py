"""The commands of `xmodal`: one file a noun, each with its parser."""
