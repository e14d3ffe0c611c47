"""Triangles into small images of several views at once, in warp: compiled, without a compiler.

A thread of `draw` handles one view and writes only that view's buffers; one of `resolve` handles
one pixel. `rendering.views` is the plain twin that the tests compare with.
"""

import warp as wp


@wp.struct
class RasterMesh:
    """A mesh as the kernels read it."""

    faces: wp.array(dtype=wp.vec3i)
    normals: wp.array(dtype=wp.vec3)
    colours: wp.array(dtype=wp.vec3)
    uv: wp.array(dtype=wp.vec2)
    texture: wp.array2d(dtype=wp.vec3)
    textured: int
    closed: int


@wp.struct
class Light:
    """A soft light from a fixed side of the world: ambient + key, each a share of full light."""

    direction: wp.vec3
    ambient: float
    key: float


@wp.func
def edge(a: wp.vec3, b: wp.vec3, x: float, y: float):
    """Twice the signed area of a, b and the point (x, y)."""
    return (b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0])


@wp.kernel
def draw(
    points: wp.array2d(dtype=wp.vec3),
    surface: RasterMesh,
    size: int,
    nearness: wp.array3d(dtype=float),
    face: wp.array3d(dtype=int),
    weights: wp.array3d(dtype=wp.vec2),
):
    """The nearest face and its corner weights at each sample of a view.

    points: (V, N) x and y in samples, y down, and 1 / depth. nearness, face, weights: (V, S, S),
    to be given as 0, -1 and anything; face f seen from behind is written as -2 - f.
    """
    view = wp.tid()
    for f in range(surface.faces.shape[0]):
        corners = surface.faces[f]
        a = points[view, corners[0]]
        b = points[view, corners[1]]
        c = points[view, corners[2]]
        area = edge(a, b, c[0], c[1])
        # counter-clockwise from outside is clockwise in an image whose y points down: area < 0
        seen = area < 0.0
        if surface.closed == 0 and area > 0.0:
            seen = True
        code = f
        if area > 0.0:
            code = -2 - f
        if seen:
            left = wp.max(int(wp.ceil(wp.min(a[0], wp.min(b[0], c[0])) - 0.5)), 0)
            right = wp.min(int(wp.floor(wp.max(a[0], wp.max(b[0], c[0])) - 0.5)), size - 1)
            top = wp.max(int(wp.ceil(wp.min(a[1], wp.min(b[1], c[1])) - 0.5)), 0)
            bottom = wp.min(int(wp.floor(wp.max(a[1], wp.max(b[1], c[1])) - 0.5)), size - 1)
            inverse = 1.0 / area
            for i in range(top, bottom + 1):
                y = float(i) + 0.5
                for j in range(left, right + 1):
                    x = float(j) + 0.5
                    u = edge(b, c, x, y) * inverse
                    v = edge(c, a, x, y) * inverse
                    w = 1.0 - u - v
                    if u >= 0.0 and v >= 0.0 and w >= 0.0:
                        near = u * a[2] + v * b[2] + w * c[2]
                        if near > nearness[view, i, j]:
                            nearness[view, i, j] = near
                            face[view, i, j] = code
                            weights[view, i, j] = wp.vec2(u * a[2] / near, v * b[2] / near)


@wp.func
def texel(surface: RasterMesh, row: int, column: int):
    height = surface.texture.shape[0]
    width = surface.texture.shape[1]
    return surface.texture[(row % height + height) % height, (column % width + width) % width]


@wp.func
def colour_at(surface: RasterMesh, corners: wp.vec3i, u: float, v: float, w: float):
    """Colour of the surface: the texture's between its texels, or the vertices'."""
    if surface.textured == 0:
        return (
            u * surface.colours[corners[0]]
            + v * surface.colours[corners[1]]
            + w * surface.colours[corners[2]]
        )
    place = u * surface.uv[corners[0]] + v * surface.uv[corners[1]] + w * surface.uv[corners[2]]
    x = (place[0] - wp.floor(place[0])) * float(surface.texture.shape[1]) - 0.5
    y = (place[1] - wp.floor(place[1])) * float(surface.texture.shape[0]) - 0.5
    j = int(wp.floor(x))
    i = int(wp.floor(y))
    s = x - float(j)
    t = y - float(i)
    upper = (1.0 - s) * texel(surface, i, j) + s * texel(surface, i, j + 1)
    lower = (1.0 - s) * texel(surface, i + 1, j) + s * texel(surface, i + 1, j + 1)
    return (1.0 - t) * upper + t * lower


@wp.kernel
def resolve(
    surface: RasterMesh,
    light: Light,
    turn: wp.mat33,
    samples: int,
    face: wp.array3d(dtype=int),
    weights: wp.array3d(dtype=wp.vec2),
    colour: wp.array4d(dtype=wp.uint8),
    normal: wp.array4d(dtype=wp.uint8),
    mask: wp.array3d(dtype=wp.uint8),
):
    """Pixels (V, H, W) from samples x samples each; colours and normals are mixed with white.

    turn: from the world to the frame of the normals.
    """
    view, row, column = wp.tid()
    covered = float(0.0)
    paint = wp.vec3(0.0, 0.0, 0.0)
    direction = wp.vec3(0.0, 0.0, 0.0)
    for i in range(row * samples, row * samples + samples):
        for j in range(column * samples, column * samples + samples):
            f = face[view, i, j]
            if f != -1:
                behind = f < 0
                if behind:
                    f = -2 - f
                corners = surface.faces[f]
                pair = weights[view, i, j]
                u = pair[0]
                v = pair[1]
                w = 1.0 - u - v
                n = wp.normalize(
                    u * surface.normals[corners[0]]
                    + v * surface.normals[corners[1]]
                    + w * surface.normals[corners[2]]
                )
                if behind:
                    n = -n
                shade = light.ambient + light.key * (0.5 + 0.5 * wp.dot(n, light.direction))
                paint += shade * colour_at(surface, corners, u, v, w)
                direction += n
                covered += 1.0
    share = covered / float(samples * samples)
    facing = turn * wp.normalize(direction)
    for c in range(3):
        level = paint[c] / float(samples * samples) + 1.0 - share
        colour[view, row, column, c] = wp.uint8(wp.clamp(level, 0.0, 1.0) * 255.0 + 0.5)
        level = (0.5 + 0.5 * facing[c]) * share + 1.0 - share
        normal[view, row, column, c] = wp.uint8(wp.clamp(level, 0.0, 1.0) * 255.0 + 0.5)
    mask[view, row, column] = wp.uint8(share * 255.0 + 0.5)
