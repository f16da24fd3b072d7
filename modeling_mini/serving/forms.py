"""The forms of the demo page: what the visitor of each task fills in, and what the model answers.

Each form adds its components to the page that is being built, and reuses the predictions of its task.
"""

import html
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from itertools import pairwise
from threading import Lock
from typing import NamedTuple

import gradio as gr
from datasets import Dataset
from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase, pipeline, set_seed

from ..decoding import CONTINUATION, DecodingArguments
from ..errors import UserError
from ..streams import has_lone_surrogate
from ..tasks.base import Task
from ..tasks.generation import continue_text, write
from . import drawing
from .conversations import fit_conversation
from .streaming import growing_text


logger = logging.getLogger(__name__)

_SAMPLING = Lock()  # `set_seed` is for the whole process: two texts at once would share one sequence of random numbers
SHOWN_ANSWERS = 3
NO_ANSWER = "(no answer)"
SHOWN_WORDS = 10  # guesses for each mask
_DEFECT = "The demo failed; please report it with the lines in the terminal."


class Opened(NamedTuple):
    """A checkpoint that is ready for use, and the task that it was trained for."""

    task: Task
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @property
    def context(self) -> int:
        return self.model.config.max_position_embeddings


@contextmanager
def errors_in_page() -> Iterator[None]:
    """Show an error as a sentence in the page; the page reads HTML, so the text is escaped."""
    try:
        yield
    except UserError as error:
        raise gr.Error(html.escape(str(error)), print_exception=False) from error
    except gr.Error:
        raise
    except Exception as error:
        logger.exception(_DEFECT)
        raise gr.Error(_DEFECT, print_exception=False) from error


def check_text(text: str | None, name: str) -> str:
    """A text of a form that a model can read. Raises `UserError` for a blank one and for half a character."""
    if not (text or "").strip():
        raise UserError(f"{name} is empty; write something first.")
    if has_lone_surrogate(text):
        raise UserError(f"{name} holds half a character (a lone surrogate); delete it.")
    return text


def warn(text: str) -> None:
    gr.Warning(html.escape(text))


def warn_about_special_tokens(tokenizer: PreTrainedTokenizerBase, text: str, but: str | None = None) -> None:
    """Say which words of a text the tokenizer reads as special tokens, except for `but`."""
    if special := [token for token in tokenizer.all_special_tokens if token in text and token != but]:
        warn(f"{', '.join(special)} in the text is read as a special token of the model.")


# A language model


def language_model_form(opened: Opened) -> None:
    """Complete a text and, if the tokenizer has a chat template, chat; next token and attention as plots."""
    opened.model.set_attn_implementation("eager")  # the only one that returns the weights of the attention
    with gr.Row():
        with gr.Column(scale=5, min_width=320), gr.Tabs():
            complete_tab = gr.Tab("Complete")
            chat_tab = gr.Tab("Chat") if opened.tokenizer.chat_template else None
        with gr.Column(scale=2, min_width=260):
            controls = _sampling_controls(opened)
    with complete_tab:
        _completion(opened, controls)
    if chat_tab is not None:
        with chat_tab:
            gr.ChatInterface(
                partial(_reply, opened, list(controls)),
                additional_inputs=list(controls.values()),
                # Markdown of a model could make the browser load a picture of another machine.
                chatbot=gr.Chatbot(label="Conversation", height=380, buttons=["copy"], render_markdown=False),
                textbox=gr.Textbox(placeholder="Write a message", container=False, scale=7, submit_btn=True),
                analytics_enabled=False,
                api_name="chat",
            )


