"""The demo page answers what the commands answer, and says what is wrong. `make demo-test` installs gradio."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request

import pytest
import torch
from datasets import Dataset
from made_data import NUMBERS, build, counting, ends, number_tokenizer, questions

from modeling_mini import MiniForCausalLM
from modeling_mini.cli import main
from modeling_mini.errors import UserError
from modeling_mini.hub import push as sharing
from modeling_mini.inference.loading import load_checkpoint
from modeling_mini.tasks import task_class
from modeling_mini.tasks.generation import continue_text, encode_prompt
from modeling_mini.tokenization import train_tokenizer


gr = pytest.importorskip("gradio", reason="`make demo-test` installs gradio")

from modeling_mini.serving import demo, drawing, forms  # noqa: E402


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CONTEXT = 64
SAMPLING = {
    "max_new_tokens": 12,
    "temperature": 0.8,
    "top_k": 50,
    "top_p": 1,
    "repetition_penalty": 1,
    "seed": "3",
}


@pytest.fixture(scope="module")
def saved(tiny_model, tmp_path_factory):
    """`saved("translation")`: the folder of an untrained model of a task, with what its run would record."""
    folder = tmp_path_factory.mktemp("checkpoints")
    tokenizer = number_tokenizer()

    def save(name):
        path = folder / name
        if not path.exists():
            model_class = task_class(name).model_class
            labels = ["even <b>", "奇数", "other"] if name == "text-classification" else None
            more = {"id2label": dict(enumerate(labels))} if labels else {}
            more |= {"is_causal": model_class is MiniForCausalLM}
            tiny_model(
                model_class, vocab_size=len(tokenizer), max_position_embeddings=CONTEXT, **more
            ).save_pretrained(path)
            tokenizer.save_pretrained(path)
            arguments = {"task": name, "block_size": CONTEXT, "max_target_tokens": 9, "stride": 16}
            (path / "_run.json").write_text(json.dumps({"data": arguments}))
        return str(path)

    return save


@pytest.fixture
def opened(saved):
    return lambda name: demo.open_checkpoint(saved(name))


@pytest.fixture
def warnings(monkeypatch):
    """The warnings that a page shows."""
    shown = []
    monkeypatch.setattr(forms.gr, "Warning", shown.append)
    return shown


def last(iterator):
    return list(iterator)[-1]


def test_a_completion_streams_the_text_that_generate_writes(opened):
    language_model = opened("text-generation")
    texts = list(forms._complete(language_model, list(SAMPLING), "one two ", *SAMPLING.values()))
    options = SAMPLING | {"seed": 3}
    written = continue_text(language_model.model, language_model.tokenizer, "one two ", **options)
    assert texts[-1] == written
    assert len(texts) > 2
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(texts))


def test_a_reader_who_leaves_stops_the_writing(opened, monkeypatch):
    language_model = opened("text-generation")
    ended = []

    def write_and_record(*args, **options):
        try:
            return continue_text(*args, **options)
        finally:
            ended.append(True)

    steps = []
    monkeypatch.setattr(forms, "continue_text", write_and_record)
    language_model.model.register_forward_hook(lambda *_: steps.append(len(steps)))
    text = forms._complete(language_model, list(SAMPLING), "", *(SAMPLING | {"max_new_tokens": 60}).values())
    next(text)
    text.close()
    with forms._SAMPLING:  # free again once the thread has ended
        pass
    assert len(steps) < 60


def test_the_next_token_is_drawn_with_the_probabilities_of_the_model(opened):
    language_model = opened("text-generation")
    model, tokenizer = language_model.model, language_model.tokenizer
    distribution = drawing.next_tokens(model, tokenizer, "one two")
    ids = encode_prompt(tokenizer, "one two", CONTEXT)
    best = model(ids).logits[0, -1].softmax(-1).topk(drawing.SHOWN_TOKENS)
    assert [probability for _, probability in distribution] == pytest.approx(best.values.tolist(), abs=1e-6)
    assert [label for label, _ in distribution] == [drawing.token_label(tokenizer, i) for i in best.indices.tolist()]
    figure = drawing.bars([distribution])
    assert list(figure.data[0].x) == [probability for _, probability in distribution]
    after_space = drawing.next_tokens(model, tokenizer, "one two ")
    assert {label[0] for label, _ in after_space} == {"␣"}


def test_the_attention_is_that_of_the_chosen_head(opened):
    language_model = opened("text-generation")
    model, tokenizer = language_model.model, language_model.tokenizer
    model.set_attn_implementation("eager")
    labels, weights = drawing.attention(model, tokenizer, "one two")
    assert (len(weights), weights[0].shape) == (2, (4, len(labels), len(labels)))
    torch.testing.assert_close(weights[1].sum(-1), torch.ones(4, len(labels)))
    assert labels[0] == "<bos>"
    for layer, head, expected in ((1, 2, weights[1][2]), (0, drawing.ALL_HEADS, weights[0].mean(0))):
        figure = forms._draw_attention(language_model, "one two", layer, head)
        torch.testing.assert_close(torch.tensor(figure.data[0].z), expected, rtol=0, atol=1e-4)
    assert figure.layout.xaxis.ticktext[0] == "&lt;bos&gt;"
    long = forms._draw_attention(language_model, "one two three four five six seven " * 3, 0, 0)
    assert len(long.data[0].z) <= drawing.LONGEST_MAP


def test_a_part_of_a_character_is_shown_as_its_bytes():
    tokenizer = train_tokenizer(["列表 of text"], vocab_size=270)
    ids = tokenizer("返 列\n<b>$", add_special_tokens=False).input_ids
    shown = "".join(drawing.token_label(tokenizer, token) for token in ids)
    assert shown.startswith("\\xe8\\xbf\\x94␣")
    assert shown.endswith("⏎<b>$")
    assert drawing._as_text("<b>$") == "&lt;b&gt;&#36;"


@pytest.mark.parametrize(
    ("text", "options", "sentence"),
    [
        ("one " * 80, {}, "the model reads at most 64; shorten it"),
        ("one \ud83d", {}, "half a character"),
        ("one", {"seed": "x"}, "seed is &#x27;x&#x27;; give a whole number"),
        ("one", {"temperature": 1e9}, "--temperature is 1000000000.0"),
    ],
    ids=["long", "surrogate", "seed", "temperature"],
)
def test_a_completion_that_cannot_be_is_refused_in_the_page(opened, text, options, sentence):
    with pytest.raises(gr.Error) as error:
        last(forms._complete(opened("text-generation"), list(SAMPLING), text, *(SAMPLING | options).values()))
    assert sentence in str(error.value.message)


def test_a_special_token_in_a_text_is_announced(opened, warnings):
    language_model = opened("text-generation")
    last(forms._complete(language_model, list(SAMPLING), "one<eos> two", *SAMPLING.values()))
    assert warnings == ["&lt;eos&gt; in the text is read as a special token of the model."]
    assert "<eos> is read" not in "".join(forms._draw_next(language_model, "x" * 500).layout.annotations[0].text)
    assert "shorten" in forms._draw_next(language_model, "x" * 500).layout.annotations[0].text
    assert "shorten" in forms._draw_attention(language_model, "x" * 500, 0, 0).layout.annotations[0].text


def test_a_chat_keeps_what_fits_into_the_context(opened, warnings):
    language_model = opened("text-generation")
    options = list(SAMPLING), *(SAMPLING | {"temperature": 0}).values()
    alone = last(forms._reply(language_model, options[0], "one", [], *options[1:]))
    history = [
        {"role": "user", "content": [{"type": "text", "text": "two " * 9}]},
        {"role": "assistant", "content": "three " * 9},
    ]
    assert last(forms._reply(language_model, options[0], "one", history, *options[1:])) == alone
    assert "oldest messages are left out" in warnings[0]
    with pytest.raises(gr.Error, match="The message has .* shorten it"):
        last(forms._reply(language_model, options[0], "one " * 80, [], *options[1:]))
    with pytest.raises(gr.Error, match="The message is empty"):
        last(forms._reply(language_model, options[0], " ", [], *options[1:]))


def test_a_message_that_got_an_error_is_not_read(opened, warnings):
    language_model = opened("text-generation")
    options = list(SAMPLING), *(SAMPLING | {"temperature": 0}).values()
    alone = last(forms._reply(language_model, options[0], "one", [], *options[1:]))
    failed = [{"role": "user", "content": "one " * 80}]
    assert last(forms._reply(language_model, options[0], "one", failed, *options[1:])) == alone
    assert warnings == []


def test_the_page_does_not_load_what_a_model_writes(opened, saved):
    page = demo.build(saved("text-generation"))
    [chatbot] = [block for block in page.blocks.values() if isinstance(block, gr.Chatbot)]
    assert not chatbot.render_markdown


@pytest.mark.parametrize("name", ["translation", "summarization", "generative-question-answering"])
def test_a_written_text_is_that_of_the_task(opened, warnings, name):
    opened = opened(name)
    texts = list(ends(1)[0].values())[:2] if name.startswith("generative") else [counting(1)[0]["source"]]
    labels = forms._SOURCES[name][0]
    names = ["max_new_tokens", "num_beams", "repetition_penalty"]
    defaults = {"num_beams": 1, "repetition_penalty": 1.0} | opened.task.default_decoding
    values = [9, defaults["num_beams"], defaults["repetition_penalty"]]
    examples = Dataset.from_list([dict(zip(opened.task.input_columns, texts))])
    [expected] = opened.task.predict(opened.model, opened.tokenizer, examples)
    assert forms._write(opened, labels, names, *texts, *values) == (expected or forms.NO_ANSWER)
    assert not warnings
    forms._write(opened, labels, names, *[text * 20 for text in texts], *values)
    assert "the model reads its" in warnings[0]
    with pytest.raises(gr.Error, match=f"{labels[-1]} is empty"):
        forms._write(opened, labels, names, *texts[:-1], " ", *values)


def test_a_classification_has_the_probabilities_of_all_labels(opened, warnings, monkeypatch):
    opened = opened("text-classification")
    calls = []
    monkeypatch.setattr(forms, "_on_submit", lambda sources, function, *rest: calls.append(function))
    with gr.Blocks(analytics_enabled=False):
        forms.classification_form(opened)
    [classify] = calls
    probabilities = classify("one two", "")
    assert set(probabilities) == {"even <b>", "奇数", "other"}
    assert sum(probabilities.values()) == pytest.approx(1, abs=1e-5)
    for text in ("one two", "one<eos> two"):  # written by a visitor, these are five characters
        probabilities = classify(text, "")
        [(label, probability)] = opened.task.probabilities(
            opened.model, opened.tokenizer, Dataset.from_list([{"text": text}])
        )
        assert max(probabilities, key=probabilities.get) == label
        assert probabilities[label] == pytest.approx(probability, abs=1e-5)
    assert classify("one two", "three") != classify("one two", "")
    assert not warnings
    assert classify("one " * 90, "")
    assert "the model reads the first 64" in warnings[0]
    with pytest.raises(gr.Error, match="The text is empty"):
        classify("", "")


def test_an_answer_is_marked_in_its_context(opened):
    opened = opened("question-answering")
    row = questions(1)[0]
    example = {"question": row["question"], "context": row["context"]}
    [expected] = opened.task.n_best(opened.model, opened.tokenizer, Dataset.from_list([example]), n=3)
    answer, marked, rows = forms._answer(opened, **example)
    assert answer == (expected[0]["answer"] or forms.NO_ANSWER)
    assert "".join(part for part, _ in marked) == row["context"]
    assert [part for part, label in marked if label] == [text for text in [expected[0]["answer"]] if text]
    assert [score for _, score in rows] == [round(candidate["score"], 2) for candidate in expected]
    with pytest.raises(gr.Error, match="Context is empty"):
        forms._answer(opened, "what", "")


def test_masks_are_filled_in(opened, monkeypatch):
    opened = opened("fill-mask")
    calls = []
    monkeypatch.setattr(forms, "_on_submit", lambda sources, function, *rest: calls.append(function))
    with gr.Blocks(analytics_enabled=False):
        forms.fill_mask_form(opened)
    [fill] = calls
    ids = opened.tokenizer("one<mask> three", return_tensors="pt").input_ids
    place = ids[0].tolist().index(opened.tokenizer.mask_token_id)
    best = opened.model(ids).logits[0, place].softmax(-1).topk(10)
    filled, figure = fill("one <mask> three")
    assert [part for part, label in filled if label is None] == ["one ", " three"]
    assert list(figure.data[0].x) == pytest.approx(best.values.tolist(), abs=1e-5)
    filled, figure = fill("<mask> two <mask>")
    assert [label for _, label in filled] == ["guess", None, "guess"]
    assert len(figure.data) == 2
    for text, sentence in (("one", "has no &lt;mask&gt;"), ("", "is empty"), ("<mask>" * 90, "shorten it")):
        with pytest.raises(gr.Error) as error:
            fill(text)
        assert sentence in error.value.message


def test_a_defect_is_a_sentence_in_the_page_and_a_report_in_the_terminal(caplog):
    with pytest.raises(gr.Error, match="please report it with the lines in the terminal"), forms.errors_in_page():
        raise KeyError("x")
    assert "KeyError" in caplog.text


def test_every_task_has_a_form_and_every_page_names_its_model(saved):
    for name in forms.FORMS:
        page = demo.build(saved(name))
        heading = next(block.value for block in page.blocks.values() if isinstance(block, gr.Markdown))
        parameters = load_checkpoint(saved(name), build(name))[0].num_parameters()
        assert heading.startswith(f"# {name}\n{name.replace('-', ' ')} · {parameters:,} parameters · context of 64 to")
        assert page.analytics_enabled is False
    with pytest.raises(UserError, match="there is no such folder"):
        demo.build("nosuch/folder/here")


# The command


@pytest.fixture
def command(free_port, tmp_path):
    """`command("demo", checkpoint)`: the process of a command, and its address."""
    started = []

    def start(*words, cwd=tmp_path, **environment):
        process = subprocess.Popen(
            [sys.executable, *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=cwd,
            env=os.environ | environment,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_the_command_serves_on_loopback_until_it_is_interrupted(command, saved, free_port):
    words = ["-m", "modeling_mini.cli", "demo", saved("text-generation"), "--port", free_port]
    process = command(*words, HTTP_PROXY="http://127.0.0.1:9")  # a proxy that answers nobody
    line = process.stdout.readline()
    assert f"is at http://127.0.0.1:{free_port} (Ctrl-C ends the demo)" in line, process.stderr.read()
    page = urllib.request.urlopen(f"http://127.0.0.1:{free_port}", timeout=30).read().decode()
    assert "text-generation · modeling_mini" in page
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=30)
    assert (process.returncode, output, errors) == (130, "", "Stopped by SIGINT.\n")


@pytest.mark.slow
def test_a_space_runs_as_it_is_written(command, saved, free_port, tmp_path, hub, monkeypatch, capsys):
    from gradio_client import Client

    monkeypatch.setattr(sharing, "verify", lambda *args: None)
    sharing.push(saved("text-classification"), "alice/mini")
    assert (
        main(["demo", saved("text-classification"), "--space", str(tmp_path / "sp"), "--repo_id", "alice/mini"]) == 0
    )
    hub_environment = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    caches = {"HF_HOME": str(tmp_path / "cache"), "HF_TOKEN": "hf_alice", "PYTHONPATH": ""}
    process = command("app.py", cwd=tmp_path / "sp", GRADIO_SERVER_PORT=str(free_port), **hub_environment, **caches)
    line = process.stdout.readline()
    assert str(free_port) in line, process.stderr.read()
    client = Client(f"http://127.0.0.1:{free_port}", verbose=False, analytics_enabled=False)
    answer = client.predict("one two", "", api_name="/classify")
    assert {row["label"] for row in answer["confidences"]} == {"even <b>", "奇数", "other"}


# The page in a browser


@pytest.fixture
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="`make demo-test` installs playwright")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium; apt-get install chromium")
    with playwright.sync_playwright() as api:
        browser = api.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, saved, free_port):
    """`visit("translation")`: the page of a checkpoint in a browser; at the end, nothing has left loopback."""
    requests, errors, pages = [], [], []

    def open_page(name, **options):
        blocks = demo.build(saved(name))
        blocks.launch(**demo.look(), server_port=free_port, quiet=True, prevent_thread_lock=True)
        pages.append(blocks)
        page = browser.new_page(**options)
        page.set_default_timeout(30_000)
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: errors.append(error))
        page.goto(f"http://127.0.0.1:{free_port}")
        return page

    yield open_page
    for blocks in pages:
        blocks.close(verbose=False)
    assert requests
    addresses = (f"http://127.0.0.1:{free_port}/", "data:", "blob:")
    assert not [url for url in requests if not url.startswith(addresses)]
    assert not errors


@pytest.fixture
def slow_model(monkeypatch):
    """A page whose model takes at least 50 ms for a token, so that the text can be seen to grow."""

    def load_slowly(*args):
        model, tokenizer = load_checkpoint(*args)
        model.register_forward_hook(lambda *_: time.sleep(0.05))
        return model, tokenizer

    monkeypatch.setattr(demo, "load_checkpoint", load_slowly)


def see(page, selector, text):
    page.wait_for_function(
        "([selector, text]) => document.querySelector(selector)?.textContent.includes(text)", arg=[selector, text]
    )


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_visitor_completes_a_text_and_sees_its_plots(visit, slow_model, scheme):
    page = visit("text-generation", viewport={"width": 390, "height": 800}, color_scheme=scheme)
    box = page.locator("#text textarea")
    box.fill("one two 列")
    see(page, "#next-token", "%")
    assert page.locator("#next-token .bars .point").count() == drawing.SHOWN_TOKENS
    page.get_by_label("seed").fill("7")
    page.evaluate(
        "() => { const box = document.querySelector('#text textarea');"
        "window.lengths = []; setInterval(() => lengths.push(box.value.length), 5) }"
    )
    page.get_by_role("button", name="Complete").click()
    page.wait_for_function("document.querySelector('#text textarea').value.length > 40")
    page.wait_for_timeout(1000)
    assert box.input_value().startswith("one two 列")
    assert len(set(page.evaluate("lengths"))) > 3  # it grew in pieces
    page.get_by_role("button", name="Undo").click()
    page.wait_for_function("document.querySelector('#text textarea').value === 'one two 列'")
    page.get_by_role("tab", name="Attention").click()
    see(page, "#attention", "<bos>")
    see(page, "#attention", "\\xe5")
    page.wait_for_selector("#attention .hm image", state="attached")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    box.fill("one " * 90)
    page.get_by_role("button", name="Complete").click()
    page.get_by_text("the model reads at most 64; shorten it").last.wait_for()


@pytest.mark.slow
def test_a_visitor_chats(visit):
    page = visit("text-generation")
    page.get_by_role("tab", name="Chat").click()
    box = page.locator("textarea:visible").first
    box.fill("one two")
    box.press("Enter")
    page.locator(".message.bot, .bot.message, [data-testid=bot]").first.wait_for()
    page.get_by_text("one two").first.wait_for()


@pytest.mark.slow
def test_a_visitor_classifies(visit):
    page = visit("text-classification")
    page.get_by_role("button", name="Classify").click()
    page.get_by_text("The text is empty; write something first.").wait_for()
    page.locator("#text textarea").fill(" ".join(NUMBERS))
    page.get_by_role("button", name="Classify").click()
    for label in ("even <b>", "奇数", "other", "%"):
        see(page, "#output", label)


@pytest.mark.slow
def test_a_visitor_gets_an_answer(visit):
    page = visit("question-answering")
    row = questions(1)[0]
    page.locator("#question textarea, #question input").fill(row["question"])
    page.locator("#context textarea").fill(row["context"])
    page.get_by_role("button", name="Answer").click()
    page.wait_for_function("document.querySelector('#output textarea, #output input').value")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "button"), [("translation", "Translate"), ("fill-mask", "Fill in")])
def test_a_visitor_gets_a_text(visit, name, button):
    page = visit(name)
    page.locator("#text textarea").fill("one <mask> three")
    page.get_by_role("button", name=button).click()
    if name == "translation":
        page.wait_for_function("document.querySelector('#output textarea').value")
    else:
        see(page, "#output", "one")
        see(page, "#guesses", "%")
