"""For bits_per_byte.yaml: the bytes are those of the text, without the end token."""


def bits_per_byte(document: dict[str, str], results: tuple[float]) -> dict[str, tuple[float, int]]:
    (log_likelihood,) = results
    return {"bits_per_byte": (log_likelihood, len(document["text"].encode()))}
