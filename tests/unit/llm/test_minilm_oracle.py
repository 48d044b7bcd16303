"""The same embeddings from an independent implementation, sentence-transformers."""
import torch
from lecturelib.llm import minilm
from sentence_transformers import SentenceTransformer

TEXTS = ["The cat sits on the mat.", "Quantization maps vectors to codes; étude naïve!", "",
         "x = [i**2 for i in range(10)]  # squares", "A finite sum of bits. " * 100]


def test_embeddings_of_sentence_transformers():
    peer = SentenceTransformer(str(minilm.folder()), device="cpu")
    theirs = torch.from_numpy(peer.encode(TEXTS, show_progress_bar=False))
    assert torch.allclose(minilm.MiniLM().embed(TEXTS), theirs, atol=2e-6)
