"""Text as it is written: the model writes in a thread, and the reader takes the pieces."""

from collections.abc import Callable, Iterator
from threading import Event, Thread

from transformers import PreTrainedTokenizerBase, TextIteratorStreamer
from transformers.generation import BaseStreamer


class _Ended(Exception):
    """The reader has left: nobody needs the rest of the text."""


class _Pieces(TextIteratorStreamer):
    """transformers' streamer, which also stops the writing when its reader leaves."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, skip_prompt: bool):
        super().__init__(tokenizer, skip_prompt=skip_prompt, skip_special_tokens=True)
        self.is_left = Event()

    def put(self, value) -> None:
        if self.is_left.is_set():
            raise _Ended
        super().put(value)


def growing_text(
    write: Callable[[BaseStreamer], object], tokenizer: PreTrainedTokenizerBase, skip_prompt: bool = False
) -> Iterator[str]:
    """The text so far, each time that a piece is written; `write` passes the streamer to `generate`.

    Whoever closes the iterator stops the writing at the next token. What `write` raises is raised here.
    """
    pieces, errors = _Pieces(tokenizer, skip_prompt), []

    def run() -> None:
        try:
            write(pieces)
        except _Ended:
            pass
        except Exception as error:  # raised below, in the thread of the reader
            errors.append(error)
        finally:
            pieces.text_queue.put(pieces.stop_signal)

    Thread(target=run, daemon=True).start()
    text = ""
    try:
        for piece in pieces:
            text += piece
            yield text
    finally:
        pieces.is_left.set()
    if errors:
        raise errors[0]
