"""Draw the last screen of a command's output as an SVG.

    pip install pyte
    python benchmarks/terminal_picture.py docs/images/terminal.svg python train.py

The command runs in a terminal of its own, so it draws its progress bars. Needs Python 3.11.
"""

import argparse
import os
import pty
import shlex
import subprocess
import termios
from contextlib import suppress
from html import escape
from pathlib import Path

import pyte


COLUMNS, LINES = 110, 36
WIDTH, HEIGHT = 8, 18  # of a character, in pixels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("output", type=Path, help="an .svg file")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    lines = [f"$ {shlex.join(args.command)}", *screen_after(args.command)]
    args.output.write_text(picture(lines), encoding="utf-8")


def screen_after(command: list[str]) -> list[str]:
    """What a terminal shows when the command has ended, without blank lines at the end."""
    screen = pyte.Screen(COLUMNS, LINES)
    stream = pyte.ByteStream(screen)
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (LINES, COLUMNS))
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        with suppress(OSError):  # how Linux reports that the other end is closed
            while chunk := os.read(ours, 65536):
                stream.feed(chunk)
    os.close(ours)
    if process.returncode:
        raise SystemExit("\n".join(screen.display))
    return "\n".join(line.rstrip() for line in screen.display).rstrip().split("\n")


def picture(lines: list[str]) -> str:
    width, height = COLUMNS * WIDTH + 32, len(lines) * HEIGHT + 52
    texts = [
        f'<text x="16" y="{number * HEIGHT + 52}" xml:space="preserve">{escape(line)}</text>'
        for number, line in enumerate(lines)
        if line
    ]
    dots = [f'<circle cx="{20 + 18 * number}" cy="18" r="5" fill="#6b7280"/>' for number in range(3)]
    style = 'font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" font-size="13" fill="#e5e7eb"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}">',
            f'<rect width="{width}" height="{height}" rx="8" fill="#1f2430"/>',
            *dots,
            f"<g {style}>",
            *texts,
            "</g>",
            "</svg>\n",
        ]
    )


if __name__ == "__main__":
    main()
