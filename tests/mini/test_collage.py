from clipgen.mini.collage import phrases


def test_phrases():
    assert phrases("a red apple and a banana", 2) == sorted(
        {"red", "apple", "banana", "red apple", "apple banana", "a red apple and a banana"}
    )
