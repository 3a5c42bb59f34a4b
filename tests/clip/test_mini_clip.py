"""The embedded CLIP."""

import torch

import clipgen


def test_perceptor_knows_words_it_never_saw_drawn():
    perceptor = clipgen.load_perceptor()
    puppy, dog, car, automobile = perceptor.embed_text(["a puppy", "a dog", "a car", "an automobile"])
    assert puppy @ dog > puppy @ car and automobile @ car > automobile @ dog
    assert torch.allclose(puppy.norm(), torch.tensor(1.0))
