"""The command line: one typed function a command, each callable from Python; `registry` lists them."""

from fastslow.cli.app import main

__all__ = ["main"]
