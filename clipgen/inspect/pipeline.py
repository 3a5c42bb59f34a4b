"""A drawing of the loop that makes a picture, for the notebooks."""

from IPython.display import SVG

PARTS = ("latent", "decoder", "picture", "cutouts", "CLIP", "text")  # from left to right
WIDTH, GAP, INK, MARK = 92, 28, "#333", "#ffd166"
ARROW_MARKER = (
    '<marker id="a" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    f'<path d="M0 0L8 4L0 8z" fill="{INK}"/></marker>'
)


def draw_box(name: str, x: int, y: int, width: int, is_marked: bool) -> str:
    """Return a box with its name as SVG."""
    colour, weight = (MARK, "bold") if is_marked else ("#fff", "normal")
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="34" rx="6" fill="{colour}" stroke="{INK}"/>'
        f'<text x="{x + width // 2}" y="{y + 22}" text-anchor="middle" font-weight="{weight}">{name}</text>'
    )


def draw_pipeline(*marked: str) -> SVG:
    """Return a drawing of the loop from latent to gradient, with some of its parts marked.

    Args:
        marked: Names of the parts to mark: latent, decoder, picture, cutouts, CLIP, text, gradient.
    """
    step = WIDTH + GAP
    left = [12 + i * step for i in range(len(PARTS))]
    boxes = [draw_box(name, x, 12, WIDTH, name in marked) for name, x in zip(PARTS, left)]
    boxes.append(draw_box("gradient", left[1], 82, 3 * step - GAP, "gradient" in marked))
    ends = [(x + WIDTH, x + step) for x in left[:4]] + [(left[5], left[4] + WIDTH)]  # text points to CLIP
    paths = [f"M{start} 29H{end}" for start, end in ends]
    paths += [f"M{left[4] + WIDTH // 2} 46V99H{left[4] - GAP}", f"M{left[1]} 99H{left[0] + WIDTH // 2}V46"]
    lines = "".join(f'<path d="{path}" fill="none" stroke="{INK}" marker-end="url(#a)"/>' for path in paths)
    size = f'viewBox="0 0 {left[-1] + WIDTH + 12} 128" width="{left[-1] + WIDTH + 12}"'
    return SVG(
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="14" role="img">'
        f"<title>From a text to a picture: {', '.join(marked) or 'all parts'}</title>"
        f"<defs>{ARROW_MARKER}</defs>"
        f'<rect width="100%" height="100%" fill="#fff"/>{lines}{"".join(boxes)}</svg>'
    )
