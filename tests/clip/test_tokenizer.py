import ftfy
import open_clip
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipgen.clip.tokenizer import encode, vocabulary


@pytest.mark.parametrize(
    "text",
    [
        "a red apple",
        "it's 3am &amp; cats",
        "l'été naïve 東京 ☃",
        "don't  STOP\n\tnow",
        "x" * 60,
        "😀👍🏽",
        "sÃ£o paulo",
        "",
    ],
)
def test_equal_to_open_clip(text):
    reference = open_clip.SimpleTokenizer()(text)[0].tolist()
    assert encode(text)[:75] == reference[1 : reference.index(49407)]


def test_vocabulary_order():
    assert vocabulary()[:-2] == list(open_clip.SimpleTokenizer().encoder)[:-2]


PLAIN = st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters="&"))


@given(PLAIN)
def test_in_plain_text_there_is_nothing_to_mend(text):
    assert ftfy.fix_text(text) == text
