"""Mask words: how the mask of a class is made, in words.

It must not choose or apply a cut.
"""

from __future__ import annotations

from loupe.maskcuts import MaskCut


def spell_cut(cut: MaskCut) -> str:
    """Say in words how the mask of a class is made.

    Args:
        cut: Of the class.

    Examples:
        >>> from loupe.maskcuts import Candidate
        >>> spell_cut(MaskCut(top=Candidate(threshold=0.7), bottom=Candidate(threshold=0.4)))
        'pixels from 0.4 on, if one is from 0.7 on'
        >>> each = Candidate(threshold=0.5, min_component=9, fill_holes=True)
        >>> spell_cut(MaskCut(top=each, bottom=each, min_area=30))
        'pixels from 0.5 on, holes filled, parts of 9 and more, if 30 are there'
    """
    text = f"pixels from {cut.bottom.threshold:g} on"
    if cut.bottom.fill_holes:
        text += ", holes filled"
    if cut.bottom.min_component > 1:
        text += f", parts of {cut.bottom.min_component:,} and more"
    if cut.min_area >= 2**40:
        return "never: no mask is worth more than an empty one"
    if cut.top == cut.bottom:
        return text + (f", if {cut.min_area:,} are there" if cut.min_area > 1 else "")
    above = "one is" if cut.min_area <= 1 else f"{cut.min_area:,} are"
    return f"{text}, if {above} from {cut.top.threshold:g} on"
