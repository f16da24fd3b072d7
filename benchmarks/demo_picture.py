"""The pictures of docs/demo.md: the demo page of a checkpoint in a browser, after it has answered.

python benchmarks/demo_picture.py runs/quickstart docs/images/demo.png --text "Return the"
python benchmarks/demo_picture.py runs/translation docs/images/demo-translation.png --text "Could not open %s"
"""

import argparse
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, TimeoutError, sync_playwright


COMMAND = [sys.executable, "-m", "modeling_mini.cli", "demo"]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
COLORS = 128  # of a palette that keeps a picture small


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkpoint", help="folder of a trained model")
    parser.add_argument("output", type=Path, help="a .png file")
    parser.add_argument("--text", default="Return the", help="what is typed into the first box")
    parser.add_argument("--context", help="what is typed into the box of the context of an answer")
    parser.add_argument("--tab", help="the tab to show, such as Attention")
    parser.add_argument("--seed", default="1", help="of the sampled text")
    parser.add_argument("--dark", action="store_true", help="the dark theme")
    parser.add_argument("--width", type=int, default=1080, help="of the window; 390 is a phone")
    args = parser.parse_args()
    with served(args.checkpoint) as address, browser_page(args.width, args.dark) as page:
        page.goto(address)
        answer(page, args)
        args.output.parent.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=args.output, full_page=True)
    Image.open(args.output).convert("RGB").quantize(COLORS).save(args.output, optimize=True)


def answer(page: Page, args: argparse.Namespace) -> None:
    """Fill in the form, press its button, and wait for the answer."""
    box = page.locator("textarea, input[type=text]").first
    box.fill(args.text)
    if args.context:
        page.locator("#context textarea").fill(args.context)
    if page.get_by_label("seed").count():
        page.get_by_label("seed").fill(args.seed)
    wait_until_done(page, 500)  # the page takes over what is typed a moment later
    page.locator("button.primary:visible").first.click()
    wait_until_done(page)
    if args.tab:
        page.get_by_role("tab", name=args.tab).click()
    wait_until_done(page)


def wait_until_done(page: Page, settled: int = 1500) -> None:
    """Wait until nothing on the page has changed for `settled` milliseconds."""
    before = None
    while (now := re.sub(r"\d+\.\d+s", "", page.content() + str(values(page)))) != before:
        before = now
        page.wait_for_timeout(settled)


def values(page: Page) -> list[str]:
    return [box.input_value() for box in page.locator("textarea:visible").all()]


@contextmanager
def served(checkpoint: str) -> Iterator[str]:
    """The address of a running demo."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [*COMMAND, checkpoint, "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        if not (address := re.search(r"http://\S+", line)):
            raise SystemExit(f"The demo did not start: {line}")
        yield address[0]
    finally:
        process.terminate()
        process.wait()


@contextmanager
def browser_page(width: int, dark: bool = False) -> Iterator[Page]:
    """A page of an installed Chromium, without a window."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        raise SystemExit("There is no Chromium; install it, e.g. with: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(
            viewport={"width": width, "height": 500}, color_scheme="dark" if dark else "light", device_scale_factor=1
        )
        with suppress(TimeoutError):
            yield page
        browser.close()


if __name__ == "__main__":
    main()
