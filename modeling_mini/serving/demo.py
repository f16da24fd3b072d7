"""`modeling-mini demo`: a page in the browser on which a trained checkpoint is tried.

Nothing leaves the machine: the page has no fonts, scripts or pictures of others, and gradio's statistics are off.
"""

import os
import sys
from pathlib import Path
from threading import Event

import gradio as gr
from datasets import disable_progress_bars

from ..errors import UserError, one_line
from ..inference.loading import load_checkpoint, recorded_arguments, recorded_task, task_name
from ..tables import escaped
from .addresses import url_host
from .forms import FORMS, Opened


# Fonts of the visitor's own system: gradio's themes name fonts of Google.
_SANS, _MONO = ["system-ui", "-apple-system", "sans-serif"], ["ui-monospace", "monospace"]
_CSS = """
/* The container is an item of a flexbox, so it would be as narrow as its content. */
.gradio-container { width: 100%; max-width: 1120px !important; margin: 0 auto !important; }
#heading h1 { margin-bottom: 0; overflow-wrap: anywhere; }
#heading p { color: var(--body-text-color-subdued); margin-top: 0.25rem; }
"""


def serve_page(checkpoint: str, host: str, port: int) -> None:
    """Serve the page of a checkpoint until a signal ends the process.

    Raises:
        UserError: the checkpoint cannot be used, or the address is taken.
    """
    page = build(checkpoint)
    name = url_host(host)  # gradio needs brackets too
    # Gradio opens its own page once, which a proxy cannot reach. Nothing is left to download.
    os.environ |= {"NO_PROXY": "*", "no_proxy": "*"}
    try:
        page.launch(**look(), server_name=name, server_port=port, quiet=True, prevent_thread_lock=True, share=False)
    except (OSError, ValueError) as error:
        raise UserError(f"The page cannot be served at {host}, port {port}: {one_line(error)}") from error
    try:
        sys.stdout.write(f"{checkpoint} is at http://{name}:{port} (Ctrl-C ends the demo)\n")
        sys.stdout.flush()
        Event().wait()
    finally:
        page.close(verbose=False)


def look() -> dict:
    """Arguments of `launch`: the look of the page, and nothing that asks other machines."""
    return {
        "theme": gr.themes.Soft(primary_hue="blue", neutral_hue="slate", font=_SANS, font_mono=_MONO),
        "css": _CSS,
        "footer_links": ["api", "settings"],
        "ssr_mode": False,
    }


def build(checkpoint: str) -> gr.Blocks:
    """The page of a checkpoint: a folder, or a repository on the Hub.

    Raises:
        UserError: this is not a finished checkpoint of a task that has a form.
    """
    opened = open_checkpoint(checkpoint)
    name = Path(checkpoint).resolve().name if Path(checkpoint).exists() else checkpoint
    with gr.Blocks(title=f"{name} · modeling_mini", analytics_enabled=False) as page:
        gr.Markdown(f"# {escaped(name)}\n{_numbers(opened)}", elem_id="heading")
        FORMS[opened.task.name](opened)
    return page


def open_checkpoint(checkpoint: str) -> Opened:
    """Model, tokenizer and task of a checkpoint. Raises `UserError`."""
    name = task_name(checkpoint)
    task = recorded_task(recorded_arguments(checkpoint), name)
    disable_progress_bars()
    return Opened(task, *load_checkpoint(checkpoint, task))


def _numbers(opened: Opened) -> str:
    return (
        f"{opened.task.name.replace('-', ' ')} · {opened.model.num_parameters():,} parameters · "
        f"context of {opened.context:,} tokens · vocabulary of {opened.model.config.vocab_size:,}"
    )
