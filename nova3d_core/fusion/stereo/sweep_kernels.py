"""Warp kernel of the plane sweep; `torch_impl.py` has the same function in PyTorch."""

import warp as wp

from . import constants

REACH_PX = wp.constant(constants.REACH_PX)
MIN_MASK = wp.constant(constants.MIN_MASK)
MIN_TAPS = wp.constant(constants.MIN_TAPS)
NOISE = wp.constant(constants.NOISE)
NOT_SEEN = wp.constant(constants.NOT_SEEN)
NO_SCORE = wp.constant(constants.NO_SCORE)


@wp.func
def bilinear(images: wp.array3d(dtype=wp.vec4), view: int, x: float, y: float):
    """Colour and mask at a position inside the centres of an image's border pixels."""
    i = int(x)
    j = int(y)
    u = x - float(i)
    v = y - float(j)
    top = (1.0 - u) * images[view, j, i] + u * images[view, j, i + 1]
    bottom = (1.0 - u) * images[view, j + 1, i] + u * images[view, j + 1, i + 1]
    return (1.0 - v) * top + v * bottom


@wp.struct
class Sweep:
    """Images and depths of V views, M patches with K neighbours each, and D offsets."""

    images: wp.array3d(dtype=wp.vec4)
    depth_z: wp.array3d(dtype=float)
    patches: wp.array(dtype=wp.vec3i)
    neighbours: wp.array(dtype=int)
    origin: wp.array(dtype=wp.vec3)
    axis: wp.array(dtype=wp.vec3)
    column_step: wp.array(dtype=wp.vec3)
    row_step: wp.array(dtype=wp.vec3)
    offsets: wp.array(dtype=float)
    num_neighbours: int
    max_step: float
    perspective: int


@wp.func
def correlation(s: Sweep, patch: int, pair: int, other: int, offset: float):
    """Normalised cross-correlation of a patch and its image in another view; NOT_SEEN without."""
    view = s.patches[patch][0]
    row = s.patches[patch][1]
    column = s.patches[patch][2]
    height = s.images.shape[1]
    width = s.images.shape[2]
    last_column = float(width - 1)
    last_row = float(height - 1)
    centre = s.depth_z[view, row, column]
    count = float(0.0)
    sum_a = wp.vec3(0.0, 0.0, 0.0)
    sum_b = wp.vec3(0.0, 0.0, 0.0)
    square_a = float(0.0)
    square_b = float(0.0)
    product = float(0.0)
    for dy in range(-REACH_PX, REACH_PX + 1):
        r = row + dy
        for dx in range(-REACH_PX, REACH_PX + 1):
            c = column + dx
            if (dx + dy) % 2 == 0 and r >= 0 and c >= 0 and r < height and c < width:
                own = s.images[view, r, c]
                z = s.depth_z[view, r, c]
                if own[3] > MIN_MASK and z > 0.0 and wp.abs(z - centre) < s.max_step:
                    z = z + offset
                    scale = float(1.0)
                    if s.perspective == 1:
                        scale = z
                    h = (
                        s.origin[pair]
                        + z * s.axis[pair]
                        + (scale * float(dx)) * s.column_step[pair]
                        + (scale * float(dy)) * s.row_step[pair]
                    )
                    x = h[0] / h[2] - 0.5
                    y = h[1] / h[2] - 0.5
                    inside = x >= 0.0 and y >= 0.0 and x < last_column and y < last_row
                    if h[2] > 1.0e-6 and inside:
                        seen = bilinear(s.images, other, x, y)
                        if seen[3] > MIN_MASK:
                            a = wp.vec3(own[0], own[1], own[2])
                            b = wp.vec3(seen[0], seen[1], seen[2])
                            count += 1.0
                            sum_a += a
                            sum_b += b
                            square_a += wp.dot(a, a)
                            square_b += wp.dot(b, b)
                            product += wp.dot(a, b)
    score = float(NOT_SEEN)
    if count >= MIN_TAPS:
        var_a = wp.max(square_a / count - wp.dot(sum_a, sum_a) / (count * count), 0.0)
        var_b = wp.max(square_b / count - wp.dot(sum_b, sum_b) / (count * count), 0.0)
        cov = product / count - wp.dot(sum_a, sum_b) / (count * count)
        score = cov / wp.sqrt((var_a + NOISE) * (var_b + NOISE))
    return score


@wp.kernel
def sweep(offset: int, s: Sweep, scores: wp.array(dtype=float)):
    """Mean of the best two correlations of each patch at each depth; a thread handles a patch."""
    patch = wp.tid() + offset
    count = s.num_neighbours
    depths = s.offsets.shape[0]
    for depth in range(depths):
        best = float(NOT_SEEN)
        second = float(NOT_SEEN)
        for k in range(count):
            pair = patch * count + k
            other = s.neighbours[pair]
            if other >= 0:
                score = correlation(s, patch, pair, other, s.offsets[depth])
                if score > best:
                    second = best
                    best = score
                elif score > second:
                    second = score
        if best <= NOT_SEEN:
            scores[patch * depths + depth] = NO_SCORE
        elif second <= NOT_SEEN:
            scores[patch * depths + depth] = best
        else:
            scores[patch * depths + depth] = 0.5 * (best + second)
