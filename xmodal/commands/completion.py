"""`xmodal completion bash | zsh | fish`: the script by which a shell completes commands, options and recipes' names."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from unittest.mock import patch

SHELLS = ("bash", "zsh", "fish")


class _Parser(Exception):
    """Carries a command's parser out of the command."""


def main(arguments: Sequence[str]) -> None:
    """Print the script; raises ImportError without shtab, which writes it."""
    text = "Print a shell's completion script: eval \"$(xmodal completion bash)\", or into the shell's folder of completions."
    parser = ArgumentParser("xmodal completion", description=text)
    parser.add_argument("shell", choices=SHELLS)
    shell = parser.parse_args(arguments).shell
    try:
        import shtab
    except ImportError as error:
        raise ImportError("completions are written by shtab: pip install 'xmodal[completion]'") from error
    print(shtab.complete(whole(), shell=shell))


def whole() -> ArgumentParser:
    """Return one parser of all commands, which is good for completion alone."""
    from xmodal.__main__ import COMMANDS, LIGHTNING
    from xmodal.commands.fit import OPTIONS
    from xmodal.registry.recipes import bases

    parser = ArgumentParser("xmodal")
    commands = parser.add_subparsers()
    for name, (home, text) in COMMANDS.items():
        module, _, function = home.partition(":")
        if name in LIGHTNING:
            own = commands.add_parser(name, help=text)
            own.add_argument("recipe", nargs="?", choices=sorted(bases()))
            _add(own, OPTIONS)
        else:
            found = _parser_of(getattr(import_module(f"xmodal.commands.{module}"), function))
            commands.add_parser(name, help=text, add_help=False, parents=[found] if found else [])
    return parser


def _add(parser: ArgumentParser, options: Mapping[str, str]) -> None:
    for words, text in options.items():
        option, _, value = words.partition(" ")
        if option.startswith("--") and "NAME" not in option and "PART" not in option:
            parser.add_argument(option, help=text, **({} if value else {"action": "store_true"}))  # type: ignore[arg-type]


def _parser_of(command: Callable[[Sequence[str]], None]) -> ArgumentParser | None:
    """The parser that a command builds for itself, caught where it would parse."""

    def caught(self: ArgumentParser, *arguments: object, **options: object) -> None:
        raise _Parser(self)

    with patch.object(ArgumentParser, "parse_args", caught):
        try:
            command(["ls"])
        except _Parser as found:
            return found.args[0]
        except (Exception, SystemExit):  # a command that needs more than a word: it is completed by its name
            return None
    return None
