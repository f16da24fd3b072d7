"""The command `chat`: a conversation in the terminal, or with the lines of standard input."""

import signal
import sys
from collections.abc import Iterator
from dataclasses import replace

from transformers import PreTrainedModel, PreTrainedTokenizerBase, TextStreamer, set_seed

from ..commands import Stopped
from ..decoding import DecodingArguments
from ..errors import UserError
from ..inference.loading import load_model, recorded_arguments
from ..modeling_mini import MiniForCausalLM
from ..streams import StandardInput, has_lone_surrogate
from ..tasks.generation import write
from .conversations import MessageTooLong, fit_conversation
from .serve import check_causal


HELP = """\
!help   show the commands
!clear  forget the conversation
!exit   end the chat, as Ctrl-D does
Ctrl-C  end the answer
"""


def chat(checkpoint: str, decoding: DecodingArguments, system_prompt: str | None = None) -> None:
    """Answer each line of the user until the input ends. Answers go to standard output, remarks to standard error.

    Args:
        decoding: completed options.

    Raises:
        UserError: the checkpoint does not continue text, has no chat template or does not open, or an option has no
            effect in a chat.
    """
    if (decoding.num_beams or 1) > 1:
        raise UserError(
            "--num_beams: a chat shows each word as it is written, which beam search cannot; leave it out."
        )
    check_causal(checkpoint, "chat")
    model, tokenizer = load_model(checkpoint, MiniForCausalLM)
    if not tokenizer.chat_template:
        raise UserError(
            f"The tokenizer in {checkpoint} has no chat template; use `modeling-mini generate`, or set "
            "`tokenizer.chat_template` and save it."
        )
    task = recorded_arguments(checkpoint).get("task")
    if task is not None:  # a run of `train`, which does not train on conversations
        _remark(
            f"This model was trained for {task}, not on conversations: it continues the conversation as a text. "
            "Fine-tune it on conversations for answers; docs/serving.md shows how."
        )
    if decoding.seed is not None:
        set_seed(decoding.seed)
    conversation = Conversation(model, tokenizer, decoding, system_prompt)
    for line in _lines():
        if line.startswith("!"):
            if line == "!exit":
                break
            _obey(line, conversation)
        elif line:
            conversation.answer(line)


class Conversation:
    """The messages so far, and the model that continues them."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        decoding: DecodingArguments,
        system_prompt: str | None = None,
    ) -> None:
        self.model, self.tokenizer, self.decoding = model, tokenizer, decoding
        self.system = [] if system_prompt is None else [{"role": "system", "content": system_prompt}]
        self.messages: list[dict[str, str]] = []

    def answer(self, text: str) -> str:
        """Write the answer to a message as it is generated, and return it; empty for a message that is too long.

        Raises:
            UserError: the chat template refuses the messages.
        """
        messages = [*self.messages, {"role": "user", "content": text}]
        context, longest = self.model.config.max_position_embeddings, self.decoding.max_new_tokens
        try:
            inputs, self.messages = fit_conversation(self.tokenizer, messages, context, longest, self.system)
        except MessageTooLong as error:
            _remark(str(error))
            return ""
        if dropped := len(messages) - len(self.messages):
            _remark(f"The oldest {dropped} messages do not fit into the context of {context} tokens any more.")
        inputs = inputs.to(self.model.device)
        length = inputs["input_ids"].shape[1]
        decoding = replace(self.decoding, max_new_tokens=min(longest, context - length))
        streamer = _Answer(self.tokenizer)
        try:
            write(self.model, self.tokenizer, inputs, decoding, length, streamer=streamer)
        except Stopped as stopped:  # Ctrl-C ends the answer; other signals end the chat
            if stopped.signal_number != signal.SIGINT:
                raise
            streamer.end()
        self.messages.append({"role": "assistant", "content": streamer.text.strip()})
        return streamer.text


class _Answer(TextStreamer):
    """Writes the words of an answer, and keeps them."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.text = ""

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self.text += text
        super().on_finalized_text(text, stream_end)


def _obey(command: str, conversation: Conversation) -> None:
    if command == "!clear":
        conversation.messages.clear()
    elif command == "!help":
        sys.stderr.write(HELP)
    else:
        _remark(f"There is no command {command}; !help shows the commands.")


def _lines() -> Iterator[str]:
    """What the user writes, line by line."""
    if sys.stdin is None or not sys.stdin.isatty():
        yield from map(str.strip, StandardInput())
        return
    sys.stderr.write(HELP)
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            sys.stdout.write("\n")
            return
        except UnicodeDecodeError:
            line = None
        if line is None or has_lone_surrogate(line):
            _remark("The line is not UTF-8; write it again.")
        else:
            yield line


def _remark(sentence: str) -> None:
    sys.stdout.flush()
    sys.stderr.write(f"({sentence})\n")
