"""Prompts, the text classifier and its cache."""

import copy
import os
import threading

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from clipself_d2.clip.checkpoint import read_tensors
from clipself_d2.errors import InputError
from clipself_d2.vocabulary import TextClassifier, Vocabulary, max_over_synonyms, synonym_classes
from clipself_d2.vocabulary.templates import TEMPLATES, fill

NAMES = ["traffic light", "orange_juice", "wall-other/merged", "Umbrella", "U.S.A."]


@pytest.fixture
def tower(towers):
    return towers("tiny-vit")[1]


@pytest.fixture
def classifier(tower, tmp_path):
    return lambda *args, **kwargs: TextClassifier(tower, *args, cache_dir=tmp_path, **kwargs)


# ---- prompts ----


def test_vild_templates_are_as_counted_in_the_release():
    vild = TEMPLATES["vild"]
    assert len(vild) == len(set(vild)) == 63
    assert sum(t.startswith("This is ") for t in vild) == 58
    assert sorted(t.split()[0] for t in vild if not t.startswith("This is ")) == [
        "There",
        "There",
        "itap",
        "itap",
        "itap",
    ]
    assert all(t.count("{}") == 1 and t.endswith(".") for t in vild)
    assert sum("{article}" in t for t in vild) == 15
    assert sum(t.startswith("This is the ") for t in vild) == 5
    assert {"This is a photo of a hard to see {}.", "itap of my {}.", "There is {article} {} in the scene."} <= set(
        vild
    )


@pytest.mark.parametrize(
    "name, words",
    [
        ("traffic light", "a traffic light"),
        ("orange_juice", "an orange juice"),
        ("wall-other/merged", "a wall-other or merged"),
        ("Umbrella", "a umbrella"),  # the article looks at the name as given, where capitals are no vowels
        ("U.S.A.", "a u.s.a"),
        ("hour", "a hour"),
    ],
)
def test_names_become_words(name, words):
    assert fill("This is a photo of {article} {}.", name) == f"This is a photo of {words}."


def test_every_vild_prompt_by_the_release_s_rules():
    """The rules as one would write them down: fill, then prefix texts that begin with "a" or "the"."""
    for name in NAMES:
        for template in TEMPLATES["vild"]:
            bare = template.removeprefix("This is ")
            words = name.replace("_", " ").replace("/", " or ").lower().rstrip(".")
            text = bare.format(words, article="an" if name[0] in "aeiou" else "a")
            expected = "This is " + text if text.startswith("a") or text.startswith("the") else text
            assert fill(template, name) == expected


# ---- rows ----


def by_hand(tower, name, templates):
    rows = torch.stack([tower([fill(t, name)])[0] / tower([fill(t, name)])[0].norm() for t in templates])
    return rows.mean(0) / rows.mean(0).norm()


@torch.no_grad()
def test_rows_are_means_of_unit_vectors(tower, classifier):
    rows = classifier(batch_size=50)(NAMES)
    assert rows.shape == (5, tower.embed_dim) and rows.dtype == torch.float32
    expected = torch.stack([by_hand(tower, name, TEMPLATES["vild"]) for name in NAMES])
    torch.testing.assert_close(rows, expected, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("templates", ["photo", "a photo of a {}.", ["a photo of a {}."]])
def test_one_template(tower, classifier, templates):
    expected = F.normalize(tower(["a photo of a cat."]), dim=-1)
    torch.testing.assert_close(classifier(templates)(["cat"]), expected)


@torch.no_grad()
def test_synonyms_by_mean_and_by_max(tower, classifier):
    vocabulary = [["sofa", "couch"], "cat", ["tv", "television", "telly"]]
    single = classifier("photo")(["sofa", "couch", "cat", "tv", "television", "telly"])
    mean = classifier("photo")(vocabulary)
    torch.testing.assert_close(mean[0], F.normalize(single[:2].mean(0), dim=0))
    torch.testing.assert_close(mean[1], single[2])
    torch.testing.assert_close(mean[2], F.normalize(single[3:].mean(0), dim=0))

    rows = classifier("photo", synonyms="max")(vocabulary)
    torch.testing.assert_close(rows, single)
    classes = synonym_classes(vocabulary)
    assert classes.tolist() == [0, 0, 1, 2, 2, 2]
    scores = torch.randn(4, 5, 6)
    best = max_over_synonyms(scores, classes)
    expected = torch.stack([scores[..., :2].amax(-1), scores[..., 2], scores[..., 3:].amax(-1)], dim=-1)
    assert torch.equal(best, expected)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=6), st.integers(0, 2**16))
