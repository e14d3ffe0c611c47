"""Warp kernels that rasterise triangles into small images of several views.

A thread of `draw` handles one view and writes only that view's buffers; one of `resolve` handles
one pixel. `rendering.views` is the reference implementation for tests.
"""

import warp as wp


@wp.struct
class RasterMesh:
    """The mesh to rasterise."""

    faces: wp.array(dtype=wp.vec3i)
    normals: wp.array(dtype=wp.vec3)
    colours: wp.array(dtype=wp.vec3)
    uv: wp.array(dtype=wp.vec2)
    texture: wp.array2d(dtype=wp.vec3)
    textured: int
    closed: int


@wp.struct
class Light:
    """Soft directional light, fixed in the world."""

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
    mesh: RasterMesh,
    size: int,
    inverse_depth: wp.array3d(dtype=float),
    face: wp.array3d(dtype=int),
    weights: wp.array3d(dtype=wp.vec2),
):
    """Finds the nearest face and its barycentric weights at each sample of a view.

    Args:
        points: (V, N) x and y in samples, y down, and 1 / depth.
        mesh: the mesh.
        size: S, samples along each side of the image.
        inverse_depth: (V, S, S) z-buffer, initially 0.
        face: (V, S, S) initially -1; index f of a front face, -2 - f of a back face.
        weights: (V, S, S) barycentric weights of the face's first two corners.
    """
    view = wp.tid()
    for f in range(mesh.faces.shape[0]):
        corners = mesh.faces[f]
        a = points[view, corners[0]]
        b = points[view, corners[1]]
        c = points[view, corners[2]]
        area = edge(a, b, c[0], c[1])
        # counter-clockwise from outside is clockwise in an image whose y points down: area < 0
        visible = area < 0.0
        if mesh.closed == 0 and area > 0.0:
            visible = True
        entry = f
        if area > 0.0:
            entry = -2 - f
        if visible:
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
                        inv_z = u * a[2] + v * b[2] + w * c[2]
                        if inv_z > inverse_depth[view, i, j]:
                            inverse_depth[view, i, j] = inv_z
                            face[view, i, j] = entry
                            weights[view, i, j] = wp.vec2(u * a[2] / inv_z, v * b[2] / inv_z)


@wp.func
def texel(mesh: RasterMesh, row: int, column: int):
    height = mesh.texture.shape[0]
    width = mesh.texture.shape[1]
    return mesh.texture[(row % height + height) % height, (column % width + width) % width]


@wp.func
def colour_at(mesh: RasterMesh, corners: wp.vec3i, u: float, v: float, w: float):
    """Colour at barycentric coordinates: bilinear texture lookup, or vertex colours."""
    if mesh.textured == 0:
        return (
            u * mesh.colours[corners[0]]
            + v * mesh.colours[corners[1]]
            + w * mesh.colours[corners[2]]
        )
    uv = u * mesh.uv[corners[0]] + v * mesh.uv[corners[1]] + w * mesh.uv[corners[2]]
    x = (uv[0] - wp.floor(uv[0])) * float(mesh.texture.shape[1]) - 0.5
    y = (uv[1] - wp.floor(uv[1])) * float(mesh.texture.shape[0]) - 0.5
    j = int(wp.floor(x))
    i = int(wp.floor(y))
    s = x - float(j)
    t = y - float(i)
    upper = (1.0 - s) * texel(mesh, i, j) + s * texel(mesh, i, j + 1)
    lower = (1.0 - s) * texel(mesh, i + 1, j) + s * texel(mesh, i + 1, j + 1)
    return (1.0 - t) * upper + t * lower


@wp.kernel
def resolve(
    mesh: RasterMesh,
    light: Light,
    to_front_view: wp.mat33,
    samples: int,
    face: wp.array3d(dtype=int),
    weights: wp.array3d(dtype=wp.vec2),
    colour: wp.array4d(dtype=wp.uint8),
    normal: wp.array4d(dtype=wp.uint8),
    mask: wp.array3d(dtype=wp.uint8),
):
    """Averages samples x samples per pixel; composites colours and normals over white.

    Args:
        mesh: the mesh.
        light: the light.
        to_front_view: rotation from the world to the frame of the normals.
        samples: samples along each side of a pixel.
        face, weights: as written by `draw`.
        colour, normal: (V, H, W, 3) output.
        mask: (V, H, W) output, coverage.
    """
    view, row, column = wp.tid()
    covered = float(0.0)
    radiance = wp.vec3(0.0, 0.0, 0.0)
    direction = wp.vec3(0.0, 0.0, 0.0)
    for i in range(row * samples, row * samples + samples):
        for j in range(column * samples, column * samples + samples):
            f = face[view, i, j]
            if f != -1:
                backfacing = f < 0
                if backfacing:
                    f = -2 - f
                corners = mesh.faces[f]
                weight = weights[view, i, j]
                u = weight[0]
                v = weight[1]
                w = 1.0 - u - v
                n = wp.normalize(
                    u * mesh.normals[corners[0]]
                    + v * mesh.normals[corners[1]]
                    + w * mesh.normals[corners[2]]
                )
                if backfacing:
                    n = -n
                shade = light.ambient + light.key * (0.5 + 0.5 * wp.dot(n, light.direction))
                radiance += shade * colour_at(mesh, corners, u, v, w)
                direction += n
                covered += 1.0
    coverage = covered / float(samples * samples)
    mean_normal = to_front_view * wp.normalize(direction)
    for c in range(3):
        value = radiance[c] / float(samples * samples) + 1.0 - coverage
        colour[view, row, column, c] = wp.uint8(wp.clamp(value, 0.0, 1.0) * 255.0 + 0.5)
        value = (0.5 + 0.5 * mean_normal[c]) * coverage + 1.0 - coverage
        normal[view, row, column, c] = wp.uint8(wp.clamp(value, 0.0, 1.0) * 255.0 + 0.5)
    mask[view, row, column] = wp.uint8(coverage * 255.0 + 0.5)
