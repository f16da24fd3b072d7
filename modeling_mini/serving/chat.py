"""The command `chat`: a conversation in the terminal, or with the lines of standard input."""

import signal
import sys
from collections.abc import Iterator
from dataclasses import replace

from jinja2 import TemplateError
from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase, TextStreamer, set_seed

from ..commands import Stopped
from ..decoding import DecodingArguments
from ..errors import UserError
from ..inference.loading import load_model, recorded_arguments
from ..modeling_mini import MiniForCausalLM
from ..streams import StandardInput, has_lone_surrogate
from ..tasks.generation import write
from .serve import check_causal


HELP = """\
!help   show the commands
!clear  forget the conversation
!exit   end the chat, as Ctrl-D does
Ctrl-C  end the answer
"""
_SHARE_OF_ANSWER = 4  # an answer gets at least 1 / 4 of the context, if it may be that long


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
        self.messages.append({"role": "user", "content": text})
        context = self.model.config.max_position_embeddings
        inputs = self._fitting_inputs(context)
        length = inputs["input_ids"].shape[1]
        if length >= context:
            self.messages.pop()
            _remark(f"The message has {length} tokens, and the model reads at most {context - 1}; shorten it.")
            return ""
        decoding = replace(self.decoding, max_new_tokens=min(self.decoding.max_new_tokens, context - length))
        streamer = _Answer(self.tokenizer)
        try:
            write(self.model, self.tokenizer, inputs, decoding, length, streamer=streamer)
        except Stopped as stopped:  # Ctrl-C ends the answer; other signals end the chat
            if stopped.signal_number != signal.SIGINT:
                raise
            streamer.end()
        self.messages.append({"role": "assistant", "content": streamer.text.strip()})
        return streamer.text

    def _fitting_inputs(self, context: int) -> BatchEncoding:
        """The encoded conversation, without the oldest turns that leave too little room for an answer."""
        room = min(self.decoding.max_new_tokens, context // _SHARE_OF_ANSWER)
        dropped = 0
        while (inputs := self._encode())["input_ids"].shape[1] > context - room and len(self.messages) > 1:
            del self.messages[:2]
            dropped += 2
        if dropped:
            _remark(f"The oldest {dropped} messages do not fit into the context of {context} tokens any more.")
        return inputs

    def _encode(self) -> BatchEncoding:
        try:
            inputs = self.tokenizer.apply_chat_template(
                self.system + self.messages,
                add_generation_prompt=True,
                return_tensors="pt",
                return_dict=True,
                tokenizer_kwargs={"verbose": False},  # no warning about a conversation that `_fitting_inputs` shortens
            )
        except TemplateError as error:
            raise UserError(f"The chat template refuses the conversation: {error}.") from error
        return inputs.to(self.model.device)


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
        sys.stdout.write(HELP)
    else:
        _remark(f"There is no command {command}; !help shows the commands.")


def _lines() -> Iterator[str]:
    """What the user writes, line by line."""
    if sys.stdin is None or not sys.stdin.isatty():
        yield from map(str.strip, StandardInput())
        return
    sys.stdout.write(HELP)
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
