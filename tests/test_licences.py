"""Everything that installing thingstuff brings may be used in a permissive (Apache-2.0) package."""

import importlib.metadata
import re

import pytest
from packaging.requirements import Requirement

# MPL-2.0 binds only changes to its own files, so a package may depend on it.
ALLOWED_SPDX = {
    "0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0",
    "CNRI-Python", "HPND", "ISC", "MIT", "MIT-CMU", "MPL-2.0", "PSF-2.0", "Python-2.0", "Unlicense", "Zlib",
}  # fmt: skip
# As classifiers and the free-text field have them, where they are no SPDX expression.
ALLOWED_NAMES = {
    "apache", "apache 2.0", "apache license", "apache license 2.0", "apache software license", "bsd", "bsd license",
    "bsd 3-clause license", "3-clause bsd license", "2-clause bsd license", "boost software license 1.0 (bsl-1.0)",
    "cmu license (mit-cmu)",
    "freebsd", "historical permission notice and disclaimer (hpnd)", "isc license", "isc license (iscl)", "mit license",
    "mozilla public license 2.0 (mpl 2.0)", "python software foundation license", "psfl",
    "the unlicense (unlicense)",
    "zlib/libpng license",
}  # fmt: skip
# Distribution -> why it may be used although its metadata does not tell: someone has read its licence. Empty so far.
VERIFIED: dict[str, str] = {}
# NVIDIA's own terms: pulled in by torch's Linux wheels alone, neither named nor shipped by us; a CPU torch has none.
CUDA_WHEEL = re.compile(r"(nvidia|cuda)-.+")


def is_permissive(statement: str) -> bool:
    """Tell whether a licence statement (SPDX expression or usual name) allows use in a permissive package.

    Of alternatives one has to, of conjoined licences all; what is not known is refused, nested alternatives too.
    """
    if statement.lower() in ALLOWED_NAMES:
        return True
    bare = re.sub(r"[()]", " ", statement)
    alternatives = re.split(r"\s+OR\s+", bare) if bare == statement else [re.sub(r"\s+OR\s+", " AND ", bare)]
    return any({part.strip() for part in re.split(r"\s+AND\s+", a)} <= ALLOWED_SPDX for a in alternatives)


def licence_statements(metadata: "importlib.metadata.PackageMetadata") -> list[str]:
    """Return what a distribution says of its licence: the SPDX expression, else classifiers and a one-line field."""
    if expression := metadata.get("License-Expression"):
        return [str(expression)]
    classifiers = [str(c) for c in metadata.get_all("Classifier") or [] if str(c).startswith("License ::")]
    names = [c.split("::")[-1].strip() for c in classifiers]
    field = str(metadata.get("License") or "").strip()
    # A field of many lines is the licence's text, which the classifier names.
    return [n for n in names if n != "OSI Approved"] + ([field] if field and "\n" not in field else [])


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def runtime_distributions() -> dict[str, importlib.metadata.Distribution]:
    """Return every distribution that installing thingstuff brings here, without extras or development groups."""
    found: dict[str, importlib.metadata.Distribution] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    todo: list[tuple[str, frozenset[str]]] = [("thingstuff", frozenset())]
    while todo:
        name, extras = todo.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        found[name] = importlib.metadata.distribution(name)
        for line in found[name].requires or []:
            needed = Requirement(line)
            if not needed.marker or any(needed.marker.evaluate({"extra": extra}) for extra in {"", *extras}):
                todo.append((normalised(needed.name), frozenset(needed.extras)))
    return found


def test_every_dependency_has_a_permissive_licence() -> None:
    found = runtime_distributions()
    assert {"torch", "numpy", "markupsafe"} <= set(found)
    refused = []
    for name, distribution in found.items():
        if name in VERIFIED or CUDA_WHEEL.fullmatch(name):
            continue
        statements = licence_statements(distribution.metadata)
        if not statements or not all(is_permissive(s) for s in statements):
            refused.append(f"{name} {distribution.version}: {statements or 'no licence told'}")
    assert not refused, "\n".join(refused)


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("MIT", True),
        ("BSD-3-Clause AND 0BSD AND MIT AND Zlib AND CC0-1.0", True),
        ("GPL-3.0-only OR MIT", True),
        ("Apache Software License", True),
        ("MPL-2.0 AND MIT", True),
        ("GPL-3.0-or-later", False),
        ("MIT AND AGPL-3.0-only", False),
        ("LGPL-2.1-or-later", False),
        ("MIT AND (GPL-2.0-only OR LGPL-3.0-only)", False),
        ("GNU Lesser General Public License v3 (LGPLv3)", False),
        ("CC-BY-NC-4.0", False),
        ("Free for non-commercial use", False),
        ("Apache-2.0 WITH Commons-Clause", False),
        ("LicenseRef-NVIDIA-Proprietary", False),
        ("Other/Proprietary License", False),
        ("", False),
    ],
)
def test_licences_are_told_apart(statement: str, expected: bool) -> None:
    assert is_permissive(statement) is expected