def _sampling_controls(opened: Opened) -> dict[str, gr.components.Component]:
    """The options of sampling, by the names of `DecodingArguments`; most sliders cover the useful part of a range."""
    defaults = CONTINUATION | {"top_p": 1.0, "repetition_penalty": 1.0}
    longest = opened.context - 1
    vocabulary = opened.model.config.vocab_size
    gr.Markdown("### Sampling")

    def slider(name: str, low: float, high: float, step: float, info: str) -> gr.Slider:
        return gr.Slider(low, high, value=min(defaults[name], high), step=step, label=name, info=info)

    return {
        "max_new_tokens": slider("max_new_tokens", 1, longest, 1, "longest text"),
        "temperature": slider("temperature", 0, 2, 0.05, "0 is greedy"),
        "top_k": slider("top_k", 1, vocabulary, 1, "most likely tokens kept"),
        "top_p": slider("top_p", 0.01, 1, 0.01, "probability kept"),
        "repetition_penalty": slider("repetition_penalty", 0.5, 2, 0.05, "above 1: fewer repetitions"),
        "seed": gr.Textbox(label="seed", info="the same seed samples the same text", placeholder="random"),
    }


def sampling_options(names: list[str], values: tuple) -> dict:
    """The values of the controls, as `DecodingArguments` takes them. Raises `UserError` for a wrong seed."""
    options = dict(zip(names, values, strict=True))
    seed = str(options["seed"] or "").strip()
    if seed and not (seed.isascii() and seed.isdigit()):
        raise UserError(f"seed is {seed!r}; give a whole number, or nothing for a random one.")
    options["seed"] = int(seed) if seed else None
    if options["temperature"] == 0:  # which refuses these next to it
        options |= dict.fromkeys(("top_k", "top_p", "seed"))
    return options


def _completion(opened: Opened, controls: dict[str, gr.components.Component]) -> None:
    text = gr.Textbox(
        label="Text",
        lines=7,
        max_lines=24,
        placeholder="Begin a text, and the model continues it.",
        elem_id="text",
        autofocus=True,
        buttons=["copy"],
    )
    before = gr.State("")
    with gr.Row():
        start = gr.Button("Complete", variant="primary", min_width=90)
        stop = gr.Button("Stop", min_width=60)
        undo = gr.Button("Undo", min_width=60)
    draw_next, draw_attention = _plots(opened, text)
    runs = [
        trigger(lambda text: text, text, before, show_progress="hidden", api_visibility="private").then(
            partial(_complete, opened, list(controls)), [text, *controls.values()], text, api_name=api_name
        )
        for trigger, api_name in ((start.click, "complete"), (text.submit, False))
    ]
    stopped = stop.click(None, cancels=runs, api_visibility="private")
    undone = undo.click(lambda before: before, before, text, api_visibility="private")
    for event in (*runs, stopped, undone):
        draw_next(event.then)
        draw_attention(event.then)


def _plots(opened: Opened, text: gr.Textbox) -> list[Callable]:
    """The two plots under the text; returns for each a function that draws it after a given event."""
    config = opened.model.config
    with gr.Tabs():
        with gr.Tab("Next token"):
            next_plot = gr.Plot(show_label=False, elem_id="next-token")
        with gr.Tab("Attention") as tab:
            with gr.Row():
                layer = gr.Dropdown(list(range(config.num_hidden_layers)), value=0, label="layer", min_width=80)
                heads = [*range(config.num_attention_heads), drawing.ALL_HEADS]
                head = gr.Dropdown(heads, value=0, label="head", min_width=80)
            attention_plot = gr.Plot(show_label=False, elem_id="attention")
    quiet = {"show_progress": "hidden", "trigger_mode": "always_last"}

    def draw_next(event: Callable, **name) -> None:
        name = name or {"api_visibility": "private"}
        event(partial(_draw_next, opened), text, next_plot, **quiet, **name)

    def draw_attention(event: Callable, **name) -> None:
        name = name or {"api_visibility": "private"}
        event(partial(_draw_attention, opened), [text, layer, head], attention_plot, **quiet, **name)

    draw_next(text.input, api_name="next_token")
    draw_next(gr.context.Context.root_block.load)
    draw_attention(text.input, api_name="attention")
    for event in (tab.select, layer.change, head.change):
        draw_attention(event)
    return [draw_next, draw_attention]


