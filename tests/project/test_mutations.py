"""`make mutations` finds the code that it breaks: a mutation that has lost its line would end it at the start."""

from mutations import MUTATIONS, REPOSITORY, mutated


def test_every_mutation_applies():
    lost = []
    for mutation in MUTATIONS:
        try:
            mutated(REPOSITORY, mutation)
        except (SystemExit, StopIteration) as error:  # StopIteration: the function has another name
            lost.append(f"{mutation.what}: {error}")
    assert not lost