def test_max_over_synonyms_is_a_loop_over_classes(counts, seed):
    classes = synonym_classes([[f"{k} {n}" for n in range(count)] for k, count in enumerate(counts)])
    scores = torch.randn(3, len(classes), generator=torch.Generator().manual_seed(seed))
    expected = torch.stack([scores[:, classes == k].max(1).values for k in range(len(counts))], dim=1)
    assert torch.equal(max_over_synonyms(scores, classes), expected)


def test_rows_can_be_used_under_gradients(classifier):
    rows = classifier("photo")(["cat", "dog"])
    features = torch.randn(3, rows.shape[1], requires_grad=True)
    (features @ rows.T).sum().backward()
    torch.testing.assert_close(features.grad, rows.sum(0).expand(3, -1))


# ---- the tower ----


def test_the_tower_trains_and_keeps_its_mode(tower, classifier):
    tower.train()
    classifier("photo")(["cat"])
    assert tower.training
    tower(["a cat", "a dog"]).square().sum().backward()
    missing = [n for n, p in tower.named_parameters() if p.grad is None]
    assert missing == ["clip.logit_scale"]


@pytest.mark.parametrize("name", ["tiny-vit", "tiny-eva"])
def test_state_dict_goes_out_and_in_under_open_clips_names(towers, name):
    (_, one), (_, other) = towers(name), towers(name)
    state = one.state_dict()
    assert "logit_scale" in state and not any(key.startswith("clip.") for key in state)
    assert ("text.ln_final.weight" if name == "tiny-eva" else "ln_final.weight") in state
    assert other.fingerprint != one.fingerprint
    other.load_state_dict(state)
    assert other.fingerprint == one.fingerprint
    assert torch.equal(other(["a cat"]), one(["a cat"]))


@pytest.mark.parametrize("name", ["tiny-vit", "tiny-eva"])
def test_leaving_out_the_padding_changes_nothing(towers, name):
    tower = towers(name)[1]
    texts = ["a", "a photo of a large red star in a bright room", ""]
    with torch.no_grad():
        torch.testing.assert_close(tower(texts), tower.clip.encode_text(tower.tokenizer(texts)))


def test_a_tower_of_inference_mode_has_the_same_fingerprint(tower):
    with torch.inference_mode():
        other = copy.deepcopy(tower)
        assert other.fingerprint == tower.fingerprint
        next(other.parameters()).add_(1)
        assert other.fingerprint != tower.fingerprint


def test_fingerprint_follows_weights_and_tokenizer(tower, monkeypatch):
    before = tower.fingerprint
    assert tower.fingerprint == before
    with torch.no_grad():
        tower.logit_scale.add_(1)  # shapes no embedding
    assert tower.fingerprint == before
    with torch.no_grad():
        tower.clip.ln_final.bias[0] += 1e-6
    changed = tower.fingerprint
    assert changed != before
    monkeypatch.setattr(tower.tokenizer, "encoder", {**tower.tokenizer.encoder, "new</w>": 1})
    tower._fingerprint = (None, "")
    assert tower.fingerprint != changed


# ---- the cache ----


def test_cache_answers_without_the_tower(tower, classifier, monkeypatch):
    first = classifier("photo")(["cat", "dog"])
    monkeypatch.setattr(type(tower), "forward", lambda *_: pytest.fail("encoded again"))
    assert torch.equal(classifier("photo")(["cat", "dog"]), first)


@pytest.mark.parametrize("change", ["vocabulary", "order", "templates", "synonyms", "weights"])
def test_cache_depends_on_all_that_shapes_the_rows(tower, classifier, tmp_path, change):
    classifier("photo")([["cat", "kitten"], "dog"])
    vocabulary = {"vocabulary": [["cat", "kitten"], "cow"], "order": ["dog", ["cat", "kitten"]]}.get(
        change, [["cat", "kitten"], "dog"]
    )
    if change == "weights":
        with torch.no_grad():
            tower.clip.text_projection.neg_()
    templates = "{}" if change == "templates" else "photo"
    classifier(templates, synonyms="max" if change == "synonyms" else "mean")(vocabulary)
    assert len(list((tmp_path / "text").iterdir())) == 2


