"""Colours, type and radii as a gradio theme; ui/static/onecard.css has what a theme cannot say."""

from __future__ import annotations

import gradio as gr

# System fonts only: a font service would be a request to the outside.
_SANS = (
    "system-ui", "-apple-system", "Segoe UI", "PingFang SC", "Hiragino Sans GB", "Microsoft YaHei", "Noto Sans CJK SC",
    "sans-serif",
)  # fmt: skip
_MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "Noto Sans Mono CJK SC", "monospace")

# name: (light, dark). The text colours keep 4.5:1 or more on page, card and soft fill.
_COLORS = {
    "body_background_fill": ("#f6f7f9", "#0d1114"),
    "body_text_color": ("#1c2430", "#e4e9ee"),
    "body_text_color_subdued": ("#56616e", "#93a0ad"),
    "background_fill_primary": ("#ffffff", "#141a1e"),
    "background_fill_secondary": ("#f3f5f7", "#1a2126"),
    "block_background_fill": ("#ffffff", "#141a1e"),
    "block_border_color": ("#e3e7eb", "#28313a"),
    "block_label_background_fill": ("transparent", "transparent"),
    "block_label_text_color": ("#56616e", "#93a0ad"),
    "block_title_text_color": ("#56616e", "#93a0ad"),
    "block_info_text_color": ("#56616e", "#93a0ad"),
    "border_color_primary": ("#e3e7eb", "#28313a"),
    "border_color_accent": ("#0f766e", "#2dd4bf"),
    "border_color_accent_subdued": ("#99c9c5", "#1f5c56"),
    "color_accent_soft": ("#e3f1ef", "#12302e"),
    "link_text_color": ("#0c655e", "#2dd4bf"),
    "link_text_color_hover": ("#115e59", "#5eead4"),
    "link_text_color_visited": ("#0c655e", "#2dd4bf"),
    "link_text_color_active": ("#0c655e", "#2dd4bf"),
    "input_background_fill": ("#ffffff", "#0f1418"),
    "input_background_fill_focus": ("#ffffff", "#0f1418"),
    "input_border_color": ("#d5dbe1", "#2d3740"),
    "input_border_color_hover": ("#b9c2cb", "#3d4954"),
    "input_border_color_focus": ("#0f766e", "#2dd4bf"),
    "input_placeholder_color": ("#7b8794", "#74818d"),
    "button_primary_background_fill": ("#0f766e", "#0f766e"),
    "button_primary_background_fill_hover": ("#115e59", "#0d857b"),
    "button_primary_border_color": ("#0f766e", "#0f766e"),
    "button_primary_border_color_hover": ("#115e59", "#0d857b"),
    "button_primary_text_color": ("#ffffff", "#ffffff"),
    "button_secondary_background_fill": ("#ffffff", "#1a2126"),
    "button_secondary_background_fill_hover": ("#f3f5f7", "#222b32"),
    "button_secondary_border_color": ("#d5dbe1", "#303b45"),
    "button_secondary_border_color_hover": ("#b9c2cb", "#3d4954"),
    "button_secondary_text_color": ("#1c2430", "#e4e9ee"),
    "button_cancel_background_fill": ("#ffffff", "#1a2126"),
    "button_cancel_background_fill_hover": ("#fdf2f2", "#2a1d1f"),
    "button_cancel_border_color": ("#d9a3a3", "#6b3236"),
    "button_cancel_border_color_hover": ("#b91c1c", "#f87171"),
    "button_cancel_text_color": ("#b91c1c", "#f87171"),
    "checkbox_background_color": ("#ffffff", "#0f1418"),
    "checkbox_background_color_selected": ("#0f766e", "#0f766e"),
    "checkbox_border_color": ("#b9c2cb", "#3d4954"),
    "checkbox_border_color_selected": ("#0f766e", "#0f766e"),
    "checkbox_label_background_fill": ("#ffffff", "#141a1e"),
    "checkbox_label_background_fill_hover": ("#f3f5f7", "#1a2126"),
    "checkbox_label_background_fill_selected": ("#ffffff", "#141a1e"),
    "checkbox_label_text_color": ("#1c2430", "#e4e9ee"),
    "checkbox_label_text_color_selected": ("#1c2430", "#e4e9ee"),
    "slider_color": ("#0f766e", "#2dd4bf"),
    "code_background_fill": ("#f3f5f7", "#1a2126"),
    "error_background_fill": ("#fdf2f2", "#2a1d1f"),
    "error_border_color": ("#e3b4b4", "#6b3236"),
    "error_text_color": ("#b91c1c", "#f87171"),
}
_SIZES = {
    "block_border_width": "1px",
    "block_info_text_size": "12px",
    "block_label_text_size": "12.5px",
    "block_radius": "10px",
    "block_shadow": "none",
    "block_title_text_size": "12.5px",
    "block_title_text_weight": "500",
    "button_border_width": "1px",
    "button_large_padding": "8px 16px",
    "button_large_radius": "8px",
    "button_large_text_size": "14px",
    "button_large_text_weight": "600",
    "button_small_padding": "4px 10px",
    "button_small_radius": "7px",
    "button_small_text_size": "13px",
    "button_small_text_weight": "500",
    "chatbot_text_size": "14px",
    "container_radius": "10px",
    "input_border_width": "1px",
    "input_padding": "7px 10px",
    "input_radius": "8px",
    "input_shadow": "none",
    "input_shadow_focus": "none",
    "input_text_size": "14px",
    "layout_gap": "14px",
}
_TWICE = ("block_border_width", "button_border_width", "input_border_width", "block_shadow")


def theme() -> gr.themes.Base:
    """The theme of both pages; every colour has its dark twin."""
    values = dict(_SIZES) | {f"{name}_dark": _SIZES[name] for name in _TWICE}
    for name, (light, dark) in _COLORS.items():
        values |= {name: light, f"{name}_dark": dark}
    base = gr.themes.Base(
        primary_hue="teal", secondary_hue="teal", neutral_hue="slate", radius_size="md", spacing_size="md",
        text_size="md", font=_SANS, font_mono=_MONO,
    )  # fmt: skip
    return base.set(**values)
