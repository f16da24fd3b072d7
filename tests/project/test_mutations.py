"""`make mutations` finds the code that it breaks: a mutation that has lost its line would end it at the start.

A mutation that is not Python would be noticed by every test.
"""

import ast

from mutations import MUTATIONS, REPOSITORY, mutated


def test_every_mutation_applies():
    lost = []
    for mutation in MUTATIONS:
        try:
            ast.parse(mutated(REPOSITORY, mutation)[1])
        except (SystemExit, StopIteration, SyntaxError) as error:  # StopIteration: the function has another name
            lost.append(f"{mutation.what}: {error}")
    assert not lost