def _complete(opened: Opened, names: list[str], text: str, *values) -> Iterator[str]:
    """The text and its growing continuation."""
    with errors_in_page():
        text = text or ""
        if text:
            check_text(text + ".", "The text")  # white space alone is a text that can be continued
        warn_about_special_tokens(opened.tokenizer, text)
        options = sampling_options(names, values)

        def run(streamer) -> None:
            with _SAMPLING:
                continue_text(opened.model, opened.tokenizer, text, streamer=streamer, **options)

        yield from growing_text(run, opened.tokenizer)


def _reply(opened: Opened, names: list[str], message: str, history: list[dict], *values) -> Iterator[str]:
    """The growing reply to a message, after the messages of `history`."""
    with errors_in_page():
        check_text(message, "The message")
        warn_about_special_tokens(opened.tokenizer, message)
        decoding = DecodingArguments(**sampling_options(names, values)).completed(CONTINUATION)
        inputs = _conversation(opened, history, message, decoding.max_new_tokens)
        length = inputs["input_ids"].shape[1]
        decoding.max_new_tokens = min(decoding.max_new_tokens, opened.context - length)

        def run(streamer) -> None:
            with _SAMPLING:
                if decoding.seed is not None:
                    set_seed(decoding.seed)
                write(opened.model, opened.tokenizer, inputs, decoding, length, streamer=streamer)

        yield from growing_text(run, opened.tokenizer, skip_prompt=True)


def _plain(content: str | list[dict]) -> str:
    """The text of a message of gradio, which is a list of parts."""
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def _conversation(opened: Opened, history: list[dict], message: str, max_new_tokens: int) -> BatchEncoding:
    """The token ids of a message after the messages of gradio, without the oldest if an answer would not fit.

    After an error, gradio keeps the message of the user, which has no answer; it is left out.
    """
    messages = [{"role": part["role"], "content": _plain(part["content"])} for part in history]
    messages.append({"role": "user", "content": message})
    answered = [part for part, after in pairwise(messages) if (part["role"], after["role"]) != ("user", "user")]
    messages = [*answered, messages[-1]]
    inputs, kept = fit_conversation(opened.tokenizer, messages, opened.context, max_new_tokens, system=[])
    if len(kept) < len(messages):
        warn(f"The model reads {opened.context} tokens: the oldest messages are left out.")
    return inputs.to(opened.model.device)


def _draw_next(opened: Opened, text: str):
    try:
        return drawing.bars([drawing.next_tokens(opened.model, opened.tokenizer, _drawable(text))])
    except UserError as error:
        return drawing.note(str(error))


def _draw_attention(opened: Opened, text: str, layer: int, head: int | str):
    try:
        labels, weights = drawing.attention(opened.model, opened.tokenizer, _drawable(text))
    except UserError as error:
        return drawing.note(str(error))
    layer_weights = weights[int(layer)]
    return drawing.heat_map(labels, layer_weights.mean(0) if head == drawing.ALL_HEADS else layer_weights[int(head)])


def _drawable(text: str | None) -> str:
    return check_text(text, "The text") if text and has_lone_surrogate(text) else text or ""


# Tasks that write a text


_SOURCES = {
    "translation": (["Text"], "Translate", "Translation"),
    "summarization": (["Document"], "Summarize", "Summary"),
    "generative-question-answering": (["Question", "Context"], "Answer", "Answer"),
}


def writing_form(opened: Opened) -> None:
    """Translate, summarize, or write the answer to a question."""
    labels, verb, result = _SOURCES[opened.task.name]
    with gr.Row():
        with gr.Column(scale=5, min_width=320):
            sources = [_source_box(label, lines=5 if label == labels[-1] else 1) for label in labels]
            button = gr.Button(verb, variant="primary")
            output = gr.Textbox(label=result, lines=3, buttons=["copy"], elem_id="output", interactive=False)
        with gr.Column(scale=2, min_width=260):
            controls = _writing_controls(opened)
    _on_submit(
        [button, sources[0]],
        partial(_write, opened, labels, list(controls)),
        [*sources, *controls.values()],
        output,
        verb.lower(),
    )