def test_autocast_of_the_caller_does_not_reach_the_cache(tower, classifier, tmp_path):
    expected = TextClassifier(tower, cache_dir=tmp_path / "another")(["a cat", "dog"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rows = classifier()(["a cat", "dog"])
    assert rows.dtype == torch.float32 and torch.equal(rows, expected)


def test_damaged_cache_is_made_again(classifier, tmp_path):
    first = classifier("photo")(["cat"])
    (file,) = (tmp_path / "text").iterdir()
    whole = file.read_bytes()
    flipped = [bytearray(whole) for _ in range(3)]
    for content, place in zip(flipped, (-1, -first.nbytes // 2, -first.nbytes - 1), strict=True):
        content[place] ^= 8
    for damaged in (b"half", *flipped):
        file.write_bytes(damaged)
        assert torch.equal(classifier("photo")(["cat"]), first)
        assert torch.equal(read_tensors(file)["rows"], first)  # written anew


def test_cache_that_cannot_be_written_is_no_failure(tower, classifier, tmp_path, monkeypatch):
    expected = classifier("photo")(["cat"])
    (tmp_path / "file").write_text("")
    blocked = TextClassifier(tower, "photo", cache_dir=tmp_path / "file")
    assert torch.equal(blocked(["cat"]), expected)


def test_many_threads_share_a_cache(classifier, tmp_path):
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(classifier("photo")(["cat", "dog"]))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 6 and all(torch.equal(a, answers[0]) for a in answers)
    assert len(list((tmp_path / "text").iterdir())) == 1


def test_cache_folder_by_environment(tower, tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPSELF_D2_CACHE", str(tmp_path / "here"))
    TextClassifier(tower, "photo")(["cat"])
    assert len(list((tmp_path / "here" / "text").iterdir())) == 1
    monkeypatch.delenv("CLIPSELF_D2_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert TextClassifier(tower).cache_dir == tmp_path / "home" / ".cache" / "clipself_d2"


def test_the_cache_has_the_modes_that_umask_gives(classifier, tmp_path):
    before = os.umask(0o027)
    try:
        classifier("photo")(["cat"])
    finally:
        os.umask(before)
    [file] = (tmp_path / "text").iterdir()
    assert file.stat().st_mode & 0o777 == 0o640


# ---- long prompts ----


def test_cut_prompts_are_counted(classifier, tower, caplog):
    limit = tower.tokenizer.context_length
    fits, cut = " ".join(["cat"] * (limit - 6)), " ".join(["cat"] * (limit - 5))  # beside "a photo of a" and two marks
    template = "a photo of a {}"
    tokens = tower.tokenizer([template.format(fits), template.format(cut)])
    assert (tokens[0] == tower.tokenizer(["cat"])[0, 1]).sum() == limit - 6  # nothing of it is lost
    assert (tokens[1] == tower.tokenizer(["cat"])[0, 1]).sum() == limit - 6
    assert tower.is_cut([template.format(fits), template.format(cut), ""]) == [False, True, False]
    classifier(template)([fits, "dog"])
    assert not caplog.text
    for _ in range(2):  # from the cache too
        caplog.clear()
        classifier(template)([("dog", cut), fits])
        assert f"prompts of 1 names are cut at {limit} tokens, first that of 'cat cat" in caplog.text


def test_classes_with_the_same_embedding_are_warned_of(classifier, tower, caplog):
    long = " ".join(["cat"] * tower.tokenizer.context_length)
    Vocabulary.from_classes(["cat", f"{long} on a mat", "dog", f"{long} on a lawn"], classifier("photo"))
    assert "1 classes have the same embedding as another, first 'cat cat" in caplog.text
    caplog.clear()
    Vocabulary.from_classes(["Hot_dog", "cat", "hot dog"], classifier("photo"))
    assert "first 'Hot_dog' and 'hot dog'" in caplog.text
    caplog.clear()
    Vocabulary.from_classes(["hot dog", "cat", "hot dogs"], classifier("photo"))
    assert not caplog.text


# ---- wrong input ----


@pytest.mark.parametrize(
    "vocabulary, reason",
    [
        ([], "at least one class"),
        ("cat", "a list of at least one"),
        (["cat", 3], "class 1 of the vocabulary is 3"),
        (["cat", None], "class 1 of the vocabulary is None"),
        (["cat", ""], "class 1"),
        (["cat", []], "class 1"),
        (["cat", ["dog", 4]], "class 1"),
        (["cat", "dog", "cat"], r"class 'cat' is given twice \(numbers 0, 2\)"),
        ([["tv", "tv"]], "given twice"),
    ],
)
def test_wrong_vocabularies(classifier, vocabulary, reason):
    with pytest.raises(InputError, match=reason):
        classifier("photo")(vocabulary)


def test_wrong_templates_and_synonyms(classifier):
    with pytest.raises(InputError, match="one of vild, photo"):
        classifier("vidl")
    with pytest.raises(InputError, match="where the name stands"):
        classifier(["a photo of a {}.", "a photo"])
    with pytest.raises(InputError, match="use 'mean' or 'max'"):
        classifier(synonyms="best")
