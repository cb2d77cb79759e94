"""How Gradio's own components look: the page's palette and fonts, all from this host."""

from __future__ import annotations

import gradio as gr

from app.ui.palette import DARK, GREEN, LIGHT

_SANS = ("-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Liberation Sans", "Arial", "sans-serif")
_MONO = ("ui-monospace", "Menlo", "DejaVu Sans Mono", "Consolas", "monospace")
_ON_GREEN = "#ffffff"
_COLOURS = {
    "body_background_fill": "ground",
    "body_text_color": "ink",
    "body_text_color_subdued": "muted",
    "block_background_fill": "panel",
    "block_border_color": "line",
    "block_label_text_color": "muted",
    "block_title_text_color": "ink",
    "block_info_text_color": "muted",
    "input_background_fill": "ground",
}
"""Gradio's name of what is coloured, and the palette's name of the colour."""


def theme() -> gr.themes.Base:
    base = gr.themes.Base(
        primary_hue=gr.themes.Color(*GREEN),
        secondary_hue=gr.themes.colors.slate,
        neutral_hue=gr.themes.colors.slate,
        font=_SANS,
        font_mono=_MONO,
        spacing_size=gr.themes.sizes.spacing_sm,
        radius_size=gr.themes.sizes.radius_md,
    )
    light = {name: LIGHT[colour] for name, colour in _COLOURS.items()}
    dark = {f"{name}_dark": DARK[colour] for name, colour in _COLOURS.items()}
    return base.set(
        **light,
        **dark,
        block_title_text_weight="600",
        slider_color=LIGHT["accepted"],
        slider_color_dark=GREEN[4],
        # white on green in both: the lighter green of the dark palette is for text
        button_primary_background_fill=LIGHT["accepted"],
        button_primary_background_fill_dark=LIGHT["accepted"],
        button_primary_background_fill_hover=GREEN[6],
        button_primary_background_fill_hover_dark=GREEN[6],
        button_primary_text_color=_ON_GREEN,
        button_primary_text_color_dark=_ON_GREEN,
    )
