"""Prompt templates.

``{}`` is the class name, ``{article}`` its indefinite article.
"""

# ViLD (Gu et al., ICLR 2022, Apache-2.0 release): 63 templates, with the first words that its code puts before some
_VILD = """
There is {article} {} in the scene.
There is the {} in the scene.
a photo of {article} {} in the scene.
a photo of the {} in the scene.
a photo of one {} in the scene.
itap of {article} {}.
itap of my {}.
itap of the {}.
a photo of {article} {}.
a photo of my {}.
a photo of the {}.
a photo of one {}.
a photo of many {}.
a good photo of {article} {}.
a good photo of the {}.
a bad photo of {article} {}.
a bad photo of the {}.
a photo of a nice {}.
a photo of the nice {}.
a photo of a cool {}.
a photo of the cool {}.
a photo of a weird {}.
a photo of the weird {}.
a photo of a small {}.
a photo of the small {}.
a photo of a large {}.
a photo of the large {}.
a photo of a clean {}.
a photo of the clean {}.
a photo of a dirty {}.
a photo of the dirty {}.
a bright photo of {article} {}.
a bright photo of the {}.
a dark photo of {article} {}.
a dark photo of the {}.
a photo of a hard to see {}.
a photo of the hard to see {}.
a low resolution photo of {article} {}.
a low resolution photo of the {}.
a cropped photo of {article} {}.
a cropped photo of the {}.
a close-up photo of {article} {}.
a close-up photo of the {}.
a jpeg corrupted photo of {article} {}.
a jpeg corrupted photo of the {}.
a blurry photo of {article} {}.
a blurry photo of the {}.
a pixelated photo of {article} {}.
a pixelated photo of the {}.
a black and white photo of the {}.
a black and white photo of {article} {}.
a plastic {}.
the plastic {}.
a toy {}.
the toy {}.
a plushie {}.
the plushie {}.
a cartoon {}.
the cartoon {}.
an embroidered {}.
the embroidered {}.
a painting of the {}.
a painting of a {}.
"""

TEMPLATES: dict[str, tuple[str, ...]] = {
    "vild": tuple(f"This is {line}" if line.startswith(("a", "the")) else line for line in _VILD.strip().splitlines()),
    "photo": ("a photo of a {}.",),
}


def fill(template: str, name: str) -> str:
    """One prompt (ViLD's rules, as in the released code).

    The name's underscores become spaces, slashes become " or ", letters lower case, and full stops at its end go. The
    article is "an" if the name as given begins with one of ``aeiou``; a capital letter gets "a".
    """
    article = "an" if name[:1] in tuple("aeiou") else "a"
    clean = name.replace("_", " ").replace("/", " or ").lower().rstrip(".")
    return template.replace("{article}", article).replace("{}", clean)
