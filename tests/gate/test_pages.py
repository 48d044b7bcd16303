"""What the scan of a page's source finds, and what must not slip through it."""
import pages
import pytest


def found(text):
    scan = pages.scan(text)
    return [x.name for x in scan.labels], [what for _, what in scan.bare]


@pytest.mark.parametrize(("text", "label"), [
    ("```{math}\n:label: eq-a\n0 = 0\n```", "eq-a"),
    ("```{math}\n---\nlabel: eq-a\n---\n0 = 0\n```", "eq-a"),
    (":::{math}\n:label: eq-a\n0 = 0\n:::", "eq-a"),
    ("$$0 = 0$$ (eq-a)", "eq-a"),
    ("$$\n0 = 0\n$$ (eq-a)", "eq-a"),
    ("- item\n\n  ```{math}\n  :label: eq-a\n  0 = 0\n  ```", "eq-a"),
    ("````{note}\n```{math}\n:label: eq-a\n0 = 0\n```\n````", "eq-a"),
    ("````{epigraph}\n```{math}\n:label: eq-a\n0 = 0\n```\n````", "eq-a"),
    ("````{exercise}\n```{math}\n:label: eq-a\n0 = 0\n```\n````", "eq-a"),
    ("```{exercise-start}\n```\n$$0 = 0$$ (eq-a)\n```{exercise-end}\n```", "eq-a"),
    ("```{prf:theorem} T\n:label: thm-a\n$0 = 0$.\n```", "thm-a"),
    ("````{prf:lemma} L\n:class: wide\n:label: lem-a\nwith `:label: no`\n````", "lem-a")])
def test_labels_are_found(text, label):
    assert found(text) == ([label], [])


@pytest.mark.parametrize("text", [
    "```{math}\n0 = 0\n```", "$$0 = 0$$", "Hence $$0 = 0$$ holds.", "Hence $$\n0 = 0\n$$",
    "$$\n0 = 0\n$$", "> $$0 = 0$$", "- $$0 = 0$$", "````{epigraph}\n$$0 = 0$$\n````",
    "\\begin{align}\n0 &= 0\n\\end{align}", "\\begin{equation}0 = 0\\end{equation}",
    "````{note}\n\\begin{gather*}0 = 0\\end{gather*}\n````", "```{prf:theorem} T\n$0 = 0$.\n```",
    "```{exercise-start}\n```\nA.\n```{exercise-end}\n```\n$$0 = 0$$",
    "````{note}\n```{code-cell} ipython3\n1\n```\n````"])
def test_what_lacks_a_label_or_cannot_run_is_found(text):
    labels, bare = found(text)
    assert labels == [] and len(bare) == 1


@pytest.mark.parametrize("text", [
    "In `$$` and \\$\\$ nothing is displayed.", "````{note}\n$$0 = 0$$\n````",
    "```{prf:proof}\n$$0 = 0$$\n```", "```{code-cell} ipython3\ns = '$$'\n```",
    "````\n```{math}\n0 = 0\n```\n````", "````md\n```{code-cell} ipython3\n1\n```\n````",
    "```{solution-start} ex-a\n```\n$$0 = 0$$\n```{solution-end}\n```"])
def test_the_rest_is_left_alone(text):
    assert found(text) == ([], [])


def test_names_are_found_wherever_they_are_given():
    text = ("(sec-a)=\n# A\n```{exercise-start} E\n:label: ex-a\n```\n```{exercise-end}\n```\n"
            "```{code-cell} ipython3\n---\nmystnb:\n  figure:\n    name: fig-a\n---\n"
            "name: int = 1\n```\n```{figure} a.svg\n:name: fig-b\n```\n$$0 = 0$$ (eq-a)\n")
    assert [x.name for x in pages.scan(text).names] == ["sec-a", "ex-a", "fig-a", "fig-b", "eq-a"]


def test_claims_are_counted_in_their_section_only():
    text = "# T\n1. no\n## What this page shows\n\n1. a\n2. b\n   1. no\n\n## Next\n1. no\n"
    assert pages.scan(text).claims == 2


def test_digest_changes_with_what_a_number_can_depend_on(tmp_path):
    lib = tmp_path / "lib" / "lecturelib"
    lib.mkdir(parents=True)
    (tmp_path / "requirements.txt").write_text("numpy==2.0\n")
    seen = {pages.digest(tmp_path)}
    for name in ("a.py", "a.cpp", "data.npy", "table.csv"):
        (lib / name).write_bytes(b"1")
        seen.add(pages.digest(tmp_path))
    (lib / "a.py").rename(lib / "b.py")
    seen.add(pages.digest(tmp_path))
    (tmp_path / "requirements.txt").write_text("numpy==2.1\n")
    seen.add(pages.digest(tmp_path))
    assert len(seen) == 7
    (lib / "__pycache__").mkdir()
    (lib / "__pycache__" / "a.pyc").write_bytes(b"1")
    assert pages.digest(tmp_path) in seen