def _writing_controls(opened: Opened) -> dict[str, gr.Slider]:
    """The options of beam search, by the names of `DecodingArguments`, with the defaults of the task."""
    task = opened.task
    task_defaults = {"max_new_tokens": task.args.max_target_tokens} | task.default_decoding
    defaults = asdict(DecodingArguments().completed(task_defaults))
    gr.Markdown("### Decoding")
    longest = max(opened.context - task.source_length - 2, defaults["max_new_tokens"])
    return {
        "max_new_tokens": gr.Slider(
            1, longest, value=defaults["max_new_tokens"], step=1, label="max_new_tokens", info="longest text to write"
        ),
        "num_beams": gr.Slider(1, 8, value=defaults["num_beams"] or 1, step=1, label="num_beams", info="1 is greedy"),
        "repetition_penalty": gr.Slider(
            0.5,
            2,
            value=defaults["repetition_penalty"] or 1.0,
            step=0.05,
            label="repetition_penalty",
            info="above 1: fewer repetitions",
        ),
    }


def _write(opened: Opened, labels: list[str], names: list[str], *values) -> str:
    task = opened.task
    with errors_in_page():
        texts = [check_text(text, label) for label, text in zip(labels, values, strict=False)]
        examples = Dataset.from_list([dict(zip(task.input_columns, texts, strict=True))])
        decoding = DecodingArguments(**dict(zip(names, values[len(labels) :], strict=True)))
        if task.num_truncated(opened.tokenizer, examples):
            part, length = task.truncated_part
            label = "question" if part == "question" else labels[-1].lower()
            warn(f"The {label} is too long: the model reads its first {length} tokens, as in training.")
        [written] = task.predict(opened.model, opened.tokenizer, examples, 1, decoding)
        is_answer = task.name == "generative-question-answering"
        return written or (NO_ANSWER if is_answer else "")


# Tasks that choose


def classification_form(opened: Opened) -> None:
    """The probability of each label for a text, or for a pair of texts."""
    classify = pipeline(
        "text-classification", model=opened.model, tokenizer=opened.tokenizer, device=opened.model.device, top_k=None
    )
    text = _source_box("Text")
    reads_pairs = opened.model.config.text_pair  # None for a checkpoint that does not say
    with gr.Accordion("A second text, for a model of pairs", open=bool(reads_pairs), visible=reads_pairs is not False):
        pair = gr.Textbox(label="Second text", lines=2)
    button = gr.Button("Classify", variant="primary")
    output = gr.Label(label="Labels", elem_id="output", num_top_classes=opened.model.config.num_labels)
    _on_submit([button, text], partial(_classify, opened, classify), [text, pair], output, "classify")


def _classify(opened: Opened, classify: Callable, text: str, pair: str) -> dict[str, float]:
    with errors_in_page():
        inputs = {"text": check_text(text, "The text")}
        if opened.model.config.text_pair or (pair or "").strip():
            inputs["text_pair"] = check_text(pair, "The second text")
        length = opened.task.args.block_size
        ids = opened.tokenizer(inputs["text"], inputs.get("text_pair"), split_special_tokens=True, verbose=False)
        if len(ids.input_ids) > length:
            warn(f"The text has {len(ids.input_ids)} tokens: the model reads the first {length}, as in training.")
        labels = classify(inputs, truncation=True, max_length=length, split_special_tokens=True)
        return {label["label"]: label["score"] for label in labels}


def answer_form(opened: Opened) -> None:
    """The part of a context that answers a question, marked in it, and the next best ones."""
    question = _source_box("Question", lines=1)
    context = _source_box("Context")
    button = gr.Button("Answer", variant="primary")
    answer = gr.Textbox(label="Answer", interactive=False, elem_id="output")
    marked = gr.HighlightedText(
        label="In the context", color_map={"answer": "blue"}, show_legend=False, show_inline_category=False
    )
    others = gr.Dataframe(
        headers=["answer", "score"], label="Best answers: logits, compared with no answer", interactive=False
    )
    _on_submit([button, question], partial(_answer, opened), [question, context], [answer, marked, others], "answer")


