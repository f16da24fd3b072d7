"""What a language model computes for a text, drawn: the next token's distribution, and the weights of the attention.

The figures are plotly's: the browser draws them, with its own fonts, so that tokens of every script can be read.
"""

import html

import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from ..tasks.generation import FirstToken, encode_prompt, heal


SHOWN_TOKENS = 20  # bars of the next token's distribution
LONGEST_MAP = 48  # rows and columns of a heat map: labels of more cannot be read
ALL_HEADS = "mean"
_BLUE = "#3b82f6"
_GREY = "#808898"  # read on white and on black: a contrast of at least 3.5
_HEAT = [[0, "rgba(59, 130, 246, 0)"], [0.3, "rgba(59, 130, 246, 0.5)"], [1, _BLUE]]
_BYTES = {character: byte for byte, character in bytes_to_unicode().items()}


def token_label(tokenizer: PreTrainedTokenizerBase, token_id: int) -> str:
    """A token as a reader sees it: spaces as `␣`, line breaks as `⏎`, part of a character as its bytes."""
    text = tokenizer.decode([token_id], clean_up_tokenization_spaces=False)
    if "\N{REPLACEMENT CHARACTER}" in text:
        piece = tokenizer.convert_ids_to_tokens(token_id)
        if all(character in _BYTES for character in piece):
            return "".join(f"\\x{_BYTES[character]:02x}" for character in piece)
    for character, shown in ((" ", "␣"), ("\n", "⏎"), ("\t", "⇥")):
        text = text.replace(character, shown)
    return "".join(character if character.isprintable() else f"\\u{ord(character):04x}" for character in text)


def next_tokens(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str, count: int = SHOWN_TOKENS
) -> list[tuple[str, float]]:
    """The most likely next tokens, as `token_label` shows them, and their probabilities; at temperature 1.

    After a text that ends in a space, only tokens that begin with it are possible: see `heal`.

    Raises:
        UserError: the text has no tokens, or fills the context of the model.
    """
    ids = encode_prompt(tokenizer, text, model.config.max_position_embeddings).to(model.device)
    _, allowed = heal(tokenizer, text)
    with torch.no_grad():
        logits = model(ids, logits_to_keep=1).logits[:, -1].float()  # [1, V]
    if allowed:
        logits = FirstToken(ids.shape[1], allowed)(ids, logits)
    best = logits[0].softmax(-1).topk(min(count, logits.shape[-1]))
    return [
        (token_label(tokenizer, token), probability)
        for token, probability in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        if probability > 0
    ]


def attention(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str
) -> tuple[list[str], list[torch.Tensor]]:
    """Labels of the tokens `[T]`, and for each layer the weights `[H, T, T]`: row attends to column.

    Needs a model with `attn_implementation="eager"`: no other implementation has the weights in memory.

    Raises:
        UserError: the text has no tokens, or fills the context of the model.
    """
    ids = encode_prompt(tokenizer, text, model.config.max_position_embeddings).to(model.device)
    with torch.no_grad():
        weights = model(ids, output_attentions=True, use_cache=False, logits_to_keep=1).attentions
    return [token_label(tokenizer, token) for token in ids[0].tolist()], [layer[0].float().cpu() for layer in weights]


def bars(distributions: list[list[tuple[str, float]]], titles: list[str] | None = None) -> go.Figure:
    """Horizontal bars, one panel for each distribution over tokens."""
    figure = make_subplots(
        rows=len(distributions), subplot_titles=titles, vertical_spacing=0.3 / len(distributions) if titles else None
    )
    rows = max(map(len, distributions))
    for number, distribution in enumerate(distributions, start=1):
        labels, probabilities = zip(*distribution, strict=True)
        figure.add_bar(
            x=list(probabilities),
            y=list(range(len(labels))),
            orientation="h",
            marker_color=_BLUE,
            text=[_percent(probability) for probability in probabilities],
            textposition="outside",
            cliponaxis=False,
            customdata=list(map(_as_text, labels)),
            hovertemplate="%{customdata}: %{x:.4%}<extra></extra>",
            row=number,
            col=1,
        )
        figure.update_yaxes(**_token_axis(labels), row=number, col=1)
    figure.update_xaxes(visible=False, range=[0, 1.15 * max(p for row in distributions for _, p in row)])
    height = len(distributions) * (20 * rows + 50)
    return figure.update_layout(**_layout(height), bargap=0.25, showlegend=False)


def heat_map(labels: list[str], weights: torch.Tensor) -> go.Figure:
    """The weights `[T, T]` of a head: each row is a token, each column a token that it attends to.

    Of a long text, the last `LONGEST_MAP` tokens are shown.
    """
    labels, weights = labels[-LONGEST_MAP:], weights[-LONGEST_MAP:, -LONGEST_MAP:]
    rows = [[float(f"{weight:.4f}") for weight in row] for row in weights.tolist()]
    names = list(map(_as_text, labels))
    figure = go.Figure(
        go.Heatmap(
            z=rows,
            customdata=[[(row, column) for column in names] for row in names],
            hovertemplate="%{customdata[0]} attends to %{customdata[1]}: %{z:.1%}<extra></extra>",
            zmin=0,
            zmax=float(weights.max()),
            xgap=1,
            ygap=1,
            colorscale=_HEAT,
            colorbar={"thickness": 8, "outlinewidth": 0, "tickformat": ".0%", "nticks": 3},
        )
    )
    axis = _token_axis(labels)
    figure.update_yaxes(**axis)
    figure.update_xaxes(**{**axis, "autorange": True}, side="top", tickangle=-90)
    return figure.update_layout(**_layout(160 + max(12 * len(labels), 240)))


def note(text: str) -> go.Figure:
    """A sentence in place of a plot."""
    figure = go.Figure().update_xaxes(visible=False).update_yaxes(visible=False)
    lines = _wrapped(text, 44)
    figure.add_annotation(text="<br>".join(map(_as_text, lines)), showarrow=False, x=0.5, y=0.5, xref="paper")
    return figure.update_layout(**_layout(140))


def _wrapped(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def _percent(probability: float) -> str:
    return f"{probability:.1%}" if probability >= 0.001 else f"{probability:.0e}"


def _as_text(label: str) -> str:
    """A label that plotly shows as it is: it reads `<b>` as a tag and `$x$` as a formula."""
    return html.escape(label, quote=False).replace("$", "&#36;")


def _token_axis(labels: list[str]) -> dict:
    """Numbers, not names, are the places on the axis: the same token may occur twice."""
    return {
        "tickmode": "array",
        "tickvals": list(range(len(labels))),
        "ticktext": [_as_text(label if len(label) <= 16 else f"{label[:15]}…") for label in labels],
        "autorange": "reversed",
        "showgrid": False,
        "zeroline": False,
        "automargin": True,
        "fixedrange": True,
    }


def _layout(height: int) -> dict:
    return {
        "height": height,
        "margin": {"l": 8, "r": 8, "t": 24, "b": 8},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 12, "color": _GREY},
        "dragmode": False,
        "modebar": {"remove": ["zoom", "zoomIn", "zoomOut", "pan", "autoScale", "resetScale", "select", "lasso"]},
    }