def _answer(opened: Opened, question: str, context: str) -> tuple[str, list, list]:
    with errors_in_page():
        example = {"question": check_text(question, "Question"), "context": check_text(context, "Context")}
        examples = Dataset.from_list([example])
        if opened.task.num_truncated(opened.tokenizer, examples):
            warn("The question is too long: the model reads its first tokens, at most half a row.")
        [best] = opened.task.n_best(opened.model, opened.tokenizer, examples, batch_size=8, n=SHOWN_ANSWERS)
        start, end = best[0]["start"], best[0]["end"]
        parts = [(context[:start], None), (context[start:end], "answer"), (context[end:], None)]
        marked = [part for part in parts if part[0]]
        rows = [[candidate["answer"] or NO_ANSWER, round(candidate["score"], 2)] for candidate in best]
        return best[0]["answer"] or NO_ANSWER, marked, rows


def fill_mask_form(opened: Opened) -> None:
    """The most likely tokens for each masked one."""
    mask = opened.tokenizer.mask_token
    if mask is None:
        raise UserError("The tokenizer has no mask token, which fill-mask needs; choose another checkpoint.")
    fill = pipeline(
        "fill-mask",
        model=opened.model,
        tokenizer=opened.tokenizer,
        device=opened.model.device,
        top_k=min(SHOWN_WORDS, opened.model.config.vocab_size),
    )
    text = _source_box("Text", f"Write {mask} in place of a word.")
    with gr.Row():
        button = gr.Button("Fill in", variant="primary")
        add = gr.Button(f"Add {mask}")
    filled = gr.HighlightedText(
        label="Filled in", color_map={"guess": "blue"}, show_legend=False, show_inline_category=False, elem_id="output"
    )
    plot = gr.Plot(show_label=False, elem_id="guesses")
    add.click(lambda text: f"{text or ''}{mask}", text, text, api_visibility="private")
    _on_submit([button, text], partial(_fill, opened, fill), text, [filled, plot], "fill_mask")


def _fill(opened: Opened, fill: Callable, text: str) -> tuple:
    tokenizer = opened.tokenizer
    mask = tokenizer.mask_token
    with errors_in_page():
        text = check_text(text, "The text")
        if mask not in text:
            raise UserError(f"The text has no {mask}; write it in place of a word.")
        warn_about_special_tokens(tokenizer, text, but=mask)
        # A token of byte-level BPE includes the space before its word, so a mask does too.
        read = text.replace(f" {mask}", mask)
        length = len(tokenizer(read, verbose=False).input_ids)
        if length > opened.context:
            raise UserError(f"The text has {length} tokens, and the model reads at most {opened.context}; shorten it.")
        guesses = fill(read)
        guesses = guesses if isinstance(guesses[0], list) else [guesses]
        parts = text.split(mask)
        filled = [(parts[0], None)]
        for part, [best, *_] in zip(parts[1:], guesses, strict=True):
            filled += [(tokenizer.decode([best["token"]]).strip() or "␣", "guess"), (part, None)]
        distributions = [
            [(drawing.token_label(tokenizer, guess["token"]), guess["score"]) for guess in row] for row in guesses
        ]
        titles = [f"{mask} {number}" for number in range(1, len(guesses) + 1)] if len(guesses) > 1 else None
        return [part for part in filled if part[0]], drawing.bars(distributions, titles)


def _source_box(label: str, placeholder: str | None = None, lines: int = 5) -> gr.Textbox:
    return gr.Textbox(
        label=label, lines=lines, max_lines=16, placeholder=placeholder, elem_id=label.lower(), buttons=["copy"]
    )


def _on_submit(sources: list, function: Callable, inputs, outputs, api_name: str) -> None:
    """Call a function when the button is pressed, or when a text is submitted (Shift-Enter)."""
    button, text = sources
    gr.on([button.click, text.submit], function, inputs, outputs, api_name=api_name)


FORMS = {
    "fill-mask": fill_mask_form,
    "generative-question-answering": writing_form,
    "question-answering": answer_form,
    "summarization": writing_form,
    "text-classification": classification_form,
    "text-generation": language_model_form,
    "translation": writing_form,
}
